"""`hubertkit status`: the stages of a run, and whether its trainings look healthy."""

import json

from tools.main import run
from upstream.stage import run_stage


def make(folder, losses):
    def work(target):
        records = [{"update": 100 * (i + 1), "kind": "train", "loss": loss} for i, loss in enumerate(losses)]
        records.append({"update": 100 * len(losses), "kind": "valid", "loss": losses[-1], "label_entropy": 4.4})
        (target / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        return {"hash": "h"}

    run_stage(folder, "encoder", version=1, settings={}, inputs={}, work=work, say=lambda line: None)


def test_status_names_a_training_whose_labels_do_not_fit(tmp_path, capsys):
    make(tmp_path / "round1/encoder", [4.4, 4.39, 4.38, 4.38])
    make(tmp_path / "round2/encoder", [4.3, 3.9, 3.5, 3.2])
    assert run(["status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("done" in line for line in lines) == 2
    assert [line for line in lines if line.startswith("round1/encoder: broken: after 400 updates")]
    assert not [line for line in lines if line.startswith("round2/encoder:")]
