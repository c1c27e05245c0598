"""What `check` finds in a corpus, and what it leaves in peace."""

from dataclasses import replace

import numpy as np
import soundfile

from upstream.audio import Manifest, Utterance, check


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
