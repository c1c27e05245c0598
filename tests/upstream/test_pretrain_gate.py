"""The gate in a pretraining: it stops the run before the training, says how to pass, and passes when told to."""

import pytest
from small_rounds import ENCODER, TRAINING, write_recordings

from upstream.errors import InputError, RecipeError
from upstream.pretrain import pretrain
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe
from upstream.recipe import load_recipe

TINY = [*ENCODER, *TRAINING, "training.updates=1", "rounds.0.teacher.clusters=4", "rounds.1.teacher.layer=1",
        "valid_share=0"]


def recipe(data, *words):
    return load_recipe(PretrainRecipe, "hubert-tiny", [*TINY, f"data={data}", *words], SHIPPED)


def test_a_failed_gate_stops_before_training_and_can_be_overruled(tmp_path):
    data = write_recordings(tmp_path / "recordings", 3)
    strict = recipe(data, "gate.most_share=0.05")
    with pytest.raises(InputError, match=r"at most 5% are .*gate check `share`, and gate\.overrule=\[share\]"):
        pretrain(strict, tmp_path / "run", lambda line: None, until_round=1)
    assert not (tmp_path / "run" / "round1" / "encoder" / "stage.json").exists()
    lines = []
    pretrain(recipe(data, "gate.most_share=0.05", "gate.overrule=[share]"), tmp_path / "run", lines.append,
             until_round=1)
    assert (tmp_path / "run" / "round1" / "encoder" / "model.safetensors").exists()
    assert any("teacher: done before, skipped" in line for line in lines)


@pytest.mark.parametrize("word", ["gate.overrule=[counts]", "gate.most_share=2", "gate.overrul=[share]"])
def test_a_rule_that_cannot_be_is_refused_with_the_recipe(word):
    with pytest.raises(RecipeError, match=r"gate|overrule"):
        recipe("x", word)
