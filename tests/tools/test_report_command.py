"""`hubertkit report`: the files that it writes, numbers that are those of `hubertkit score`, and what it refuses."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from downstream.captions import SpokenWord, Transcript, as_json
from tools.main import run
from upstream.audio.manifest import Manifest, Utterance

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
TRUTH = {"a-1": "THE CAT SAT DOWN", "a-2": "A DOG", "b-1": "NO ERROR HERE", "b-2": "SOME MORE WORDS"}


@pytest.fixture
def data(tmp_path):
    """A manifest and two files of hypotheses."""
    for id in TRUTH:
        (tmp_path / f"{id}.wav").touch()
    Manifest.of([Utterance(id, tmp_path / f"{id}.wav", 0, 16000, 16000, 1, id[0], text) for id, text in TRUTH.items()],
                "a test").save(tmp_path / "test.arrow")
    for name, changed in (("one", {"a-1": "THE BAT SAT", "b-2": "SOME WORDS"}), ("two", {"a-2": "A CAT"})):
        (tmp_path / f"{name}.jsonl").write_text("".join(
            json.dumps({"id": id, "text": text}) + "\n" for id, text in (TRUTH | changed).items()))
    return tmp_path


def test_numbers_of_hypotheses_are_those_of_score(data, capsys):
    files = [str(data / "one.jsonl"), str(data / "two.jsonl")]
    given = ["--references", str(data / "test.arrow")]
    assert run(["report", *files, *given, "--out", str(data / "out")]) == 0
    rows = list(csv.DictReader((data / "out" / "tables.csv").open()))
    capsys.readouterr()
    for by, suffix in (("utterance", ""), ("speaker", "_by_speaker")):
        assert run(["score", files[0], "--against", files[1], *given, "--by", by, "--json"]) == 0
        scored = json.loads(capsys.readouterr().out)
        for row, expected in zip(rows, (scored, scored["against"])):
            for name in ("wer", "cer", "words", "errors", "substitutions", "deletions", "insertions",
                         "character_errors", "sentence_errors"):
                assert float(row[name]) == expected[name]
            for rate in ("wer", "cer"):
                ends = [float(row[f"{rate}_interval{suffix}_{end}"]) for end in ("low", "high")]
                assert ends == expected[f"{rate}_interval"]
        for row in rows[2:]:
            assert float(row["difference"]) == scored["difference"][row["rate"]]
            assert float(row[f"p_value{suffix}"]) == scored["difference"][f"{row['rate']}_p_value"]
            ends = [float(row[f"difference_interval{suffix}_{end}"]) for end in ("low", "high")]
            assert ends == scored["difference"][f"{row['rate']}_interval"]


def test_transcripts_are_hypotheses_whatever_their_name(data, capsys):
    """`transcribe --format json` writes NAME.json, which was refused as results without a format."""
    files = [data / "one.json", data / "two.json"]
    for path in files:
        path.write_text("".join(as_json(Transcript(f"{one['id']}.wav", tuple(
            SpokenWord(word, i, i + 1.0, 0.5) for i, word in enumerate(one["text"].split())), 9.0, one["id"]))
            for one in map(json.loads, path.with_suffix(".jsonl").read_text().splitlines())))
    for ending, place in ((".json", "a"), (".jsonl", "b")):
        given = [str(path.with_suffix(ending)) for path in files]
        assert run(["report", *given, "--references", str(data / "test.arrow"), "--out", str(data / place)]) == 0
    assert (data / "a" / "tables.csv").read_text() == (data / "b" / "tables.csv").read_text()
    capsys.readouterr()
    assert run(["report", str(files[0]), "--out", str(data / "out")]) == 2
    assert "one.json: hypotheses need --references" in capsys.readouterr().err


def test_a_report_of_a_folder_says_that_a_newer_comparison_there_is_not_finished(tmp_path, capsys):
    """It was of the earlier recipe without a word, though one with another encoder was under way."""
    shutil.copy(RESULTS / "librispeech-mini-light.json", tmp_path / "results.json")
    command = ["report", str(tmp_path), "--out", str(tmp_path / "report")]
    assert run(command) == 0
    assert "not finished" not in capsys.readouterr().err
    shutil.copy(RESULTS / "librispeech-mini-light.json", tmp_path / "results.partial.json")
    assert run(command) == 0
    assert f"note: {tmp_path / 'results.partial.json'}: of a comparison by another recipe" in capsys.readouterr().err
    assert run(["report", str(tmp_path / "results.json"), *command[2:]]) == 0
    assert "not finished" not in capsys.readouterr().err


def test_a_folder_stands_for_its_results_and_the_report_may_lie_beside_them(tmp_path, capsys):
    shutil.copy(RESULTS / "ranks.json", tmp_path / "results.json")
    for _ in range(2):  # what is there from before is ours
        assert run(["report", str(tmp_path), "--out", str(tmp_path)]) == 0
        assert capsys.readouterr().out.endswith(
            f"{tmp_path / 'report.html'}; beside it tables.tex, tables.csv, report.md\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.md", "results.json", "tables.csv",
                                                          "tables.tex"]


@pytest.mark.parametrize(("words", "says", "code"), [
    (["{results}/demo-seed0.json", "{results}/demo-seed1.json"], "another test set than", 1),
    (["{results}/ranks.json", "{results}/lm.json"], "make a report of each", 1),
    (["{results}/ranks.json", "{results}/ranks.json"], "given twice", 2),
    (["{data}/none.json"], "none.json: no such file; give results.json", 2),
    (["{data}"], "a folder without results.json", 2),
    (["{data}/test.arrow"], "test.arrow: not JSON", 1),
    (["{data}/one.jsonl"], "hypotheses need --references", 2),
    (["{data}/one.jsonl", "{results}/ranks.json", "--references", "{data}/test.arrow"], "results beside hypotheses", 2),
    (["{results}/ranks.json", "--references", "{data}/test.arrow"], "--references and --characters are of hypo", 2),
    (["{data}/one.jsonl", "--references", "{data}/few.txt"], "one.jsonl: a-2: no reference", 1),
])
def test_wrong_input_is_a_line_and_nothing_is_written(data, capsys, words, says, code):
    (data / "few.txt").write_text("a-1 THE CAT\n")
    words = [word.format(data=data, results=RESULTS) for word in words]
    assert run(["report", *words, "--out", str(data / "out")]) == code
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.strip().count("\n") <= 1  # but for progress
    assert said.out == ""
    assert not (data / "out").exists()


def test_a_file_of_somebody_else_stays(tmp_path, capsys):
    (tmp_path / "report.md").write_text("# mine\n")
    assert run(["report", str(RESULTS / "ranks.json"), "--out", str(tmp_path)]) == 2
    assert "report.md: is there already and no report of ours" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]
