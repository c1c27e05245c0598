"""Scores of a causal model equal transformers' own loss, alone or padded in a batch; a small random GPT-2."""

import pytest
import torch

from downstream.decode.hypothesis import Candidate, Hypothesis, Word
from downstream.decode.rescoring import Weights, rescore, score_nbest, tune_weights
from downstream.lm.rescoring import CausalModel
from upstream.errors import FormatError, InputError, UsageError

TEXTS = ["A", "", "THE CAT SAT ON THE MAT", "THE CAT", "UNKNOWN CAT", "A"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<end>", "<unk>", "A", "THE", "CAT", "SAT", "ON", "MAT"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("gpt2")
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="<unk>").save_pretrained(path)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(words), n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
                        eos_token_id=0, initializer_range=0.5)
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return CausalModel(folder)


def test_scores_are_the_loss_of_transformers(folder, model):
    from transformers import AutoTokenizer, GPT2LMHeadModel

    theirs, tokeniser = GPT2LMHeadModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text, found in zip(TEXTS, model.scores(TEXTS), strict=True):
        ids = torch.tensor([[0, *tokeniser(text)["input_ids"], 0]])
        with torch.inference_mode():
            loss = theirs(input_ids=ids, labels=ids).loss
        assert found == pytest.approx(-float(loss) * (ids.shape[1] - 1), abs=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 12, 4096])
def test_padding_does_not_change_a_score(model, batch_tokens):
    alone = [model.scores([text])[0] for text in TEXTS]
    assert model.scores(TEXTS, batch_tokens) == pytest.approx(alone, abs=1e-4)


def test_a_text_beyond_the_positions_and_a_folder_without_a_model_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="16 positions"):
        model.scores(["A " * 15])
    with pytest.raises(FormatError, match="no causal language model"):
        CausalModel(tmp_path)


FOUND = Hypothesis("u", "A CAT", -1.0, -1.0, words=(Word("A", 0, 1), Word("CAT", 1, 2)),
                   nbest=(Candidate("A CAT", -1.0, -1.0, -9.0, 0), Candidate("THE CAT", -2.0, -2.0, -3.0, 0)))


def test_the_ranking_by_hand():
    [best] = rescore([FOUND], [[-8.0, -4.0]], Weights(0.5, 1.0, 0.25))
    # A CAT: -1 - 4 - 2.25 + 2 = -5.25; THE CAT: -2 - 2 - .75 + 2 = -2.75
    assert [(c.text, c.score, c.lm) for c in best.nbest] == [("THE CAT", -2.75, -4.0), ("A CAT", -5.25, -8.0)]
    assert (best.text, best.score, best.words) == ("THE CAT", -2.75, ())
    assert rescore([FOUND], [[-8.0, -4.0]], Weights(0.0))[0].words == FOUND.words


def test_tuning_finds_the_weights_with_the_fewest_errors():
    grid = [Weights(0.0), Weights(0.5), Weights(1.0)]
    assert tune_weights([FOUND], [[-8.0, -4.0]], ["THE CAT"], grid) == (Weights(0.5), 0)
    assert tune_weights([FOUND], [[-8.0, -4.0]], ["A CAT"], grid) == (Weights(0.0), 0)
    with pytest.raises(UsageError, match="no weights"):
        tune_weights([FOUND], [[-8.0, -4.0]], ["A CAT"], [])


def test_every_candidate_is_scored_and_a_text_without_a_list_is_refused(model):
    assert score_nbest([FOUND, Hypothesis("v", "", 0.0, 0.0)], model) == [
        pytest.approx(model.scores(["A CAT", "THE CAT"]), abs=1e-4), []]
    with pytest.raises(InputError, match=r"^w: no n-best list"):
        score_nbest([Hypothesis("w", "A", 0.0, 0.0)], model)
