"""Span masks: fairseq's distribution, equal counts, and a worked example."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import InputError, RecipeError
from upstream.keyed import keyed
from upstream.model import SpanMask, batch_masks, span_mask

ORACLES = Path(__file__).parents[2] / "oracles" / "masks"
STATISTICS = json.loads((ORACLES / "statistics.json").read_text())
POSITIONS = dict(np.load(ORACLES / "position_shares.npz"))
DRAWS = 1500


class _Fixed:
    """Stands in for a generator whose draws are known."""

    def __init__(self, uniform: float, starts: list[int]) -> None:
        self.uniform, self.starts = uniform, starts

    def random(self) -> float:
        return self.uniform

    def choice(self, places: int, count: int, replace: bool) -> np.ndarray:
        assert not replace
        assert (places, count) == (17, len(self.starts))
        return np.array(self.starts)


def test_worked_example():
    """20 frames, share 0.8, spans of 3: 0.8 * 20 / 3 = 5.33, and 5.33 + 0.5 = 5.83, so 5 spans from starts 0 to 16."""
    mask = span_mask(_Fixed(0.5, [0, 1, 7, 16, 9]), 20, SpanMask(share=0.8, span=3))
    #        0, 1, 2, 3 | 7, 8, 9, 10, 11 | 16, 17, 18: the spans of 0 and 1 overlap, those of 7 and 9 too
    assert np.flatnonzero(mask).tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 11, 16, 17, 18]


@pytest.mark.parametrize("row", STATISTICS["single_row"], ids=lambda row: f"{row['mask_prob']}-{row['T']}")
def test_masks_are_distributed_as_fairseqs(row):
    """The share of hidden frames, its spread, and how often each frame is hidden, against exact expectations."""
    settings = SpanMask(row["mask_prob"], row["mask_length"], row["min_masks"])
    masks = np.stack([span_mask(keyed(1, "mask", row["T"], i), row["T"], settings) for i in range(DRAWS)])
    shares = masks.mean(axis=1)
    assert np.mean(shares) == pytest.approx(row["exact"], abs=3 * row["std"] / DRAWS**0.5)
    assert np.std(shares) == pytest.approx(row["std"], rel=4 / (2 * DRAWS) ** 0.5)
    expected = POSITIONS[f"{row['setting']}_T{row['T']}_position_share_exact"].astype(float)
    certain = (expected < 1e-6) | (expected > 1 - 1e-6)
    assert np.array_equal(masks.mean(axis=0)[certain], expected[certain].round())
    assert certain[-1]  # starts end one short of the last span: the last frame is never hidden
    error = (expected * (1 - expected) / DRAWS)[~certain] ** 0.5
    assert np.abs((masks.mean(axis=0) - expected)[~certain] / error).max() < 4.5


@pytest.mark.parametrize("row", STATISTICS["channel"], ids=lambda row: f"{row['C']}-{row['mask_prob']}-{row['batch']}")
def test_masks_of_channels_are_distributed_as_fairseqs(row):
    settings, draws = SpanMask(row["mask_prob"], row["mask_length"], row["min_masks"]), 1000
    keys = [[keyed(5, "channels", i, number) for number in range(row["batch"])] for i in range(draws)]
    masks = np.stack([batch_masks(rngs, [row["C"]] * row["batch"], settings) for rngs in keys])
    shares = masks.mean(axis=(1, 2))
    error = (row["se"] ** 2 + shares.var() / draws) ** 0.5
    assert shares.mean() == pytest.approx(row["mean"], abs=3 * error)
    assert masks[..., -1].mean() == row["last_channel_share"] == 0


@pytest.mark.parametrize("batch", STATISTICS["batches"], ids=lambda batch: batch["name"])
def test_rows_of_a_batch_are_thinned_as_in_fairseq(batch):
    settings = SpanMask(batch["mask_prob"], batch["mask_length"], batch["min_masks"])
    draws, lengths = 300, batch["lengths"]
    keys = [[keyed(3, "mask", i, row) for row in range(len(lengths))] for i in range(draws)]
    masks = np.stack([batch_masks(rngs, lengths, settings) for rngs in keys])
    runs = (masks & ~np.pad(masks, ((0, 0), (0, 0), (1, 0)))[..., :-1]).sum(axis=2).mean(axis=0)
    for row, length in enumerate(lengths):
        shares = masks[:, row, :length].mean(axis=1)
        error = (batch["se"][row] ** 2 + shares.var() / draws) ** 0.5
        assert shares.mean() == pytest.approx(batch["share"][row], abs=3 * error)
        assert runs[row] == pytest.approx(batch["runs"][row], rel=0.15)


@pytest.mark.parametrize("row", STATISTICS["short"], ids=lambda row: str(row["T"]))
def test_short_utterances_fail_as_often_as_in_fairseq(row):
    succeeded, draws = 0, 500
    for i in range(draws):
        try:
            mask = span_mask(keyed(4, "mask", row["T"], i), row["T"], SpanMask())
        except InputError as error:
            assert "hidden entirely" in str(error)  # noqa: PT017 - the share of failures is what is tested
        else:
            succeeded += 1
            assert not mask.all()
    assert succeeded / draws == pytest.approx(row["succeeded"] / row["draws"], abs=0.11)
    if row["T"] >= SpanMask().least_frames:
        assert succeeded == draws


@given(
    share=st.floats(0.05, 0.95),
    span=st.integers(1, 12),
    min_spans=st.integers(0, 4),
    surplus=st.lists(st.integers(0, 200), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_rows_have_equal_counts_and_padding_is_never_hidden(share, span, min_spans, surplus, seed):
    settings = SpanMask(share, span, min_spans)
    lengths = [settings.least_frames + n for n in surplus]
    masks = batch_masks([keyed(seed, "mask", row) for row in range(len(lengths))], lengths, settings)
    assert masks.shape == (len(lengths), max(lengths))
    assert len(set(masks.sum(axis=1).tolist())) == 1
    assert all(not masks[row, length:].any() for row, length in enumerate(lengths))
    again = batch_masks([keyed(seed, "mask", row) for row in range(len(lengths))], lengths, settings)
    assert np.array_equal(masks, again)


@given(st.floats(0.05, 0.99), st.integers(1, 12), st.integers(0, 4), st.integers(0, 100), st.integers(0, 2**31))
def test_from_least_frames_on_no_draw_hides_everything(share, span, min_spans, surplus, seed):
    settings = SpanMask(share, span, min_spans)
    mask = span_mask(keyed(seed, "mask"), settings.least_frames + surplus, settings)
    assert not mask[-1]


@pytest.mark.parametrize("settings", [(0.0, 10, 2), (10.0, 10, 2), (0.8, 0, 2), (0.8, 10, -1)])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(RecipeError, match="mask"):
        SpanMask(*settings)
