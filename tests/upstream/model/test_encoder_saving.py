"""Encoder folders: what is written comes back, and what is broken is refused with its path."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from upstream.errors import FormatError, UsageError
from upstream.model import (
    encoder_hash,
    load_encoder,
    read_description,
    read_encoder,
    read_tensors,
    save_encoder,
)

WAVES = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0))
STYLES = [
    {},
    {"conv_norm": "layer", "conv_bias": True, "pre_norm": True},
    {"frontend": "fbank"},
    {"frontend": "fbank", "fbank_norm": "global"},
    {"frontend": "light", "stride_ms": 40},
]


@pytest.mark.parametrize("settings", STYLES)
def test_a_saved_encoder_comes_back_to_the_last_bit(tiny, tmp_path, settings):
    encoder = tiny(**settings)
    if settings.get("fbank_norm") == "global":
        encoder.feature_extractor.mean.fill_(-3.5)
    head = {"tables.0.embeddings": torch.rand(5, 8)}
    save_encoder(encoder, tmp_path, {"round": 2, "recipe": {"name": "tiny"}}, head)
    again = load_encoder(tmp_path)
    assert again.config == encoder.config
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())
    with torch.no_grad():
        assert torch.equal(again(WAVES).last, encoder(WAVES).last)
    described = read_description(tmp_path)
    assert described["round"] == 2
    assert described["transformers_loads_it"] is (encoder.config.frontend == "conv")
    assert torch.equal(read_tensors(tmp_path / "head.safetensors")["tables.0.embeddings"], head["tables.0.embeddings"])


def test_an_encoder_saves_itself(tiny, tmp_path):
    encoder = tiny()
    encoder.save(tmp_path / "a", round=3)
    assert read_description(tmp_path / "a")["round"] == 3
    assert encoder_hash(tmp_path / "a") == encoder_hash(load_encoder(tmp_path / "a")) == encoder_hash(encoder)
    assert read_encoder(tmp_path / "a").config == encoder.config


def test_what_transformers_lacks_is_said(tiny, tmp_path):
    tiny(frontend="fbank").save(tmp_path / "a")
    described = read_description(tmp_path / "a")
    assert not described["transformers_loads_it"]
    assert described["transformers_lacks"] == ["the fbank front end"]
    tiny().save(tmp_path / "b")
    assert read_description(tmp_path / "b")["transformers_lacks"] == []


def test_the_hash_is_of_the_weights_wherever_they_are(tiny, tmp_path):
    encoder = tiny()
    save_encoder(encoder, tmp_path / "a", {"round": 1})
    save_encoder(encoder, tmp_path / "b", {"round": 2}, {"x": torch.ones(1)})
    assert encoder_hash(tmp_path / "a") == encoder_hash(tmp_path / "b") == encoder_hash(encoder)
    assert read_description(tmp_path / "a")["hash"] == encoder_hash(encoder)
    with torch.no_grad():
        encoder.masked_spec_embed[3] += 1e-6
    assert encoder_hash(tmp_path / "a") != encoder_hash(encoder)


def test_saving_again_without_a_head_removes_the_old_one(tiny, tmp_path):
    save_encoder(tiny(), tmp_path, {}, {"x": torch.ones(1)})
    save_encoder(tiny(), tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json", "hubertkit.json", "model.safetensors", "preprocessor_config.json"]


def test_transformers_refuses_an_fbank_encoder(tiny, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_encoder(tiny(frontend="fbank"), tmp_path, {})
    with pytest.raises(ValueError, match="hubertkit-fbank"):
        transformers.AutoModel.from_pretrained(tmp_path)


def test_keys_of_our_own_cannot_be_overwritten(tiny, tmp_path):
    with pytest.raises(UsageError, match="'hash'"):
        save_encoder(tiny(), tmp_path, {"hash": "0"})


def test_what_json_cannot_hold_is_named_before_anything_is_replaced(tiny, tmp_path):
    """The weights were those of the new encoder, and hubertkit.json that of the old one."""
    save_encoder(tiny(), tmp_path, {}, {"x": torch.ones(1)})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=r"hubertkit\.json: lm cannot be written as JSON"):
        tiny(width=16).save(tmp_path, lm=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"hubertkit\.json is missing"):
        load_encoder(tmp_path)


def _edit(folder, **changes) -> None:
    path = folder / "hubertkit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def saved(tiny, tmp_path):
    save_encoder(tiny(), tmp_path, {})
    return tmp_path


def test_another_format_version_is_refused(saved):
    _edit(saved, format=99)
    with pytest.raises(FormatError, match="format 99"):
        load_encoder(saved)


def test_a_description_that_is_no_json_is_refused(saved):
    (saved / "hubertkit.json").write_text("{")
    with pytest.raises(FormatError, match=r"hubertkit\.json"):
        load_encoder(saved)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda t: t.pop("encoder.layer_norm.bias"), r"no tensor 'encoder\.layer_norm\.bias', of shape \(24,\)"),
    (lambda t: t.update({"x": torch.ones(1)}), "1 tensor that this architecture has no place for: x"),
    (lambda t: t.update({"masked_spec_embed": torch.ones(3)}),
     r"'masked_spec_embed' has shape \(3,\); the configuration wants \(24,\)"),
])
def test_a_tensor_that_does_not_fit_is_named_with_its_shape(saved, spoil, message):
    tensors = read_tensors(saved / "model.safetensors")
    spoil(tensors)
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(FormatError, match=rf"model\.safetensors: .*{message}"):
        load_encoder(saved)


@pytest.mark.parametrize("change", [{"width": 32}, {"layers": 4}, {"conv_norm": "layer"}, {"colour": "red"}])
def test_weights_that_do_not_fit_the_description_are_refused(saved, change):
    _edit(saved, encoder={**read_description(saved)["encoder"], **change})
    with pytest.raises(FormatError, match=r"(model\.safetensors|hubertkit\.json)"):
        load_encoder(saved)


def test_a_file_cut_short_is_refused(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        load_encoder(saved)
