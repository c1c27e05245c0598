"""WavLM and data2vec-audio: what differs from HuBERT in each format."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conversions import CLOSE, WAVES, difference, filled, outputs, same, same_model

from upstream.errors import UsageError
from upstream.frames import CONV_GRID
from upstream.model.converting import write_as
from upstream.model.formats import torchaudio as ours
from upstream.model.formats.checkpoint import new_weight_norm, old_weight_norm
from upstream.model.formats.fairseq import their_name
from upstream.model.formats.pickles import read_torch_file
from upstream.model.loading import read_checkpoint

transformers = pytest.importorskip("transformers")
models = pytest.importorskip("torchaudio.models")
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
         "conv_dim": [16] * 7, "num_conv_pos_embedding_groups": 4}
WAVLM = {**SIZES, "num_conv_pos_embeddings": 8, "num_buckets": 20, "max_bucket_distance": 30}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
ARGUMENTS = {"extractor_conv_layer_config": [(16, k, s) for k, s in zip(CONV_GRID.kernels, CONV_GRID.strides)],
             "encoder_embed_dim": 24, "encoder_projection_dropout": 0.0, "encoder_pos_conv_kernel": 8,
             "encoder_pos_conv_groups": 4, "encoder_num_layers": 2, "encoder_num_heads": 4, "encoder_num_buckets": 20,
             "encoder_max_distance": 30, "encoder_attention_dropout": 0.0, "encoder_ff_interm_features": 32,
             "encoder_ff_interm_dropout": 0.0, "encoder_dropout": 0.0, "encoder_layer_drop": 0.0, "aux_num_out": None}


def _theirs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return getattr(model, "base_model", model)(WAVES).last_hidden_state


@pytest.mark.parametrize("settings", [{}, LARGE])
def test_wavlms_names_and_joint_projections_are_torchaudios(settings):
    """transformers' weights, under our names, become a state dict that torchaudio loads strictly and agrees with."""
    theirs = filled(transformers.WavLMModel(transformers.WavLMConfig(**WAVLM, **settings)))
    state = old_weight_norm(dict(theirs.state_dict()))
    del state["masked_spec_embed"]
    named = ours._packed({ours._their_name(new_weight_norm(name)): tensor for name, tensor in state.items()}, 2)
    large = bool(settings)
    model = models.wavlm_model(**ARGUMENTS, extractor_mode="layer_norm" if large else "group_norm",
                               extractor_conv_bias=large, encoder_layer_norm_first=large)
    model.load_state_dict(named, strict=True)
    with torch.no_grad():
        found = model.eval().encoder(model.feature_extractor(WAVES, None)[0], None)
    assert difference(found, _theirs(theirs)) < CLOSE
    back = ours._unpacked(old_weight_norm(named))
    assert same(back, {ours._their_name(name): tensor for name, tensor in state.items()})


@pytest.mark.parametrize(("name", "theirs"), [
    ("encoder.layers.3.attention.gru_rel_pos_linear.weight", "encoder.layers.3.self_attn.grep_linear.weight"),
    ("encoder.layers.3.attention.gru_rel_pos_const", "encoder.layers.3.self_attn.grep_a"),
    ("encoder.layers.0.attention.rel_attn_embed.weight", "encoder.layers.0.self_attn.relative_attention_bias.weight"),
    ("encoder.pos_conv_embed.layers.4.conv.bias", "encoder.pos_conv.4.0.bias"),
    ("encoder.pos_conv_embed.conv.weight_g", "encoder.pos_conv.0.weight_g"),
    ("encoder.layer_norm.weight", "encoder.layer_norm.weight"),
    ("encoder.layers.3.layer_norm.weight", "encoder.layers.3.self_attn_layer_norm.weight"),
    ("encoder.layers.3.final_layer_norm.weight", "encoder.layers.3.final_layer_norm.weight"),
])
def test_names_in_fairseq_and_in_wavlms_own_files(name, theirs):
    assert their_name(name, "layer") == theirs


@pytest.mark.parametrize("settings", [{}, LARGE])
@pytest.mark.parametrize("head", ["Model", "ForCTC"])
def test_wavlm_goes_through_every_format(tmp_path, settings, head):
    config = transformers.WavLMConfig(**WAVLM, **settings, vocab_size=6)
    theirs = filled(getattr(transformers, f"WavLM{head}")(config))
    theirs.save_pretrained(tmp_path / "theirs")
    found = read_checkpoint(tmp_path / "theirs")
    assert difference(outputs(found), _theirs(theirs)) < CLOSE
    write_as(found, tmp_path / "ours", "huggingface")
    kind = transformers.AutoModelForCTC if head == "ForCTC" else transformers.AutoModel
    again, info = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert difference(_theirs(again.eval()), _theirs(theirs)) < CLOSE
    assert same_model(read_checkpoint(tmp_path / "ours"), found)
    write_as(found, tmp_path / "t.pt", "torchaudio")
    assert torch.equal(outputs(read_checkpoint(tmp_path / "t.pt")), outputs(found))
    if head == "ForCTC":
        with pytest.raises(UsageError, match="published as an encoder alone"):
            write_as(found, tmp_path / "f.pt", "fairseq")
        return
    assert not write_as(found, tmp_path / "f.pt", "fairseq")
    assert read_torch_file(tmp_path / "f.pt")["cfg"]["relative_position_embedding"] is True
    assert same_model(read_checkpoint(tmp_path / "f.pt"), found)


def test_data2vec_goes_through_transformers_and_fairseq(tmp_path):
    config = transformers.Data2VecAudioConfig(**SIZES, num_conv_pos_embeddings=3, conv_pos_kernel_size=5)
    theirs = filled(transformers.Data2VecAudioModel(config))
    theirs.save_pretrained(tmp_path / "theirs")
    found = read_checkpoint(tmp_path / "theirs")
    assert difference(outputs(found), _theirs(theirs)) < CLOSE
    write_as(found, tmp_path / "ours", "huggingface")
    again, info = transformers.AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert difference(_theirs(again.eval()), _theirs(theirs)) < CLOSE
    write_as(found, tmp_path / "f.pt", "fairseq")
    assert same_model(read_checkpoint(tmp_path / "f.pt"), found)
    theirs = torch.load(tmp_path / "f.pt", weights_only=False)  # as fairseq's own training writes it
    theirs["model"] |= {"_ema": {"layers.0.fc1.weight": torch.zeros(2)}, "final_proj.weight": torch.zeros(24, 24),
                        "final_proj.bias": torch.zeros(24)}
    torch.save(theirs, tmp_path / "trained.pt")
    trained = read_checkpoint(tmp_path / "trained.pt")
    assert same_model(trained, found)
    assert [note.split(" (")[1] for note in trained.notes] == ["_ema)", "final_proj)"]
    with pytest.raises(UsageError, match="torchaudio has no data2vec"):
        write_as(found, tmp_path / "t.pt", "torchaudio")
