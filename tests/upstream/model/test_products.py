"""Products by oneDNN equal torch's, forward and backward, and are used for large float32 matrices only."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from upstream.model import products
from upstream.model.convolution import convolve
from upstream.model.products import Linear, linear, times

pytestmark = pytest.mark.usefixtures("one_thread")
HAS_ONE_DNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.fixture
def always(monkeypatch):
    """Whatever the processor and the size."""
    if not HAS_ONE_DNN:
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "LEAST", 0)
    monkeypatch.setattr(products, "one_dnn_is_faster", lambda: True)


@pytest.fixture
def counted(monkeypatch):
    calls = []
    one_dnn = products._pointwise
    monkeypatch.setattr(products, "_pointwise", lambda *arguments: calls.append(1) or one_dnn(*arguments))
    return calls


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 70), inputs=st.integers(1, 50), outputs=st.integers(1, 50), batch=st.integers(1, 3),
       biased=st.booleans(), seed=st.integers(0, 99))
def test_it_equals_torchs_linear_forward_and_backward(rows, inputs, outputs, batch, biased, seed):
    if not HAS_ONE_DNN:
        pytest.skip("this torch has no oneDNN")
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, rows, inputs, generator=generator, requires_grad=True)
    weight = torch.randn(outputs, inputs, generator=generator, requires_grad=True)
    bias = torch.randn(outputs, generator=generator, requires_grad=True) if biased else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "LEAST", 0)
        patch.setattr(products, "one_dnn_is_faster", lambda: True)
        found, given_ = linear(x, weight, bias), [t for t in (x, weight, bias) if t is not None]
        pull = torch.randn(found.shape, generator=generator)
        ours = torch.autograd.grad(found, given_, pull)
        product = times(x.detach()[0], weight.detach().t())
    doubles = [t.detach().double().requires_grad_() for t in given_]
    expected = F.linear(doubles[0], doubles[1], doubles[2] if biased else None)
    for mine, theirs in zip((found, *ours), (expected, *torch.autograd.grad(expected, doubles, pull.double()))):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(product, x.detach()[0] @ weight.detach().t(), atol=1e-4, rtol=1e-4)


def test_what_needs_no_gradient_gets_none(always):
    x, weight = torch.randn(4, 5), torch.randn(3, 5, requires_grad=True)
    linear(x, weight).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(3, 5))
    with torch.no_grad():
        assert not linear(x, weight).requires_grad


def test_a_layer_is_torchs_layer_with_the_same_names(always):
    torch.manual_seed(0)
    ours, theirs = Linear(6, 4), torch.nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_convolution_through_it_is_the_same(always):
    x, weight = torch.randn(40, 8), torch.randn(6, 8, 3)
    expected = F.conv1d(F.pad(x.t()[None], (0, 3)), weight, stride=2)[0].t()[:20]
    torch.testing.assert_close(convolve(x, weight, 2), expected, atol=1e-4, rtol=1e-4)


def test_small_products_other_types_and_autocast_stay_with_torch(monkeypatch, counted):
    monkeypatch.setattr(products, "one_dnn_is_faster", lambda: True)
    linear(torch.randn(4, 5), torch.randn(3, 5))
    monkeypatch.setattr(products, "LEAST", 0)
    linear(torch.randn(4, 5).double(), torch.randn(3, 5).double())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(4, 5), torch.randn(3, 5)).dtype == torch.bfloat16
    assert linear(torch.randn(4, 5, device="meta"), torch.randn(3, 5, device="meta")).shape == (4, 3)
    assert counted == []


def test_another_makers_processor_stays_with_torch(monkeypatch, counted):
    monkeypatch.setattr(products, "LEAST", 0)
    monkeypatch.setattr(products, "one_dnn_is_faster", lambda: False)
    linear(torch.randn(4, 5), torch.randn(3, 5))
    times(torch.randn(4, 5), torch.randn(5, 3))
    assert counted == []
