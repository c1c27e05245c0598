"""wav2vec 2.0's loss equals `transformers.Wav2Vec2ForPreTraining`: same weights, masks, negatives and noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from upstream.frames import CONV_GRID
from upstream.model import Encoder, EncoderConfig
from upstream.model.contrastive import ContrastivePrediction, draw_negatives

transformers = pytest.importorskip("transformers")

CLOSE = 1e-4  # of the largest element
NORM = "wav2vec2.encoder.pos_conv_embed.conv."
RENAMED = {NORM + "parametrizations.weight.original0": NORM + "weight_g",
           NORM + "parametrizations.weight.original1": NORM + "weight_v"}


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration of both models, a batch, and what is drawn for it."""
    groups = draw(st.integers(1, 3))
    conv_norm = draw(st.sampled_from(["group", "layer"]))
    # With a group norm transformers' statistics see the padding; ours do not, so such a batch is not padded here.
    frames = draw(st.lists(st.integers(9, 30), min_size=1, max_size=3))
    samples = [CONV_GRID.samples(n) + draw(st.integers(0, 319)) for n in frames]
    if conv_norm == "group":
        frames, samples = [frames[0]] * len(frames), [samples[0]] * len(samples)
    return {
        "conv_norm": conv_norm, "pre_norm": draw(st.booleans()), "conv_bias": draw(st.booleans()),
        "groups": groups, "entries": draw(st.integers(2, 9)), "code_dim": groups * draw(st.integers(1, 8)),
        "final_dim": draw(st.integers(4, 12)), "temperature": draw(st.sampled_from([0.1, 0.5])),
        "diversity_weight": draw(st.sampled_from([0.0, 0.1, 2.0])), "negatives": draw(st.integers(1, 12)),
        "gumbel": draw(st.sampled_from([0.5, 1.3, 2.0])), "frames": frames, "samples": samples,
        "seed": draw(st.integers(0, 2**31)),
    }


@pytest.mark.parametrize("training", [False, True], ids=["eval", "shared noise"])
@settings(max_examples=25, deadline=None)
@given(problem=problems())
def test_losses_and_gradients_equal_transformers(training, problem):
    """In float32; gradients of biases in float64, where sums over all frames that cancel are no rounding."""
    compare(problem, training, torch.float32)
    compare(problem, training, torch.float64)


def compare(problem: dict[str, Any], training: bool, kind: torch.dtype) -> None:
    ours, theirs = models(problem)
    ours.to(kind).train(training), theirs.to(kind).train(training)
    theirs.quantizer.temperature = problem["gumbel"]
    waveforms, lengths, mask, negatives = batch(problem)
    waveforms = waveforms.to(kind)
    shape = (mask.numel(), problem["groups"], problem["entries"])
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(problem["seed"]))
    noise = -torch.log(-torch.log(uniform.clamp(1e-6, 1 - 1e-6)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "gumbel_softmax", with_noise(noise[mask.flatten()]))
        found = ours(waveforms, lengths, mask, negatives, problem["gumbel"])
        patch.setattr(torch.nn.functional, "gumbel_softmax", with_noise(noise))
        expected = theirs(waveforms, attention_mask=attention(waveforms, lengths), mask_time_indices=mask,
                          sampled_negative_indices=flat_negatives(mask, negatives))
    count = int(mask.sum())
    assert found.count == count
    close(found.total * count, expected.loss)
    close(found.contrastive * count, expected.contrastive_loss)
    close((1 - found.diversity) * count, count - expected.diversity_loss)  # a difference that may vanish

    (found.total * count).backward()
    expected.loss.backward()
    # Zero in exact arithmetic: a constant added to all keys, or to what a norm takes the mean from, changes nothing.
    nothing = ("k_proj.bias", *(["conv_layers.0.conv.bias"] if problem["conv_norm"] == "group" else []))
    compared = 0
    for name, parameter in theirs.named_parameters():
        if name.endswith(nothing):
            continue
        gradient = ours.get_parameter(our_name(name)).grad
        assert (gradient is None) == (parameter.grad is None), name
        if gradient is not None and (kind == torch.float64 or parameter.dim() > 1):
            close(gradient, parameter.grad, name)
            compared += 1
    assert compared > 10


def test_the_code_perplexity_of_evaluation_is_transformers(tiny):
    problem = {"conv_norm": "group", "pre_norm": False, "conv_bias": False, "groups": 2, "entries": 7, "code_dim": 8,
               "final_dim": 8, "temperature": 0.1, "diversity_weight": 0.1, "negatives": 4, "frames": [25, 25],
               "samples": [8100, 8100], "seed": 3}
    ours, theirs = models(problem)
    ours.eval(), theirs.eval()
    waveforms, _, mask, negatives = batch(problem)
    with torch.no_grad():
        found = ours(waveforms, None, mask, negatives)
        expected = theirs(waveforms, mask_time_indices=mask).codevector_perplexity
    assert 2 < found.code_perplexity.item() < 14
    close(found.code_perplexity, expected)


def models(problem: dict[str, Any]) -> tuple[ContrastivePrediction, Any]:
    """Both, with the same random weights."""
    config = EncoderConfig(
        **{name: problem[name] for name in ("conv_bias", "conv_norm", "pre_norm")}, conv_dim=16, width=24, layers=2,
        heads=2, ffn=32, positional_kernel=6, positional_groups=2, dropout=0, attention_dropout=0, input_dropout=0,
        layerdrop=0, feature_grad_mult=1.0)
    names = ("groups", "entries", "code_dim", "final_dim", "temperature", "diversity_weight")
    ours = ContrastivePrediction(Encoder(config), **{name: problem[name] for name in names}, feature_penalty=0,
                                 feature_dropout=0)
    theirs = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(
        conv_dim=[16] * 7, conv_bias=config.conv_bias, feat_extract_norm=config.conv_norm, hidden_size=24,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, do_stable_layer_norm=config.pre_norm,
        num_conv_pos_embeddings=6, num_conv_pos_embedding_groups=2, hidden_dropout=0, attention_dropout=0,
        feat_proj_dropout=0, layerdrop=0, activation_dropout=0, feat_quantizer_dropout=0, apply_spec_augment=True,
        num_codevectors_per_group=problem["entries"], num_codevector_groups=problem["groups"],
        codevector_dim=problem["code_dim"], proj_codevector_dim=problem["final_dim"],
        contrastive_logits_temperature=problem["temperature"], diversity_loss_weight=problem["diversity_weight"]))
    ours.initialise(problem["seed"])
    generator = torch.Generator().manual_seed(problem["seed"])
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    weights = {name: ours.state_dict()[our_name(name)] for name in theirs.state_dict()}
    assert len(weights) == len(ours.state_dict())
    theirs.load_state_dict(weights)
    # They tell a negative with the very same codes by its projected vector, we by its codes. A matrix product rounds
    # equal rows unequally now and then, and such a negative would stay in.
    project = theirs.project_q
    project.forward = lambda frames: (frames[..., None, :] * project.weight).sum(-1) + project.bias
    return ours, theirs


def our_name(name: str) -> str:
    """A name of `transformers` in ours."""
    name = RENAMED.get(name, name)
    return "encoder." + name.removeprefix("wav2vec2.") if name.startswith("wav2vec2.") else name


def batch(problem: dict[str, Any]) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Waveforms, lengths (None where nothing is padded), mask and negatives."""
    rng = np.random.default_rng(problem["seed"])
    lengths = torch.tensor(problem["samples"])
    waveforms = torch.from_numpy(rng.standard_normal((len(lengths), int(lengths.max()))).astype(np.float32))
    waveforms[torch.arange(waveforms.shape[1]) >= lengths[:, None]] = 0
    mask = np.zeros((len(lengths), max(problem["frames"])), bool)
    for row, frames in zip(mask, problem["frames"]):
        row[rng.permutation(frames)[: rng.integers(2, frames)]] = True
    rngs = [np.random.default_rng([problem["seed"], row]) for row in range(len(mask))]
    negatives = draw_negatives(rngs, mask.sum(1).tolist(), problem["negatives"])
    padded = len(set(problem["samples"])) > 1
    return waveforms, lengths if padded else None, torch.from_numpy(mask), torch.from_numpy(negatives)


def attention(waveforms: Tensor, lengths: Tensor | None) -> Tensor | None:
    return None if lengths is None else (torch.arange(waveforms.shape[1]) < lengths[:, None]).long()


def flat_negatives(mask: Tensor, negatives: Tensor) -> Tensor:
    """The same negatives as transformers numbers them: (B, T, K) places among all B * T frames."""
    places = mask.flatten().nonzero()[:, 0]
    table = torch.zeros(mask.numel(), negatives.shape[1], dtype=torch.int64)
    table[places] = places[negatives]
    return table.view(*mask.shape, -1)


def with_noise(noise: Tensor) -> Any:
    """`gumbel_softmax` whose noise is given."""

    def gumbel_softmax(logits: Tensor, tau: float, hard: bool) -> Tensor:
        assert hard
        soft = ((logits + noise.view(logits.shape)) / tau).softmax(-1)
        best = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return best - soft.detach() + soft

    return gumbel_softmax


def close(found: Tensor, expected: Tensor, what: str = "") -> None:
    assert (found - expected).abs().max() <= CLOSE * expected.abs().max() + 1e-7, what
