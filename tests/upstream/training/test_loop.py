"""The loop on a toy task: resume to the bit, signals, non-finite updates, damaged checkpoints."""

import json
import math
import os
import signal
import time
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from upstream.errors import HubertkitError, Interrupted, UsageError
from upstream.keyed import keyed_torch
from upstream.training.checkpoint import best_checkpoint
from upstream.training.gradient import accumulate
from upstream.training.health import Finding
from upstream.training.loop import BAD_UPDATES_IN_A_ROW, EVERY, Loss, Pool, TrainingRecipe, train
from upstream.training.monitor import read_metrics
from upstream.training.optimiser import OptimiserRecipe, ParameterGroup, learning_rate

CPU = torch.device("cpu")
TIMES = {"audio_seconds_per_second", "waiting_share", "share_of_peak"}
RECIPE = TrainingRecipe(updates=12, log_every=1, validate_every=4, save_every=4, precision="float32",
                        optimiser=OptimiserRecipe(peak_rate=0.05, warmup_updates=2))


@dataclass
class Batch:
    update: int
    number: int
    x: torch.Tensor
    weight: float = 8.0
    seconds: float = 1.0
    ids: tuple[str, ...] = ("u1",)


class Toy:
    """Regression through dropout, so that a resumed run matches only if the device's randomness does too."""

    def __init__(self, at=None, action=None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.at, self.action = at, action

    better = "norm"

    def groups(self):
        return [ParameterGroup(list(self.model.parameters()))]

    def updates(self, first, share=EVERY):
        update = first
        while True:
            yield [Batch(update, n, torch.randn(8, 4, generator=keyed_torch(0, "toy", update, n)))
                   for n in range(2)][share]
            update += 1

    def loss(self, batch):
        if batch.update == self.at and batch.number == 0 and self.action:
            self.action()
        total = (self.model(batch.x) - batch.x.sum(1, keepdim=True)).square().mean()
        if self.at == batch.update and self.action is None:
            total = total * float("nan")
        return Loss(total, {"loss": (total.detach() * batch.weight, batch.weight)})

    def validate(self):
        with torch.inference_mode():
            self.model.eval()
            return {"norm": float(sum(p.square().sum() for p in self.model.parameters()))}


def run(folder, task=None, recipe=RECIPE):
    task = task or Toy()
    result = train(task, recipe, folder, seed=1, device=CPU)
    return task.model.state_dict(), result


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def metrics(folder):
    return [{k: v for k, v in r.items() if k not in TIMES}
            for kind in ("train", "valid") for r in read_metrics(folder, kind)]


class Killed(BaseException):
    """Stands for SIGKILL: nothing is saved on the way out."""


@pytest.mark.parametrize("at", [1, 3, 5, 9, 12])
def test_a_killed_run_goes_on_to_the_bit(tmp_path, at):
    def kill():
        raise Killed

    weights, result = run(tmp_path / "straight")
    with pytest.raises(Killed):
        run(tmp_path / "killed", Toy(at, kill))
    resumed, again = run(tmp_path / "killed")
    assert same(weights, resumed)
    assert result == again
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "killed")


def test_what_a_checkpoint_had_gathered_counts_after_a_kill(tmp_path):
    """Losses since the last line of the log, the number of skipped updates, and the last validation."""
    def killed_at_the_second():
        validations.append(0)
        if len(validations) == 2:
            raise Killed
        return {"norm": 1.0}

    recipe = replace(RECIPE, log_every=6)  # checkpoints after 4 and 8 lie in the midst of what is gathered
    straight, stopped, resumed = (Toy(at=3) for _ in range(3))  # the third update is skipped
    validations = []
    straight.validate = resumed.validate = lambda: {"norm": 1.0}
    stopped.validate = killed_at_the_second
    _, result = run(tmp_path / "straight", straight, recipe)
    with pytest.raises(Killed):
        run(tmp_path / "killed", stopped, recipe)
    _, again = run(tmp_path / "killed", resumed, recipe)
    assert result == again == {"norm": 1.0, "skipped_updates": 1}
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "killed")
    resumed.validate = None  # a run that is done has nothing left to measure
    assert run(tmp_path / "killed", resumed, recipe)[1] == result


def test_a_checkpoint_of_another_seed_is_not_gone_on_from(tmp_path):
    run(tmp_path)
    with pytest.raises(UsageError, match="seed 1 -> 2"):
        train(Toy(), RECIPE, tmp_path, seed=2, device=CPU)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_saves_and_leaves(tmp_path, number):
    weights, _ = run(tmp_path / "straight")
    before = signal.signal(number, signal.default_int_handler)  # tests under `nohup` have a SIGHUP that is ignored
    try:
        with pytest.raises(Interrupted) as caught:
            run(tmp_path / "stopped", Toy(6, lambda: os.kill(os.getpid(), number)))
    finally:
        signal.signal(number, before)
    assert caught.value.exit_code == 130
    assert (tmp_path / "stopped/checkpoints/update-00000006.safetensors").exists()
    resumed, _ = run(tmp_path / "stopped")
    assert same(weights, resumed)


def test_nohup_is_heeded(tmp_path):
    """A SIGHUP that is ignored stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(tmp_path, Toy(6, lambda: signal.raise_signal(signal.SIGHUP)))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not (tmp_path / "checkpoints/update-00000006.safetensors").exists()


def test_a_second_sigterm_does_not_lose_the_checkpoint(tmp_path):
    """A scheduler signals every process of a job, and torchrun passes its own on: each rank gets two at once."""
    def twice():
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(tmp_path, Toy(6, twice))
    assert (tmp_path / "checkpoints/update-00000006.safetensors").exists()


@pytest.mark.parametrize(("seconds", "error"), [(0.0, Interrupted), (1.1, KeyboardInterrupt)])
def test_a_later_ctrl_c_stops_at_once_and_one_that_comes_twice_does_not(tmp_path, seconds, error):
    def twice():
        signal.raise_signal(signal.SIGINT)
        time.sleep(seconds)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(error):
        run(tmp_path, Toy(6, twice))


def test_the_share_of_time_spent_waiting_for_batches_is_logged(tmp_path):
    class Slow(Toy):
        def updates(self, first, share=EVERY):
            for batches in super().updates(first, share):
                time.sleep(0.05)  # an update itself takes about two milliseconds
                yield batches

    run(tmp_path / "slow", Slow())
    run(tmp_path / "quick")
    slow, quick = ([r["waiting_share"] for r in read_metrics(tmp_path / name, "train")] for name in ("slow", "quick"))
    assert sorted(slow)[6] > 0.5 > sorted(quick)[6]
    assert all(0 <= share <= 1 for share in slow + quick)


def test_what_a_log_shows_is_said_once(tmp_path, capsys):
    seen = []

    def examine(train, valid):
        seen.append((len(train), len(valid)))
        return [Finding("loader", "warning", f"{len(train)} records", "wait")]

    train(Toy(), RECIPE, tmp_path, seed=1, device=CPU, examine=examine)
    assert seen == [(4, 1), (8, 2), (12, 3)]
    said = capsys.readouterr().err
    assert "warning: 4 records; wait" in said
    assert "8 records" not in said


def test_training_learns(tmp_path):
    run(tmp_path, recipe=replace(RECIPE, updates=300))
    losses = [r["loss"] for r in read_metrics(tmp_path, "train")]
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_a_non_finite_update_is_skipped_and_counted(tmp_path):
    _, result = run(tmp_path, Toy(at=5))
    assert result["skipped_updates"] == 1
    skipped = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert skipped == [{"update": 5, "utterances": ["u1", "u1"]}]
    assert all(math.isfinite(r["loss"]) for r in read_metrics(tmp_path, "train") if "loss" in r)


def test_a_skipped_update_does_not_take_the_losses_of_the_others_out_of_the_log(tmp_path):
    run(tmp_path, Toy(at=2), replace(RECIPE, log_every=4))
    assert [("loss" in r, "gradient_norm" in r) for r in read_metrics(tmp_path, "train")] == [(True, True)] * 3


def test_a_run_that_stays_non_finite_stops(tmp_path):
    task = Toy()
    task.loss = lambda batch: Loss(task.model(batch.x).sum() * float("inf"), {})
    with pytest.raises(HubertkitError, match="20 updates in a row"):
        run(tmp_path, task, replace(RECIPE, updates=40))


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys):
    weights, _ = run(tmp_path)
    newest = tmp_path / "checkpoints/update-00000012.safetensors"
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(content)
    again, _ = run(tmp_path)
    assert "update-00000012.safetensors is damaged" in capsys.readouterr().err
    assert same(weights, again)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run(tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("*.safetensors")) == [
        "update-00000008.safetensors", "update-00000012.safetensors"]


def test_every_so_many_and_the_best_checkpoint_are_kept(tmp_path):
    task, norms = Toy(), iter([3.0, 2.0, 2.5])  # validations after updates 4, 8 and 12: the best is the second
    task.validate = lambda: {"norm": next(norms)}
    run(tmp_path, task, replace(RECIPE, save_every=3, keep_checkpoints=1, keep_every=6, keep_best=True))
    kept = sorted(int(p.stem.split("-")[1]) for p in (tmp_path / "checkpoints").glob("*.safetensors"))
    assert kept == [6, 8, 12]
    assert best_checkpoint(tmp_path / "checkpoints").stem == "update-00000008"


def test_checkpoints_to_keep_for_ever_are_saved_whatever_save_every_says(tmp_path):
    """A bug once found: of `keep_every=3` with `save_every=4` only update 12 was left."""
    run(tmp_path, recipe=replace(RECIPE, save_every=4, keep_checkpoints=1, keep_every=3))
    kept = sorted(int(p.stem.split("-")[1]) for p in (tmp_path / "checkpoints").glob("*.safetensors"))
    assert kept == [3, 6, 9, 12]


def test_without_a_best_none_is_named(tmp_path):
    assert best_checkpoint(tmp_path) is None


def test_fp16_trains_with_a_scaled_loss_and_resumes_to_the_bit(tmp_path):
    recipe = replace(RECIPE, precision="fp16", updates=40)
    weights, _ = run(tmp_path / "straight", recipe=recipe)
    run(tmp_path / "plain", recipe=replace(recipe, precision="float32"))
    half, plain = (sum(r["loss"] for r in read_metrics(tmp_path / name, "train")[-10:]) for name in
                   ("straight", "plain"))
    assert half == pytest.approx(plain, rel=0.1)

    def kill():
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "killed", Toy(23, kill), recipe)
    resumed, _ = run(tmp_path / "killed", recipe=recipe)
    assert same(weights, resumed)


def test_an_fp16_overflow_halves_the_scale_and_is_no_failure(tmp_path, capsys):
    class Steep(Toy):
        def loss(self, batch):
            loss = super().loss(batch)
            return Loss(loss.total * 30, loss.sums)  # times the first scale this is beyond float16, not beyond float32

    _, result = run(tmp_path, Steep(), replace(RECIPE, precision="fp16"))
    assert result["skipped_updates"] == 0
    assert "loss scale 65536 is halved" in capsys.readouterr().err


def test_two_micro_batches_of_unequal_weight_give_the_gradient_of_their_joint_mean():
    task, pool = Toy(), Pool()
    task.model = nn.Linear(4, 1)
    batches = [Batch(1, n, torch.randn(rows, 4, generator=keyed_torch(0, "unequal", n)), weight=float(rows))
               for n, rows in enumerate((3, 9))]
    x = torch.cat([b.x for b in batches])
    joint = (task.model(x) - x.sum(1, keepdim=True)).square().mean()
    expected = torch.autograd.grad(joint, list(task.model.parameters()))
    assert accumulate(task, batches, RECIPE, 1, CPU, pool)
    torch.testing.assert_close([p.grad for p in task.model.parameters()], list(expected))
    assert pool.take()["loss"] == pytest.approx(float(joint.detach()))


def test_pooled_metrics_weigh_every_frame_alike():
    pool = Pool()
    pool.add({"loss": (torch.tensor(6.0), 2), "accuracy": (1, 4)})
    pool.add({"loss": (1.0, 8), "accuracy": (3, 4)})
    assert pool.take() == {"loss": 0.7, "accuracy": 0.5}
    assert pool.take() == {}


def test_an_error_in_the_batches_reaches_the_user(tmp_path):
    task = Toy()

    def broken(first, share):
        raise HubertkitError("u7: cannot be decoded")
        yield

    task.updates = broken
    with pytest.raises(HubertkitError, match="u7: cannot be decoded"):
        run(tmp_path, task)


@pytest.mark.parametrize(("values", "says"), [({"updates": 0}, "updates=0"), ({"batch_seconds": 0}, "above 0")])
def test_a_training_recipe_out_of_range_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        TrainingRecipe(**values)


def test_the_time_of_a_validation_is_not_that_of_training(tmp_path):
    task = Toy()
    task.validate = lambda: time.sleep(0.5) or {"norm": 1.0}
    run(tmp_path, task)
    speeds = {r["update"]: r["audio_seconds_per_second"] for r in read_metrics(tmp_path, "train")}
    assert min(speeds[5], speeds[9]) > 8  # with the validation, 2 s of audio in half a second or more


def test_an_fp16_gradient_is_clipped_and_logged_at_its_own_size(tmp_path):
    """And not at that of the loss times its scale, which is 65,536 times as large."""
    class Flat(Toy):
        def loss(self, batch):
            loss = super().loss(batch)
            return Loss(loss.total * 1e-3, loss.sums)  # so that nothing overflows

    norms = {}
    for precision in ("fp16", "float32"):
        run(tmp_path / precision, Flat(), replace(RECIPE, precision=precision, updates=1))
        [record] = read_metrics(tmp_path / precision, "train")
        norms[precision] = record["gradient_norm"]
    assert norms["fp16"] == pytest.approx(norms["float32"], rel=0.05)


def test_every_micro_batch_of_every_update_draws_its_own_dropout(tmp_path):
    class Drawing(Toy):
        def loss(self, batch):
            drawn.append(torch.initial_seed())
            return super().loss(batch)

    drawn = []
    run(tmp_path, Drawing())
    assert len(drawn) == len(set(drawn)) == 24  # 12 updates of 2


def test_dropout_depends_on_the_seed(tmp_path):
    tasks = {seed: Toy() for seed in (1, 2)}  # whose batches and first weights do not
    for seed, task in tasks.items():
        train(task, RECIPE, tmp_path / str(seed), seed=seed, device=CPU)
    assert not same(*(task.model.state_dict() for task in tasks.values()))


def test_the_rate_of_an_update_is_that_of_its_number(tmp_path):
    run(tmp_path)
    rates = [r["rate"] for r in read_metrics(tmp_path, "train")]
    assert rates == [learning_rate(RECIPE.optimiser, update, 12) for update in range(1, 13)]
    assert rates[0] == 0


def test_skipped_updates_end_a_run_only_if_they_follow_each_other(tmp_path):
    class EverySecond(Toy):
        def loss(self, batch):
            loss = super().loss(batch)
            return Loss(loss.total * float("nan"), loss.sums) if batch.update % 2 else loss

    _, result = run(tmp_path, EverySecond(), replace(RECIPE, updates=2 * BAD_UPDATES_IN_A_ROW + 2))
    assert result["skipped_updates"] == BAD_UPDATES_IN_A_ROW + 1


def test_the_last_update_is_validated_whenever_it_is(tmp_path):
    _, result = run(tmp_path, recipe=replace(RECIPE, updates=10))
    records = read_metrics(tmp_path, "valid")
    assert [r["update"] for r in records] == [4, 8, 10]
    assert result["norm"] == records[-1]["norm"]


def test_a_validation_that_is_no_better_leaves_the_best_checkpoint_as_it_is(tmp_path):
    task = Toy()
    task.validate = lambda: {"norm": 1.0}
    run(tmp_path, task, replace(RECIPE, keep_best=True))
    assert best_checkpoint(tmp_path / "checkpoints").stem == "update-00000004"
