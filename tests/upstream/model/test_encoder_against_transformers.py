"""The encoder equals `transformers.HubertModel` with the same weights, and its files load there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from upstream.model import Encoder, load_encoder, save_encoder

transformers = pytest.importorskip("transformers")

GROUP_POST: dict[str, Any] = {"conv_norm": "group", "pre_norm": False, "conv_bias": False}
LAYER_PRE: dict[str, Any] = {"conv_norm": "layer", "pre_norm": True, "conv_bias": True}
GROUP_PRE_ODD: dict[str, Any] = {"conv_norm": "group", "pre_norm": True, "conv_bias": True, "positional_kernel": 7}
LAYER_POST: dict[str, Any] = {"conv_norm": "layer", "pre_norm": False, "conv_bias": False, "heads": 2}
STYLES = [GROUP_POST, LAYER_PRE, GROUP_PRE_ODD, LAYER_POST]


@pytest.fixture(params=STYLES, ids=["group-post", "layer-pre", "group-pre-odd", "layer-post"])
def pair(request, tiny, tmp_path):
    """Our encoder, with weights that leave no term of the formulae invisible, and theirs read from its files."""
    encoder = tiny(**request.param)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    save_encoder(encoder, tmp_path, {})
    theirs, report = transformers.HubertModel.from_pretrained(tmp_path, output_loading_info=True)
    return encoder, theirs.eval(), report


def test_saved_encoder_loads_in_transformers_without_missing_or_unexpected_keys(pair):
    _, _, report = pair
    assert {name: list(keys) for name, keys in report.items() if keys} == {}


def test_every_layer_equals_transformers(pair):
    encoder, theirs, _ = pair
    waveforms = torch.randn(2, 7000, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours = encoder(waveforms, layers=True)
        expected = theirs(waveforms, output_hidden_states=True)
    for k, state in enumerate(expected.hidden_states[:-1]):
        torch.testing.assert_close(ours.layers[k], state, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(ours.last, expected.last_hidden_state, atol=2e-5, rtol=1e-5)


def test_a_padded_batch_equals_transformers_on_each_utterance_alone(pair):
    encoder, theirs, _ = pair
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([5000, 7600, 400, 3210])
    waveforms = torch.randn(4, 7600, generator=generator)  # what lies past a length is noise on purpose
    with torch.no_grad():
        ours = encoder(waveforms, lengths)
        for row, (samples, frames) in enumerate(zip(lengths.tolist(), ours.lengths.tolist())):
            expected = theirs(waveforms[row : row + 1, :samples]).last_hidden_state[0]
            assert len(expected) == frames
            torch.testing.assert_close(ours.last[row, :frames], expected, atol=1e-4, rtol=0.0)


def test_masked_frames_equal_transformers(pair):
    encoder, theirs, _ = pair
    waveforms = torch.randn(2, 7000, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(2, encoder.config.grid.frames(7000), dtype=torch.bool)
    mask[0, 3:9] = mask[1, 10:] = True
    with torch.no_grad():
        expected = theirs(waveforms, mask_time_indices=mask).last_hidden_state
        torch.testing.assert_close(encoder(waveforms, mask=mask).last, expected, atol=2e-5, rtol=1e-5)


def test_a_gradient_step_reaches_what_transformers_reads_again(tiny, tmp_path):
    """Trained weights survive the way out and back, the normalised positional convolution included."""
    encoder: Encoder = tiny().train()
    encoder(torch.randn(1, 4000)).last.square().mean().backward()
    torch.optim.SGD(encoder.parameters(), 0.1).step()
    encoder.eval()
    save_encoder(encoder, tmp_path, {})
    waveforms = torch.randn(1, 4000)
    with torch.no_grad():
        expected = encoder(waveforms).last
        theirs = transformers.HubertModel.from_pretrained(tmp_path).eval()(waveforms).last_hidden_state
        again = load_encoder(tmp_path)(waveforms).last
    assert torch.equal(again, expected)
    torch.testing.assert_close(theirs, expected, atol=2e-5, rtol=1e-5)
