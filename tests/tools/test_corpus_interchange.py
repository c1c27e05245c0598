"""`hubertkit corpus import`, `export`, `segment` and `split` from outside: what is printed and written, exit codes."""

import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from tools.main import run
from upstream.audio import Manifest, import_folder
from upstream.audio.corpora.parquet import export_parquet
from upstream.errors import InputError
from upstream.frames import CONV_GRID
from upstream.teacher.units import Units, UnitsWriter


def call(capsys, *words):
    code = run(["corpus", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def manifest(tmp_path):
    """Six utterances of 1 to 6 s, of two speakers, in one folder."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for i in range(6):
        soundfile.write(folder / f"u{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(16_000 * (i + 1)), 16_000)
    table = "\n".join(["path,text,speaker", *(f"u{i}.wav,SOME WORDS,s{i % 2}" for i in range(6))])
    (tmp_path / "t.csv").write_text(table + "\n")
    import_folder(folder, tmp_path / "t.csv").save(tmp_path / "m.arrow")
    return tmp_path / "m.arrow"


def units_for(manifest, folder, classes=(4,), short=None):
    loaded = Manifest.load(manifest)
    with UnitsWriter(folder, classes, {"teacher_hash": "t" * 64, "manifest_hash": loaded.hash}) as writer:
        for name, samples in zip(loaded.ids, loaded.lengths):
            frames = CONV_GRID.frames(int(samples)) - (name == short)
            writer.add(name, *(np.arange(frames) % k for k in classes))
    return Units.load(folder)


@pytest.mark.parametrize("form", ["fairseq", "kaldi", "nemo"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_manifest_goes_out_and_comes_back_from_the_command_line(capsys, manifest, tmp_path, form, cut):
    out, back = tmp_path / "out", tmp_path / "back.arrow"
    code, said, _ = call(capsys, "export", form, manifest, "--out", out, *(["--cut-audio"] if cut else []))
    assert code == 0
    assert "6 utterances, 0.01 h" in said
    source = {"fairseq": out / "train.tsv", "kaldi": out, "nemo": out / "manifest.jsonl"}[form]
    assert call(capsys, "import", form, source, "--out", back)[0] == 0
    before, after = Manifest.load(manifest), Manifest.load(back)
    if form == "kaldi":  # its speakers are sorted with the ids
        before = Manifest.of((replace(u, id=f"{u.speaker}-{u.id}") for u in before), "").select([0, 2, 4, 1, 3, 5])
    assert (after.ids, after.texts) == (before.ids, before.texts)
    assert after.speakers == ([None] * 6 if form == "fairseq" else before.speakers)
    assert after.lengths.tolist() == before.lengths.tolist()
    assert all((out / "audio" in u.audio.parents) == cut for u in after)


@pytest.mark.parametrize("classes", [(4,), (4, 7)])
def test_units_go_out_as_km_and_come_back_the_same(capsys, manifest, tmp_path, classes):
    units = units_for(manifest, tmp_path / "units", classes)
    assert call(capsys, "export", "fairseq", manifest, "--out", tmp_path / "out", "--units", tmp_path / "units")[0] == 0
    names = ["km"] if len(classes) == 1 else ["km0", "km1"]
    assert (tmp_path / "out" / f"dict.{names[-1]}.txt").read_text() == "".join(f"{c} 1\n" for c in range(classes[-1]))
    files = [tmp_path / "out" / f"train.{n}" for n in names]
    code, said, _ = call(capsys, "import", "km", *files, "--manifest", manifest, "--out", tmp_path / "back")
    assert (code, said) == (0, f"{tmp_path / 'back'}: units of 6 utterances, {', '.join(map(str, classes))} classes\n")
    found = Units.load(tmp_path / "back")
    assert found.hash == units.hash


@pytest.mark.parametrize("words", [
    ["export", "fairseq", "M", "--out", "O", "--units", "U"], ["import", "km", "K", "--manifest", "M", "--out", "O"]])
def test_labels_of_another_length_are_named_and_nothing_is_written(capsys, manifest, tmp_path, words):
    units_for(manifest, tmp_path / "units", short="u2")
    lines = [" ".join("0" * (49 + 50 * i - (i == 2))) for i in range(6)]
    (tmp_path / "train.km").write_text("\n".join(lines) + "\n")
    places = {"M": manifest, "O": tmp_path / "out", "U": tmp_path / "units", "K": tmp_path / "train.km"}
    code, _, err = call(capsys, *(places.get(w, w) for w in words))
    assert code == 1
    assert "u2" in err
    assert "148 labels for 48000 samples, expected 149" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "says"), [
    ("train.km", "nothing notes that hubertkit wrote it"), ("dict.km.txt", "nothing notes that hubertkit wrote it"),
    ("train.km1", "1 lines of labels, and the list has 6 files")])
def test_labels_that_are_in_the_way_are_named_before_audio_is_cut(capsys, manifest, tmp_path, name, says):
    """Hours of cutting ended in a word about the name of a label file."""
    units_for(manifest, tmp_path / "units")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("1\n")
    code, _, err = call(capsys, "export", "fairseq", manifest, "--out", tmp_path / "out", "--units", tmp_path / "units",
                        "--cut-audio")
    assert code == 1
    assert says in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_the_rest_is_not_written_over_a_subset(capsys, manifest, tmp_path):
    """`--out parts --rest parts/0.12min.arrow` wrote the rest over the subset, and said that it wrote both."""
    code, out, err = call(capsys, "split", manifest, "--hours", "0.12min,0.2min", "--by", "utterance", "--out",
                          tmp_path / "parts", "--rest", tmp_path / "parts" / "0.12min.arrow")
    assert (code, out) == (2, "")
    assert "--out and --rest are the same file" in err
    assert not (tmp_path / "parts").exists()


def test_what_check_found_can_be_left_out_in_one_command(capsys, manifest, tmp_path):
    soundfile.write(tmp_path / "audio" / "u3.wav", np.zeros(64_000), 16_000)
    code, _, err = call(capsys, "check", manifest)
    assert code == 1
    assert f"leave them out: hubertkit corpus check {manifest} --out GOOD" in err
    code, out, err = call(capsys, "check", manifest, "--out", tmp_path / "good.arrow")
    assert code == 0
    assert out.startswith("u3: ")
    assert "5 utterances, 0.00 h, 1 left out" in err
    assert Manifest.load(tmp_path / "good.arrow").ids == ["u0", "u1", "u2", "u4", "u5"]
    assert call(capsys, "check", tmp_path / "good.arrow")[0] == 0


def test_check_writes_no_empty_manifest(capsys, manifest, tmp_path):
    for path in (tmp_path / "audio").iterdir():
        path.unlink()
    code, _, err = call(capsys, "check", manifest, "--out", tmp_path / "good.arrow")
    assert code == 1
    assert "none of 6 utterances can be used" in err
    assert not (tmp_path / "good.arrow").exists()


def test_split_writes_nested_subsets_and_the_rest(capsys, manifest, tmp_path):
    code, out, _ = call(capsys, "split", manifest, "--hours", "0.12min,0.2min", "--by", "utterance", "--out",
                        tmp_path / "parts", "--rest", tmp_path / "rest.arrow")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == [
        str(tmp_path / p) for p in ("parts/0.12min.arrow", "parts/0.2min.arrow", "rest.arrow")]
    small, large, rest = (set(Manifest.load(tmp_path / p).ids)
                          for p in ("parts/0.12min.arrow", "parts/0.2min.arrow", "rest.arrow"))
    assert small < large
    assert large | rest == set(Manifest.load(manifest).ids)
    assert not large & rest


def test_a_subset_says_how_much_of_it_is_transcribed(capsys, manifest, tmp_path):
    whole = Manifest.load(manifest)
    Manifest.of([replace(u, text=u.text if i > 2 else None) for i, u in enumerate(whole)], "a test").save(
        tmp_path / "half.arrow")
    words = ("--hours", "0.2min", "--by", "utterance", "--out", tmp_path / "part.arrow")
    assert "transcribed" not in call(capsys, "split", manifest, *words)[1]
    out = call(capsys, "split", tmp_path / "half.arrow", *words)[1]
    texts = Manifest.load(tmp_path / "part.arrow").texts
    known = sum(text is not None for text in texts)
    assert known < len(texts)
    assert f", {known} of them transcribed (0.00 h)" in out
    code, out, _ = call(capsys, "split", tmp_path / "half.arrow", "--transcribed", *words)
    assert (code, "transcribed" in out) == (0, False)
    assert None not in Manifest.load(tmp_path / "part.arrow").texts


def test_segment_cuts_a_long_recording(capsys, tmp_path):
    rng = np.random.default_rng(0)
    wave = np.concatenate([np.concatenate([0.2 * rng.standard_normal(48_000), 1e-4 * rng.standard_normal(16_000)])
                           for _ in range(8)])
    soundfile.write(tmp_path / "long.wav", wave, 16_000)
    (tmp_path / "m").mkdir()
    assert call(capsys, "import", "folder", tmp_path, "--out", tmp_path / "m" / "m.arrow")[0] == 0
    code, out, _ = call(capsys, "segment", tmp_path / "m" / "m.arrow", "--out", tmp_path / "cut.arrow",
                        "--max-seconds", "10")
    assert code == 0
    found = Manifest.load(tmp_path / "cut.arrow")
    assert found.ids == ["long-0000", "long-0001", "long-0002", "long-0003"]
    assert f"{tmp_path / 'cut.arrow'}: 4 utterances" in out


@pytest.mark.parametrize(("words", "code", "says"), [
    (["import", "fairseq", "none.tsv", "--out", "m.arrow"], 2, "none.tsv: no such file"),
    (["import", "kaldi", "audio", "--out", "m.arrow"], 2, "no wav.scp there"),
    (["import", "nemo", "none.jsonl", "--out", "m.arrow"], 2, "none.jsonl: no such file"),
    (["import", "common-voice", "none.tsv", "--out", "m.arrow"], 2, "none.tsv: no such table"),
    (["import", "parquet", "none", "--out", "m.arrow"], 2, "none: no such Parquet"),
    (["import", "tar", "audio", "--out", "m.arrow"], 2, "audio: no such tar"),
    (["import", "libri-light", "audio", "--out", "m.arrow"], 2, "1h/0: no such folder"),
    (["import", "libri-light", "audio", "--part", "2h", "--out", "m.arrow"], 2, "2h"),
    (["import", "tar", "audio", "--out", "audio"], 2, "a folder; --out names"),
    (["import", "km", "train.km", "--manifest", "M", "--out", "units"], 2, "train.km: no such file"),
    (["import", "km", "t.csv", "--manifest", "M", "--out", "units", "--rate", "25"], 2, "50 or 100"),
    (["import", "km", "t.csv", "--manifest", "M", "--out", "units"], 1, "t.csv, line 1 (u0): not numbers"),
    (["export", "nemo", "M", "--out", "t.csv"], 2, "t.csv: a file"),
    (["segment", "M", "--out", "c.arrow", "--min-seconds", "3", "--max-seconds", "5"], 2, "at least twice"),
    (["segment", "M", "--out", "audio"], 2, "a folder; --out names"),
    (["split", "M", "--hours", "ten", "--out", "s"], 2, "hours 'ten'"),
    (["split", "M", "--hours", "1,1", "--out", "s"], 2, "ascend"),
    (["split", "M", "--hours", "1", "--out", "s"], 1, "0.00583 h, 1 h are asked for"),
    (["split", "M", "--hours", "0.1min,0.2min", "--out", "s.arrow"], 2, "one file for 2 subsets"),
    (["split", "M", "--hours", "0.0001min", "--out", "s"], 1, "no utterance fits into"),
])
def test_a_mistake_is_one_line_and_writes_nothing(capsys, manifest, tmp_path, monkeypatch, words, code, says):
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    found, _, err = call(capsys, *(manifest if w == "M" else w for w in words))
    assert found == code
    assert says in err
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("form", ["fairseq", "nemo", "common-voice", "tar"])
@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "..", ".", "", "a\\b", "a\nb", "n" * 300])
def test_an_export_stays_in_its_folder(capsys, manifest, tmp_path, form, name):
    """`--name ../x` was written beside the folder that --out names."""
    before = sorted(tmp_path.rglob("*"))
    code, _, err = call(capsys, "export", form, manifest, "--out", tmp_path / "out", "--name", name)
    assert (code, err.count("\n")) == (2, 1)
    assert "--name" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_with_stars_is_no_pattern(capsys, manifest, tmp_path):
    """Labels of `train` were taken for those of `*`, and the export refused."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.km").write_text("1\n")
    assert call(capsys, "export", "fairseq", manifest, "--out", tmp_path / "out", "--name", "*")[0] == 0


def test_an_export_does_not_replace_its_manifest(capsys, manifest, tmp_path):
    Manifest.load(manifest).save(tmp_path / "m.parquet")
    before = (tmp_path / "m.parquet").read_bytes()
    code, _, err = call(capsys, "export", "parquet", tmp_path / "m.parquet", "--out", tmp_path / "m.parquet")
    assert code == 2
    assert "what the command reads" in err
    assert (tmp_path / "m.parquet").read_bytes() == before


@pytest.mark.parametrize("command", ["segment", "check"])
def test_a_manifest_is_not_replaced_by_a_part_of_itself(capsys, manifest, command):
    """`segment M --out M` left pieces where the corpus was, without its texts."""
    before = manifest.read_bytes()
    code, _, err = call(capsys, command, manifest, "--out", manifest)
    assert code == 2
    assert "what the command reads" in err
    assert manifest.read_bytes() == before


def test_an_export_says_what_is_lost(capsys, manifest, tmp_path):
    assert "no place for speakers" in call(capsys, "export", "fairseq", manifest, "--out", tmp_path / "a")[2]
    soundfile.write(tmp_path / "audio" / "x.flac", np.zeros(800), 16_000)
    (tmp_path / "n").mkdir()
    assert call(capsys, "import", "folder", tmp_path / "audio", "--out", tmp_path / "n" / "m.arrow")[0] == 0
    assert "1 utterances are not in .wav" in call(capsys, "export", "kaldi", tmp_path / "n" / "m.arrow", "--out",
                                                  tmp_path / "b")[2]


def test_letters_that_the_dictionary_of_a_folder_lacks_are_told(capsys, manifest, tmp_path):
    whole = Manifest.load(manifest)
    whole.with_texts(["MORE"] * 6).save(tmp_path / "n.arrow")
    words = ("export", "fairseq", tmp_path / "n.arrow", "--out", tmp_path / "a")
    code, out, err = call(capsys, *words)
    assert (code, str(tmp_path / "a" / "dict.ltr.txt") in out, "<unk>" in err) == (0, True, False)
    code, _, err = call(capsys, "export", "fairseq", manifest, "--out", tmp_path / "a", "--name", "valid")
    assert (code, "dict.ltr.txt was there and lacks D S W, which fairseq will read as <unk>" in err) == (0, True)
    assert (tmp_path / "a" / "dict.ltr.txt").read_text() == "E 6\nM 6\nO 6\nR 6\n| 6\n"


def test_an_export_says_that_kaldi_takes_one_channel_where_we_take_the_mean(capsys, tmp_path):
    """Stereo recordings were listed without a word: Kaldi's programs read the first channel of them."""
    (tmp_path / "audio").mkdir()
    left, right = np.full(1600, 0.25), np.full(1600, -0.5)
    soundfile.write(tmp_path / "audio" / "a.wav", np.stack([left, right], axis=1), 16_000)
    soundfile.write(tmp_path / "audio" / "b.wav", left, 16_000)
    assert call(capsys, "import", "folder", tmp_path / "audio", "--out", tmp_path / "m.arrow")[0] == 0
    code, _, err = call(capsys, "export", "kaldi", tmp_path / "m.arrow", "--out", tmp_path / "k")
    assert (code, "note: 1 utterances are in files with several channels" in err) == (0, True)
    code, _, err = call(capsys, "export", "kaldi", tmp_path / "m.arrow", "--out", tmp_path / "cut", "--cut-audio")
    assert (code, "channels" in err) == (0, False)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "cut" / "audio" / "a.wav")[0], np.full(1600, -0.125))


def test_stereo_goes_to_nemo_as_the_mean_that_we_read_or_not_at_all(capsys, tmp_path):
    """It was listed without a word: NeMo takes all channels and fails, or the one that it is told for every line."""
    (tmp_path / "audio").mkdir()
    both = np.stack([np.full(1600, 0.25), np.full(1600, -0.5)], axis=1)
    soundfile.write(tmp_path / "audio" / "a.wav", both, 16_000)
    assert call(capsys, "import", "folder", tmp_path / "audio", "--out", tmp_path / "m.arrow")[0] == 0
    code, _, err = call(capsys, "export", "nemo", tmp_path / "m.arrow", "--out", tmp_path / "n")
    assert (code, "a: " in err, "has 2 channels" in err, "--cut-audio" in err) == (1, True, True, True)
    assert not (tmp_path / "n").exists()
    assert call(capsys, "export", "nemo", tmp_path / "m.arrow", "--out", tmp_path / "n", "--cut-audio")[0] == 0
    row = json.loads((tmp_path / "n" / "manifest.jsonl").read_text())
    wave, _ = soundfile.read(row["audio_filepath"])
    np.testing.assert_array_equal(wave, np.full(1600, -0.125))


def test_an_import_does_not_replace_the_corpus(capsys, manifest, tmp_path):
    """A shard of Hugging Face ends in .parquet as manifests may: its audio was gone."""
    shards = tmp_path / "shards"
    assert call(capsys, "export", "parquet", manifest, "--out", shards / "0.parquet")[0] == 0
    before = (shards / "0.parquet").read_bytes()
    for src, said in ((shards / "0.parquet", "what the command reads"),
                      (shards, "is there already and no whole manifest")):
        code, _, error = call(capsys, "import", "parquet", src, "--out", shards / "0.parquet")
        assert (code, said in error, (shards / "0.parquet").read_bytes()) == (2, True, before)
    (tmp_path / "data-00000.arrow").write_bytes(b"a stream of another program")
    assert call(capsys, "import", "parquet", shards, "--out", tmp_path / "data-00000.arrow")[0] == 2
    table = tmp_path / "list.parquet"  # of the columns of a manifest, and what the import reads
    table.write_bytes(manifest.read_bytes())
    for again in (tmp_path / "m.parquet", tmp_path / "m.arrow"):
        for _ in range(2):  # a manifest of ours may be made anew
            assert call(capsys, "import", "parquet", shards, "--out", again)[0] == 0


@pytest.mark.parametrize(("form", "name"), [("tar", "train-000007.tar"), ("kaldi", "text"), ("nemo", "manifest.jsonl"),
                                            ("fairseq", "train.tsv"), ("common-voice", "train.tsv"),
                                            ("fairseq --units units", "dict.km.txt")])
def test_an_export_leaves_what_no_export_wrote(capsys, manifest, tmp_path, monkeypatch, form, name):
    """Shards that another program wrote under the usual name were removed, and a text made by hand."""
    units_for(manifest, tmp_path / "units")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    words = ("export", *form.split(), manifest, "--out", tmp_path / "out")
    code, _, error = call(capsys, *words)
    assert (code, f"{name}: is there already, and nothing notes" in error) == (1, True)
    assert (tmp_path / "out" / name).read_text() == "mine"
    (tmp_path / "out" / name).unlink()
    for _ in range(1 if form == "common-voice" else 2):  # its own may be replaced
        assert call(capsys, *words)[0] == 0


@pytest.mark.parametrize("way", ["link", "audio/../shards"])
def test_shards_that_are_read_are_not_written_over_whatever_they_are_called(capsys, manifest, tmp_path, way):
    shards = tmp_path / "shards"
    assert call(capsys, "export", "tar", manifest, "--out", shards)[0] == 0
    assert call(capsys, "import", "tar", shards, "--out", tmp_path / "t.arrow")[0] == 0
    (tmp_path / "link").symlink_to(shards)
    code, _, error = call(capsys, "export", "tar", tmp_path / "t.arrow", "--out", tmp_path / way)
    assert (code, "holds utterances of the manifest" in error) == (1, True)
    assert call(capsys, "check", tmp_path / "t.arrow")[0] == 0


def test_a_parquet_file_that_is_read_is_not_written_over(capsys, manifest, tmp_path):
    assert call(capsys, "export", "parquet", manifest, "--out", tmp_path / "p.parquet")[0] == 0
    assert call(capsys, "import", "parquet", tmp_path / "p.parquet", "--out", tmp_path / "p.arrow")[0] == 0
    code, _, error = call(capsys, "export", "parquet", tmp_path / "p.arrow", "--out", tmp_path / "p.parquet")
    assert (code, "what the command reads" in error) == (2, True)
    assert call(capsys, "check", tmp_path / "p.arrow")[0] == 0


@pytest.mark.parametrize("command", ["km {0}/train.km --manifest {0}/m.arrow --out",
                                     "phones {0} --manifest {0}/m.arrow --out"])
@pytest.mark.parametrize("kind", ["emissions.json", "teacher.json", "stage.json"])
def test_imported_units_do_not_go_into_what_another_command_made(capsys, manifest, tmp_path, command, kind):
    (tmp_path / "train.km").write_text("0\n")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / kind).write_text("{}")
    assert call(capsys, "import", *command.format(tmp_path).split(), tmp_path / "there")[0] == 2
    assert [p.name for p in (tmp_path / "there").iterdir()] == [kind]


def test_a_parquet_file_that_no_export_wrote_is_left(capsys, manifest, tmp_path):
    """`export parquet --out mine.parquet` took the place of any file of that name."""
    mine = tmp_path / "out" / "mine.parquet"
    mine.parent.mkdir()
    mine.write_text("mine")
    words = ("export", "parquet", manifest, "--out", mine)
    code, _, error = call(capsys, *words)
    assert (code, "mine.parquet: is there already, and nothing notes" in error) == (1, True)
    with pytest.raises(InputError, match="nothing notes"):
        export_parquet(Manifest.load(manifest), mine)
    assert mine.read_text() == "mine"
    mine.unlink()
    for _ in range(2):  # its own may be replaced
        assert call(capsys, *words)[0] == 0
    assert call(capsys, "import", "parquet", mine, "--out", tmp_path / "back.arrow")[0] == 0


@pytest.mark.parametrize(("words", "folder"), [
    (["common-voice"], "clips"), (["fairseq", "--cut-audio"], "audio/train"), (["kaldi", "--cut-audio"], "audio"),
    (["nemo", "--cut-audio"], "audio/manifest"), (["libri-light"], "")])
def test_folders_of_audio_are_written_once(capsys, tmp_path, words, folder):
    """As docs/corpora.md says, which once promised that a second export replaces them."""
    (tmp_path / "a").mkdir()
    for i in range(2):
        soundfile.write(tmp_path / f"a/1-2-{i}.wav", np.zeros(16_000), 16_000)
        (tmp_path / f"a/1-2-{i}.txt").write_text("WORDS")
    import_folder(tmp_path / "a").save(tmp_path / "m.arrow")
    for code, says in ((0, ""), (2, f"{tmp_path / 'out' / folder}: is there already; give another folder")):
        found, _, error = call(capsys, "export", words[0], tmp_path / "m.arrow", "--out", tmp_path / "out", *words[1:])
        assert (found, says in error) == (code, True)


def test_a_tar_of_ones_own_beside_a_manifest_stays(capsys, manifest, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": u.audio.read_bytes(), "path": u.audio.name} for u in Manifest.load(manifest)]
    pq.write_table(pa.table({"audio": rows}), tmp_path / "a.parquet", compression="zstd")
    words = ("import", "parquet", tmp_path / "a.parquet", "--out", tmp_path / "x.arrow")
    assert call(capsys, *words)[0] == 0
    [tar] = (tmp_path / "x-audio").glob("*.tar")
    for path in (tmp_path / "x-audio").iterdir():
        path.unlink()
    tar.write_text("mine")
    assert call(capsys, *words)[0] == 1
    assert tar.read_text() == "mine"
    tar.unlink()
    for _ in range(2):
        assert call(capsys, *words)[0] == 0


def test_a_parquet_import_puts_compressed_audio_beside_the_manifest(capsys, manifest, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": u.audio.read_bytes(), "path": u.audio.name} for u in Manifest.load(manifest)]
    pq.write_table(pa.table({"audio": rows, "sentence": ["x"] * 6}), tmp_path / "a.parquet", compression="zstd")
    assert call(capsys, "import", "parquet", tmp_path / "a.parquet", "--out", tmp_path / "p" / "train.arrow")[0] == 0
    assert [p.name for p in (tmp_path / "p").iterdir() if p.is_dir()] == ["train-audio"]
    (tmp_path / "p").rename(tmp_path / "q")  # manifest and audio move together
    code, out, _ = call(capsys, "check", tmp_path / "q" / "train.arrow", "--json")
    assert (code, json.loads(out)) == (0, [])


def test_kaldi_finds_utt2spk_sorted_by_speaker_too(capsys, manifest, tmp_path):
    """Speakers s0, s1, s0, ...: sorted by id they are not sorted, which Kaldi's validate_data_dir.sh refuses."""
    code, _, err = call(capsys, "export", "kaldi", manifest, "--out", tmp_path / "k")
    assert code == 0
    assert "ids begin with the speaker" in err
    rows = [line.split() for line in (tmp_path / "k" / "utt2spk").read_text().splitlines()]
    assert rows == sorted(rows) == sorted(rows, key=lambda row: row[1])
    there = [line.split() for line in (tmp_path / "k" / "spk2utt").read_text().splitlines()]
    assert [[id, speaker] for speaker, *ids in there for id in ids] == rows
    names = {name: {line.split()[0] for line in (tmp_path / "k" / name).read_text().splitlines()}
             for name in ("text", "wav.scp")}
    assert all(ids == {id for id, _ in rows} for ids in names.values())


def test_labels_of_another_number_of_classes_do_not_replace_the_dictionary_of_a_list(capsys, manifest, tmp_path):
    units_for(manifest, tmp_path / "u7", (7,)), units_for(manifest, tmp_path / "u4", (4,))
    first = ("export", "fairseq", manifest, "--out", tmp_path / "out", "--units", tmp_path / "u7", "--name", "train")
    assert call(capsys, *first)[0] == 0
    code, _, err = call(capsys, *first[:-3], tmp_path / "u4", "--name", "valid", "--cut-audio")
    assert (code, "7 classes, of which train.km has its labels, and these units have 4" in err) == (1, True)
    assert not (tmp_path / "out" / "audio").exists()
    assert call(capsys, *first[:-3], tmp_path / "u4", "--name", "train")[0] == 0  # of nobody else


@pytest.mark.parametrize(("form", "lists"), [("fairseq", ("train.tsv", "valid.tsv")),
                                             ("nemo", ("train.jsonl", "valid.jsonl"))])
def test_train_and_valid_with_their_audio_lie_in_one_folder(capsys, manifest, tmp_path, form, lists):
    for name in ("train", "valid"):
        assert call(capsys, "export", form, manifest, "--out", tmp_path / "out", "--name", name, "--cut-audio")[0] == 0
    for place in lists:
        assert call(capsys, "import", form, tmp_path / "out" / place, "--out", tmp_path / "back.arrow")[0] == 0
        assert Manifest.load(tmp_path / "back.arrow").ids == Manifest.load(manifest).ids


def test_parquet_whose_texts_have_another_name_is_told(capsys, manifest, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": u.audio.read_bytes(), "path": u.audio.name} for u in Manifest.load(manifest)]
    pq.write_table(pa.table({"audio": rows, "raw_text": ["x"] * 6}), tmp_path / "a.parquet")
    code, _, err = call(capsys, "import", "parquet", tmp_path / "a.parquet", "--out", tmp_path / "p.arrow")
    assert code == 0
    assert "a.parquet: no transcripts in its columns raw_text; they are read from text, sentence" in err


def test_who_converted_sphere_files_keeps_both(capsys, tmp_path):
    """Once `.sph` was read, each recording came twice, and ids must be unique."""
    (tmp_path / "audio").mkdir()
    for suffix, form in ((".sph", "NIST"), (".wav", "WAV")):
        soundfile.write(tmp_path / "audio" / f"a{suffix}", np.zeros(16_000), 16_000, format=form)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted((tmp_path / "audio").iterdir()):
            tar.add(path, path.name)
    for form, source in (("folder", tmp_path / "audio"), ("tar", tmp_path / "a.tar")):
        assert call(capsys, "import", form, source, "--out", tmp_path / "m.arrow")[0] == 0
        assert Manifest.load(tmp_path / "m.arrow").ids == ["a"]


def test_speakers_that_cannot_be_sorted_with_their_utterances_are_told_of(capsys, manifest, tmp_path):
    names = ("anna", "anna-maria")
    rows = enumerate(Manifest.load(manifest))
    Manifest.of([replace(u, speaker=names[i % 2], id=f"{'za'[i % 2]}{i}") for i, u in rows], "").save(
        tmp_path / "n.arrow")
    code, _, err = call(capsys, "export", "kaldi", tmp_path / "n.arrow", "--out", tmp_path / "k")
    assert (code, "validate_data_dir.sh will refuse utt2spk" in err) == (0, True)


def test_parquet_without_texts_is_not_told_that_its_column_has_another_name(capsys, manifest, tmp_path):
    Manifest.of([replace(u, text=None) for u in Manifest.load(manifest)], "").save(tmp_path / "n.arrow")
    assert call(capsys, "export", "parquet", tmp_path / "n.arrow", "--out", tmp_path / "p" / "a.parquet")[0] == 0
    _, _, err = call(capsys, "import", "parquet", tmp_path / "p" / "a.parquet", "--out", tmp_path / "b.arrow")
    assert "no transcripts" not in err
