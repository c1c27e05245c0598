"""torchaudio's state dicts and bundles: it loads ours strictly, we load its own, and both compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import CLOSE, WAVES, difference, filled, outputs, same, same_model

from upstream.errors import FormatError, UsageError
from upstream.frames import CONV_GRID
from upstream.model import load_encoder, load_prediction, save_encoder
from upstream.model.converting import write_as
from upstream.model.formats import torchaudio as ours
from upstream.model.loading import read_checkpoint

models = pytest.importorskip("torchaudio.models")
pipelines = pytest.importorskip("torchaudio.pipelines")
CONV = [(16, kernel, stride) for kernel, stride in zip(CONV_GRID.kernels, CONV_GRID.strides)]
SIZES = {"extractor_mode": "group_norm", "extractor_conv_layer_config": CONV, "extractor_conv_bias": False,
         "encoder_embed_dim": 24, "encoder_projection_dropout": 0.1, "encoder_pos_conv_kernel": 8,
         "encoder_pos_conv_groups": 4, "encoder_num_layers": 2, "encoder_num_heads": 4,
         "encoder_attention_dropout": 0.1, "encoder_ff_interm_features": 32, "encoder_ff_interm_dropout": 0.0,
         "encoder_dropout": 0.1, "encoder_layer_norm_first": False, "encoder_layer_drop": 0.05}
LARGE = {"extractor_mode": "layer_norm", "extractor_conv_bias": True, "encoder_layer_norm_first": True}


def _theirs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        model = getattr(model, "wav2vec2", model).eval()
        return model.encoder(model.feature_extractor(WAVES, None)[0], None)


def _described(path: Path, **content: Any) -> Path:
    ours.sidecar(path).write_text(json.dumps(content))
    return path


def _made(path: Path) -> Any:
    """The torchaudio model that the JSON file beside a state dict describes, with its weights, loaded strictly."""
    described = json.loads(ours.sidecar(path).read_text())
    arguments = described["arguments"]
    arguments["extractor_conv_layer_config"] = [tuple(layer) for layer in arguments["extractor_conv_layer_config"]]
    model = getattr(models, described["factory"])(**arguments)
    model.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return model.eval()


@pytest.mark.parametrize("settings", [{}, LARGE])
@pytest.mark.parametrize("lightning", [False, True])
def test_its_state_dicts_give_what_it_computes(tmp_path, settings, lightning):
    arguments = {**SIZES, **settings}
    model = filled(models.wav2vec2_model(**arguments, aux_num_out=None))
    state = model.state_dict()
    content = {"state_dict": {f"model.{key}": tensor for key, tensor in state.items()}} if lightning else state
    torch.save(content, tmp_path / "x.pth")
    found = read_checkpoint(_described(tmp_path / "x.pth", arguments=arguments))
    assert difference(outputs(found), _theirs(model)) < CLOSE
    assert not found.tensors["masked_spec_embed"].any()
    assert "no mask vector" in found.notes[0]
    assert found.config.normalize is bool(settings)


@pytest.mark.parametrize("settings", [{}, {"conv_norm": "layer", "conv_bias": True, "pre_norm": True,
                                           "normalize": True}])
def test_it_loads_an_encoder_of_ours_strictly(tiny, tmp_path, settings):
    encoder = tiny(feature_grad_mult=1.0, **settings)
    save_encoder(encoder, tmp_path / "ours", {})
    lost = write_as(read_checkpoint(tmp_path / "ours"), tmp_path / "x.pt", "torchaudio")
    assert lost == ["the mask vector: only torchaudio's hubert_pretrain_model has one"]
    with torch.no_grad():
        assert difference(_theirs(_made(tmp_path / "x.pt")), encoder(WAVES).last) < CLOSE
    again = read_checkpoint(tmp_path / "x.pt")
    assert again.config == encoder.config
    assert torch.equal(outputs(again), outputs(read_checkpoint(tmp_path / "ours")))


def test_heads_of_masked_prediction_go_and_come_back(pretrained, tmp_path):
    folder, model = pretrained((7,))
    found = read_checkpoint(folder)
    assert not write_as(found, tmp_path / "x.pt", "torchaudio")
    assert same_model(read_checkpoint(tmp_path / "x.pt"), found)
    theirs = _made(tmp_path / "x.pt")
    states = torch.randn(1, 5, 24)
    labels = torch.tensor([[0, 3, 6, 2, 2]])
    every = torch.ones(1, 5, dtype=torch.bool)
    with torch.no_grad():
        logits, _ = theirs.logit_generator(states, labels, every, ~every)  # the right class first, as fairseq
        wanted = model.tables[0](model.projections["3"][0](states[0]))
    assert difference(logits[:, 0], wanted.gather(1, labels.T)[:, 0]) < CLOSE
    others = logits[:, 1:].isfinite()
    assert difference(logits[:, 1:][others], wanted[others]) < CLOSE


def test_its_own_pretraining_is_read_with_its_head(tmp_path):
    arguments = {**SIZES, **ours._PRETRAINING, "num_classes": 9, "final_dim": 6, "feature_grad_mult": 0.1}
    model = filled(models.hubert_pretrain_model(**arguments))
    torch.save(model.state_dict(), tmp_path / "x.pt")
    found = load_prediction(_described(tmp_path / "x.pt", arguments=arguments))
    assert found.classes == (9,)
    assert found.encoder.config.feature_grad_mult == 0.1
    assert torch.equal(found.encoder.masked_spec_embed, model.mask_generator.mask_embedding)
    assert torch.equal(found.tables[0].embeddings, model.logit_generator.label_embeddings)


def test_one_stream_of_several_is_written_and_the_rest_is_said(checkpoints, tmp_path):
    found = read_checkpoint(checkpoints / "pretrain_large.pt")
    lost = write_as(found, tmp_path / "x.pt", "torchaudio")
    assert "all but the first of 2 streams" in lost[0]
    assert "unit c is class c + 4" in lost[1]
    again = read_checkpoint(tmp_path / "x.pt").prediction
    assert same(again.tables, found.prediction.tables[:1])
    assert same(again.weight, found.prediction.weight[:24])
    assert again.special_rows == 4
    dropped = read_checkpoint(checkpoints / "pretrain_large.pt", special_rows=False)
    assert len(write_as(dropped, tmp_path / "y.pt", "torchaudio")) == 1
    assert _made(tmp_path / "y.pt").logit_generator.label_embeddings.shape == (25, 24)


def test_a_recogniser_goes_and_comes_back(checkpoints, tmp_path):
    found = read_checkpoint(checkpoints / "ctc_large_with_w2v_args.pt")
    lost = write_as(found, tmp_path / "x.pt", "torchaudio")
    assert len(lost) == 3
    again = read_checkpoint(tmp_path / "x.pt")
    assert same(again.ctc, found.ctc)
    theirs = _made(tmp_path / "x.pt")
    with torch.no_grad():
        logits, _ = theirs(WAVES)
        assert difference(logits, outputs(found) @ found.ctc.weight.T + found.ctc.bias) < CLOSE


def test_the_old_name_of_the_head_is_read(tmp_path):
    model = filled(models.wav2vec2_model(**SIZES, aux_num_out=6))
    state = {key.replace("aux.", "encoder.readout."): tensor for key, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "x.pt")
    found = read_checkpoint(_described(tmp_path / "x.pt", arguments=SIZES))
    assert torch.equal(found.ctc.weight, model.aux.weight)


@pytest.mark.parametrize(("name", "settings", "heads", "pre_norm"), [
    ("BASE", {"encoder_num_layers": 12}, 12, False),
    ("LARGE", {"encoder_embed_dim": 48, "encoder_ff_interm_features": 64, **LARGE}, 16, True),
])
def test_published_sizes_need_no_description(tmp_path, monkeypatch, name, settings, heads, pre_norm):
    """The table of published sizes, made small here: 90 million random numbers would only take time."""
    from upstream.model.formats import published

    arguments = {**SIZES, **settings, "encoder_num_heads": 4}
    size = (arguments["encoder_embed_dim"], arguments["encoder_num_layers"], arguments["encoder_ff_interm_features"])
    norm = "layer" if pre_norm else "group"
    real = {"BASE": (768, 12, 3072, "group"), "LARGE": (1024, 24, 4096, "layer")}[name]
    assert published._PUBLISHED[real] == (heads, pre_norm)
    monkeypatch.setitem(published._PUBLISHED, (*size, norm), (4, pre_norm))
    model = filled(models.wav2vec2_model(**arguments, aux_num_out=None))
    torch.save(model.state_dict(), tmp_path / "x.pth")
    assert difference(outputs(read_checkpoint(tmp_path / "x.pth")), _theirs(model)) < CLOSE


def test_heads_that_nothing_tells_are_asked_for(tmp_path):
    torch.save(models.wav2vec2_model(**SIZES, aux_num_out=None).state_dict(), tmp_path / "x.pth")
    with pytest.raises(FormatError, match=r"does not say heads and pre_norm, .*x\.pth\.json beside it"):
        load_encoder(tmp_path / "x.pth")


@pytest.fixture
def saved(tmp_path) -> Path:
    torch.save(models.wav2vec2_model(**SIZES, aux_num_out=None).state_dict(), tmp_path / "x.pt")
    return _described(tmp_path / "x.pt", arguments=SIZES)


@pytest.mark.parametrize(("changes", "message"), [
    ({"encoder_num_layers": 3}, r"x\.pt: no tensor 'encoder\.transformer\.layers\.2\.attention\.k_proj\.weight'"),
    ({"encoder_ff_interm_features": 33}, r"has shape \(32, 24\); the configuration wants \(33, 24\)"),
    ({"extractor_mode": "layer_norm"}, "says layer norm .* the weights have group norm"),
    ({"extractor_mode": "batch_norm"}, r"x\.pt\.json: extractor_mode='batch_norm'"),
    ({"extractor_conv_layer_config": CONV[:3]}, r"hubertkit has those of wav2vec 2\.0 only"),
])
def test_a_description_that_does_not_fit_is_refused(saved, changes, message):
    with pytest.raises(FormatError, match=message):
        load_encoder(_described(saved, arguments={**SIZES, **changes}))


def test_a_description_without_arguments_is_refused(saved):
    with pytest.raises(FormatError, match=r"x\.pt\.json: expected the arguments"):
        load_encoder(_described(saved, arguments=3))
    with pytest.raises(FormatError, match=r"x\.pt\.json: no argument 'encoder_embed_dim'"):
        load_encoder(_described(saved, arguments={"extractor_mode": "group_norm", "extractor_conv_bias": False}))


@pytest.fixture
def bundle(monkeypatch):
    """`bundle(**fields)`: put a bundle with random weights where torchaudio has HUBERT_BASE; gives its model."""

    def make(kind: Any = pipelines.Wav2Vec2Bundle, aux: int | None = None, normalize: bool = False,
             **fields: Any) -> Any:
        arguments = {**SIZES, **(LARGE if normalize else {}), "aux_num_out": aux}
        made = kind(_path="x.pth", _params=arguments, _sample_rate=16_000, _normalize_waveform=normalize,
                    _model_type="Wav2Vec2", **fields)
        model = filled(models.wav2vec2_model(**arguments))
        monkeypatch.setattr(type(made), "_get_state_dict", lambda *_: model.state_dict())
        monkeypatch.setattr(pipelines, "HUBERT_BASE", made)
        return model

    return make


@pytest.mark.parametrize("normalize", [False, True])
def test_a_bundle_is_loaded_by_its_name(bundle, normalize):
    model = bundle(normalize=normalize)
    encoder = load_encoder("HUBERT_BASE")
    assert encoder.config.normalize is normalize
    with torch.no_grad():
        assert difference(encoder(WAVES).last, _theirs(model)) < CLOSE


def test_a_bundle_for_recognition_brings_its_symbols(bundle):
    model = bundle(pipelines.Wav2Vec2ASRBundle, aux=3, _labels=("|", "A"))
    found = read_checkpoint("HUBERT_BASE")
    assert found.ctc.symbols == ("<pad>", "|", "A")
    assert torch.equal(found.ctc.weight, model.aux.weight)


def test_the_star_of_an_aligner_is_no_row(bundle, monkeypatch):
    """torchaudio's MMS_FA names a star that it puts beside the model's rows when it aligns."""
    model = bundle(pipelines.Wav2Vec2FABundle, aux=3, _labels=("A", "B"))
    monkeypatch.setattr("torchaudio.pipelines._wav2vec2.utils._get_state_dict", lambda *_: model.state_dict())
    assert read_checkpoint("HUBERT_BASE").ctc.symbols == ("<pad>", "A", "B")


def test_a_bundle_that_cannot_be_fetched_is_one_line(bundle, monkeypatch):
    def fails(*_: Any) -> None:
        raise OSError("no\nnetwork")

    bundle()
    monkeypatch.setattr(pipelines.Wav2Vec2Bundle, "_get_state_dict", fails)
    with pytest.raises(UsageError, match=r"HUBERT_BASE: torchaudio could not fetch it \(no network\)"):
        load_encoder("HUBERT_BASE")
