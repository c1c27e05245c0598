"""The manifest: columns, files, hash, lookup."""

import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from upstream.audio import Manifest, Utterance
from upstream.audio.manifest import resampled_length
from upstream.audio.manifest_file import LOOK_BYTES, look, read_table
from upstream.errors import FormatError, InputError, UsageError

characters = st.characters(codec="utf-8", exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"])
words = st.text(characters, min_size=1, max_size=12)
names = st.text("abcXYZ0129-_.é", min_size=1, max_size=12).filter(lambda s: s.strip("."))


@st.composite
def utterance_lists(draw):
    ids = draw(st.lists(words.filter(lambda s: s.split() == [s]), max_size=12, unique=True))
    return [Utterance(i, Path("/corpus") / draw(names), draw(st.integers(0, 2**40)), draw(st.integers(0, 2**40)),
                      draw(st.sampled_from([8000, 16000, 44100])), draw(st.integers(1, 8)),
                      draw(st.none() | words), draw(st.none() | st.text(max_size=20).filter(_utf8))) for i in ids]


def _utf8(text):
    return not any(0xD800 <= ord(c) < 0xE000 for c in text)


def numbered(count, folder=Path("/corpus"), **changes):
    rows = (Utterance(f"u{i:03d}", folder / f"{i % 3}.flac", 100 * i, 1000 + i, 16000, 1, f"s{i % 2}", f"TEXT {i}")
            for i in range(count))
    return [replace(row, **changes) for row in rows]


def files_in(folder, *sizes):
    folder.mkdir(parents=True, exist_ok=True)
    for i, size in enumerate(sizes):
        (folder / f"{i}.flac").write_bytes(b"x" * size)


@given(utterance_lists(), st.sampled_from(["m.arrow", "m.parquet"]))
def test_a_saved_manifest_comes_back_the_same(tmp_path_factory, utterances, name):
    manifest = Manifest.of(utterances, "a test")
    assert list(manifest) == utterances
    path = tmp_path_factory.mktemp("manifest") / name
    manifest.save(path)
    loaded = Manifest.load(path)
    assert list(loaded) == utterances
    assert (loaded.hash, loaded.source, len(loaded)) == (manifest.hash, "a test", len(utterances))


@given(utterance_lists(), st.data())
def test_a_selection_keeps_rows_and_order(utterances, data):
    manifest = Manifest.of(utterances, "a test")
    places = data.draw(st.permutations(range(len(utterances))))[:data.draw(st.integers(0, len(utterances)))]
    assert list(manifest.select(places)) == [utterances[i] for i in places]
    wanted = {utterances[i].id for i in places}
    assert list(manifest.only(wanted)) == [u for u in utterances if u.id in wanted]


@given(utterance_lists())
def test_the_hash_is_that_of_the_rows_however_they_came_about(tmp_path_factory, utterances):
    manifest = Manifest.of(utterances, "a test")
    double = [replace(u, id=u.id + "+") for u in utterances]
    both = Manifest.of([x for pair in zip(utterances, double) for x in pair], "twice as many")
    path = tmp_path_factory.mktemp("manifest") / "m.arrow"
    both.save(path)
    assert Manifest.load(path).only([u.id for u in utterances]).hash == manifest.hash
    assert both.select(range(0, len(both), 2)).hash == manifest.hash


@given(st.integers(0, 10**7), st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000]))
def test_a_resampled_length_is_the_nearest_integer(samples, rate):
    length = Utterance("u", Path("/a"), 0, samples, rate, 1).length
    assert abs(length - samples * 16000 / rate) <= 0.5
    assert Manifest.of([Utterance("u", Path("/a"), 0, samples, rate, 1)], "a test").lengths.tolist() == [length]


def test_resampled_lengths_by_hand():
    """3 samples at 48 kHz are 1 at 16 kHz; at 32 kHz they are 1.5, which counts as 2; 44,100 are 16,000 exactly."""
    found = resampled_length(np.array([3, 3, 44_100, 7]), np.array([48_000, 32_000, 44_100, 16_000]))
    assert found.tolist() == [1, 2, 16_000, 7]
    assert found.dtype == np.int64


def test_columns_and_seconds():
    manifest = Manifest.of(numbered(4), "a test")
    assert manifest.ids == ["u000", "u001", "u002", "u003"]
    assert manifest.speakers == ["s0", "s1", "s0", "s1"]
    assert manifest.texts[3] == "TEXT 3"
    assert manifest.lengths.tolist() == [1000, 1001, 1002, 1003]
    assert manifest.seconds == pytest.approx(4006 / 16000)
    assert manifest.formats == {"16000 Hz, 1 channel": 4}
    assert manifest[-1] == manifest[3]
    with pytest.raises(IndexError):
        manifest[4]


def test_audio_beside_the_manifest_moves_with_it(tmp_path):
    files_in(tmp_path / "here" / "audio", 10, 20, 30)
    manifest = Manifest.of(numbered(5, tmp_path / "here" / "audio"), "a test")
    manifest.save(tmp_path / "here" / "m.arrow")
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = Manifest.load(tmp_path / "there" / "m.arrow")
    assert moved[4].audio == tmp_path / "there" / "audio" / "1.flac"
    assert moved.hash == manifest.hash


def test_audio_elsewhere_is_named_absolutely(tmp_path):
    files_in(tmp_path / "audio", 10, 20, 30)
    files_in(tmp_path / "audio2")
    manifest = Manifest.of(numbered(5, tmp_path / "audio"), "a test")
    manifest.save(tmp_path / "audio2" / "m.arrow")  # a folder whose name begins alike is another folder
    shutil.move(tmp_path / "audio2", tmp_path / "there")
    assert Manifest.load(tmp_path / "there" / "m.arrow")[0].audio == tmp_path / "audio" / "0.flac"


def test_a_manifest_saved_again_elsewhere_still_finds_its_audio(tmp_path):
    files_in(tmp_path / "corpus", 1, 2, 3)
    Manifest.of(numbered(5, tmp_path / "corpus"), "a test").save(tmp_path / "corpus" / "m.arrow")
    loaded = Manifest.load(tmp_path / "corpus" / "m.arrow")
    loaded.select([4, 1]).save(tmp_path / "elsewhere" / "part.arrow")
    again = Manifest.load(tmp_path / "elsewhere" / "part.arrow")
    assert list(again) == [loaded[4], loaded[1]]
    assert again.hash == loaded.select([4, 1]).hash != loaded.hash


def test_a_relative_path_is_relative_to_the_working_directory_when_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Manifest.of([Utterance("u", Path("a.wav"), 0, 1, 16000, 1)], "a test")[0].audio == tmp_path / "a.wav"


def test_the_hash_ignores_place_and_time_of_the_files(tmp_path):
    files_in(tmp_path / "one", 10, 20, 30)
    files_in(tmp_path / "two", 10, 20, 30)
    os.utime(tmp_path / "two" / "0.flac", (1, 1))
    one, two = (Manifest.of(numbered(5, tmp_path / name), name) for name in ("one", "two"))
    assert one.hash == two.hash


@pytest.mark.parametrize("place", [0, 70_000, -1])
def test_the_hash_sees_other_audio_of_the_same_size(tmp_path, place):
    """A bug once found: clean and noisy WAV files of the same names and lengths were one corpus to stages, caches."""
    content = bytearray(b"x" * 140_000)
    for name in ("one", "two"):
        files_in(tmp_path / name, 0, 0)
        (tmp_path / name / "2.flac").write_bytes(content)
        content[place] = ord("y")
    one, two = (Manifest.of(numbered(5, tmp_path / name), "") for name in ("one", "two"))
    assert (one.hash == two.hash) == (place == 70_000)  # the middle is not looked at
    assert one.listing_hash == two.listing_hash
    one.save(tmp_path / "m.arrow")
    loaded = Manifest.load(tmp_path / "m.arrow")
    assert (loaded.hash, loaded.listing_hash) == (one.hash, one.listing_hash)


@pytest.mark.parametrize(("size", "offset", "inner"), [
    (0, 0, None), (10, 0, None), (200_000, 0, None), (65_536, 0, None), (300_000, 1000, 10), (300_000, 1000, 200_000)])
def test_a_look_is_the_crc_of_both_ends(tmp_path, size, offset, inner):
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "a").write_bytes(content)
    part = content[offset:offset + inner] if inner is not None else content
    both = part if len(part) <= 2 * LOOK_BYTES else part[:LOOK_BYTES] + part[-LOOK_BYTES:]
    assert look(str(tmp_path / "a"), offset, inner) == zlib.crc32(both)
    assert look(str(tmp_path / "b")) is None


@pytest.mark.parametrize("name", ["m.arrow", "m.parquet"])
def test_rows_that_another_program_changed_have_another_hash(tmp_path, name):
    """A bug once found: the hash in the file's metadata, which Arrow keeps, was taken for that of the rows."""
    manifest = Manifest.of(numbered(5), "a test")
    manifest.save(tmp_path / name)
    table = read_table(tmp_path / name)[0].replace_schema_metadata(
        {"format": "hubertkit manifest", "version": "1", "source": "a test", "hash": manifest.hash})

    def written(changed):
        pq.write_table(changed, tmp_path / "changed.parquet")
        return Manifest.load(tmp_path / "changed.parquet")

    assert written(table).hash == manifest.hash
    assert written(table.slice(0, 3)).hash == manifest.select([0, 1, 2]).hash
    with pytest.raises(FormatError, match="the id u000 occurs 2 times"):
        assert written(pa.concat_tables([table, table])).hash


def test_the_hash_sees_the_size_of_a_file(tmp_path):
    files_in(tmp_path / "one", 10, 20, 30)
    files_in(tmp_path / "two", 10, 21, 30)
    assert Manifest.of(numbered(5, tmp_path / "one"), "").hash != Manifest.of(numbered(5, tmp_path / "two"), "").hash


@pytest.mark.parametrize("change", [
    {"id": "x"}, {"start": 7}, {"samples": 7}, {"rate": 8000}, {"channels": 2}, {"speaker": None}, {"speaker": "x"},
    {"text": None}, {"text": ""}, {"text": "OTHER"}])
def test_the_hash_changes_when_a_row_changes(change):
    rows = numbered(3)
    changed = [rows[0], replace(rows[1], **change), rows[2]]
    assert Manifest.of(rows, "a test").hash != Manifest.of(changed, "a test").hash


def test_the_hash_sees_the_order_and_where_a_text_ends():
    rows = numbered(2)
    assert Manifest.of(rows, "").hash != Manifest.of(rows[::-1], "").hash
    one, two = ([replace(row, text=text) for row, text in zip(rows, texts)] for texts in (("AB", "C"), ("A", "BC")))
    assert Manifest.of(one, "").hash != Manifest.of(two, "").hash


def test_loading_maps_the_file_and_copies_nothing(tmp_path):
    Manifest.of(numbered(20_000), "a test").save(tmp_path / "m.arrow")
    before = pa.total_allocated_bytes()
    loaded = Manifest.load(tmp_path / "m.arrow")
    lengths = loaded.lengths
    assert pa.total_allocated_bytes() - before < 10_000
    assert (len(loaded), lengths[-1]) == (20_000, 1000 + 19_999)


def test_a_manifest_of_many_rows_iterates_in_order():
    rows = numbered(5000)
    assert [u.start for u in Manifest.of(rows, "a test")] == [u.start for u in rows]


def test_parquet_from_elsewhere_with_the_least_columns_is_read(tmp_path):
    files_in(tmp_path, 10)
    table = pa.table({"id": ["a", "b"], "audio": ["0.flac", "0.flac"], "start": pa.array([0, 5], pa.int32()),
                      "samples": [5, 5], "rate": [16000, 16000], "channels": [1, 1], "extra": [1, 2]})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=1)
    manifest = Manifest.load(tmp_path / "m.parquet")
    made = [Utterance("a", tmp_path / "0.flac", 0, 5, 16000, 1), Utterance("b", tmp_path / "0.flac", 5, 5, 16000, 1)]
    assert list(manifest) == made
    assert manifest.listing_hash == Manifest.of(made, "other").listing_hash


def foreign(tmp_path, **columns):
    table = {"id": ["a", "b"], "audio": ["x", "x"], "start": [0, 0], "samples": [1, 1], "rate": [16000] * 2,
             "channels": [1, 1], **columns}
    pq.write_table(pa.table({k: v for k, v in table.items() if v is not None}), tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


@pytest.mark.parametrize(("columns", "said"), [
    ({"rate": None}, "no column rate"), ({"id": ["a", "a"]}, "the id a occurs 2 times"),
    ({"samples": [1, -5]}, "samples holds -5"), ({"rate": [0, 16000]}, "rate holds 0"),
    ({"start": ["zero", "one"]}, "column start is string"), ({"id": ["a", None]}, "1 rows have no id")])
def test_a_foreign_table_that_cannot_be_a_manifest_is_refused(tmp_path, columns, said):
    with pytest.raises(FormatError, match=said):
        Manifest.load(foreign(tmp_path, **columns))


def test_files_that_are_no_manifests_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.arrow: no such manifest"):
        Manifest.load(tmp_path / "none.arrow")
    (tmp_path / "text.arrow").write_text("hello")
    (tmp_path / "empty.parquet").write_bytes(b"")
    for name in ("text.arrow", "empty.parquet"):
        with pytest.raises(FormatError, match=f"{name}: not a manifest"):
            Manifest.load(tmp_path / name)


def test_a_manifest_cut_short_is_refused_at_every_length(tmp_path):
    Manifest.of(numbered(50), "a test").save(tmp_path / "m.arrow")
    content = (tmp_path / "m.arrow").read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "cut.arrow").write_bytes(content[:length])
        with pytest.raises(FormatError, match="cut short"):
            Manifest.load(tmp_path / "cut.arrow")


def test_a_manifest_of_a_later_version_is_refused(tmp_path):
    Manifest.of(numbered(2), "a test").save(tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"version": b"99"}), tmp_path / "m.parquet")
    with pytest.raises(FormatError, match="version 99"):
        Manifest.load(tmp_path / "m.parquet")


def test_a_failed_save_leaves_the_old_manifest(tmp_path, monkeypatch):
    Manifest.of(numbered(2), "old").save(tmp_path / "m.arrow")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device", str(tmp_path / "m.arrow"))

    monkeypatch.setattr(pa.ipc, "new_file", full)
    with pytest.raises(Exception, match=r"disk is full"):
        Manifest.of(numbered(3), "new").save(tmp_path / "m.arrow")
    monkeypatch.undo()
    assert Manifest.load(tmp_path / "m.arrow").source == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.arrow"]


def test_an_unknown_id_is_answered_with_the_most_similar_one():
    manifest = Manifest.of(numbered(300), "the corpus")
    with pytest.raises(InputError, match="the corpus: no utterance u012x; the most similar id is u012"):
        manifest.only(["u012x"])
    with pytest.raises(InputError, match="no utterance x1 and 1 more"):
        manifest.only(["u001", "x1", "x2"])
    with pytest.raises(InputError, match="no utterances"):
        Manifest.of([], "nothing").only(["u"])


def test_selecting_beyond_the_end_or_twice_is_refused():
    manifest = Manifest.of(numbered(3), "a test")
    with pytest.raises(IndexError):
        manifest.select([3])
    with pytest.raises(IndexError):
        manifest.select([-1])
    with pytest.raises(InputError, match="twice"):
        manifest.select([1, 1])


def test_a_mask_selects_where_it_is_true():
    """It selected the utterances 0 and 1, where it did not say that one was selected twice."""
    manifest = Manifest.of(numbered(3), "a test")
    assert manifest.select(np.array([False, True, True])).ids == ["u001", "u002"]
    assert manifest.select(np.array([False, False, True])).ids == ["u002"]


@pytest.mark.parametrize(("change", "said"), [({"id": "u000"}, "a second utterance with the id u000"),
                                              ({"id": ""}, "empty or holds a space"), ({"id": "a b"}, "holds a space"),
                                              ({"start": -1}, "cannot be"), ({"rate": 0}, "cannot be"),
                                              ({"channels": 0}, "cannot be"), ({"samples": -1}, "cannot be"),
                                              ({"audio": Path("/a\udcff.wav")}, "not UTF-8")])
def test_impossible_utterances_are_refused(change, said):
    rows = numbered(2)
    with pytest.raises(InputError, match=said):
        Manifest.of([rows[0], replace(rows[1], **change)], "a test")


def test_a_manifest_can_be_made_with_every_pyarrow_that_is_admitted(monkeypatch, tmp_path):
    """Before 25 pyarrow makes no dictionary of large strings of a list; 15 to 24 wrote no manifest."""
    make = pa.array

    def older(values, kind=None, *rest, **options):
        if kind is not None and pa.types.is_dictionary(kind) and isinstance(values, list):
            raise pa.ArrowNotImplementedError("DictionaryArray converter for type")
        return make(values, kind, *rest, **options)

    monkeypatch.setattr(pa, "array", older)
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16_000)
    found = Manifest.of([Utterance("a", tmp_path / "a.wav", 0, 100, 16_000, 1, "ann", None)], "a test")
    assert found.speakers == ["ann"]


@given(utterance_lists(), st.data())
def test_other_texts_and_ids_leave_everything_else_as_it_was(utterances, data):
    texts = data.draw(st.lists(st.none() | words, min_size=len(utterances), max_size=len(utterances)))
    manifest = Manifest.of(utterances, "a test")
    assert list(manifest.with_texts(texts)) == [replace(u, text=t) for u, t in zip(utterances, texts)]
    assert list(manifest.with_ids([f"{u.id}~2" for u in utterances])) == [
        replace(u, id=f"{u.id}~2") for u in utterances]
    assert manifest.with_texts([u.text for u in utterances]).hash == manifest.hash
    assert list(manifest) == utterances


def test_a_manifest_joined_of_parts_is_the_one_of_all_their_utterances(tmp_path):
    """Audio paths relative to folders of their own; an offset that only one part has."""
    files_in(tmp_path / "a", 9, 9, 9)
    files_in(tmp_path / "b", 9, 9, 9)
    one = numbered(4, tmp_path / "a")
    other = [replace(u, id=f"other-{u.id}", speaker="third", offset=3, size=5) for u in numbered(3, tmp_path / "b")]
    for name, rows in (("a", one), ("b", other)):
        Manifest.of(rows, name).save(tmp_path / name / "m.arrow")
    loaded = [Manifest.load(tmp_path / name / "m.arrow") for name in "ab"]
    for order, rows in ((loaded, one + other), (loaded[::-1], other + one)):
        joined = Manifest.joined(order, "both")
        assert list(joined) == rows
        assert joined.hash == Manifest.of(rows, "both").hash
        joined.save(tmp_path / "joined.arrow")
        assert list(Manifest.load(tmp_path / "joined.arrow")) == rows
    with pytest.raises(InputError, match="a second utterance with the id u000"):
        Manifest.joined([loaded[0], loaded[0]], "twice")
    with pytest.raises(InputError, match="a second utterance with the id same"):
        loaded[0].with_ids(["same"] * 4)
