"""The light front end: two plain convolutions on the mels that the filterbank front end gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from upstream.frames import CONV_GRID
from upstream.model import Encoder, EncoderConfig
from upstream.model.fbank import log_mel
from upstream.model.initialisation import initialise
from upstream.model.mel_frontends import FbankFrontend, LightFrontend

pytestmark = pytest.mark.usefixtures("one_thread")


def light(**options):
    front = LightFrontend(EncoderConfig(frontend="light", conv_dim=8, **options))
    initialise(front, 1)
    return front


def waves(rows, samples, seed=0):
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=25)
@given(samples=st.integers(400, 9000), stride=st.sampled_from([20, 40]), bias=st.booleans(), seed=st.integers(0, 1000))
def test_it_equals_conv1d_with_zeros_around(samples, stride, bias, seed):
    front = light(stride_ms=stride, conv_bias=bias, fbank_norm="none")
    wave = waves(2, samples, seed)
    found = front(wave, None)
    windows = stride // 10
    frames = -(-CONV_GRID.frames(samples) // (stride // 20))
    mels = log_mel(F.pad(wave, (0, 160 * (windows - 1))))[:, : windows * frames]
    first, second = front.convolutions
    x = F.gelu(F.conv1d(mels.transpose(1, 2), first.weight, first.bias, stride // 20, padding=2))
    x = F.gelu(F.conv1d(x, second.weight, second.bias, 2, padding=2)).transpose(1, 2)
    assert found.shape == (2, frames, 8)
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def test_a_frame_by_hand(monkeypatch):
    """One channel, all taps 1: the first convolution sums five mel frames, the second five of those sums."""
    front = LightFrontend(EncoderConfig(frontend="light", conv_dim=1, fbank_norm="none"))
    for convolution in front.convolutions:
        torch.nn.init.ones_(convolution.weight)
    mels = torch.zeros(1, 12, 80)
    mels[0, 4, 7] = 100.0  # far from zero, GELU is the identity
    monkeypatch.setattr(FbankFrontend, "forward", lambda *_: mels.reshape(1, 6, 160))
    # Sums of windows around 2 to 6 hold the hundred; frame t sums those around 2t - 2 to 2t + 2.
    assert front(torch.zeros(1, 2000), None)[0, :, 0].tolist() == [100.0, 300.0, 500.0, 300.0, 100.0, 0.0]


def test_four_windows_stand_side_by_side_at_40_ms():
    wave = waves(1, 5000)
    front = FbankFrontend(EncoderConfig(frontend="fbank", stride_ms=40, fbank_norm="none"))
    mels = log_mel(F.pad(wave, (0, 480)))
    found = front(wave, None)
    assert found.shape == (1, 8, 320)
    torch.testing.assert_close(found[0, 3], mels[0, 12:16].flatten())


def test_its_gradient_is_scaled_and_frozen_at_zero():
    wave = waves(1, 4000)
    gradients = {}
    for scale in (1.0, 0.1, 0.0):
        front = light(feature_grad_mult=scale)
        front(wave, None).square().sum().requires_grad_(True).backward()
        gradients[scale] = front.convolutions[0].weight.grad
    torch.testing.assert_close(gradients[0.1], gradients[1.0] * 0.1)
    assert gradients[0.0] is None


@pytest.mark.parametrize("stride", [20, 40])
def test_frames_beside_a_mask_do_not_hear_what_it_hides(stride):
    """Their convolutions reach some 60 ms into it, and would tell the encoder what it is asked to guess."""
    config = EncoderConfig(frontend="light", conv_dim=8, fbank_norm="none", stride_ms=stride, width=16, layers=1,
                           heads=2, ffn=16, positional_kernel=4, positional_groups=2)
    encoder = Encoder(config).initialise(0).eval()
    wave = waves(1, 16_000)
    mask = torch.zeros(1, config.grid.frames(16_000), dtype=torch.bool)
    mask[:, 10:16] = True
    hop = config.grid.hop
    changed = wave.clone()
    changed[:, 10 * hop + 240:16 * hop] = waves(1, 6 * hop - 240, seed=1)  # the window before them ends 15 ms inside
    with torch.no_grad():
        one, other = (encoder(w, None, mask, layers=True) for w in (wave, changed))
        heard = encoder(wave, None).features - encoder(changed, None).features
    assert (heard.abs().amax(-1) > 0)[~mask].sum() >= 2
    assert torch.equal(one.layers[0], other.layers[0])
    assert torch.equal(one.last, other.last)
    assert torch.equal(encoder(wave, None, torch.zeros_like(mask)).features, encoder(wave, None).features)


@pytest.mark.parametrize("stride", [20, 40])
def test_what_is_to_be_guessed_is_not_what_the_mask_left_of_it(stride):
    """wav2vec 2.0 quantises the features of masked frames: with their mels at zero they knew nothing of the audio."""
    config = EncoderConfig(frontend="light", conv_dim=8, stride_ms=stride, width=16, layers=1, heads=2, ffn=16,
                           positional_kernel=4, positional_groups=2)
    encoder = Encoder(config).initialise(0).eval()
    wave, lengths = waves(2, 16_000), torch.tensor([16_000, 9_000])
    mask = torch.zeros(2, config.grid.frames(16_000), dtype=torch.bool)
    mask[:, 3:9] = True
    with torch.no_grad():
        plain = encoder(wave, lengths)
        hidden, whole = (encoder(wave, lengths, mask, whole_features=whole) for whole in (False, True))
    assert torch.equal(whole.features, plain.features)
    assert not torch.equal(hidden.features, plain.features)
    assert torch.equal(whole.last, hidden.last)
