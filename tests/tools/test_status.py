"""`hubertkit status`: the stages of a run, and whether its trainings look healthy."""

import contextlib
import json

import pytest
import torch
from small_rounds import write_recordings

from tools.main import run
from upstream.audio.corpora.folder import import_folder
from upstream.locks import busy, locked
from upstream.run_stages import note_stages
from upstream.stage import run_stage


def make(folder, losses, inputs=None, **valid):
    def work(target):
        records = [{"update": 100 * (i + 1), "kind": "train", "loss": loss} for i, loss in enumerate(losses)]
        records.append({"update": 100 * len(losses), "kind": "valid", "loss": losses[-1],
                        **(valid or {"label_entropy": 4.4})})
        (target / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        return {"hash": "h"}

    run_stage(folder, "encoder", version=1, settings={}, inputs=inputs or {}, work=work, say=lambda line: None)


def test_status_names_a_training_whose_labels_do_not_fit(tmp_path, capsys):
    make(tmp_path / "round1/encoder", [4.4, 4.39, 4.38, 4.38])
    make(tmp_path / "round2/encoder", [4.3, 3.9, 3.5, 3.2])
    assert run(["status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("done" in line for line in lines) == 2
    assert [line for line in lines if line.startswith("round1/encoder: broken: after 400 updates")]
    assert [line for line in lines if line.startswith("round2/encoder:")] == [
        "round2/encoder: looks healthy after 400 updates, loss 3.20 nats (4.62 bits)"]


def test_status_says_that_a_training_stopped_itself_over_updates_that_were_not_finite(tmp_path, capsys):
    """It was too early to say, for no record had a loss."""
    make(tmp_path / "round1/encoder", [4.4])
    skipped = tmp_path / "round1/encoder/skipped.jsonl"
    skipped.write_text("".join(json.dumps({"update": u, "utterances": ["u1"]}) + "\n" for u in range(101, 121)))
    assert run(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "round1/encoder: broken: the last 20 updates, to update 120, were not finite; lower" in said
    assert "too early" not in said
    skipped.write_text("".join(json.dumps({"update": u, "utterances": ["u1"]}) + "\n" for u in range(61, 81)))
    run(["status", str(tmp_path)])
    assert "not finite" not in capsys.readouterr().out, "the run has gone on since"


def test_status_does_not_judge_by_units_of_an_earlier_recipe(tmp_path, capsys):
    """wav2vec 2.0 in the folder of an older HuBERT run: its loss, over a hundred negatives, was held against the
    entropy of the ten classes of units that it never saw."""
    def left(name, result):
        run_stage(tmp_path / name, name.rpartition("/")[2], version=1, settings={"features": "mfcc"},
                  inputs={"teacher": "t"}, work=lambda target: result, say=lambda line: None)

    def said():
        assert run(["status", str(tmp_path)]) == 0
        return capsys.readouterr().out

    left("round1/teacher", {"hash": "t"})
    left("round1/units", {"hash": "u", "histogram": [[10] * 10]})
    falling = [4.4, 3.9, 3.5, 3.2]
    make(tmp_path / "round1/encoder", falling, {"units": "u"}, code_perplexity=40)
    assert "round1/encoder: broken: after 400 updates the loss, 3.20 nats" in said(), "of ten classes"
    make(tmp_path / "round1/encoder", falling, code_perplexity=40)
    make(tmp_path / "round2/encoder", [4.4, 4.39, 4.38, 4.38])
    note_stages(tmp_path, ["corpus", "round1/encoder"], {})
    found = said()
    assert "round1/encoder: nothing stands out" in found
    assert "round2/encoder: " not in found
    assert {line.split()[1]: "of an earlier recipe" in line for line in found.splitlines() if "│ r" in line} == {
        "round1/encoder": False, "round1/teacher": True, "round1/units": True, "round2/encoder": True}
    make(tmp_path / "round1/encoder", falling, {"units": "others"}, code_perplexity=40)
    assert "broken" not in said(), "the units have been made anew since"


def test_what_is_put_aside_is_no_stage(tmp_path, capsys):
    make(tmp_path / "round1/encoder", [4.4])
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "round1/encoder", "encoder", version=2, settings={}, inputs={}, work=interrupted,
                  say=lambda line: None)
    assert (tmp_path / "round1/encoder/.before/stage.json").is_file()
    assert run(["status", str(tmp_path)]) == 0
    assert ".before" not in capsys.readouterr().out


def interrupted(folder):
    raise KeyboardInterrupt


def test_status_lists_stages_as_the_run_comes_to_them(tmp_path, capsys):
    """They stood in the order of their last start, those that were done anew at the end."""
    for name in ("corpus", "round2/units", "round1/units", "round1/teacher"):
        run_stage(tmp_path / name, name.rpartition("/")[2], version=1, settings={}, inputs={},
                  work=lambda target: {"hash": "h"}, say=lambda line: None)
    note_stages(tmp_path, ["corpus", "round1/teacher", "round1/units", "round2/units"], {})
    assert run(["status", str(tmp_path)]) == 0
    found = [line.split()[1] for line in capsys.readouterr().out.splitlines() if " done " in line]
    assert found == ["corpus", "round1/teacher", "round1/units", "round2/units"]


def test_status_tells_a_running_stage_from_an_interrupted_one(tmp_path, capsys):
    def killed(target):
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), locked(tmp_path):
        run_stage(tmp_path / "round1/units", "units", version=1, settings={}, inputs={}, work=killed,
                  say=lambda line: None)
    run(["status", str(tmp_path)])
    assert "interrupted" in capsys.readouterr().out
    assert not busy(tmp_path)
    with locked(tmp_path):
        assert busy(tmp_path)
        run(["status", str(tmp_path)])
        assert "running" in capsys.readouterr().out
    assert not busy(tmp_path / "nowhere")


def test_status_says_which_stage_was_made_of_something_that_has_changed(tmp_path, capsys):
    for kind, version, given, hash_ in (("corpus", 1, {}, "c"), ("round1/teacher", 1, {"manifest": "c"}, "t"),
                                        ("round1/units", 1, {"manifest": "c", "teacher": "t"}, "u"),
                                        ("round1/teacher", 2, {"manifest": "c"}, "another")):
        run_stage(tmp_path / kind, kind.rpartition("/")[2], version=version, settings={}, inputs=given,
                  work=lambda target, hash_=hash_: {"hash": hash_}, say=lambda line: None)
    assert run(["status", str(tmp_path)]) == 0
    found = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if "│ " in line}
    assert {name: ("done" in line, "stale: other teacher" in line) for name, line in found.items()} == {
        "corpus": (True, False), "round1/teacher": (True, False), "round1/units": (False, True)}


def test_status_lists_what_has_not_begun(tmp_path, capsys):
    note_stages(tmp_path, ["corpus", "round1/teacher", "round1/units"], {})
    assert run(["status", str(tmp_path)]) == 0
    assert [line.split()[1:5:2] for line in capsys.readouterr().out.splitlines() if "│ " in line] == [
        ["corpus", "to"], ["round1/teacher", "to"], ["round1/units", "to"]]
    run_stage(tmp_path / "corpus", "corpus", version=1, settings={}, inputs={}, work=lambda target: {"hash": "c"},
              say=lambda line: None)
    run(["status", str(tmp_path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if "│ " in line]
    assert ["to do" in line for line in lines] == [False, True, True]


def test_what_was_made_of_another_encoder_is_stale_and_what_was_made_of_that_too(tmp_path, capsys):
    def stage(name, hash_, **inputs):
        run_stage(tmp_path / name, name.rpartition("/")[2], version=1, settings={"hash": hash_}, inputs=inputs,
                  work=lambda target: {"hash": hash_}, say=lambda line: None)

    stage("round1/encoder", "a")
    stage("round2/teacher", "t", encoder="a")
    stage("round2/units", "u", teacher="t")
    note_stages(tmp_path, ["round1/encoder", "round2/teacher", "round2/units"], {"round2/teacher": ["round1/encoder"]})

    def states():
        run(["status", str(tmp_path)])
        lines = [line for line in capsys.readouterr().out.splitlines() if "│ " in line]
        return {line.split("│")[1].strip(): line.split("│")[2].strip() for line in lines}

    assert set(states().values()) == {"done"}
    stage("round1/encoder", "b")
    assert states() == {"round1/encoder": "done", "round2/teacher": "stale: other encoder",
                        "round2/units": "stale: old teacher"}


def test_a_list_of_stages_from_before_teachers_said_what_they_read_is_read(tmp_path, capsys):
    (tmp_path / "stages.json").write_text('{"format": 1, "stages": ["corpus"]}')
    assert run(["status", str(tmp_path)]) == 0
    assert "to do" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "[]", '{"stages": 3}'])
def test_a_list_of_stages_that_is_none_is_named(tmp_path, capsys, content):
    (tmp_path / "stages.json").write_text(content)
    assert run(["status", str(tmp_path)]) == 1
    assert "stages.json" in capsys.readouterr().err


def test_a_long_name_of_a_stage_is_not_cut_short(tmp_path, capsys):
    """In the folder of a comparison, emissions of dev and of test had the same name."""
    for part in ("dev", "test"):
        make(tmp_path / f"cells/1h-hubert-frozen-seed1/emissions-{part}", [4.4])
    assert run(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "…" not in said
    assert "dev" in said


@pytest.fixture
def dry(tmp_path, monkeypatch):
    """`dry(*words)`: the exit code of a dry run of a recipe, of which a process trains at a fifth of a second a
    second."""
    monkeypatch.setattr("tools.dry_run.audio_seconds_per_second", lambda *_: 0.2)
    monkeypatch.setattr("tools.dry_run.teacher_seconds", lambda *_: (40.0, 80.0))
    import_folder(write_recordings(tmp_path / "audio", 4), None).save(tmp_path / "all.arrow")
    return lambda *words: run(["pretrain", "hubert-tiny", f"data={tmp_path / 'all.arrow'}", "--out",
                               str(tmp_path / "run"), "--dry-run", *words])


def test_a_dry_run_says_how_long_it_takes_and_in_days_where_it_takes_many(dry, capsys):
    """By hand: all that there is, four recordings of 74 frames, is a micro-batch of 5.92 s; 4,000 updates of two of
    them at a fifth of a second a second take 65.8 h, and two rounds of these 5.5 days."""
    assert dry("--ranks", "1") == 0
    said = capsys.readouterr()
    assert said.out.count("65.8 h") == 2
    assert "7 stages to do: about 5.5 days" in said.out
    assert "0.2 audio s/s in one process" in said.err  # once it was 0
    assert dry("--ranks", "1", "--until", "corpus") == 0
    assert "1 stage to do" in capsys.readouterr().out


def test_a_dry_run_of_a_folder_says_how_to_know_the_rest(dry, tmp_path, capsys):
    """That nothing said how long teachers take was all that one saw."""
    assert dry("--ranks", "1") == 0
    assert "corpus import folder" not in capsys.readouterr().err
    assert dry("--ranks", "1", f"data={tmp_path / 'audio'}") == 0
    assert f"hubertkit corpus import folder {tmp_path / 'audio'} --out all.arrow" in capsys.readouterr().err


@pytest.mark.parametrize(("ranks", "day"), [("2", "65.8 h"), ("1", "5.5 days")])
def test_a_dry_run_counts_on_the_gpus_of_all_ranks(dry, capsys, monkeypatch, ranks, day):
    """A bug once found: whatever `--ranks` said, the time of a run was that of one GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("tools.pretrain.chosen_device", lambda _: torch.device("cuda", 0))
    assert dry("--ranks", ranks) == 0
    said = capsys.readouterr()
    assert f"7 stages to do: about {day}" in said.out
    assert ("2 times as many in 2" in said.err) == (ranks == "2")


def test_a_dry_run_warns_of_a_schedule_that_is_cut_short(dry, capsys):
    """It was said by the training alone, which on a large corpus begins hours later."""
    words = ["rounds.1.training.updates=100", "--ranks", "1"]
    assert dry(*words) == 0
    assert "warning: round 2: the rate never reaches its peak" in capsys.readouterr().err
    assert dry(*words, "--until", "round2/units") == 0
    assert "warning" not in capsys.readouterr().err


def test_a_dry_run_says_what_is_stale_and_a_part_is_done(tmp_path, capsys):
    write_recordings(tmp_path, 4)
    command = ["pretrain", "hubert-tiny", f"data={tmp_path}", "rounds.0.teacher.clusters=4", "--out",
               str(tmp_path / "run"), "--ranks", "1"]
    assert run([*command, "--until", "round1/units"]) == 0
    assert "stopped after round1/units, as asked" in capsys.readouterr().err
    assert run([*command, "--dry-run", "seed=1"]) == 0
    said = capsys.readouterr().out
    assert "seed 0 -> 1" in said
    assert "7 stages to do" in said
    assert run([*command, "--dry-run", "--until", "round1/units"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run([*command, "--dry-run", "--from", "round1/units", "--until", "round1"]) == 0
    assert "2 stages to do" in capsys.readouterr().out  # the units, though they are done, and the encoder
    assert run([*command, "--dry-run", "--from", "round2"]) == 2
    assert "--from round2/teacher: round1/encoder before it is to do" in capsys.readouterr().err
    assert run([*command, "--from", "round3"]) == 2
    assert "--from round3: no such stage" in capsys.readouterr().err
