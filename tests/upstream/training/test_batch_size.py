"""`micro_batch_seconds=auto`: the largest part of an update that fits, chosen once; what is said where none does."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretend_gpu import CUDA, pretended_gpu
from torch import nn

from upstream import ranks
from upstream.disk import read_json
from upstream.errors import HubertkitError, UsageError
from upstream.training import batch_size
from upstream.training.batch_size import FILE, LiveBytes, fitted, followed, largest, sizes
from upstream.training.fitting import is_out_of_memory, with_rows
from upstream.training.loop import EVERY, Loss, train
from upstream.training.optimiser import OptimiserRecipe, ParameterGroup
from upstream.training.recipe import TrainingRecipe

CPU = torch.device("cpu")
RECIPE = TrainingRecipe(updates=2, batch_seconds=32, micro_batch_seconds="auto", crop_seconds=4, log_every=1,
                        precision="float32", optimiser=OptimiserRecipe(warmup_updates=1))


@dataclass(frozen=True)
class Batch:
    update: int
    number: int
    x: torch.Tensor
    places: torch.Tensor
    ids: list[str]
    weight: float = 1.0
    seconds: float = 4.0


class Toy:
    """Each row is 4 s of audio, a vector of 1,000; `room` rows fit."""

    better = "loss"

    def __init__(self, recipe, room=99):
        self.model = nn.Linear(1000, 1000)
        self.recipe, self.room, self.heard = recipe, room, []

    def groups(self):
        return [ParameterGroup(list(self.model.parameters()))]

    def updates(self, first, share=EVERY):
        rows = round(self.recipe.micro_batch_seconds // 4)
        batch = Batch(first, 0, torch.ones(rows, 1000), torch.arange(3 * rows), [f"u{i}" for i in range(rows)],
                      float(rows), 4.0 * rows)
        while True:
            yield [batch] * len(range(max(1, self.recipe.accumulate))[share])

    def loss(self, batch):
        self.heard.append(len(batch.ids))
        assert len(batch.x) == len(batch.ids)
        if len(batch.ids) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        total = self.model(batch.x).square().mean()
        return Loss(total, {"loss": (total.detach(), 1.0)})

    def validate(self):
        return {"loss": 1.0}


def test_sizes_are_whole_parts_of_an_update_that_ranks_can_share():
    assert sizes(RECIPE, 1) == [32 / parts for parts in (8, 7, 6, 5, 4, 3, 2, 1)]
    assert sizes(RECIPE, 2) == [4, 32 / 6, 8, 16]
    assert sizes(RECIPE, 3) == [32 / 6, 32 / 3]
    with pytest.raises(UsageError, match="has 8 crops of 4 s, too few for 9 ranks"):
        sizes(RECIPE, 9)


@given(st.integers(1, 40), st.floats(0.1, 50), st.floats(0, 50))
def test_the_largest_size_that_fits_is_found_with_few_failures(count, room, cap):
    """Memory as large as the size itself; above `cap` the attempt fails outright."""
    candidates = [float(i + 1) for i in range(count)]
    found, tried = largest(candidates, lambda s: None if s > cap else s, room)
    assert found == max([0.0, *(s for s in candidates if s <= min(room, cap))])
    assert sum(took is None for took in tried.values()) <= 1 + count.bit_length()


def test_on_a_cpu_the_line_through_two_sizes_is_followed():
    """1 GB at 4 s and 1.5 GB at 8 s make .5 GB + .125 GB a second: 3 GB hold 20 s, so 16 of 4, 8, 16, 32."""
    line = {4.0: 1e9, 8.0: 1.5e9}
    assert followed([4.0, 8.0, 16.0, 32.0], line.get, 3e9) == (16.0, line)
    assert followed([4.0, 8.0], line.get, 0.9e9)[0] == 0
    assert followed([4.0, 64.0, 128.0], line.get, 1e12)[0] == batch_size.CPU_ENOUGH


def test_live_bytes_are_those_of_tensors_that_are_still_there():
    """Two products of 4 MB are alive at once in the forward pass, and three, with the gradient, in the backward one."""
    x = torch.randn(1000, 1000, requires_grad=True)
    with LiveBytes() as live:
        y = (x * 2).relu()
        y.sum().backward()
        assert live.now == 8_000_000
        del y
        x.grad = None
    assert live.now == 0
    assert live.most == pytest.approx(12e6, rel=1e-4)


def test_rows_come_again_and_everything_of_a_row_with_them():
    batch = Batch(1, 0, torch.tensor([[1.0], [2.0]]), torch.arange(6), ["a", "b"], 10.0, 8.0)
    more, fewer = with_rows(batch, 3), with_rows(batch, 1)
    assert more.ids == ["a", "b", "a"]
    assert more.x[:, 0].tolist() == [1, 2, 1]
    assert more.places.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert (more.seconds, more.weight) == (12.0, 15.0)
    assert (fewer.ids, fewer.places.tolist(), fewer.seconds) == (["a"], [0, 1, 2], 4.0)


def test_what_was_chosen_is_said_and_kept_for_a_resumed_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(batch_size, "free_bytes", lambda device, count: 1e9)
    chosen = fitted(RECIPE, tmp_path, Toy, CPU)
    assert chosen == replace(RECIPE, micro_batch_seconds=32)
    said = " ".join(capsys.readouterr().err.split())
    assert "micro_batch_seconds=auto: 32 s, 1 in an update; 4 s took" in said
    assert set(read_json(tmp_path / FILE)["measured_bytes"]) == {"4", "8"}
    monkeypatch.setattr(batch_size, "free_bytes", lambda device, count: 0.0)  # by now another program needs memory
    assert fitted(RECIPE, tmp_path, None, CPU) == chosen
    monkeypatch.setattr(ranks, "count", lambda: 2)
    with pytest.raises(UsageError, match="began with 1 micro-batches an update, which 2 ranks cannot share"):
        fitted(RECIPE, tmp_path, None, CPU)


def test_less_memory_gives_smaller_micro_batches_and_too_little_an_error(tmp_path, monkeypatch):
    """Room for what the line through the two measurements says of 20 s, beside Adam's 8 bytes a parameter: that is
    for micro-batches of 16 s, and not of 32."""
    fitted(RECIPE, tmp_path / "much", Toy, CPU)
    one, two = read_json(tmp_path / "much" / FILE)["measured_bytes"].values()
    assert two > one > 4e6  # the gradient of 1,000 x 1,000
    adam = 8 * 1_001_000
    monkeypatch.setattr(batch_size, "free_bytes", lambda device, count: (one + 4 * (two - one) + adam) / 0.85)
    assert fitted(RECIPE, tmp_path / "little", Toy, CPU).micro_batch_seconds == 16
    monkeypatch.setattr(batch_size, "free_bytes", lambda device, count: 10e6)
    with pytest.raises(HubertkitError, match=r"4 s at once, the least there can be, take 0\.01\d+ GB, and 0\.0085 GB"):
        fitted(RECIPE, tmp_path / "less", Toy, CPU)


def test_a_number_stays_as_it_is(tmp_path):
    recipe = replace(RECIPE, micro_batch_seconds=16)
    assert fitted(recipe, tmp_path, None, CPU) is recipe
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["often", True, None, 0, -4, 7])
def test_micro_batches_of_no_size_are_refused(value):
    with pytest.raises(ValueError, match="micro_batch_seconds"):
        replace(RECIPE, micro_batch_seconds=value)


def test_auto_may_be_any_number_of_micro_batches():
    assert RECIPE.accumulate == 0


def test_a_batch_that_does_not_fit_says_how_much_did(tmp_path):
    task = Toy(replace(RECIPE, micro_batch_seconds=32), room=3)
    with pytest.raises(HubertkitError, match=r"update 1: a micro-batch of 32 s \(8 x 4 s\) does not fit into memory, "
                                             r"8 s \(2 x 4 s\) do; the same command with training\.checkpoint_activa"
                                             r"tions=true needs less and goes on .*; or begin anew with training\.mic"
                                             r"ro_batch_seconds=auto or 8 or less"):
        train(task, task.recipe, tmp_path, seed=0, device=CPU)
    assert task.heard == [8, 4, 2]
    alone = Toy(task.recipe, room=0)
    frugal = replace(alone.recipe, checkpoint_activations=True)
    with pytest.raises(HubertkitError, match=r"neither does one crop of 4 s alone; or begin anew with a lower training"
                                             r"\.crop_seconds"):
        train(alone, frugal, tmp_path / "alone", seed=0, device=CPU)


def test_whole_utterances_that_do_not_fit_are_told_so(tmp_path):
    """What was advised, `auto` and shorter crops, is refused in fine-tuning."""
    task = Toy(replace(RECIPE, micro_batch_seconds=32), room=3)
    task.hears_whole_utterances = True
    with pytest.raises(HubertkitError, match=r"32 s \(8 utterances\) does not fit into memory, 2 of them do; .*begin "
                                             r"anew with training\.micro_batch_seconds=8 or less"):
        train(task, task.recipe, tmp_path, seed=0, device=CPU)
    alone = Toy(task.recipe, room=0)
    alone.hears_whole_utterances = True
    with pytest.raises(HubertkitError, match=r"does one utterance alone; .*begin anew without the longest utterances"):
        train(alone, alone.recipe, tmp_path / "alone", seed=0, device=CPU)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**50, dtype=torch.uint8), lambda: np.empty(2**50)])
def test_a_failed_allocation_of_the_cpu_is_known(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling",
                                  "CUDA out of memory. Tried to allocate 2.00 GiB"])
def test_what_cuda_and_its_libraries_say_without_memory_is_known(said):
    assert is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError(said))


def test_on_a_gpu_no_more_is_tried_than_fills_it(monkeypatch, tmp_path):
    """As much would fit as the update has: rows of so large a micro-batch would all be of one length."""
    def on_gpu(recipe):
        toy = Toy(recipe)
        toy.model.to(CUDA)
        updates = toy.updates
        toy.updates = lambda first: ([replace(b, x=b.x.to(CUDA)) for b in batches] for batches in updates(first))
        return toy

    with pretended_gpu():
        monkeypatch.setattr(batch_size, "GPU_ENOUGH", 20.0)
        chosen = fitted(RECIPE, tmp_path, on_gpu, CUDA)
    assert chosen.micro_batch_seconds == 16  # of 4, 32/7, ... 16, 32
    assert "more than 20 s are not tried" in read_json(tmp_path / FILE)["why"]


def test_other_errors_of_a_batch_are_not_taken_for_lack_of_memory(tmp_path):
    task = Toy(replace(RECIPE, micro_batch_seconds=32))
    task.model = nn.Linear(7, 7)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(task, task.recipe, tmp_path, seed=0, device=CPU)


@pytest.mark.parametrize(("values", "says"), [
    ({"batch_seconds": "auto"}, "training.micro_batch_seconds=auto"),
    ({"batch_seconds": "long"}, "training.batch_seconds=long, must be a number of seconds"),
    ({"micro_batch_seconds": "some"}, "training.micro_batch_seconds=some, must be a number of seconds, or auto")])
def test_what_is_no_number_of_seconds_is_refused(values, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        replace(RECIPE, **values)


def test_what_just_fits_by_the_line_is_taken():
    """Ten and ten a second: five seconds take 60."""
    candidates = [1.0, 2.0, 3.0, 4.0, 5.0]
    for room, seconds in ((60.0, 5.0), (59.0, 4.0), (20.0, 1.0), (19.0, 0)):
        assert followed(candidates, lambda s: 10 + 10 * s, room)[0] == seconds
