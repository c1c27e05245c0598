"""Convolutions as matrix products, and the group norm folded into the first of them, equal torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from upstream.frames import CONV_GRID
from upstream.model import Encoder, EncoderConfig
from upstream.model.convolution import convolve
from upstream.model.frontend import moments_of, window_moments, window_sums

SIZES = st.integers(1, 5)


@given(st.integers(1, 9), st.integers(1, 7), SIZES, SIZES, SIZES, st.integers(0, 99))
def test_it_equals_conv1d_forward_and_backward(rows, kernel, stride, channels, out, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows * stride, channels, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(out, channels, kernel, generator=generator, dtype=torch.float64, requires_grad=True)
    found = convolve(x, weight, stride)
    padded = F.pad(x.t()[None], (0, kernel))
    expected = F.conv1d(padded, weight, stride=stride)[0].t()[:rows]
    assert found.shape == (rows, out)
    torch.testing.assert_close(found, expected)
    pull = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(torch.autograd.grad(found, (x, weight), pull),
                            torch.autograd.grad(expected, (x, weight), pull)):
        torch.testing.assert_close(ours, theirs)


def test_one_by_hand():
    """Kernel 3, stride 2 over 1 2 3 4 5 6 with taps 1 10 100; the last window is cut off by the end."""
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    assert convolve(x, torch.tensor([[[1.0, 10.0, 100.0]]]), 2).flatten().tolist() == [321.0, 543.0, 65.0]


@pytest.mark.parametrize("conv_bias", [False, True])
def test_the_folded_group_norm_equals_torchs(conv_bias):
    torch.manual_seed(0)
    config = EncoderConfig(conv_dim=24, width=32, layers=1, heads=2, ffn=32, conv_bias=conv_bias)
    encoder = Encoder(config).initialise(0)
    layer = encoder.feature_extractor.conv_layers[0]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    # A voice's spectrum falls steeply, so windows of ten samples are nearly collinear: the hard case for moments.
    waveforms = torch.randn(2, 6000).cumsum(-1) * 0.01 + 0.3
    found = encoder.feature_extractor._first(waveforms, window_moments(waveforms))
    expected = F.gelu(layer.layer_norm(layer.conv(waveforms[:, None]))).transpose(1, 2)
    frames = min(expected.shape[1], len(found) // 2)
    torch.testing.assert_close(found.view(2, -1, 24)[:, :frames], expected[:, :frames], atol=2e-4, rtol=0)
    of_double = F.gelu(layer.double().layer_norm(layer.conv(waveforms.double()[:, None]))).transpose(1, 2)
    error, theirs = ((x.view(2, -1, 24)[:, :frames] - of_double[:, :frames]).abs().max()
                     for x in (found.double(), expected[:, :frames].reshape(2, -1, 24).double()))
    assert error < 2 * theirs  # no less exact than torch


def test_moments_of_pieces_add_up_to_those_of_the_whole():
    waveform = torch.randn(1, 4005)
    whole = window_moments(waveform)
    windows = waveform.unfold(1, CONV_GRID.kernels[0], CONV_GRID.strides[0]).double()
    parts = [window_sums(windows[:, :300]), window_sums(windows[:, 300:])]
    joined = moments_of(parts[0][0] + parts[1][0], parts[0][1] + parts[1][1], windows.shape[1])
    torch.testing.assert_close(joined.mean, whole.mean)
    torch.testing.assert_close(joined.covariance, whole.covariance)
    torch.testing.assert_close(whole.covariance[0], torch.cov(windows[0].t(), correction=0))


def test_moments_stop_at_the_end_of_an_utterance():
    waveforms = torch.randn(2, 900)
    counts = torch.tensor([100, 179])
    found = window_moments(waveforms, counts)
    for row, count in enumerate(counts.tolist()):
        alone = window_moments(waveforms[row:row + 1, : (count - 1) * 5 + 10])
        torch.testing.assert_close(found.mean[row], alone.mean[0])
        torch.testing.assert_close(found.covariance[row], alone.covariance[0])
