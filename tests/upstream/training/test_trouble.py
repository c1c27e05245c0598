"""What a training does about checkpoints of other recipes and damaged ones, full disks, clocks and missing GPUs."""

import errno
import itertools
import json
import math
import time
from dataclasses import replace

import pytest
import torch
from test_loop import CPU, RECIPE, Killed, Toy, metrics, run, same
from torch import nn

from upstream.device import chosen_device
from upstream.disk import disk_errors, read_json
from upstream.errors import FormatError, HubertkitError, UsageError
from upstream.training import checkpoint
from upstream.training.checkpoint import Keep
from upstream.training.loop import Loss
from upstream.training.monitor import Monitor, Speed, cut_back, read_metrics


def newest(folder):
    return sorted((folder / "checkpoints").glob("update-*.safetensors"))[-1]


def test_a_checkpoint_of_another_recipe_names_the_values_that_differ(tmp_path):
    run(tmp_path)
    other = replace(RECIPE, updates=20, optimiser=replace(RECIPE.optimiser, peak_rate=0.01))
    with pytest.raises(UsageError) as caught:
        run(tmp_path, recipe=other)
    assert str(newest(tmp_path)) in str(caught.value)
    assert "training.optimiser.peak_rate 0.05 -> 0.01; training.updates 12 -> 20" in str(caught.value)


def test_what_weights_do_not_depend_on_may_change_between_starts(tmp_path):
    weights, _ = run(tmp_path)
    again, _ = run(tmp_path, recipe=replace(RECIPE, log_every=3, save_every=5, checkpoint_activations=True))
    assert same(weights, again)


def test_a_checkpoint_of_another_model_names_the_tensors_that_differ(tmp_path):
    run(tmp_path)
    task = Toy()
    task.model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 1))
    with pytest.raises(FormatError, match=r"of another model: 0\.bias 8 -> 6; 0\.weight 8x4 -> 6x4; 2\.weight"):
        run(tmp_path, task)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"update": 12}', "\0\0\0"])
def test_a_checkpoint_with_a_damaged_record_is_named_and_the_one_before_used(tmp_path, capsys, content):
    weights, _ = run(tmp_path)
    newest(tmp_path).with_suffix(".json").write_text(content)
    again, _ = run(tmp_path, recipe=replace(RECIPE, keep_best=True))
    assert "update-00000012.safetensors is damaged (its record is not what was saved)" in " ".join(
        capsys.readouterr().err.split())
    assert same(weights, again)


@pytest.mark.parametrize("old", ['"update": 12', '"skipped": 0', '"best": false'])
def test_one_changed_digit_of_a_record_is_noticed(tmp_path, capsys, old):
    """It went on at another update, with the weights of this one."""
    run(tmp_path)
    path = newest(tmp_path).with_suffix(".json")
    content = path.read_text()
    new = old.replace("12", "10").replace(": 0", ": 1").replace("false", "true")
    assert old in content
    path.write_text(content.replace(old, new))
    run(tmp_path)
    assert "update-00000012.safetensors is damaged" in " ".join(capsys.readouterr().err.split())


def test_a_record_without_a_hash_of_itself_is_an_older_one(tmp_path, capsys):
    weights, _ = run(tmp_path)
    path = newest(tmp_path).with_suffix(".json")
    record = json.loads(path.read_text())
    del record["record_sha256"]
    path.write_text(json.dumps(record))
    again, _ = run(tmp_path)
    assert "damaged" not in capsys.readouterr().err
    assert same(weights, again)


def test_a_damaged_checkpoint_takes_no_place_among_the_newest(tmp_path):
    """With one to keep, each new one was removed at once for the sake of the damaged one: no start got further."""
    recipe = replace(RECIPE, save_every=3, keep_checkpoints=1, keep_every=6)
    run(tmp_path, recipe=recipe)
    path = newest(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])

    def kill():
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path, Toy(11, kill), recipe)
    assert newest(tmp_path).stem == "update-00000009"


def test_a_damaged_checkpoint_does_not_cost_the_best_of_those_before_it(tmp_path):
    everything = Keep(last=9)
    for update in (8, 9, 12):
        checkpoint.save_checkpoint(tmp_path, update, {"w": torch.zeros(1)}, {}, everything, is_best=update != 9)
    checkpoint.save_checkpoint(tmp_path, 10, {"w": torch.zeros(1)}, {}, Keep(last=1, best=True))  # after loading 9
    assert [path.stem for path in sorted(tmp_path.glob("*.json"))] == ["update-00000008", "update-00000010"]


def test_where_no_checkpoint_is_whole_that_is_said(tmp_path, capsys):
    weights, _ = run(tmp_path)
    for path in (tmp_path / "checkpoints").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    again, _ = run(tmp_path)
    assert "is whole; beginning anew" in " ".join(capsys.readouterr().err.split())
    assert same(weights, again)


@pytest.mark.parametrize("at", [2, 7, 12])
def test_optimiser_state_is_bit_identical_after_a_kill(tmp_path, at):
    """The last checkpoint holds weights and both moments; its file is the same to the byte."""
    def kill():
        raise Killed

    run(tmp_path / "straight")
    with pytest.raises(Killed):
        run(tmp_path / "killed", Toy(at, kill))
    run(tmp_path / "killed")
    ours, theirs = (newest(tmp_path / name) for name in ("straight", "killed"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert read_json(ours.with_suffix(".json")) == read_json(theirs.with_suffix(".json"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_in_mid_checkpoint_leaves_the_one_before(tmp_path, monkeypatch, code):
    weights, _ = run(tmp_path / "straight")
    saves = itertools.count(1)

    def save_file(tensors, path):
        if next(saves) == 2:
            path.write_bytes(b"half of it")
            raise OSError(code, "the disk", str(path))
        whole(tensors, path)

    whole = checkpoint.save_file
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", save_file)
        with pytest.raises(HubertkitError, match="run the same command again"), disk_errors(tmp_path):
            run(tmp_path / "run")
    assert [p.name for p in sorted((tmp_path / "run/checkpoints").iterdir())] == [
        "update-00000004.json", "update-00000004.safetensors"]
    again, _ = run(tmp_path / "run")
    assert same(weights, again)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "straight")


def test_lines_that_a_dying_machine_left_in_the_log_are_named_and_left_out(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 1, "kind": "train", "loss": 2}\n\0\0\0\n{"update": 2, "ki\n\n'
                    '{"update": 3, "kind": "train"}\n{"update": 4')
    assert [r["update"] for r in read_metrics(tmp_path, "train")] == [1, 3]
    assert capsys.readouterr().err.count("is damaged and left out") == 2
    cut_back(path, 2)
    assert path.read_text() == '{"update": 1, "kind": "train", "loss": 2}\n'


def test_no_update_is_listed_twice_as_skipped_after_a_kill(tmp_path):
    task = Toy(at=5)
    task.validate = lambda: raise_at(task)
    with pytest.raises(Killed):
        run(tmp_path, task)
    run(tmp_path, Toy(at=5))
    skipped = [json.loads(line)["update"] for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert skipped == [5]


def raise_at(task):
    """Killed at the second validation: update 5, which was skipped, comes again."""
    task.validations = getattr(task, "validations", 0) + 1
    if task.validations == 2:
        raise Killed
    return {"norm": 1.0}


def test_numbers_that_are_not_finite_are_kept_out_of_the_log_and_are_never_the_best(tmp_path):
    task, norms = Toy(), iter([3.0, math.nan, 2.5])
    task.validate = lambda: {"norm": next(norms), "other": math.inf}
    result = run(tmp_path, task, replace(RECIPE, keep_best=True))[1]
    assert [r.get("norm") for r in read_metrics(tmp_path, "valid")] == [3.0, None, 2.5]
    assert checkpoint.best_checkpoint(tmp_path / "checkpoints").stem == "update-00000012"
    assert result == {"norm": 2.5, "skipped_updates": 0}


def test_an_fp16_overflow_leaves_no_infinite_gradient_in_the_log(tmp_path):
    class Steep(Toy):
        def loss(self, batch):
            loss = super().loss(batch)
            return Loss(loss.total * 30, loss.sums)

    run(tmp_path, Steep(), replace(RECIPE, precision="fp16", log_every=12))
    [record] = read_metrics(tmp_path, "train")
    assert math.isfinite(record["gradient_norm"])


def test_clocks_that_jump_back_give_no_negative_times(tmp_path, monkeypatch):
    """The log is kept by a clock that only goes forward; should it fail too, times are cut at nothing."""
    wall = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(wall)))
    run(tmp_path)
    for record in read_metrics(tmp_path, "train"):
        assert record["audio_seconds_per_second"] > 0
        assert 0 <= record["waiting_share"] <= 1
    back = itertools.count(1000.0, -5)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(back)))
    speed = Speed()
    speed.add(10.0)
    with speed.waiting():
        pass
    assert speed.take() == {"audio_seconds_per_second": 0.0, "waiting_share": 0.0}


def test_a_gpu_that_a_recipe_asks_for_and_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == chosen_device("cpu") == CPU
    with pytest.raises(UsageError, match=r"device=cuda: torch .* finds no GPU here"):
        chosen_device("cuda")


def test_a_monitor_that_cannot_write_says_so_and_leaves_whole_lines(tmp_path):
    monitor = Monitor(tmp_path, 0)
    monitor.log(1, "train", {"loss": 3.0})
    monitor.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"update": 2, "kind"')  # what a full disk leaves
    Monitor(tmp_path, 1).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == ['{"update": 1, "kind": "train", "loss": 3.0}']


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    run(tmp_path)
    folder = tmp_path / "checkpoints"
    for name in (".update-00000012.safetensors.77.tmp", ".update-00000012.json.77.tmp", "update-00000011.safetensors"):
        (folder / name).write_bytes(b"half")
    run(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == [
        f"update-{n:08d}.{kind}" for n in (8, 12) for kind in ("json", "safetensors")]


def test_a_loss_that_is_no_number_is_no_overflow_of_fp16(tmp_path):
    """Its utterances are written down: halving the scale would not mend it."""
    class Flat(Toy):
        def loss(self, batch):
            loss = super().loss(batch)
            return Loss(loss.total * 1e-3, loss.sums)

    assert run(tmp_path, Flat(at=5), replace(RECIPE, precision="fp16"))[1]["skipped_updates"] == 1
    assert (tmp_path / "skipped.jsonl").is_file()


def test_the_best_weights_come_back_unless_they_are_damaged(tmp_path, capsys):
    task, norms = Toy(), iter([3.0, 2.0, 2.5])  # after updates 4, 8 and 12
    task.validate = lambda: {"norm": next(norms)}
    run(tmp_path, task, replace(RECIPE, keep_best=True))
    last = {k: v.clone() for k, v in task.model.state_dict().items()}
    update, extra = checkpoint.load_best(tmp_path / "checkpoints", task.model)
    assert (update, extra["validation"]) == (8, {"norm": 2.0})
    assert not same(task.model.state_dict(), last)
    task.model.load_state_dict(last)
    best = checkpoint.best_checkpoint(tmp_path / "checkpoints")
    best.write_bytes(best.read_bytes()[:-1])
    assert checkpoint.load_best(tmp_path / "checkpoints", task.model) is None
    assert same(task.model.state_dict(), last)
    assert "the best checkpoint, is damaged" in " ".join(capsys.readouterr().err.split())
