"""`fbank_norm: global`: statistics of the recordings of a training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from upstream.model import Encoder, EncoderConfig
from upstream.model.fbank import log_mel
from upstream.model.frontend import standardise
from upstream.model.global_norm import LEAST_STD, measure_global_norm

SHAPE = {"width": 16, "layers": 1, "heads": 2, "ffn": 16, "positional_groups": 2, "conv_dim": 8}
WAVES = [np.random.default_rng(i).standard_normal(4000 + 1000 * i).astype(np.float32) * 0.1 for i in range(3)]


@pytest.mark.parametrize("front", ["fbank", "light"])
def test_the_statistics_are_those_of_all_frames_of_the_chosen_recordings(front):
    """A bug once found: nothing ever set them, and `global` was `none`."""
    encoder = Encoder(EncoderConfig(frontend=front, fbank_norm="global", **SHAPE)).initialise(0)
    measure_global_norm(encoder, WAVES.__getitem__, np.array([0, 2]), 0)
    mels = encoder.feature_extractor if front == "fbank" else encoder.feature_extractor.mels
    frames = torch.cat([log_mel(F.pad(torch.from_numpy(WAVES[i])[None], (0, mels.grid.padding)))[0] for i in (0, 2)])
    torch.testing.assert_close(mels.mean, frames.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mels.std, frames.std(0, correction=0), rtol=1e-3, atol=1e-4)


def test_waveforms_are_standardised_first_where_they_will_be():
    encoder = Encoder(EncoderConfig(frontend="fbank", fbank_norm="global", normalize=True, **SHAPE)).initialise(0)
    measure_global_norm(encoder, WAVES.__getitem__, np.array([1]), 0)
    mels = encoder.feature_extractor
    measured = log_mel(F.pad(standardise(torch.from_numpy(WAVES[1]))[None], (0, mels.grid.padding)))[0]
    torch.testing.assert_close(mels.mean, measured.mean(0), rtol=1e-4, atol=1e-4)


def test_other_norms_and_silence_are_left_in_peace():
    encoder = Encoder(EncoderConfig(frontend="fbank", **SHAPE)).initialise(0)
    measure_global_norm(encoder, WAVES.__getitem__, np.array([0]), 0)
    silent = Encoder(EncoderConfig(frontend="fbank", fbank_norm="global", **SHAPE)).initialise(0)
    measure_global_norm(silent, lambda i: np.zeros(4000, np.float32), np.array([0]), 0)
    assert float(silent.feature_extractor.std.max()) == pytest.approx(LEAST_STD)
    assert torch.isfinite(silent(torch.zeros(1, 4000), None).last).all()


def test_of_many_recordings_a_keyed_part_is_heard(monkeypatch):
    monkeypatch.setattr("upstream.model.global_norm.UTTERANCES", 5)

    def heard(seed):
        encoder = Encoder(EncoderConfig(frontend="fbank", fbank_norm="global", **SHAPE)).initialise(0)
        asked = []
        measure_global_norm(encoder, lambda i: asked.append(i) or WAVES[i % 3], np.arange(40), seed)
        return asked

    assert len(heard(0)) == 5
    assert heard(0) == heard(0) != heard(1)
    assert max(heard(0)) > 5  # not the first ones, who are of few speakers
