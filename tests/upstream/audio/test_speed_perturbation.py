"""Speed perturbation: lengths, pitch, and what is left alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.audio.speed import length_at, played


def test_a_tone_played_faster_is_shorter_and_higher():
    tone = np.sin(2 * np.pi * 400 * np.arange(16_000) / 16_000).astype(np.float32)
    faster = played(tone, 1.25)
    assert len(faster) == length_at(16_000, 1.25) == 12_800
    expected = np.sin(2 * np.pi * 500 * np.arange(12_800) / 16_000)
    np.testing.assert_allclose(faster[400:-400], expected[400:-400], atol=2e-3)


def test_at_its_own_speed_a_recording_is_the_same_to_the_bit():
    wave = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert played(wave, 1.0) is wave


@given(st.integers(0, 3000), st.sampled_from([0.5, 0.9, 0.95, 1.05, 1.1, 2.0]))
def test_the_length_is_what_it_says(samples, speed):
    wave = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    found = played(wave, speed)
    assert found.dtype == np.float32
    assert len(found) == length_at(samples, speed)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_slower_is_longer(speed):
    assert (length_at(16_000, speed) > 16_000) == (speed < 1)
