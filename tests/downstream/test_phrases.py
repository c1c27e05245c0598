"""Recordings are parted between words only, and what lies between two pauses is heard by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.chunking import emission_pieces
from downstream.decode.alphabet import alphabet
from downstream.decode.greedy import greedy
from downstream.phrases import longest_pause, parted_at_pauses, phrases, segments, usual_pause
from upstream.errors import UsageError
from upstream.frames import CONV_GRID, STACKED_GRID, WIDE_GRID

SYMBOLS = ("<pad>", "|", "A", "B")


@settings(deadline=None)
@given(path=st.lists(st.integers(0, 3), max_size=60), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_greedy_words_of_segments_are_those_of_the_whole(path, sizes):
    rows = np.log(np.eye(4)[path].reshape(-1, 4) * 0.96 + 0.01).astype(np.float32)
    cuts = np.cumsum(sizes)
    pieces = [piece for piece in np.split(rows, cuts[cuts < len(rows)]) if len(piece)]
    found = []
    for first, part, _ in segments([(p, i == len(pieces) - 1) for i, p in enumerate(pieces)], alphabet(SYMBOLS, 0)):
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


@pytest.mark.parametrize(("path", "seconds"), [
    ("", 0), ("---", 0), ("--A--", 0), ("AA", 0.02), ("-A-B--|---A-B--------", 0.14), ("A|B", 0.04)])
def test_worked_examples_of_the_longest_pause(path, seconds):
    assert longest_pause(rows_of(path), alphabet(SYMBOLS, 0), 50.0) == pytest.approx(seconds)


@pytest.mark.parametrize(("longest", "pause"), [(0.0, 0.5), (0.3, 0.5), (1.28, 1.28), (None, 1.5)])
def test_recordings_are_parted_at_pauses_longer_than_those_in_utterances(longest, pause):
    assert usual_pause(longest) == pause


@settings(deadline=None, max_examples=50)
@given(path=st.text("----|AB", max_size=60), sizes=st.lists(st.integers(1, 20), min_size=60, max_size=60))
def test_a_pause_ends_a_word_wherever_pieces_end(path, sizes):
    columns, rows = alphabet(SYMBOLS, 0), rows_of(path)
    cuts = [c for c in np.cumsum(sizes) if c < len(rows)]
    parts = np.split(rows, cuts)
    pieces = [(part, i == len(parts) - 1) for i, part in enumerate(parts)]
    found = [w.word for _, part, _ in segments(pieces, columns, 4) for w in greedy(part, SYMBOLS, 0, 50.0).words]
    assert found == [w.word for w in greedy(parted_at_pauses(rows, columns, 4), SYMBOLS, 0, 50.0).words]


def test_segments_end_in_the_middle_of_every_long_pause():
    columns = alphabet(SYMBOLS, 0)
    found = list(segments([(rows_of("-A|-B------A---A-"), False), (rows_of("|A-----B--"), True)], columns, 5))
    assert [(s.first, path_of(s.rows), s.apart) for s in found] == [
        (0, "-A|-B--|", True), (8, "---A---A-|A--|", True), (22, "--B--", True)]


def test_of_a_very_long_pause_no_more_than_the_least_is_kept_on_either_side():
    columns = alphabet(SYMBOLS, 0)
    for gap in (8, 10, 11, 12, 13, 99):  # frames from one letter to the next; up to 11 each side has half of them
        found = list(segments([(rows_of("A" + "-" * (gap - 1) + "A"), True)], columns, 5))
        before, after = min(gap // 2, 5), min(gap - gap // 2 - 1, 5)
        assert [path_of(s.rows).replace("|", "-") for s in found] == ["A" + "-" * before, "-" * after + "A"], gap
        assert [(s.first, s.apart) for s in found] == [(0, True), (gap - after, True)]


def test_words_before_an_endless_silence_come_when_the_pause_is_behind_them():
    """A live transcription held them back until somebody spoke again, and kept all of the silence in memory."""
    columns, forgotten, fed = alphabet(SYMBOLS, 0), list[int](), list[int]()

    def pieces():
        for number, path in enumerate(["A-B-A-B---", "-----", *["-" * 50] * 20]):
            fed.append(number)
            yield rows_of(path), False

    came = [(fed[-1], s.first, path_of(s.rows), s.apart)
            for s in segments(pieces(), columns, 5, forgotten.append)]
    assert came == [(1, 0, "A-B-A-B--", True)]
    assert forgotten[2:] == [15 + 50 * n - 5 for n in range(1, 21)]


def test_a_silence_after_which_no_more_is_said_is_left_out():
    columns = alphabet(SYMBOLS, 0)
    found = list(segments([(rows_of("-" * 30 + "A"), False), (rows_of("-" * 30), True)], columns, 5))
    assert [(s.first, path_of(s.rows), s.apart) for s in found] == [(25, "-----A--", True)]


def test_a_recording_without_long_pauses_is_parted_at_a_separator_and_not_apart():
    columns = alphabet(SYMBOLS, 0)
    found = list(segments([(rows_of("A-B--|-A-B-"), False), (rows_of("A--A-B-A|A-B"), True)], columns, 5))
    assert [(s.first, path_of(s.rows), s.apart) for s in found] == [
        (0, "A-B--|", False), (6, "-A-B-A--A-B-A|A-B", False)]


def test_a_whole_recording_is_not_heard_twice():
    columns = alphabet(SYMBOLS, 0)
    [found] = segments([(rows_of("A-B--|-A-B-"), True)], columns, 5)
    assert not found.apart


def loud(grid, calls):
    """An encoder that hears everything at once: A where it is loud, by a probability that the whole window decides."""
    def encode(wave):
        calls.append(len(wave))
        frames = grid.frames(len(wave))
        padded = np.pad(wave, (0, grid.padding))
        rows = np.full((frames, 4), -9.0, np.float32)
        for t in range(frames):
            is_loud = np.abs(padded[grid.crop_start(t):grid.crop_start(t) + grid.receptive_field]).max() > 0.5
            rows[t, 2 if is_loud else 0] = -np.abs(wave).mean()
        return rows
    return encode


@pytest.mark.parametrize("grid", [CONV_GRID, STACKED_GRID, WIDE_GRID])
@pytest.mark.parametrize("block", [777, 10**6])
def test_what_lies_between_two_pauses_is_heard_as_a_recording_of_its_own(grid, block):
    """Neighbours changed what a recogniser made of an utterance: joined recordings had five times its errors."""
    levels = (0.6, 0.9, 0.7)
    quiet = np.zeros(11_200, np.float32)
    wave = np.concatenate([part for level in levels for part in (np.full(12_000, level, np.float32), quiet)])
    calls = []
    blocks = [wave[i:i + block] for i in range(0, len(wave), block)]
    found = list(phrases(loud(grid, calls), blocks, grid, alphabet(SYMBOLS, 0), 0, 3.0, 0.5, 0.4))
    assert len(found) == 3
    for phrase in found:
        own = wave[grid.crop_start(phrase.first):][:grid.samples(len(phrase.rows))]
        alone = parted_at_pauses(loud(grid, [])(own), alphabet(SYMBOLS, 0), 20)
        assert np.array_equal(phrase.rows, alone)
    assert sum(len(p.rows) for p in found) >= grid.frames(len(wave) - len(quiet))  # behind the last, a pause will do
    heard_once = list(phrases(loud(grid, calls := []), blocks, grid, alphabet(SYMBOLS, 0), 0, 3.0, 0.5, 0))
    assert len(list(emission_pieces(loud(grid, windows := []), blocks, grid, 0, 3.0, 0.5))) == len(windows)
    assert calls == windows, "a window at a time, and none again"
    assert len({float(row.max()) for p in heard_once for row in p.rows}) > 1
    assert max(calls) <= grid.samples(round(3.0 * grid.rate)) + block


@pytest.mark.parametrize(("seconds", "parts"), [(0.38, 2), (0.4, 2), (0.405, 1), (0.42, 1)])
def test_a_pause_is_as_long_as_asked_at_least(seconds, parts):
    """From one letter to the next are 21 frames: more than 20, which .4 s are, and not more than the 21 that .405 s
    take. Each of two parts is heard once more, and a recording that is whole is not."""
    rows, calls = rows_of("A" + "-" * 20 + "A"), []

    def encode(wave):
        calls.append(CONV_GRID.frames(len(wave)))
        return rows[:calls[-1]]

    found = list(phrases(encode, [np.zeros(CONV_GRID.samples(22), np.float32)], CONV_GRID, alphabet(SYMBOLS, 0), 0,
                         pause_seconds=seconds))
    assert len(found) == parts
    assert calls == [22, *([len(phrase.rows) for phrase in found] if parts > 1 else [])]


@pytest.mark.parametrize(("blanks", "come"), [(5, []), (6, ["A-B--"])])
def test_the_last_pause_is_waited_for_until_it_is_long(blanks, come):
    """Five frames are a long one with whatever letter comes next, but none has come."""
    pieces = iter([(rows_of("A-B" + "-" * blanks), False)])
    assert [path_of(s.rows) for s in segments(pieces, alphabet(SYMBOLS, 0), 5)] == come


def test_what_follows_a_silence_at_the_beginning_is_apart():
    """Wherever the pieces end: of the silence as many frames are kept as a pause has."""
    for more, first in (("", 25), ("-", 26)):
        pieces = [(rows_of("-" * 30), False), (rows_of(more + "A-B-"), False), (rows_of("-" * 30), True)]
        found = list(segments(pieces, alphabet(SYMBOLS, 0), 5))
        assert [(s.first, path_of(s.rows), s.apart) for s in found] == [(first, "-----A-B--", True)]


def test_blocks_may_come_in_one_buffer():
    """`soundfile.blocks(out=buffer)`: what was heard a second time was the last block, again and again."""
    wave = np.concatenate([np.full(12_000, level, np.float32) for level in (0.6, 0.0, 0.9, 0.0, 0.7, 0.0)])
    buffer = np.zeros(1000, np.float32)

    def reused():
        for block in wave.reshape(-1, 1000):
            buffer[:] = block
            yield buffer

    found, expected = (list(phrases(loud(CONV_GRID, []), blocks, CONV_GRID, alphabet(SYMBOLS, 0), 0, 3.0, 0.5, 0.4))
                       for blocks in (reused(), wave.reshape(-1, 1000)))
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected):
        assert one.first == other.first
        assert np.array_equal(one.rows, other.rows)


def test_a_pause_that_only_the_second_hearing_finds_ends_a_word_as_well():
    """Heard with its neighbours the quieter second in the middle is part of the word, by itself it is a pause."""
    def encode(wave):
        levels = np.abs(wave[200::320][:CONV_GRID.frames(len(wave))])
        return rows_of(["A" if level > (0.5 if len(wave) > 2.7 * 16_000 else 0.8) else "-" for level in levels])

    wave = np.repeat(np.float32([0, 0.9, 0.6, 0.9, 0, 0.9, 0]), [8000, 4000, 16_000, 4000, 16_000, 4000, 16_000])
    columns = alphabet(SYMBOLS, 0)
    found = list(phrases(encode, [wave], CONV_GRID, columns, 0, 3.0, 0.5, 0.4))
    texts = [word.word for phrase in found for word in greedy(phrase.rows, SYMBOLS, 0, 50.0).words]
    assert texts == ["A", "A", "A"]


@pytest.mark.parametrize("pause", [-1.0, float("nan"), float("inf")])
def test_a_pause_that_is_none_is_refused(pause):
    with pytest.raises(UsageError, match="must be at least 0 and finite"):
        list(phrases(lambda wave: wave, [], CONV_GRID, alphabet(SYMBOLS, 0), 0, pause_seconds=pause))


def test_silence_is_not_kept():
    """Hours of it filled the memory of a transcription that streams."""
    forgotten = []
    columns = alphabet(SYMBOLS, 0)
    pieces = [(rows_of("-" * 50), False)] * 100 + [(rows_of("-" * 10 + "A-B" + "-" * 3), True)]
    for pause, kept in ((20, 20), (0, 10)):
        forgotten.clear()
        [found] = segments(pieces, columns, pause, forgotten.append)
        assert forgotten[:100] == [50 * n - pause for n in range(1, 101)]
        assert (found.first, path_of(found.rows)) == (5010 - kept, "-" * kept + "A-B---")
        assert found.apart == (pause > 0)


@pytest.mark.parametrize("window", [float("nan"), float("inf"), 0.0])
def test_a_window_that_is_none_is_refused(window):
    with pytest.raises(UsageError, match="the overlap must be"):
        list(phrases(lambda wave: wave, [], CONV_GRID, alphabet(SYMBOLS, 0), 0, window))


def test_a_recording_is_parted_in_the_later_half_if_it_can_be():
    """The longer pause is early: parting there would leave most of the frames to the next piece."""
    columns = alphabet(SYMBOLS, 0)
    found = list(segments([(rows_of("A---|--A-B-A|-B-"), False), (rows_of("A"), True)], columns, 9))
    assert [(s.first, path_of(s.rows)) for s in found] == [(0, "A---|--A-B-A|"), (13, "-B-A")]


def test_a_script_without_spaces_is_parted_between_two_signs_before_it_fills_the_memory():
    """Ten windows of Mandarin were one phrase: a transcription that streams said nothing before the end."""
    columns, said = alphabet(SYMBOLS, 0), "A-B--A-B-A---B-A-B-B"
    pieces = [(rows_of(said), False)] * 9 + [(rows_of(said), True)]
    assert [len(s.rows) for s in segments(pieces, columns, 9)] == [200]
    found = list(segments(pieces, columns, 9, most=40))
    assert "".join(path_of(s.rows) for s in found) == said * 10
    assert max(len(s.rows) for s in found) <= 60
    assert [(s.first, path_of(s.rows)) for s in found][:2] == [
        (0, said * 2 + "A-B--A-B-A--"), (52, "-B-A-B-B" + said + "A-B--A-B-A--")]
    assert not any(s.apart for s in found)


def test_a_recording_without_spaces_or_pauses_comes_out_as_it_is_said():
    """Streaming printed its text behind the end, however long it was."""
    wave = np.tile(np.repeat(np.float32([0.9, 0]), [3200, 1600]), 60)  # 18 s
    found = list(phrases(loud(CONV_GRID, []), [wave], CONV_GRID, alphabet(SYMBOLS, 0), 0, 3.0, 0.5, 0.4))
    assert len(found) == 3
    assert sum(len(p.rows) for p in found) == CONV_GRID.frames(len(wave))
    assert sum(len(w.word) for p in found for w in greedy(p.rows, SYMBOLS, 0, 50.0).words) == 60


def test_a_part_beside_minutes_of_silence_is_heard_by_itself():
    """It had half of the silence on either side: too long for a window, it was as the windows beside it had it."""
    spoken, minute = np.full(16_000, 0.9, np.float32), np.zeros(60 * 16_000, np.float32)
    for parts in ((spoken, minute, spoken, minute, spoken), (minute, spoken, minute), (spoken, minute)):
        wave = np.concatenate(parts)
        found = list(phrases(loud(CONV_GRID, []), [wave], CONV_GRID, alphabet(SYMBOLS, 0), 0, 10.0, 2.0, 0.4))
        assert len(found) == sum(part is spoken for part in parts)
        for phrase in found:
            own = wave[CONV_GRID.crop_start(phrase.first):][:CONV_GRID.samples(len(phrase.rows))]
            assert np.array_equal(phrase.rows, loud(CONV_GRID, [])(own))
            assert phrase.apart
            assert len(phrase.rows) <= 50 + 2 * 21


def test_a_phrase_longer_than_a_window_is_not_heard_again():
    """It would take the memory of the whole of it."""
    quiet = np.zeros(16_000, np.float32)
    wave = np.concatenate([quiet, np.full(80_000, 0.9, np.float32), quiet, np.full(8000, 0.9, np.float32)])
    found = list(phrases(loud(CONV_GRID, calls := []), [wave], CONV_GRID, alphabet(SYMBOLS, 0), 0, 3.0, 0.5, 0.4))
    assert max(len(phrase.rows) for phrase in found) > 150
    assert max(calls) <= CONV_GRID.samples(150)
