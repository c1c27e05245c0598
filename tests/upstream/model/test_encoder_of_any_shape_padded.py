"""Encoders of any family and shape in padded batches equal transformers': its batches under `padding="transformers"`,
each utterance alone under our own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import ATTENTIONS, CLOSE, FAMILIES, SAMPLES, SEEDS, assert_same_backward, far, noise, pair_with_transformers

pytest.importorskip("transformers")


@pytest.mark.parametrize(("family", "attention"), ATTENTIONS)
@settings(max_examples=10)
@given(st.data(), st.lists(SAMPLES, min_size=2, max_size=3), SEEDS)
def test_padded_batches_equal_transformers_with_its_attention_mask(family, attention, data, lengths, seed):
    ours, theirs = pair_with_transformers(data, family, attention, seed)
    longest = max(lengths)
    attended = torch.arange(longest) < torch.tensor(lengths)[:, None]
    waveforms = noise(len(lengths), longest, seed) * attended
    found = ours(waveforms, torch.tensor(lengths), layers=True, padding="transformers")
    expected = theirs(waveforms, attention_mask=attended.long(), output_hidden_states=True)
    inside = torch.arange(found.last.shape[1]) < found.lengths[:, None]
    for k, state in enumerate(expected.hidden_states[:-1]):
        assert far(found.layers[k][inside], state[inside]) < CLOSE, k
    assert far(found.last[inside], expected.last_hidden_state[inside]) < CLOSE
    assert_same_backward(ours, theirs, (found.last[inside], expected.last_hidden_state[inside]))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10)
@given(st.data(), st.lists(SAMPLES, min_size=2, max_size=3), st.integers(0, 1000), SEEDS)
def test_our_own_padding_equals_transformers_on_each_utterance_alone(family, data, lengths, surplus, seed):
    """Layers, and the sum of the gradients."""
    ours, theirs = pair_with_transformers(data, family, "eager", seed)
    waveforms = noise(len(lengths), max(lengths) + surplus, seed)  # noise past the lengths too
    found = ours(waveforms, torch.tensor(lengths), layers=True)
    pairs = []
    for row, (samples, frames) in enumerate(zip(lengths, found.lengths.tolist())):
        alone = theirs(waveforms[row:row + 1, :samples], output_hidden_states=True)
        for k, state in enumerate(alone.hidden_states[:-1]):
            assert far(found.layers[k][row, :frames], state[0]) < CLOSE, k
        assert far(found.last[row, :frames], alone.last_hidden_state[0]) < CLOSE
        pairs.append((found.last[row, :frames], alone.last_hidden_state[0]))
    assert_same_backward(ours, theirs, *pairs)
