"""wav2vec 2.0 as a task: HuBERT's crops and masks, keyed negatives, noise that depends on the update alone."""

import numpy as np
import pytest
import torch
from small_rounds import write_recordings

from upstream.audio import import_folder
from upstream.contrastive_task import ContrastiveTask
from upstream.model import Encoder, EncoderConfig, MaskedPrediction, SpanMask
from upstream.model.contrastive import ContrastivePrediction
from upstream.model.quantiser import GumbelSchedule
from upstream.pretrain_crops import CropReader
from upstream.pretrain_task import PretrainTask
from upstream.teacher.units import Units, UnitsWriter
from upstream.training.gradient import accumulate
from upstream.training.loop import Pool, TrainingRecipe

CONFIG = EncoderConfig(conv_dim=16, width=32, layers=2, heads=2, ffn=64, pre_norm=True, conv_norm="layer",
                       positional_kernel=15, positional_groups=2, dropout=0.1, attention_dropout=0, input_dropout=0,
                       layerdrop=0, feature_grad_mult=1.0)
RECIPE = TrainingRecipe(updates=4, batch_seconds=8, micro_batch_seconds=4, crop_seconds=1, least_seconds=0.5,
                        precision="float32")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return import_folder(write_recordings(tmp_path_factory.mktemp("audio"), 6))


def crops(manifest, seed=0, config=CONFIG):
    return CropReader(manifest, np.arange(4), np.arange(4, 6), config, RECIPE, SpanMask(0.5, 5), seed)


def task(manifest, seed=0, gumbel=GumbelSchedule(), config=CONFIG):  # noqa: B008 - frozen
    model = ContrastivePrediction(Encoder(config), groups=2, entries=8, code_dim=16, final_dim=16,
                                  feature_penalty=0).initialise(0)
    return ContrastiveTask(model, crops(manifest, seed, config), negatives=20, gumbel=gumbel, device=CPU,
                           precision=RECIPE.precision)


def test_it_hears_what_masked_prediction_hears(manifest, tmp_path):
    with UnitsWriter(tmp_path / "units", (3,), {}) as writer:
        for utterance in manifest:
            writer.add(utterance.id, np.zeros(CONFIG.grid.frames(utterance.length), np.uint16))
    model = MaskedPrediction(Encoder(CONFIG), (3,)).initialise(0)
    hubert = PretrainTask(model, crops(manifest), Units.load(tmp_path / "units"), device=CPU,
                          precision=RECIPE.precision)
    for _, ours, theirs in zip(range(4), task(manifest).updates(1), hubert.updates(1)):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a.waveforms, b.waveforms)
            assert torch.equal(a.mask, b.mask)
            assert (a.weight, a.seconds, a.ids) == (b.weight, b.seconds, b.ids)


def test_batches_are_a_function_of_the_seed_and_the_update(manifest):
    straight = task(manifest).updates(1)
    for _ in range(4):
        next(straight)
    fifth, again, other = next(straight), next(task(manifest).updates(5)), next(task(manifest, seed=1).updates(5))
    for a, b in zip(fifth, again, strict=True):
        assert torch.equal(a.waveforms, b.waveforms)
        assert torch.equal(a.negatives, b.negatives)
    assert [b.negatives.tolist() for b in fifth] != [b.negatives.tolist() for b in other]
    [share] = next(task(manifest).updates(5, slice(1, 2)))
    assert torch.equal(share.negatives, fifth[1].negatives)


def test_an_utterances_negatives_do_not_depend_on_its_batch(manifest):
    """A row's negatives, told by their place within the row, are those that its generator gives it alone."""
    found = task(manifest)
    [batch] = next(found.updates(1, slice(0, 1)))
    crops = next(found._crops.updates(1, slice(0, 1)))[0]
    masked = int(batch.mask[0].sum())
    for row, rng in enumerate(found._crops.generators(crops, "negatives")):
        drawn = rng.integers(0, masked - 1, (masked, 20))
        drawn += drawn >= np.arange(masked)[:, None]
        assert np.array_equal(batch.negatives[row * masked:(row + 1) * masked] - row * masked, drawn)


def test_dropout_and_noise_depend_on_the_seed_and_the_batch_alone(manifest):
    def gradient(before):
        found = task(manifest)
        torch.rand(before)  # what was drawn earlier
        assert accumulate(found, next(found.updates(3)), RECIPE, 0, CPU, Pool())
        return found.model.quantizer.weight_proj.weight.grad

    assert torch.equal(gradient(0), gradient(17))


def test_the_noise_cools_with_the_update(manifest):
    found = task(manifest, gumbel=GumbelSchedule(4.0, 1.0, 0.5))
    seen = []
    found.model.quantizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    for _, batches in zip(range(4), found.updates(1)):
        found.loss(batches[0])
    assert seen == [4.0, 2.0, 1.0, 1.0]
    seen.clear()
    found.loss(next(found.updates(2))[0])  # as a run that starts there would
    assert seen == [2.0]


def test_validation_gives_the_same_numbers_each_time(manifest):
    found = task(manifest)
    first = found.validate()
    found.model.train()
    assert found.validate() == first
    assert set(first) == {"loss", "contrastive_accuracy", "code_perplexity", "diversity"}
    assert 2 <= first["code_perplexity"] <= 16
    assert first["loss"] == pytest.approx(np.log(21), rel=0.5)


def test_the_loss_falls(manifest):
    torch.manual_seed(0)
    found = task(manifest)
    optimiser = torch.optim.AdamW(found.model.parameters(), 2e-3)
    losses = []
    for _, batches in zip(range(120), found.updates(1)):
        optimiser.zero_grad()
        loss = found.loss(batches[0])
        loss.total.backward()
        optimiser.step()
        losses.append(float(loss.total.detach()))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.2  # chance, ln 21 = 3.04, is left behind
