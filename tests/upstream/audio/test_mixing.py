"""Utterance mixing: by hand, the energy ratio, less than half of it, and the same whatever the order of the rows."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from upstream.audio import AudioCache, import_folder
from upstream.audio.mixing import Mixing, lay_over, mix
from upstream.errors import RecipeError
from upstream.keyed import keyed
from upstream.model.config import EncoderConfig
from upstream.model.masking import SpanMask
from upstream.pretrain_crops import CropReader
from upstream.training.recipe import TrainingRecipe

ALL = Mixing(share=1.0)


class _Fixed:
    """Stands in for a generator whose integers are known."""

    def __init__(self, *integers: int) -> None:
        self.integers_left = list(integers)

    def integers(self, low: int, high: int | None = None) -> int:
        value = self.integers_left.pop(0)
        assert value < (low if high is None else high)
        return value


def test_by_hand():
    """Main (2, 2, 2, 2, 2, 2), mean square 4; other (1, -1, 1, -1, 1, -1), mean square 1, to be 10 dB below it.

    10 dB is a ratio of 10: the other must have mean square 0.4, so it is scaled by sqrt(4 / (10 * 1)) = 0.632456. Two
    samples of it, from sample 3 on, go over samples 1 and 2.
    """
    main = np.full(6, 2.0, np.float32)
    lay_over(main, np.array([1, -1, 1, -1, 1, -1], np.float32), 10.0, _Fixed(2, 1, 3))
    assert main == pytest.approx([2, 2 - 0.632456, 2 + 0.632456, 2, 2, 2], abs=1e-6)


def rows(count, samples=400, seed=0):
    rng = np.random.default_rng(seed)
    waves = rng.standard_normal((count, samples)) * rng.uniform(0.01, 0.5, (count, 1))
    return waves.astype(np.float32), [f"u{i}" for i in range(count)], [3 * i for i in range(count)]


@given(samples=st.integers(3, 300), decibels=st.floats(-5, 20), other=st.integers(3, 300), seed=st.integers(0, 2**31))
def test_less_than_half_is_covered_at_the_ratio_that_was_asked_for(samples, decibels, other, seed):
    rng = np.random.default_rng(seed)
    main, over = (rng.standard_normal(n).astype(np.float32) * rng.uniform(0.01, 1) for n in (samples, other))
    before = main.copy()
    lay_over(main, over, decibels, keyed(seed, "test"))
    added = main.astype(np.float64) - before
    touched = np.flatnonzero(added)
    assert 1 <= len(touched) < samples / 2
    assert len(touched) == touched[-1] - touched[0] + 1
    scale = (np.mean(before.astype(float)**2) / 10 ** (decibels / 10) / np.mean(over.astype(float)**2)) ** 0.5
    places = [start for start in range(other - len(touched) + 1)
              if np.allclose(scale * over[start:start + len(touched)], added[touched], atol=1e-6)]
    assert places


def test_about_the_share_is_mixed_and_the_others_are_untouched():
    waves, ids, starts = rows(20)
    changed = [(mix(waves, ids, starts, update, Mixing(share=0.2), 0) != waves).any(axis=1) for update in range(100)]
    assert np.mean(changed) == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 2000) ** 0.5)
    assert np.array_equal(mix(waves, ids, starts, 1, Mixing(), 0), waves)


def test_the_batch_that_is_given_is_not_changed_and_partners_are_clean():
    waves, ids, starts = rows(2)
    before = waves.copy()
    mixed = mix(waves, ids, starts, 1, ALL, 0)
    assert np.array_equal(waves, before)
    for row in (0, 1):  # what was added is the other row itself, not the other row's mixture
        added = mixed[row] - waves[row]
        touched = np.flatnonzero(added)
        correlations = [np.corrcoef(added[touched], waves[1 - row, s:s + len(touched)])[0, 1]
                        for s in range(400 - len(touched) + 1)]
        assert max(correlations) == pytest.approx(1, abs=1e-4)


@settings(max_examples=25)
@given(count=st.integers(1, 6), seed=st.integers(0, 2**31), order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_plays_no_part(count, seed, order):
    waves, ids, starts = rows(count)
    place = list(range(count))
    order.shuffle(place)
    straight = mix(waves, ids, starts, 7, ALL, seed)
    shuffled = mix(waves[place], [ids[i] for i in place], [starts[i] for i in place], 7, ALL, seed)
    assert np.array_equal(shuffled, straight[place])


def test_draws_depend_on_the_seed_and_the_update():
    waves, ids, starts = rows(4)
    first = mix(waves, ids, starts, 1, ALL, 0)
    assert np.array_equal(first, mix(waves, ids, starts, 1, ALL, 0))
    assert not np.array_equal(first, mix(waves, ids, starts, 2, ALL, 0))
    assert not np.array_equal(first, mix(waves, ids, starts, 1, ALL, 1))


def test_a_crop_that_comes_again_in_an_update_is_drawn_for_anew():
    """A bug once found: with a corpus smaller than an update, both copies of a crop got the same overlay."""
    waves, ids, starts = rows(4)
    first, second = (mix(waves, ids, starts, 1, ALL, 0, copy=copy) for copy in (0, 1))
    assert all((first != second).any(axis=1))
    assert np.array_equal(first, mix(waves, ids, starts, 1, ALL, 0)), "a first copy is what it was"


def test_copies_of_a_crop_in_an_update_hear_different_mixtures(tmp_path):
    """And a run that is resumed at an update hears there what it would have heard."""
    for i in range(3):
        wave = 0.1 * np.random.default_rng(i).standard_normal(16_000)
        soundfile.write(tmp_path / f"u{i}.wav", wave, 16_000)
    recipe = TrainingRecipe(crop_seconds=1, least_seconds=0.5, micro_batch_seconds=3, batch_seconds=6)
    config = EncoderConfig(frontend="fbank", width=8, layers=1, heads=1, ffn=8, positional_groups=1)

    def update(first, wanted):
        reader = CropReader(import_folder(tmp_path), np.arange(3), np.empty(0, np.int64), config, recipe, SpanMask(), 0,
                            ALL)
        return next(crops for crops in reader.updates(first) if crops[0].update == wanted)

    one, two = update(1, 2)
    assert (one.copy, two.copy) == (0, 1)
    assert sorted(one.ids) == sorted(two.ids)
    again = dict(zip(two.ids, two.waveforms))
    assert all((wave != again[name]).any() for name, wave in zip(one.ids, one.waveforms))
    assert all(np.array_equal(a.waveforms, b.waveforms) for a, b in zip((one, two), update(2, 2)))


def test_a_row_alone_and_silence_are_left_as_they_are():
    waves, ids, starts = rows(1)
    assert np.array_equal(mix(waves, ids, starts, 1, ALL, 0), waves)
    silence = np.zeros((3, 400), np.float32)
    assert np.array_equal(mix(silence, ["a", "b", "c"], [0, 0, 0], 1, ALL, 0), silence)


def test_a_voice_is_laid_over_at_minus_5_to_5_db():
    waves, levels = np.stack([np.full(400, level, np.float32) for level in (0.5, 0.25)]), []
    for update in range(100):
        for main, row in zip(waves, mix(waves, ["a", "b"], [0, 0], update, ALL, 0) - waves):
            levels.append(20 * np.log10(main[0] / np.abs(row).max()))
    assert -5.01 < min(levels) < -4.5
    assert 4.5 < max(levels) < 5.01


@pytest.mark.parametrize("length", [90, 20_000])
def test_noise_comes_from_the_recordings_of_noise(tmp_path, length):
    """Recordings of noise are constant here, so whatever is added is constant too, at -5 to 20 dB."""
    for name, level in (("hum", 0.5), ("hiss", -0.25)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(length, level), 16_000)
    waves, ids, starts = rows(40)
    mixing = Mixing(share=1.0, noise_share=1.0, noise=str(tmp_path))
    added = mix(waves, ids, starts, 1, mixing, 0, AudioCache(import_folder(tmp_path))) - waves
    levels = []
    for main, row in zip(waves, added):
        touched = row[np.abs(row) > 1e-7]
        assert 1 <= len(touched) <= min(199, length)
        assert touched == pytest.approx(touched[0], rel=1e-3, abs=1e-6)
        levels.append(10 * np.log10(np.mean(main**2) / touched[0] ** 2))
    assert {bool(row.max() > -row.min()) for row in added} == {True, False}  # both recordings
    assert -5.01 < min(levels) < 0
    assert 15 < max(levels) < 20.01


@pytest.mark.parametrize("values", [{"share": -0.1}, {"share": 1.1}, {"noise_share": 2.0, "noise": "n"},
                                    {"share": 0.2, "noise_share": 0.1}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(RecipeError, match="mixing"):
        Mixing(**values)
