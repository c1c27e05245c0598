"""Joined recordings hold what their utterances hold, and what a seam costs is counted."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import seams
from benchmarks.results import check
from downstream.score.rates import word_errors
from downstream.transcribe import Settings
from upstream.audio import import_folder
from upstream.errors import InputError, UsageError

RATE = 16_000


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 100), st.integers(0, 10))
def test_joined_recordings_hold_every_utterance_once_and_keep_to_their_length(lengths, most, pause):
    parts = [(np.full(n * 160, i + 1, np.float32), f"W{i}") for i, n in enumerate(lengths)]
    groups = seams.grouped([len(wave) for wave, _ in parts], most / 6000, pause / 100)
    assert [i for group in groups for i in group] == list(range(len(parts)))
    found = [seams.joined(parts[group.start:group.stop], pause / 100) for group in groups]
    assert " ".join(text for _, text in found).split() == [text for _, text in parts]
    heard = np.concatenate([wave for wave, _ in found])
    np.testing.assert_array_equal(heard[heard > 0], np.concatenate([wave for wave, _ in parts]))
    for wave, text in found:
        assert len(wave) <= max(most * 160, max(lengths) * 160)
        assert int((wave == 0).sum()) == pause * 160 * (len(text.split()) - 1)


def test_two_utterances_that_fit_are_one_recording_by_hand():
    parts = [(np.ones(160, np.float32), "A"), (np.ones(320, np.float32), "B C"), (np.ones(160, np.float32), "D")]
    # 10 + 10 + 20 ms fit into 40; with the next pause and utterance they would be 60
    groups = seams.grouped([160, 320, 160], minutes=0.04 / 60, pause_seconds=0.01)
    assert groups == [range(2), range(2, 3)]
    found = [seams.joined(parts[group.start:group.stop], 0.01) for group in groups]
    assert [(len(wave), text) for wave, text in found] == [(640, "A B C"), (160, "D")]


def test_errors_have_their_place_in_an_utterance_by_hand():
    texts, groups = ["A B", "", "C D", "E"], [range(3), range(3, 4)]
    # of A B C D: B is wrong, X is too many before D, Y at the end; of E: nothing was heard
    assert seams.errors_by_utterance(texts, ["A Q C X D Y", ""], groups).tolist() == [1, 0, 2, 1]
    assert seams.errors_by_utterance(["", "", ""], ["X Y", ""], [range(2), range(2, 3)]).tolist() == [0, 2, 0]


@given(st.lists(st.lists(st.sampled_from("ABC"), max_size=4), min_size=1, max_size=6),
       st.lists(st.sampled_from("ABC"), max_size=16), st.data())
def test_errors_of_utterances_add_up_to_those_of_the_recordings(said, heard, data):
    texts = [" ".join(words) for words in said]
    cut = data.draw(st.integers(1, len(texts)))
    groups = [group for group in (range(cut), range(cut, len(texts))) if group]
    found = [" ".join(heard), " ".join(heard[::-1])][:len(groups)]
    errors = seams.errors_by_utterance(texts, found, groups)
    for group, words in zip(groups, found):
        assert errors[group.start:group.stop].sum() == word_errors(" ".join(texts[group.start:group.stop]), words)


class Deaf:
    """Hears a word in every sound, none past the first second."""

    pause_seconds = 0.5

    def __init__(self, recogniser, settings):
        self.settings = settings

    def words(self, blocks):
        wave = np.concatenate(list(blocks))[:RATE]
        starts = np.flatnonzero(np.diff(np.abs(wave) > 0.1, prepend=False)).size // 2
        return [SimpleNamespace(word="WORD")] * max(1, starts)


@pytest.fixture
def manifest(tmp_path):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.pad(np.full(RATE // 2, 0.5), RATE // 20), RATE)
        (tmp_path / f"{name}.txt").write_text("WORD")
    return import_folder(tmp_path)


def test_what_a_seam_costs_is_the_difference(manifest, monkeypatch, tmp_path):
    monkeypatch.setattr(seams, "Transcriber", Deaf)
    found = seams.run(tmp_path, manifest, {"greedy": Settings()}, pause_seconds=1.0, say=lambda line: None)
    alone, whole = found["rows"]
    assert (alone["count"], alone["errors"], alone["wer"]) == (2, 0, 0.0)
    assert (whole["count"], whole["errors"], whole["wer"], whole["difference"]) == (1, 1, 50.0, 50.0)
    assert (whole["difference_interval"], whole["p_value"]) == ([0.0, 100.0], 1.0)  # one of two utterances is worse
    whole_file = {"format": 1, "date": "2026-01-01", "machine": {"processor": "", "cores": 1},
                  "versions": {"python": "", "torch": ""}, "command": "x", **json.loads(json.dumps(found))}
    check(whole_file, tmp_path)


def test_errors_are_counted_in_characters_where_that_is_asked_for(manifest, monkeypatch, tmp_path):
    """Found in review: of a recogniser of Mandarin a WER of 2000 was shown."""
    monkeypatch.setattr(seams, "Transcriber", Deaf)
    found = seams.run(tmp_path, manifest, {"greedy": Settings()}, pause_seconds=1.0, say=lambda line: None,
                      unit="character")
    alone, whole = found["rows"]
    assert (found["unit"], alone["words"], alone["errors"], whole["errors"]) == ("character", 8, 0, 4)
    assert seams.errors_by_utterance(["今天", "很好"], ["今 天很"], [range(2)], "character").tolist() == [0, 1]


def test_recordings_of_single_utterances_are_refused(manifest, tmp_path):
    with pytest.raises(UsageError, match=r"0\.01 minutes: no two utterances with a pause of 2 s fit into a recording"):
        seams.run(tmp_path, manifest, {"greedy": Settings()}, minutes=0.01, pause_seconds=2.0)


def test_utterances_without_texts_are_refused(manifest, tmp_path):
    (tmp_path / "b.txt").unlink()
    with pytest.raises(InputError, match="b: no text"):
        seams.run(tmp_path, import_folder(tmp_path), {"greedy": Settings()})
    with pytest.raises(UsageError, match="above 0"):
        seams.run(tmp_path, manifest, {"greedy": Settings()}, minutes=0)
