"""A part of a self-training: from a stage on, until a stage; what a dry run says of it, and what `status` shows."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_selftraining import LEARNING, STAGES, STUDENT, quiet, recipe, redone
from test_finetune import SHAPE

from downstream import finetune as finetuning
from downstream.decode.choice import Name
from downstream.decode.recipe import DecodingRecipe
from downstream.emissions import Emissions
from downstream.finetune_recipe import FinetuneRecipe
from downstream.finetune_trial import Shape, emission_rate, training_rate
from downstream.heads.recipe import HeadRecipe
from downstream.recognition_outlook import Trials
from downstream.selftrain import selftrain
from downstream.selftrain_outlook import outlook
from downstream.selftrain_recipe import FilterRecipe, TuningRecipe
from downstream.selftrain_stages import stage_names
from downstream.selftrain_start import check_selftrain
from tools.main import run as command
from upstream.audio import Manifest
from upstream.course import Course, following
from upstream.disk import folder_bytes, write_json
from upstream.errors import BusyError, UsageError
from upstream.locks import locked
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe
from upstream.recipe import load_recipe
from upstream.run_stages import note_stages, refuse_other_stages
from upstream.stage import read_stage, run_stage
from upstream.training.monitor import read_metrics

CPU = torch.device("cpu")
GREEDY = DecodingRecipe(decoder=Name.greedy)
# Seconds of an update, of utterances of 1.05 s of which three fit into its 4: of four labelled ones, a mean of 3 and 1;
# of these twice and six others, of 3, 3, 3, 3 and 2.
LABELLED, ALL = 4 * 1.05 / 2, 14 * 1.05 / 5


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr("downstream.decode.pool.available_cores", lambda: 1)


@pytest.fixture
def corpus(selftrain_corpus):
    return selftrain_corpus


@pytest.fixture
def run(selftrain_run, tmp_path):
    """A finished run of one's own."""
    shutil.copytree(selftrain_run[0], tmp_path / "run")
    return tmp_path / "run"


def worked(chosen, out, **part):
    """The stages that a run works on."""
    said, course = [], Course(out, **part)
    course.check(stage_names(chosen, check_selftrain(chosen, out, quiet)))
    with following(course):
        selftrain(chosen, out, said.append)
    return redone(said)


def rows(out):
    return [row["round"] for row in json.loads((out / "selftrain.json").read_text())["rounds"]]


def state(chosen, out, **given):
    return {found.stage: (found.state, found.why) for found in outlook(chosen, out, **given)}


def test_until_a_stage_and_then_on(run, corpus):
    chosen = recipe(corpus, labelled_repeats=1)
    assert worked(chosen, run, last="round1/emissions") == []
    assert worked(chosen, run, last="round1/data") == ["round1/data"]
    assert read_stage(run / "round1/recogniser")["inputs"]["data"] != read_stage(run / "round1/data")["result"]["hash"]
    assert worked(chosen, run) == STAGES[7:], "what was labelled is as before, so its diagnosis is"


def test_a_run_that_ends_with_a_round_has_written_what_the_round_gave(run, corpus):
    """The results are written after a round's last stage, with which the run ends."""
    (run / "selftrain.json").unlink()
    assert worked(recipe(corpus), run, last="round0") == []
    assert rows(run) == [0]
    assert worked(recipe(corpus), run, last="round1") == []
    assert rows(run) == [0, 1]


def test_from_a_stage_on_everything_is_done_anew_and_the_same_command_without_until_goes_on(run, corpus):
    chosen, before = recipe(corpus), read_stage(run / "round1/hypotheses")
    part = {"first": "round1/data", "last": "round1/recogniser"}
    asked = [found.stage for found in outlook(chosen, run, **part) if found.anew]
    assert asked == STAGES[5:], "those after the last are looked at as well"
    assert worked(chosen, run, **part) == STAGES[5:8]
    assert worked(chosen, run, first="round1/data") == STAGES[8:]
    assert read_stage(run / "round1/hypotheses") == before
    assert not (run / "anew.json").exists()
    assert worked(chosen, run, first="round1", last="round1/emissions") == ["round1/emissions"]


def test_parts_that_are_none_are_refused(run, corpus, tmp_path):
    with pytest.raises(UsageError, match="--from nix: no such stage; this run has round0/recogniser, round0/dev-emis"):
        worked(recipe(corpus), run, first="nix")
    with pytest.raises(UsageError, match=r"--until round2: no such stage; this run has .*, round1/tuned$"):
        worked(recipe(corpus), run, last="round2")
    with pytest.raises(UsageError, match="--from round1/data comes after --until round0/tuned"):
        worked(recipe(corpus), run, first="round1/data", last="round0")
    for wanted in (lambda chosen, out: outlook(chosen, out, first="round1"),
                   lambda chosen, out: worked(chosen, out, first="round1")):
        with pytest.raises(UsageError, match=r"--from round1/emissions: round0/tuned before it is stale \(tuning.dec"):
            wanted(recipe(corpus, tuning=TuningRecipe(decodes=4)), run)
        with pytest.raises(UsageError, match="round0/recogniser before it is to do; leave --from out"):
            wanted(recipe(corpus), tmp_path / "nothing")
    assert read_stage(run / "round0/tuned")["state"] == "done"


def test_a_given_recogniser_has_no_stage_and_a_diagnosis_needs_transcripts(selftrain_run, corpus, tmp_path):
    whole = Manifest.load(corpus / "train.arrow")
    whole.with_texts([None] * len(whole)).save(tmp_path / "silent.arrow")
    found = recipe(corpus, recogniser=str(selftrain_run[0] / "round0/recogniser"), rounds=2,
                   unlabelled=str(tmp_path / "silent.arrow"))
    one = ["emissions", "hypotheses", "data", "recogniser", "dev-emissions", "tuned"]
    assert stage_names(found, check_selftrain(found, tmp_path / "out", quiet)) == [
        "round0/dev-emissions", "round0/tuned", *(f"round{n}/{kind}" for n in (1, 2) for kind in one)]


def test_an_outlook_says_what_would_be_done_and_does_nothing(run, corpus, tmp_path):
    assert state(recipe(corpus), tmp_path / "nothing") == dict.fromkeys(STAGES, ("to do", ""))
    assert not (tmp_path / "nothing").exists()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert state(recipe(corpus), run) == dict.fromkeys(STAGES, ("done", ""))
    found = state(recipe(corpus, tuning=TuningRecipe(decodes=4)), run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert found["round0/tuned"] == ("stale", "tuning.decodes 3 -> 4")
    assert found["round1/emissions"] == ("done", ""), "which are made of the recogniser alone"
    assert {found[name] for name in [*STAGES[4:]]} == {("depends", "on round0/tuned")}


@pytest.mark.parametrize(("changes", "first", "why"), [
    ({"filter": FilterRecipe(keep=0.9)}, "round1/data", "filter.keep 0.5 -> 0.9"),
    ({"student": {"training": {**STUDENT["training"], "updates": 3}}}, "round1/recogniser", "training.updates 4 -> 3"),
    ({"finetune": dataclasses.replace(recipe(Path()).finetune, seed=1)}, "round0/recogniser", "seed 0 -> 1")])
def test_what_is_made_of_a_stale_stage_depends_on_it(run, corpus, changes, first, why):
    found = state(recipe(corpus, **changes), run)
    place = STAGES.index(first)
    assert {found[name] for name in STAGES[:place]} <= {("done", "")}
    assert found[first][0] == "stale"
    assert why in found[first][1]
    assert {found[name] for name in STAGES[place + 1:]} == {("depends", f"on {first}")}


def test_nothing_waits_for_a_diagnosis_or_another_rate_on_dev(run, corpus, tmp_path):
    whole = Manifest.load(corpus / "train.arrow")
    whole.with_texts(["A LIE"] * len(whole)).save(tmp_path / "train.arrow")
    found = state(recipe(corpus, unlabelled=str(tmp_path / "train.arrow")), run)
    assert found.pop("round1/diagnosis")[0] == "stale"
    assert set(found.values()) == {("done", "")}
    given = recipe(corpus, recogniser=str(run / "round0/recogniser"), decoding=GREEDY)
    selftrain(given, tmp_path / "given", quiet)
    Manifest.load(corpus / "dev.arrow").select([0, 1]).save(tmp_path / "dev.arrow")
    found = state(dataclasses.replace(given, dev=str(tmp_path / "dev.arrow")), tmp_path / "given")
    assert {name: found[name][0] for name in found} == {
        "round0/dev-emissions": "stale", "round0/tuned": "depends", "round1/emissions": "done",
        "round1/hypotheses": "done", "round1/data": "done", "round1/diagnosis": "done", "round1/recogniser": "stale",
        "round1/dev-emissions": "depends", "round1/tuned": "depends"}, "validations hear dev, labels are made without"


def test_an_outlook_goes_on_with_a_student_that_was_stopped(run, corpus, monkeypatch):
    chosen = recipe(corpus, student={"training": {"updates": 30, "validate_every": 30, "save_every": 2}})
    real = finetuning.train

    def stopped(task, training, folder, **named):
        real(task, dataclasses.replace(training, updates=6), folder, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        selftrain(chosen, run, quiet)
    found = {stage.stage: stage for stage in outlook(chosen, run)}
    assert found["round1/recogniser"].state == "unfinished"
    assert (found["round1/tuned"].state, found["round1/tuned"].why) == ("depends", "on round1/recogniser")
    [anew] = [stage for stage in outlook(chosen, run, first="round1/recogniser") if stage.stage == "round1/recogniser"]
    assert anew.anew
    assert found["round1/recogniser"].seconds == pytest.approx(anew.seconds * 24 / 30)


def test_a_run_that_is_under_way_is_refused(run, corpus):
    """Rates were tried beside it, half as high as they are alone."""
    with locked(run), pytest.raises(BusyError, match="another process works here"):
        outlook(recipe(corpus), run)


def test_time_follows_from_what_was_measured_in_the_run(run, corpus):
    speeds = [r["audio_seconds_per_second"] for name in ("round0", "round1")
              for r in read_metrics(run / name / "recogniser", "train")]

    def asked(*given):
        raise AssertionError("what was measured is not tried")

    found = {stage.stage: stage.seconds for stage in outlook(recipe(corpus, finetune=FinetuneRecipe(
        architecture=SHAPE, training=dataclasses.replace(LEARNING, updates=50))), run, Trials(asked, asked))}
    assert found["round0/recogniser"] == pytest.approx(50 * LABELLED / np.median(speeds))
    assert found["round1/recogniser"] == pytest.approx(4 * ALL / np.median(speeds))
    heard = [(Manifest.load(corpus / "dev.arrow").seconds, read_stage(run / f"round{n}/dev-emissions")["seconds"])
             for n in (0, 1)]
    whole = Manifest.load(corpus / "train.arrow").select(range(4, 10)).seconds
    most = max([*heard, (whole, read_stage(run / "round1/emissions")["seconds"])])
    assert found["round0/dev-emissions"] == pytest.approx(heard[0][0] * most[1] / most[0])
    assert found["round1/emissions"] == pytest.approx(whole * most[1] / most[0])
    for name in ("round0/tuned", "round1/hypotheses", "round1/data", "round1/diagnosis"):
        assert found[name] == read_stage(run / name)["seconds"]


def test_what_another_shape_or_decoder_took_says_nothing(run, corpus):
    tried = Trials(lambda *given: 8.0, lambda *given: 5.0)
    wide = dataclasses.replace(SHAPE, width=64)
    finetune = dataclasses.replace(recipe(corpus).finetune, architecture=wide)
    found = {stage.stage: stage.seconds for stage in outlook(recipe(corpus, finetune=finetune, decoding=GREEDY), run,
                                                            tried)}
    assert found["round0/recogniser"] == pytest.approx(110 * LABELLED / 8)
    assert found["round1/dev-emissions"] == pytest.approx(Manifest.load(corpus / "dev.arrow").seconds / 5)
    assert found["round0/tuned"] is found["round1/hypotheses"] is None
    bf16 = dataclasses.replace(finetune, architecture=SHAPE, training=dataclasses.replace(LEARNING, precision="bf16"))
    found = {stage.stage: stage.seconds for stage in outlook(recipe(corpus, finetune=bf16), run, tried)}
    assert found["round1/recogniser"] == pytest.approx(4 * ALL / 8)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 1, "encoder": {"widht": 3}}'])
def test_a_recogniser_whose_description_is_damaged_says_nothing_of_time(run, corpus, content):
    for number in (0, 1):
        (run / f"round{number}/recogniser/hubertkit.json").write_text(content)
    changed = {"training": {**STUDENT["training"], "updates": 3}}
    found = outlook(recipe(corpus, student=changed), run, Trials(lambda *given: 8.0))
    assert [stage.seconds for stage in found if stage.stage == "round1/recogniser"] == [pytest.approx(3 * ALL / 8)]


def test_what_nobody_measured_is_tried_once_for_each_shape(selftrain_run, corpus, tmp_path):
    """By hand: updates * seconds an update / rate, and seconds of audio / rate."""
    asked = []

    def training(name, found, shape, seconds):
        asked.append((name, shape.encoder.width, shape.symbols, seconds))
        return 8.0

    def emissions(name, shape, seconds):
        asked.append((name, shape.encoder.width))
        return 4.0

    each = pytest.approx(1.05)
    chosen, tried = recipe(corpus, rounds=2), Trials(training, emissions)
    found = {stage.stage: stage.seconds for stage in outlook(chosen, tmp_path / "no", tried)}
    assert asked == [("round0", 32, 29, each), ("round0", 32)]
    assert found["round0/recogniser"] == pytest.approx(110 * LABELLED / 8)
    assert found["round2/recogniser"] == pytest.approx(4 * ALL / 8)
    assert found["round2/dev-emissions"] == Manifest.load(corpus / "dev.arrow").seconds / 4
    assert found["round1/hypotheses"] is None
    asked.clear()
    given = recipe(corpus, recogniser=str(selftrain_run[0] / "round0/recogniser"), start="recogniser",
                   finetune=FinetuneRecipe(training=LEARNING, frozen=True), student={"head": {"kind": "bilstm"}})
    outlook(given, tmp_path / "no", tried)
    assert asked == [("round0", 32), ("round1", 32, 29, each), ("round1", 32)], "the head of a student is another"


@pytest.mark.parametrize("changes", [{}, {"frozen": True}, {"head": HeadRecipe("bilstm", "mix", width=8, depth=1)}],
                         ids=["plain", "frozen", "bilstm"])
def test_a_trial_takes_steps_of_the_recipes_own_shape(changes):
    found = FinetuneRecipe(architecture=SHAPE, training=LEARNING, **changes)
    shape = Shape(SHAPE, found.head, 29)
    assert training_rate(found, shape, 0.7, CPU) > 0
    assert emission_rate(shape, 0.7, CPU) > 0


@pytest.mark.parametrize("changes", [{}, {"filter": FilterRecipe(), "labelled_repeats": 12}], ids=["half", "all"])
def test_a_run_takes_no_more_disk_than_the_dry_run_says(corpus, run, tmp_path, changes):
    chosen = recipe(corpus, **changes)
    most = {stage.stage: stage.bytes for stage in outlook(chosen, tmp_path / "nothing")}
    if changes:
        selftrain(chosen, run, quiet)
    taken = {name: folder_bytes(run / name) for name in STAGES}
    assert {name: (taken[name], said) for name, said in most.items() if taken[name] > said} == {}
    values = 29 * 2 * sum(len(Emissions.load(run / "round1/emissions").logprobs(i)) for i in
                          Manifest.load(corpus / "train.arrow").ids[4:])
    assert values < most["round1/emissions"] < values + 110_000
    weights = sum(path.stat().st_size for path in (run / "round1/recogniser").glob("*.safetensors"))
    assert most["round1/recogniser"] == pytest.approx(10 * weights, rel=0.15), "as `pretrain`: three checkpoints"


@pytest.fixture
def wide(monkeypatch):
    """A terminal in which no cell of a table is broken."""
    monkeypatch.setenv("COLUMNS", "200")


def shown(capsys, run):
    assert command(["status", str(run)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "│ " in line]
    return {line.split("│")[1].strip(): line.split("│")[2].strip() for line in lines}


def test_status_shows_the_stages_of_a_self_training(run, corpus, capsys, wide):
    assert list(shown(capsys, run).items()) == [(name, "done") for name in STAGES]
    worked(recipe(corpus, filter=FilterRecipe(keep=0.9)), run, last="round1/data")
    assert shown(capsys, run) == dict.fromkeys(STAGES[:6], "done") | {
        "round1/diagnosis": "stale: other labels", "round1/recogniser": "stale: other data",
        "round1/dev-emissions": "stale: old recogniser", "round1/tuned": "stale: old emissions"}
    shutil.rmtree(run / "round1/tuned")
    assert shown(capsys, run)["round1/tuned"] == "to do"


def test_status_knows_what_was_decoded_with_weights_that_are_no_longer_those(run, corpus, capsys, wide):
    record = read_stage(run / "round0/tuned")
    record["result"]["lm_weight"] += 0.5
    write_json(run / "round0/tuned/stage.json", record)
    found = shown(capsys, run)
    assert found["round0/tuned"] == found["round1/emissions"] == "done"
    assert found["round1/hypotheses"] == "stale: other decoding"
    assert found["round1/data"] == "stale: old hypotheses"


def test_status_leaves_out_rounds_of_an_earlier_recipe(run, corpus, capsys, wide):
    run_stage(run / "round2/emissions", "emissions", version=1, settings={}, inputs={}, say=quiet,
              work=lambda folder: {"hash": "h"})
    run_stage(run / "round2/mine", "recogniser", version=1, settings={}, inputs={}, say=quiet,
              work=lambda folder: {"hash": "h"})
    found = shown(capsys, run)
    assert (found["round2/emissions"], found["round2/mine"]) == ("of an earlier recipe", "done")


def test_runs_of_two_kinds_do_not_share_a_folder(run, corpus, tmp_path):
    """Each would write the list of its stages over the other's."""
    with pytest.raises(UsageError, match=r"run: holds the stages of a self-training; give this pretraining a folder"):
        refuse_other_stages(run)
    note_stages(tmp_path / "pretrained", ["corpus", "round1/teacher"], {})
    with pytest.raises(UsageError, match=r"holds the stages of a pretraining; give this self-training a folder of its"):
        check_selftrain(recipe(corpus), tmp_path / "pretrained", quiet)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/stages.json").write_text("[]")
    with pytest.raises(UsageError, match="no run of ours wrote it"):
        check_selftrain(recipe(corpus), tmp_path / "other", quiet)


def words(corpus, *more):
    (corpus / "small.yaml").write_text(f"""
labelled: {corpus / 'labelled.arrow'}
unlabelled: {corpus / 'train.arrow'}
dev: {corpus / 'dev.arrow'}
decoding: {{decoder: greedy}}
finetune:
  architecture: {{frontend: fbank, width: 32, layers: 2, heads: 2, ffn: 64, positional_kernel: 15,
                 positional_groups: 2}}
  training: {{updates: 3, batch_seconds: 4, micro_batch_seconds: 4, precision: float32}}
""")
    return ["selftrain", str(corpus / "small.yaml"), "--ranks", "1", *more]


def test_the_command_says_what_it_would_do_and_does_a_part(corpus, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert command(words(corpus, *out, "--dry-run", "--until", "round0")) == 0
    said = capsys.readouterr()
    assert re.search(r"3 stages to do: about \d+ s; of 1 nothing says how long; \d+ MB of disk at most", said.out)
    assert "round0: trying a short batch, to say how long the training takes" in said.err
    assert not (tmp_path / "out").exists()
    assert command(words(corpus, *out, "--until", "round0/recogniser")) == 0
    said = capsys.readouterr()
    assert said.err.endswith("stopped after round0/recogniser, as asked; the same command without --until goes on\n")
    assert said.out == ""
    assert command(words(corpus, *out, "--dry-run")) == 0
    assert "9 stages to do" in capsys.readouterr().out
    assert command(words(corpus, *out, "--dry-run", "--until", "round0/recogniser")) == 0
    assert "nothing to do" in capsys.readouterr().out
    for more, says in ((["--from", "round3"], "--from round3: no such stage; this run has round0/recogniser,"),
                       (["--from", "round1", "--dry-run"], "--from round1/emissions: round0/dev-emissions before it is "
                                                           "to do"),
                       (["--dry-run", "--ranks", "2"], "2 ranks cannot share 1 micro-batches evenly")):
        assert command(words(corpus, *out, *more)) == 2
        assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_dry_run_looks_at_the_sets_once(run, corpus, monkeypatch, capsys):
    """Which takes minutes where there are hundreds of thousands of files."""
    def again(*given):
        raise AssertionError("they have been looked at")

    for module in ("selftrain", "selftrain_outlook"):
        monkeypatch.setattr(f"downstream.{module}.check_selftrain", again)
    assert command(words(corpus, "--out", str(run), "--dry-run")) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "4 of 10 unlabelled utterances are labelled too, and keep their transcripts"
    assert "10 stages to do" in said.out


def test_a_pretraining_is_not_begun_in_the_folder_of_a_self_training(run, corpus, capsys):
    assert command(["pretrain", "hubert-tiny", f"data={corpus / 'train.arrow'}", "--out", str(run), "--ranks", "1",
                    "--dry-run"]) == 2
    assert "holds the stages of a self-training" in capsys.readouterr().err
    assert load_recipe(PretrainRecipe, "hubert-tiny", [], SHIPPED)
