"""Subsets by hours: nested, within an utterance of what was asked, and the same whenever they are drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.audio import Manifest, Utterance
from upstream.audio.splitting import parse_amounts, split
from upstream.errors import InputError, UsageError


def corpus(seconds, speakers):
    return Manifest.of([Utterance(f"u{i:03d}", Path("/a.wav"), 0, round(s * 16_000), 16_000, 1, speaker)
                        for i, (s, speaker) in enumerate(zip(seconds, speakers))], "a test")


def hours(manifest, rows):
    return manifest.lengths[rows].sum() / 16_000 / 3600


manifests = st.lists(st.tuples(st.integers(1, 30), st.sampled_from("abcde")), min_size=3, max_size=60).map(
    lambda rows: corpus([s for s, _ in rows], [speaker for _, speaker in rows]))


@given(manifest=manifests, by=st.sampled_from(["speaker", "evenly", "utterance"]), seed=st.integers(0, 3),
       shares=st.tuples(st.floats(0.3, 0.6), st.floats(0.65, 1)))
def test_subsets_are_nested_and_less_than_an_utterance_below_what_was_asked(manifest, by, seed, shares):
    whole = manifest.seconds / 3600
    asked = [whole * share for share in shares]
    longest = manifest.lengths.max() / 16_000 / 3600
    if asked[0] < longest:
        return
    found = split(manifest, asked, by, seed)
    small, large = (set(rows.tolist()) for rows in found.subsets)
    assert small <= large
    for rows, amount in zip(found.subsets, asked):
        assert amount - longest < hours(manifest, rows) + 1e-9
        assert hours(manifest, rows) <= amount + 1e-6
        assert rows.tolist() == sorted(rows.tolist())
    assert not large & set(found.rest.tolist())


@given(manifest=manifests, seed=st.integers(0, 3), data=st.data())
def test_the_order_of_the_manifest_plays_no_part(manifest, seed, data):
    order = data.draw(st.permutations(range(len(manifest))))
    amount = [0.9 * manifest.seconds / 3600]
    shuffled = manifest.select(order)
    for by in ("speaker", "evenly", "utterance"):
        one, other = (split(m, amount, by, seed) for m in (manifest, shuffled))
        assert {manifest.ids[i] for i in one.subsets[0]} == {shuffled.ids[i] for i in other.subsets[0]}


@given(manifest=manifests, seed=st.integers(0, 3))
def test_by_speaker_nobody_is_on_both_sides(manifest, seed):
    found = split(manifest, [0.5 * manifest.seconds / 3600], "speaker", seed)
    speakers = np.array(manifest.speakers)
    inside, outside = (set(speakers[rows]) for rows in (found.subsets[0], found.rest))
    assert not inside & outside
    assert set(speakers[np.setdiff1d(np.arange(len(speakers)), np.union1d(found.subsets[0], found.rest))]) <= inside


def test_by_speaker_takes_one_speaker_after_the_other():
    """Four speakers of six minutes: nine minutes are one whole speaker and half of another; two remain."""
    found = split(corpus([60] * 24, list("abcd") * 6), [0.15], "speaker", seed=5)
    counts = sorted(np.unique([i % 4 for i in found.subsets[0]], return_counts=True)[1].tolist())
    assert counts == [3, 6]
    assert len(found.rest) == 12


def test_evenly_takes_the_same_time_of_everybody():
    """Ten minutes of a and one hour of b and of c, asked for half an hour: ten minutes each."""
    manifest = corpus([20] * 30 + [20] * 180 + [40] * 90, "a" * 30 + "b" * 180 + "c" * 90)
    [rows] = split(manifest, [0.5], "evenly", seed=1).subsets
    minutes = {s: manifest.lengths[[i for i in rows if manifest[int(i)].speaker == s]].sum() / 960_000 for s in "abc"}
    assert all(abs(m - 10) <= 0.7 for m in minutes.values()), minutes


def test_another_seed_draws_others_and_the_same_seed_the_same():
    manifest = corpus([10] * 100, [str(i % 20) for i in range(100)])
    draws = [split(manifest, [0.1], "utterance", seed).subsets[0].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_what_cannot_be_drawn_is_said():
    manifest = corpus([10, 10], ["a", None])
    with pytest.raises(InputError, match=r"u001: its speaker is unknown; split by utterance \(--by utterance\)"):
        split(manifest, [0.001])
    with pytest.raises(InputError, match=r"0\.00556 h, 1 h are asked for"):
        split(manifest, [1], "utterance")
    with pytest.raises(InputError, match=r"no utterance fits into 0\.001 h: u00\d, the first, has 10\.0 s"):
        split(manifest, [0.001], "utterance")
    with pytest.raises(InputError, match="1 h are asked for"):
        split(corpus([], []), [1], "speaker")
    for bad in ([], [0], [2, 1]):
        with pytest.raises(UsageError, match="must be above 0 and ascend"):
            split(manifest, bad, "utterance")


def test_amounts_are_hours_or_minutes():
    assert parse_amounts("10min, 1h,10,0.5") == [("10min", 1 / 6), ("1h", 1.0), ("10h", 10.0), ("0.5h", 0.5)]
    for bad in ("", "ten", "1d", "-1", "1,"):
        with pytest.raises(UsageError, match="expected numbers"):
            parse_amounts(bad)


@pytest.mark.parametrize("by", ["speaker", "evenly", "utterance"])
def test_hours_of_transcripts_are_drawn_from_what_has_them_as_if_nothing_else_were_there(by):
    """`corpus split --hours 1h` of a corpus with transcripts of a tenth gave six minutes to fine-tune on."""
    whole = corpus([5 + i % 7 for i in range(60)], ["abcd"[i % 4] for i in range(60)])
    written = [i for i in range(60) if i % 3 and whole[i].speaker != "a"]
    mixed = Manifest.of([replace(u, text="words" if i in written else None) for i, u in enumerate(whole)], "a test")
    with_text = mixed.select(written)
    amounts = [60 / 3600, 200 / 3600]
    found = split(mixed, amounts, by, 1, transcribed=True)
    for rows, alone in zip(found.subsets, split(with_text, amounts, by, 1).subsets):
        assert mixed.select(rows).ids == with_text.select(alone).ids
    assert any(mixed[int(i)].text is None for i in found.rest) or by == "speaker"
    with pytest.raises(InputError, match=r"0\.0661 h with transcripts, 1 h are asked for"):
        split(mixed, [1.0], by, transcribed=True)
