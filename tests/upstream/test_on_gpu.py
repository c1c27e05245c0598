"""Pretraining and teachers on a pretended GPU: what they compute is what the CPU computes, and no step waits for it."""

import pytest
import torch
from pretend_gpu import CUDA, pretended_gpu, waits_of_passes
from small_rounds import ENCODER, TEACHERS, TRAINING, write_recordings

from upstream.audio import import_folder
from upstream.audio.caching import AudioCache
from upstream.device import best_device
from upstream.features.source import LayerSource
from upstream.model import Encoder, EncoderConfig, load_encoder
from upstream.pretrain import pretrain
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe
from upstream.recipe import load_recipe
from upstream.teacher.sweep import sweep
from upstream.teacher.teacher import Teacher

TINY = [*ENCODER, *TRAINING, "training.micro_batch_seconds=2", "training.updates=2"]
CONV = ["encoder.frontend=conv", "encoder.conv_dim=16", "encoder.conv_norm=group"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"), 8, longer=800)


def trained(corpus, out, *words):
    recipe = load_recipe(PretrainRecipe, words[0], [*TINY, f"data={corpus}", *words[1:]], SHIPPED)
    return [load_encoder(result.encoder).state_dict() for result in pretrain(recipe, out, lambda line: None)]


@pytest.mark.parametrize("words", [
    pytest.param(("hubert-tiny", *TEACHERS), marks=pytest.mark.slow), ("hubert-tiny", *TEACHERS, *CONV),
    ("hubert-tiny-light", *TEACHERS), ("wav2vec2-tiny",),
    ("hubert-tiny", *TEACHERS, "encoder.family=wavlm", "encoder.relative_buckets=8", *CONV),
], ids=lambda words: "-".join(words[:1] + words[5:6]))
def test_pretraining_on_a_gpu_does_not_wait_and_learns_what_the_cpu_learns(words, corpus, tmp_path):
    with pretended_gpu(), waits_of_passes() as waited:
        there = trained(corpus, tmp_path / "gpu", *words)
    assert len(waited) >= 4
    assert waited[1:] == [{}] * (len(waited) - 1)  # the first makes tables that the others use
    here = trained(corpus, tmp_path / "cpu", *words)
    assert len(here) == len(there)
    for name, weight in here[0].items():
        torch.testing.assert_close(there[0][name], weight, rtol=0, atol=0.02, msg=f"{name} differs")


def test_teachers_fitted_on_a_gpu_are_those_of_the_cpu(corpus, monkeypatch):
    monkeypatch.setattr("upstream.teacher.teacher.default_engine", lambda device: "torch")
    manifest = import_folder(corpus)
    encoder = Encoder(EncoderConfig(frontend="fbank", width=16, layers=2, heads=2, ffn=32)).initialise(0).eval()

    def fitted(device):
        source = LayerSource(encoder, 1, device)
        return Teacher.fit(source, manifest, 8, seed=0, read=AudioCache(manifest).wave)

    with pretended_gpu():
        there = fitted(best_device())
        encoder.cpu()
    here = fitted(torch.device("cpu"))
    torch.testing.assert_close(there.quantiser.codebooks[0].cpu(), here.quantiser.codebooks[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cmn", [False, True])
def test_a_sweep_runs_on_a_gpu(cmn, corpus):
    manifest = import_folder(corpus)
    encoder = Encoder(EncoderConfig(frontend="fbank", width=16, layers=2, heads=2, ffn=32)).initialise(0).eval()
    with pretended_gpu():
        found = sweep(encoder.to(CUDA), manifest, [4], read=AudioCache(manifest).wave, device=CUDA, cmn=cmn)
        assert encoder.feature_projection.projection.weight.device == CUDA  # where it was
    assert len(found.rows) == 3
    assert found.teacher.features.get("cmn", False) is cmn
