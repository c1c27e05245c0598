"""Our own small model: probabilities of texts, equal to a step-by-step pass, padded or not, saved or not."""

import math
from collections import Counter

import pytest
import torch
from full_disk import files_up_to
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.lm.character_model import (
    CharacterModel,
    CharacterShape,
    CharacterTraining,
    _batches,
    train_characters,
)
from upstream.errors import FormatError, HubertkitError, InputError, UsageError

TEXTS = ["", "A", "AB BA", "B", "AB BA", "A€"]
SMALL = CharacterShape(16, 2, 0.0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CharacterModel(" AB", SMALL).eval()


def test_a_score_is_the_sum_over_its_steps(model):
    """Each character is asked for after the state that the ones before it left; the newline begins and ends."""
    for text, found in zip(TEXTS, model.scores(TEXTS), strict=True):
        state, before, total = None, 0, 0.0
        for wanted in [*model.encode(text), 0]:
            with torch.inference_mode():
                output, state = model.lstm(model.embedding(torch.tensor([[before]])), state)
                total += float(torch.log_softmax(model.output(output)[0, 0], 0)[wanted])
            before = wanted
        assert found == pytest.approx(total, abs=1e-4)


def test_probabilities_of_all_short_texts_and_of_going_on_sum_to_one(model):
    """Of the texts of no character, of one, and all longer ones together: nothing is lost."""
    scores = model.scores(["", *" AB", "€"])
    with torch.inference_mode():
        first = model(torch.tensor([[0]]))[0, 0].exp()
        later = [first[c] * (1 - model(torch.tensor([[0, c]]))[0, 1, 0].exp()) for c in range(1, 5)]
    assert sum(map(math.exp, scores)) + float(sum(later)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("batch", [1, 8, 65_536])
def test_padding_does_not_change_a_score(model, batch):
    assert model.scores(TEXTS, batch) == pytest.approx([model.scores([t])[0] for t in TEXTS], abs=1e-4)


def test_where_a_sentence_was_cut_is_no_end():
    """A paragraph a line is usual in books; each taught that a text ends in the midst of a word."""
    sentence = "AB" * 100
    model, _ = train_characters([sentence, "B", "B"], SMALL, CharacterTraining(80, 200, 0.02, longest=9))
    with torch.inference_mode():
        after = model(torch.tensor([[0, *model.encode(sentence[:9])]]))[0, 9].exp()
    assert float(after[0]) < 0.05
    assert float(after[model.encode("B")[0]]) > 0.9
    with pytest.raises(InputError, match="2 of 3 lines are longer than 9 characters"):
        train_characters([sentence, sentence, "B"], SMALL, CharacterTraining(80, 200, 0.02, longest=9))
    model, _ = train_characters([sentence[:9]], SMALL, CharacterTraining(80, 200, 0.02, longest=9))
    with torch.inference_mode():
        assert float(model(torch.tensor([[0, *model.encode(sentence[:9])]]))[0, 9].exp()[0]) > 0.9


def test_training_learns_the_text_and_is_the_same_each_time():
    sentences = ["ABAB AB", "AB ABAB", ""] * 10
    first, losses = train_characters(sentences, SMALL, CharacterTraining(60, 200, 0.02))
    again, same = train_characters(sentences, SMALL, CharacterTraining(60, 200, 0.02))
    assert losses == same
    assert losses[-1] < 0.3 < math.log(3) < losses[0]
    assert first.scores(["ABAB AB"])[0] > first.scores(["BABA BA"])[0] + 5
    assert first.scores(["AB"]) == again.scores(["AB"])


def test_the_rate_is_warmed_up_and_falls_along_a_cosine(monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def noted(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    train_characters(["AB"] * 9, CharacterShape(8, 1, 0.0), CharacterTraining(40, 50, peak_rate=1.0))
    assert rates[:3] == pytest.approx([0.5, 1, 1])
    assert rates[21] == pytest.approx(0.5)  # in the middle of the 38 that fall
    assert rates[-1] < 0.01


def test_gradients_are_clipped(monkeypatch):
    norms, step = [], torch.optim.Adam.step

    def noted(self, *arguments):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    train_characters(["AB"] * 9, CharacterShape(8, 1, 0.0), CharacterTraining(5, 50, clip_norm=0.01))
    assert norms == pytest.approx([0.01] * 5, rel=1e-3)


def test_the_dropout_of_a_shape_lies_between_its_layers(model):
    dropping, ids = CharacterModel(" AB", CharacterShape(16, 2, 0.5)), torch.tensor([[0, 1, 2, 3]])
    dropping.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert not torch.equal(dropping.train()(ids), dropping(ids))
        torch.testing.assert_close(dropping.eval()(ids), model(ids))


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), characters=st.integers(1, 300),
       updates=st.integers(1, 50))
def test_long_sentences_are_learnt_from_as_often_as_short_ones(lengths, characters, updates):
    """No sentence comes an (n + 1)th time before all others have come n times."""
    texts = [f"{i}:".ljust(length + 4, "x") for i, length in enumerate(lengths)]
    seen = Counter(dict.fromkeys(texts, 0))
    batches = list(_batches(texts, CharacterTraining(updates, characters)))
    assert len(batches) == updates
    for batch in batches:
        assert len(set(batch)) == len(batch)
        seen.update(batch)
        assert max(seen.values()) - min(seen.values()) <= 1
        longest = max(map(len, batch)) + 1
        assert sum(len(text) + 1 for text in batch) <= characters + longest


def test_batches_are_hardly_padded():
    texts = [f"{i}".ljust(5 + i * i % 211, "x") for i in range(4000)]
    batches = list(_batches(texts, CharacterTraining(100, 4000)))
    held = sum((max(map(len, batch)) + 1) * len(batch) for batch in batches)
    assert sum(len(text) + 1 for batch in batches for text in batch) > 0.85 * held


def test_a_saved_model_gives_the_same(model, tmp_path):
    model.save(tmp_path / "lm", {"loss": 1.0})
    assert CharacterModel.load(tmp_path / "lm").scores(TEXTS) == model.scores(TEXTS)


def test_what_json_cannot_hold_is_named_before_anything_is_replaced(model, tmp_path):
    """The model that the folder held was no longer one."""
    model.save(tmp_path)
    with pytest.raises(UsageError, match=r"characters\.json: text cannot be written as JSON"):
        model.save(tmp_path, {"text": tmp_path})
    assert CharacterModel.load(tmp_path).scores(TEXTS) == model.scores(TEXTS)


def test_scoring_leaves_the_model_in_its_mode(model):
    """Scores looked at during a training switched its dropout off."""
    model.train()
    try:
        model.scores(TEXTS)
        assert model.training
        assert model.lstm.training
    finally:
        model.eval()


def test_other_folders_are_refused(model, tmp_path):
    with pytest.raises(FormatError, match=r"no characters\.json"):
        CharacterModel.load(tmp_path)
    model.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match="do not fit"):
        CharacterModel.load(tmp_path)
    with pytest.raises(InputError, match="no sentence"):
        train_characters(["", ""])
    with pytest.raises(InputError, match="at least 1"):
        CharacterShape(0)


@pytest.mark.parametrize("size", [1, 4096])
def test_a_full_disk_leaves_the_character_model_that_was_there(model, tmp_path, size):
    """characters.json was gone before the weights were written, and the next training was refused the folder."""
    model.save(tmp_path)
    with files_up_to(size), pytest.raises(HubertkitError, match="larger than is allowed"):
        model.save(tmp_path, {"updates": 2})
    assert CharacterModel.load(tmp_path).scores(TEXTS) == model.scores(TEXTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["characters.json", "model.safetensors"]
