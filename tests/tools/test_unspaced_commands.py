"""A script without spaces, from emissions of a recogniser that writes no separators to error rates."""

import json

import numpy as np
import pytest

from downstream.decode.hypothesis import read_hypotheses
from downstream.decode.recipe import load_decoding
from downstream.emissions import EmissionsWriter
from tools.main import run
from upstream.errors import RecipeError

SENTENCES = [f"{who}{when}{what}" for who in ("老师", "她们", "他") for when in ("今天", "明天")
             for what in ("看书", "吃米饭", "学中文")]
WORDS = ["老师", "她们", "他", "今天", "明天", "看", "书", "吃", "米饭", "学", "中文"]
SYMBOLS = ("<pad>", "|", *sorted(set("".join(WORDS))))


def emit(folder, name, seed):
    """Emissions of every sentence at 25 Hz in which some characters are unsure, and its references."""
    rng = np.random.default_rng(seed)
    with EmissionsWriter(folder / name, SYMBOLS, 0, 25.0, {"manifest_hash": name}) as writer:
        for number, text in enumerate(SENTENCES):
            path = [SYMBOLS.index(c) for letter in text for c in (letter, "<pad>") for _ in range(c == "<pad>" or 1)]
            rows = rng.dirichlet(np.full(len(SYMBOLS), 0.05), len(path)) * rng.uniform(0, 1.2, (len(path), 1))
            rows[:, 1] = 1e-7  # a separator is never heard
            rows[np.arange(len(path)), path] += 0.6
            writer.add(f"{name}-{number}", np.log(rows / rows.sum(axis=1, keepdims=True) + 1e-9).astype(np.float32))
    (folder / f"{name}.txt").write_text("".join(f"{name}-{n} {text}\n" for n, text in enumerate(SENTENCES)),
                                        encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unspaced")
    emit(folder, "dev", 0)
    emit(folder, "test", 1)
    (folder / "characters.txt").write_text("".join(" ".join(text) + "\n" for text in SENTENCES), encoding="utf-8")
    assert run(["lm", "build", str(folder / "characters.txt"), "--order", "3", "--discount-fallback", "--out",
                str(folder / "lm.arpa")]) == 0
    return folder


def call(capsys, command, data, name, *words):
    code = run([command, str(data / name), "--references", str(data / f"{name.partition('.')[0]}.txt"), *words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def tuned(data):
    assert run(["tune", str(data / "dev"), "--references", str(data / "dev.txt"), "--lm", str(data / "lm.arpa"),
                "--characters", "--unspaced", "--workers", "1", "--out", str(data / "tuned.json")]) == 0
    return data / "tuned.json"


def rate(capsys, data, *decoding):
    out = data / "test.jsonl"
    assert run(["decode", str(data / "test"), *map(str, decoding), "--workers", "1", "--out", str(out)]) == 0
    assert run(["score", str(out), "--references", str(data / "test.txt"), "--characters", "--json"]) == 0
    return json.loads(capsys.readouterr().out.split("words\n", 1)[1])["cer"]


def test_a_language_model_of_characters_makes_unspaced_text_better_and_not_worse(data, tuned, capsys):
    """Mandarin by the documentation: a CER of 18 greedily, of 47 to 71 with a language model, and no word of it."""
    capsys.readouterr()
    greedy, decoded = rate(capsys, data), rate(capsys, data, "--lm", data / "lm.arpa", "--tuned", tuned)
    assert decoded < greedy / 2
    found = read_hypotheses(data / "test.jsonl")
    assert all(" " not in h.text and [w.word for w in h.words] == list(h.text) for h in found)
    assert json.loads(tuned.read_text())["unspaced"] is True
    assert json.loads((data / "test.jsonl.json").read_text())["settings"]["unspaced"] is True


def test_tuning_that_makes_more_errors_than_greedy_decoding_says_so(data, tmp_path, capsys):
    code, _, err = call(capsys, "tune", data, "dev", "--lm", str(data / "lm.arpa"), "--characters", "--workers", "1",
                        "--out", str(tmp_path / "spaced.json"))
    assert code == 0
    assert "warning: greedy decoding makes fewer errors (CER " in err
    assert "a recogniser that writes no spaces needs --unspaced" in err
    found = json.loads((tmp_path / "spaced.json").read_text())
    assert found["greedy_wer"] < found["wer"]


def test_decode_check_says_that_no_separators_are_written_between_the_models_words(data, capsys):
    """It passed, and decoding left out most characters."""
    given = ("--lm", str(data / "lm.arpa"), "--characters")
    code, out, _ = call(capsys, "decode-check", data, "dev", *given)
    assert code == 1
    assert "failed  word separator: greedy decoding finds words of " in out
    assert "decode without them (--unspaced)" in out
    code, out, _ = call(capsys, "decode-check", data, "dev", *given, "--unspaced")
    assert (code, "word separator" in out, "temperature" in out) == (0, False, True)


def test_errors_of_unspaced_decoding_are_taken_apart_by_characters(data, tuned, capsys):
    given = ("--lm", str(data / "lm.arpa"), "--tuned", str(tuned), "--workers", "1")
    code, out, _ = call(capsys, "errors", data, "test", *given, "--characters", "--json")
    found = json.loads(out)
    assert (code, found["unit"], found["words"]) == (0, "character", sum(map(len, SENTENCES)))
    steps = {step["name"]: step["errors"] for step in found["ladder"]}
    assert steps["+ lm"] < steps["greedy"]
    assert found["unknown"]["words"] == 0
    assert sum(part["errors"] for part in found["blamed"].values()) == steps["+ lm"]
    assert found["blamed"]["vocabulary"]["errors"] == found["blamed"]["search"]["errors"] == 0
    assert "CER %" in call(capsys, "errors", data, "test", *given, "--characters")[1]
    code, out, _ = call(capsys, "errors", data, "test", "--lm", str(data / "lm.arpa"), "--characters", "--json")
    assert (code, json.loads(out)["blamed"]) == (0, {})


def test_other_decoders_refuse_unspaced_search(data, capsys):
    for name in ("beam", "lexicon"):
        code, _, err = call(capsys, "tune", data, "dev", "--lm", str(data / "lm.arpa"), "--decoder", name,
                            "--unspaced", "--out", str(data / "refused.json"))
        assert (code, f"no effect on the {name} decoder: take batched (--decoder)" in err) == (2, True)
    with pytest.raises(RecipeError, match="unspaced is for decoder=batched, not lexicon"):
        load_decoding("librispeech-4gram", ["decoder=lexicon", "unspaced=true"])
