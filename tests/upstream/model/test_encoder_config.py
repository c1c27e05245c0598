"""Encoder configurations: published sizes, refused values, and the way into JSON and back."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from upstream.errors import InputError, RecipeError, UsageError
from upstream.frames import CONV_GRID, STACKED_GRID
from upstream.model import Encoder, EncoderConfig, MaskedPrediction, load_encoder, prepared

BASE = EncoderConfig()
LARGE = EncoderConfig(conv_norm="layer", pre_norm=True, width=1024, layers=24, heads=16, ffn=4096)
XLARGE = EncoderConfig(conv_norm="layer", pre_norm=True, width=1280, layers=48, heads=16, ffn=5120)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("config", "final_dim", "encoder_only", "with_head"),
    [
        (BASE, 256, 94_371_712, 94_697_600),
        (LARGE, 768, 315_435_136, 316_609_408),
        (XLARGE, 1024, 962_493_824, 964_321_664),
    ],
    ids=["base", "large", "xlarge"],
)
def test_published_sizes_have_their_published_parameter_counts(config, final_dim, encoder_only, with_head):
    with torch.device("meta"):
        Encoder(EncoderConfig(layers=1))  # the first of its kind imports more of torch, for over a second
        began = time.perf_counter()
        model = MaskedPrediction(Encoder(config), (504,), final_dim)
    assert time.perf_counter() - began < 1.0  # nothing is allocated
    assert _count(model.encoder) == encoder_only
    assert _count(model) == with_head


def test_all_front_ends_give_the_same_number_of_frames():
    assert EncoderConfig(frontend="conv").grid is CONV_GRID
    assert EncoderConfig(frontend="fbank").grid is EncoderConfig(frontend="light").grid is STACKED_GRID
    assert EncoderConfig(frontend="fbank", stride_ms=40).grid is EncoderConfig(frontend="light", stride_ms=40).grid
    assert all(CONV_GRID.frames(n) == STACKED_GRID.frames(n) for n in range(5000))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"width": 100}, "heads"),
        ({"width": 60}, "positional_groups"),
        ({"layers": 0}, "layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"layerdrop": -0.1}, "layerdrop"),
        ({"feature_grad_mult": -1.0}, "feature_grad_mult"),
        ({"frontend": "mfcc"}, "frontend"),
        ({"conv_norm": "batch"}, "conv_norm"),
        ({"fbank_norm": "speaker"}, "fbank_norm"),
        ({"stride_ms": 40}, "stride_ms=40, must be 20"),
        ({"frontend": "light", "stride_ms": 30}, "stride_ms=30, must be 20, or 40"),
        ({"layers": "12"}, "layers='12', must be a whole number"),
        ({"width": 768.0}, r"width=768\.0, must be a whole number"),
        ({"heads": None}, "heads=None, must be a whole number"),
        ({"relative_buckets": "0"}, "relative_buckets='0', must be a whole number"),
        ({"dropout": "0.1"}, r"dropout='0\.1', must be a number"),
    ],
)
def test_a_bad_value_is_refused_by_name(settings, named):
    with pytest.raises(RecipeError, match=named):
        EncoderConfig(**settings)


def test_configurations_survive_json():
    for config in (BASE, XLARGE, EncoderConfig(frontend="fbank", fbank_norm="global", layerdrop=0.2),
                   EncoderConfig(frontend="light", stride_ms=40)):
        assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_setting_is_refused():
    with pytest.raises(RecipeError, match="widht"):
        EncoderConfig.from_dict({"widht": 1})


def test_an_encoder_of_the_wav2vec2_family_loads_as_one_in_transformers(tiny, tmp_path):
    transformers = pytest.importorskip("transformers")
    encoder = tiny(family="wav2vec2")
    encoder.save(tmp_path)
    theirs, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs).__name__ == "Wav2Vec2Model"
    assert {name: list(keys) for name, keys in report.items() if keys} == {}
    assert load_encoder(tmp_path).config.family == "wav2vec2"


def test_a_family_that_there_is_not_is_refused():
    with pytest.raises(RecipeError, match="family='other', must be one of hubert, wav2vec2"):
        EncoderConfig(family="other")


def test_a_name_and_an_encoder_are_no_configuration():
    small = Encoder(EncoderConfig(frontend="fbank", width=32, layers=1, heads=2, ffn=32))
    with pytest.raises(UsageError, match=r"^config is 'hubert-base': expected an EncoderConfig"):
        Encoder("hubert-base")
    with pytest.raises(UsageError, match=r"^config is of type Encoder: expected an EncoderConfig, as `config`"):
        prepared(np.zeros(800, np.float32), small)
    with pytest.raises(UsageError, match=r"^dtype='float16': expected a type of torch, torch\.float16 for"):
        load_encoder("run/encoder", dtype="float16")


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("wave", ["talk.wav", torch.zeros(800), np.zeros((2, 800), np.float32),
                                  np.zeros(800, np.int16)])
def test_what_is_no_whole_utterance_is_not_prepared(wave, normalize):
    """A batch was standardised with its padding, and 16-bit samples were passed on where nothing is standardised."""
    with pytest.raises(InputError, match=r"^a waveform of .*: expected an array \(samples,\) of float32"):
        prepared(wave, EncoderConfig(normalize=normalize))


def test_a_batch_is_a_tensor():
    small = Encoder(EncoderConfig(frontend="fbank", width=32, layers=1, heads=2, ffn=32)).initialise(0)
    with pytest.raises(UsageError, match=r"^waveforms of type ndarray: expected a tensor \(batch, samples\)$"):
        small(np.zeros((1, 800), np.float32))
