"""What a pretraining recipe may say: objectives, what plays a part in them, and what a stage's key holds of it."""

import dataclasses
import re
from pathlib import Path

import pytest

from upstream.disk import content_hash
from upstream.errors import RecipeError
from upstream.pretrain_recipe import SHIPPED, ObjectiveRecipe, PretrainRecipe, rounds_of, weights_of
from upstream.recipe import as_settings, load_recipe
from upstream.training.recipe import TrainingRecipe, weights_settings


def rounds(name, *words):
    return rounds_of(load_recipe(PretrainRecipe, name, ["data=x", *words], SHIPPED))


@pytest.mark.parametrize("name", sorted(p.stem for p in SHIPPED.glob("*.yaml")))
def test_every_recipe_that_ships_can_be_read(name):
    found = rounds(name)
    with_teacher = {"wav2vec2-base": [False], "wav2vec2-tiny": [False], "hubert-adapt": [True], "hubert-large": [True],
                    "hubert-xlarge": [True]}
    assert [r.has_teacher for r in found] == with_teacher.get(name, [True, True])


def test_options_that_came_later_leave_the_settings_of_an_older_recipe_as_they_were():
    """Word for word what stood in a stage's key before there were other objectives: nobody trains again for them."""
    [first, _] = rounds("hubert-tiny")
    assert weights_of(first) == {
        "encoder": {"frontend": "fbank", "conv_dim": 512, "conv_bias": False, "conv_norm": "group",
                    "fbank_norm": "utterance", "normalize": False, "width": 256, "layers": 6, "heads": 4, "ffn": 1024,
                    "pre_norm": True, "positional_kernel": 31, "positional_groups": 16, "dropout": 0.0,
                    "attention_dropout": 0.0, "activation_dropout": 0.0, "input_dropout": 0.0, "layerdrop": 0.0,
                    "feature_grad_mult": 0.1},
        "objective": {"head": "linear", "final_dim": 256, "temperature": 0.1, "predict_at": (), "unmasked_weight": 0.0,
                      "feature_penalty": 10.0},
        "mask": {"share": 0.75, "span": 5, "min_spans": 2},
    }


@pytest.mark.parametrize(("name", "word"), [
    ("hubert-tiny", "objective.predict_at=[2,6]"), ("hubert-tiny", "objective.unmasked_weight=0.5"),
    ("hubert-tiny", "objective.masked_weight=0.5"), ("hubert-base", "objective.tied_projections=true"),
    ("hubert-tiny", "mixing.share=0.2"), ("wav2vec2-tiny", "mixing.share=0.2"),
    ("wav2vec2-tiny", "objective.contrastive.negatives=10"), ("wav2vec2-tiny", "objective.contrastive.gumbel.end=0.1"),
    ("wav2vec2-tiny", "objective.temperature=0.2"), ("wav2vec2-tiny", "mask.share=0.5"),
])
def test_what_the_weights_depend_on_is_in_the_settings(name, word):
    assert weights_of(rounds(name, word)[0]) != weights_of(rounds(name)[0])


@pytest.mark.parametrize(("name", "words"), [
    ("hubert-tiny", ["encoder.conv_dim=100", "encoder.conv_bias=true", "encoder.conv_norm=layer"]),
    ("hubert-tiny", ["encoder.feature_grad_mult=1", "encoder.relative_distance=100"]),
    ("hubert-tiny", ["objective.final_dim=100", "objective.temperature=0.2", "objective.feature_penalty=0"]),
    ("hubert-tiny-light", ["encoder.conv_norm=layer"]),
    ("hubert-base", ["encoder.fbank_norm=global"]),
])
def test_what_plays_no_part_in_the_weights_changes_no_settings(name, words):
    """A bug once found: `encoder.conv_dim`, of no use to filterbanks, made every encoder stale."""
    assert [weights_of(r) for r in rounds(name, *words)] == [weights_of(r) for r in rounds(name)]


def test_all_of_a_training_recipe_is_in_the_key_but_what_changes_no_weights():
    """What is left out is so on purpose: this list must change with it."""
    left_out = {f.name for f in dataclasses.fields(TrainingRecipe)} - set(weights_settings(TrainingRecipe()))
    assert left_out == {"log_every", "validate_every", "save_every", "keep_checkpoints", "keep_every", "keep_best",
                        "wandb", "shard", "checkpoint_activations", "compile"}


@pytest.mark.parametrize(("name", "word"), [
    ("hubert-base", "encoder.conv_dim=256"), ("hubert-base", "encoder.conv_norm=layer"),
    ("hubert-tiny", "encoder.fbank_norm=none"), ("hubert-tiny-light", "encoder.conv_bias=true"),
    ("hubert-tiny-light", "encoder.fbank_norm=global"), ("hubert-tiny-light", "encoder.feature_grad_mult=0.5"),
    ("hubert-base", "objective.final_dim=100"), ("hubert-base", "objective.feature_penalty=0"),
])
def test_what_plays_a_part_with_another_front_end_or_head_changes_the_settings(name, word):
    assert weights_of(rounds(name, word)[0]) != weights_of(rounds(name)[0])


def test_the_key_of_the_default_recipe_stays_as_it_is():
    """As it was before settings that play no part were set aside: no encoder is trained again for that."""
    [default] = rounds_of(PretrainRecipe(data="x"))
    assert content_hash(weights_of(default)) == "20c9c3058c278904857de180b9ac26dd1b1612519c62804a73c2fdc4e79f9667"


def test_a_weight_on_unmasked_frames_is_never_mistaken_for_what_it_meant_before():
    """The sums were divided by two numbers once, and are now by one, as in fairseq."""
    settings = weights_of(rounds("hubert-tiny", "objective.unmasked_weight=0.5")[0])
    assert settings["objective"]["masked_weight"] == 1.0


def test_where_noise_lies_is_no_setting():
    words = ["mixing.share=0.2", "mixing.noise_share=0.1"]
    one, other = (weights_of(rounds("hubert-tiny", *words, f"mixing.noise={n}")[0]) for n in ("a", "b"))
    assert one == other
    assert one["mixing"] == {"share": 0.2, "noise_share": 0.1}


def test_a_round_may_change_what_the_recipe_says():
    first, second = rounds("hubert-tiny", "mixing.share=0.2", "rounds.1.mixing.share=0.0",
                           "rounds.1.objective.predict_at=[2,6]")
    assert (first.mixing.share, second.mixing.share) == (0.2, 0.0)
    assert (first.objective.predict_at, second.objective.predict_at) == ((), (2, 6))


def test_hubert_may_follow_on_wav2vec2():
    """Its teacher reads a layer of the encoder that wav2vec 2.0 trained."""
    first, second = rounds("hubert-base", "rounds.0.objective.kind=wav2vec2")
    assert [first.has_teacher, second.has_teacher] == [False, True]
    assert second.teacher.layer == 6


@pytest.mark.parametrize(("name", "words", "named"), [
    ("wav2vec2-tiny", ["objective.head=linear"], "objective.head plays no part in objective.kind=wav2vec2"),
    ("wav2vec2-tiny", ["objective.predict_at=[6]"], "objective.predict_at plays no part"),
    ("hubert-tiny", ["objective.contrastive.groups=4"], "objective.contrastive plays no part in objective.kind=hubert"),
    ("wav2vec2-tiny", ["objective.contrastive.groups=3"], "code_dim=256 a multiple of groups"),
    ("wav2vec2-tiny", ["objective.contrastive.negatives=0"], "negatives=0 must be at least 1"),
    ("wav2vec2-tiny", ["objective.contrastive.gumbel.end=3"], "gumbel: end=3"),
    ("wav2vec2-tiny", ["objective.contrastive.negative=5"], "did you mean negatives"),
    ("wav2vec2-tiny", ["objective.kind=wav2vec"], "kind"),
    ("wav2vec2-tiny", ["rounds.0.teacher.clusters=50"], "has no teacher; leave rounds.0.teacher out"),
    ("hubert-base", ["rounds.1.objective.kind=wav2vec2"], "round 2: objective.kind=wav2vec2 learns without a teacher"),
    ("hubert-tiny", ["objective.masked_weight=0"], "masked_weight=0"),
    ("hubert-tiny", ["objective.tied_projections=true"], "tied_projections"),
    ("hubert-base", ["objective.temperature=0"], "temperature=0"),
    ("hubert-tiny", ["mixing.share=1.5"], "mixing: share=1.5"),
    ("hubert-tiny", ["mixing.share=0.2", "mixing.noise_share=0.1"], "needs mixing.noise"),
    ("hubert-tiny", ["mixing.shares=0.2"], "did you mean share"),
    ("hubert-tiny", ["rounds.1.objective.predict_at=[2,1]"], "round 2, objective: objective.predict_at=.2, 1.: each"),
])
def test_what_cannot_be_is_told_with_its_key(name, words, named):
    with pytest.raises(RecipeError, match=named):
        rounds(name, *words)


@pytest.mark.parametrize("layer", ["0", "[0,2]"])
def test_a_teacher_may_read_what_the_first_block_reads(layer):
    """`teacher sweep` picked layer 0, and no recipe could use it."""
    assert 0 in rounds("hubert-tiny", f"rounds.1.teacher.layer={layer}")[1].teacher.layers


def test_sharding_with_layers_dropped_at_random_is_refused_before_the_first_round():
    """A bug once found: it was told by the training itself, for a later round after hours."""
    layerdrop = "rounds.1.encoder.layerdrop=0.1"
    with pytest.raises(RecipeError, match=r"^round 2: training.shard=true with encoder.layerdrop=0.1: .* set encoder"):
        rounds("hubert-tiny", layerdrop, "rounds.1.training.shard=true")
    assert rounds("hubert-tiny", layerdrop, "rounds.0.training.shard=true")[0].training.shard


@pytest.mark.parametrize(("words", "named", "good"), [
    (["training.crop_seconds=0.2", "mask.span=10", "mask.share=0.8"],
     r"^round 1: training.crop_seconds=0.2: mask.share=0.8 in spans of mask.span=10 may .*; give at least 0.275,",
     "training.crop_seconds=0.275"),
    (["training.crop_seconds=0.2", "rounds.1.mask.span=10"], "^round 2: training.crop_seconds=0.2: .* at least 0.275,",
     "training.crop_seconds=0.275"),
    (["encoder.stride_ms=40", "training.crop_seconds=0.3", "mask.span=10"], "^round 1: .*; give at least 0.535,",
     "training.crop_seconds=0.535"),
])
def test_crops_that_a_mask_may_hide_entirely_are_refused_before_anything_is_made(words, named, good):
    """A training died midway, whenever an utterance was hidden by its spans, and resuming died at the same place."""
    with pytest.raises(RecipeError, match=named):
        rounds("hubert-tiny", *words)
    assert rounds("hubert-tiny", *words, good)


@pytest.mark.parametrize(("word", "named"), [
    ("rounds.1.teacher.pca=257", "^round 2: teacher.pca=257: the frames that it reads have 256 dimensions"),
    ("rounds.0.teacher.pca=40", "^round 1: teacher.pca=40: the frames that it reads have 39 dimensions"),
    ("rounds.1.teacher={kind: product, clusters: [4,4,4]}", "^round 2: teacher.kind=product .* 256 dimensions do not"),
    ("rounds.0.teacher={features: fbank, stacked: true, kind: product, clusters: [4,4,4]}", "160 dimensions do not"),
    ("rounds.1.teacher={kind: product, clusters: [4,4,4], pca: 10}", "10 dimensions do not divide into 3"),
])
def test_dimensions_that_a_teachers_frames_do_not_have_are_refused_before_the_first_round(word, named):
    """A bug once found: told of a later round once the round before had been trained."""
    with pytest.raises(RecipeError, match=named):
        rounds("hubert-tiny", word)
    assert rounds("hubert-tiny", "rounds.1.teacher={layer: [1,2,3], kind: product, clusters: [4,4,4], pca: 768}")


def test_an_update_that_holds_no_crop_is_refused_with_micro_batches_to_be_chosen_too():
    """A bug once found: with `auto` it was told by the training of that round, after hours."""
    with pytest.raises(RecipeError, match=r"^round 2: training.batch_seconds=1 cannot hold a crop of training.crop"):
        rounds("hubert-tiny", "training.micro_batch_seconds=auto", "rounds.1.training.batch_seconds=1")


def test_every_option_of_an_objective_belongs_to_one_kind_or_to_both():
    """A new option must say which: this list and the recipe's checks change together."""
    both = {"kind", "final_dim", "temperature", "feature_penalty"}
    hubert = {"head", "predict_at", "masked_weight", "unmasked_weight", "tied_projections"}
    assert {f.name for f in dataclasses.fields(ObjectiveRecipe)} == both | hubert | {"contrastive"}


def test_speeds_are_part_of_what_the_weights_depend_on_where_there_are_any():
    plain, at_speeds = rounds("hubert-tiny")[0], rounds("hubert-tiny", "speeds=[0.9,1,1.1]")[0]
    assert "speeds" not in weights_of(plain)
    assert weights_of(at_speeds)["speeds"] == [0.9, 1.0, 1.1]
    with pytest.raises(RecipeError, match="speeds="):
        rounds("hubert-tiny", "speeds=[0.1]")


def test_the_page_of_keys_names_none_that_there_is_not():
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    table = page.partition("\n## What a recipe may say\n")[2].partition("|---")[2].partition("\n\n")[0]
    keys = re.findall(r"`((?:rounds\.N|[a-z_]+)(?:\.[a-z_*]+)+)(?=[=`])|^\| `([a-z_]+)=", table, re.MULTILINE)
    recipe = as_settings(load_recipe(PretrainRecipe, "hubert-tiny", ["data=x"], SHIPPED))
    assert len(keys) > 15
    for key in map("".join, keys):
        found = recipe
        for part in key.replace("rounds.N", "rounds.0").removesuffix(".*").split("."):
            found = found[int(part)] if isinstance(found, list | tuple) else found[part]
