"""The benchmark of language models measures the models that it says, once each."""

import json
import os
import signal

import numpy as np
import pytest

from benchmarks import lm
from benchmarks.results import check
from downstream.lm.kneser_ney import estimate
from tools.main import run
from upstream.errors import HubertkitError

pytestmark = pytest.mark.processes

FORMS = (lm.Form("in memory", 2), lm.Form("within 2 GiB", 2, memory=lm.LIMITED), lm.Form("in memory", 2, (0, 1)))


def text_of(folder, seed=0, sentences=400):
    words = np.random.default_rng(seed).zipf(1.3, (sentences, 8)) % 997
    path = folder / f"text{seed}.txt"
    path.write_text("".join(" ".join(f"W{w}" for w in line) + "\n" for line in words), encoding="utf-8")
    return path


def test_models_are_what_the_estimator_gives_and_the_same_in_both_forms(tmp_path):
    text, out = text_of(tmp_path), tmp_path / "lm.json"
    found = lm.run(text, out, "a command", lambda _: None, FORMS)
    whole, limited, pruned = found["rows"]
    assert whole["ngrams"] == limited["ngrams"] == [len(grams) for grams in estimate([text], 2).orders]
    assert whole["arpa_sha256"] == limited["arpa_sha256"] != pruned["arpa_sha256"]
    assert pruned["ngrams"][1] < whole["ngrams"][1]
    for row in found["rows"]:
        assert row["words"] == 400 * 8
        assert row["peak_memory"] > 1 << 20
        assert row["seconds"] >= 0
    check(json.loads(out.read_text()), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lm.json", text.name]


def test_it_goes_on_where_it_stopped(tmp_path):
    text, out = text_of(tmp_path), tmp_path / "lm.json"
    first = lm.run(text, out, "a command", lambda _: None, FORMS[:1])
    said = []
    both = lm.run(text, out, "a command", said.append, FORMS[:2])
    assert both["rows"][0] == first["rows"][0]
    assert said == ["order 2, in memory: there already", "order 2, within 2 GiB"]


def test_what_an_older_version_measured_is_measured_anew(tmp_path):
    """Rows said nothing of the code, and those of an older one were taken for this one's."""
    text, out = text_of(tmp_path), tmp_path / "lm.json"
    first = lm.run(text, out, "a command", lambda _: None, FORMS[1:])
    assert [row["version"] for row in first["rows"]] == [lm.VERSION] * 2
    older = json.loads(out.read_text())
    older["rows"][0] |= {"version": lm.VERSION - 1, "arpa_sha256": "0" * 64}
    del older["rows"][1]["version"]  # as the first ones had none
    out.write_text(json.dumps(older))
    said = []
    again = lm.run(text, out, "a command", said.append, FORMS[1:])
    assert sorted(said) == [f"order 2, {what}: anew, another version measured it"
                            for what in ("in memory", "within 2 GiB")]
    assert {row["arpa_sha256"] for row in again["rows"]} == {row["arpa_sha256"] for row in first["rows"]}


@pytest.mark.parametrize("wrong", ["text", "results"])
def test_no_text_and_results_of_another_text_are_refused_in_a_line(tmp_path, capsys, wrong):
    text, out = text_of(tmp_path), tmp_path / "lm.json"
    if wrong == "text":
        assert run(["bench", "lm", str(tmp_path / "none.txt"), "--out", str(out)]) == 2
        assert "no such text" in capsys.readouterr().err
        return
    lm.run(text, out, "a command", lambda _: None, FORMS[:1])
    before = out.read_bytes()
    assert run(["bench", "lm", str(text_of(tmp_path, seed=1)), "--out", str(out)]) == 2
    assert "models of another text" in capsys.readouterr().err
    assert out.read_bytes() == before


def killed(text, form, arpa):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_estimation_ends_the_measurement_with_a_line_and_nothing_left(tmp_path, monkeypatch):
    monkeypatch.setattr(lm, "measure", killed)
    text = text_of(tmp_path)
    with pytest.raises(HubertkitError, match="order 2, in memory: the process that measured was killed"):
        lm.run(text, tmp_path / "lm.json", "a command", lambda _: None, FORMS[:1])
    assert [path.name for path in tmp_path.iterdir()] == [text.name]
