"""Windows leave no seam: every frame comes once, in order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.chunking import emission_pieces, seam
from downstream.chunking import seam as seam_of
from upstream.errors import UsageError
from upstream.frames import CONV_GRID, STACKED_GRID


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
    seen.clear()
    fits = CONV_GRID.samples(150)  # 3 s of frames, whose last one looks a little further
    list(emission_pieces(encode, [np.zeros(fits, np.float32)], CONV_GRID, 0, 3.0, 1.0))
    assert seen == [fits]


def test_windows_are_joined_at_the_blank_nearest_to_the_middle():
    before, after = np.eye(2)[[1, 1, 0, 1, 1, 0, 0, 1]], np.eye(2)[[0, 0, 0, 0, 1, 0, 0, 1]]  # column 0 is the blank
    assert seam(before, after, 0) == 5  # 2 is as blank, but further from 4
    assert seam(np.eye(2)[[1] * 8], after, 0) == 4


@pytest.mark.parametrize("lengths", [(2.0, 1.5), (2.0, 0.001), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_windows_that_cannot_be_are_refused(lengths):
    with pytest.raises(UsageError, match="overlap"):
        list(emission_pieces(local(CONV_GRID), [], CONV_GRID, 0, *lengths))


@pytest.mark.parametrize(("quiet", "place"), [((0, 7), 4), ((1, 5), 5), ((2,), 2), ((1, 6), 4), ((), 4)])
def test_windows_are_joined_within_the_middle_half(quiet, place):
    """Near its edges a window has heard too little."""
    rows = np.tile(np.log(np.float32([0.2, 0.8])), (8, 1))
    rows[list(quiet)] = np.log(np.float32([0.8, 0.2]))
    assert seam_of(rows, rows, 0) == place


@pytest.mark.parametrize(("frames", "windows"), [(150, [150]), (151, [150, 26])])
def test_a_recording_that_fits_into_one_window_goes_through_in_one_pass(frames, windows):
    """Of 3 s; of one frame more the second window begins half a second, 25 frames, before the end of the first."""
    calls = []

    def encode(wave):
        calls.append(CONV_GRID.frames(len(wave)))
        return np.zeros((calls[-1], 4), np.float32)

    wave = np.zeros(CONV_GRID.samples(frames), np.float32)
    assert sum(len(rows) for rows, _ in emission_pieces(encode, [wave], CONV_GRID, 0, 3.0, 0.5)) == frames
    assert calls == windows
