"""Activations computed again give the same gradients; a model spread over ranks learns as a whole one does."""

import shutil
from dataclasses import dataclass, replace

import pytest
import torch
from several_ranks import on_ranks

from upstream import ranks
from upstream.errors import RecipeError
from upstream.keyed import keyed_torch
from upstream.model import Encoder, EncoderConfig, MaskedPrediction
from upstream.training import sharding
from upstream.training.batch_size import LiveBytes
from upstream.training.loop import EVERY, Loss, train
from upstream.training.monitor import read_metrics
from upstream.training.optimiser import OptimiserRecipe, ParameterGroup
from upstream.training.recipe import TrainingRecipe
from upstream.training.sharding import Shards, prepare

pytestmark = pytest.mark.processes

CPU = torch.device("cpu")
CONFIG = EncoderConfig(frontend="fbank", width=32, layers=3, heads=2, ffn=64, pre_norm=True, positional_kernel=15,
                       positional_groups=2, dropout=0.1, attention_dropout=0.1, input_dropout=0.1, layerdrop=0)
RECIPE = TrainingRecipe(updates=5, batch_seconds=12, micro_batch_seconds=2, crop_seconds=1, precision="float32",
                        log_every=1, validate_every=5, save_every=3,
                        optimiser=OptimiserRecipe(peak_rate=1e-2, warmup_updates=1, clip_norm=1))


def model(**changes):
    return MaskedPrediction(Encoder(replace(CONFIG, **changes)), (20,), final_dim=16).initialise(0)


@dataclass
class Batch:
    update: int
    number: int
    waveforms: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    weight: float
    seconds: float = 2.0
    ids: tuple[str, ...] = ("u1", "u2")


def batch(update, number, seconds=1):
    rng = keyed_torch(0, "sharding", update, number)
    waveforms = torch.randn(2, 16_000 * seconds, generator=rng)
    frames = CONFIG.grid.frames(16_000 * seconds)
    mask = torch.zeros(2, frames, dtype=torch.bool)
    mask[:, 5:20 + number] = True
    return Batch(update, number, waveforms, mask, torch.randint(20, (2, frames, 1), generator=rng), float(mask.sum()))


class Task:
    """Six micro-batches of noise an update, of unequal weights."""

    better = "loss"

    def __init__(self):
        self.model = model()

    def groups(self):
        return [ParameterGroup(list(self.model.parameters()))]

    def updates(self, first, share=EVERY):
        update = first
        while True:
            yield [batch(update, n) for n in range(6)][share]
            update += 1

    def loss(self, batch):
        out = self.model(batch.waveforms, None, batch.mask, batch.labels)
        return Loss(out.total, {"loss": (out.masked_loss * out.masked_count, out.masked_count)})

    def validate(self):
        assert ranks.count() == 1, "validation is rank 0's alone"
        self.model.eval()
        with torch.inference_mode():
            return {"loss": float(self.loss(batch(0, 0)).total)}


def gradients(network, update=1):
    network.train()
    network.zero_grad()
    torch.manual_seed(3)
    given = batch(update, 0)
    network(given.waveforms, None, given.mask, given.labels).total.backward()
    return {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"pre_norm": False, "layerdrop": 0.5}])
def test_activations_that_are_computed_again_give_the_same_gradients_to_the_bit(changes):
    """With all dropouts, and layers dropped."""
    plain, lean = model(**changes), model(**changes)
    prepare(lean, replace(RECIPE, checkpoint_activations=True))
    assert list(lean.state_dict()) == list(plain.state_dict())
    for update in (1, 2):
        expected, found = gradients(plain, update), gradients(lean, update)
        for name, gradient in expected.items():
            assert (gradient is None) == (found[name] is None), name
            assert gradient is None or torch.equal(gradient, found[name]), name


def test_computing_activations_again_takes_less_memory():
    def most(again):
        network = model(layers=12)
        prepare(network, replace(RECIPE, checkpoint_activations=again))
        given = batch(1, 0, seconds=4)
        network.train()
        with LiveBytes() as live:
            loss = network(given.waveforms, None, given.mask, given.labels).total
        assert loss.requires_grad
        return live.most

    assert most(True) < 0.4 * most(False)


def test_dropping_layers_and_sharding_do_not_go_together():
    task = Task()
    task.model = model(layerdrop=0.05)
    with pytest.raises(RecipeError, match=r"set encoder\.layerdrop=0"):
        Shards(task, CPU)


def test_one_process_has_nothing_to_share(tmp_path):
    assert not sharding.can_shard()
    train(Task(), replace(RECIPE, shard=True, updates=1), tmp_path, seed=1, device=CPU)


class ShardedTask(Task):
    """Sees that the optimiser gets parts of the parameters, about a share of them on every rank."""

    def groups(self):
        [group] = super().groups()
        held = sum(p.to_local().numel() for p in group.parameters)
        assert held < 1.1 / ranks.count() * sum(p.numel() for p in group.parameters)
        return [group]


def weights(task, folder, recipe):
    """What a training ends with, on the first rank."""
    train(task, recipe, folder, seed=1, device=CPU)
    return {k: v.tolist() for k, v in task.model.state_dict().items()} if ranks.first() else {}


def sharded(folder, recipe):
    return weights(ShardedTask(), folder, recipe)


def trained(folder, count, recipe=RECIPE):
    """The weights that a training on `count` ranks ends with."""
    found = weights(Task(), folder, recipe) if count == 1 else on_ranks(count, sharded, folder, recipe)[0]
    return {k: torch.tensor(v) for k, v in found.items()}


def without_last_checkpoint(source, folder):
    """A run as it was after update 3."""
    shutil.copytree(source, folder)
    for path in (folder / "checkpoints").glob("update-00000005*"):
        path.unlink()


def losses(folder, kind="train"):
    return torch.tensor([r["loss"] for r in read_metrics(folder, kind)], dtype=torch.float64)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training whole, and spread over two ranks with activations computed again."""
    folder = tmp_path_factory.mktemp("runs")
    whole = trained(folder / "whole", 1)
    sharded = trained(folder / "sharded", 2, replace(RECIPE, shard=True, checkpoint_activations=True))
    return folder, whole, sharded


def same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5)  # Adam divides by gradients near nothing


def test_a_model_spread_over_two_ranks_has_the_losses_of_a_whole_one(runs):
    folder, whole, sharded = runs
    assert len(losses(folder / "whole")) == 5
    torch.testing.assert_close(losses(folder / "sharded"), losses(folder / "whole"), rtol=1e-5, atol=0)
    validations = (losses(folder / name, "valid") for name in ("sharded", "whole"))
    torch.testing.assert_close(*validations, rtol=1e-5, atol=0)
    same(sharded, whole)


def test_a_sharded_checkpoint_goes_on_in_one_process(runs, tmp_path):
    folder, whole, _ = runs
    without_last_checkpoint(folder / "sharded", tmp_path / "run")
    same(trained(tmp_path / "run", 1), whole)
    torch.testing.assert_close(losses(tmp_path / "run"), losses(folder / "whole"), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_the_checkpoint_of_one_process_goes_on_in_shards_on_three_ranks(runs, tmp_path):
    folder, whole, _ = runs
    without_last_checkpoint(folder / "whole", tmp_path / "run")
    same(trained(tmp_path / "run", 3, replace(RECIPE, shard=True)), whole)
    torch.testing.assert_close(losses(tmp_path / "run"), losses(folder / "whole"), rtol=1e-5, atol=0)
