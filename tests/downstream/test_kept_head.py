"""A recogniser that starts from the head of another one, and not from its encoder alone."""

import dataclasses

import pytest
import torch
from test_finetune import SHAPE, TRAINING
from tones import write_tones

from downstream.finetune import build_recogniser, finetune, stage_settings
from downstream.finetune_recipe import FinetuneRecipe, SpecMaskRecipe
from downstream.heads.ctc import Recogniser
from downstream.heads.recipe import HeadRecipe
from downstream.kept_head import check_head
from downstream.recogniser import load_recogniser, recogniser_hash, save_recogniser
from downstream.text.vocabulary import Vocabulary
from tools.main import run
from upstream.errors import InputError, UsageError
from upstream.model import Encoder, save_encoder
from upstream.stage import read_stage

ENGLISH = Vocabulary.characters()
LSTM = HeadRecipe("bilstm", "mix", width=8, depth=1)


def written(folder, head, vocabulary=ENGLISH):
    """A recogniser with random weights, on disk."""
    generator = torch.Generator().manual_seed(3)
    model = Recogniser(Encoder(SHAPE).initialise(0), len(vocabulary.symbols), recipe=head).initialise_head(generator)
    with torch.no_grad():
        model.head.bias.copy_(torch.arange(len(vocabulary.symbols)))
    save_recogniser(model, vocabulary, folder, {})
    return str(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"), [2] * 8, dev=3)


@pytest.mark.parametrize("head", [HeadRecipe(), HeadRecipe(layers="mix"), LSTM], ids=["linear", "mix", "bilstm"])
def test_the_head_that_is_kept_is_that_of_the_recogniser(tmp_path, head):
    source = written(tmp_path / "asr", head)
    found = FinetuneRecipe(encoder=source, head=head, seed=5)
    one = load_recogniser(source)[0]
    kept, fresh = (build_recogniser(dataclasses.replace(found, keep_head=keep), ENGLISH) for keep in (True, False))
    assert recogniser_hash(kept) == recogniser_hash(one) != recogniser_hash(fresh)
    assert check_head(found, ENGLISH) == {}
    assert check_head(dataclasses.replace(found, keep_head=True), ENGLISH) == {"head": recogniser_hash(one)}


def test_rows_are_taken_by_their_symbols_and_the_blank_by_what_it_is(tmp_path):
    """Row i of the given head has the bias i. `<blank>` is its third symbol, and the new one's first."""
    source = written(tmp_path / "asr", HeadRecipe(), Vocabulary(("B", "|", "<blank>", "A", "C"), 2))
    found = FinetuneRecipe(encoder=source, keep_head=True, symbols="data")
    wanted = Vocabulary(("<pad>", "|", "A", "B"), 0)
    check_head(found, wanted)
    model = build_recogniser(found, wanted)
    assert model.head.bias.tolist() == [2, 1, 3, 0]
    assert torch.equal(model.head.weight, load_recogniser(source)[0].head.weight[[2, 1, 3, 0]])
    with pytest.raises(InputError, match=r"keep_head=true: .*asr never writes 'D' \(BAC\); leave keep_head out"):
        check_head(found, Vocabulary(("<pad>", "|", "A", "D"), 0))


def test_what_has_no_such_head_is_refused(tmp_path):
    save_encoder(Encoder(SHAPE).initialise(0), tmp_path / "encoder", extra={})
    linear, lstm = written(tmp_path / "linear", HeadRecipe()), written(tmp_path / "lstm", LSTM)
    for encoder, head, says in (("scratch", {}, "an encoder from scratch has no head to keep; give encoder=DIR"),
                                (str(tmp_path / "encoder"), {}, "an encoder without the head of a recogniser"),
                                (linear, {"layers": "mix"}, "linear has head.layers=last; give that as well"),
                                (lstm, {}, "lstm has head.kind=bilstm, head.layers=mix, head.projection=0, head.width=8"
                                           "|head.kind=bilstm, head.layers=mix, head.width=8, head.depth=1"),
                                (lstm, {**dataclasses.asdict(LSTM), "width": 9}, "lstm has head.width=8; give")):
        with pytest.raises(UsageError, match=says):
            check_head(FinetuneRecipe(encoder=encoder, keep_head=True, head=HeadRecipe(**head)), ENGLISH)
    check_head(FinetuneRecipe(encoder=lstm, keep_head=True, head=dataclasses.replace(LSTM, dropout=0.0)), ENGLISH)


def test_a_head_that_is_not_kept_is_not_in_the_key_and_one_that_is_stands_there_by_its_weights(corpus, tmp_path):
    assert "keep_head" not in stage_settings(FinetuneRecipe(encoder="somewhere"))
    found = FinetuneRecipe(data=str(corpus / "train.arrow"), dev=str(corpus / "dev.arrow"), keep_head=True,
                           mask=SpecMaskRecipe(0, 5, 0, 8), training=dataclasses.replace(TRAINING, updates=1),
                           encoder=written(tmp_path / "asr", HeadRecipe()))
    finetune(found, tmp_path / "out", lambda line: None)
    assert read_stage(tmp_path / "out")["inputs"]["head"] == recogniser_hash(load_recogniser(tmp_path / "asr")[0])
    biases = load_recogniser(tmp_path / "out")[0].head.bias
    assert torch.allclose(biases, torch.arange(29.0), atol=0.1), "an update later"


def test_the_command_refuses_a_head_that_is_not_there_before_it_makes_anything(corpus, tmp_path, capsys):
    save_encoder(Encoder(SHAPE).initialise(0), tmp_path / "encoder", extra={})
    assert run(["finetune", "ctc-tiny", f"data={corpus / 'train.arrow'}", f"dev={corpus / 'dev.arrow'}",
                f"encoder={tmp_path / 'encoder'}", "keep_head=true", "--out", str(tmp_path / "out"),
                "--ranks", "1"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "an encoder without the head of a recogniser; fine-tune it first" in line
    assert not (tmp_path / "out").exists()
