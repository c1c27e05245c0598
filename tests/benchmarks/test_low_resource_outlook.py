"""What a dry run says of a comparison: its parts in the order of work, their states, times and sizes; and no more."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from small_comparison import SHAPE, recipe

from benchmarks.low_resource import run as compare_encoders
from benchmarks.low_resource_outlook import Ways, outlook
from downstream.recognition_outlook import Trials
from tools.dry_run import show_parts
from tools.main import run as command
from upstream.disk import folder_bytes, write_json
from upstream.errors import BusyError, InputError, UsageError
from upstream.locks import locked
from upstream.model import Encoder, save_encoder
from upstream.stage import read_stage
from upstream.training.monitor import read_metrics

KINDS = ["recogniser", "emissions-dev", "emissions-test", "decoded"]
PRETRAIN = {
    "encoder": SHAPE.to_dict(), "mask": {"share": 0.5, "span": 3}, "objective": {"head": "linear"},
    "training": {"updates": 3, "batch_seconds": 2, "micro_batch_seconds": 2, "crop_seconds": 0.8, "least_seconds": 0.3,
                 "precision": "float32", "validate_every": 2, "save_every": 2, "optimiser": {"warmup_updates": 1}},
    "rounds": [{"teacher": {"features": "mfcc", "clusters": 5, "sample_frames": 2000}},
               {"teacher": {"features": "layer", "layer": 2, "clusters": 5, "sample_frames": 2000}}]}


def with_rounds(tmp_path, encoders, *words):
    return recipe(tmp_path, encoders, f"pretrain={json.dumps(PRETRAIN)}",
                  "cells=['3min: scratch', '3min: round 2', '3min: round 1']", *words)


def state(parts):
    """Of each stage, by its place in the folder."""
    return {stage.stage: (stage.state, stage.why) for part in parts for stage in part.stages}


def written(*folders):
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


def test_rounds_and_cells_stand_in_the_order_of_work_and_nothing_is_written(tmp_path, data, encoders):
    before = written(data)
    parts = outlook(with_rounds(tmp_path, encoders), data, tmp_path / "out")
    assert [part.name for part in parts] == [
        "splits", "language model", "3min: scratch, seed 0", "round 1", "round 2", "3min: round 2, seed 0",
        "3min: round 1, seed 0", "3min: scratch, seed 5", "3min: round 2, seed 5", "3min: round 1, seed 5"]
    assert {(part.state, part.why) for part in parts} == {("to do", "")}
    assert [part.updates for part in parts[:6]] == [None, None, 2, 3, 3, 2]
    hours = 7 * 2400 / 16_000 / 3600  # of an utterance of two words of three letters, and a space
    assert [part.hours for part in parts[2:4]] == pytest.approx([6 * hours, 5 * hours])
    assert [stage.stage for stage in parts[3].stages] == [
        f"pretrain/{name}" for name in ("corpus", "round1/teacher", "round1/units", "round1/encoder")]
    assert [stage.stage for stage in parts[9].stages] == [f"cells/3min-round1-seed5/{kind}" for kind in KINDS]
    assert written(data) == before
    assert not (tmp_path / "out").exists()


def test_what_nobody_measured_is_tried_once_for_each_shape(tmp_path, data, encoders):
    """By hand: updates * seconds an update / rate, and seconds of audio / rate."""
    asked = []

    def training(name, found, shape, seconds):
        asked.append((name, found.frozen, shape.encoder.width, shape.symbols, seconds))
        return 8.0

    def emissions(name, shape, seconds):
        asked.append(name)
        return 4.0

    parts = outlook(recipe(tmp_path, encoders), data, tmp_path / "out", Ways(cells=Trials(training, emissions)))
    each = pytest.approx(1.05)
    assert asked == [("3min: scratch, seed 0", False, 32, 29, each), "3min: scratch, seed 0",
                     ("3min: frozen, seed 0", True, 32, 29, each)]
    for part in parts[2:]:  # one utterance of 1.05 s an update: two do not fit into its 2 s
        assert [stage.seconds for stage in part.stages] == [
            pytest.approx(2 * 1.05 / 8), *[pytest.approx(3 * 1.05 / 4)] * 2, None]


def test_of_a_comparison_that_is_done_there_is_nothing_to_do(done, data):
    found, out, _ = done
    before = written(out, data)
    parts = outlook(found, data, out)
    assert written(out, data) == before
    assert set(state(parts).values()) == {("done", "")}
    assert {(part.state, part.why, *part.ahead) for part in parts} == {("done", "")}
    for part in parts:
        for stage in part.stages:
            record = read_stage(out / stage.stage)
            assert (stage.seconds, stage.bytes) == (record["seconds"], record["bytes"])


@pytest.mark.parametrize(("change", "stale", "why", "depends"), [
    (lambda r: replace(r, finetune=replace(r.finetune, training=replace(r.finetune.training, updates=3))),
     "recogniser", "training.updates 2 -> 3", dict.fromkeys(KINDS[1:], "recogniser")),
    (lambda r: replace(r, decoding=replace(r.decoding, beam=3)), "decoded", "beam 2 -> 3", {}),
    (lambda r: replace(r, lm=replace(r.lm, order=3)), "lm", "order 2 -> 3", {"decoded": "lm"})],
    ids=["training", "decoding", "model"])
def test_what_changed_is_stale_and_what_is_made_of_it_depends(done, data, change, stale, why, depends):
    found, out, _ = done
    before = written(out)
    parts = outlook(change(found), data, out)
    seen = state(parts)
    assert written(out) == before
    for cell in sorted((out / "cells").iterdir()):
        for kind in KINDS:
            expected = ("stale", why) if kind == stale else ("done", "")
            if kind in depends:
                on = depends[kind]
                expected = ("depends", f"on {on if on == 'lm' else f'cells/{cell.name}/{on}'}")
            assert seen[f"cells/{cell.name}/{kind}"] == expected
    assert seen["lm"] == (("stale", why) if stale == "lm" else ("done", ""))
    first = next(part for part in parts if part.name == "3min: other, seed 5")
    assert (first.state, first.why) == {
        "recogniser": ("stale", f"recogniser: {why}"), "decoded": ("stale", f"decoded: {why}"),
        "lm": ("depends", "decoded: on lm")}[stale]


def test_only_cells_of_an_encoder_that_changed_are_stale(done, data, encoders, tmp_path):
    changed = shutil.copytree(encoders, tmp_path / "encoders")
    shutil.rmtree(changed / "two")
    save_encoder(Encoder(SHAPE).initialise(9), changed / "two", {})
    found = replace(done[0], encoders={name: replace(other, encoder=other.encoder.replace(str(encoders), str(changed)))
                                       for name, other in done[0].encoders.items()})
    stale = [part.name for part in outlook(found, data, done[1]) if part.state == "stale"]
    assert stale == ["3min: other, seed 0", "3min: other, seed 5"]


def test_time_follows_from_what_was_measured_in_the_run(done, data):
    def asked(*given):
        raise AssertionError("what was measured is not tried")

    found, out, _ = done
    more = replace(found, finetune=replace(found.finetune, training=replace(found.finetune.training, updates=50)))
    parts = {part.name: part for part in outlook(more, data, out, Ways(cells=Trials(asked, asked)))}
    speeds = [r["audio_seconds_per_second"] for cell in (out / "cells").glob("3min-frozen*")
              for r in read_metrics(cell / "recogniser", "train")]
    told = dict(zip(KINDS, parts["3min: frozen, seed 5"].stages))
    assert told["recogniser"].seconds == pytest.approx(50 * 1.05 / np.median(speeds))
    assert told["decoded"].seconds in [read_stage(cell / "decoded")["seconds"] for cell in (out / "cells").iterdir()]
    assert told["emissions-test"].seconds in [
        pytest.approx(read_stage(path)["seconds"]) for path in (out / "cells").glob("*/emissions-*")]
    assert {one.seconds for part in outlook(replace(found, decoding=replace(found.decoding, beam=3)), data, out)
            for one in part.ahead} == {None}, "another beam takes another time"


def test_a_training_that_was_stopped_is_gone_on_with(done, data, tmp_path):
    out = shutil.copytree(done[1], tmp_path / "out")
    record = read_stage(out / "cells/3min-other/recogniser")
    write_json(out / "cells/3min-other/recogniser/stage.json", {**record, "state": "running"})
    part = next(part for part in outlook(done[0], data, out) if part.name == "3min: other, seed 0")
    assert (part.state, part.why) == ("unfinished", "")
    assert part.stages[1].why == "on cells/3min-other/recogniser"


def test_a_comparison_takes_no_more_disk_than_the_dry_run_says(done, data, tmp_path):
    found, out, _ = done
    most = {stage.stage: stage.bytes for part in outlook(found, data, tmp_path / "no") for stage in part.stages}
    assert most.pop("lm") is None
    assert {name: (folder_bytes(out / name), said) for name, said in most.items()
            if folder_bytes(out / name) > said} == {}
    weights = (out / "cells/3min-other/recogniser/model.safetensors").stat().st_size
    assert most["cells/3min-other/recogniser"] == pytest.approx(7 * weights, rel=0.2), "two checkpoints of three"


def test_a_comparison_that_is_under_way_is_refused(done, data):
    """Rates were tried beside it, half as high as they are alone; its pretraining alone was refused."""
    with locked(done[1]), pytest.raises(BusyError, match="another process works here"):
        outlook(done[0], data, done[1])


def test_what_is_wrong_is_said_as_the_run_would_say_it(done, data, encoders, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        outlook(done[0], tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UsageError, match="this very comparison makes it"):
        outlook(recipe(tmp_path, encoders, f"encoders.other.encoder={done[1]}/cells/3min-frozen/recogniser"), data,
                done[1])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/results.json").write_text("{}")
    with pytest.raises(UsageError, match="is left as it is"):
        outlook(done[0], data, tmp_path / "taken")
    given = shutil.copytree(data, tmp_path / "data")
    out = shutil.copytree(done[1], tmp_path / "out")
    (given / "splits/labelled.txt").write_text("u00 u01 u02 u03 u04")
    (given / "splits/dev.txt").write_text("u05 u06 u07")
    outlook(done[0], given, out)
    lm = (out / "lm/lm.arpa").read_text()
    (out / "lm/lm.arpa").write_text("".join(line.translate(str.maketrans("ABC", "XYZ")) if "\t" in line else line
                                            for line in lm.splitlines(keepends=True)))
    with pytest.raises(InputError, match=r"^lm\.text, cell '3min: scratch': the language model has 0%"):
        outlook(done[0], given, out)


def test_the_command_shows_the_parts_and_makes_nothing(tmp_path, data, encoders, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with_rounds(tmp_path, encoders)
    words = ["bench", "low-resource", str(tmp_path / "mine.yaml"), "--data", str(data), "--out", str(tmp_path / "out"),
             "--dry-run"]
    assert command([*words, "--ranks", "1"]) == 0
    said = capsys.readouterr()
    assert [line.split("│")[1].strip() for line in said.out.splitlines() if "│ " in line] == [
        "splits", "language model", *(f"3min: {name}, seed {seed}" for seed in (0, 5)
                                      for name in ("scratch", "frozen", "other"))]
    assert "26 stages to do: about " in said.out
    assert "; of 6 nothing says how long; " in said.out
    assert "\n+: and more, of which nothing says how much\n" in said.out
    assert "MB of disk at most, but of 1 nothing says how much" in said.out
    assert "3min: scratch, seed 0: trying a short batch, to say how long the training takes" in said.err
    assert not (tmp_path / "out").exists()
    assert command([*words, "--ranks", "2"]) == 2
    assert "2 ranks cannot share 1 micro-batches evenly" in capsys.readouterr().err


def test_a_dry_run_warns_of_schedules_that_are_cut_short_once_for_all_cells_of_the_same(tmp_path, data, encoders,
                                                                                           capsys):
    """The training said so, hours later."""
    words = ["finetune.training.optimiser.warmup_updates=2"]
    parts = outlook(with_rounds(tmp_path, encoders, *words, "pretrain.training.optimiser.warmup_updates=9"), data,
                    tmp_path / "out")
    show_parts(parts)
    assert [line for line in capsys.readouterr().err.splitlines() if "warning" in line] == [
        "warning: 3min: scratch, seed 0 and 5 more: the rate never reaches its peak: "
        "training.optimiser.warmup_updates=2 of training.updates=2; lower it",
        "warning: round 1 and 1 more: the rate never reaches its peak: training.optimiser.warmup_updates=9 of "
        "training.updates=3; lower it"]


def test_of_a_training_that_is_done_no_dry_run_warns(done, data, capsys):
    found, out, _ = done
    show_parts([replace(part, missed="the rate never falls") for part in outlook(found, data, out)])
    assert "never" not in capsys.readouterr().err


def test_a_language_model_is_looked_at_and_timed_by_its_text_before_it_is_made(tmp_path, data, encoders):
    """Nothing was said of it, and a text of other words was refused by the run alone."""
    found, given, asked = recipe(tmp_path, encoders), shutil.copytree(data, tmp_path / "data"), []
    ways = Ways(lm=lambda text, lm: asked.append((text, lm.order)) or 7.0)
    assert outlook(found, given, tmp_path / "out", ways)[1].stages[0].seconds == 7
    assert asked == [(given / "text", 2)]
    (given / "text").write_text("BAD WORDS\n")
    with pytest.raises(InputError, match=r"^lm\.text, cell '3min: scratch': the language model has 0% of the 6 words"):
        outlook(found, given, tmp_path / "out")


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_a_folder_that_cannot_be_is_refused_by_a_dry_run_as_well(tmp_path, capsys, monkeypatch, more):
    """All was to be done there, and the run itself was refused."""
    monkeypatch.setattr("tools.bench.run", lambda *given: pytest.fail("it ran"))
    monkeypatch.setattr("tools.bench.low_resource_outlook", lambda *given: [])
    (tmp_path / "file").touch()
    words = ["bench", "low-resource", "librispeech-mini-light", "--data", str(tmp_path), "--out"]
    assert command([*words, str(tmp_path / "file/out"), *more]) == 2
    assert "file: a file stands where a folder is needed; give another --out" in capsys.readouterr().err


def test_a_sum_says_where_more_is_not_known(done, data, capsys):
    found, out, _ = done
    show_parts(outlook(replace(found, decoding=replace(found.decoding, beam=3)), data, out))
    said = capsys.readouterr().out
    assert "6 stages to do; of 6 nothing says how long; " in said
    assert "\n+: " not in said
    show_parts(outlook(replace(found, seeds=(0, 5, 6)), data, out, Ways(cells=Trials(lambda *given: 8.0))))
    assert "3min: other, seed 6" in (said := capsys.readouterr().out)
    assert "12 stages to do: about " in said
    assert "nothing says" not in said


@pytest.mark.processes
def test_cells_depend_on_their_round(tmp_path, data, encoders):
    found = with_rounds(tmp_path, encoders, "seeds=[]")
    compare_encoders(found, data, tmp_path / "out", "hubertkit bench", lambda line: None)
    parts = outlook(found, data, tmp_path / "out")
    assert set(state(parts).values()) == {("done", "")}
    *rounds, = found.pretrain.rounds
    rounds[1] = replace(rounds[1], teacher=replace(rounds[1].teacher, clusters=6))
    before = written(tmp_path / "out", data)
    parts = outlook(replace(found, pretrain=replace(found.pretrain, rounds=tuple(rounds))), data, tmp_path / "out")
    assert written(tmp_path / "out", data) == before
    assert [(part.name, part.state) for part in parts[2:]] == [
        ("3min: scratch", "done"), ("round 1", "done"), ("round 2", "stale"), ("3min: round 2", "depends"),
        ("3min: round 1", "done")]
    assert "clusters" in parts[4].why
    assert parts[4].stages[1].why == "on pretrain/round2/teacher"
    assert parts[5].why == "recogniser: on pretrain/round2/encoder"
