"""Encoders of any family and shape equal transformers': every layer and the gradient of every parameter, with
and without a mask, with weights copied both ways."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import ATTENTIONS, CLOSE, FAMILIES, SAMPLES, SEEDS, assert_same_backward, far, noise, pair_with_transformers

pytest.importorskip("transformers")


@pytest.mark.parametrize(("family", "attention"), ATTENTIONS)
@settings(max_examples=15)
@given(st.data(), SAMPLES, SEEDS)
def test_every_layer_and_gradient_equals_transformers(family, attention, data, samples, seed):
    ours, theirs = pair_with_transformers(data, family, attention, seed)
    waveforms = noise(2, samples, seed)
    found = ours(waveforms, layers=True)
    expected = theirs(waveforms, output_hidden_states=True)
    for k, state in enumerate(expected.hidden_states[:-1]):  # the last has the final norm or not, by version
        assert far(found.layers[k], state) < CLOSE, k
    assert far(found.last, expected.last_hidden_state) < CLOSE
    assert_same_backward(ours, theirs, (found.last, expected.last_hidden_state),
                         (found.layers[ours.config.layers // 2], expected.hidden_states[ours.config.layers // 2]))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10)
@given(st.data(), SAMPLES, SEEDS)
def test_masked_frames_equal_transformers(family, data, samples, seed):
    ours, theirs = pair_with_transformers(data, family, "eager", seed)
    waveforms = noise(2, samples, seed)
    mask = noise(2, ours.config.grid.frames(samples), seed + 1) > 0
    mask[0, 0], mask[0, 1] = True, False  # some frame of each kind
    found, expected = ours(waveforms, mask=mask), theirs(waveforms, mask_time_indices=mask)
    assert far(found.last, expected.last_hidden_state) < CLOSE
    assert_same_backward(ours, theirs, (found.last, expected.last_hidden_state))
    assert far(ours.masked_spec_embed.grad, theirs.masked_spec_embed.grad) < CLOSE
