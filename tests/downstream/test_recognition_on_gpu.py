"""Recognisers on a pretended GPU: training, emissions, transcripts, alignment and language models as on the CPU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pretend_gpu import CUDA, pretended_gpu, waits_of_passes
from tones import write_tones

from downstream.align import align
from downstream.decode.choice import Choice, Name
from downstream.emissions import Emissions
from downstream.finetune import finetune
from downstream.finetune_recipe import FinetuneRecipe, SpecMaskRecipe
from downstream.heads.recipe import HeadRecipe
from downstream.lm.character_model import CharacterShape, CharacterTraining, train_characters
from downstream.recogniser import compute_emissions, load_recogniser
from downstream.transcribe import Settings, transcribe
from upstream.audio import Manifest
from upstream.model import Encoder, EncoderConfig
from upstream.training.loop import TrainingRecipe
from upstream.training.optimiser import OptimiserRecipe

SHAPE = EncoderConfig(frontend="fbank", width=32, layers=2, heads=2, ffn=64, pre_norm=True, positional_kernel=15,
                      positional_groups=2)
TRAINING = TrainingRecipe(updates=4, batch_seconds=4, micro_batch_seconds=2, log_every=2, validate_every=2,
                          save_every=4, optimiser=OptimiserRecipe(peak_rate=1e-3, warmup_updates=1))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"), [1 + i % 3 for i in range(8)], dev=2)  # padded in batches


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """Folders of the same training on both devices, and what waited for the GPU in each forward and backward pass."""
    out = tmp_path_factory.mktemp("out")
    recipe = FinetuneRecipe(data=str(corpus / "train.arrow"), dev=str(corpus / "dev.arrow"), architecture=SHAPE,
                            mask=SpecMaskRecipe(0.5, 5, 0.5, 8), training=TRAINING, speeds=(0.9, 1.1))

    with pretended_gpu() as waits, waits_of_passes() as waited:
        finetune(recipe, out / "gpu", lambda line: None)
    finetune(recipe, out / "cpu", lambda line: None)
    return SimpleNamespace(gpu=out / "gpu", cpu=out / "cpu", waited=waited, waits=waits)


def test_training_on_a_gpu_learns_what_the_cpu_learns(trained):
    here, there = load_recogniser(trained.cpu)[0].state_dict(), load_recogniser(trained.gpu)[0].state_dict()
    for name, weight in here.items():
        torch.testing.assert_close(there[name], weight, rtol=0, atol=0.02, msg=f"{name} differs")


def test_training_does_not_wait_for_the_gpu(trained):
    assert len(trained.waited) >= 4
    assert trained.waited[1:] == [{}] * (len(trained.waited) - 1)  # the first makes tables that the others use
    assert not [where for _, where in trained.waits if "_batch" in where or "pad(" in where]  # nor does the reading


@pytest.mark.parametrize(("frozen", "layers"), [(True, "mix"), (False, [0, 1])], ids=["frozen", "learns"])
def test_lstms_over_layers_learn_on_a_gpu_what_they_learn_on_the_cpu_and_do_not_wait(corpus, frozen, layers, tmp_path):
    """With the first updates of a frozen encoder, where that learns later; heard in batches, and as a long recording
    is."""
    Encoder(SHAPE).initialise(0).save(tmp_path / "encoder")
    recipe = FinetuneRecipe(
        data=str(corpus / "train.arrow"), dev=str(corpus / "dev.arrow"), encoder=str(tmp_path / "encoder"),
        mask=SpecMaskRecipe(0.5, 5, 0.5, 8), training=TRAINING, frozen=frozen, freeze_updates=2,
        head=HeadRecipe(kind="bilstm", layers=layers, layer_norm=True, projection=6, width=8, dropout=0))
    with pretended_gpu(), waits_of_passes() as waited:
        finetune(recipe, tmp_path / "gpu", lambda line: None)
    finetune(recipe, tmp_path / "cpu", lambda line: None)
    assert waited[1:] == [{}] * (len(waited) - 1)
    (here, _), (there, _) = (load_recogniser(tmp_path / name) for name in ("cpu", "gpu"))
    for name, weight in here.over_encoder().items():
        torch.testing.assert_close(there.over_encoder()[name], weight, rtol=0, atol=0.01, msg=f"{name} differs")
    wave = torch.sin(torch.arange(9000) / 9)
    with torch.no_grad():
        alone = here(wave[None], None)[0]
        with pretended_gpu():
            there = here.to(CUDA)
            found = [there(wave[None].to(CUDA), None)[0].cpu(), there.of_long(wave.to(CUDA)).cpu()]
    for one in found:
        torch.testing.assert_close(one, alone, rtol=0, atol=1e-4)


def test_emissions_transcripts_and_alignments_are_those_of_the_cpu(trained, corpus, tmp_path):
    dev, words = Manifest.load(corpus / "dev.arrow"), tmp_path / "words.txt"
    words.write_text("ABC\nCAB\nBBA\nA\nB\nC\n")

    def everything(device):
        model, vocabulary = load_recogniser(trained.cpu)
        compute_emissions(trained.cpu, dev, tmp_path / device.type, device)
        aligned = dict(align(model.to(device), vocabulary, dev, device))
        choice = Choice(name=Name.batched, lexicon=words, device=device.type)
        [(_, transcript)] = transcribe(trained.cpu, [corpus / "u01.wav"], Settings(choice))
        found = Emissions.load(tmp_path / device.type)
        return [found.logprobs(i) for i in dev.ids], aligned, transcript.text

    here = everything(torch.device("cpu"))
    with pretended_gpu():
        there = everything(CUDA)
    for a, b in zip(here[0], there[0], strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=0.01)
    assert here[1] == there[1]
    assert here[2] == there[2]


def test_a_character_model_learns_on_a_gpu_what_it_learns_on_the_cpu():
    def scores(device):
        model, losses = train_characters(["A CAB", "ABC CAB", "B"], CharacterShape(8, 1, 0),
                                         CharacterTraining(3, 32), device)
        return losses + model.scores(["ABC", "CAB A"])

    with pretended_gpu():
        there = scores("cuda")
    np.testing.assert_allclose(there, scores("cpu"), rtol=1e-4)
