"""The commands `decode`, `tune` and `score` on ten utterances: what they print and write, and what they refuse."""

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from downstream.decode.hypothesis import read_hypotheses
from downstream.emissions import EmissionsWriter
from tools import decode, score
from upstream.audio.manifest import Manifest, Utterance
from upstream.errors import FormatError, InputError, UsageError

sys.path.append(str(Path(__file__).parents[1] / "downstream" / "decode"))
from posteriors import read_slice

LM = Path(__file__).parents[1] / "oracles" / "decoding" / "words.arpa.gz"


@pytest.fixture(scope="module")
def app():
    application = typer.Typer(pretty_exceptions_enable=False)
    decode.register(application)
    score.register(application)
    return application


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Emissions, their manifest and plain references, and hypotheses by greedy decoding."""
    folder = tmp_path_factory.mktemp("data")
    utterances, references, symbols = read_slice()
    manifest = Manifest.of([Utterance(id, folder / f"{id}.wav", 0, 16000, 16000, 1, id.split("-")[0], text)
                            for id, text in references.items()], "a test")
    for id in references:
        (folder / f"{id}.wav").touch()
    manifest.save(folder / "dev.arrow")
    with EmissionsWriter(folder / "dev", symbols, 0, 50.0, {"manifest_hash": manifest.hash}) as writer:
        for id, rows in utterances.items():
            writer.add(id, rows)
    (folder / "dev.txt").write_text("".join(f"{id}\t{text}\n" for id, text in references.items()))
    return folder


def run(app, *arguments):
    """Standard output of a command that must succeed; its errors come through."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_greedy_decoding_and_its_score(app, data, tmp_path):
    hyps = tmp_path / "greedy.jsonl"
    assert "10 hypotheses" in run(app, "decode", data / "dev", "--out", hyps)
    found = json.loads(run(app, "score", hyps, "--references", data / "dev.arrow", "--json"))
    assert (found["errors"], found["words"], found["character_errors"]) == (40, 90, 51)
    assert found["wer"] == pytest.approx(100 * 40 / 90)
    assert found["wer_interval"][0] < found["wer"] < found["wer_interval"][1]
    plain = json.loads(run(app, "score", hyps, "--references", data / "dev.txt", "--json"))
    assert plain == found


def test_tuned_beam_search_beats_greedy_decoding(app, data, tmp_path):
    greedy, beam, tuned = (tmp_path / name for name in ("greedy.jsonl", "beam.jsonl", "tune.json"))
    run(app, "decode", data / "dev", "--out", greedy)
    said = run(app, "tune", data / "dev", "--references", data / "dev.arrow", "--lm", LM, "--out", tuned, "--beam", 20)
    weights = json.loads(tuned.read_text())
    assert f"lm_weight {weights['lm_weight']:g}" in said
    assert weights["manifest_hash"] == Manifest.load(data / "dev.arrow").hash
    run(app, "decode", data / "dev", "--out", beam, "--lm", LM, "--tuned", tuned, "--beam", 20, "--nbest", 3)
    assert all(1 <= len(h.nbest) <= 3 and h.words for h in read_hypotheses(beam))
    found = json.loads(run(app, "score", beam, "--references", data / "dev.arrow", "--against", greedy, "--json"))
    assert found["errors"] < 20
    assert found["difference"]["wer"] == pytest.approx(found["wer"] - found["against"]["wer"])
    assert found["difference"]["wer_interval"][1] < 0
    assert found["difference"]["wer_p_value"] < 0.01
    table = run(app, "score", beam, "--references", data / "dev.arrow", "--against", greedy, "--by", "speaker")
    assert f"{found['wer']:.2f}" in table
    assert "paired bootstrap by speaker" in table


@pytest.mark.parametrize(("arguments", "error", "words"), [
    (["decode", "dev", "--out", "h.jsonl", "--lm-weight", "1"], UsageError, "give one with --lm"),
    (["decode", "dev", "--out", "h.jsonl", "--nbest", "2"], UsageError, "belong to beam search"),
    (["decode", "nowhere", "--out", "h.jsonl"], FormatError, "no emissions.json"),
    (["decode", "dev", "--out", "h.jsonl", "--lm", "none.arpa"], UsageError, "none.arpa: no such file"),
    (["decode", "dev", "--out", "h.jsonl", "--lm", str(LM), "--tuned", "dev.txt"], UsageError, "not what"),
    (["tune", "dev", "--references", "dev.arrow", "--lm", str(LM), "--out", "t.json", "--final", "dev.arrow"],
     InputError, "tune on another set"),
    (["tune", "dev", "--references", "dev.arrow", "--lm", str(LM), "--out", "t.json", "--final", "dev.txt"],
     UsageError, "--final needs a manifest"),
    (["score", "none.jsonl", "--references", "dev.txt"], UsageError, "none.jsonl: no such file"),
    (["score", "dev.txt", "--references", "dev.txt"], FormatError, "line 1: not a hypothesis"),
])
def test_what_cannot_work_is_refused(app, data, arguments, error, words, monkeypatch):
    monkeypatch.chdir(data)
    with pytest.raises(error, match=words):
        run(app, *arguments)
    assert not (data / "h.jsonl").exists()
    assert not (data / "t.json").exists()
