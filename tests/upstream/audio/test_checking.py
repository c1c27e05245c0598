"""What `check` finds in a corpus, and what it leaves in peace."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from upstream.audio import Manifest, Utterance, check, import_folder
from upstream.errors import InputError


def written(path, wave, rate=16000, subtype="FLOAT"):
    soundfile.write(path, wave, rate, subtype=subtype)
    info = soundfile.info(str(path))
    return Utterance(path.stem, path, 0, info.frames, info.samplerate, info.channels)


def speechlike(samples, channels=1, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((samples, channels)).astype(np.float32)


def test_a_sound_corpus_has_no_problems(tmp_path):
    files = [written(tmp_path / f"{i}.wav", speechlike(2000, seed=i)) for i in range(50)]
    assert check(Manifest.of(files, "a test")) == []


def test_every_fault_is_found_and_named_in_the_order_of_the_manifest(tmp_path):
    good = written(tmp_path / "good.wav", speechlike(2000))
    bad = speechlike(2000)
    bad[7] = np.nan
    (tmp_path / "text.wav").write_text("no audio")
    rows = [
        ("nan", written(tmp_path / "nan.wav", bad), "holds NaN or infinity, first at sample 7"),
        ("zeros", written(tmp_path / "zeros.wav", np.zeros(2000)), "is silent: every sample is zero"),
        ("fine", good, None),
        ("short", written(tmp_path / "short.wav", speechlike(399)), "too short: 399 samples"),
        ("long-enough", written(tmp_path / "enough.wav", speechlike(400)), None),
        ("none", replace(good, samples=0), "has no samples"),
        ("gone", replace(good, audio=tmp_path / "gone.wav"), "is not there"),
        ("text", replace(good, audio=tmp_path / "text.wav"), "cannot be read as audio"),
        ("longer", replace(good, samples=9999), "gives 2000 samples from 0, the manifest says 9999"),
        ("other", replace(good, rate=8000), "has 16000 Hz and 1 channels, the manifest says 8000"),
    ]
    problems = check(Manifest.of([replace(u, id=name) for name, u, _ in rows], "a test"))
    assert [p.id for p in problems] == [name for name, _, what in rows if what]
    for problem, expected in zip(problems, [what for _, _, what in rows if what]):
        assert expected in problem.what
        assert not problem.usable


def test_other_rates_channels_and_clipping_are_remarks(tmp_path):
    loud = np.clip(20 * speechlike(48_000, channels=2), -1, 1)
    found = check(Manifest.of([written(tmp_path / "a.wav", loud[:, :1], 16_000, "PCM_16"),
                               written(tmp_path / "b.wav", speechlike(48_000, channels=2), 44_100)], "a test"))
    assert [(p.id, p.usable) for p in found] == [("a", True), ("b", True), ("b", True)]
    assert [p.what.split(" ")[1] for p in found] == ["clipped:", "44100", "2"]


def test_one_sample_at_full_scale_is_no_clipping(tmp_path):
    wave = speechlike(4000)
    wave[100] = 1
    assert check(Manifest.of([written(tmp_path / "a.wav", wave)], "a test")) == []


@pytest.mark.parametrize(("suffix", "options"), [
    ("wav", {}), ("wav", {"format": "RF64"}), ("wav", {"format": "WAVEX"}), ("aiff", {}), ("au", {}), ("w64", {}),
    ("flac", {}), ("ogg", {}), ("opus", {"format": "OGG", "subtype": "OPUS"}), ("mp3", {}), ("caf", {})])
def test_a_file_that_was_cut_is_noticed_whatever_its_format(tmp_path, suffix, options):
    path = tmp_path / f"cut.{suffix}"
    soundfile.write(path, speechlike(48_000), 16_000, **options)
    whole = Utterance("cut", path, 0, 48_000, 16_000, 1)
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    assert [p.usable for p in check(Manifest.of([whole], "made before it was cut"))] == [False]
    try:
        there = soundfile.info(str(path)).frames
    except soundfile.SoundFileError:
        return
    if suffix not in ("mp3", "ogg", "opus", "flac"):  # their headers say nothing, or decoding fails
        [problem] = check(Manifest.of([replace(whole, samples=there)], "made after it was cut"))
        assert "is cut short: its header promises" in problem.what
        assert not problem.usable


def test_a_header_that_a_pipe_could_not_complete_is_no_fault(tmp_path):
    soundfile.write(tmp_path / "a.wav", speechlike(4000), 16_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    for size in (0xFFFF_FFFF, 0x7FFF_F000):  # ffmpeg, sox
        content[40:44] = size.to_bytes(4, "little")
        (tmp_path / "a.wav").write_bytes(content)
        assert check(Manifest.of([Utterance("a", tmp_path / "a.wav", 0, 4000, 16_000, 1)], "a test")) == []


def test_an_import_notices_a_cut_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", speechlike(4000), 16_000)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:4044])
    with pytest.raises(InputError, match=r"a\.wav: is cut short: its header promises 8000 bytes, 4000 are there"):
        import_folder(tmp_path)
