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
from downstream.transcribe import Settings
from upstream.audio import import_folder
from upstream.errors import InputError, UsageError

RATE = 16_000


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 100), st.integers(0, 10))
def test_joined_recordings_hold_every_utterance_once_and_keep_to_their_length(lengths, most, pause):
    parts = [(np.full(n * 160, i + 1, np.float32), f"W{i}") for i, n in enumerate(lengths)]
    found = list(seams.joined(parts, most / 6000, pause / 100))
    assert " ".join(text for _, text in found).split() == [text for _, text in parts]
    heard = np.concatenate([wave for wave, _ in found])
    np.testing.assert_array_equal(heard[heard > 0], np.concatenate([wave for wave, _ in parts]))
    for wave, text in found:
        assert len(wave) <= max(most * 160, max(lengths) * 160)
        assert int((wave == 0).sum()) == pause * 160 * (len(text.split()) - 1)


def test_two_utterances_that_fit_are_one_recording_by_hand():
    parts = [(np.ones(160, np.float32), "A"), (np.ones(320, np.float32), "B C"), (np.ones(160, np.float32), "D")]
    # 10 + 10 + 20 ms fit into 40; with the next pause and utterance they would be 60
    found = list(seams.joined(parts, minutes=0.04 / 60, pause_seconds=0.01))
    assert [(len(wave), text) for wave, text in found] == [(640, "A B C"), (160, "D")]


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
    whole_file = {"format": 1, "date": "2026-01-01", "machine": {"processor": "", "cores": 1},
                  "versions": {"python": "", "torch": ""}, "command": "x", **json.loads(json.dumps(found))}
    check(whole_file, tmp_path)


def test_utterances_without_texts_are_refused(manifest, tmp_path):
    (tmp_path / "b.txt").unlink()
    with pytest.raises(InputError, match="b: no text"):
        seams.run(tmp_path, import_folder(tmp_path), {"greedy": Settings()})
    with pytest.raises(UsageError, match="above 0"):
        seams.run(tmp_path, manifest, {"greedy": Settings()}, minutes=0)
