"""What may be said of a head, and what of it counts."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from downstream.finetune import stage_settings
from downstream.finetune_recipe import SHIPPED, FinetuneRecipe
from downstream.heads.recipe import HeadRecipe
from upstream.errors import RecipeError, UsageError
from upstream.recipe import as_settings, load_recipe, refine
from upstream.training.optimiser import cut_short, learning_rate


@pytest.mark.parametrize("values", [
    {"layers": "best"}, {"layers": -1}, {"layers": 1.0}, {"layers": True}, {"layers": None}, {"layers": []},
    {"layers": [1, 1]}, {"layers": [0, -2]}, {"layers": ["mix"]}, {"width": 0}, {"depth": 0}, {"projection": -1},
    {"dropout": 1.0}, {"dropout": -0.1}])
def test_values_that_make_no_head_are_refused_by_their_names(values):
    (name,) = values
    with pytest.raises(ValueError, match=rf"^head\.{name}="):
        HeadRecipe(**values)


@pytest.mark.parametrize(("word", "message"), [
    ("head.kind=lstm", "head.kind"), ("head.layers=all", "override 'head.layers=all': .*must be last, mix"),
    ("head.depht=3", "did you mean depth"), ("head.width=wide", "head.width")])
def test_a_word_that_is_wrong_is_named(word, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(FinetuneRecipe, "ctc-tiny", [word], SHIPPED)


@pytest.mark.parametrize(("word", "layers"), [("last", (6,)), ("mix", (0, 1, 2, 3, 4, 5, 6)), ("0", (0,)), ("6", (6,)),
                                              ("[4,2]", (2, 4))])
def test_layers_are_said_as_words_numbers_and_lists(word, layers):
    assert load_recipe(FinetuneRecipe, "ctc-tiny", [f"head.layers={word}"], SHIPPED).head.layers_read(6) == layers


@pytest.mark.parametrize("layers", [7, [1, 7]])
def test_a_layer_that_the_encoder_does_not_have_is_refused_with_those_that_it_has(layers):
    with pytest.raises(UsageError, match=r"head\.layers=.*7.*layers 0 to 6"):
        HeadRecipe(layers=layers).layers_read(6)


def test_a_recogniser_trained_before_there_were_heads_is_not_stale():
    """The key of a stage holds no word of a head that is what all recognisers had."""
    plain = FinetuneRecipe(encoder="somewhere")
    assert "head" not in stage_settings(plain)
    for same in ({"width": 7}, {"depth": 1}, {"dropout": 0.5}, {"projection": 3}):  # of the other kind
        assert stage_settings(dataclasses.replace(plain, head=HeadRecipe(**same))) == stage_settings(plain)


HEARD = {"kind": "bilstm", "layers": "mix", "layer_norm": True}
OF_LSTMS = {"projection": 16, "width": 8, "depth": 1, "dropout": 0.5}


@pytest.mark.parametrize("name", [*HEARD, *OF_LSTMS])
def test_all_that_a_head_depends_on_is_in_the_key(name):
    plain = HeadRecipe(kind="bilstm") if name in OF_LSTMS else HeadRecipe()
    other = dataclasses.replace(plain, **{name: {**HEARD, **OF_LSTMS}[name]})
    keys = [stage_settings(FinetuneRecipe(encoder="e", head=head)) for head in (plain, other)]
    assert keys[0] != keys[1]
    assert {field.name for field in dataclasses.fields(HeadRecipe)} == set(HEARD) | set(OF_LSTMS)


def test_settings_make_the_head_again():
    for head in (HeadRecipe(), HeadRecipe(layers=[2, 1]), HeadRecipe(kind="bilstm", layers="mix", width=8)):
        again = HeadRecipe(**head.settings())
        assert again.settings() == head.settings()
        assert again.layers == head.layers


def test_a_recipe_is_the_same_after_it_was_read_as_values():
    head = HeadRecipe(kind="bilstm", layers=[0, 3])
    assert HeadRecipe(**OmegaConf.to_container(OmegaConf.create(as_settings(head)))) == head


def test_superbs_recipe_says_what_superb_does():
    found = load_recipe(FinetuneRecipe, "ctc-superb", [], SHIPPED)
    assert found.frozen
    assert found.head == HeadRecipe("bilstm", "mix", projection=1024, width=1024, depth=2, dropout=0.2)
    training = found.training
    rates = [learning_rate(training.optimiser, update, training.updates) for update in (1, 2, 100_000, 200_000)]
    assert rates == [1e-4] * 4
    assert cut_short(training.optimiser, training.updates) is None


def test_an_amount_of_labels_may_have_a_head_of_its_own():
    """What `bench low-resource` does with `labelled.NAME.finetune`."""
    base = load_recipe(FinetuneRecipe, "ctc-probe", [], SHIPPED)
    assert refine(base, {"head": {"layers": [2, 1]}}, "labelled").head == dataclasses.replace(base.head, layers=[1, 2])
    assert refine(dataclasses.replace(base, head=HeadRecipe(layers=[1])), {"head": {"layers": "mix"}}, "labelled"
                  ).head.layers == "mix"
