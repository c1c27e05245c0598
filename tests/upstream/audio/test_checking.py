"""What `check` finds in a corpus, and what it leaves in peace."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from upstream.audio import Manifest, Utterance, check, import_folder, mpeg
from upstream.audio.containers import open_audio
from upstream.audio.corpora.ogg import ogg_fault
from upstream.audio.corpora.tar_shards import import_tar
from upstream.audio.mpeg import _frame
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
        ("longer", replace(good, samples=9999), "gives 2000 samples from 0, 9999 are expected"),
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
    ("flac", {}), ("ogg", {}), ("opus", {"format": "OGG", "subtype": "OPUS"}), ("mp3", {}), ("caf", {}),
    ("sph", {"format": "NIST", "subtype": "PCM_16"})])
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


def mp3(path, mode, seconds=4, rate=44_100, header=True, channels=1):
    """An MP3 as LAME writes it, or without its first frame, which says how many there are; and its other frames."""
    loudness = np.repeat([0.01, 0.3], seconds * rate // 2)[:, None]
    noise = np.random.default_rng(0).standard_normal((seconds * rate, channels)) * loudness
    with soundfile.SoundFile(path, "w", rate, channels, format="MP3", bitrate_mode=mode, compression_level=0.5) as file:
        file.write(noise)
    content = path.read_bytes()
    frames = []
    while content:
        frame = _frame(content, 0, len(content))
        frames.append(content[:frame.size])
        content = content[frame.size:]
    if not header:
        path.write_bytes(b"".join(frames[1:]))
    return frames[1:]


@pytest.mark.parametrize("rate", [44_100, 22_050, 16_000])
def test_an_mp3_of_one_bit_rate_without_a_header_is_as_long_as_its_frames(tmp_path, rate):
    """A bug once found: libsndfile's estimate of the length was taken, and the file then called cut short."""
    frames = mp3(tmp_path / "a.mp3", "CONSTANT", rate=rate, header=False)
    manifest = import_folder(tmp_path)
    assert manifest[0].samples == len(frames) * (1152 if rate == 44_100 else 576)
    assert not [p for p in check(manifest) if not p.usable]


def test_an_mp3_with_a_header_is_not_walked_and_one_with_tags_is_still_whole(tmp_path, monkeypatch):
    mp3(tmp_path / "a.mp3", "VARIABLE")
    content = (tmp_path / "a.mp3").read_bytes()
    picture = b"ID3\x04\0\0\0\0\x04\0" + b"\xff\xfb\x90\0" * 128  # bytes that look like frames
    (tmp_path / "b.mp3").write_bytes(picture + content + b"TAG".ljust(128, b"\0"))
    (tmp_path / "c.mp3").write_bytes(content + bytes(5000))
    assert {u.samples for u in import_folder(tmp_path)} == {4 * 44_100}
    (tmp_path / "c.mp3").unlink()
    monkeypatch.setattr(mpeg, "_walk", None)
    assert len(import_folder(tmp_path)) == 2


def test_an_mp3_of_which_only_the_beginning_would_be_read_is_refused_with_what_to_do(tmp_path):
    """A bug once found: twelve seconds of variable bit rate were imported as three, joined files as the first."""
    mp3(tmp_path / "a.mp3", "VARIABLE")
    whole = (tmp_path / "a.mp3").read_bytes()
    for content, said in ((whole + whole, "joined from several"), (whole[:len(whole) // 2], "is cut short")):
        (tmp_path / "a.mp3").write_bytes(content)
        with pytest.raises(InputError, match=rf"a\.mp3: {said}|a\.mp3: .*{said}.*ffmpeg"):
            import_folder(tmp_path)
        old = Utterance("a", tmp_path / "a.mp3", 0, 20_000, 44_100, 1)  # as it was imported before this was looked at
        assert [said in p.what for p in check(Manifest.of([old], "a test"))] == [True]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("rate", [44_100, 22_050, 8_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_of_variable_bit_rate_without_a_header_is_read_whole(tmp_path, rate, channels, inside):
    """It was refused, since libsndfile reads as far as the size of the first frame makes it believe."""
    frames = mp3(tmp_path / "a.mp3", "VARIABLE", rate=rate, channels=channels)
    wanted = soundfile.read(tmp_path / "a.mp3", always_2d=True, dtype="float32")[0]  # by its header
    picture = b"ID3\x04\0\0\0\0\x04\0" + b"\xff\xfb\x90\0" * 128
    content = picture + b"".join(frames)
    (tmp_path / "a.mp3").write_bytes(content)
    if inside:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            tar.add(tmp_path / "a.mp3", "a.mp3")
    manifest = import_tar(tmp_path / "a.tar") if inside else import_folder(tmp_path)
    per_frame = 1152 if rate == 44_100 else 576
    assert 0 <= len(frames) * per_frame - manifest[0].samples < 2 * per_frame
    assert not [p for p in check(manifest) if not p.usable]
    with open_audio(manifest[0].audio, manifest[0].offset, manifest[0].size) as file:
        assert file.frames == manifest[0].samples
        found = file.read(dtype="float32", always_2d=True)
        file.seek(2 * rate)
        again = file.read(dtype="float32", always_2d=True)
    delay = 576  # of LAME, which its header tells decoders to leave out
    np.testing.assert_allclose(found[delay:][:len(wanted)], wanted[:len(found) - delay], atol=1e-6)
    np.testing.assert_allclose(again[rate // 4:], found[2 * rate + rate // 4:], atol=1e-3)  # once it has warmed up


def test_two_mp3s_without_headers_one_after_the_other_are_one_recording(tmp_path):
    frames = mp3(tmp_path / "a.mp3", "VARIABLE", header=False)
    (tmp_path / "a.mp3").write_bytes(2 * b"".join(frames))
    manifest = import_folder(tmp_path)
    assert 0 <= 2 * len(frames) * 1152 - manifest[0].samples < 2 * 1152
    assert not [p for p in check(manifest) if not p.usable]


def test_a_length_that_no_header_can_mend_is_still_refused(tmp_path):
    content = b"".join(mp3(tmp_path / "a.mp3", "VARIABLE"))
    assert "has no header with its length" in mpeg.mp3_samples(content, 0, len(content), 20_000)


def ogg(path, subtype, seconds, serial=None):
    """The bytes of an Ogg; with `serial` its pages have that number (and checksums that nobody reads here)."""
    soundfile.write(path, speechlike(seconds * 48_000), 48_000, format="OGG", subtype=subtype)
    content = bytearray(path.read_bytes())
    at = 0
    while serial is not None and (at := content.find(b"OggS\0", at)) >= 0:
        content[at + 14:at + 18] = serial
        at += 1
    return bytes(content)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_joined_oggs_are_refused_and_single_ones_are_not(tmp_path, subtype):
    path = tmp_path / "a.ogg"
    long, short = ogg(path, subtype, 9), ogg(path, subtype, 2, b"abcd")
    for content in (long, short):
        assert ogg_fault(content, 0, len(content)) is None
        assert ogg_fault(b"x" * 99 + content + b"OggS\0" * 9, 99, 99 + len(content)) is None  # inside of a tar
    for content in (long + short, short + long, long + long, long + short + long):
        assert "holds several streams" in ogg_fault(content, 0, len(content))
    path.write_bytes(long + long)
    with pytest.raises(InputError, match=r"a\.ogg: holds several streams, one after the other.*ffmpeg"):
        import_folder(tmp_path)


@pytest.mark.parametrize("change", ["replaced", "longer"])
def test_a_file_that_was_changed_since_the_import_is_noticed(tmp_path, change):
    """A bug once found: the manifest knew the size, the beginning and the end of each file, and nobody asked."""
    for name in "ab":
        written(tmp_path / f"{name}.wav", speechlike(4000))
    manifest = import_folder(tmp_path)
    assert check(manifest) == []
    written(tmp_path / "b.wav", speechlike(4000, seed=1) if change == "replaced" else speechlike(5000))
    [problem] = check(manifest)
    assert (problem.id, problem.usable) == ("b", False)
    assert "changed since it was imported" in problem.what


def test_a_header_that_gives_no_length_is_told_from_a_recording_without_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", speechlike(4000), 16_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = bytes(4)
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.wav: has no length in its header, and 8044 bytes"):
        import_folder(tmp_path)


def test_a_file_that_may_not_be_read_is_called_that(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"no audio")  # root may read everything: only the answer is another
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"a\.wav: cannot be read as audio \(no permission\)"):
        import_folder(tmp_path)
