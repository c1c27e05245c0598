"""The loss scale, against torch's own and by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from upstream.errors import UsageError
from upstream.training.precision import FIRST_SCALE, GROW_AFTER, LossScale, autocast


@given(st.lists(st.booleans(), min_size=1, max_size=16), st.integers(0, GROW_AFTER))
def test_the_scale_moves_as_torchs_does(finite, head_start):
    """As far as 1, that is after 16 overflows, where ours stays."""
    theirs = torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE, growth_interval=GROW_AFTER)
    weight = nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([weight], lr=0.0)
    ours = LossScale("fp16", {"value": FIRST_SCALE, "finite": head_start})
    theirs.scale(torch.ones(1))  # it makes its state when first used
    theirs._growth_tracker.fill_(head_start)
    for good in finite:
        weight.grad = torch.tensor([1.0 if good else math.inf])
        theirs.step(optimiser)
        theirs.update()
        ours.update(good)
        assert ours.value == theirs.get_scale()


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_other_precisions_need_no_scale(precision):
    scale = LossScale(precision)
    for finite in (True, False, True):
        scale.update(finite)
    assert scale.value == 1
    assert not scale.may_fall


def test_a_precision_that_is_none_is_refused():
    """`fp32` computed in bf16."""
    with pytest.raises(UsageError, match="precision='fp32': expected one of bf16, fp16, float32"):
        autocast(torch.device("cpu"), "fp32")


def test_gradients_are_divided_by_the_scale_once():
    scale = LossScale("fp16", {"value": 8.0, "finite": 0})
    weight, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([8.0, 16.0])
    scale.unscale([weight, unused])
    assert weight.grad.tolist() == [1.0, 2.0]
    assert unused.grad is None


def test_a_state_comes_back():
    scale = LossScale("fp16")
    scale.update(False)
    scale.update(True)
    again = LossScale("fp16", scale.state)
    assert (again.value, again.state) == (FIRST_SCALE / 2, {"value": FIRST_SCALE / 2, "finite": 1})


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16),
                                                  ("float32", torch.float32)])
def test_matrix_products_run_in_the_precision_asked_for(precision, dtype):
    with autocast(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_scale_of_one_cannot_fall_so_an_overflow_is_trouble():
    assert LossScale("fp16", {"value": 2.0, "finite": 0}).may_fall
    assert not LossScale("fp16", {"value": 1.0, "finite": 0}).may_fall


def test_the_scale_doubles_after_so_many_finite_updates_in_a_row_and_counts_anew():
    scale = LossScale("fp16", {"value": 8.0, "finite": GROW_AFTER - 2})
    found = []
    for finite in (True, True, True, False):
        scale.update(finite)
        found.append((scale.value, scale.state["finite"]))
    assert found == [(8, GROW_AFTER - 1), (16, 0), (16, 1), (8, 0)]


def test_the_scale_falls_to_one_and_no_lower():
    """Below it float16 would lose small gradients, and what overflows at 1 is no matter of the scale."""
    scale = LossScale("fp16", {"value": 2.0, "finite": 0})
    found = []
    for _ in range(3):
        scale.update(False)
        found.append((scale.value, scale.may_fall))
    assert found == [(1, False)] * 3
