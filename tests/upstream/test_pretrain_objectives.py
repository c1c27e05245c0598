"""Pretraining with other objectives, end to end: wav2vec 2.0, several predicting layers, mixed utterances."""

import json
import signal

import numpy as np
import pytest
import soundfile
import torch
from small_rounds import ENCODER, TEACHERS, TRAINING, write_recordings

from upstream.audio import import_folder
from upstream.errors import Interrupted, UsageError
from upstream.model import Encoder, load_encoder, read_tensors
from upstream.model.converting import write_as
from upstream.model.loading import read_checkpoint
from upstream.pretrain import Corpus, _task, contrastive_prediction, masked_prediction, pretrain
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe, rounds_of
from upstream.recipe import load_recipe
from upstream.teacher.units import Units, UnitsWriter
from upstream.training import loop
from upstream.training.monitor import read_metrics

TINY = [*ENCODER, *TRAINING, "training.batch_seconds=8", "training.updates=6", "training.log_every=1",
        "training.precision=float32"]
WAV2VEC = ["encoder.conv_dim=16", "objective.final_dim=16", "objective.contrastive.entries=8",
           "objective.contrastive.code_dim=16", "objective.contrastive.negatives=10"]


def recipe(name, data, *words):
    own = WAV2VEC if name.startswith("wav2vec2") else TEACHERS
    return load_recipe(PretrainRecipe, name, [*TINY, *own, f"data={data}", *words], SHIPPED)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"), 10)


def quiet(line):
    pass


def said(run):
    lines = []
    run(lines.append)
    return lines


@pytest.mark.parametrize("frontend", ["conv", "fbank"])
def test_wav2vec2_trains_without_teacher_or_units(recordings, tmp_path, frontend):
    chosen = recipe("wav2vec2-tiny", recordings, f"encoder.frontend={frontend}")
    [result] = pretrain(chosen, tmp_path, quiet)
    assert sorted(p.name for p in (tmp_path / "round1").iterdir()) == ["encoder"]
    assert (result.units, result.teacher_result, result.units_result) == (None, {}, {})
    assert load_encoder(result.encoder).config.frontend == frontend
    train, [*_, valid] = read_metrics(result.encoder, "train"), read_metrics(result.encoder, "valid")
    for record in (*train, valid):
        assert {"loss", "contrastive_accuracy", "code_perplexity", "diversity"} <= set(record)
    assert [r["update"] for r in train] == [1, 2, 3, 4, 5, 6]
    assert result.encoder_result["loss"] == valid["loss"]
    again = said(lambda say: pretrain(chosen, tmp_path, say))
    assert len(again) == 2
    assert all("done before, skipped" in line for line in again)


def test_the_quantiser_travels_with_the_encoder(recordings, tmp_path):
    chosen = recipe("wav2vec2-tiny", recordings)
    [result] = pretrain(chosen, tmp_path, quiet)
    head = read_tensors(result.encoder / "head.safetensors")
    assert set(head) == {"quantizer.codevectors", "quantizer.weight_proj.weight", "quantizer.weight_proj.bias",
                         "project_q.weight", "project_q.bias", "project_hid.weight", "project_hid.bias"}
    model = contrastive_prediction(rounds_of(chosen)[0])
    model.encoder.load_state_dict(load_encoder(result.encoder).state_dict())
    missing = model.load_state_dict(head, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("encoder.") for name in missing.missing_keys)
    described = json.loads((result.encoder / "hubertkit.json").read_text())
    assert described["objective"]["kind"] == "wav2vec2"
    assert described["units"] is None


@pytest.mark.parametrize("name", ["wav2vec2-tiny", "hubert-tiny"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(recordings, tmp_path, name, monkeypatch):
    """Dropout, Gumbel noise, negatives and mixtures are what they would have been."""
    words = ["encoder.dropout=0.1", "mixing.share=0.5"]
    [*_, straight] = pretrain(recipe(name, recordings, *words), tmp_path / "straight", quiet, until_round=1)
    accumulate, calls = loop.accumulate, []

    def stop_after_three(*arguments, **keywords):
        calls.append(0)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return accumulate(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "accumulate", stop_after_three)
        with pytest.raises(Interrupted):
            pretrain(recipe(name, recordings, *words), tmp_path / "stopped", quiet, until_round=1)
    [*_, resumed] = pretrain(recipe(name, recordings, *words), tmp_path / "stopped", quiet, until_round=1)
    assert resumed.encoder_result == straight.encoder_result
    ends = [read_tensors(r.encoder / "head.safetensors") for r in (straight, resumed)]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_a_changed_objective_trains_again_and_a_changed_log_does_not(recordings, tmp_path):
    pretrain(recipe("wav2vec2-tiny", recordings), tmp_path, quiet)
    looked = said(lambda say: pretrain(recipe("wav2vec2-tiny", recordings, "training.log_every=2"), tmp_path, say))
    assert all("done before, skipped" in line for line in looked)
    changed = recipe("wav2vec2-tiny", recordings, "objective.contrastive.negatives=11")
    lines = said(lambda say: pretrain(changed, tmp_path, say))
    assert [line.split(":")[0] for line in lines if "stale" in line] == ["round1/encoder"]


def test_hubert_follows_on_wav2vec2(recordings, tmp_path):
    """The teacher of round 2 reads a layer of what wav2vec 2.0 learnt."""
    words = ["encoder.frontend=conv", "encoder.conv_dim=16", "objective.head=cosine", "training.updates=2",
             "rounds.0.teacher={clusters: 100, sample_frames: 1000000}", "rounds.0.objective.kind=wav2vec2"]
    chosen = recipe("hubert-tiny", recordings, *words)
    first, second = pretrain(chosen, tmp_path, quiet)
    assert first.units is None
    assert second.units is not None
    teacher = json.loads((tmp_path / "round2" / "teacher" / "stage.json").read_text())
    assert teacher["inputs"]["encoder"] == first.encoder_result["hash"]


@pytest.mark.parametrize("stride", [20, 40])
def test_the_light_front_end_learns_in_both_rounds(recordings, tmp_path, stride):
    """Labels have 50 Hz whatever the encoder's stride: the second teacher reads its layers at that rate."""
    chosen = recipe("hubert-tiny-light", recordings, f"encoder.stride_ms={stride}", "encoder.conv_dim=16")
    results = pretrain(chosen, tmp_path, quiet)
    for result in results:
        assert Units.load(result.units).rate == 50
        encoder = load_encoder(result.encoder)
        assert (encoder.config.frontend, encoder.config.stride_ms) == ("light", stride)
        drawn = Encoder(encoder.config).initialise(0).feature_extractor.state_dict()
        assert all(not torch.equal(drawn[k], v) for k, v in encoder.feature_extractor.state_dict().items())
    with pytest.raises(UsageError, match="the light front end is hubertkit's own"):
        write_as(read_checkpoint(results[-1].encoder), tmp_path / "a.pt", "fairseq")


def test_several_layers_predict(recordings, tmp_path):
    chosen = recipe("hubert-tiny", recordings, "objective.predict_at=[1,2]")
    [result] = pretrain(chosen, tmp_path, quiet, until_round=1)
    head = read_tensors(result.encoder / "head.safetensors")
    assert {"projections.1.0.weight", "tables.0.weight"} <= set(head)  # the middle layer's norm, and the shared table
    model = masked_prediction(rounds_of(chosen)[0], (8,)).initialise(0)
    before = model.projections["1"][0].weight.detach().clone()
    assert not torch.equal(head["projections.1.0.weight"], before)
    alone = pretrain(recipe("hubert-tiny", recordings), tmp_path / "alone", quiet, until_round=1)[0]
    assert alone.encoder_result["hash"] != result.encoder_result["hash"]


def test_every_option_of_an_objective_reaches_the_model(recordings):
    words = ["head=cosine", "final_dim=24", "temperature=0.2", "predict_at=[1,2]", "masked_weight=0.25",
             "unmasked_weight=0.5", "feature_penalty=3", "tied_projections=true"]
    chosen = recipe("hubert-tiny-light", recordings, "encoder.conv_dim=16", *(f"objective.{word}" for word in words))
    model = masked_prediction(rounds_of(chosen)[0], (8, 9))
    assert (model.head, model.predict_at, model.masked_weight, model.unmasked_weight, model.penalty_weight,
            model.shared) == ("cosine", (1, 2), 0.25, 0.5, 3, True)
    assert [(table.temperature, table.embeddings.shape) for table in model.tables] == [(0.2, (8, 24)), (0.2, (9, 24))]


def test_every_option_of_wav2vec2_reaches_the_model(recordings):
    words = ["temperature=0.2", "feature_penalty=3", "contrastive.groups=4", "contrastive.diversity_weight=0.3",
             "contrastive.feature_dropout=0.4"]
    chosen = recipe("wav2vec2-tiny", recordings, *(f"objective.{word}" for word in words))
    model = contrastive_prediction(rounds_of(chosen)[0])
    assert (model.temperature, model.penalty_weight, model.quantizer.groups, model.quantizer.entries,
            model.diversity_weight, model.feature_dropout) == (0.2, 3, 4, 8, 0.3, 0.4)
    assert (model.project_q.weight.shape, model.project_hid.weight.shape) == ((16, 16), (16, 32))


@pytest.mark.parametrize("name", ["hubert-tiny", "wav2vec2-tiny"])
def test_speeds_statistics_and_the_noise_of_a_recipe_reach_the_task(recordings, tmp_path, name):
    words = ["speeds=[0.9,1.1]", "encoder.frontend=fbank", "encoder.fbank_norm=global"]
    if name == "wav2vec2-tiny":
        words += ["objective.contrastive.gumbel.end=0.25"]
    chosen, manifest = recipe(name, recordings, *words), import_folder(recordings)
    with UnitsWriter(tmp_path / "units", (3,), {}) as writer:
        for utterance in manifest:
            writer.add(utterance.id, np.zeros(74, np.uint16))
    units = Units.load(tmp_path / "units") if name == "hubert-tiny" else None
    corpus = Corpus(manifest, np.arange(8), np.arange(8, 10))
    task = _task(chosen, rounds_of(chosen)[0], corpus, units, None, None, torch.device("cpu"))
    assert {crops.speed for micro, _ in zip(task._crops.updates(1), range(8)) for crops in micro} == {0.9, 1.1}
    statistics = task.model.encoder.feature_extractor
    assert statistics.mean.all()
    assert (statistics.std != 1).all()
    if units is None:
        assert task._gumbel.end == 0.25
        assert next(task.updates(1))[0].negatives.shape[1] == 10


def test_mixing_changes_the_encoder_and_noise_is_an_input(recordings, tmp_path):
    plain = pretrain(recipe("hubert-tiny", recordings), tmp_path / "plain", quiet, until_round=1)[0]
    noise = tmp_path / "noise"
    noise.mkdir()
    soundfile.write(noise / "hum.wav", 0.1 * np.sin(np.arange(16_000) / 10), 16_000)
    words = ["mixing.share=0.8", "mixing.noise_share=0.5", f"mixing.noise={noise}"]
    mixed = pretrain(recipe("hubert-tiny", recordings, *words), tmp_path / "mixed", quiet, until_round=1)[0]
    assert mixed.units_result["hash"] == plain.units_result["hash"]
    assert mixed.encoder_result["hash"] != plain.encoder_result["hash"]
    soundfile.write(noise / "hiss.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    chosen = recipe("hubert-tiny", recordings, *words)
    lines = said(lambda say: pretrain(chosen, tmp_path / "mixed", say, until_round=1))
    assert [line.split(":")[0] for line in lines if "stale" in line] == ["round1/encoder"]


def test_noise_that_is_not_there_is_told_before_anything_runs(recordings, tmp_path):
    words = ["mixing.share=0.2", "mixing.noise_share=0.5", "mixing.noise=nowhere"]
    with pytest.raises(UsageError, match=r"mixing\.noise=nowhere"):
        pretrain(recipe("hubert-tiny", recordings, *words), tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()
