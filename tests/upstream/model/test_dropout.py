"""Dropout by bit masks, and attention with it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from upstream.model.attention import attend
from upstream.model.dropout import Dropout, dropout, keep_mask, masked

KINDS = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chance", [0.05, 0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_asked(kind, chance):
    torch.manual_seed(0)
    count = 400_000
    found = dropout(torch.ones(count, dtype=kind), chance)
    kept = int((found != 0).sum())
    assert abs(kept - count * (1 - chance)) < 4 * math.sqrt(count * chance * (1 - chance))
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / (1 - chance)).to(kind).item()}


def test_neighbours_are_dropped_independently():
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(1_000_000), 0.1) == 0).float()
    for distance in (1, 2, 3, 4, 8):
        both = float((dropped[:-distance] * dropped[distance:]).mean())
        assert abs(both - 0.01) < 5 * math.sqrt(0.01 / 1_000_000)


def test_the_default_generator_decides():
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([dropout(torch.ones(1001), 0.3), dropout(torch.ones(1001), 0.3)])

    assert torch.equal(drawn(5), drawn(5))
    assert not torch.equal(drawn(5), drawn(6))
    assert not torch.equal(*drawn(5).chunk(2))


def test_the_gradient_passes_where_values_did():
    torch.manual_seed(0)
    x = torch.randn(5, 7, requires_grad=True)
    y = dropout(x.t(), 0.4)  # not contiguous
    y.backward(torch.ones(7, 5))
    torch.testing.assert_close(x.grad * x, y.t())


def test_it_does_nothing_in_evaluation_or_without_a_chance():
    x = torch.randn(9)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x
    assert (Dropout(0.5).train()(torch.ones(1000)) == 0).any()


def test_infinities_are_dropped_too():
    """A product with 0 would make them NaN."""
    torch.manual_seed(0)
    assert not dropout(torch.full((100,), float("inf")), 0.5).isnan().any()


def test_every_dropout_has_something_to_drop(tiny):
    """Where all is dropped, nothing is left but what comes behind it."""
    encoder, everything = copy.deepcopy(tiny()), torch.nn.Threshold(torch.inf, 0.0)
    waves = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))  # 9 frames
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1)  # or biases would be nothing, too
        encoder.encoder.dropout = everything
        output = encoder(waves, layers=True)
        assert not output.layers[0].any()
        feed_forward, x = encoder.encoder.layers[0].feed_forward, torch.randn(2, 9, 24)
        feed_forward.intermediate_dropout = everything
        assert torch.equal(feed_forward(x), feed_forward.output_dense.bias.expand(2, 9, 24))
        feed_forward.output_dropout = encoder.feature_projection.dropout = everything
        assert not feed_forward(x).any()
        assert not encoder.feature_projection(output.features).any()


@pytest.mark.parametrize("frames", [1, 7, 33])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("chance", [0.0, 0.2])
def test_attention_equals_the_formula_with_the_same_mask(frames, biased, chance):
    """float32 with dropout, bfloat16 without: the kinds that do not go to torch's kernel."""
    kind, tolerance = (torch.float32, 1e-5) if chance else (torch.bfloat16, 3e-2)
    torch.manual_seed(frames)
    q, k, v = (torch.randn(2, 3, frames, 4).to(kind).requires_grad_() for _ in range(3))
    bias = torch.zeros(2, 1, 1, frames, dtype=kind)
    if biased and frames > 1:
        bias[1, ..., frames // 2:] = -math.inf
    torch.manual_seed(8)
    found = attend(q, k, v, bias if biased else None, chance)
    torch.manual_seed(8)
    weights = (q.float() @ k.float().transpose(-1, -2) + bias.float()).softmax(-1)
    kept = masked(torch.ones(6, frames, frames), keep_mask(torch.ones(6, frames, frames), chance)).view(weights.shape)
    expected = (weights * kept / (1 - chance)) @ v.float()
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)
    pull = torch.randn(expected.shape)
    ours = torch.autograd.grad(found, (q, k, v), pull.to(kind))
    theirs = torch.autograd.grad(expected, (q, k, v), pull)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.float(), b.float(), atol=2 * tolerance, rtol=2 * tolerance)


def test_without_dropout_it_equals_torchs_kernel():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 40, 8) for _ in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    assert torch.equal(attend(q, k, v, None, 0.0), expected)
    half = attend(*(x.bfloat16() for x in (q, k, v)), None, 0.0)
    torch.testing.assert_close(half.float(), expected, atol=3e-2, rtol=3e-2)


def test_autocast_leaves_attention_in_its_dtype():
    """Found slow: under autocast the softmax, and all after it, ran in float32."""
    q = torch.randn(1, 2, 9, 4).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = attend(q, q, q, None, 0.1)
    assert y.dtype == torch.bfloat16
    assert {t.dtype for t in y._base.grad_fn.saved_tensors} == {torch.bfloat16}
