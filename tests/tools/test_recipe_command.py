"""`hubertkit recipe`: the list, one as it ships, one with every key, and what is refused."""

import pytest

from downstream.finetune_recipe import SHIPPED, FinetuneRecipe
from tools import main
from tools.recipes import SCHEMAS, Command, schema_of
from upstream.recipe import load_recipe


def call(capsys, *words):
    code = main.run(["recipe", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_every_recipe_that_ships_is_listed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = call(capsys)
    assert code == 0
    assert [command.value for command in Command] == list(SCHEMAS)
    for command in SCHEMAS:
        assert f" {command} " in out
        for path in schema_of(command)[1].glob("*.yaml"):
            assert f" {path.stem} " in out
    assert "A HuBERT that two CPU cores can train: 4.9 M parameters on filterbanks, two rounds" in out


def test_a_recipe_is_shown_as_it_ships(capsys):
    assert call(capsys, "ctc-tiny") == (0, (SHIPPED / "ctc-tiny.yaml").read_text(), "")


def test_all_keys_are_shown_and_what_is_shown_is_a_recipe(capsys, tmp_path):
    code, out, _ = call(capsys, "ctc-tiny", "data=x.arrow", "training.updates=7", "--all")
    (tmp_path / "mine.yaml").write_text(out)
    assert code == 0
    assert out.startswith((SHIPPED / "ctc-tiny.yaml").read_text().splitlines()[0])
    assert load_recipe(FinetuneRecipe, tmp_path / "mine.yaml", [], SHIPPED) == \
        load_recipe(FinetuneRecipe, "ctc-tiny", ["data=x.arrow", "training.updates=7"], SHIPPED)
    assert "\n# frozen: false  # train the head alone\n" in out
    code, again, _ = call(capsys, tmp_path / "mine.yaml", "--for", "finetune", "--all")
    assert (code, again.replace(" ", "")) == (0, out.replace(" ", ""))


def test_a_recipe_is_shown_without_the_values_that_its_command_needs(capsys):
    """Bug: `hubertkit recipe librispeech-4gram --all` wanted `lm=FILE` to be shown at all."""
    code, out, err = call(capsys, "librispeech-4gram", "--all")
    assert (code, err) == (0, "")
    assert "\n# lm: null  # language model: an ARPA file; " in out


def test_a_comparison_without_cells_yet_is_shown_and_not_run(capsys, tmp_path):
    """Bug: nobody could see which keys there are before they had written cells, which are of such keys."""
    (tmp_path / "mine.yaml").write_text("corpus: manifest.arrow\n")
    code, out, err = call(capsys, tmp_path / "mine.yaml", "--for", "bench low-resource", "--all")
    assert (code, err) == (0, "")
    assert "\ncorpus: manifest.arrow" in out
    assert "\n# cells: []" in out
    for more in ([], ["--dry-run"]):
        assert main.run(["bench", "low-resource", str(tmp_path / "mine.yaml"), "--data", str(tmp_path), "--out",
                         str(tmp_path / "out"), *more]) == 2
        assert "cells: give at least one, for instance `1h: scratch`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "said"), [
    (("ctc-tyni",), "hubertkit: no recipe called 'ctc-tyni' (did you mean ctc-tiny?); those that ship: hubert-adapt, "),
    (("ctc-tiny", "--for", "pretrain"), "hubertkit: no recipe called 'ctc-tiny' (did you mean "),
    (("mine.yaml",), "hubertkit: mine.yaml: a file does not say which command it is for: give --for pretrain, "),
    (("ctc-tiny", "data=x"), "hubertkit: data=x: key=value words show with --all; "),
    (("--all",), "hubertkit: --all and --for are for one recipe: name it"),
    (("ctc-tiny", "--all", "updates=3"), "hubertkit: override 'updates=3': unknown key updates (did you mean ")])
def test_what_cannot_be_shown_is_refused(capsys, words, said):
    code, out, err = call(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
