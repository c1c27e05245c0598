"""Corpora packed into tar shards and Parquet files: read in place, or written once where that cannot be."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from upstream.audio import read
from upstream.audio.corpora.parquet import import_parquet
from upstream.audio.corpora.tar_shards import import_tar
from upstream.errors import InputError, UsageError


def content(samples, form="FLAC"):
    memory = io.BytesIO()
    wave = np.random.default_rng(samples).integers(-9000, 9000, samples).astype(np.int16)
    soundfile.write(memory, wave, 16_000, format=form)
    return memory.getvalue()


def tar_of(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, value in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    return path


class TestTar:
    def test_shards_are_read_in_place_with_texts_and_speakers(self, tmp_path):
        long_name = "x" * 150  # beyond the 100 bytes of a plain header
        tar_of(tmp_path / "s" / "0.tar", {"a/1.flac": content(800), "a/1.txt": b"one  text\n", "a/2.json": b"{}",
                                          "a/2.flac": content(900), f"{long_name}.wav": content(700, "WAV")})
        tar_of(tmp_path / "s" / "1.tar", {"b.json": b'{"sentence": "two", "speaker_id": 7}', "b.flac": content(600),
                                          "b.cls": b"5"})
        found = import_tar(tmp_path / "s")
        assert found.ids == ["a-1", "a-2", long_name, "b"]
        assert found.texts == ["one text", None, None, "two"]
        assert found.speakers == [None, None, None, "7"]
        for utterance, samples in zip(found, (800, 900, 700, 600)):
            expected = np.random.default_rng(samples).integers(-9000, 9000, samples) / 32_768
            np.testing.assert_array_equal(read(utterance), expected.astype(np.float32))

    def test_keys_that_two_shards_share_are_told_apart_by_their_shards(self, tmp_path):
        for shard in ("x", "y"):
            tar_of(tmp_path / f"{shard}.tar", {"000.flac": content(500)})
        assert import_tar(tmp_path).ids == ["x-000", "y-000"]

    def test_a_second_name_of_a_file_is_an_utterance_too(self, tmp_path):
        """GNU tar writes hard-linked files once; their other names were lost without a word."""
        path = tar_of(tmp_path / "0.tar", {"a.flac": content(800), "a.txt": b"one"})
        with tarfile.open(path, "a") as tar:
            for name, target in (("b.flac", "a.flac"), ("b.txt", "a.txt")):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = tarfile.LNKTYPE, target
                tar.addfile(member)
        found = import_tar(path)
        assert (found.ids, found.texts) == (["a", "b"], ["one", "one"])
        np.testing.assert_array_equal(read(found[1]), read(found[0]))
        with tarfile.open(path, "a") as tar:
            member = tarfile.TarInfo("c.flac")
            member.type, member.linkname = tarfile.LNKTYPE, "gone.flac"
            tar.addfile(member)
        with pytest.raises(InputError, match=r"c\.flac is a link to gone\.flac, which the tar does not hold"):
            import_tar(path)

    @pytest.mark.parametrize(("members", "said"), [
        ({"a.flac": b"no audio"}, "cannot be read as audio"), ({"a.txt": b"words"}, "a has no audio in the tar"),
        ({"a.flac": content(500), "a.wav": content(500, "WAV")}, "a.wav is a second recording of a"),
        ({"a.flac": content(500), "a.json": b"{"}, "a.json cannot be read"),
        ({"a.flac": content(500), "a.txt": b"\xff"}, "a.txt cannot be read"), ({}, "no utterances")])
    def test_a_wrong_member_is_named(self, tmp_path, members, said):
        with pytest.raises(InputError, match=said):
            import_tar(tar_of(tmp_path / "a.tar", members))

    def test_a_compressed_or_cut_tar_is_refused_and_so_is_none(self, tmp_path):
        with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("a.flac"))
        (tmp_path / "b.tar").write_bytes(tar_of(tmp_path / "c.tar", {"a.flac": content(9000)}).read_bytes()[:5000])
        for name in "ab":
            with pytest.raises(InputError, match=rf"{name}\.tar"):
                import_tar(tmp_path / f"{name}.tar")
        with pytest.raises(UsageError, match="no such tar"):
            import_tar(tmp_path / "none.tar")

    def test_suffixes_in_upper_case_are_shards_too(self, tmp_path):
        """They were passed over without a word."""
        tar_of(tmp_path / "0.tar", {"a.flac": content(800)})
        tar_of(tmp_path / "1.TAR", {"b.flac": content(900)})
        (tmp_path / "1.TAR.GZ").write_bytes(b"what 1.TAR was unpacked of")
        assert import_tar(tmp_path).ids == ["a", "b"]

    @pytest.mark.parametrize("name", ["1.tar.gz", "1.tgz", "deep/1.tar.zst", "1.tar.bz2", "1.txz", "1.TAR.GZ", "1.TGZ"])
    def test_a_compressed_shard_in_a_folder_is_refused(self, tmp_path, name):
        """Beside others it was left out without a word."""
        tar_of(tmp_path / "s" / "0.tar", {"a.flac": content(800)})
        (tmp_path / "s" / "list.txt.gz").write_bytes(b"no shard")
        (tmp_path / "s" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "s" / name).write_bytes(b"compressed")
        for source in (tmp_path / "s", tmp_path / "s" / name):
            with pytest.raises(InputError, match=rf"{name}: a compressed tar cannot be read in place; unpack it"):
                import_tar(source)
        skipped = []
        assert import_tar(tmp_path / "s", skipped.append).ids == ["a"]
        assert [problem.path for problem in skipped] == [tmp_path / "s" / name]
        unpacked = tar_of((tmp_path / "s" / name).with_name("1.tar"), {"b.flac": content(900)})
        assert sorted(import_tar(tmp_path / "s").ids) == ["a", "b"]
        for tar in (unpacked, tmp_path / "s" / "0.tar"):
            tar.unlink()
        with pytest.raises(InputError, match="a compressed tar cannot be read in place"):
            import_tar(tmp_path / "s")


class TestParquet:
    def test_a_suffix_in_upper_case_is_read_too(self, tmp_path):
        self.written(tmp_path / "a.parquet", 2)
        self.written(tmp_path / "B.PARQUET", 3)
        assert len(import_parquet(tmp_path, tmp_path / "extracted").ids) == 5

    def written(self, path, rows=6, repeated=False, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        audio_ = [{"bytes": content(600 if repeated else 600 + i), "path": f"{i}.flac"} for i in range(rows)]
        pq.write_table(pa.table({"audio": audio_, "text": [f"text {i}" for i in range(rows)],
                                 "speaker_id": [i % 2 for i in range(rows)]}), path, row_group_size=4, **options)
        return path

    @pytest.mark.parametrize("options", [{"compression": "none"}, {"compression": "none", "use_dictionary": False},
                                         {"compression": "none", "data_page_version": "2.0"},
                                         {"compression": "snappy"}, {"compression": "zstd"}], ids=str)
    @pytest.mark.parametrize("repeated", [False, True])
    def test_audio_inside_is_read_in_place_where_it_lies_plain(self, tmp_path, options, repeated):
        path = self.written(tmp_path / "a.parquet", repeated=repeated, **options)
        found = import_parquet(path, tmp_path / "extracted")
        assert found.ids == [str(i) for i in range(6)]
        assert found.texts[5] == "text 5"
        assert found.speakers[:2] == ["0", "1"]
        for i, utterance in enumerate(found):
            assert utterance.audio.read_bytes()[utterance.offset:utterance.offset + utterance.size] == \
                content(600 if repeated else 600 + i)
            assert len(read(utterance)) == (600 if repeated else 600 + i)
        in_place = options["compression"] == "none"
        assert {u.audio for u in found} == {path} if in_place else \
            {u.audio for u in found} == set((tmp_path / "extracted").glob("a-*.tar"))
        assert (tmp_path / "extracted").exists() != in_place

    def test_a_changed_file_leaves_the_audio_of_earlier_manifests(self, tmp_path):
        """Its tar was replaced, and they read other utterances without a word."""
        rows = [{"bytes": content(600 + i), "path": f"{i}.flac"} for i in range(3)]
        pq.write_table(pa.table({"audio": rows}), tmp_path / "a.parquet", compression="zstd")
        before = import_parquet(tmp_path / "a.parquet", tmp_path / "x")
        pq.write_table(pa.table({"audio": rows[::-1]}), tmp_path / "a.parquet", compression="zstd")
        after = import_parquet(tmp_path / "a.parquet", tmp_path / "x")
        for found in (before, after):
            assert {u.id: len(read(u)) for u in found} == {"0": 600, "1": 601, "2": 602}

    @pytest.mark.parametrize(("ids", "expected"), [([7, 7, 9], "012"), ([0, 1, 2], "012"), ([5, 0, 6], "506"),
                                                   (["", "b", "c"], "012")])
    def test_numbers_that_several_rows_share_are_no_ids(self, tmp_path, ids, expected):
        """FLEURS numbers sentences; and a number of 0 counted as none."""
        values = [{"bytes": content(500 + i), "path": f"{i}.flac"} for i in range(3)]
        pq.write_table(pa.table({"id": ids, "audio": values}), tmp_path / "a.parquet")
        assert "".join(import_parquet(tmp_path / "a.parquet", tmp_path / "x").ids) == expected

    def test_what_is_extracted_is_a_tar_that_can_be_imported(self, tmp_path):
        path = self.written(tmp_path / "a.parquet", compression="snappy")
        found = import_parquet(path, tmp_path / "extracted")
        again = import_tar(tmp_path / "extracted")
        assert [(u.audio, u.offset, u.size) for u in again] == [(u.audio, u.offset, u.size) for u in found]

    def test_a_folder_of_files_is_one_corpus(self, tmp_path):
        for name in ("b", "a"):
            self.written(tmp_path / "s" / f"{name}.parquet", rows=2)
        assert import_parquet(tmp_path / "s", tmp_path / "x").ids == ["a-0", "a-1", "b-0", "b-1"]

    def test_nothing_is_left_of_an_import_that_fails(self, tmp_path):
        path = tmp_path / "a.parquet"
        values = [{"bytes": content(500), "path": "a"}, {"bytes": b"none", "path": "b"}]
        pq.write_table(pa.table({"audio": values}), path)
        with pytest.raises(InputError, match="cannot be read as audio"):
            import_parquet(path, tmp_path / "x")
        assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]
        skipped = []
        assert import_parquet(path, tmp_path / "x", skipped.append).ids == ["a"]
        assert [p.id for p in skipped] == ["b"]

    @pytest.mark.parametrize(("columns", "said"), [
        ({"text": ["x"]}, "found none among text"),
        ({"a": [b"x"], "b": [b"y"]}, r"found 2 columns \(a, b\)"),
        ({"audio": [{"bytes": None, "path": "there.flac"}]}, "row 0 has no audio inside, only the path there.flac")])
    def test_a_table_without_audio_is_refused(self, tmp_path, columns, said):
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({k: pa.array(v, kind if k == "audio" else None) for k, v in columns.items()})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(InputError, match=said):
            import_parquet(tmp_path / "a.parquet", tmp_path / "x")

    def test_a_file_that_is_none_is_named(self, tmp_path):
        (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing")
        with pytest.raises(InputError, match=r"a\.parquet: cannot be read as Parquet"):
            import_parquet(tmp_path / "a.parquet", tmp_path / "x")
        (tmp_path / "b.parquet").write_bytes(b"")
        with pytest.raises(InputError, match=r"b\.parquet"):
            import_parquet(tmp_path / "b.parquet", tmp_path / "x")

    @pytest.mark.parametrize("compression", ["none", "snappy"])
    def test_spoilt_bytes_end_in_one_line_or_in_audio(self, tmp_path, compression):
        whole = self.written(tmp_path / "whole.parquet", compression=compression).read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(60):
            spoilt = bytearray(whole)
            for place in rng.integers(0, len(whole), 3):
                spoilt[place] = rng.integers(256)
            (tmp_path / "a.parquet").write_bytes(spoilt)
            try:
                import_parquet(tmp_path / "a.parquet", tmp_path / "x")
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017 most, but not all, are refused
