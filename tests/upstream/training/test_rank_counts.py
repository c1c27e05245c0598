"""1, 2 and 4 ranks have the same losses in float32: within 1e-5 for 5 updates of a real model, within 1e-3 for 50."""

from dataclasses import replace

import pytest
import torch
from several_ranks import on_ranks
from test_sharding import CPU, RECIPE, Batch, batch, model

from upstream.training.loop import EVERY, Loss, train
from upstream.training.monitor import read_metrics
from upstream.training.optimiser import ParameterGroup

UPDATES = 50
LONG = replace(RECIPE, updates=UPDATES, batch_seconds=8, validate_every=UPDATES, save_every=20,
               optimiser=replace(RECIPE.optimiser, peak_rate=2e-3, warmup_updates=10))


class Task:
    """Four micro-batches of one of five batches of noise an update, of unequal weights; dropout and dropped layers."""

    better = "loss"

    def __init__(self):
        self.model = model(layerdrop=0.2)

    def groups(self):
        return [ParameterGroup(list(self.model.parameters()))]

    def updates(self, first, share=EVERY):
        update = first
        while True:
            yield [self.batch(update, number) for number in range(4)][share]
            update += 1

    def batch(self, update, number):
        old = batch(update % 5, number)
        return Batch(update, number, old.waveforms, old.mask, old.labels, old.weight)

    def loss(self, given):
        out = self.model(given.waveforms, None, given.mask, given.labels)
        return Loss(out.total, {"loss": (out.masked_loss * out.masked_count, out.masked_count)})

    def validate(self):
        return {"loss": 1.0}


def work(folder):
    train(Task(), LONG, folder, seed=1, device=CPU)


def losses(folder, count):
    """Of every update, trained by `count` ranks."""
    on_ranks(count, work, folder)
    return torch.tensor([r["loss"] for r in read_metrics(folder, "train")], dtype=torch.float64)


@pytest.mark.slow
def test_one_two_and_four_ranks_stay_together_for_fifty_updates(tmp_path):
    one = losses(tmp_path / "1", 1)
    assert len(one) == UPDATES
    assert one[-5:].mean() < 0.9 * one[:5].mean(), "it learns, so that the losses say something"
    for count in (2, 4):
        found = losses(tmp_path / str(count), count)
        torch.testing.assert_close(found[:5], one[:5], rtol=1e-5, atol=0)
        torch.testing.assert_close(found, one, rtol=1e-3, atol=0)
