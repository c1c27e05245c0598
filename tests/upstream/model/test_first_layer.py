"""The first layer a piece at a time equals the product, the shift and GELU one after another."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from upstream.model import first_layer as module
from upstream.model import frontend
from upstream.model.first_layer import first_layer

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(deadline=None, max_examples=40)
@given(batch=st.integers(1, 3), rows=st.integers(1, 40), kernel=st.integers(1, 11), channels=st.integers(1, 20),
       piece=st.integers(1, 50), seed=st.integers(0, 99))
def test_it_equals_the_plain_operations_forward_and_backward(batch, rows, kernel, channels, piece, seed):
    generator = torch.Generator().manual_seed(seed)
    windows = torch.randn(batch, rows, kernel, generator=generator, dtype=torch.float64)
    matrices = torch.randn(batch, kernel, channels, generator=generator, dtype=torch.float64, requires_grad=True)
    shifts = torch.randn(batch, channels, generator=generator, dtype=torch.float64, requires_grad=True)
    pull = torch.randn(batch, rows, channels, generator=generator, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS", piece)
        found = first_layer(windows, matrices, shifts)
        gradients = torch.autograd.grad(found, [matrices, shifts], pull)
    expected = F.gelu(windows @ matrices + shifts[:, None])
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, [matrices, shifts], pull), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


def test_by_hand():
    """One window [2], weight 3, shift -6: GELU(0) = 0, and its slope there is 1/2."""
    weight, shift = torch.tensor([[[3.0]]], requires_grad=True), torch.tensor([[-6.0]], requires_grad=True)
    found = first_layer(torch.tensor([[[2.0]]]), weight, shift)
    found.sum().backward()
    assert (found.item(), weight.grad.item(), shift.grad.item()) == (0.0, 1.0, 0.5)


def test_in_16_bits_sums_over_pieces_are_as_exact_as_over_all_rows():
    """Sums of 16 bits would lose what a piece adds to many before it."""
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(1, 40 * module.ROWS, 2, generator=generator).bfloat16()
    matrices = torch.randn(1, 2, 3, generator=generator).bfloat16().requires_grad_()
    shifts = torch.ones(1, 3).bfloat16().requires_grad_()
    first_layer(windows, matrices, shifts).float().sum().backward()
    exact = [t.detach().double().requires_grad_() for t in (matrices, shifts)]
    F.gelu(windows.double() @ exact[0] + exact[1][:, None]).sum().backward()
    for ours, theirs in zip((matrices, shifts), exact):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=2e-2, atol=0.0)


def test_waveforms_that_want_a_gradient_get_it(tiny, monkeypatch):
    """By the plain operations: the pieces have none for what they read."""
    calls = []
    monkeypatch.setattr(frontend, "first_layer", lambda *a: calls.append(1) or first_layer(*a))
    encoder, waveforms = tiny(frontend="conv", feature_grad_mult=1.0), torch.randn(2, 3000)
    plain = encoder(waveforms).last
    assert calls == [1]
    asking = waveforms.clone().requires_grad_()
    found = encoder(asking).last
    found.sum().backward()
    assert calls == [1]
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-4)
    assert asking.grad.abs().sum() > 0
