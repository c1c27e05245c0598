"""Audio inside other files: the same samples and the same hash as outside."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from upstream.audio import Manifest, Utterance, read
from upstream.audio.containers import open_audio
from upstream.errors import FormatError, InputError

FORMATS = ["wav", "flac", "ogg", "mp3"]


def packed(folder, suffix, before=b"x" * 77, samples=3000, rate=16_000):
    """The same audio as a file and inside another one."""
    wave = 0.2 * np.random.default_rng(1).standard_normal(samples).astype(np.float32)
    path = folder / f"a.{suffix}"
    soundfile.write(path, wave, rate)
    content = path.read_bytes()
    (folder / "shard").write_bytes(before + content + b"y" * 50)
    info = soundfile.info(str(path))
    outside = Utterance("a", path, 0, info.frames, info.samplerate, info.channels)
    return outside, replace(outside, audio=folder / "shard", offset=len(before), size=len(content))


@pytest.mark.parametrize("suffix", FORMATS)
def test_audio_inside_another_file_is_read_as_outside_spans_too(tmp_path, suffix):
    outside, inside = packed(tmp_path, suffix)
    np.testing.assert_array_equal(read(inside), read(outside))
    span = {"start": 700, "samples": 555}
    np.testing.assert_array_equal(read(replace(inside, **span)), read(replace(outside, **span)))


@given(before=st.integers(0, 500), start=st.integers(0, 900), data=st.data())
def test_any_span_at_any_offset_is_the_slice_of_the_whole(tmp_path_factory, before, start, data):
    samples = data.draw(st.integers(1, 1000 - start))
    _, inside = packed(tmp_path_factory.mktemp("c"), "flac", b"f" * before, 1000)
    np.testing.assert_array_equal(read(replace(inside, start=start, samples=samples)),
                                  read(inside)[start:start + samples])


@pytest.mark.parametrize("name", ["m.arrow", "m.parquet"])
def test_a_manifest_keeps_the_place_and_has_the_hash_of_the_unpacked_corpus(tmp_path, name):
    outside, inside = packed(tmp_path, "wav")
    mixed = [inside, replace(outside, id="b")]
    manifest = Manifest.of(mixed, "a test")
    manifest.save(tmp_path / name)
    loaded = Manifest.load(tmp_path / name)
    assert list(loaded) == mixed
    assert loaded.hash == manifest.hash == Manifest.of([outside, replace(outside, id="b")], "").hash
    assert list(loaded.select([1])) == mixed[1:]
    assert loaded.select([1]).hash == Manifest.of(mixed[1:], "").hash


def test_a_manifest_without_inner_files_has_no_column_for_them(tmp_path):
    outside, _ = packed(tmp_path, "wav")
    Manifest.of([outside], "a test").save(tmp_path / "m.parquet")
    assert "offset" not in pq.read_schema(tmp_path / "m.parquet").names


def test_a_container_that_is_cut_or_holds_something_else_is_named_with_the_place(tmp_path):
    _, inside = packed(tmp_path, "flac")
    with pytest.raises(InputError, match=r"a: .*shard \(the \d+ bytes from byte 70\) cannot be read as audio"):
        read(replace(inside, offset=70))
    content = inside.audio.read_bytes()
    inside.audio.write_bytes(content[:1000])
    with pytest.raises(InputError, match="shard"):
        read(inside)
    inside.audio.unlink()
    with pytest.raises(InputError, match="is not there"):
        read(inside)


def test_reading_never_leaves_the_inner_file(tmp_path):
    """Two files of different lengths one after the other: the first ends where it ends."""
    soundfile.write(tmp_path / "a.wav", np.full(100, 0.5), 16_000)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "shard").write_bytes(content + content)
    with open_audio(tmp_path / "shard", 0, len(content)) as file:
        assert file.frames == 100
        assert len(file.read(500)) == 100


@pytest.mark.parametrize(("columns", "said"), [
    ({"offset": [0, None]}, "none of bytes"),
    ({"offset": [0, None], "bytes": [None, 5]}, "a has an offset and no byte"),
    ({"offset": [-1, None], "bytes": [5, 5]}, "offset holds -1")])
def test_a_foreign_table_must_say_how_large_inner_files_are(tmp_path, columns, said):
    table = {"id": ["a", "b"], "audio": ["x", "x"], "start": [0, 0], "samples": [1, 1], "rate": [16000] * 2,
             "channels": [1, 1], **columns}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    with pytest.raises(FormatError, match=said):
        Manifest.load(tmp_path / "m.parquet")


def test_half_a_place_is_refused(tmp_path):
    outside, _ = packed(tmp_path, "wav")
    with pytest.raises(InputError, match="both or none"):
        Manifest.of([replace(outside, offset=5)], "a test")
