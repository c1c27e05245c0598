"""Synthetic speech: what is said, when, and that it is always the same."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from full_disk import files_up_to

from tools.espeak import Request, speak
from tools.synthesise import VOICES_TEST, VOICES_TRAIN, Voice, phone_of, sentences, synthesise
from upstream.audio import Manifest, read
from upstream.errors import HubertkitError, InputError, UsageError

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthesised")
    return folder, synthesise(folder, sentences(20, seed=1), [*VOICES_TRAIN, *VOICES_TEST], seed=1)


def intervals(folder, utterance_id):
    lines = (folder / "alignments" / f"{utterance_id}.ctm").read_text().splitlines()
    fields = [line.split(" ") for line in lines]
    assert {(f[0], f[1]) for f in fields} == {(utterance_id, "1")}
    return [(float(start), float(duration), phone) for _, _, start, duration, phone in fields]


def test_every_sentence_is_there_with_its_transcript_and_speaker(corpus):
    folder, manifest = corpus
    assert manifest.texts == sentences(20, seed=1)
    assert manifest.speakers[:16] == [v.name for v in [*VOICES_TRAIN, *VOICES_TEST]]
    assert Manifest.load(folder / "manifest.arrow").hash == manifest.hash
    assert manifest.ids[17] == "ben-00017"


def test_phone_times_ascend_and_cover_the_audio_without_gaps(corpus):
    folder, manifest = corpus
    for utterance in manifest:
        found = intervals(folder, utterance.id)
        assert found[0][0] == 0
        assert found[0][2] == found[-1][2] == "sil"
        for (start, duration, _), (following, _, _) in pairwise(found):
            assert duration > 0
            assert start + duration == pytest.approx(following, abs=2e-4)
        assert found[-1][0] + found[-1][1] == pytest.approx(utterance.samples / 16000, abs=2e-4)


def test_phones_lie_where_the_sound_is(corpus):
    """The speech is 30 dB and more over the noise, so its energy must lie within the phones."""
    folder, manifest = corpus
    for utterance in manifest:
        wave = read(utterance)
        found = intervals(folder, utterance.id)
        first, last = int(found[1][0] * 16000), int(found[-1][0] * 16000)
        assert np.sum(wave[first:last] ** 2) > 0.98 * np.sum(wave**2)
        quiet, loud = wave[:first - 160].std(), wave[first:last].std()
        assert 20 * np.log10(loud / quiet) > 20


def test_the_phones_of_a_known_word_are_those_of_the_word(tmp_path):
    synthesise(tmp_path, ["three cats"], [Voice("one", "en-us+m1")], seed=3)
    assert [phone for _, _, phone in intervals(tmp_path, "one-00000")] == \
        ["sil", "T", "r", "i", "k", "a", "t", "s", "sil"]


def test_there_is_no_digital_silence_and_no_clipping(corpus):
    _, manifest = corpus
    for utterance in manifest:
        wave = read(utterance)
        assert np.abs(wave).max() < 0.999
        blocks = wave[:len(wave) // 400 * 400].reshape(-1, 400)
        assert (blocks.std(axis=1) > 1e-5).all()


def test_loudness_and_silence_vary_between_utterances(corpus):
    folder, manifest = corpus
    levels = [20 * np.log10(read(u).std()) for u in manifest]
    leads = [intervals(folder, u.id)[0][1] for u in manifest]
    assert max(levels) - min(levels) > 4
    assert max(leads) - min(leads) > 0.15


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(corpus, tmp_path):
    folder, _ = corpus
    voices, texts = [*VOICES_TRAIN, *VOICES_TEST], sentences(20, seed=1)
    again = synthesise(tmp_path / "again", texts[:4], voices, seed=1)  # fewer: an utterance depends on nothing else
    other = synthesise(tmp_path / "other", texts[:1], voices, seed=2)
    for utterance in again:
        for name in (f"audio/{utterance.id}.flac", f"alignments/{utterance.id}.ctm"):
            assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert other[0].audio.read_bytes() != again[0].audio.read_bytes()


def test_a_corpus_is_replaced_whole(tmp_path):
    synthesise(tmp_path, ["one two three", "four five six"], VOICES_TRAIN, seed=1)
    second = synthesise(tmp_path, ["seven"], [Voice("zoe", "en-us+f2")], seed=1)
    assert [p.name for p in (tmp_path / "audio").iterdir()] == ["zoe-00000.flac"]
    assert Manifest.load(tmp_path / "manifest.arrow").hash == second.hash
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alignments", "audio", "manifest.arrow"]


def test_transcripts_are_normalised(tmp_path):
    manifest = synthesise(tmp_path, ["  the farmer's   Dog slept "], [VOICES_TRAIN[0]], seed=1)
    assert manifest.texts == ["THE FARMER'S DOG SLEPT"]


@pytest.mark.parametrize(("text", "found"), [("it cost 5 pounds", "'5'"), ("wait, what", "','"), ("' '", "no letters")])
def test_a_sentence_that_would_be_transcribed_wrongly_is_refused(tmp_path, text, found):
    with pytest.raises(InputError, match=found):
        synthesise(tmp_path, [text], VOICES_TRAIN, seed=1)


def test_an_unknown_voice_is_named_and_nothing_is_replaced(tmp_path):
    before = synthesise(tmp_path, ["one two three"], VOICES_TRAIN, seed=1)
    with pytest.raises(InputError, match="en-nowhere"):
        synthesise(tmp_path, ["one two three"], [Voice("x", "en-nowhere")], seed=1)
    assert Manifest.load(tmp_path / "manifest.arrow").hash == before.hash
    assert read(before[0]).shape == (before[0].length,)


def test_voices_of_one_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match="different names"):
        synthesise(tmp_path, ["hello there"], [VOICES_TRAIN[0], VOICES_TRAIN[0]], seed=1)


def test_train_and_test_voices_are_different_speakers():
    def variants(voices):
        return {voice.language.split("+")[1] for voice in voices}

    assert not variants(VOICES_TRAIN) & variants(VOICES_TEST)
    assert len({v.name for v in VOICES_TRAIN + VOICES_TEST}) == 16
    assert len({v.language for v in VOICES_TRAIN + VOICES_TEST}) == 16


def test_what_is_said_before_does_not_change_a_sentence():
    one = Request("the old dog slept", "en-us+m1", 160, 50, 50, 7)
    two = Request("many birds", "en-gb-x-rp+f1", 180, 60, 50, 8)
    (alone,), (_, after) = list(speak([one])), list(speak([two, one]))
    np.testing.assert_array_equal(alone.samples, after.samples)
    assert alone.phones == after.phones


@pytest.mark.parametrize(("name", "phone"), [("'oU", "oU"), ("i:", "i"), (",I", "I"), ("t#", "t"), ("I2", "I"),
                                             ("3:", "3"),
                                             ("_:", "sil"), ("_", "sil"), ("@-", "@"), (";", "j"), ("0", "0"),
                                             ("'i@3", "i@"), ("t[", "t"), ("a#", "@"), ("@L", "@L")])
def test_phone_names_lose_stress_length_and_variants(name, phone):
    assert phone_of(name) == phone


def test_a_missing_engine_is_one_sentence_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(HubertkitError, match=r"pip install 'hubertkit\[demo\]'"):
        synthesise(tmp_path, ["hello there"], VOICES_TRAIN, seed=1)


@pytest.mark.parametrize("name", ["audio", "alignments", "manifest.arrow"])
def test_recordings_of_somebody_else_are_not_replaced(tmp_path, name):
    """`bench curves --run .` removed speech/audio, whosever it was."""
    place = tmp_path / name / "mine.wav" if name != "manifest.arrow" else tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("mine")
    with pytest.raises(UsageError, match=f"{name}: is there already and of no synthesised speech"):
        synthesise(tmp_path, ["hello there"], VOICES_TRAIN, seed=1)
    assert place.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_full_disk_under_synthesised_speech_is_one_line(tmp_path):
    with files_up_to(10_000), pytest.raises(HubertkitError, match="larger than is allowed"):
        synthesise(tmp_path, ["FIVE SMALL SHIPS"], VOICES_TEST[:1], seed=1)
    assert not (tmp_path / "manifest.arrow").exists()
