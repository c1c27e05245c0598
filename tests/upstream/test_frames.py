import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.frames import CONV_GRID, KALDI_GRID, STACKED_GRID, WIDE_GRID, FrameGrid, frame_counts

GRIDS = [CONV_GRID, STACKED_GRID]


@pytest.mark.parametrize("grid", GRIDS)
def test_both_front_ends_follow_the_published_length_rule_for_every_length(grid):
    found = [grid.frames(n) for n in range(400_000)]
    expected = [0 if n < 400 else (n - 80) // 320 for n in range(400_000)]
    assert found == expected


def test_worked_example_of_the_conv_stack():
    # 16,000 samples through kernels 10,3,3,3,3,2,2 and strides 5,2,2,2,2,2,2:
    # (16000-10)//5+1 = 3199, 1599, 799, 399, 199, 99, 49
    assert CONV_GRID.frames(16_000) == 49
    assert (CONV_GRID.receptive_field, CONV_GRID.hop, CONV_GRID.rate) == (400, 320, 50.0)
    # fairseq's lengths (reference formula (n - 80) // 320)
    assert [CONV_GRID.frames(n) for n in (399, 400, 32_000, 250_000, 320_000)] == [0, 1, 99, 781, 999]


@pytest.mark.parametrize("grid", [*GRIDS, KALDI_GRID, WIDE_GRID])
@given(frames=st.integers(1, 3000))
def test_samples_and_frames_are_inverse(grid, frames):
    assert grid.frames(grid.samples(frames)) == frames
    # one sample less loses the last frame where no zeros are appended
    if grid.padding == 0:
        assert grid.frames(grid.samples(frames) - 1) == frames - 1


def test_every_second_mfcc_window_is_an_encoder_frame_for_every_length():
    for n in range(400, 40_000):
        assert (KALDI_GRID.frames(n) + 1) // 2 == CONV_GRID.frames(n)
    for t in range(100):
        assert KALDI_GRID.centre_seconds(2 * t) == CONV_GRID.centre_seconds(t)


def test_every_second_conv_frame_begins_a_wide_one_for_every_length():
    for n in range(40_000):
        assert WIDE_GRID.frames(n) == (CONV_GRID.frames(n) + 1) // 2
    assert (WIDE_GRID.hop, WIDE_GRID.rate, WIDE_GRID.least_samples) == (640, 25.0, 400)
    # By hand: frames 6 and 7 see samples 1920 to 2640, the wide frame 3 four windows from 1920: to 1920 + 880 = 2800.
    assert WIDE_GRID.crop_start(3) == CONV_GRID.crop_start(6) == 1920


@given(frame=st.integers(0, 500), frames=st.integers(1, 200))
def test_frame_i_of_a_crop_sees_the_samples_of_frame_start_plus_i(frame, frames):
    start = CONV_GRID.crop_start(frame)
    for i in (0, frames - 1):
        assert start + i * CONV_GRID.hop == (frame + i) * CONV_GRID.hop


@pytest.mark.parametrize(("kernels", "strides"), [((), ()), ((3, 2), (1,)), ((0,), (1,)), ((3,), (0,))])
def test_a_grid_that_is_none_is_refused(kernels, strides):
    with pytest.raises(ValueError, match="kernels"):
        FrameGrid(kernels, strides)


@pytest.mark.parametrize("grid", [CONV_GRID, KALDI_GRID, STACKED_GRID, WIDE_GRID, FrameGrid((7, 3), (2, 3), 5)])
def test_many_lengths_at_once_give_the_frames_of_each(grid):
    lengths = np.arange(3000)
    found = frame_counts(lengths, grid)
    assert found.tolist() == [grid.frames(n) for n in range(3000)]
    assert found.dtype == np.int64
    assert lengths.tolist() == list(range(3000))  # the caller's array is not touched
    assert frame_counts(np.zeros(0, np.int64), grid).tolist() == []
