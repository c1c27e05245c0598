"""fairseq's checkpoints: its own files give its own numbers, and those we write look like them."""

from __future__ import annotations

import shutil
import sys
import types
from argparse import Namespace
from typing import Any

import pytest
import torch
from conversions import CLOSE, WAVES, difference, outputs, same, same_model
from safetensors.torch import load_file

from upstream.errors import FormatError, UsageError
from upstream.model import Encoder, load_encoder, load_prediction
from upstream.model.converting import write_as
from upstream.model.formats.pickles import plain, read_torch_file
from upstream.model.loading import read_checkpoint

PRETRAINED = [("pretrain_large.pt", "pretrain_large"), ("pretrain_base_legacy_args.pt", "pretrain_base")]


def _waves(encoder: Encoder, batch: dict[str, Any]) -> torch.Tensor:
    return torch.from_numpy(batch["source_normalized" if encoder.config.normalize else "source_raw"])[:1]


def _save(tmp_path, content: Any, name: str = "x.pt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.fixture
def large(checkpoints) -> dict[str, Any]:
    """The contents of a file of fairseq's, its dictionaries as plain lists, to be spoilt."""
    content = read_torch_file(checkpoints / "pretrain_large.pt")
    dictionaries = [entry.symbols for entry in content["task_state"]["dictionaries"]]
    return {"cfg": content["cfg"], "model": dict(content["model"]), "task_state": {"dictionaries": dictionaries}}


@pytest.mark.parametrize(("file", "name"), PRETRAINED)
def test_every_layer_of_its_files_equals_fairseq(checkpoints, expected, speech_batch, file, name):
    encoder = load_encoder(checkpoints / file)
    with torch.no_grad():
        output = encoder(_waves(encoder, speech_batch), layers=True)
    for layer in range(1, 5):
        assert difference(output.layers[layer][0], expected[f"{name}_single0_layer{layer}"]) < CLOSE
    assert difference(output.last[0], expected[f"{name}_single0_final"]) < CLOSE


@pytest.mark.parametrize("style", ["base", "large"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_logits_of_masked_prediction_equal_fairseq(checkpoints, speech_batch, tmp_path, style, tied):
    """fairseq puts the right class first and -inf where it stands among the others; utterance 0 has no padding."""
    folder = checkpoints.parent / style
    weights = load_file(folder / "untied.safetensors")
    if tied:
        weights |= load_file(folder / "tied_final_proj.safetensors")
    content = read_torch_file(checkpoints / PRETRAINED[style == "base"][0])
    cfg = plain(content.get("cfg") or content["args"])
    symbols = [["<s>", "<pad>", "</s>", "<unk>", *map(str, range(count))] for count in (25, 40)]
    path = _save(tmp_path, {"cfg": cfg, "model": weights, "task_state": {"dictionaries": symbols}})
    model = load_prediction(path)
    assert model.classes == (29, 44)
    assert model.shared is tied
    mask = torch.from_numpy(speech_batch["mask_indices"][:1])
    with torch.no_grad():
        output = model.encoder(_waves(model.encoder, speech_batch), mask=mask)
        logits = model._logits(output, 4, mask[0].nonzero()[:, 0])
    wanted = dict(torch_load(folder / "logits.npz"))
    for stream, found in enumerate(logits):
        theirs = wanted[f"{'tied' if tied else 'untied'}_logit_m_{stream}"][: len(found)]
        labels = torch.from_numpy(speech_batch[f"target_{stream}_50hz"][0])[mask[0]].long()
        assert difference(found.gather(1, labels[:, None])[:, 0], theirs[:, 0]) < CLOSE
        others = theirs[:, 1:].isfinite()
        assert others.sum() == found.numel() - len(found)
        assert difference(found[others], theirs[:, 1:][others]) < CLOSE


def torch_load(path) -> dict[str, torch.Tensor]:
    import numpy as np

    return {name: torch.from_numpy(values) for name, values in np.load(path).items()}


def test_special_rows_are_kept_as_classes_or_dropped(checkpoints):
    kept = load_prediction(checkpoints / "pretrain_large.pt")
    dropped = load_prediction(checkpoints / "pretrain_large.pt", special_rows=False)
    assert (kept.classes, dropped.classes) == ((29, 44), (25, 40))
    assert torch.equal(kept.tables[1].embeddings[4:], dropped.tables[1].embeddings)


def test_the_dictionary_decides_which_label_a_row_stands_for(large, tmp_path):
    large["task_state"]["dictionaries"][0] = ["<s>", "<pad>", "</s>", "<unk>", *map(str, reversed(range(25)))]
    found = read_checkpoint(_save(tmp_path, large))
    assert found.prediction.labels[0][:2] == ("24", "23")
    write_as(found, tmp_path / "again.pt", "fairseq")
    assert same(read_checkpoint(tmp_path / "again.pt").prediction, found.prediction)


@pytest.mark.parametrize("file", ["pretrain_large.pt", "pretrain_base_legacy_args.pt", "ctc_large_with_w2v_args.pt"])
def test_what_we_write_has_the_keys_shapes_and_classes_of_its_own_files(checkpoints, tmp_path, file):
    """Read back by an ordinary unpickler, with a class where fairseq has its own."""
    theirs = read_torch_file(checkpoints / file)
    write_as(read_checkpoint(checkpoints / file), tmp_path / "x.pt", "fairseq")
    module = types.ModuleType("fairseq.data.dictionary")
    module.Dictionary = type("Dictionary", (), {"__module__": module.__name__})
    names = {"fairseq": types.ModuleType("fairseq"), "fairseq.data": types.ModuleType("fairseq.data"),
             module.__name__: module}
    sys.modules.update(names)
    try:
        ours = torch.load(tmp_path / "x.pt", weights_only=False)
    finally:
        for name in names:
            del sys.modules[name]
    assert same(dict(ours["model"]), dict(theirs["model"]))
    assert set(theirs) - {"args", "last_optimizer_state"} <= set(ours)
    assert ours["args"] is None
    for key, entry in theirs["task_state"].items():
        mine = ours["task_state"][key]
        pairs = zip(mine, entry) if isinstance(entry, list) else [(mine, entry)]
        for one, other in pairs:
            assert isinstance(one, module.Dictionary)
            assert vars(one) == {**vars(other), "count": vars(one)["count"]}
    if theirs.get("cfg"):
        # The CTC configuration's own dropouts are those of the encoder inside too.
        groups = [(ours["cfg"]["task"], theirs["cfg"]["task"]), (ours["cfg"]["criterion"], theirs["cfg"]["criterion"])]
        for found, wanted in groups:
            assert {k: v for k, v in found.items() if k != "data"} == {k: v for k, v in wanted.items() if k != "data"}


@pytest.mark.parametrize("settings", [{}, {"conv_norm": "layer", "conv_bias": True, "pre_norm": True,
                                           "normalize": True}, {"conv_dim": 24, "width": 24}])
@pytest.mark.parametrize(("classes", "tied"), [((7,), False), ((7, 5), False), ((7, 5), True)])
def test_a_pretrained_folder_comes_back_from_fairseq(pretrained, tmp_path, settings, classes, tied):
    folder, model = pretrained(classes, tied, **settings)
    found = read_checkpoint(folder)
    if settings.get("conv_dim") == 24:
        with pytest.raises(FormatError, match="not the identity"):
            write_as(found, tmp_path / "x.pt", "fairseq")
        return
    lost = write_as(found, tmp_path / "x.pt", "fairseq")
    assert len(lost) == 1
    assert "4 rows of zeros were added" in lost[0]
    tables = read_torch_file(tmp_path / "x.pt")["model"]["label_embs_concat"]
    assert tables.shape == (sum(classes) + 4 * len(classes), 8)
    again = read_checkpoint(tmp_path / "x.pt")
    assert same_model(again, found)
    mask = torch.zeros(2, 12, dtype=torch.bool).index_fill(1, torch.tensor([2, 5]), True)
    labels = torch.zeros(2, 12, len(classes), dtype=torch.int64)
    with torch.no_grad():
        ours = model(WAVES, None, mask, labels).total
        assert torch.equal(load_prediction(tmp_path / "x.pt")(WAVES, None, mask, labels).total, ours)


def test_a_wav2vec2_that_learnt_to_predict_units_is_a_hubert_in_fairseq(pretrained, tmp_path):
    """A bug once found: it was written as the model wav2vec2, which has no class tables and refuses a file with any."""
    found = read_checkpoint(pretrained(family="wav2vec2")[0])
    lost = write_as(found, tmp_path / "x.pt", "fairseq")
    assert "that it was wav2vec 2.0" in lost[0]
    content = read_torch_file(tmp_path / "x.pt")
    assert [content["cfg"][group]["_name"] for group in ("model", "task", "criterion")] == [
        "hubert", "hubert_pretraining", "hubert"]
    again = read_checkpoint(tmp_path / "x.pt")
    assert again.config.family == "hubert"
    assert same(again.tensors, found.tensors)
    assert torch.equal(again.prediction.tables[0], found.prediction.tables[0])


def test_a_data2vec_leaves_heads_of_prediction_behind_in_fairseq(pretrained, tmp_path):
    found = read_checkpoint(pretrained(family="data2vec", conv_norm="layer", positional_depth=2)[0])
    lost = write_as(found, tmp_path / "x.pt", "fairseq")
    assert lost == ["the heads of masked prediction: fairseq has them on HuBERT alone",
                    "a pretraining head, which there is none of: load the model there with strict=False"]
    assert "label_embs_concat" not in read_torch_file(tmp_path / "x.pt")["model"]
    again = read_checkpoint(tmp_path / "x.pt")
    assert again.prediction is None
    assert same(again.tensors, found.tensors)


def test_equal_widths_need_no_projection_in_fairseq(tiny, tmp_path):
    """fairseq has none where the convolutions are as wide as the Transformer; the identity stands for it."""
    from upstream.model import save_encoder

    encoder = tiny(conv_dim=24, width=24)
    with torch.no_grad():
        encoder.feature_projection.projection.weight.copy_(torch.eye(24))
        encoder.feature_projection.projection.bias.zero_()
    save_encoder(encoder, tmp_path / "ours", {})
    write_as(read_checkpoint(tmp_path / "ours"), tmp_path / "x.pt", "fairseq")
    assert not any(key.startswith("post_extract") for key in read_torch_file(tmp_path / "x.pt")["model"])
    again = read_checkpoint(tmp_path / "x.pt")
    assert "identity" in again.notes[0]
    with torch.no_grad():
        assert torch.equal(outputs(again), encoder(WAVES).last)


def test_a_recogniser_needs_its_pretraining_for_the_number_of_heads(checkpoints, tmp_path):
    with pytest.raises(FormatError, match=r"ctc_base\.pt: .*many attention heads.*beside it as checkpoint_last\.pt"):
        load_encoder(checkpoints / "ctc_base.pt")
    before = checkpoints / "pretrain_base_legacy_args.pt"
    given = read_checkpoint(checkpoints / "ctc_base.pt", pretrained=before)
    shutil.copy(checkpoints / "ctc_base.pt", tmp_path)
    shutil.copy(before, tmp_path / "checkpoint_last.pt")
    beside = read_checkpoint(tmp_path / "ctc_base.pt")
    assert given.config == beside.config
    assert given.config.heads == 4
    assert (given.config.feature_grad_mult, given.config.layerdrop) == (0.0, 0.1)  # the fine-tuning's own


def test_namespaces_inside_namespaces_are_read(checkpoints, tmp_path):
    """The oldest fine-tuned files: args, and in it the args of the pretraining."""
    content = read_torch_file(checkpoints / "ctc_large_with_w2v_args.pt")
    cfg = content["cfg"]
    inner = Namespace(**{**cfg["model"]["w2v_args"]["task"], **cfg["model"]["w2v_args"]["model"]})
    flat = {**cfg["task"], **cfg["model"], "w2v_args": inner, "arch": "hubert_ctc"}
    del flat["_name"]
    path = _save(tmp_path, {"args": Namespace(**flat), "model": content["model"]})
    old, new = read_checkpoint(path), read_checkpoint(checkpoints / "ctc_large_with_w2v_args.pt")
    assert old.config == new.config
    assert same(old.tensors, new.tensors)
    assert old.ctc.symbols is None


def test_the_oldest_name_of_the_class_table_is_read(large, tmp_path):
    large["model"]["label_embs"] = large["model"].pop("label_embs_concat")
    assert len(read_checkpoint(_save(tmp_path, large)).prediction.tables) == 2


def test_half_precision_becomes_float32(large, tmp_path):
    large["model"] = {name: tensor.half() for name, tensor in large["model"].items()}
    found = read_checkpoint(_save(tmp_path, large))
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32}


def _spoil(key: str, value: Any, group: str = "model"):
    return lambda content: content["cfg"][group].update({key: value})


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda c: c["model"].pop("encoder.layers.2.fc1.bias"),
     r"no tensor 'encoder\.layers\.2\.fc1\.bias', of shape \(96,\)"),
    (lambda c: c["model"].pop("post_extract_proj.weight"),
     r"no tensor 'post_extract_proj\.weight', of shape \(48, 32\)"),
    (lambda c: c["model"].pop("encoder.pos_conv.0.weight_g"), r"no tensor 'encoder\.pos_conv\.0\.weight_g'"),
    (lambda c: c["model"].update({"encoder.layers.0.fc1.weight": torch.ones(95, 48)}),
     r"'encoder\.layers\.0\.fc1\.weight' has shape \(95, 48\); the configuration wants \(96, 48\)"),
    (lambda c: c["model"].update({"surprise.weight": torch.ones(1)}),
     r"1 tensor that .* no place for: surprise\.weight"),
    (lambda c: c["model"].pop("final_proj.bias"), r"no tensor 'final_proj\.bias'"),
    (lambda c: c["model"].update({"final_proj.weight": torch.ones(47, 48)}),
     r"'final_proj\.weight' has shape \(47, 48\)"),
    (lambda c: c["task_state"]["dictionaries"].pop(), r"\(73, 24\); its dictionaries have 29 symbols"),
    (lambda c: c.update(cfg=None), "neither cfg nor args"),
    (_spoil("extractor_mode", "default"), "says group norm .* the weights have layer norm"),
    (_spoil("encoder_layers", 5), r"no tensor 'encoder\.layers\.4\."),
    (_spoil("_name", "wavegan"), "model 'wavegan' is an architecture that hubertkit does not have"),
    (_spoil("layer_type", "conformer"), "layer_type='conformer'"),
    (_spoil("conv_pos_batch_norm", True), "conv_pos_batch_norm=True"),
    (_spoil("conv_feature_layers", "[(32, 10, 5)] * 7"), r"hubertkit has those of wav2vec 2\.0 only"),
    (_spoil("conv_feature_layers", "__import__('os').system('true')"), "is not a list of"),
    (_spoil("encoder_attention_heads", 5), "width=48 is not a multiple of heads=5"),
    (lambda c: c["cfg"]["model"].pop("encoder_attention_heads"), "no 'encoder_attention_heads'"),
    (_spoil("sample_rate", 8000, "task"), "sample_rate=8000; hubertkit's encoders hear 16000 Hz"),
])
def test_what_does_not_fit_is_refused_with_the_file_and_the_key(large, tmp_path, spoil, message):
    spoil(large)
    with pytest.raises(FormatError, match=message) as refused:
        load_encoder(_save(tmp_path, large))
    assert str(tmp_path / "x.pt") in str(refused.value)


def test_a_model_that_holds_other_things_than_tensors_is_refused(large, tmp_path):
    large["model"]["note"] = "hello"
    with pytest.raises(FormatError, match="other things than tensors"):
        load_encoder(_save(tmp_path, large))


def test_a_file_without_heads_of_prediction_says_so(checkpoints):
    with pytest.raises(UsageError, match="no heads of masked prediction"):
        load_prediction(checkpoints / "ctc_large_with_w2v_args.pt")
