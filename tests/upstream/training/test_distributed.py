"""Ranks: 1, 2 and 4 of them give the same losses and weights, and one run can go on with another number."""

import json
from dataclasses import dataclass

import pytest
import torch
from several_ranks import on_ranks
from torch import nn

from upstream import ranks
from upstream.errors import Interrupted
from upstream.keyed import keyed_torch
from upstream.stage import run_stage
from upstream.training import distributed
from upstream.training.distributed import GradientSum
from upstream.training.loop import EVERY, Loss, TrainingRecipe, train
from upstream.training.monitor import read_metrics
from upstream.training.optimiser import OptimiserRecipe, ParameterGroup

pytestmark = pytest.mark.processes

RECIPE = TrainingRecipe(updates=12, log_every=1, validate_every=6, save_every=6, precision="float32", batch_seconds=4,
                        micro_batch_seconds=1, optimiser=OptimiserRecipe(peak_rate=0.05, warmup_updates=2, clip_norm=1))


@dataclass
class Batch:
    update: int
    number: int
    x: torch.Tensor
    weight: float
    seconds: float = 1.0
    ids: tuple[str, ...] = ("u1",)


class Toy:
    """Float64 regression with dropout, uneven weights, and a layer that only some micro-batches pass through."""

    def __init__(self, stop_at=None):
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.Linear(8, 1), "seldom": nn.Linear(4, 1),
                                    "never": nn.Linear(4, 1)}).double()
        self.stop_at = stop_at

    better = "norm"

    def groups(self):
        return [ParameterGroup(list(self.model.parameters()))]

    def updates(self, first, share=EVERY):
        update = first
        while True:
            yield [self.batch(update, n) for n in range(4)][share]
            update += 1

    def batch(self, update, number):
        rng = keyed_torch(0, "toy", update, number)
        return Batch(update, number, torch.randn(3 + number, 4, generator=rng, dtype=torch.float64), 3.0 + number)

    def loss(self, batch):
        if batch.update == self.stop_at and batch.number == 3:
            import os
            import signal
            os.kill(os.getpid(), signal.SIGTERM)  # one rank is asked; all must stop after the same update
        hidden = nn.functional.dropout(self.model["a"](batch.x), 0.2)
        out = self.model["b"](hidden)
        if batch.number == 1:
            out = out + self.model["seldom"](batch.x)
        total = (out - batch.x.sum(1, keepdim=True)).square().mean()
        return Loss(total, {"loss": (total.detach() * batch.weight, batch.weight)})

    def validate(self):
        assert ranks.count() == 1, "validation is rank 0's alone"
        return {"norm": float(sum(p.detach().square().sum() for p in self.model.parameters()))}


def weights(folder, stop_at=None):
    """What a training ends with, on this rank."""
    task = Toy(stop_at)
    try:
        train(task, RECIPE, folder, seed=1, device=torch.device("cpu"))
    except Interrupted:
        return "interrupted"
    return json.dumps({k: v.tolist() for k, v in task.model.state_dict().items()})


def trained(folder, count, stop_at=None):
    """What each of `count` ranks ends with."""
    return [weights(folder)] if count == 1 else on_ranks(count, weights, folder, stop_at)


def losses(folder):
    return torch.tensor([r["loss"] for r in read_metrics(folder, "train")], dtype=torch.float64)


def close(a, b):
    a, b = json.loads(a), json.loads(b)
    return all(torch.allclose(torch.tensor(a[k], dtype=torch.float64), torch.tensor(b[k], dtype=torch.float64),
                              rtol=1e-9, atol=1e-12) for k in a)


@pytest.mark.parametrize("count", [2, 4])
def test_several_ranks_train_as_one_does(tmp_path, count):
    one, several = trained(tmp_path / "one", 1), trained(tmp_path / "several", count)
    assert len(set(several)) == 1, "every rank holds the same weights, to the bit"
    assert close(one[0], several[0])
    torch.testing.assert_close(losses(tmp_path / "several"), losses(tmp_path / "one"), rtol=1e-9, atol=0)
    assert [r["update"] for r in read_metrics(tmp_path / "several", "valid")] == [6, 12]


def test_a_signal_to_one_rank_stops_all_after_the_same_update_and_one_process_can_go_on(tmp_path):
    assert trained(tmp_path / "run", 2, stop_at=5) == ["interrupted", "interrupted"]
    assert (tmp_path / "run" / "checkpoints" / "update-00000005.json").is_file()
    assert close(trained(tmp_path / "run", 1)[0], trained(tmp_path / "undisturbed", 1)[0])
    torch.testing.assert_close(losses(tmp_path / "run"), losses(tmp_path / "undisturbed"), rtol=1e-9, atol=0)


class Echo:
    """Collectives as if a second rank sent the same as this one."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(ranks, "count", lambda: 2)
        monkeypatch.setattr(ranks, "add_up", lambda tensor: tensor.mul_(2))
        monkeypatch.setattr(distributed, "shared_sum", lambda size: None)


def test_a_parameter_that_took_no_part_anywhere_keeps_no_gradient(monkeypatch):
    Echo(monkeypatch)
    used, unused, frozen = (nn.Parameter(torch.ones(2, 3)) for _ in range(3))
    frozen.requires_grad_(False)
    used.grad = torch.full((2, 3), 1.5)
    assert GradientSum([used, unused, frozen]).join(finite=True, stop=False) == (True, False)
    assert torch.equal(used.grad, torch.full((2, 3), 3.0))
    assert unused.grad is None
    assert frozen.grad is None


def test_one_rank_that_is_not_finite_or_is_to_stop_speaks_for_all(monkeypatch):
    Echo(monkeypatch)
    gradients = GradientSum([nn.Parameter(torch.ones(1))])
    assert gradients.join(finite=False, stop=True) == (False, True)


def test_one_process_is_rank_0_of_1(tmp_path):
    assert (ranks.rank(), ranks.count(), ranks.first(), ranks.share()) == (0, 1, True, slice(0, None, 1))
    assert ranks.alone(lambda: 7) == 7
    assert ranks.total(2.5) == 2.5
    assert ranks.gather("x") == ["x"]
    called = []
    for _ in range(2):
        result = run_stage(tmp_path / "s", "thing", version=1, settings={}, inputs={}, say=lambda line: None,
                           work=lambda folder: called.append(folder) or {"hash": "h"}, together=True)
    assert result == {"hash": "h"}
    assert len(called) == 1


def test_a_batch_of_uneven_micro_batches_is_shared_in_turn(monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    found = []
    for rank in (0, 1):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        found.append(list(range(RECIPE.accumulate))[ranks.share()])
    assert found == [[0, 2], [1, 3]]
