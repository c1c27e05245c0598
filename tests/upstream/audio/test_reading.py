"""From files to waveforms: spans, channels, rates, and files that are not what they should be."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from upstream.audio import Utterance, import_librispeech, read
from upstream.audio.reading import read_part
from upstream.errors import InputError


def tone(seconds, rate, hz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(samples, channels=1, seed=0):
    wave = np.random.default_rng(seed).integers(-20_000, 20_000, (samples, channels)).astype(np.int16)
    return wave[:, 0] if channels == 1 else wave


def written(path, wave, rate=16000, **options):
    soundfile.write(path, wave, rate, **options)
    info = soundfile.info(str(path))
    return Utterance(path.stem, path, 0, info.frames, info.samplerate, info.channels)


@given(data=st.data())
@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_a_span_is_the_slice_of_the_whole_exactly(tmp_path_factory, suffix, data):
    start = data.draw(st.integers(0, 5000))
    samples = data.draw(st.integers(1, 5001 - start))
    whole = noise(5001)
    whole_file = written(tmp_path_factory.mktemp("spans") / f"a.{suffix}", whole)
    wave = read(replace(whole_file, start=start, samples=samples))
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave, whole[start:start + samples].astype(np.float32) / 32768)


@given(first=st.integers(0, 5200), samples=st.integers(0, 5200), start=st.integers(0, 500))
@pytest.mark.parametrize(("name", "rate", "channels"), [
    ("a.flac", 16_000, 1), ("a.wav", 16_000, 2), ("a.wav", 8_000, 1), ("a.ogg", 16_000, 1)])
def test_a_part_is_the_slice_of_the_whole_exactly(tmp_path_factory, name, rate, channels, first, samples, start):
    file = replace(written(tmp_path_factory.mktemp("parts") / name, noise(5001, channels), rate), start=start)
    file = replace(file, samples=file.samples - start)
    np.testing.assert_array_equal(read_part(file, first, samples), read(file)[first:first + samples])


def test_a_part_of_a_long_recording_is_decoded_alone(tmp_path, monkeypatch):
    """Found in review: an hour was decoded whole for each of its crops."""
    files = [written(tmp_path / name, noise(160_000)) for name in ("a.flac", "a.ogg")]
    decoded = []
    frames = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda file, n, **options: decoded.append(n) or frames(
        file, n, **options))
    for file in files:
        read_part(file, 100_000, 8_000)
    assert decoded == [8_000, 160_000]


def test_what_is_no_audio_is_named_by_a_part_as_well(tmp_path):
    file = written(tmp_path / "a.flac", noise(5000))
    file.audio.write_bytes(b"none")
    with pytest.raises(InputError, match="cannot be read as audio"):
        read_part(file, 0, 10)


def test_a_span_of_opus_is_the_slice_of_the_whole_nearly(speech):
    """Packets before the span shape the decoder's state, so equality ends with the warm-up."""
    manifest = import_librispeech(speech / "LibriSpeech").select(range(0, 2414, 120))
    for number, utterance in enumerate(manifest):
        whole = read(utterance)
        start = (number + 1) * utterance.samples // 25
        wave = read(replace(utterance, start=start, samples=4000))
        assert np.abs(wave - whole[start:start + 4000]).max() <= 2e-3


def test_a_span_of_a_long_opus_file_needs_no_decoding_from_its_beginning(tmp_path):
    rate = 48_000
    rng = np.random.default_rng(1)
    wave = np.convolve(rng.standard_normal(30 * rate), np.hanning(40), "same").astype(np.float32)
    whole_file = written(tmp_path / "a.ogg", 0.3 * wave / np.abs(wave).max(), rate, format="OGG", subtype="OPUS")
    whole = read(whole_file)
    start = 20 * rate
    part = read(replace(whole_file, start=start, samples=rate))
    inside = slice(200, 15_800)  # resampling a span has no neighbours at its edges
    np.testing.assert_allclose(part[inside], whole[20 * 16000:21 * 16000][inside], atol=2e-3)


def test_channels_are_averaged(tmp_path):
    wave = noise(2000, channels=2)
    found = read(written(tmp_path / "a.wav", wave))
    np.testing.assert_allclose(found, wave.mean(axis=1) / 32768, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_a_tone_keeps_its_pitch_level_and_length(tmp_path, rate):
    stereo = np.stack([tone(1.3, rate), tone(1.3, rate)], axis=1)
    utterance = written(tmp_path / "a.flac", stereo, rate)
    wave = read(utterance)
    assert len(wave) == utterance.length == 20_800
    np.testing.assert_allclose(wave[800:-800], tone(1.3, 16000)[800:-800], atol=2e-3)


@given(samples=st.integers(1, 3000), rate=st.sampled_from([8000, 11_025, 22_050, 32_000, 44_100, 48_000]))
def test_a_waveform_has_the_length_that_the_manifest_promises(tmp_path_factory, samples, rate):
    utterance = written(tmp_path_factory.mktemp("lengths") / "a.wav", noise(samples), rate)
    assert read(utterance).shape == (utterance.length,)


def test_what_resampling_overshoots_is_clipped(tmp_path):
    square = np.sign(tone(0.5, 44_100)).astype(np.float32)
    wave = read(written(tmp_path / "a.wav", square, 44_100, subtype="FLOAT"))
    assert np.abs(wave).max() == 1


def test_real_speech_is_decoded_at_its_length_and_a_speakers_level(speech):
    ids = (speech / "splits" / "dev.txt").read_text().split()[:12]
    manifest = import_librispeech(speech / "LibriSpeech", ids)
    for index, utterance in enumerate(manifest):
        wave = read(utterance)
        assert wave.shape == (manifest.lengths[index],)
        assert 0.005 < wave.std() < 0.3
        assert abs(float(wave.mean())) < 0.01


def broken(tmp_path):
    good = written(tmp_path / "good.wav", noise(1000))
    (tmp_path / "text.wav").write_text("this is no audio at all")
    (tmp_path / "empty.flac").write_bytes(b"")
    bad = tone(0.1, 16000)
    bad[70] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 16000, subtype="FLOAT")
    bad[70] = np.inf
    soundfile.write(tmp_path / "inf.wav", bad, 16000, subtype="FLOAT")
    return {
        "is not there": replace(good, audio=tmp_path / "none.wav"),
        "text.wav cannot be read as audio": replace(good, audio=tmp_path / "text.wav"),
        "empty.flac cannot be read as audio": replace(good, audio=tmp_path / "empty.flac"),
        "NaN or infinity, first at sample 70": replace(good, audio=tmp_path / "nan.wav"),
        "inf.wav holds NaN or infinity": replace(good, audio=tmp_path / "inf.wav"),
        "gives 1000 samples from 0": replace(good, samples=1001),
        "gives 400 samples from 600": replace(good, start=600, samples=401),
        "gives 0 samples from 5000": replace(good, start=5000, samples=401),
        "has 16000 Hz and 1 channels": replace(good, rate=8000),
        "the manifest says 16000 Hz and 2": replace(good, channels=2),
    }


@pytest.mark.parametrize("what", [
    "is not there", "text.wav cannot be read as audio", "empty.flac cannot be read as audio",
    "NaN or infinity, first at sample 70", "inf.wav holds NaN or infinity", "gives 1000 samples from 0",
    "gives 400 samples from 600", "gives 0 samples from 5000", "has 16000 Hz and 1 channels",
    "the manifest says 16000 Hz and 2"])
def test_a_file_that_is_not_as_promised_is_named_with_the_reason(tmp_path, what):
    with pytest.raises(InputError, match=what) as caught:
        read(replace(broken(tmp_path)[what], id="the-one"))
    assert str(caught.value).startswith("the-one: ")
    assert str(tmp_path) in str(caught.value)


def test_a_cut_file_is_refused_not_shortened(tmp_path):
    utterance = written(tmp_path / "a.flac", noise(50_000))
    content = utterance.audio.read_bytes()
    utterance.audio.write_bytes(content[:len(content) // 2])
    with pytest.raises(InputError, match=r"a\.flac"):
        read(utterance)
