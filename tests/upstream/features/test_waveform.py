"""Frames of one waveform: what a source gives of the same recording among others, and what is no waveform."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import InputError, UsageError
from upstream.features.source import FbankSource, LayerSource, MfccSource
from upstream.features.waveform import frames_of
from upstream.frames import CONV_GRID
from upstream.model import Encoder, EncoderConfig

SHAPE = {"width": 32, "layers": 2, "heads": 2, "ffn": 64, "positional_groups": 2, "conv_dim": 8}


def encoder(**changes) -> Encoder:
    return Encoder(EncoderConfig(**{**SHAPE, **changes})).eval()


@pytest.mark.parametrize("make", [
    MfccSource, FbankSource, lambda: LayerSource(encoder(), [0, 2], "cpu"),
    lambda: LayerSource(encoder(conv_norm="layer", pre_norm=True, normalize=True), 1, "cpu"),
    lambda: LayerSource(encoder(frontend="fbank", stride_ms=40), 2, "cpu")])
def test_a_waveform_has_the_frames_of_the_recording_in_a_corpus(make, recordings):
    corpus, source = recordings([9_000, 16_000, 12_345]), make()
    for index, expected in source.stream(corpus, range(3), corpus.read):
        found = frames_of(source, corpus.read(index))
        for one, other in zip(*(list(f.values()) if isinstance(f, dict) else [f] for f in (found, expected))):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


@given(samples=st.integers(0, 3_000))
def test_a_waveform_of_any_length_has_the_frames_of_the_grid(samples):
    wave = np.random.default_rng(samples).normal(0, 0.1, samples)  # float64 is a waveform, too
    assert frames_of(MfccSource(), wave).shape == (CONV_GRID.frames(samples), 39)


@pytest.mark.parametrize(("wave", "said"), [
    (np.zeros((2, 800), np.float32), r"shape \(2, 800\) and float32: expected \(samples,\)"),
    (np.zeros(800, np.int16), r"shape \(800,\) and int16: expected"),
    (np.array([0.0, np.nan] * 400), "samples that are not finite"),
    (torch.zeros(800, requires_grad=True), "a waveform of type Tensor: Can't call numpy"),
    (torch.zeros(800, dtype=torch.bfloat16), "a waveform of type Tensor: "),
    ([[0.0], [0.0, 1.0]], "a waveform of type list: ")])
def test_what_is_no_waveform_is_refused(wave, said):
    with pytest.raises(InputError, match=said):
        frames_of(MfccSource(), wave)


@pytest.mark.parametrize("source", ["mfcc", None, MfccSource, Encoder(EncoderConfig(frontend="fbank", layers=1))])
def test_what_is_no_source_is_refused(source):
    """An encoder in place of a `LayerSource` ended with `'Encoder' object has no attribute 'stream'`."""
    with pytest.raises(UsageError, match=r"^source of type .*: expected a source of frames, LayerSource\(encoder, "):
        frames_of(source, np.zeros(800, np.float32))
