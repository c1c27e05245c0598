"""Decoded audio, kept in memory and on disk."""

import errno
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from upstream.audio import AudioCache, Manifest, Utterance, read
from upstream.audio.caching import CacheRecipe, DiskCache, sixteen_bits
from upstream.audio.reading import read_part
from upstream.errors import UsageError


def tone(seconds, rate, hz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(samples, seed=0):
    return np.random.default_rng(seed).integers(-20_000, 20_000, samples).astype(np.int16)


def written(path, wave, rate=16000, **options):
    soundfile.write(path, wave, rate, **options)
    info = soundfile.info(str(path))
    return Utterance(path.stem, path, 0, info.frames, info.samplerate, info.channels)


@pytest.fixture
def manifest(tmp_path):
    """Three recordings of 1,000, 1,100 and 1,200 samples."""
    return Manifest.of([written(tmp_path / f"{i}.wav", noise(1000 + 100 * i, seed=i)) for i in range(3)], "a test")


@pytest.fixture
def decoded(monkeypatch):
    """Indices (which are the ids) of what is decoded."""
    found = []

    def counted(utterance):
        found.append(int(utterance.id))
        return read(utterance)

    monkeypatch.setattr("upstream.audio.caching.read", counted)
    return found


def test_the_cache_gives_16_bit_files_back_exactly(tmp_path):
    extremes = np.array([-32768, 32767, 0, 1, -1] * 200, np.int16)
    manifest = Manifest.of([written(tmp_path / "a.flac", extremes)], "a test")
    cache = AudioCache(manifest)
    for _ in range(2):
        np.testing.assert_array_equal(cache.wave(0), extremes.astype(np.float32) / 32768)


def test_the_limit_of_the_cache_does_not_change_what_it_gives(tmp_path):
    files = [written(tmp_path / f"{i}.wav", tone(0.2, 22_050, 300 + 100 * i, 1.0), 22_050, subtype="FLOAT")
             for i in range(3)]
    manifest = Manifest.of(files, "a test")
    roomy, none = AudioCache(manifest), AudioCache(manifest, limit_bytes=0)
    for index in (0, 2, 1, 0, 2):
        np.testing.assert_array_equal(roomy.wave(index), none.wave(index))
        assert np.abs(roomy.wave(index) - read(manifest[index])).max() <= 1 / 32768


def test_the_cache_decodes_once_within_its_limit(manifest, decoded):
    cache = AudioCache(manifest, limit_bytes=4400)  # 2000, 2200 and 2400 bytes: the first two fit
    for _ in range(3):
        for index in range(3):
            cache.wave(index)
    assert [decoded.count(i) for i in range(3)] == [1, 1, 3]


@pytest.mark.parametrize("limits", [(0, None), (10**6, None), (0, 10**6), (0, 2500)])
def test_a_part_is_the_same_whatever_is_kept_and_of_what_is_not_no_more_is_decoded(manifest, decoded, tmp_path, limits):
    memory, on_disk = limits
    disk = None if on_disk is None else DiskCache(manifest, tmp_path / "cache", on_disk)
    cache = AudioCache(manifest, memory, disk)
    for index, utterance in enumerate(manifest):
        whole = read(utterance)
        for first, samples in ((0, 400), (700, 200), (900, 1000)):
            np.testing.assert_array_equal(cache.part(index, first, samples), whole[first:first + samples])
    kept = {(0, None): 0, (10**6, None): 3, (0, 10**6): 3, (0, 2500): 1}[limits]
    assert len(decoded) == kept


def test_a_caller_may_change_a_waveform_without_harm_to_the_next(tmp_path):
    cache = AudioCache(Manifest.of([written(tmp_path / "a.wav", noise(1000))], "a test"))
    first = cache.wave(0)
    kept = first.copy()
    first *= 0
    np.testing.assert_array_equal(cache.wave(0), kept)


def test_two_threads_read_what_one_reads(tmp_path):
    manifest = Manifest.of([written(tmp_path / f"{i}.wav", noise(3000, seed=i)) for i in range(20)], "a test")
    cache, expected = AudioCache(manifest), [read(u) for u in manifest]
    wrong = []

    def go_through():
        wrong.extend(i for i in range(20) if not np.array_equal(cache.wave(i), expected[i]))

    threads = [threading.Thread(target=go_through) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_sixteen_bits_are_the_nearest(values):
    wave = np.array(values, np.float32)
    back = sixteen_bits(wave).astype(np.float64) / 32768
    assert np.abs(back - wave).max() <= 1 / 32768  # half a step, but at 1.0 a whole one
    assert np.abs((back - wave)[wave < 32767 / 32768]).max(initial=0) <= 0.5 / 32768


def disk(manifest, folder, limit=10**6):
    return AudioCache(manifest, 0, DiskCache(manifest, folder, limit))


def test_another_process_finds_what_one_has_decoded(manifest, decoded, tmp_path):
    first = [disk(manifest, tmp_path / "cache").wave(i) for i in range(3)]
    assert decoded == [0, 1, 2]
    later = disk(manifest, tmp_path / "cache")
    for index in range(3):
        np.testing.assert_array_equal(later.wave(index), first[index])
        np.testing.assert_array_equal(later.wave(index), read(manifest[index]))
    assert decoded == [0, 1, 2]


def test_the_disk_cache_stays_within_its_limit(manifest, decoded, tmp_path):
    cache = disk(manifest, tmp_path / "cache", limit=4200)  # by hand: 2000 and 2200 bytes fit, 2400 more do not
    for _ in range(2):
        for index in (2, 1, 0):
            cache.wave(index)
    assert decoded == [2, 1, 0, 2]
    assert sum(p.stat().st_size for p in (tmp_path / "cache").glob("*.s16")) == 4200


def test_another_manifest_has_another_file(manifest, decoded, tmp_path):
    disk(manifest, tmp_path / "cache").wave(1)
    fewer = manifest.select([1, 2])
    np.testing.assert_array_equal(disk(fewer, tmp_path / "cache").wave(0), read(manifest[1]))
    assert decoded == [1, 1]


@pytest.mark.parametrize("damage", ["a bit", "cut", "no sum"])
def test_a_damaged_cache_costs_a_decoding(manifest, decoded, tmp_path, damage):
    disk(manifest, tmp_path / "cache").wave(0)
    [samples], [sums] = (tmp_path / "cache").glob("*.s16"), (tmp_path / "cache").glob("*.crc32")
    content = bytearray(samples.read_bytes())
    content[77] ^= 1
    if damage == "no sum":  # killed between the two
        sums.write_bytes(bytes(4))
    else:
        samples.write_bytes(content if damage == "a bit" else content[:100])
    for _ in range(2):
        np.testing.assert_array_equal(disk(manifest, tmp_path / "cache").wave(0), read(manifest[0]))
    assert decoded == [0, 0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_warning_and_no_harm(manifest, decoded, tmp_path, monkeypatch, capsys, code):
    """EFBIG: the cache is one large file, which `ulimit -f` or the file system may not allow."""
    def full(*_):
        raise OSError(code, os.strerror(code))

    cache = disk(manifest, tmp_path / "cache")
    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        np.testing.assert_array_equal(cache.wave(0), read(manifest[0]))
    assert decoded == [0, 0]
    assert capsys.readouterr().err.count("cache.folder is full") == 1


@pytest.mark.processes
def test_processes_may_fill_one_cache_together(manifest, tmp_path):
    manifest.save(tmp_path / "m.arrow")
    script = ("import sys; from pathlib import Path; from upstream.audio import Manifest; "
              "from upstream.audio.caching import CacheRecipe; "
              "cache = CacheRecipe(0, sys.argv[2]).open(Manifest.load(Path(sys.argv[1]))); "
              "print(sum(float(abs(cache.wave(i)).sum()) for _ in range(50) for i in range(3)))")
    command = [sys.executable, "-c", script, str(tmp_path / "m.arrow"), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    expected = sum(float(abs(read(u)).sum()) for u in manifest) * 50
    assert [float(p.communicate(timeout=60)[0]) for p in processes] == pytest.approx([expected] * 3)


def test_a_folder_that_cannot_be_is_refused(manifest, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cache\.folder=.*cannot be written"):
        CacheRecipe(folder=str(tmp_path / "file" / "cache")).open(manifest)


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match=r"cache\.memory_gb=-1.0, must be at least 0"):
        CacheRecipe(memory_gb=-1.0)


def test_what_is_on_a_disk_that_has_filled_up_is_read_from_there(manifest, decoded, tmp_path, monkeypatch):
    """Found in review: crops of what had been kept were decoded anew, each time, once the disk was full."""
    cache = AudioCache(manifest, 0, DiskCache(manifest, tmp_path / "cache", 10**6))
    cache.part(0, 0, 100)
    monkeypatch.setattr(cache._disk, "_full", True)
    parts = []
    monkeypatch.setattr("upstream.audio.caching.read_part", lambda u, *span: parts.append(u.id) or read_part(u, *span))
    np.testing.assert_array_equal(cache.part(0, 300, 100), read(manifest[0])[300:400])
    np.testing.assert_array_equal(cache.part(1, 300, 100), read(manifest[1])[300:400])
    assert (decoded, parts) == ([0], ["1"])
