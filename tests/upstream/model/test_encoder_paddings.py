"""Padded batches as fairseq and transformers treat them, equal to theirs; and how the exact way differs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upstream.errors import UsageError
from upstream.model import Encoder, EncoderConfig, save_encoder
from upstream.model.padding import fairseq_counts

CLOSE = 1e-4  # largest difference over the largest value of the tensor


def far(a, b):
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_every_layer_of_a_padded_batch_equals_fairseq(fairseq, oracles, masked):
    expected = np.load(oracles / "hubert" / ("large" if fairseq.config.pre_norm else "base") / "padded.npz")
    mask = torch.from_numpy(fairseq.inputs["mask_indices"]) if masked else None
    with torch.no_grad():
        output = fairseq.encoder()(fairseq.waveforms, fairseq.lengths, mask, layers=True, padding="fairseq")
    name = "masked" if masked else "plain"
    assert output.lengths.tolist() == (~expected["frame_padding_mask"]).sum(1).tolist()
    for k in range(1, 5):  # every frame, padded ones too
        assert far(output.layers[k], torch.from_numpy(expected[f"{name}_layer{k}"])) < CLOSE
    assert far(output.last, torch.from_numpy(expected[f"{name}_final"])) < CLOSE


def test_fairseq_lets_a_padded_frame_through():
    # By hand: 16,000 samples and 49 frames make chunks of 326; 9,876 samples fill 30.3 of them.
    assert fairseq_counts(torch.tensor([16000, 12345, 9876]), 16000, 49).tolist() == [49, 38, 31]
    assert EncoderConfig().grid.frames(9876) == 30


@given(st.integers(400, 30_000), st.data())
def test_fairseqs_frames_are_those_of_its_own_reshape(samples, data):
    lengths = data.draw(st.lists(st.integers(1, samples), min_size=1, max_size=4))
    frames = EncoderConfig().grid.frames(samples)
    padding = torch.arange(samples)[None] >= torch.tensor(lengths)[:, None]
    extra = padding.size(1) % frames  # forward_padding_mask, line by line
    trimmed = padding[:, :-extra] if extra > 0 else padding
    theirs = trimmed.view(len(lengths), frames, -1).all(-1)
    assert fairseq_counts(torch.tensor(lengths), samples, frames).tolist() == (~theirs).sum(1).tolist()


STYLES = {
    "group-post": {"conv_norm": "group", "pre_norm": False, "conv_bias": False},
    "layer-pre": {"conv_norm": "layer", "pre_norm": True, "conv_bias": True},
    "group-pre": {"conv_norm": "group", "pre_norm": True, "conv_bias": True, "positional_kernel": 7},
}


@pytest.fixture(scope="module", params=["HubertModel", "Wav2Vec2Model"])
def theirs_of(request, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, request.param)

    def load(encoder):
        folder = tmp_path_factory.mktemp("encoder")
        save_encoder(encoder, folder, {})
        return kind.from_pretrained(folder, attn_implementation="eager").eval()

    return load


@pytest.mark.filterwarnings("ignore:You are using a model of type")
@pytest.mark.parametrize("style", STYLES)
def test_a_padded_batch_equals_transformers_with_its_attention_mask(tiny, theirs_of, style):
    encoder: Encoder = tiny(**STYLES[style], feature_grad_mult=1.0)  # transformers scales no gradient
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    theirs = theirs_of(encoder)
    waveforms = torch.randn(3, 7600, generator=generator)
    lengths = torch.tensor([7600, 5000, 3210])
    attention = (torch.arange(7600) < lengths[:, None]).long()
    waveforms = waveforms * attention
    ours = encoder(waveforms, lengths, layers=True, padding="transformers")
    expected = theirs(waveforms, attention_mask=attention, output_hidden_states=True)
    inside = torch.arange(ours.last.shape[1]) < ours.lengths[:, None]
    for k, state in enumerate(expected.hidden_states[:-1]):
        assert far(ours.layers[k][inside], state[inside]) < CLOSE
    assert far(ours.last[inside], expected.last_hidden_state[inside]) < CLOSE

    ours.last[inside].square().sum().backward()
    expected.last_hidden_state[inside].square().sum().backward()
    gradients = {name.replace("parametrizations.weight.original0", "weight_g")
                 .replace("parametrizations.weight.original1", "weight_v"): p.grad
                 for name, p in theirs.named_parameters()}
    for name, parameter in encoder.named_parameters():
        rounding = "k_proj.bias" in name or (style == "group-pre" and name.endswith("conv_layers.0.conv.bias"))
        if parameter.grad is None or rounding:
            continue
        assert far(parameter.grad, gradients[name]) < CLOSE, name


@settings(max_examples=10)
@given(st.lists(st.integers(400, 6000), min_size=2, max_size=4), st.sampled_from(["fairseq", "transformers"]))
def test_a_front_end_without_statistics_over_time_gives_the_same_frames_in_every_way(lengths, padding):
    config = EncoderConfig(conv_dim=8, width=16, layers=1, heads=2, ffn=32, positional_kernel=4, positional_groups=2,
                           conv_norm="layer", pre_norm=True)
    encoder = Encoder(config).initialise(0).eval()
    waveforms = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, other = (encoder(waveforms, torch.tensor(lengths), padding=p) for p in ("exact", padding))
    if padding == "transformers":
        assert other.lengths.tolist() == exact.lengths.tolist()
    for row, frames in enumerate(exact.lengths.tolist()):
        if int(other.lengths[row]) == frames:
            assert far(other.last[row, :frames], exact.last[row, :frames]) < CLOSE


def test_the_group_norm_of_the_others_hears_the_padding(tiny):
    encoder = tiny()
    waveforms = torch.randn(2, 6000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([6000, 2000])
    with torch.no_grad():
        alone = encoder(waveforms[1:, :2000]).last[0]
        exact, others = (encoder(waveforms, lengths, padding=p).last[1, :len(alone)] for p in ("exact", "transformers"))
    assert far(exact, alone) < CLOSE
    assert far(others, alone) > 100 * CLOSE


def test_another_padding_is_refused(tiny):
    with pytest.raises(UsageError, match="padding='zeros': expected one of exact, fairseq, transformers"):
        tiny()(torch.randn(1, 4000), padding="zeros")


@pytest.mark.parametrize(("family", "frames"), [("hubert", 31), ("wav2vec2", 30)])
def test_fairseq_cuts_chunks_out_of_some_families_only(tiny, family, frames):
    lengths = torch.tensor([16_000, 9876])  # of the second fairseq takes 31 frames for real, the convolutions give 30
    with torch.no_grad():
        output = tiny(family=family)(torch.randn(2, 16_000), lengths, padding="fairseq")
    assert output.lengths.tolist() == [49, frames]
