"""`decode-check` and `errors` from the outside, on ten utterances."""

import gzip
import json
import sys
import unicodedata
from pathlib import Path

import pytest

from downstream.emissions import EmissionsWriter
from tools.main import run

sys.path.append(str(Path(__file__).parents[1] / "downstream" / "decode"))
from posteriors import FOLDER, read_slice

LM = str(FOLDER / "words.arpa.gz")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    utterances, references, symbols = read_slice()
    for name, blank in (("dev", 0), ("blank-e", 7)):
        with EmissionsWriter(folder / name, symbols, blank, 50.0) as writer:
            for id, rows in utterances.items():
                writer.add(id, rows)
    (folder / "dev.txt").write_text("".join(f"{id}\t{text}\n" for id, text in references.items()))
    (folder / "lower.txt").write_text("".join(f"{id}\t{text.lower()}\n" for id, text in references.items()))
    (folder / "words.txt").write_text("\n".join({word for text in references.values() for word in text.split()}))
    (folder / "empty").write_bytes(b"")
    return folder


def check(data, emissions, references, *arguments):
    return run(["decode-check", str(data / emissions), "--references", str(data / references), *arguments])


def test_a_healthy_set_up_passes(data, capsys):
    assert check(data, "dev", "dev.txt", "--lm", LM, "--lexicon", str(data / "words.txt")) == 0
    said = capsys.readouterr()
    assert said.out.endswith("18 checks: 0 failed, 0 warnings\n")
    assert check(data, "dev", "dev.txt", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {c["level"] for c in found} == {"ok"}
    assert set(found[0]) == {"name", "level", "measured", "what", "advice"}


@pytest.mark.parametrize(("emissions", "references", "says"), [
    ("dev", "lower.txt", "-> the symbols are upper case: write the references in upper case"),
    ("blank-e", "dev.txt", "so the blank is likely column 0"),
])
def test_a_mistake_is_named_and_the_exit_code_tells(data, capsys, emissions, references, says):
    assert check(data, emissions, references) == 1
    said = capsys.readouterr().out
    assert says in said
    assert "failed" in said


def errors(data, *arguments):
    return run(["errors", str(data / "dev"), "--references", str(data / "dev.txt"), "--lm", LM, *arguments])


def test_errors_are_taken_apart(data, capsys):
    searched = ("--decoder", "beam", "--beam", "20", "--workers", "1")
    assert errors(data, *searched, "--nbest", "20", "--lm-weight", "0.2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    names = [step["name"] for step in found["ladder"]]
    counts = [step["errors"] for step in found["ladder"]]
    assert names == ["greedy", "beam", "+ lm", "oracle"]
    assert counts[0] == 40
    assert counts[2] < counts[1]
    assert counts[3] <= counts[2]
    assert sum(part["errors"] for part in found["blamed"].values()) == counts[2] > 0
    assert (found["words"], found["unknown"]["words"]) == (90, 0)
    changes = [step["change"] for step in found["ladder"]]
    assert changes[0] is None
    assert changes[2]["points"] == pytest.approx(100 * (counts[2] - counts[1]) / 90)
    assert changes[2]["interval"][0] <= changes[2]["points"] <= changes[2]["interval"][1]
    assert errors(data, *searched) == 0
    assert "a wider beam" in capsys.readouterr().out


@pytest.mark.parametrize("decoder", ["lexicon", "batched"])
def test_closed_decoders_have_a_step_more_and_errors_of_the_vocabulary(data, capsys, tmp_path, decoder):
    """Every word of the references is known; with a lexicon that lacks one, whoever says it is out of reach."""
    lexicon, words = tmp_path / "lexicon.txt", (data / "words.txt").read_text().split()
    lexicon.write_text("\n".join(word for word in words if word != "THE"))
    wanted = sum("THE" in line.split()[1:] for line in (data / "dev.txt").read_text().splitlines())
    arguments = ["--decoder", decoder, "--beam", "20", "--lm-weight", "0.7", "--workers", "1", "--json"]
    assert errors(data, *arguments, "--lexicon", str(lexicon)) == 0
    found = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in found["ladder"]] == ["greedy", "beam", "+ lexicon", "+ lm", "oracle"]
    assert found["blamed"]["vocabulary"]["utterances"] == wanted > 0
    assert found["unknown"]["words"] == found["unknown"]["errors"]
    assert sum(part["errors"] for part in found["blamed"].values()) == found["ladder"][3]["errors"]


def test_errors_of_references_without_spaces_are_counted_by_characters(data, capsys, tmp_path):
    """Each reference was one word, and each of its utterances wrong."""
    unspaced, found = tmp_path / "unspaced.txt", []
    lines = [line.split("\t") for line in (data / "dev.txt").read_text().splitlines()]
    unspaced.write_text("".join(f"{id}\t{text.replace(' ', '')}\n" for id, text in lines))
    command = ["errors", str(data / "dev"), "--lm", LM, "--decoder", "beam", "--beam", "20", "--workers", "1"]
    for references, options in ((data / "dev.txt", ["--characters"]), (unspaced, ["--characters"]), (unspaced, [])):
        assert run([*command, "--references", str(references), *options, "--json"]) == 0
        shown = capsys.readouterr()
        assert ("count characters" in shown.err) == (not options)
        found.append(json.loads(shown.out))
    assert found[0] == found[1]
    assert (found[0]["unit"], found[0]["blamed"], found[2]["unit"]) == ("character", {}, "word")
    assert found[0]["words"] == sum(len(text.replace(" ", "")) for _, text in lines) == found[0]["known"]["words"]
    assert found[0]["ladder"][0]["wer"] < 20 < 500 < found[2]["ladder"][0]["wer"]
    parts = ("known", "unknown")
    assert sum(found[0][part]["errors"] for part in parts) + found[0]["insertions"] == found[0]["ladder"][2]["errors"]
    assert run([*command, "--references", str(unspaced), "--characters"]) == 0
    table = capsys.readouterr().out
    assert ("CER %" in table, "characters of the refer" in table, "blame" in table) == (True, True, False)


@pytest.mark.parametrize("order", [1, pytest.param(3, marks=pytest.mark.processes), 7])
def test_errors_and_info_take_every_order_that_batched_takes(data, capsys, tmp_path, order):
    """KenLM's Python package reads orders 2 to 6; of others `errors` and `lm info` said no more than that."""
    arpa, text = str(tmp_path / "lm.arpa"), tmp_path / "text"
    text.write_text("".join(line.partition("\t")[2] for line in (data / "dev.txt").open()))
    assert run(["lm", "build", str(text), "--order", str(order), "--discount-fallback", "--out", arpa]) == 0
    searched = ("errors", str(data / "dev"), "--references", str(data / "dev.txt"), "--decoder", "batched", "--workers",
                "1", "--lm", arpa)
    capsys.readouterr()
    assert run([*searched, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in found["ladder"]] == ["greedy", "beam", "+ lexicon", "+ lm", "oracle"]
    assert run(["lm", "info", arpa]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("in every process" in said) == (order == 3)
    assert (f"a model of order {order}; KenLM reads models of order" in said) == (order != 3)
    assert run(["lm", "info", arpa, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["ngrams"]) == order
    assert (found["memory_per_process"] is None) == (order != 3)


def test_hypotheses_of_another_decoder_are_taken_apart(data, capsys, tmp_path):
    """Those of greedy decoding: by the score with the language model the references would have been better."""
    out = str(tmp_path / "greedy.jsonl")
    assert run(["decode", str(data / "dev"), "--out", out]) == 0
    capsys.readouterr()
    assert errors(data, "--hypotheses", out, "--decoder", "beam", "--workers", "1", "--json") == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["nbest"] == 1
    assert "no n-best list for 10 of 10 utterances" in shown.err
    assert [step["errors"] for step in found["ladder"]][2:] == [40, 40]
    assert found["blamed"]["search"]["errors"] == 40


def test_references_in_another_form_of_unicode_are_not_blamed_on_the_vocabulary(tmp_path, capsys):
    """Words with letters apart from their accents (NFD) were words outside of the vocabulary."""
    utterances, references, symbols = read_slice()
    with EmissionsWriter(tmp_path / "e", [s.replace("E", "\u00c9") for s in symbols], 0, 50.0) as writer:
        for id, rows in utterances.items():
            writer.add(id, rows)
    composed = {id: text.replace("E", "\u00c9") for id, text in references.items()}
    (tmp_path / "lm.arpa").write_bytes(gzip.decompress(Path(LM).read_bytes()).replace(b"E", "\u00c9".encode()))
    found = []
    for form in ("NFC", "NFD"):
        (tmp_path / form).write_text("".join(f"{id}\t{unicodedata.normalize(form, text)}\n"
                                             for id, text in composed.items()), encoding="utf-8")
        assert run(["errors", str(tmp_path / "e"), "--references", str(tmp_path / form), "--lm",
                    str(tmp_path / "lm.arpa"), "--decoder", "batched", "--beam", "20", "--workers", "1", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["unknown"]["words"] == 0


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["decode-check", "dev", "--references", "none"], 2, "none: no such file"),
    (["decode-check", "dev", "--references", "words.txt"], 1, "none of the 10 utterances has a reference"),
    (["decode-check", "none", "--references", "dev.txt"], 2, "none: no such folder"),
    (["decode-check", "dev", "--references", "dev.txt", "--lm", "empty"], 1, "an empty file (0 bytes)"),
    (["decode-check", "dev", "--references", "dev.txt", "--lm", "dev.txt"], 1, "not an ARPA file"),
    (["decode-check", "dev", "--references", "dev.txt", "--lexicon", "empty"], 1, "empty: no words"),
    (["decode-check", "dev", "--references", "dev.txt", "--lexicon", "none"], 2, "none: no such lexicon"),
    (["errors", "dev", "--references", "words.txt", "--lm", LM], 1, "no reference"),
    (["errors", "dev", "--references", "dev.txt", "--lm", "empty"], 1, "an empty file"),
    (["errors", "dev", "--references", "dev.txt", "--lm", LM, "--decoder", "greedy"], 2, "greedy decoding has no"),
    (["errors", "dev", "--references", "dev.txt", "--lm", LM, "--hypotheses", "empty"], 1, "no hypothesis for"),
])
def test_mistakes_end_in_one_line(data, monkeypatch, capsys, arguments, code, says):
    monkeypatch.chdir(data)
    assert run(arguments) == code
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
