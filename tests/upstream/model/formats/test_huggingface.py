"""Folders of transformers: it loads ours, we load its own, and both compute the same."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import CLOSE, WAVES, difference, filled, outputs, same, same_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from upstream.errors import FormatError, UsageError
from upstream.model import Encoder, EncoderConfig, load_encoder, save_encoder
from upstream.model.converting import write_as
from upstream.model.formats import huggingface
from upstream.model.loading import read_checkpoint
from upstream.model.saving import save_checkpoint

transformers = pytest.importorskip("transformers")
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
         "conv_dim": [16] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CONFIGS = {"hubert": transformers.HubertConfig, "wav2vec2": transformers.Wav2Vec2Config}
MODELS = {"hubert": transformers.HubertModel, "wav2vec2": transformers.Wav2Vec2Model}
CTC = {"hubert": transformers.HubertForCTC, "wav2vec2": transformers.Wav2Vec2ForCTC}


@pytest.fixture(autouse=True)
def _random():
    torch.manual_seed(0)


def _theirs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return getattr(model.eval(), "base_model", model)(WAVES).last_hidden_state


def _ours(folder: Path) -> torch.Tensor:
    return outputs(read_checkpoint(folder))


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("settings", [{}, LARGE])
def test_what_transformers_saves_gives_what_it_computes(tmp_path, kind, settings):
    model = filled(MODELS[kind](CONFIGS[kind](**SIZES, **settings)))
    model.save_pretrained(tmp_path)
    assert difference(_ours(tmp_path), _theirs(model)) < CLOSE


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("head", ["ForCTC", "ForSequenceClassification"])
def test_models_with_a_head_give_their_encoder(tmp_path, kind, head):
    model = filled(getattr(transformers, MODELS[kind].__name__.replace("Model", head))(CONFIGS[kind](**SIZES)))
    model.save_pretrained(tmp_path)
    found = read_checkpoint(tmp_path)
    assert difference(outputs(found), _theirs(model)) < CLOSE
    assert (found.ctc is not None) is (head == "ForCTC")
    assert any("classifier" in note for note in found.notes) is (head != "ForCTC")


def test_the_quantiser_of_a_pretraining_comes_and_goes(tmp_path):
    config = transformers.Wav2Vec2Config(**SIZES, num_codevectors_per_group=5, num_codevector_groups=2,
                                         codevector_dim=6, proj_codevector_dim=8)
    model = filled(transformers.Wav2Vec2ForPreTraining(config))
    model.save_pretrained(tmp_path / "theirs")
    found = read_checkpoint(tmp_path / "theirs")
    assert same(found.quantiser["quantizer.codevectors"], model.quantizer.codevectors.detach())
    write_as(found, tmp_path / "x.pt", "fairseq")
    again = read_checkpoint(tmp_path / "x.pt")
    assert same_model(again, found)
    write_as(again, tmp_path / "ours", "huggingface")
    assert same_model(read_checkpoint(tmp_path / "ours"), found)
    ours, info = transformers.Wav2Vec2ForPreTraining.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert same(dict(ours.state_dict()), dict(model.state_dict()))
    assert ours.quantizer.num_groups == 2


def test_old_and_new_names_of_the_weight_norm_are_the_same(tmp_path):
    model = filled(transformers.HubertModel(transformers.HubertConfig(**SIZES)))
    model.save_pretrained(tmp_path)
    new = _ours(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    stem = "encoder.pos_conv_embed.conv."
    old = {key.replace(f"{stem}parametrizations.weight.original0", f"{stem}weight_g")
              .replace(f"{stem}parametrizations.weight.original1", f"{stem}weight_v"): t for key, t in tensors.items()}
    assert old.keys() != tensors.keys()
    save_file(old, tmp_path / "model.safetensors")
    assert torch.equal(_ours(tmp_path), new)


@pytest.mark.parametrize("kind", ["torch file", "sharded safetensors", "sharded torch files"])
def test_weights_are_found_in_every_kind_of_file(tmp_path, kind):
    model = filled(transformers.HubertModel(transformers.HubertConfig(**SIZES)))
    model.save_pretrained(tmp_path)
    expected = _ours(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    if kind == "torch file":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        safe = kind == "sharded safetensors"
        name, ending = ("model", "safetensors") if safe else ("pytorch_model", "bin")
        shards = {f"{name}-0000{i + 1}-of-00002.{ending}": dict(list(tensors.items())[i::2]) for i in (0, 1)}
        for shard, part in shards.items():
            save_file(part, tmp_path / shard) if safe else torch.save(part, tmp_path / shard)
        weight_map = {key: shard for shard, part in shards.items() for key in part}
        (tmp_path / f"{name}.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(_ours(tmp_path), expected)
    if "sharded" in kind:
        next(tmp_path.glob("*00002-of*")).unlink()
        with pytest.raises(FormatError, match=r"00002-of-00002.* no such file, though"):
            load_encoder(tmp_path)


def test_an_index_that_points_out_of_its_folder_is_refused(tmp_path):
    transformers.HubertModel(transformers.HubertConfig(**SIZES)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../other.safetensors"}}))
    with pytest.raises(FormatError, match=r"'\.\./other\.safetensors' is not the name of a file beside it"):
        load_encoder(tmp_path)


def test_biases_that_are_all_zero_are_dropped_and_said(tmp_path):
    """Hugging Face's HuBERT LARGE has conv biases where fairseq's has none: all zero."""
    model = filled(transformers.HubertModel(transformers.HubertConfig(**SIZES, **LARGE)))
    for layer in model.feature_extractor.conv_layers:
        torch.nn.init.zeros_(layer.conv.bias)
    model.save_pretrained(tmp_path)
    found = read_checkpoint(tmp_path)
    assert not found.config.conv_bias
    assert any("biases of the convolutions are all zero" in note for note in found.notes)
    assert difference(outputs(found), _theirs(model)) < CLOSE
    with torch.no_grad():
        model.feature_extractor.conv_layers[6].conv.bias[3] = 1e-8
    model.save_pretrained(tmp_path)
    assert load_encoder(tmp_path).config.conv_bias


@pytest.mark.parametrize(("settings", "said", "expected"), [
    ({}, None, False), ({}, True, False), ({}, False, False),
    (LARGE, None, True), (LARGE, True, True), (LARGE, False, False),
])
def test_whether_waveforms_are_standardised_comes_with_the_folder(tmp_path, settings, said, expected):
    """Group norm: never, as those models were trained. Layer norm: unless the folder says no."""
    transformers.HubertModel(transformers.HubertConfig(**SIZES, **settings)).save_pretrained(tmp_path)
    if said is not None:
        transformers.Wav2Vec2FeatureExtractor(do_normalize=said).save_pretrained(tmp_path)
    assert load_encoder(tmp_path).config.normalize is expected
    if said is not None:  # where transformers 5 writes it for a processor
        settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
        (tmp_path / "preprocessor_config.json").unlink()
        (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": settings}))
        assert load_encoder(tmp_path).config.normalize is expected


def test_a_folder_without_a_mask_vector_gets_zeros_and_says_so(tmp_path):
    config = transformers.Wav2Vec2Config(**SIZES, mask_time_prob=0.0, mask_feature_prob=0.0)
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path)
    found = read_checkpoint(tmp_path)
    assert not found.tensors["masked_spec_embed"].any()
    assert any("no mask vector" in note for note in found.notes)


def _loaded(kind: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> Any:
    """Load with transformers, which must find every key and no other."""
    with caplog.at_level(logging.WARNING):
        model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("settings", [{}, {"conv_norm": "layer", "conv_bias": True, "pre_norm": True,
                                           "normalize": True}])
def test_transformers_loads_what_we_save_key_by_key(tiny, tmp_path, caplog, settings):
    encoder = tiny(**settings)
    save_encoder(encoder, tmp_path, {"round": 2}, {"tables.0.embeddings": torch.rand(5, 8)})
    (tmp_path / "units.json").write_text("{}")
    model = _loaded(transformers.AutoModel, tmp_path, caplog)
    with torch.no_grad():
        assert difference(_theirs(model), encoder(WAVES).last) < CLOSE
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert (extractor.do_normalize, extractor.sampling_rate) == (encoder.config.normalize, 16_000)
    assert extractor.return_attention_mask is (encoder.config.conv_norm == "layer")


@given(st.data())
def test_encoders_of_any_shape_go_to_transformers_and_back(tiny, tmp_path_factory, data):
    heads, groups, layer = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.sampled_from([1, 2])), data.draw(
        st.booleans())
    settings = {"width": 8 * data.draw(st.integers(1, 3)), "heads": heads, "positional_groups": groups,
                "family": data.draw(st.sampled_from(["hubert", "wav2vec2"])),
                "layers": data.draw(st.integers(1, 3)), "ffn": data.draw(st.integers(1, 20)),
                "conv_dim": data.draw(st.sampled_from([4, 8])), "conv_norm": "layer" if layer else "group",
                "conv_bias": data.draw(st.booleans()), "pre_norm": data.draw(st.booleans()), "normalize": layer,
                "positional_kernel": data.draw(st.integers(2, 9)), "feature_grad_mult": 1.0}
    folder = tmp_path_factory.mktemp("any")
    encoder = tiny(seed=data.draw(st.integers(0, 9)), **settings)
    save_encoder(encoder, folder, {})
    model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        assert difference(_theirs(model), encoder(WAVES).last) < CLOSE
    model.save_pretrained(folder / "again")
    found = read_checkpoint(folder / "again")
    assert found.config == encoder.config
    assert same(found.tensors, dict(encoder.state_dict()))


def test_a_folder_of_ours_is_read_by_its_own_description(tiny, tmp_path):
    """hubertkit.json says more than config.json can: the gradient's scale, standardised waveforms with group norm."""
    encoder = tiny(normalize=True, feature_grad_mult=0.25)
    save_encoder(encoder, tmp_path, {"round": 2})
    found = read_checkpoint(tmp_path)
    assert found.config == encoder.config
    assert found.extra == {"round": 2}
    (tmp_path / "hubertkit.json").unlink()
    assert read_checkpoint(tmp_path).config.feature_grad_mult == 1.0


def test_what_else_is_in_the_folder_stays(pretrained, tmp_path):
    folder, _ = pretrained((7, 5))
    (folder / "teacher.json").write_text("{}")
    found = read_checkpoint(folder)
    save_checkpoint(found, folder)
    assert (folder / "teacher.json").is_file()
    assert same_model(read_checkpoint(folder), found)


@pytest.fixture
def saved(tmp_path) -> Path:
    filled(transformers.HubertModel(transformers.HubertConfig(**SIZES))).save_pretrained(tmp_path)
    return tmp_path


def _edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(("changes", "message"), [
    ({"model_type": "whisper"}, "model_type 'whisper' is an architecture that hubertkit does not have; it has hubert"),
    ({"hidden_act": "relu"}, "hidden_act='relu'; hubertkit has 'gelu' only"),
    ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm=True"),
    ({"conv_stride": [5, 2, 2, 2, 2, 2, 4]}, r"hubertkit has those of wav2vec 2\.0 only"),
    ({"num_hidden_layers": 3}, r"no tensor 'encoder\.layers\.2\.attention\.k_proj\.weight', of shape \(24, 24\)"),
    ({"num_hidden_layers": 1}, r"16 tensors that .* no place for: encoder\.layers\.1\."),
    ({"intermediate_size": 33}, r"has shape \(32, 24\); the configuration wants \(33, 24\)"),
    ({"feat_extract_norm": "layer"}, "says layer norm .* the weights have group norm"),
    ({"conv_bias": True}, r"no tensor 'feature_extractor\.conv_layers\.0\.conv\.bias'"),
    ({"num_attention_heads": 5}, "width=24 is not a multiple of heads=5"),
    ({"hidden_size": "wide"}, r"config\.json: "),
])
def test_a_configuration_that_does_not_fit_is_refused(saved, changes, message):
    _edit(saved / "config.json", **changes)
    with pytest.raises(FormatError, match=message) as refused:
        load_encoder(saved)
    assert str(saved) in str(refused.value)


def test_another_rate_is_refused(saved):
    _edit(saved / "preprocessor_config.json", sampling_rate=8000)
    with pytest.raises(FormatError, match=r"preprocessor_config\.json: waveforms at 8000 Hz; .* 16000 Hz"):
        load_encoder(saved)
    settings = json.loads((saved / "preprocessor_config.json").read_text())
    (saved / "preprocessor_config.json").unlink()
    (saved / "processor_config.json").write_text(json.dumps({"feature_extractor": settings, "tokenizer": {}}))
    with pytest.raises(FormatError, match=r"processor_config\.json: waveforms at 8000 Hz"):
        load_encoder(saved)
    for content, sound in (({"tokenizer": {}}, True), ({"feature_extractor": 5}, False)):
        (saved / "processor_config.json").write_text(json.dumps(content))
        if sound:
            load_encoder(saved)
        else:
            with pytest.raises(FormatError, match="expected the settings of a feature extractor"):
                load_encoder(saved)


def test_a_missing_tensor_is_never_made_up(saved):
    tensors = load_file(saved / "model.safetensors")
    for key in tensors:
        save_file({name: tensor for name, tensor in tensors.items() if name != key}, saved / "model.safetensors")
        with pytest.raises(FormatError, match="no tensor"):
            load_encoder(saved)


def test_a_folder_without_weights_or_configuration_says_what_is_expected(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"expected model\.safetensors or pytorch_model\.bin"):
        load_encoder(saved)
    (saved / "config.json").write_text("[]")
    with pytest.raises(FormatError, match=r"config\.json: model_type None"):
        load_encoder(saved)
    (saved / "config.json").unlink()
    with pytest.raises(UsageError, match=r"hubertkit\.json is missing, and there is no config\.json"):
        load_encoder(saved)


def test_a_model_of_the_hub_is_fetched_by_its_id(saved, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(name)
        return str(saved)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert isinstance(load_encoder("someone/some-hubert"), Encoder)
    assert asked == ["someone/some-hubert"]


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def snapshot(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        raise OSError("no\nnetwork")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    with pytest.raises(UsageError, match=r"someone/some-hubert: no such file or folder here, .*OSError: no network"):
        load_encoder("someone/some-hubert")


def test_without_huggingface_hub_the_message_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="pip install"):
        huggingface.download("someone/some-hubert")


def test_a_folder_of_ours_on_the_hub_is_read_by_its_own_description(tmp_path, monkeypatch):
    """It was read as a stranger's: our own front ends were refused, and heads and settings were lost."""
    hub = pytest.importorskip("huggingface_hub")
    encoder = Encoder(EncoderConfig(frontend="light", conv_dim=16, width=16, layers=1, heads=2, ffn=16,
                                    feature_grad_mult=0.1)).initialise(0)
    save_encoder(encoder, tmp_path, {})
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **patterns: str(tmp_path))
    assert same_model(read_checkpoint("me/mine"), read_checkpoint(tmp_path))
    assert load_encoder("me/mine").config.feature_grad_mult == 0.1


def test_a_head_beside_an_encoder_without_a_prefix_is_left_out_and_said(saved):
    """ContentVec of the hub: `final_proj` stands beside the tensors of a HubertModel."""
    tensors = load_file(saved / "model.safetensors")
    save_file({**tensors, "final_proj.weight": torch.ones(4, 24)}, saved / "model.safetensors")
    found = read_checkpoint(saved)
    assert found.notes[-1] == "model.safetensors: left out what belongs to other heads: final_proj.weight"
    save_file({**tensors, "encoder.strange": torch.ones(4)}, saved / "model.safetensors")
    with pytest.raises(FormatError, match=r"no place for: encoder\.strange"):
        load_encoder(saved)
    save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, saved / "model.safetensors")
    with pytest.raises(FormatError, match=r"left .*: module\."):  # not all of it a head
        load_encoder(saved)
