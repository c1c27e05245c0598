"""Write fairseq's checkpoints: tensors under its names, a configuration, and dictionaries that it unpickles as its own.

What stands in a file was laid out after those that fairseq 0.12 wrote; fairseq itself reads the groups `model` and
`task`, `task_state`, `optimizer_history` and `extra_state` (`checkpoint_utils.py`).
"""

from __future__ import annotations

import pickle
import types
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from upstream.disk import writing
from upstream.errors import FormatError, UsageError
from upstream.frames import SAMPLE_RATE
from upstream.model.config import EncoderConfig
from upstream.model.formats.checkpoint import Checkpoint, CtcHead, Prediction
from upstream.model.formats.fairseq import BODY, FILLER_BIAS, QUANTISER, SPECIALS, their_name
from upstream.model.formats.fairseq_config import as_groups, ctc_overrides, model_group
from upstream.model.formats.pickles import Dictionary, write_torch_file

_MODELS = {"hubert": "hubert", "wav2vec2": "wav2vec2", "data2vec": "data2vec_audio"}
_CTC = {"hubert": "hubert_ctc", "wav2vec2": "wav2vec_ctc"}
_CRITERIA: dict[str, dict[str, Any]] = {
    "hubert": {"_name": "hubert", "pred_masked_weight": 1.0, "pred_nomask_weight": 0.0, "loss_weights": [10.0],
               "log_keys": []},
    "wav2vec2": {"_name": "wav2vec", "infonce": True, "loss_weights": [0.1, 10.0],
                 "log_keys": ["prob_perplexity", "code_perplexity", "temp"]},
    "data2vec": {"_name": "model", "loss_weights": {}, "log_keys": ["ema_decay", "target_var", "pred_var"]},
}


def write(checkpoint: Checkpoint, path: Path) -> list[str]:
    """Write a `.pt` file; gives what it cannot hold, a line each.

    Raises:
        UsageError: a model that fairseq has no name for.
        FormatError: a projection that fairseq leaves out.
    """
    lost = _lost(checkpoint)
    checkpoint = _as_their_model(checkpoint, lost)
    config, tensors = checkpoint.config, _encoder(checkpoint)
    if config.family == "wavlm":
        _save({"cfg": model_group(config), "model": OrderedDict(tensors)}, path)
        return lost
    state: dict[str, Any] = {}
    if checkpoint.ctc is not None:
        tensors, groups, symbols = _recogniser(checkpoint, tensors, lost)
        state = {} if symbols is None else {"target_dictionary": _dictionary(symbols)}
    else:
        groups = _pretraining(checkpoint)
        if checkpoint.prediction is not None:
            tensors |= _prediction(checkpoint.prediction, lost)
            state = {"dictionaries": [_dictionary(names) for names in _unit_names(checkpoint.prediction)]}
        elif checkpoint.quantiser is not None:
            tensors |= {theirs: checkpoint.quantiser[ours] for ours, theirs in QUANTISER.items()}
        else:
            lost.append("a pretraining head, which there is none of: load the model there with strict=False")
    _save({"args": None, "cfg": groups, "model": OrderedDict(tensors), "criterion": None,
           "optimizer_history": [{"criterion_name": "", "optimizer_name": "FairseqAdam",
                                  "lr_scheduler_state": {"best": None}, "num_updates": 0}],
           "task_state": state, "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0},
                                                "val_loss": None}}, path)
    return lost


def takes_prediction(checkpoint: Checkpoint) -> bool:
    """Whether a file has the heads of masked prediction of a checkpoint: fairseq has them on HuBERT alone, and wav2vec
    2.0 has its body."""
    return (checkpoint.prediction is not None and checkpoint.ctc is None
            and checkpoint.config.family in ("hubert", "wav2vec2"))


def _as_their_model(checkpoint: Checkpoint, lost: list[str]) -> Checkpoint:
    """A checkpoint as one of fairseq's models: those of wav2vec 2.0 and data2vec know no heads of masked prediction,
    and would refuse a file with any."""
    if checkpoint.prediction is None or checkpoint.ctc is not None or checkpoint.config.family == "hubert":
        return checkpoint
    rest = {name: value for name, value in checkpoint.extra.items() if name != "fairseq"}
    if takes_prediction(checkpoint):
        lost.append("that it was wav2vec 2.0: with heads of masked prediction it is HuBERT there, whose body is the "
                    "same")
        return replace(checkpoint, config=replace(checkpoint.config, family="hubert"), quantiser=None, extra=rest)
    lost.append("the heads of masked prediction: fairseq has them on HuBERT alone")
    return replace(checkpoint, prediction=None)


def _encoder(checkpoint: Checkpoint) -> dict[str, Tensor]:
    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    if config.conv_dim == config.width:
        weight, bias = (tensors.pop(f"feature_projection.projection.{name}") for name in ("weight", "bias"))
        if not torch.equal(weight, torch.eye(config.width)) or bool(bias.any()):
            raise FormatError(f"{checkpoint.source}: width and conv_dim are both {config.width}; fairseq has no "
                              "projection between them then, and this model's is not the identity")
    return {their_name(name, config.conv_norm): tensor for name, tensor in tensors.items()}


def _lost(checkpoint: Checkpoint) -> list[str]:
    lost = []
    others = sorted(set(checkpoint.others) - {"label_embs_concat"})
    if others:
        lost.append(f"heads that fairseq does not have: {', '.join(others[:4])}")
    if checkpoint.config.family == "wavlm" and (checkpoint.ctc or checkpoint.prediction or checkpoint.quantiser):
        raise UsageError(f"{checkpoint.source}: WavLM was published as an encoder alone, and fairseq has no model for "
                         "it with a head; write it as huggingface")
    if checkpoint.config.family == "data2vec" and checkpoint.ctc:
        raise UsageError(f"{checkpoint.source}: a recogniser on data2vec cannot be written for fairseq without its "
                         "averaged teacher's settings; write it as huggingface")
    return lost


def _recogniser(checkpoint: Checkpoint, encoder: dict[str, Tensor], lost: list[str]
                ) -> tuple[dict[str, Tensor], dict[str, Any], list[str] | None]:
    assert checkpoint.ctc is not None
    head, symbols = _ctc_rows(checkpoint.ctc, lost)
    tensors = {BODY + name: tensor for name, tensor in encoder.items()}
    if "label_embs_concat" in checkpoint.others:
        tensors[f"{BODY}label_embs_concat"] = checkpoint.others["label_embs_concat"]
    tensors |= {"w2v_encoder.proj.weight": head.weight, "w2v_encoder.proj.bias": head.bias}
    if checkpoint.prediction is not None or checkpoint.quantiser is not None:
        lost.append("the pretraining head: fairseq takes it out of a fine-tuned model")
    before = checkpoint.extra.get("fairseq") or {}
    name = _CTC[checkpoint.config.family]
    model = {"w2v_path": "", "no_pretrained_weights": False, "final_dropout": 0.0, "apply_mask": True,
             "freeze_finetune_updates": 0, "mask_prob": 0.65, "mask_length": 10, **_of(before, "model"), "_name": name,
             **ctc_overrides(checkpoint.config), "normalize": checkpoint.config.normalize, "data": "",
             "w2v_args": _pretraining(checkpoint)}
    model.setdefault("layerdrop", checkpoint.config.layerdrop)
    task = {**_fine_tuning_task(checkpoint.config), **_of(before, "task"), "normalize": checkpoint.config.normalize}
    criterion = _of(before, "criterion") or {"_name": "ctc", "zero_infinity": True, "sentence_avg": True,
                                             "post_process": "letter"}
    return tensors, {**before, "model": model, "task": task, "criterion": criterion}, symbols


def _ctc_rows(ctc: CtcHead, lost: list[str]) -> tuple[CtcHead, list[str] | None]:
    """A head's rows in the order of a Dictionary: blank, three specials, then the symbols; and their names."""
    if ctc.symbols is None:
        return ctc, None
    ours = [ctc.symbols[ctc.blank], "<s>", "</s>", "<unk>"]
    rest = [s for i, s in enumerate(ctc.symbols) if i != ctc.blank and s not in ours[1:]]
    index = {symbol: i for i, symbol in enumerate(ctc.symbols)}
    width, filled = ctc.weight.shape[1], [name for name in ours[1:] if name not in index]
    if filled:
        lost.append("the size of the head: fairseq's dictionaries have rows for <pad>, </s> and <unk>, so "
                    f"{len(filled)} were added with a bias of {FILLER_BIAS:g}, which no frame chooses")
    weight, bias = torch.zeros(4 + len(rest), width), torch.full((4 + len(rest),), FILLER_BIAS)
    for row, symbol in enumerate(ours + rest):
        if symbol in index:
            weight[row], bias[row] = ctc.weight[index[symbol]], ctc.bias[index[symbol]]
    names = [*SPECIALS, *rest]
    return CtcHead(weight, bias, tuple(names), 0), names


def _pretraining(checkpoint: Checkpoint) -> dict[str, Any]:
    """The groups of a pretraining's configuration: what was there, the model's shape on top."""
    before = checkpoint.extra.get("fairseq") or {}
    if checkpoint.ctc is not None:
        inner = _of(before, "model").get("w2v_args")
        before = as_groups(inner) if isinstance(inner, dict) and inner else {}
    config, prediction = checkpoint.config, checkpoint.prediction
    model: dict[str, Any] = {"_name": _MODELS[config.family], **_of(before, "model"), **model_group(config)}
    if prediction is not None:
        model |= {"final_dim": prediction.final_dim, "untie_final_proj": not prediction.tied,
                  "logit_temp": prediction.temperature}
    if checkpoint.quantiser is not None:
        vectors = checkpoint.quantiser["quantizer.codevectors"]
        groups = len(checkpoint.quantiser["project_q.weight"][0]) // vectors.shape[2]
        model |= {"quantize_targets": True, "final_dim": len(checkpoint.quantiser["project_hid.weight"]),
                  "latent_groups": groups, "latent_vars": vectors.shape[1] // groups,
                  "latent_dim": groups * vectors.shape[2]}
    streams = 1 if prediction is None else len(prediction.tables)
    labels = ["km"] if streams == 1 else [f"km{i}" for i in range(streams)]  # as `corpus export fairseq` names them
    task = {**_task(config, labels), **_of(before, "task"),
            "normalize": config.normalize, "sample_rate": SAMPLE_RATE}
    if prediction is not None and len(task.get("labels") or []) != streams:  # or another number than was read
        task["labels"] = labels
    if config.family == "hubert":
        model.setdefault("label_rate", 50.0)
    model.setdefault("required_seq_len_multiple", 2)
    criterion = _of(before, "criterion") or _CRITERIA[config.family]
    return {"_name": None, **before, "model": model, "task": task, "criterion": criterion}


def _task(config: EncoderConfig, labels: list[str]) -> dict[str, Any]:
    if config.family != "hubert":
        return {"_name": "audio_pretraining", "data": "", "labels": None, "sample_rate": SAMPLE_RATE}
    return {"_name": "hubert_pretraining", "data": "", "fine_tuning": False, "labels": labels, "label_dir": None,
            "label_rate": 50.0, "sample_rate": SAMPLE_RATE, "enable_padding": False, "max_keep_size": None,
            "max_sample_size": None, "min_sample_size": None, "single_target": False, "random_crop": True,
            "pad_audio": False}


def _fine_tuning_task(config: EncoderConfig) -> dict[str, Any]:
    if config.family != "hubert":
        return {**_task(config, []), "_name": "audio_finetuning", "labels": "ltr"}
    return {**_task(config, ["ltr"]), "fine_tuning": True, "single_target": True, "pad_audio": True,
            "random_crop": False}


def _of(groups: Any, name: str) -> dict[str, Any]:
    found = groups.get(name) if isinstance(groups, dict) else None
    return found if isinstance(found, dict) else {}


def _prediction(prediction: Prediction, lost: list[str]) -> dict[str, Tensor]:
    tables = list(prediction.tables)
    if not prediction.special_rows:
        tables = [torch.cat([table.new_zeros(len(SPECIALS), table.shape[1]), table]) for table in tables]
        lost.append("the size of the tables: fairseq's start with rows for <s>, <pad>, </s> and <unk>, so 4 rows of "
                    "zeros were added, whose logits are 0; they compete with the units in fairseq's softmax")
    return {"label_embs_concat": torch.cat(tables), "final_proj.weight": prediction.weight,
            "final_proj.bias": prediction.bias}


def _unit_names(prediction: Prediction) -> list[list[str]]:
    named = prediction.labels or tuple(
        tuple(str(i) for i in range(len(table) - prediction.special_rows)) for table in prediction.tables)
    return [[*SPECIALS, *names] for names in named]


def _dictionary(symbols: list[str]) -> Dictionary:
    """A `fairseq.data.dictionary.Dictionary` with these symbols, the four specials among them."""
    made = Dictionary()
    vars(made).update({
        "bos_word": "<s>", "unk_word": "<unk>", "pad_word": "<pad>", "eos_word": "</s>", "symbols": symbols,
        "count": [1] * len(symbols), "indices": {symbol: i for i, symbol in enumerate(symbols)},
        "bos_index": 0, "pad_index": 1, "eos_index": 2, "unk_index": 3, "nspecial": len(SPECIALS)})
    return made


class _Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]  # the one in Python, whose steps can be replaced
    """Writes our stand-in as the class of fairseq's that it stands for."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_type(self, obj: Any) -> None:
        if obj is Dictionary:
            self.write(pickle.GLOBAL + b"fairseq.data.dictionary\nDictionary\n")  # type: ignore[attr-defined]
            self.memoize(obj)  # type: ignore[attr-defined]
        else:
            super().save_type(obj)  # type: ignore[misc]

    dispatch[type] = save_type


def _save(content: dict[str, Any], path: Path) -> None:
    module = types.SimpleNamespace(Pickler=_Pickler, __name__="pickle")
    with writing(path) as temporary:
        write_torch_file(temporary, content, module)
