"""Cutting at pauses: where pieces begin and end, what they keep, and that they sound as before."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from upstream.audio import Manifest, Utterance, import_librispeech, read
from upstream.audio.segmenting import BLOCK_SECONDS, STEP, Pieces, cuts, levels, segment, silences
from upstream.errors import UsageError

LOUD, QUIET = -20.0, -60.0


def talk(*stretches):
    """Levels of stretches of speech and pauses in turn, in steps of 10 ms."""
    return np.concatenate([np.full(n, LOUD if i % 2 == 0 else QUIET, np.float32) for i, n in enumerate(stretches)])


def recorded(path, *stretches, rate=16_000, channels=1):
    """Noise that is loud and quiet in turn; stretches in seconds."""
    rng = np.random.default_rng(0)
    wave = np.concatenate([(0.1 if i % 2 == 0 else 1e-4) * rng.standard_normal((round(s * rate), channels))
                           for i, s in enumerate(stretches)])
    soundfile.write(path, wave, rate)
    return Utterance(path.stem, path, 0, len(wave), rate, channels, "ann", "WORDS")


def test_worked_example_of_a_cut_in_the_longest_pause():
    """7 s of speech, 0.4 s of pause, 2 s of speech, 1 s of pause, 5 s of speech; at most 12 s: the second half of the
    longest piece is 6 to 12 s. Both pauses lie in it, the second (9.4 to 10.4 s) is longer: cut at its middle, 9.9 s.

    Silent is what is below max(-20 - 35, -60 + 0.3 * 40) = -48 dB as the mean of five levels: with two loud ones among
    the five it is -44, with one -52, so a pause begins and ends one level inside itself.
    """
    level = talk(700, 40, 200, 100, 500)
    silent = silences(level)
    assert np.flatnonzero(np.diff(silent.astype(int))).tolist() == [700, 738, 940, 1038]
    [(a, b), (c, d)] = cuts(level, silent, least=200, most=1200, edge=1000)
    assert (a, d) == (0, 1540)
    assert b == c
    assert abs(b - 990) <= 1


def test_silence_is_kept_at_the_ends_up_to_the_edge_only():
    level = talk(700, 400, 700)
    assert cuts(level, silences(level), least=200, most=1200, edge=30) == [(0, 731), (1069, 1800)]


def test_where_nobody_pauses_the_quietest_moment_is_taken():
    level = np.full(2000, LOUD, np.float32)
    level[900:910] = LOUD - 3
    [(_, b), (c, _)] = cuts(level, silences(level), 200, 1200, 30)
    assert b == c
    assert 900 <= b < 910


def test_a_long_silence_gives_no_piece():
    level = talk(500, 5000, 500)
    assert cuts(level, silences(level), 200, 1200, 30) == [(0, 531), (5469, 6000)]


@given(stretches=st.lists(st.integers(1, 900), min_size=1, max_size=30), least=st.integers(1, 300),
       more=st.integers(0, 900), edge=st.integers(0, 100))
def test_pieces_are_in_order_within_limits_and_leave_out_silence_and_scraps_only(stretches, least, more, edge):
    level, most = talk(*stretches), 2 * least + more
    silent = silences(level)
    found = cuts(level, silent, least, most, edge)
    ends = [0, *(x for piece in found for x in piece), len(level)]
    assert ends == sorted(ends)
    assert all(least <= b - a <= most for a, b in found)
    left = np.ones(len(level), bool)
    for a, b in found:
        left[a:b] = False
    spoken = np.flatnonzero(left & ~silent)
    runs = np.split(spoken, np.flatnonzero(np.diff(spoken) > least) + 1)
    assert all(len(run) < 2 * least for run in runs)  # what is left of speech is shorter than a piece


def test_noise_without_pauses_is_not_called_silence_and_digital_silence_is():
    assert not silences(np.float32(-30 + np.random.default_rng(0).normal(0, 0.5, 1000))).any()
    assert silences(np.full(1000, -100, np.float32)).all()


def test_pauses_are_found_over_a_loud_background():
    level = np.where(talk(300, 60, 300) == LOUD, -15, -33).astype(np.float32)
    assert silences(level).sum() == pytest.approx(60, abs=4)


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8000, 1)])
def test_pieces_are_spans_of_the_same_audio(tmp_path, rate, channels):
    whole = recorded(tmp_path / "a.wav", 9, 1, 9, 1, 9, rate=rate, channels=channels)
    found = list(segment(Manifest.of([whole], "a test"), Pieces(2, 12)))
    assert [u.id for u in found] == ["a-0000", "a-0001", "a-0002"]
    for u, start in zip(found, (0, 10, 20)):
        assert u.start / rate == pytest.approx(max(0, start - 0.3), abs=0.06)
        assert u.samples / rate == pytest.approx(9.3 if start != 10 else 9.6, abs=0.1)
        assert (u.audio, u.rate, u.channels, u.speaker, u.text) == (whole.audio, rate, channels, "ann", None)
        assert len(read(u)) == u.length
    if rate == 16_000:
        np.testing.assert_array_equal(read(found[1]), read(whole)[found[1].start:found[1].start + found[1].samples])


def test_what_is_short_enough_stays_as_it_is_and_scraps_go(tmp_path):
    rows = [recorded(tmp_path / "fits.wav", 5), recorded(tmp_path / "scrap.wav", 1),
            recorded(tmp_path / "quiet.wav", 0.1, 20)]
    found = list(segment(Manifest.of(rows, "a test"), Pieces(2, 12)))
    assert found == rows[:1]


def test_a_piece_of_a_span_lies_inside_the_span(tmp_path):
    part = replace(recorded(tmp_path / "a.wav", 9, 1, 9, 1, 9), start=160_000, samples=304_000)
    found = list(segment(Manifest.of([part], "a test"), Pieces(2, 12)))
    assert found[0].start >= 160_000
    assert found[-1].start + found[-1].samples <= 464_000


def test_levels_do_not_depend_on_where_blocks_end(tmp_path):
    whole = recorded(tmp_path / "a.wav", *[7, 0.5] * 10)
    found = levels(whole)
    assert len(found) == 7500
    assert whole.samples > BLOCK_SECONDS * 16_000
    wave = read(whole).reshape(-1, 160).astype(np.float64)
    np.testing.assert_allclose(found, 10 * np.log10(np.maximum((wave**2).mean(1), 1e-10)), atol=1e-4)


@pytest.mark.parametrize("lengths", [(5, 9), (0, 9), (2, 9, -1), (2, float("inf")), (2, 9, float("nan")),
                                     (2, float("nan")), (2, 9, float("inf"))])
def test_lengths_that_cannot_be_are_wrong_use(lengths):
    with pytest.raises(UsageError, match="at least twice"):
        Pieces(*lengths)


def test_pieces_shorter_than_a_level_are_wrong_use():
    """A bug once found: a longest piece of no level at all was cut for ever."""
    with pytest.raises(UsageError, match=r"levels are 0\.01 s apart"):
        Pieces(0.002, 0.004)
    level = np.zeros(9, np.float32)
    shortest = Pieces(0.01, 0.02)
    assert cuts(level, silences(level), round(shortest.min_seconds / STEP), round(shortest.max_seconds / STEP), 0)


def test_pieces_of_one_level_come_to_an_end():
    """A bug once found: half of the longest was nothing, and the place of the next cut that of the last for ever."""
    level = np.zeros(6, np.float32)
    assert cuts(level, silences(level), 0, 1, 0) == [(i, i + 1) for i in range(6)]


def test_speech_read_from_books_is_cut_where_it_is_quiet(speech):
    """Two chapters' worth of utterances of one speaker, glued together: cuts fall into pauses, and most is kept."""
    manifest = import_librispeech(speech / "LibriSpeech")
    chosen = [u for u in manifest if u.samples > 16 * u.rate][:3]
    found = segment(Manifest.of(chosen, "long ones"), Pieces(2, 10))
    assert found.seconds > 0.9 * Manifest.of(chosen, "").seconds
    for u in chosen:
        silent = silences(levels(u))
        inner = sorted(p.start + p.samples for p in found if p.id.startswith(u.id))[:-1]
        assert all(silent[round((place - u.start) / u.rate * 100) - 1] for place in inner)
