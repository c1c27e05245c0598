"""Imports and exports lose nothing, neither audio nor what earlier ones left, and mix nothing with it."""

import io
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from upstream.audio import Manifest, Utterance, import_folder
from upstream.audio.corpora.fairseq import export_fairseq, import_fairseq
from upstream.audio.corpora.kaldi import export_kaldi, import_kaldi
from upstream.audio.corpora.librispeech import import_librispeech
from upstream.audio.corpora.nemo import import_nemo
from upstream.audio.corpora.parquet import import_parquet
from upstream.audio.corpora.single import utterance_of_file, utterances_of_files
from upstream.audio.corpora.tar_shards import export_tar, import_tar
from upstream.audio.reading import read
from upstream.errors import HubertkitError, InputError, UsageError


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "audio").mkdir()
    for i in range(4):
        soundfile.write(tmp_path / f"audio/u{i}.wav", 0.1 * np.sin(np.arange(1600 + 100 * i) * 0.05 * (i + 1)), 16_000)
    return import_folder(tmp_path / "audio")


def flac(number):
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.sin(np.arange(1600) * 0.01 * (number + 1)), 16_000, format="FLAC")
    return file.getvalue()


def parquet(path, rows):
    table = pa.Table.from_pylist([{"id": f"u{i}", "audio": {"bytes": content, "path": None}}
                                  for i, content in enumerate(rows)])
    pq.write_table(table, path, compression="snappy")


def test_an_import_of_parquet_that_fails_leaves_the_audio_of_the_one_before(tmp_path):
    source, audio = tmp_path / "train.parquet", tmp_path / "m-audio"
    parquet(source, [flac(i) for i in range(3)])
    manifest = import_parquet(source, audio)
    before = [read(u) for u in manifest]
    parquet(source, [flac(5), flac(6), b"junk"])
    with pytest.raises(InputError, match="cannot be read as audio"):
        import_parquet(source, audio)
    for utterance, wave in zip(manifest, before, strict=True):
        np.testing.assert_array_equal(read(utterance), wave)
    parquet(source, [flac(5)])
    assert len(read(import_parquet(source, audio)[0])) == 1600
    assert len(list(audio.glob("[!.]*"))) == 2, "of two files"


def test_an_import_of_parquet_that_cannot_note_its_tar_leaves_the_one_before(tmp_path, monkeypatch):
    """A full disk when the tar was noted: the tar of the import before, which a manifest reads, was removed."""
    source, audio = tmp_path / "train.parquet", tmp_path / "m-audio"
    parquet(source, [flac(0)])
    manifest = import_parquet(source, audio)
    wave = read(manifest[0])

    def fail(*_):
        raise HubertkitError("the disk is full")

    monkeypatch.setattr("upstream.audio.corpora.parquet.claim", fail)
    with pytest.raises(HubertkitError, match="full"):
        import_parquet(source, audio)
    np.testing.assert_array_equal(read(manifest[0]), wave)


def test_a_tar_of_an_import_that_failed_is_no_longer_noted(tmp_path):
    source, audio = tmp_path / "train.parquet", tmp_path / "m-audio"
    parquet(source, [flac(0)])
    import_parquet(source, audio)
    parquet(source, [flac(1), b"junk"])
    with pytest.raises(InputError):
        import_parquet(source, audio)
    assert (audio / ".hubertkit-export").read_text().split() == [path.name for path in audio.glob("*.tar")]


@pytest.mark.parametrize("kind", ["kaldi", "fairseq"])
def test_transcripts_that_the_user_wrote_beside_an_export_stay(corpus, tmp_path, kind):
    """An export of a manifest without texts noted `text` as its own, so that the next one removed what was written
    there by hand."""
    export, name = {"kaldi": (export_kaldi, "text"), "fairseq": (export_fairseq, "train.wrd")}[kind]
    export(corpus, tmp_path / "out")
    (tmp_path / "out" / name).write_text("mine\n")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match=f"{name}: is there already, and nothing notes that hubertkit wrote it"):
        export(corpus.select([0]), tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(("kind", "names"), [
    ("kaldi", ["text"]), ("fairseq", ["train.ltr", "train.wrd"]), ("tar", ["train-000001.tar"])])
def test_what_an_export_removed_is_no_longer_its_own(corpus, tmp_path, kind, names):
    """A shard or a transcript that the user put where an export had removed its own was removed by the next."""
    told = Manifest.of([replace(u, text=f"TEXT {u.id}") for u in corpus], "x")
    export = {"kaldi": export_kaldi, "fairseq": export_fairseq,
              "tar": lambda manifest, out: export_tar(manifest, out, shard_bytes=1)}[kind]
    export(told.select([0, 1]), tmp_path / "out")
    export(corpus.select([0]), tmp_path / "out")
    for name in names:
        assert not (tmp_path / "out" / name).exists()
        (tmp_path / "out" / name).write_text("mine\n")
        with pytest.raises(InputError, match="nothing notes"):
            export(corpus.select([0]), tmp_path / "out")
        assert (tmp_path / "out" / name).read_text() == "mine\n"
        (tmp_path / "out" / name).unlink()


def test_what_an_import_that_was_killed_put_aside_is_put_back(tmp_path):
    source, audio = tmp_path / "train.parquet", tmp_path / "m-audio"
    parquet(source, [flac(0)])
    wave = read(import_parquet(source, audio)[0])
    [tar] = audio.glob("*.tar")
    tar.rename(audio / f".{tar.name}.before")
    parquet(source, [b"junk"])
    with pytest.raises(InputError):
        import_parquet(source, audio)
    assert list(audio.glob("*.tar")) == [tar]
    parquet(source, [flac(0)])
    np.testing.assert_array_equal(read(import_parquet(source, audio)[0]), wave)


def test_a_list_without_texts_does_not_get_those_of_the_list_before(corpus, tmp_path):
    told = Manifest.of([replace(u, text=f"TEXT {u.id}") for u in corpus], "x")
    export_fairseq(told.select([0, 1]), tmp_path / "out")
    assert import_fairseq(tmp_path / "out/train.tsv").texts == ["TEXT u0", "TEXT u1"]
    export_fairseq(corpus.select([2, 3]), tmp_path / "out")
    again = import_fairseq(tmp_path / "out/train.tsv")
    assert (again.ids, again.texts) == (["u2", "u3"], [None, None])


def test_labels_of_another_list_are_refused_and_kept(corpus, tmp_path):
    export_fairseq(corpus.select([0, 1]), tmp_path)
    (tmp_path / "train.km").write_text("1 2\n3 4\n")
    export_fairseq(corpus.select([0, 1]), tmp_path)
    before = (tmp_path / "train.tsv").read_bytes()
    with pytest.raises(InputError, match=r"train\.km: 2 lines of labels, and the list has 3 files"):
        export_fairseq(corpus.select([0, 1, 2]), tmp_path)
    assert (tmp_path / "train.tsv").read_bytes() == before


def test_shards_of_an_export_before_are_no_part_of_this_one(corpus, tmp_path):
    assert len(export_tar(corpus, tmp_path / "out", shard_bytes=1)) == 4
    (tmp_path / "out/train-extra.tar").touch()
    export_tar(corpus.select([0]), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == ["train-000000.tar", "train-extra.tar"]


def test_shards_are_not_written_over_while_they_are_read(corpus, tmp_path):
    export_tar(corpus, tmp_path / "out")
    packed = import_tar(tmp_path / "out")
    before = (tmp_path / "out/train-000000.tar").read_bytes()
    with pytest.raises(InputError, match="would be written over"):
        export_tar(packed.select([3, 0]), tmp_path / "out")
    assert (tmp_path / "out/train-000000.tar").read_bytes() == before
    assert export_tar(packed.select([3, 0]), tmp_path / "out", "part")


def test_members_whose_names_hold_dots_are_heard(corpus, tmp_path):
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        for source, name in (("u0", "u0.wav"), ("u1", "S01.U02.wav"), ("u2", "talk_0.5.wav")):
            tar.add(tmp_path / f"audio/{source}.wav", name)
        for name, content in (("talk_0.5.txt", b"SAID"), ("u0.vad.json", b"{}"), ("u0.txt", b"HERE")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    manifest = import_tar(tmp_path / "d.tar")
    assert list(zip(manifest.ids, manifest.texts)) == [("u0", "HERE"), ("S01.U02", None), ("talk_0.5", "SAID")]


def test_a_chapter_whose_transcripts_are_missing_is_named(corpus, tmp_path):
    for chapter in "12":
        folder = tmp_path / f"libri/84/{chapter}"
        folder.mkdir(parents=True)
        shutil.copy(tmp_path / "audio/u0.wav", folder / f"84-{chapter}-0000.wav")
    (tmp_path / "libri/84/1/84-1.trans.txt").write_text("84-1-0000 HELLO\n")
    (tmp_path / "libri/noise").mkdir()
    shutil.copy(tmp_path / "audio/u1.wav", tmp_path / "libri/noise/n.wav")  # no chapter
    with pytest.raises(InputError, match=r"84-2-0000\.wav: audio without a transcript"):
        import_librispeech(tmp_path / "libri")
    assert import_librispeech(tmp_path / "libri", ["84-1-0000"]).ids == ["84-1-0000"]


@pytest.mark.parametrize("start", ["NaN", "Infinity"])
def test_a_start_that_is_no_time_is_named(corpus, tmp_path, start):
    (tmp_path / "n.jsonl").write_text(f'{{"audio_filepath": "audio/u0.wav", "offset": {start}}}\n')
    with pytest.raises(InputError, match="s to the end is no part of a recording"):
        import_nemo(tmp_path / "n.jsonl")


def test_recordings_that_differ_in_their_suffix_keep_names_of_their_own(tmp_path):
    for suffix, level in (("wav", 0.1), ("flac", 0.2)):
        soundfile.write(tmp_path / f"x.{suffix}", np.full(4800, level), 16_000)
    parts = [Utterance(f"{suffix}-{start}", tmp_path / f"x.{suffix}", start, 1600, 16_000, 1)
             for suffix in ("wav", "flac") for start in (0, 1600)]
    export_kaldi(Manifest.of(parts, "x"), tmp_path / "out")
    again = import_kaldi(tmp_path / "out")
    for utterance in again:
        assert read(utterance)[0] == pytest.approx(0.1 if utterance.id.startswith("wav") else 0.2, abs=1e-3)


def test_a_file_whose_name_holds_a_space_is_an_utterance(tmp_path):
    soundfile.write(tmp_path / "my rec.wav", np.zeros(1600), 16_000)
    utterance = utterance_of_file(tmp_path / "my rec.wav")
    assert Manifest.of([utterance], "x").ids == ["my_rec"]


@pytest.mark.parametrize(("names", "ids"), [
    (["x1/a.wav", "x2/a.wav", "x2/b.c.wav"], ["x1-a", "x2-a", "b.c"]),
    (["p/x/a.wav", "q/x/a.wav", "q/y/a.wav"], ["p-x-a", "q-x-a", "q-y-a"]),
    (["x/a.wav", "x/a.flac", "b.wav"], ["a.wav", "a.flac", "b"])])
def test_files_of_one_name_are_told_apart_by_as_few_folders_as_do(tmp_path, names, ids):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, np.zeros(1600), 16_000)
    found = utterances_of_files([tmp_path / name for name in names])
    assert [u.id for u in found] == ids
    assert [u.audio for u in found] == [(tmp_path / name).resolve() for name in names]


def test_files_that_cannot_be_told_apart_are_refused(tmp_path):
    for name in ("a b.wav", "a_b.wav"):
        soundfile.write(tmp_path / name, np.zeros(1600), 16_000)
    with pytest.raises(UsageError, match="differ in spaces only"):
        utterances_of_files([tmp_path / "a b.wav", tmp_path / "a_b.wav"])
    with pytest.raises(UsageError, match=r"a_b\.wav: named twice"):
        utterances_of_files([tmp_path / "a_b.wav", tmp_path / "." / "a_b.wav"])
