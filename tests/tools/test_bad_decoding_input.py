"""Broken models, lexicons and emissions, through every command that reads them: one clear line, nothing written."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from downstream.decode.hypothesis import read_hypotheses
from downstream.emissions import EmissionsWriter
from tools.main import run

sys.path.append(str(Path(__file__).parents[1] / "downstream" / "decode"))
from posteriors import FOLDER, read_slice

LM = str(FOLDER / "words.arpa.gz")
DECODERS = ("beam", "lexicon", "batched")


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    utterances, references, symbols = read_slice()
    two = dict(list(utterances.items())[:2])
    other = tuple(chr(0x400 + i) if i > 1 else symbol for i, symbol in enumerate(symbols))
    for name, given, of in (("dev", two, symbols), ("nan", two, symbols), ("infinite", two, symbols),
                            ("other", two, other),
                            ("empty", {"none": np.zeros((0, 29)), **two}, symbols)):
        with EmissionsWriter(folder / name, of, 0, 50.0) as writer:
            for id, rows in given.items():
                writer.add(id, rows)
    for name, number in (("nan", np.nan), ("infinite", np.inf)):
        rows = np.load(folder / name / "logprobs.npy")
        rows[3, 4] = number
        np.save(folder / name / "logprobs.npy", rows)
    (folder / "ref.txt").write_text("".join(f"{id}\t{text}\n" for id, text in references.items()) + "none\n")
    text = gzip.decompress((FOLDER / "words.arpa.gz").read_bytes()).decode()
    (folder / "cut.arpa").write_text(text[:len(text) // 2])
    (folder / "cut.arpa.gz").write_bytes((FOLDER / "words.arpa.gz").read_bytes()[:5000])
    (folder / "zero.arpa").write_bytes(b"")
    (folder / "lower.arpa").write_text(text.lower())
    letters = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩ")
    (folder / "other.arpa").write_text(text.translate(letters))
    known = int(text.splitlines()[1].partition("=")[2])
    kept = "".join(line for line in text.splitlines(True) if "<unk>" not in line)
    (folder / "nounk.arpa").write_text(kept.replace(f"ngram 1={known}", f"ngram 1={known - 1}"))
    (folder / "spelled.txt").write_text("THE\tT H E |\nCAFÉ\tC A F É |\n")
    (folder / "words.txt").write_text("THE\nCAFÉ\n")
    return folder


def fails(bad, capsys, code, says, *arguments):
    """A command ends with this exit code and one line, and writes nothing."""
    capsys.readouterr()
    assert run([*arguments]) == code
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not any((bad / name).exists() for name in ("x.jsonl", "x.json", "x.png", "x.arpa", "x.ngrams"))


MODELS = [("cut.arpa", "line 4858"), ("cut.arpa.gz", "cut.arpa.gz: cannot be read on"),
          ("zero.arpa", "zero.arpa: an empty file")]


@pytest.mark.parametrize("arguments", [
    "lm info MODEL", "lm score MODEL ref.txt", "lm pack MODEL --out x.ngrams",
    "lm prune MODEL --out x.arpa --threshold 1e-6", f"lm interpolate MODEL {LM} --dev ref.txt --out x.arpa",
    *(f"decode dev --out x.jsonl --lm MODEL --decoder {name} --workers 1" for name in DECODERS),
    "tune dev --references ref.txt --lm MODEL --out x.json --workers 1",
    "decode-check dev --references ref.txt --lm MODEL", "errors dev --references ref.txt --lm MODEL --workers 1",
])
@pytest.mark.parametrize(("model", "says"), MODELS)
def test_a_model_that_is_not_whole_is_named_with_its_line(bad, monkeypatch, capsys, arguments, model, says):
    monkeypatch.chdir(bad)
    fails(bad, capsys, 1, says, *arguments.replace("MODEL", model).split())


@pytest.mark.parametrize("arguments", [
    "lm info MODEL", "lm score MODEL ref.txt", "lm prune MODEL --out x.arpa --threshold 1e-6",
    "decode dev --out x.jsonl --lm MODEL --decoder beam", "decode dev --out x.jsonl --lm MODEL --decoder lexicon"])
def test_packed_arrays_are_named_where_an_arpa_file_is_needed(bad, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(bad)
    model = str(tmp_path / "packed")
    assert run(["lm", "pack", LM, "--out", model]) == 0
    fails(bad, capsys, 1, "packed: packed arrays, which only the batched decoder reads",
          *arguments.replace("MODEL", model).split())


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("model", "says"), [
    ("other.arpa", "it has no symbol"), ("lower.arpa", "its symbols are upper case")])
def test_a_model_of_another_alphabet_is_named(bad, monkeypatch, capsys, decoder, model, says):
    monkeypatch.chdir(bad)
    fails(bad, capsys, 1, says, "decode", "dev", "--out", "x.jsonl", "--lm", model, "--decoder", decoder,
          "--workers", "1")
    assert run(["decode-check", "dev", "--references", "ref.txt", "--lm", model]) == 1
    assert "model spelled: the symbols can spell 0.0%" in capsys.readouterr().out


@pytest.mark.parametrize("decoder", DECODERS)
def test_emissions_of_another_vocabulary_are_named(bad, monkeypatch, capsys, decoder):
    monkeypatch.chdir(bad)
    fails(bad, capsys, 1, "the recogniser can spell 0%", "decode", "other", "--out", "x.jsonl", "--lm", LM,
          "--decoder", decoder, "--workers", "1")
    assert run(["decode-check", "other", "--references", "ref.txt", "--lm", LM]) == 1
    assert "references spelled: the symbols can spell 0.0%" in capsys.readouterr().out


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_model_without_unk_decodes_as_with_it_where_all_words_are_known(bad, monkeypatch, capfd, decoder):
    monkeypatch.chdir(bad)
    texts = []
    for model in (LM, "nounk.arpa"):
        assert run(["decode", "dev", "--out", "unk.jsonl", "--lm", model, "--decoder", decoder, "--workers", "1"]) == 0
        texts.append([h.text for h in read_hypotheses(Path("unk.jsonl"))])
    assert texts[0] == texts[1]
    capfd.readouterr()
    assert run(["decode-check", "dev", "--references", "ref.txt", "--lm", "nounk.arpa"]) == 0
    assert "no <unk> among the 1-grams" in capfd.readouterr().err


@pytest.mark.parametrize(("emissions", "what"), [("nan", "NaN"), ("infinite", "infinity")])
@pytest.mark.parametrize("arguments", [
    "decode {} --out x.jsonl --workers 1", f"decode {{}} --out x.jsonl --lm {LM} --workers 2",
    *(f"decode {{}} --out x.jsonl --lm {LM} --decoder {name} --workers 1" for name in DECODERS),
    f"tune {{}} --references ref.txt --lm {LM} --out x.json --workers 1",
    f"errors {{}} --references ref.txt --lm {LM} --workers 1"])
def test_what_is_no_logarithm_is_named_with_its_utterance_and_frame(bad, monkeypatch, capsys, arguments, emissions,
                                                                   what):
    """Infinity ended in a traceback or in another text."""
    monkeypatch.chdir(bad)
    first = next(iter(read_slice()[0]))
    fails(bad, capsys, 1, f"{emissions}: {what} in the emissions of {first}, first at frame 3",
          *arguments.format(emissions).split())
    assert run(["decode-check", emissions, "--references", "ref.txt"]) == 1
    assert f"values: there is {what} among them" in capsys.readouterr().out


@pytest.mark.parametrize("decoder", ["greedy", *DECODERS])
def test_empty_audio_is_an_empty_text(bad, monkeypatch, decoder):
    monkeypatch.chdir(bad)
    model = [] if decoder == "greedy" else ["--lm", LM]
    assert run(["decode", "empty", "--out", "empty.jsonl", "--decoder", decoder, "--workers", "1", *model]) == 0
    found = read_hypotheses(Path("empty.jsonl"))
    assert (found[0].id, found[0].text, found[0].words) == ("none", "", ())
    assert all(h.text for h in found[1:])


def test_empty_audio_is_taken_apart_and_checked_with_the_rest(bad, monkeypatch, capsys):
    monkeypatch.chdir(bad)
    assert run(["decode-check", "empty", "--references", "ref.txt", "--lm", LM]) == 0
    capsys.readouterr()
    assert run(["errors", "empty", "--references", "ref.txt", "--lm", LM, "--workers", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(part["errors"] for part in found["blamed"].values()) == found["ladder"][2]["errors"]


@pytest.mark.parametrize(("lexicon", "says"), [
    ("spelled.txt", "spelled.txt, line 2: the recogniser has no symbol 'É'"), ("words.txt", "'CAFÉ' (no 'É', U+00C9)"),
    ("zero.arpa", "zero.arpa: no words")])
@pytest.mark.parametrize("decoder", ["lexicon", "batched"])
def test_a_lexicon_word_that_cannot_be_spelled_is_named(bad, monkeypatch, capsys, lexicon, says, decoder):
    monkeypatch.chdir(bad)
    fails(bad, capsys, 1, says, "decode", "dev", "--out", "x.jsonl", "--lm", LM, "--decoder", decoder, "--lexicon",
          lexicon, "--workers", "1")


@pytest.mark.parametrize("way", [[], ["--memory", "8G"]])
def test_an_order_that_the_text_cannot_support_is_named(bad, monkeypatch, capsys, way):
    monkeypatch.chdir(bad)
    fails(bad, capsys, 1, "lower order", "lm", "build", "ref.txt", "--order", "30", "--out", "x.arpa", *way)


@pytest.mark.parametrize("arguments", [
    "decode GONE --out x.jsonl", f"decode dev --out x.jsonl --lm {LM} --lexicon GONE",
    *(f"decode dev --out x.jsonl --lm GONE --decoder {name}" for name in DECODERS),
    f"decode dev --out x.jsonl --lm {LM} --tuned GONE",
    "decode dev --out x.jsonl --recipe librispeech-4gram --set lm=GONE",
    f"tune GONE --references ref.txt --lm {LM} --out x.json", f"tune dev --references GONE --lm {LM} --out x.json",
    "tune dev --references ref.txt --lm GONE --out x.json",
    f"tune dev --references ref.txt --lm {LM} --lexicon GONE --out x.json",
    f"tune dev --references ref.txt --lm {LM} --final GONE --out x.json",
    "decode-check GONE --references ref.txt", f"errors GONE --references ref.txt --lm {LM}",
    "score GONE --references ref.txt", "align recogniser m.arrow --dictionary GONE --out x.align"])
def test_a_path_that_is_not_there_is_wrong_use(bad, monkeypatch, capsys, arguments):
    """Emissions and dictionaries that were not there once ended with 1, as if they were damaged."""
    monkeypatch.chdir(bad)
    fails(bad, capsys, 2, "gone: no such", *arguments.replace("GONE", "gone").split())


@pytest.mark.parametrize("command", ["decode", "tune", "rescore", "rescore-tune", "bench seams"])
def test_a_folder_in_the_place_of_the_file_to_write_is_refused_before_the_work(tmp_path, capsys, command):
    """It was refused when the work of an hour was done."""
    words = {"decode": "E", "tune": "E --references R --lm L", "rescore": "H --model M", "bench seams": "R T",
             "rescore-tune": "H --references R --model M"}[command]
    assert run([*command.split(), *words.split(), "--out", str(tmp_path)]) == 2
    assert f"{tmp_path}: a folder" in capsys.readouterr().err.replace("\n", "")
