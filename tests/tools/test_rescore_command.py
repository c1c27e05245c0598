"""`lm train`, `rescore-tune` and `rescore` from the outside, with a model of the hub's kind and with our own."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from downstream.decode.hypothesis import read_hypotheses, write_hypotheses
from downstream.decode.provenance import read_provenance
from downstream.decode.rescoring import Weights
from downstream.emissions import EmissionsWriter
from downstream.lm.character_model import CharacterModel
from tools.main import build_command, run
from upstream.disk import file_hash

sys.path.append(str(Path(__file__).parents[1] / "downstream" / "decode"))
from posteriors import FOLDER, read_slice


def test_the_help_says_which_weights_are_nothing_unless_they_are_given():
    """With --lm-weight alone the n-gram score counted nothing, of which nobody was told."""
    says = {p.name: p.help for p in build_command("rescore").commands["rescore"].params}
    for name in ("word_score", "ngram_weight"):
        assert getattr(Weights(0.3), name) == 0
        assert "; 0 beside an --lm-weight alone" in says[name]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """N-best lists of five utterances each for tuning and for the final score."""
    folder = tmp_path_factory.mktemp("data")
    utterances, references, symbols = read_slice()
    with EmissionsWriter(folder / "all", symbols, 0, 50.0) as writer:
        for id, rows in utterances.items():
            writer.add(id, rows)
    assert run(["decode", str(folder / "all"), "--out", str(folder / "all.jsonl"), "--lm",
                str(FOLDER / "words.arpa.gz"), "--lm-weight", "0.1", "--beam", "20", "--nbest", "5",
                "--workers", "1"]) == 0
    found = read_hypotheses(folder / "all.jsonl")
    write_hypotheses(folder / "dev.jsonl", found[:5])
    write_hypotheses(folder / "test.jsonl", found[5:])
    (folder / "dev.txt").write_text("".join(f"{id}\t{text}\n" for id, text in list(references.items())[:5]))
    (folder / "text").write_text("".join(f"{text.lower()}.\n" for text in references.values()))
    assert run(["decode", str(folder / "all"), "--out", str(folder / "greedy.jsonl")]) == 0
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def own(data):
    """Trained on the references: so that it must help."""
    out = data / "characters"
    assert run(["lm", "train", str(data / "text"), "--normalise", "--out", str(out), "--updates", "60", "--width", "32",
                "--layers", "1", "--batch-characters", "1000"]) == 0
    return out


@pytest.fixture(scope="module")
def gpt2(data):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<end>", "<unk>", "the", "and"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    path = data / "gpt2"
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="<unk>").save_pretrained(path)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=4, n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=0,
                               eos_token_id=0)).save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["own", "gpt2"])
def test_weights_tuned_on_dev_rank_another_set(kind, data, request, tmp_path, capsys):
    model, tuned, out = request.getfixturevalue(kind), tmp_path / "tuned.json", tmp_path / "out.jsonl"
    capsys.readouterr()
    lower = ["--lower"] if kind == "gpt2" else []
    assert run(["rescore-tune", str(data / "dev.jsonl"), "--references", str(data / "dev.txt"), "--model", str(model),
                "--out", str(tuned), *lower]) == 0
    about = json.loads(tuned.read_text())
    assert about["wer_oracle"] <= about["wer"] <= about["wer_before"]
    assert f"lm_weight {about['lm_weight']:g}" in capsys.readouterr().out
    assert run(["rescore", str(data / "test.jsonl"), "--model", str(model), "--tuned", str(tuned), "--out", str(out),
                *lower]) == 0
    assert "of 5 hypotheses changed" in capsys.readouterr().out
    before, after = read_hypotheses(data / "test.jsonl"), read_hypotheses(out)
    for old, new in zip(before, after, strict=True):
        assert {c.text for c in old.nbest} == {c.text for c in new.nbest}
        assert [c.score for c in new.nbest] == sorted((c.score for c in new.nbest), reverse=True)


def test_references_without_spaces_are_tuned_on_by_characters(data, own, tmp_path, capsys):
    """Each was one word, which every candidate had wrong: all weights were worth the same."""
    spaced, unspaced, found = tmp_path / "spaced.txt", tmp_path / "unspaced.txt", []
    spaced.write_text((data / "dev.txt").read_text().replace("THE", "THA"))  # an error, whatever the weights
    lines = [line.split("\t") for line in spaced.read_text().splitlines()]
    unspaced.write_text("".join(f"{id}\t{text.replace(' ', '')}\n" for id, text in lines))
    for references, options in ((spaced, ["--characters"]), (unspaced, ["--characters"]), (unspaced, [])):
        capsys.readouterr()
        assert run(["rescore-tune", str(data / "dev.jsonl"), "--references", str(references), "--model", str(own),
                    "--out", str(tmp_path / "tuned.json"), *options]) == 0
        shown = capsys.readouterr()
        assert (("CER" in shown.out), ("count characters" in shown.err)) == (bool(options), not options)
        found.append(json.loads((tmp_path / "tuned.json").read_text()))
    assert found[0] == found[1]
    assert (found[0]["unit"], found[2]["unit"]) == ("character", "word")
    assert 0 < found[0]["wer"] < 30 < 100 < found[2]["wer"]


def test_weights_may_be_given(data, own, tmp_path):
    out = tmp_path / "out.jsonl"
    assert run(["rescore", str(data / "dev.jsonl"), "--model", str(own), "--out", str(out), "--lm-weight", "0",
                "--ngram-weight", "0.1", "--word-score", "0"]) == 0
    assert [h.text for h in read_hypotheses(out)] == [h.text for h in read_hypotheses(data / "dev.jsonl")]


def test_rescored_hypotheses_say_what_made_them(data, own, tmp_path):
    out, lists = tmp_path / "out.jsonl", data / "all.jsonl"
    assert run(["rescore", str(lists), "--model", str(own), "--out", str(out), "--lm-weight", "0.2"]) == 0
    found = read_provenance(out)
    assert (found["model"], found["weights"]["lm_weight"], found["tuned"]) == (str(own), 0.2, None)
    assert found["model_hash"] == CharacterModel.load(own).hash
    assert found["lists"] == {"file": str(lists), "sha256": file_hash(lists)}
    assert found["lists_provenance"]["decoder"] == "batched"


def test_weights_hold_for_the_case_and_the_model_that_they_were_tuned_for(data, own, gpt2, tmp_path, capsys):
    tuned, out = tmp_path / "tuned.json", tmp_path / "out.jsonl"
    about = {"lm_weight": 1, "word_score": 0, "ngram_weight": 0, "ids": [], "model": str(gpt2), "lower": True}
    tuned.write_text(json.dumps(about))
    command = ["rescore", str(data / "test.jsonl"), "--tuned", str(tuned), "--out", str(out), "--model"]
    capsys.readouterr()
    assert run([*command, str(gpt2)]) == 2
    assert "tuned with --lower, which changes the model's scores: give it too" in capsys.readouterr().err
    assert not out.exists()
    assert run([*command, str(gpt2), "--lower"]) == 0
    assert "may not suit" not in capsys.readouterr().err
    tuned.write_text(json.dumps({**about, "lower": False}))
    assert run([*command, str(own)]) == 0
    said = capsys.readouterr().err
    assert f"tuned with the model {gpt2}; its weights may not suit {own}" in said
    assert said.count("\n") == 1
    del about["model"], about["lower"]  # as older files are
    tuned.write_text(json.dumps(about))
    assert run([*command, str(own)]) == 0
    assert capsys.readouterr().err == ""


def test_a_neural_model_that_was_trained_anew_under_its_name_is_told(data, own, tmp_path, capsys):
    """Its name was all that weights and hypotheses said of it."""
    tuned, model = tmp_path / "tuned.json", tmp_path / "model"
    shutil.copytree(own, model)
    assert run(["rescore-tune", str(data / "dev.jsonl"), "--references", str(data / "dev.txt"), "--model", str(model),
                "--out", str(tuned)]) == 0
    command = ["rescore", str(data / "test.jsonl"), "--tuned", str(tuned), "--out", str(tmp_path / "out.jsonl"),
               "--model", str(model)]
    capsys.readouterr()
    assert run(command) == 0
    assert "changed" not in capsys.readouterr().err
    other = CharacterModel.load(model)
    with torch.no_grad():
        next(other.parameters()).add_(0.01)
    other.save(model)
    assert run(command) == 0
    assert f"{tuned}: the model {model} has changed since; its weights may not suit it" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["rescore", "dev.jsonl", "--model", "characters", "--out", "x"], 2, "give --tuned"),
    (["rescore", "dev.jsonl", "--model", "characters", "--out", "x", "--tuned", "t.json"], 1,
     "t.json: 5 of 5 utterances, "),
    (["rescore", "dev.jsonl", "--model", "characters", "--out", "x", "--tuned", "t.json", "--lm-weight", "1"], 2,
     "leave out"),
    (["rescore", "dev.jsonl", "--model", "characters", "--out", "x", "--tuned", "none"], 2, "none: no such file"),
    (["rescore", "dev.jsonl", "--model", "characters", "--out", "x", "--tuned", "dev.txt"], 2, "not what"),
    (["rescore", "greedy.jsonl", "--model", "characters", "--out", "x", "--lm-weight", "1"], 1, "no n-best list"),
    (["rescore", "empty", "--model", "characters", "--out", "x", "--lm-weight", "1"], 1, "empty: no hypotheses"),
    (["rescore", "dev.jsonl", "--model", ".", "--out", "x", "--lm-weight", "1"], 1, "no causal language model"),
    (["rescore", "dev.jsonl", "--model", "characters", "--out", "x", "--lm-weight", "1", "--lower"], 2, "--lower"),
    *((["rescore", "dev.jsonl", "--model", "characters", "--out", "x", "--lm-weight", "1", option, value], 2, says)
      for option, value, says in (
          ("--lm-weight", "nan", "lm_weight=nan must"), ("--lm-weight", "inf", "lm_weight=inf must"),
          ("--lm-weight", "-1", "lm_weight=-1.0 must"), ("--word-score", "nan", "word_score=nan"),
          ("--ngram-weight", "nan", "ngram_weight=nan finite"))),
    (["rescore-tune", "test.jsonl", "--references", "dev.txt", "--model", "characters", "--out", "x"], 1,
     "no reference"),
    (["lm", "train", "none", "--out", "x"], 2, "none: no such file"),
    (["lm", "train", "empty", "--out", "x"], 1, "empty: no text"),
])
def test_mistakes_end_in_one_line(data, own, monkeypatch, capsys, arguments, code, says):
    monkeypatch.chdir(data)
    (data / "t.json").write_text(json.dumps({"lm_weight": 1, "word_score": 0, "ngram_weight": 0, "ids": [
        h.id for h in read_hypotheses(data / "dev.jsonl")]}))
    capsys.readouterr()
    assert run(arguments) == code
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not (data / "x").exists()
