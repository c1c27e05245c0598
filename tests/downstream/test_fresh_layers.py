"""The last layers of a pretrained encoder can start anew in fine-tuning."""

from __future__ import annotations

import pytest
import torch

from downstream.finetune import freshen, stage_settings
from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.finetune_start import check_start
from upstream.errors import UsageError
from upstream.model import Encoder, EncoderConfig

POST_NORM = EncoderConfig(frontend="fbank", width=16, layers=3, heads=2, ffn=16, positional_kernel=4,
                          positional_groups=2)
PRE_NORM = EncoderConfig(frontend="fbank", width=16, layers=3, heads=2, ffn=16, positional_kernel=4,
                         positional_groups=2, pre_norm=True)


def test_fresh_layers_are_those_of_a_new_encoder_and_the_others_stay():
    config = PRE_NORM
    encoder, drawn = Encoder(config).initialise(1), Encoder(config).initialise(7)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    freshen(encoder, 1, seed=7)
    last = f"encoder.layers.{config.layers - 1}."
    for name, tensor in encoder.state_dict().items():
        fresh = name.startswith((last, "encoder.layer_norm."))
        assert torch.equal(tensor, drawn.state_dict()[name] if fresh else before[name]), name
    with pytest.raises(UsageError, match=f"this encoder has {config.layers} layers"):
        freshen(encoder, config.layers + 1, seed=7)


def test_the_norm_at_the_start_of_a_post_norm_encoder_stays():
    encoder = Encoder(POST_NORM).initialise(1)
    with torch.no_grad():
        encoder.encoder.layer_norm.weight.fill_(3.0)
    freshen(encoder, 1, seed=7)
    assert (encoder.encoder.layer_norm.weight == 3).all()


def test_a_recogniser_from_before_there_were_fresh_layers_is_not_stale():
    assert "fresh_layers" not in stage_settings(FinetuneRecipe(encoder="somewhere"))
    assert "fresh_layers" not in stage_settings(FinetuneRecipe(encoder=SCRATCH, fresh_layers=1))
    assert stage_settings(FinetuneRecipe(encoder="somewhere", fresh_layers=1))["fresh_layers"] == 1


@pytest.mark.parametrize(("asked", "words"), [({"fresh_layers": 2}, "fresh_layers=2"),
                                              ({"train_frontend": True}, "train_frontend=true")])
@pytest.mark.parametrize(("held", "how"), [({"frozen": True}, "frozen=true"),
                                           ({"encoder_scale": 0.0}, "encoder_scale=0")])
def test_fresh_layers_that_would_never_learn_are_refused(tmp_path, asked, words, held, how):
    """The finished recogniser had the random weights that its last blocks were drawn with."""
    with pytest.raises(UsageError, match=f"^{words} with {how}: the .*; leave one of them out"):
        check_start(FinetuneRecipe(data="m.arrow", encoder="somewhere", **asked, **held), tmp_path)
    for recipe in (FinetuneRecipe(data="m.arrow", **asked, **held),
                   FinetuneRecipe(data="m.arrow", encoder="somewhere", **asked)):
        with pytest.raises(UsageError, match=r"m\.arrow: no such manifest"):
            check_start(recipe, tmp_path)
