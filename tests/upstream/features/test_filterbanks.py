"""MFCC and log-mel features equal Kaldi's as torchaudio computes them, and do not care about batches."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import InputError
from upstream.features import log_mel, mfcc
from upstream.frames import CONV_GRID, KALDI_GRID
from upstream.model.windows import LOG_FLOOR, log_filterbank, mel_filters

NAMES = ("noise", "chirp", "speechy")
# Of the reference's own float32 run against its float64 run the worst is 8.4e-4, where mel bins of the chirp are empty.
TOLERANCE = {"noise": 2e-4, "chirp": 1.5e-3, "speechy": 4e-4}


@pytest.fixture(scope="module")
def reference(oracles):
    return np.load(oracles / "mfcc" / "mfcc.npz")


def wave(reference, name):
    return torch.from_numpy(reference[f"{name}_pcm16"].astype(np.float32) / 32768)


@pytest.mark.parametrize("name", NAMES)
def test_mfcc_equal_the_reference(reference, oracles, name):
    found = mfcc(wave(reference, name))
    expected = torch.from_numpy(reference[f"{name}_features"])
    assert found.dtype == torch.float32
    assert len(found) == json.loads((oracles / "mfcc" / "meta.json").read_text())[name]["frames"]
    torch.testing.assert_close(found, expected, atol=TOLERANCE[name], rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_log_mel_energies_before_the_cosine_transform_equal_the_reference(reference, name):
    found = log_filterbank(wave(reference, name)[None], 23)[0]
    torch.testing.assert_close(found, torch.from_numpy(reference[f"{name}_log_mel"]), atol=TOLERANCE[name], rtol=0)


def test_mel_filters_equal_the_reference(reference):
    np.testing.assert_allclose(mel_filters(23).numpy(), reference["mel_filterbank"], atol=5e-6)


def test_log_mel_equals_a_slow_computation_in_double_precision():
    samples = np.random.default_rng(0).normal(0, 0.1, 3000) + 0.05  # an offset, which each window must lose
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    expected = []
    for start in range(0, 3000 - 399, 160):
        frame = samples[start:start + 400] - samples[start:start + 400].mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, 512)[:256]) ** 2
        expected.append(np.log(np.maximum(mel_filters(80).numpy() @ power, LOG_FLOOR)))
    found = log_mel(torch.from_numpy(samples).float()[None])[0]
    np.testing.assert_allclose(found.numpy(), np.array(expected), atol=2e-3)
    assert np.abs(found.numpy() - np.array(expected)).mean() < 1e-5


def test_a_tone_lands_in_the_filter_around_it():
    """1 kHz is 1127 ln(1 + 1000/700) = 1000.0 mel; of 80 filters between 31.7 and 2840 mel the 28th is centred at
    31.7 + 28 * 34.67 = 1002.5 mel, nearest to it. Counting from 0 that is number 27."""
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)
    assert (log_mel(tone[None])[0].argmax(1) == 27).all()


def test_silence_is_the_floor():
    assert (log_mel(torch.zeros(1, 1000)) == np.float32(np.log(LOG_FLOOR))).all()


@given(lengths=st.lists(st.integers(400, 60_000), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_a_row_of_a_batch_equals_the_row_alone(lengths, seed):
    longest = max(lengths)
    batch = torch.randn(len(lengths), longest, generator=torch.Generator().manual_seed(seed)) * 0.1
    together = log_mel(batch)
    assert together.shape == (len(lengths), KALDI_GRID.frames(longest), 80)
    for row, length in enumerate(lengths):
        alone = log_mel(batch[row:row + 1, :length])[0]
        torch.testing.assert_close(together[row, :len(alone)], alone, atol=1e-3, rtol=0)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_too_short_a_waveform_has_no_windows(samples):
    assert log_mel(torch.zeros(2, samples)).shape == (2, 0, 80)
    assert mfcc(torch.zeros(samples)).shape == (0, 39)


def test_even_windows_are_as_many_as_encoder_frames_for_every_length():
    for samples in range(20_000):
        assert (KALDI_GRID.frames(samples) + 1) // 2 == CONV_GRID.frames(samples), samples


def test_even_windows_have_the_centres_of_encoder_frames():
    for frame in range(100):
        assert KALDI_GRID.centre_seconds(2 * frame) == pytest.approx(CONV_GRID.centre_seconds(frame), abs=1e-9)


def test_features_are_float32_under_autocast():
    samples = torch.randn(1, 8000) * 0.1
    with torch.autocast("cpu", torch.bfloat16):
        found = log_mel(samples)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, log_mel(samples))


def test_features_first_computed_in_inference_mode_serve_in_training():
    with torch.inference_mode():
        log_filterbank(torch.randn(1, 800), 17)
    weight = torch.nn.Parameter(torch.ones(17))
    (log_filterbank(torch.randn(1, 800), 17) * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(("features", "wave"), [
    (mfcc, np.zeros(800, np.float32)), (mfcc, torch.zeros(1, 800)), (mfcc, torch.zeros(800, dtype=torch.int16)),
    (mfcc, None), (log_mel, np.zeros((1, 800), np.float32)), (log_mel, torch.zeros(800)),
    (log_mel, torch.zeros(1, 2, 800)), (log_mel, torch.zeros(1, 800, dtype=torch.int16))])
def test_what_is_no_waveform_is_refused(features, wave):
    """16-bit samples gave features of another scale, and a batch `too many values to unpack (expected 2)`."""
    wanted = r"\(samples,\)" if features is mfcc else r"\(batch, samples\)"
    with pytest.raises(InputError, match=rf"^waveforms of (type|shape) .*: expected (a tensor )?{wanted}"):
        features(wave)
