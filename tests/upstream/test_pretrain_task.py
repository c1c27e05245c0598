"""Masked prediction as a task: labels belong to their frames, masks and crops are keyed, validation stays put."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from upstream.audio import AudioCache, import_folder
from upstream.audio.mixing import Mixing
from upstream.errors import InputError
from upstream.model import Encoder, EncoderConfig, MaskedPrediction, SpanMask, prepared
from upstream.pretrain_crops import CropReader
from upstream.pretrain_task import PretrainTask
from upstream.teacher.units import Units, UnitsWriter
from upstream.training.gradient import accumulate
from upstream.training.loop import Pool, TrainingRecipe

CONFIG = EncoderConfig(frontend="fbank", width=32, layers=2, heads=2, ffn=64, pre_norm=True, positional_kernel=15,
                       positional_groups=2, dropout=0, attention_dropout=0, input_dropout=0, layerdrop=0)
RECIPE = TrainingRecipe(updates=4, batch_seconds=8, micro_batch_seconds=4, crop_seconds=1, least_seconds=0.5,
                        precision="float32")
CLASSES = 1000
CPU = torch.device("cpu")


@pytest.fixture
def corpus(tmp_path):
    """Six recordings whose sample n holds n / 2**15 as long as that fits, and units that number the frames."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for i in range(6):
        wave = (np.arange(20_000 + 3_000 * i) // 320).astype(np.int16)  # each hop of 320 samples holds its own number
        soundfile.write(folder / f"u{i}.wav", wave, 16_000)
    manifest = import_folder(folder)
    with UnitsWriter(tmp_path / "units", (CLASSES,), {}) as writer:
        for utterance in manifest:
            writer.add(utterance.id, np.arange(CONFIG.grid.frames(utterance.length), dtype=np.uint16))
    return manifest, Units.load(tmp_path / "units")


def task(corpus, config=CONFIG, recipe=RECIPE, seed=0, mixing=None, **objective):
    manifest, units = corpus
    model = MaskedPrediction(Encoder(config), (CLASSES,), head="linear", **objective).initialise(0)
    crops = CropReader(manifest, np.arange(4), np.arange(4, 6), config, recipe, SpanMask(0.5, 5), seed, mixing)
    return PretrainTask(model, crops, units, device=CPU, precision=recipe.precision)


@pytest.mark.parametrize("frontend", ["fbank", "conv"])
def test_label_i_of_a_crop_is_the_label_of_frame_i(corpus, frontend):
    config = dataclasses.replace(CONFIG, frontend=frontend)
    stream = task(corpus, config).updates(1)
    for _ in range(3):
        for batch in next(stream):
            frames = batch.labels.shape[1]
            assert batch.waveforms.shape[1] == config.grid.samples(frames)
            first = (batch.waveforms[:, ::320][:, :frames] * 2**15).round().long()
            assert torch.equal(first, batch.labels[:, :, 0])


@pytest.mark.parametrize("frontend", ["fbank", "light"])
def test_frames_of_40_ms_take_every_second_label(corpus, frontend):
    """The label is the number of the hop of 20 ms at which a frame starts, which its samples hold as well."""
    config = dataclasses.replace(CONFIG, frontend=frontend, stride_ms=40, conv_dim=16)
    made = task(corpus, config)
    stream = made.updates(1)
    for _ in range(3):
        for batch in next(stream):
            frames = batch.labels.shape[1]
            assert batch.waveforms.shape[1] == config.grid.samples(frames)
            first = (batch.waveforms[:, ::640][:, :frames] * 2**15).round().long()
            assert torch.equal(first, batch.labels[:, :, 0])
            loss = made.loss(batch).total
            assert torch.isfinite(loss)
            loss.backward()
    learnt = list(made.model.encoder.feature_extractor.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learnt)


def test_every_row_hides_the_same_number_of_frames_and_the_weight_counts_them(corpus):
    for batch in next(task(corpus).updates(1)):
        hidden = batch.mask.sum(1)
        assert (hidden == hidden[0]).all()
        assert batch.weight == float(hidden.sum())
        assert batch.weight > 0


def test_frames_that_are_not_hidden_count_in_the_weight_where_they_teach(corpus):
    for batch in next(task(corpus, unmasked_weight=0.5).updates(1)):
        assert batch.weight == batch.mask.numel()
    for batch in next(task(corpus, unmasked_weight=0.5, masked_weight=0).updates(1)):
        assert batch.weight == (~batch.mask).sum()


def test_mixing_changes_training_waveforms_only(corpus):
    """Labels and masks stay those of the main speaker, and a validation is never mixed."""
    plain, mixed = task(corpus), task(corpus, mixing=Mixing(share=1.0))
    for a, b in zip(next(plain.updates(1)), next(mixed.updates(1)), strict=True):
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.mask, b.mask)
        changed = (a.waveforms != b.waveforms).float().mean(dim=1)
        assert (changed < 0.5).all()
        assert changed.sum() > 0
    assert plain.validate() == mixed.validate()


def test_batches_are_a_function_of_the_seed_and_the_update(corpus):
    straight = task(corpus).updates(1)
    for _ in range(4):
        next(straight)
    fifth, again, other = next(straight), next(task(corpus).updates(5)), next(task(corpus, seed=1).updates(5))
    for a, b in zip(fifth, again, strict=True):
        assert torch.equal(a.waveforms, b.waveforms)
        assert torch.equal(a.mask, b.mask)
    assert [b.mask.tolist() for b in fifth] != [b.mask.tolist() for b in other]


def test_a_crop_that_comes_again_in_an_update_is_hidden_elsewhere(corpus):
    """An update of 24 s hears the four recordings three times, the shortest from its start each time."""
    recipe = dataclasses.replace(RECIPE, batch_seconds=24, micro_batch_seconds=8, crop_seconds=4)
    masks = {}
    for crops in next(task(corpus, recipe=recipe)._crops.updates(1)):
        for utterance, start, mask in zip(crops.ids, crops.starts.tolist(), crops.mask):
            masks.setdefault((utterance, start), []).append(mask.tobytes())
    assert max(map(len, masks.values())) == 3
    assert all(len(set(drawn)) == len(drawn) for drawn in masks.values())


def test_a_recording_is_hidden_elsewhere_in_every_update_and_under_every_seed(corpus):
    """Crops as long as their recordings begin at their beginning, whenever they come."""
    recipe = dataclasses.replace(RECIPE, crop_seconds=4, micro_batch_seconds=4)
    masks = {}
    for seed in (0, 1):
        for updates, _ in zip(task(corpus, recipe=recipe, seed=seed)._crops.updates(1), range(8)):
            for crops in updates:
                for utterance, start, mask in zip(crops.ids, crops.starts.tolist(), crops.mask):
                    masks.setdefault((utterance, start, len(mask)), []).append(mask.tobytes())
    assert max(map(len, masks.values())) > 2
    assert all(len(set(drawn)) == len(drawn) for drawn in masks.values())


def test_a_crop_is_standardised_with_its_whole_recording(corpus):
    """As in fairseq, and as a recogniser hears it: a quiet passage of a loud recording stays quiet."""
    config = dataclasses.replace(CONFIG, frontend="conv", normalize=True)
    audio, cut = AudioCache(corpus[0]), 0
    for crops in next(task(corpus, config)._crops.updates(1)):
        for index, start, row in zip(crops.indices.tolist(), crops.starts.tolist(), crops.waveforms):
            whole = prepared(audio.wave(index), config)
            np.testing.assert_array_equal(row, whole[config.grid.crop_start(start):][:len(row)])
            cut += len(row) < len(whole)
    assert cut


def test_validation_gives_the_same_numbers_each_time_and_hears_held_out_recordings_only(corpus, monkeypatch):
    heard = []
    part = AudioCache.part
    monkeypatch.setattr(AudioCache, "part", lambda cache, index, *of: heard.append(index) or part(cache, index, *of))
    found = task(corpus)
    first = found.validate()
    assert set(heard) == {4, 5}  # the held-out ones, all of them
    heard.clear()
    next(found.updates(1))
    assert heard
    assert set(heard) <= {0, 1, 2, 3}
    assert found.validate() == first
    assert first["loss"] == pytest.approx(np.log(CLASSES), rel=0.2)


def test_validation_is_without_dropout(corpus):
    found = task(corpus, dataclasses.replace(CONFIG, dropout=0.5, layerdrop=0.5))
    found.model.train()
    first = found.validate()
    found.model.train()
    assert found.validate() == first


@pytest.mark.parametrize(("together", "batches"), [(2.0, 2), (9999.0, 1)])
def test_validation_hears_no_less_with_large_micro_batches(corpus, monkeypatch, together, batches):
    """Rows are cut to the shortest of their batch: of two recordings one batch hears less than two."""
    monkeypatch.setattr("upstream.pretrain_crops.VALIDATION_BATCH_SECONDS", together)
    recipe = dataclasses.replace(RECIPE, batch_seconds=2000, micro_batch_seconds=2000, crop_seconds=2)
    lengths = [crops.mask.shape for crops in task(corpus, recipe=recipe)._crops.validation()]
    assert len(lengths) == batches


@pytest.mark.parametrize(("seconds", "batches"), [(0.5, 1), (1.5, 2), (600, 4)])
def test_a_validation_ends_after_so_many_seconds(corpus, monkeypatch, seconds, batches):
    monkeypatch.setattr("upstream.pretrain_crops.VALIDATION_BATCH_SECONDS", 1.0)
    monkeypatch.setattr("upstream.pretrain_crops.VALIDATION_SECONDS", seconds)
    recipe = dataclasses.replace(RECIPE, batch_seconds=1, micro_batch_seconds=1)
    assert len(list(task(corpus, recipe=recipe)._crops.validation())) == batches


def test_a_validation_tells_what_chance_would_lose_and_how_many_classes_are_predicted(corpus, tmp_path):
    """Labels 0, 0, 0, 1 in turn: knowing that and no more costs (3/4) ln(4/3) + (1/4) ln 4 = 0.562335 nats a frame.

    Logits that are all 0 predict the first of four classes.
    """
    manifest, _ = corpus
    with UnitsWriter(tmp_path / "quarters", (4,), {}) as writer:
        for utterance in manifest:
            frames = np.arange(CONFIG.grid.frames(utterance.length))
            writer.add(utterance.id, (frames % 4 == 3).astype(np.uint16))
    model = MaskedPrediction(Encoder(CONFIG), (4,), head="linear").initialise(0)
    torch.nn.init.zeros_(model.tables[0].weight), torch.nn.init.zeros_(model.tables[0].bias)
    crops = CropReader(manifest, np.arange(4), np.arange(4, 6), CONFIG, RECIPE, SpanMask(0.5, 4), seed=0)
    quarters = Units.load(tmp_path / "quarters")
    found = PretrainTask(model, crops, quarters, device=CPU, precision=RECIPE.precision).validate()
    assert found["code_perplexity"] == pytest.approx(1)
    assert found["loss"] == pytest.approx(np.log(4))
    assert found["label_entropy"] == pytest.approx(0.562335, abs=0.05)  # masks do not cover the four quite alike


def test_each_stream_has_labels_of_its_own_and_all_count_alike(corpus, tmp_path):
    """Of two streams whose logits are all 0 the second, three quarters zeros, is right there and the first nowhere."""
    manifest, units = corpus
    with UnitsWriter(tmp_path / "two", (CLASSES, 4), {}) as writer:
        for utterance in manifest:
            frames = units.labels(utterance.id)
            writer.add(utterance.id, frames, (frames % 4 == 3).astype(np.uint16))
    model = MaskedPrediction(Encoder(CONFIG), (CLASSES, 4), head="linear", unmasked_weight=1.0).initialise(0)
    crops = CropReader(manifest, np.arange(4), np.arange(4, 6), CONFIG, RECIPE, SpanMask(0.5, 4), seed=0)
    found = PretrainTask(model, crops, Units.load(tmp_path / "two"), device=CPU, precision=RECIPE.precision)
    for table in model.tables:
        torch.nn.init.zeros_(table.weight), torch.nn.init.zeros_(table.bias)
    for batch in next(found.updates(1)):
        assert torch.equal(batch.labels[..., 1], (batch.labels[..., 0] % 4 == 3).long())
        assert batch.labels[..., 0].max() > 4
        total, count = found.loss(batch).sums["unmasked_accuracy"]
        assert float(total / count) == pytest.approx(0.375, abs=0.06)
    values = found.validate()
    for name in ("loss", "unmasked_loss"):
        assert values[name] == pytest.approx(np.log(CLASSES) + np.log(4), rel=1e-5)
    for name in ("masked_accuracy", "unmasked_accuracy"):
        assert values[name] == pytest.approx(0.375, abs=0.06)  # of 0 and about 3/4
    assert values["code_perplexity"] == pytest.approx(1)
    masked = torch.cat([b.labels[b.mask] for b in found._valid_batches])
    shares = [torch.bincount(labels).double() / len(masked) for labels in masked.unbind(1)]
    assert values["label_entropy"] == pytest.approx(sum(float(torch.special.entr(s).sum()) for s in shares))


def test_a_training_on_unmasked_frames_alone_is_judged_by_them(corpus):
    """`masked_weight=0`, the paper's alpha: the loss of masked frames, which nothing trains, was logged and judged."""
    found = task(corpus, masked_weight=0.0, unmasked_weight=1.0)
    batch = next(found.updates(1))[0]
    loss = found.loss(batch)
    total, count = loss.sums["loss"]
    assert float(total / count) == pytest.approx(float(loss.total.detach()))
    assert count == int((~batch.mask).sum())
    heard = torch.cat([b.labels[~b.mask] for b in found._valid_batches])[:, 0]
    shares = torch.bincount(heard) / len(heard)
    assert found.validate()["label_entropy"] == pytest.approx(float(torch.special.entr(shares).sum()))

    both = task(corpus, unmasked_weight=1.0)
    sums = {name: float(value / count) for name, (value, count) in both.loss(batch).sums.items()}
    assert sums["unmasked_loss"] == pytest.approx(float(total / count)), "beside that of the masked ones"
    assert sums.keys() == {"loss", "masked_accuracy", "unmasked_loss", "unmasked_accuracy"}
    assert task(corpus).loss(batch).sums.keys() == {"loss", "masked_accuracy"}


def test_the_loss_falls(corpus):
    found = task(corpus)
    optimiser = torch.optim.AdamW(found.model.parameters(), 3e-3)
    losses = []
    for _, batches in zip(range(25), found.updates(1)):
        optimiser.zero_grad()
        loss = found.loss(batches[0])
        loss.total.backward()
        optimiser.step()
        losses.append(float(loss.total.detach()))
    assert np.mean(losses[-5:]) < losses[0] - 0.5


def test_units_of_other_recordings_stop_with_the_utterance(corpus, tmp_path):
    manifest, _ = corpus
    with UnitsWriter(tmp_path / "short", (CLASSES,), {}) as writer:
        for utterance in manifest:
            writer.add(utterance.id, np.arange(7, dtype=np.uint16))
    with pytest.raises(InputError, match=r"u\d: \d+ labels"):
        task((manifest, Units.load(tmp_path / "short"))).validate()


def test_an_update_has_the_gradient_of_the_mean_over_its_hidden_frames_in_any_order(corpus):
    found = task(corpus)
    batches = next(found.updates(1))
    assert len(batches) == 2
    rows = len(batches[1].mask) // 2  # fewer rows, so that the weights differ
    mask = batches[1].mask[:rows]
    batches[1] = dataclasses.replace(batches[1], waveforms=batches[1].waveforms[:rows], mask=mask,
                                     labels=batches[1].labels[:rows], weight=float(mask.sum()))
    weights = [b.weight for b in batches]
    assert weights[1] < 0.7 * weights[0]
    found.model.train()
    mean = sum(w * found.loss(b).total for w, b in zip(weights, batches)) / sum(weights)
    expected = torch.autograd.grad(mean, list(found.model.parameters()), allow_unused=True)
    for order in (batches, batches[::-1]):
        found.model.zero_grad()
        assert accumulate(found, order, RECIPE, 0, CPU, Pool())
        for parameter, gradient in zip(found.model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_recordings_that_a_mask_could_hide_from_end_to_end_are_left_out(tmp_path, capsys):
    """A training died midway wherever the spans happened to hide a short utterance, and again when it went on; a corpus
    without such utterances may say least_seconds=0."""
    for name, seconds in {"short": 0.22, "b": 1.0, "c": 1.5}.items():
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(int(16_000 * seconds)), 16_000)
    manifest, mask = import_folder(tmp_path), SpanMask(0.8, 10)
    everything = np.arange(3)
    for least in (0.0, 0.2, 0.9):
        recipe = dataclasses.replace(RECIPE, least_seconds=least)
        reader = CropReader(manifest, everything, everything, CONFIG, recipe, mask, seed=0)
        crops = [c for micro, _ in zip(reader.updates(1), range(30)) for c in micro]
        assert {u for c in crops for u in c.ids} == {"b", "c"}
        assert not any(c.mask.all(-1).any() for c in crops)
        assert f"1 of 3 recordings are under {max(least, 0.275):g} s and left out" in capsys.readouterr().err


@pytest.mark.parametrize("grid", [{}, {"stride_ms": 40}, {"frontend": "conv"}])
def test_held_out_recordings_that_are_just_as_long_as_asked_are_validated_on(tmp_path, capsys, grid):
    """Bug: of recordings of a second each, as spoken commands are, and frames of 40 ms, of which the 25th of a second
    ends in zeros, none was called long enough to validate on, while others of the same length were trained on."""
    for name in "abcd":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(16_000), 16_000)
    recipe, config = dataclasses.replace(RECIPE, least_seconds=1.0), dataclasses.replace(CONFIG, **grid)
    reader = CropReader(import_folder(tmp_path), np.arange(2), np.arange(2, 4), config, recipe, SpanMask(0.5, 5), 0)
    assert [sorted(crops.ids) for crops in reader.validation()] == [["c", "d"]]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("grid", [{}, {"stride_ms": 40}, {"frontend": "conv"}])
def test_labels_move_with_what_is_said_at_other_speeds(corpus, grid):
    """The recordings rise by one each hop, and so do their labels: in the middle of a frame both are the same."""
    config = dataclasses.replace(CONFIG, **grid)
    manifest, units = corpus
    model = MaskedPrediction(Encoder(config), (CLASSES,), head="linear").initialise(0)
    reader = CropReader(manifest, np.arange(6), np.arange(4, 6), config, RECIPE, SpanMask(0.5, 5), seed=0,
                        speeds=(0.8, 1.0, 1.25))
    found = PretrainTask(model, reader, units, device=CPU, precision=RECIPE.precision)
    heard = set()
    for micro, crops, _ in zip(found.updates(1), reader.updates(1), range(12)):
        for batch, crop in zip(micro, crops):
            heard.add(crop.speed)
            frames, hop = batch.labels.shape[1], config.grid.hop
            assert batch.waveforms.shape[1] == config.grid.samples(frames)
            middles = batch.waveforms[:, 160:: hop][:, :frames] * 2**15  # of the label's 20 ms
            assert (batch.labels[:, 2:-2, 0] - middles[:, 2:-2]).abs().max() < 1.1  # a resampler rings at steps
            slope = (batch.labels[:, -1, 0] - batch.labels[:, 0, 0]) / (frames - 1) / (hop / 320)
            np.testing.assert_allclose(slope, crop.speed, atol=1.1 / (frames - 1))
    assert heard == {0.8, 1.0, 1.25}


def test_recordings_that_are_no_longer_than_their_crops_are_played_fast_as_often_as_slowly(corpus):
    """Found in review: with a speed for each crop only slow ones fitted, and training heard all speech drawn out."""
    manifest, _ = corpus
    recipe = dataclasses.replace(RECIPE, batch_seconds=5, crop_seconds=5, micro_batch_seconds=5)
    speeds, everything = (0.8, 1.0, 1.25), np.arange(6)
    reader = CropReader(manifest, everything, everything, CONFIG, recipe, SpanMask(0.5, 5), seed=0, speeds=speeds)
    crops = [c for micro, _ in zip(reader.updates(1), range(100)) for c in micro]
    counts = [sum(c.speed == speed for c in crops) for speed in speeds]
    assert min(counts) > len(crops) / 5
    for c in crops:
        needed = (c.waveforms.shape[1] - CONFIG.grid.padding) * c.speed  # zeros behind a recording are its front end's
        assert (c.firsts + needed <= manifest.lengths[c.indices]).all()
        assert c.mask.shape[1] == CONFIG.grid.frames(c.waveforms.shape[1])
    assert all(c.speed == 1 for c in reader.validation())


def test_a_speed_is_that_of_the_micro_batch_whoever_reads_it(corpus):
    manifest, _ = corpus
    readers = [CropReader(manifest, np.arange(6), np.arange(6), CONFIG, RECIPE, SpanMask(0.5, 5), seed=0,
                          speeds=(0.8, 1.0, 1.25)) for _ in range(2)]
    whole = [micro for micro, _ in zip(readers[0].updates(1), range(6))]
    later = [micro for micro, _ in zip(readers[1].updates(4, slice(1, None, 2)), range(3))]
    for one, other in zip(whole[3:], later):
        assert [c.speed for c in one[1::2]] == [c.speed for c in other]
        assert all((a.waveforms == b.waveforms).all() for a, b in zip(one[1::2], other))


def test_speeds_are_heard_where_crops_are_shorter_than_the_shortest_recording(corpus):
    """`least_seconds` above `crop_seconds` is legal, and no crop had as many frames at any speed but 1."""
    manifest, _ = corpus
    recipe = dataclasses.replace(RECIPE, least_seconds=1.1)
    reader = CropReader(manifest, np.arange(6), np.arange(6), CONFIG, recipe, SpanMask(0.5, 5), seed=0,
                        speeds=(0.8, 1.0, 1.25))
    crops = [c for micro, _ in zip(reader.updates(1), range(30)) for c in micro]
    assert {c.speed for c in crops} == {0.8, 1.0, 1.25}
    assert {c.mask.shape[1] for c in crops} == {CONFIG.grid.frames(16_000)}


@pytest.mark.parametrize("grid", [{}, {"stride_ms": 40}, {"frontend": "conv"}])
@pytest.mark.parametrize("seconds", [1.02, 1.025, 1.03])
def test_a_micro_batch_of_one_crop_holds_it_at_every_stride(corpus, grid, seconds):
    """15.625 s are 391 frames of 40 ms and 390.6 hops: a run died of that after teacher and units."""
    config = dataclasses.replace(CONFIG, **grid)
    recipe = dataclasses.replace(RECIPE, crop_seconds=seconds, micro_batch_seconds=seconds, batch_seconds=2 * seconds)
    reader = CropReader(corpus[0], np.arange(6), np.arange(6), config, recipe, SpanMask(0.5, 5), seed=0)
    [one, other] = next(reader.updates(1))
    assert len(one.ids) == len(other.ids) == 1
    assert next(reader.validation()).seconds > 0
    recipe = dataclasses.replace(recipe, micro_batch_seconds=2 * seconds)
    reader = CropReader(corpus[0], np.arange(6), np.arange(6), config, recipe, SpanMask(0.5, 5), seed=0)
    assert [len(crops.ids) for crops in next(reader.updates(1))] == [2], "and one of two crops two"
