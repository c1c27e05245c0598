"""What is exported in the layouts of others comes back from them: the same ids, speakers, texts and samples."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from full_disk import files_up_to

from upstream.audio import Manifest, Utterance
from upstream.audio.corpora.common_voice import export_common_voice, import_common_voice
from upstream.audio.corpora.libri_light import export_libri_light, import_libri_light
from upstream.audio.corpora.parquet import export_parquet, import_parquet
from upstream.audio.corpora.tar_shards import export_tar, import_tar
from upstream.audio.cutting import cut_audio
from upstream.audio.file_names import fitting
from upstream.audio.reading import read
from upstream.errors import BusyError, HubertkitError, InputError, UsageError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Fourteen utterances of two speakers, all of them parts of one recording."""
    path = tmp_path_factory.mktemp("audio") / "whole.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 14 * 8000), 16_000, subtype="PCM_16")
    return Manifest.of((Utterance(f"{7 + i % 2}-{40 + i % 2}-{i:04d}", path, i * 8000, 8000, 16_000, 1, str(7 + i % 2),
                                  f"WÖRD {i}") for i in range(14)), "a test")


def back(kind, corpus, folder):
    if kind == "common voice":
        return import_common_voice(export_common_voice(corpus, folder))
    if kind == "tar":
        shards = export_tar(corpus, folder, shard_bytes=60_000)
        assert 1 < len(shards) < 14
        return import_tar(folder)
    if kind == "parquet":
        folder.mkdir()
        found = import_parquet(export_parquet(corpus, folder / "a.parquet"), folder / "extracted")
        assert not (folder / "extracted").exists()  # read where it lies
        return found
    export_libri_light(corpus.select(range(12)), folder, corpus.select([12, 13]))
    return import_libri_light(folder, "10h")


@pytest.mark.parametrize("kind", ["common voice", "tar", "parquet", "libri-light"])
def test_what_is_exported_comes_back(kind, corpus, tmp_path):
    found = {u.id: u for u in back(kind, corpus, tmp_path / "out")}
    assert found.keys() == set(corpus.ids)
    for u in corpus:
        assert (found[u.id].speaker, found[u.id].text) == (u.speaker, u.text)
        np.testing.assert_array_equal(read(found[u.id]), read(u))


def test_datasets_is_told_that_the_column_is_audio(corpus, tmp_path):
    path = export_parquet(corpus, tmp_path / "a.parquet")
    described = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
    assert described["audio"] == {"sampling_rate": 16_000, "_type": "Audio"}


def test_sets_of_ten_minutes_share_the_speakers_and_nothing_else(corpus, tmp_path):
    export_libri_light(corpus, tmp_path / "out")
    parts = [import_libri_light(tmp_path / "out", "10min", fold) for fold in range(6)]
    assert sorted(i for part in parts for i in part.ids) == sorted(corpus.ids)
    assert all({u.speaker for u in part} == {"7", "8"} for part in parts)


def test_what_a_layout_cannot_hold_is_named_and_nothing_is_left(corpus, tmp_path):
    first = next(iter(corpus))
    with pytest.raises(InputError, match=r"^utterance: Libri-light's layout wants ids"):
        export_libri_light(Manifest.of([replace(first, id="utterance")], "a test"), tmp_path / "ll")
    with pytest.raises(InputError, match=f"^{first.id}: is in the hour"):
        export_libri_light(corpus, tmp_path / "ll", corpus.select([0]))
    with pytest.raises(InputError, match=r"^a_b: a tar cannot tell it from a.b"):
        export_tar(Manifest.of([replace(first, id="a.b"), replace(first, id="a_b")], "a test"), tmp_path / "tar")
    gone = Manifest.of([first, replace(first, id="7-40-9999", audio=tmp_path / "gone.wav")], "a test")
    for export in (export_libri_light, export_common_voice):
        with pytest.raises(InputError, match=r"gone.wav"):
            export(gone, tmp_path / "gone")
    with pytest.raises(InputError, match=r"gone.wav"):
        export_parquet(gone, tmp_path / "gone.parquet")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        export_libri_light(corpus, tmp_path / "there")


def test_ids_too_long_for_names_of_files_are_cut_and_stay_different(corpus, tmp_path):
    """A bug once found: an id of 29 Chinese characters, nine bytes each as %E4%BD%A0, ended in a traceback."""
    first = next(iter(corpus))
    ids = ["你" * 40, "你" * 40 + "b", "short", "a" * 300]
    found = import_common_voice(export_common_voice(
        Manifest.of([replace(first, id=id) for id in ids], "a test"), tmp_path / "out"))
    assert len(set(found.ids)) == 4
    assert found.ids[2] == "short"
    assert max(len(u.audio.name) for u in found) < 220
    assert fitting("a" * 200) == "a" * 200
    assert fitting("a" * 201) == fitting("a" * 201) != fitting("a" * 202)
    assert not fitting("%E4%BD%A0" * 30).partition("-")[0].endswith(("%", "%E"))


@pytest.mark.parametrize("export", [cut_audio, export_libri_light])
def test_two_exports_at_once_do_not_share_unfinished_audio(corpus, tmp_path, monkeypatch, export):
    """The second removed what the first had written so far, which said nothing and lacked recordings."""
    refused = []

    def second(utterance):
        if not refused:
            refused.append(utterance.id)
            with pytest.raises(BusyError):
                export(corpus, tmp_path / "out")
        return read(utterance)

    monkeypatch.setattr("upstream.audio.cutting.read", second)
    export(corpus, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.flac"))) == len(corpus)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out/.lock").exists()


@pytest.mark.parametrize("suffix", [".flac", ".wav"])
def test_a_full_disk_while_audio_is_cut_is_one_line(corpus, tmp_path, suffix):
    """A traceback of soundfile's, or a FLAC file that was cut short and no error."""
    with files_up_to(10_000), pytest.raises(HubertkitError, match="larger than is allowed"):
        cut_audio(corpus, tmp_path / "out", suffix)
    assert not list(tmp_path.iterdir())
