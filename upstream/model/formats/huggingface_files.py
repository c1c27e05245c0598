"""What transformers reads beside weights, and under which names it has them: the files of a Hugging Face folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from upstream.frames import CONV_GRID, SAMPLE_RATE
from upstream.model.config import EncoderConfig
from upstream.model.formats.checkpoint import Checkpoint, CtcHead, new_weight_norm
from upstream.model.formats.huggingface import FAMILIES, PREFIXES

_MODELS = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM", "data2vec-audio": "Data2VecAudio"}


def named(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of model.safetensors: the encoder's alone, or behind the prefix beside a head."""
    tensors = {new_weight_norm(name): tensor for name, tensor in checkpoint.tensors.items()}
    heads = dict(checkpoint.quantiser or {})
    if checkpoint.ctc is not None:
        heads = {"lm_head.weight": checkpoint.ctc.weight, "lm_head.bias": checkpoint.ctc.bias}
    prefix = PREFIXES[model_type(checkpoint.config)] if heads else ""
    return {**{prefix + name: tensor for name, tensor in tensors.items()}, **heads}


def model_type(config: EncoderConfig) -> str:
    """The family's name in config.json."""
    return next(kind for kind, family in FAMILIES.items() if family == config.family)


def has_pretraining(checkpoint: Checkpoint) -> bool:
    """Whether `transformers` has a model for the pretraining heads: the quantiser of wav2vec 2.0."""
    conv = checkpoint.config.frontend == "conv" and model_type(checkpoint.config) == "wav2vec2"
    return conv and checkpoint.quantiser is not None and checkpoint.ctc is None


def json_files(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """The JSON files beside the weights, by their names."""
    config, ctc, files = checkpoint.config, checkpoint.ctc, {}
    if ctc is not None and ctc.settings:  # transformers has no such head: to it this is an encoder
        files = json_files(replace(checkpoint, ctc=None))
        if ctc.symbols is not None:
            files["vocab.json"] = {symbol: index for index, symbol in enumerate(ctc.symbols)}
        return files
    if config.frontend != "conv":  # a model_type that transformers refuses
        files["config.json"] = {"model_type": f"hubertkit-{config.frontend}", **config.to_dict()}
    else:
        files["config.json"] = {**_config_json(config, ctc), **_pretraining_json(checkpoint)}
        files["preprocessor_config.json"] = _preprocessor_json(config, ctc)
    if ctc is not None and ctc.symbols is not None:
        files["vocab.json"] = {symbol: index for index, symbol in enumerate(ctc.symbols)}
    if ctc is not None and ctc.symbols is not None and config.frontend == "conv":
        names = _special_names(ctc)
        files["special_tokens_map.json"] = {key: name for key, name in names.items() if name is not None}
        files["tokenizer_config.json"] = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer", "processor_class": "Wav2Vec2Processor", "do_lower_case": False,
            "word_delimiter_token": "|", "replace_word_delimiter_char": " ", **names,
        }
    return files


def _special_names(ctc: CtcHead) -> dict[str, str | None]:
    """The tokenizer's special tokens; those that are no rows of the head would be added behind it, so they are null."""
    assert ctc.symbols is not None
    given = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return {"pad_token": ctc.symbols[ctc.blank],
            **{key: name if name in ctc.symbols else None for key, name in given.items()}}


def _preprocessor_json(config: EncoderConfig, ctc: CtcHead | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": config.normalize,
        "return_attention_mask": config.conv_norm == "layer",  # with group norm the padding is heard either way
    }
    return content if ctc is None else {**content, "processor_class": "Wav2Vec2Processor"}


def _config_json(config: EncoderConfig, ctc: CtcHead | None) -> dict[str, Any]:
    kind = model_type(config)
    layers = len(CONV_GRID.kernels)
    content: dict[str, Any] = {
        "architectures": [_MODELS[kind] + ("Model" if ctc is None else "ForCTC")],
        "model_type": kind,
        "dtype": "float32",
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn,
        "hidden_act": "gelu",
        "hidden_dropout": config.dropout,
        "activation_dropout": config.activation_dropout,
        "attention_dropout": config.attention_dropout,
        "feat_proj_layer_norm": True,
        "feat_proj_dropout": config.input_dropout,
        "layerdrop": config.layerdrop,
        "layer_norm_eps": 1e-5,
        "feat_extract_norm": config.conv_norm,
        "feat_extract_activation": "gelu",
        "conv_dim": [config.conv_dim] * layers,
        "conv_kernel": list(CONV_GRID.kernels),
        "conv_stride": list(CONV_GRID.strides),
        "num_feat_extract_layers": layers,
        "conv_bias": config.conv_bias,
        "num_conv_pos_embeddings": config.positional_kernel,
        "num_conv_pos_embedding_groups": config.positional_groups,
        "do_stable_layer_norm": config.pre_norm,
        "initializer_range": 0.02,
        "apply_spec_augment": True,
        "mask_time_prob": 0.05,
        "mask_time_length": 10,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    sizes = config.to_dict()
    if kind == "wavlm":
        content |= {"num_buckets": sizes["relative_buckets"], "max_bucket_distance": sizes["relative_distance"]}
    if kind == "data2vec-audio":
        content |= {"num_conv_pos_embeddings": sizes["positional_depth"],
                    "conv_pos_kernel_size": sizes["positional_kernel"]}
    if ctc is not None:
        content |= {"vocab_size": len(ctc.weight), "pad_token_id": ctc.blank, "final_dropout": 0.0,
                    "ctc_loss_reduction": "sum", "ctc_zero_infinity": True}
    return content


def _pretraining_json(checkpoint: Checkpoint) -> dict[str, Any]:
    if not has_pretraining(checkpoint):
        return {}
    assert checkpoint.quantiser is not None
    vectors, projected = checkpoint.quantiser["quantizer.codevectors"], checkpoint.quantiser["project_q.weight"]
    groups = projected.shape[1] // vectors.shape[2]
    objective = checkpoint.extra.get("objective") or {}
    return {"architectures": ["Wav2Vec2ForPreTraining"], "num_codevector_groups": groups,
            "num_codevectors_per_group": vectors.shape[1] // groups, "codevector_dim": projected.shape[1],
            "proj_codevector_dim": projected.shape[0],
            "contrastive_logits_temperature": objective.get("temperature", 0.1)}
