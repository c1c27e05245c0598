import json
import math
import re
from itertools import pairwise

import pytest
import torch
from torch import nn

from upstream.training.optimiser import (
    OptimiserRecipe,
    ParameterGroup,
    build_adamw,
    clip_gradients,
    cut_short,
    learning_rate,
    set_rates,
)


def test_worked_example_of_the_linear_schedule():
    # peak 1, warm-up 4 of 10 updates. Made so far 0..9: 0, .25, .5, .75, 1, then down by 1/6 a step
    recipe = OptimiserRecipe(peak_rate=1.0, warmup_updates=4)
    found = [learning_rate(recipe, u, 10) for u in range(1, 12)]
    assert found == pytest.approx([0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_worked_example_of_the_tri_stage_schedule():
    # warm-up 2, hold 2, decay over 4 updates to 1/16: a factor of 1/2 a step
    recipe = OptimiserRecipe(peak_rate=1.0, schedule="tri-stage", warmup_updates=2, hold_updates=2,
                             initial_scale=0.5, final_scale=1 / 16)
    found = [learning_rate(recipe, u, 8) for u in range(1, 10)]
    assert found == pytest.approx([0.5, 0.75, 1, 1, 1, 0.5, 0.25, 0.125, 0.0625])


def reference_recipe(case):
    if case["schedule"] == "polynomial_decay":
        return OptimiserRecipe(peak_rate=case["lr"], warmup_updates=case["warmup_updates"]), case["total_num_update"]
    return OptimiserRecipe(peak_rate=case["lr"], schedule="tri-stage", warmup_updates=case["warmup_steps"],
                           hold_updates=case["hold_steps"], decay_updates=case["decay_steps"],
                           initial_scale=case["init_lr_scale"], final_scale=case["final_lr_scale"]), case["max_update"]


def test_schedules_equal_the_reference(oracles):
    """fairseq's rate after n updates is our rate of update n + 1."""
    cases = json.loads((oracles / "training/learning_rates.json").read_text())
    ours = [c for c in cases if c.get("power", 1.0) == 1.0]  # we decay linearly only
    assert len(ours) == 6
    for case in ours:
        recipe, updates = reference_recipe(case)
        for n, rate in case["rows"]:
            assert learning_rate(recipe, n + 1, updates) == pytest.approx(rate, rel=1e-9, abs=1e-15), (case, n)


def test_groups_have_rates_of_their_own_and_wait_for_their_turn():
    head, body = nn.Linear(2, 2), nn.Linear(2, 2)
    recipe = OptimiserRecipe(peak_rate=1.0, warmup_updates=0)
    optimiser = build_adamw([ParameterGroup(list(head.parameters()), 2.0),
                             ParameterGroup(list(body.parameters()), 0.5, from_update=3)], recipe)
    assert set_rates(optimiser, recipe, 2, 10) == pytest.approx(0.9)
    assert [g["lr"] for g in optimiser.param_groups] == pytest.approx([1.8, 0.0])
    set_rates(optimiser, recipe, 3, 10)
    assert [g["lr"] for g in optimiser.param_groups] == pytest.approx([1.6, 0.4])


def test_clipping_scales_to_the_limit_and_gives_the_norm_before():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert float(clip_gradients([p], 1.0)) == pytest.approx(5.0)
    assert float(p.grad.norm()) == pytest.approx(1.0, rel=1e-5)
    p.grad = torch.tensor([3.0, 4.0])
    clip_gradients([p], 0.0)
    assert float(p.grad.norm()) == pytest.approx(5.0)


@pytest.mark.parametrize("limit", [0.0, 1.0, 4.9, 5.1, 10.0])
def test_clipping_equals_torchs(limit):
    ours, theirs = ([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
                    for _ in range(2))
    for parameters in (ours, theirs):  # the last one has no gradient
        parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    expected = nn.utils.clip_grad_norm_(theirs, limit or float("inf"))
    assert torch.equal(clip_gradients(ours, limit), expected)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours[:2], theirs[:2]))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_norm_of_many_values_is_that_of_all(kind):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(3, 5, generator=generator), torch.randn(700, 800, generator=generator).t(), torch.zeros(2)]
    parameters = [nn.Parameter(torch.zeros(g.shape, dtype=kind)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient.to(kind)
    expected = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    assert float(clip_gradients(parameters, 0.0)) == pytest.approx(expected, rel=1e-5)


def test_gradients_that_are_no_numbers_give_a_norm_that_is_none():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([float("nan"), 4.0])
    assert not torch.isfinite(clip_gradients([p], 1.0))


@pytest.mark.parametrize("values", [{"peak_rate": 0.0}, {"warmup_updates": -1}, {"beta2": 1.0}, {"clip_norm": -1.0}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        OptimiserRecipe(**values)


def test_the_rate_is_continuous_where_stages_meet():
    recipe = OptimiserRecipe(peak_rate=3e-4, schedule="tri-stage", warmup_updates=100, hold_updates=400)
    rates = [learning_rate(recipe, u, 1000) for u in range(1, 1001)]
    jumps = [abs(a - b) for a, b in pairwise(rates)]
    assert max(jumps) < 3e-4 / 90
    assert math.isclose(max(rates), 3e-4)


@pytest.mark.parametrize(("name", "value"), [
    ("final_scale", 0), ("final_scale", 1.5), ("final_scale", -0.1), ("initial_scale", -0.1), ("initial_scale", 2),
    ("epsilon", 0), ("epsilon", -1e-8), ("epsilon", math.nan), ("final_scale", math.nan),
])
def test_a_scale_or_epsilon_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}={value}"):
        OptimiserRecipe(**{name: value})


@pytest.mark.parametrize(("initial", "final"), [(0, 1e-9), (1, 1)])
def test_scales_on_the_edge_give_a_rate_for_every_update(initial, final):
    recipe = OptimiserRecipe(peak_rate=1.0, schedule="tri-stage", warmup_updates=2, initial_scale=initial,
                             final_scale=final)
    rates = [learning_rate(recipe, u, 6) for u in range(1, 8)]
    assert (rates[0], max(rates)) == (initial, 1)
    assert rates[-1] == pytest.approx(final)


def test_an_update_is_adamws_with_every_number_of_the_recipe():
    """By hand: gradient .5 from weight 2; m = .05 and v = .025 are corrected to .5 and .25, the decay comes first."""
    recipe = OptimiserRecipe(peak_rate=0.1, warmup_updates=0, beta1=0.9, beta2=0.9, epsilon=0.5, weight_decay=0.2)
    weight = nn.Parameter(torch.tensor([2.0]))
    optimiser = build_adamw([ParameterGroup([weight])], recipe)
    set_rates(optimiser, recipe, 1, 1_000_000)
    weight.grad = torch.tensor([0.5])
    optimiser.step()
    assert weight.item() == pytest.approx(2 * (1 - 0.1 * 0.2) - 0.1 * 0.5 / (0.5 + 0.5), rel=1e-5)
    [group] = optimiser.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.9), 0.5, 0.2)
    other = build_adamw([ParameterGroup([weight])], OptimiserRecipe(beta1=0.8, beta2=0.7))
    assert other.param_groups[0]["betas"] == (0.8, 0.7)


@pytest.mark.parametrize(("schedule", "warmup", "hold", "says"), [
    ("linear", 9, 0, None), ("linear", 10, 0, "never reaches its peak: .*warmup_updates=10 of training.updates=10"),
    ("tri-stage", 2, 7, None), ("tri-stage", 12, 0, "never reaches its peak"),
    ("tri-stage", 2, 8, "never falls: .*warmup_updates=2 and hold_updates=8 of training.updates=10")])
def test_a_schedule_that_a_training_is_too_short_for_is_told(schedule, warmup, hold, says):
    """`ctc-light training.updates=8000` kept a warm-up of 500 and a hold of 13,500: the rate never fell."""
    found = cut_short(OptimiserRecipe(schedule=schedule, warmup_updates=warmup, hold_updates=hold), 10)
    assert found is None if says is None else re.search(says, found)
