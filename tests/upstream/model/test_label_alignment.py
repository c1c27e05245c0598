"""Labels on frames as fairseq lays them: its own tables, and both rules by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import UsageError
from upstream.frames import CONV_GRID
from upstream.model.label_alignment import crop_spans, labels_of_frames

TABLES = json.loads((Path(__file__).parents[2] / "oracles" / "labels" / "tables.json").read_text())


@pytest.mark.parametrize("case", TABLES["forward_targets"], ids=lambda c: f"{c['label_rate']:g}-{c['frames']}")
def test_labels_of_frames_equal_fairseqs(case):
    found = labels_of_frames(case["frames"], case["label_lengths"], case["label_rate"])
    assert len(found) == case["frames_kept"]
    assert found[:4].tolist() == case["label_index_first"]
    assert found[-4:].tolist() == case["label_index_last"]


@pytest.mark.parametrize("case", TABLES["dataset"], ids=lambda c: f"{c['label_rate']:g}-{c['audio_size']}")
def test_labels_of_crops_equal_fairseqs(case):
    rate, counts = case["label_rate"], case["label_counts"]
    spans = crop_spans(case["audio_starts"], case["audio_size"], counts, rate, case["pad_audio"])
    assert [first for first, _ in spans] == case["label_starts"]
    assert [size for _, size in spans] == case["target_lengths"]
    frames = CONV_GRID.frames(case["audio_size"])
    assert frames == case["model_frames_before"]
    assert len(labels_of_frames(frames, [max(size for _, size in spans)], rate)) == case["model_frames_after"]


@pytest.mark.parametrize("row", TABLES["label_start_rounding"], ids=lambda row: str(row["start"]))
def test_the_first_label_of_a_crop_is_rounded_as_in_fairseq(row):
    for rate in (50, 100):
        assert crop_spans([row["start"]], 16_000, [10**6], rate, False) == [(row[f"rate{rate}"], rate)]


def test_by_hand():
    """At 100 Hz the four frames want labels 0, 2, 4, 6; with 7 labels for 8, floor(7 / 2) = 3 frames are left.

    A crop from sample 480 (1.5 labels at 50 Hz, rounded to the even 2) with 1120 samples (3.5, rounded to 4) takes
    labels 2 to 5; an utterance of 5 labels has 3 of them, and without padding its neighbour is shortened too.
    """
    assert labels_of_frames(4, [8], 100).tolist() == [0, 2, 4, 6]
    assert labels_of_frames(4, [7], 100).tolist() == [0, 2, 4]
    assert crop_spans([480, 0], 1120, [5, 9], 50, padded=True) == [(2, 3), (0, 4)]
    assert crop_spans([480, 0], 1120, [5, 9], 50, padded=False) == [(2, 3), (0, 3)]


@given(st.integers(1, 2000), st.lists(st.integers(1, 4000), min_size=1), st.sampled_from([25.0, 50.0, 100.0]))
def test_every_frame_that_is_kept_has_a_label_in_each_stream(frames, counts, rate):
    found = labels_of_frames(frames, counts, rate)
    assert len(found) <= frames
    assert all(0 <= label < min(counts) for label in found)


def test_a_stream_without_labels_is_refused():
    with pytest.raises(UsageError, match="at least one"):
        labels_of_frames(10, [5, 0], 50)
