"""Scores of a causal model equal transformers' own loss, alone or padded in a batch; a small random GPT-2."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from downstream.decode.batched import BatchedDecoder
from downstream.decode.beam import BeamDecoder
from downstream.decode.hypothesis import Candidate, Hypothesis, Word, read_hypotheses, write_hypotheses
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.rescoring import RescoringSearch, Weights, rescore, score_nbest, tune_weights
from downstream.lm.rescoring import CausalModel
from downstream.score.rates import word_errors
from upstream.errors import FormatError, InputError, UsageError

sys.path.append(str(Path(__file__).parents[1] / "decode"))
from posteriors import FOLDER, read_slice

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


def test_batches_are_the_same_in_every_process(model, monkeypatch):
    """Bug: texts of one length went into batches in the order of a set, another one in every process."""
    texts = [f"{one} {other}" for one in ("A", "THE", "CAT", "SAT") for other in ("ON", "MAT", "A", "CAT")]
    batches = []
    monkeypatch.setattr(model, "_batch", lambda rows: batches.append(rows) or [0.0] * len(rows))
    model.scores(texts[::-1], batch_tokens=12)
    assert [row for rows in batches for row in rows] == [model._tokens(text) for text in sorted(texts)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_stored_in_half_precision_scores_in_float32(folder, tmp_path, dtype):
    """It computed in what it was stored in, so that a score depended on what else was in the batch."""
    from transformers import AutoTokenizer, GPT2LMHeadModel

    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    GPT2LMHeadModel.from_pretrained(folder).to(dtype).save_pretrained(tmp_path)
    found = CausalModel(tmp_path)
    assert found.scores(TEXTS) == pytest.approx([found.scores([text])[0] for text in TEXTS], abs=1e-4)


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
    assert [(c.text, c.score, c.lm) for c in best.nbest] == [("THE CAT", -2.75, -3.0), ("A CAT", -5.25, -9.0)]
    assert (best.text, best.score, best.words) == ("THE CAT", -2.75, ())
    assert rescore([FOUND], [[-8.0, -4.0]], Weights(0.0))[0].words == FOUND.words


def test_tuning_finds_the_weights_with_the_fewest_errors():
    """THE CAT wins where -2 - 4w beats -1 - 8w, from w = .25 on; .3 is the next setting."""
    search = RescoringSearch((0.0, 1.0), (0.0, 0.0), (0.0, 0.0), fine=(0.1, 1.0, 1.0))
    found = tune_weights([FOUND], [[-8.0, -4.0]], ["THE CAT"], search)
    assert found.weights == Weights(0.3)
    assert (found.wer, found.wer_before, found.wer_oracle, found.on_edge) == (0.0, 50.0, 0.0, ())
    assert tune_weights([FOUND], [[-8.0, -4.0]], ["A CAT"], search).weights == Weights(0.0)
    with pytest.raises(InputError, match="nothing to tune on"):
        tune_weights([FOUND], [[-8.0, -4.0]], [" "], search)


def test_of_equal_weights_those_of_the_models_are_the_smallest():
    """SAT in its place wins where -2 - 3n + 3w beats -1 - 9n + 2w, that is w + 6n > 1, whatever the neural model says:
    by the word score alone from 1.25 on, which is the next after 1, rather than by the n-gram model from .2 on."""
    found = Hypothesis("u", "THE CAT", -1.0, -1.0, nbest=(Candidate("THE CAT", -1.0, -1.0, -9.0, 0),
                                                          Candidate("THE CAT SAT", -2.0, -2.0, -3.0, 0)))
    assert tune_weights([found], [[0.0, 0.0]], ["THE CAT SAT"]).weights == Weights(0.0, 1.25, 0.0)
    assert tune_weights([found], [[0.0, 0.0]], ["THE CAT"]).weights == Weights(0.0, 0.0, 0.0)
    assert tune_weights([found], [[0.0, 0.0]], ["THE CAT"], RescoringSearch(word_scores=(-4.0, -3.0))).weights == \
        Weights(0.0, -3.0, 0.0)


def test_confidences_are_those_of_a_text_that_stays():
    """And of texts with one score the first stays."""
    sure = replace(FOUND, confidences=(0.5, 0.25))
    for scores, text, kept in ([-8.0, -4.0], "THE CAT", ()), ([-8.0, -8.0], "A CAT", (0.5, 0.25)), \
            ([-8.0, -6.0], "A CAT", (0.5, 0.25)):  # -1 - 4 and -2 - 3 are the same
        [best] = rescore([sure], [scores], Weights(0.5))
        assert (best.text, best.confidences, bool(best.words)) == (text, kept, bool(kept))


def test_rescoring_again_is_as_rescoring_the_first_list(tmp_path):
    """The first neural model's score stood for the n-gram model's in the second rescoring, and in its tuning."""
    once = rescore([FOUND], [[-8.0, -4.0]], Weights(0.5, 1.0, 0.25))
    write_hypotheses(tmp_path / "once.jsonl", once)
    [again] = read_hypotheses(tmp_path / "once.jsonl")
    ours = [{"A CAT": -2.0, "THE CAT": -7.0}[c.text] for c in again.nbest]
    for weights in (Weights(0.5, 1.0, 0.25), Weights(0.1, 0.0, 1.0), Weights(0.0)):
        [second], [first] = rescore([again], [ours], weights), rescore([FOUND], [[-2.0, -7.0]], weights)
        assert (second.nbest, second.text, second.score, second.lm) == (first.nbest, first.text, first.score, first.lm)


def test_another_text_of_an_unfinished_list_is_unfinished_as_well():
    """Searches list texts that lack a piece only where they have found no whole one."""
    [best] = rescore([replace(FOUND, unfinished=True)], [[-8.0, -4.0]], Weights(0.5))
    assert (best.text, best.unfinished) == ("THE CAT", True)


def test_references_by_their_ids_are_refused():
    """The ids of a dictionary were the references."""
    with pytest.raises(UsageError, match="in the order of the hypotheses"):
        tune_weights([FOUND], [[-8.0, -4.0]], {"THE": "THE CAT"})


def test_an_edge_is_told():
    search = RescoringSearch((0.0, 0.3), (0.0, 0.0), (0.0, 0.0), fine=(0.3, 1.0, 1.0))
    assert tune_weights([FOUND], [[-8.0, -4.0]], ["THE CAT"], search).on_edge == ("lm_weight",)
    assert tune_weights([FOUND], [[-8.0, -4.0]], ["A CAT"], search).on_edge == ()  # no weight: below there is nothing
    with pytest.raises(UsageError, match="from low to high"):
        RescoringSearch((1.0, 0.0))


def test_the_chosen_weights_give_the_errors_that_tuning_tells():
    """On lists made at random: what is tuned is what `rescore` does, and no setting of the coarse grid is better."""
    rng = np.random.default_rng(0)
    texts = ["A", "B", "A B", "B A", "A B A"]
    lists = [Hypothesis(str(u), texts[0], 0.0, 0.0, nbest=tuple(
        Candidate(t, 0.0, *rng.normal(scale=3, size=2), int(rng.integers(2))) for t in texts)) for u in range(12)]
    scores = [list(rng.normal(scale=3, size=len(texts))) for _ in lists]
    references = [str(rng.choice(texts)) for _ in lists]

    def errors(weights):
        return sum(word_errors(r, h.text) for r, h in zip(references, rescore(lists, scores, weights)))

    found = tune_weights(lists, scores, references)
    words = sum(len(text.split()) for text in references)
    assert found.wer == pytest.approx(100 * errors(found.weights) / words)
    assert found.wer_oracle == 0
    assert found.interval.low <= found.wer <= found.interval.high
    assert all(errors(found.weights) <= errors(Weights(w, s, n)) for w in (0.0, 0.6, 2.0) for s in (-4.0, 0.0, 3.0)
               for n in (0.0, 1.0))


@pytest.mark.parametrize("kind", [BeamDecoder, LexiconDecoder, BatchedDecoder])
def test_the_weights_that_made_a_list_keep_its_order(kind):
    """Of closed decoders as long as the n-gram model knows all words, which those of the model are by default."""
    utterances, _, symbols = read_slice()
    decoder = kind(symbols, 0, FOLDER / "words.arpa.gz", lm_weight=0.7, word_score=0.5, beam=20, nbest=10)
    lists = [decoder.decode(id, rows, 50.0) for id, rows in list(utterances.items())[:3]]
    again = rescore(lists, [[0.0] * len(h.nbest) for h in lists], Weights(0.0, 0.5, 0.7))
    assert [[c.text for c in h.nbest] for h in again] == [[c.text for c in h.nbest] for h in lists]
    assert min(len(h.nbest) for h in lists) > 1
    assert [h.words for h in again] == [h.words for h in lists]


def test_every_candidate_is_scored_and_a_text_without_a_list_is_refused(model):
    assert score_nbest([FOUND, Hypothesis("v", "", 0.0, 0.0)], model) == [
        pytest.approx(model.scores(["A CAT", "THE CAT"]), abs=1e-4), []]
    with pytest.raises(InputError, match=r"^w: no n-best list"):
        score_nbest([Hypothesis("w", "A", 0.0, 0.0)], model)


def test_tuning_counts_unknown_words_as_rescoring_does():
    """The n-gram model's <unk> is cheap here; with the penalty of 23 nats the known text wins at any weight above 0."""
    found = Hypothesis("u", "A ZZZ", -1.0, -1.0,
                       nbest=(Candidate("A ZZZ", -1.0, -1.0, -3.0, 1), Candidate("A CAT", -2.0, -2.0, -4.0, 0)))
    search = RescoringSearch((0.0, 0.0), (0.0, 0.0), (0.0, 1.0))
    tuned = tune_weights([found], [[0.0, 0.0]], ["A CAT"], search)
    assert (tuned.wer, tuned.weights) == (0.0, Weights(0.0, 0.0, 0.05))
    assert rescore([found], [[0.0, 0.0]], tuned.weights)[0].text == "A CAT"
