"""Windows leave no seam: every frame comes once, in order, and words are parted between words only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.chunking import emission_pieces, parted_at_pauses, seam, segments
from downstream.decode.alphabet import alphabet
from downstream.decode.greedy import greedy
from upstream.errors import UsageError
from upstream.frames import CONV_GRID, STACKED_GRID

SYMBOLS = ("<pad>", "|", "A", "B")


def local(grid):
    """An encoder without context: a frame says the mean of the samples that it sees."""
    def encode(wave):
        frames = grid.frames(len(wave))
        padded = np.pad(wave, (0, grid.padding))
        found = [padded[grid.crop_start(t):grid.crop_start(t) + grid.receptive_field].mean() for t in range(frames)]
        return np.stack([found, np.full(frames, -2.0)], axis=1).astype(np.float32)
    return encode


@pytest.mark.parametrize("grid", [CONV_GRID, STACKED_GRID])
@settings(deadline=None, max_examples=25)
@given(samples=st.integers(0, 60_000), block=st.integers(100, 20_000))
def test_pieces_of_a_local_encoder_are_its_frames_of_the_whole(grid, samples, block):
    wave = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    blocks = [wave[i:i + block] for i in range(0, samples, block)]
    pieces = list(emission_pieces(local(grid), blocks, grid, 0, 0.6, 0.2))
    assert sum(len(rows) for rows, _ in pieces) == grid.frames(samples)
    if pieces:
        assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True]
        assert np.allclose(np.concatenate([rows for rows, _ in pieces]), local(grid)(wave), atol=1e-5)


def test_what_fits_one_window_goes_through_once():
    seen = []

    def encode(wave):
        seen.append(len(wave))
        return np.zeros((CONV_GRID.frames(len(wave)), 2), np.float32)

    list(emission_pieces(encode, [np.zeros(16_000, np.float32)] * 3, CONV_GRID, 0, 3.0, 1.0))
    assert seen == [48_000]


def test_windows_are_joined_at_the_blank_nearest_to_the_middle():
    before, after = np.eye(2)[[1, 1, 0, 1, 1, 0, 0, 1]], np.eye(2)[[0, 0, 0, 0, 1, 0, 0, 1]]  # column 0 is the blank
    assert seam(before, after, 0) == 5  # 2 is as blank, but further from 4
    assert seam(np.eye(2)[[1] * 8], after, 0) == 4


@pytest.mark.parametrize("lengths", [(2.0, 1.5), (2.0, 0.001), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_windows_that_cannot_be_are_refused(lengths):
    with pytest.raises(UsageError, match="overlap"):
        list(emission_pieces(local(CONV_GRID), [], CONV_GRID, 0, *lengths))


@settings(deadline=None)
@given(path=st.lists(st.integers(0, 3), max_size=60), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_greedy_words_of_segments_are_those_of_the_whole(path, sizes):
    rows = np.log(np.eye(4)[path].reshape(-1, 4) * 0.96 + 0.01).astype(np.float32)
    cuts = np.cumsum(sizes)
    pieces = [piece for piece in np.split(rows, cuts[cuts < len(rows)]) if len(piece)]
    found = []
    for first, part in segments([(p, i == len(pieces) - 1) for i, p in enumerate(pieces)], alphabet(SYMBOLS, 0)):
        assert np.array_equal(part, rows[first:first + len(part)])
        found += [(w.word, round(w.start_s * 50) + first, round(w.end_s * 50) + first)
                  for w in greedy(part, SYMBOLS, 0, 50.0).words]
    whole = greedy(rows, SYMBOLS, 0, 50.0).words
    assert found == [(w.word, round(w.start_s * 50), round(w.end_s * 50)) for w in whole]


def rows_of(path):
    """Emissions whose likeliest path is this: `-` blank, `|` separator."""
    rows = np.full((len(path), len(SYMBOLS)), -5.0, np.float32)
    rows[np.arange(len(path)), ["-|AB".index(c) for c in path]] = -0.1
    return rows


def path_of(rows):
    return "".join("-|AB"[c] for c in rows.argmax(axis=1))


@pytest.mark.parametrize(("path", "expected"), [
    ("A----B", "A-|--B"),  # by hand: four frames of blank between frames 0 and 5, the middle is frame 2
    ("A---B", "A---B"),
    ("--A----B----", "--A-|--B----"),  # not before the first letter nor after the last
    ("A--|--B", "A--|--B"),
    ("A|------B", "A|------B"),
    ("A------|B", "A------|B"),
    ("A----A----B", "A-|--A-|--B"),
    ("-----", "-----"),
    ("", ""),
])
def test_a_long_pause_between_letters_ends_a_word(path, expected):
    columns = alphabet(SYMBOLS, 0)
    assert path_of(parted_at_pauses(rows_of(path), columns, 4)) == expected


@settings(deadline=None, max_examples=50)
@given(path=st.text("-|AB", max_size=60), pause=st.integers(1, 10))
def test_pauses_take_no_letter_away_and_leave_none_longer(path, pause):
    columns = alphabet(SYMBOLS, 0)
    rows = rows_of(path)
    found = parted_at_pauses(rows, columns, pause)
    assert np.array_equal(rows, rows_of(path)), "the rows given are not written to"
    assert np.array_equal(np.sort(found, axis=1), np.sort(rows, axis=1))
    assert path_of(found).replace("|", "-") == path.replace("|", "-")
    assert np.array_equal(parted_at_pauses(found, columns, pause), found)


@settings(deadline=None, max_examples=50)
@given(path=st.text("----|AB", max_size=60), sizes=st.lists(st.integers(1, 20), min_size=60, max_size=60))
def test_a_pause_ends_a_word_wherever_pieces_end(path, sizes):
    columns, rows = alphabet(SYMBOLS, 0), rows_of(path)
    cuts = [c for c in np.cumsum(sizes) if c < len(rows)]
    parts = np.split(rows, cuts)
    pieces = [(part, i == len(parts) - 1) for i, part in enumerate(parts)]
    found = [w.word for _, part in segments(pieces, columns, 4) for w in greedy(part, SYMBOLS, 0, 50.0).words]
    assert found == [w.word for w in greedy(parted_at_pauses(rows, columns, 4), SYMBOLS, 0, 50.0).words]
