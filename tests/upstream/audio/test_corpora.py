"""Imports: LibriSpeech's layout and plain folders, good and bad."""

import codecs
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from upstream.audio import import_folder, import_librispeech
from upstream.audio.corpora.single import utterance_of_file
from upstream.errors import InputError, UsageError


def audio(path, samples=2000, rate=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(samples).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)
    soundfile.write(path, wave, rate)


@pytest.fixture
def libri(tmp_path):
    """Two subsets, three speakers, four chapters, seven utterances."""
    for subset, speaker, chapter, count in (("a", 121, 7, 2), ("a", 19, 198, 2), ("b", 19, 227, 1), ("b", 1000, 3, 2)):
        folder = tmp_path / subset / str(speaker) / str(chapter)
        names = [f"{speaker}-{chapter}-{i:04d}" for i in range(count)]
        for name in names:
            audio(folder / f"{name}.flac", samples=1000 + speaker)
        lines = [f"{name} THE TEXT OF {number}" for number, name in enumerate(names)]
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_librispeech_is_sorted_by_number_with_texts_and_speakers(libri):
    manifest = import_librispeech(libri)
    assert manifest.ids == ["19-198-0000", "19-198-0001", "19-227-0000", "121-7-0000", "121-7-0001", "1000-3-0000",
                            "1000-3-0001"]
    assert manifest.speakers == ["19"] * 3 + ["121"] * 2 + ["1000"] * 2
    assert manifest.texts[1] == "THE TEXT OF 1"
    assert manifest.lengths.tolist() == [1019] * 3 + [1121] * 2 + [2000] * 2


def test_transcripts_are_lines_as_the_file_has_them(libri):
    """A U+2028 or U+0085 inside a transcript ended it, and what followed was taken for an utterance without audio."""
    path = libri / "a/121/7/121-7.trans.txt"
    path.write_bytes("121-7-0000 ONE\u2028TWO\u0085THREE\x0bFOUR\x0cFIVE\r\n121-7-0001 SIX\r".encode())
    assert import_librispeech(libri / "a/121").texts == ["ONE TWO THREE FOUR FIVE", "SIX"]


def test_a_byte_order_mark_before_transcripts_is_no_part_of_an_id(libri):
    path, before = libri / "a/121/7/121-7.trans.txt", import_librispeech(libri)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    found = import_librispeech(libri)
    assert (found.ids, found.texts) == (before.ids, before.texts)


def test_one_subset_or_one_speaker_can_be_imported_alone(libri):
    assert len(import_librispeech(libri / "b")) == 3
    assert import_librispeech(libri / "a" / "121").ids == ["121-7-0000", "121-7-0001"]


def test_a_list_of_ids_chooses_and_does_not_order(libri):
    assert import_librispeech(libri, ["121-7-0001", "19-198-0001"]).ids == ["19-198-0001", "121-7-0001"]


def test_an_id_that_the_corpus_does_not_have_is_named(libri):
    with pytest.raises(InputError, match="asks for 121-7-0009 and 1 more"):
        import_librispeech(libri, ["121-7-0001", "121-7-0010", "121-7-0009"])


def test_a_transcript_without_audio_is_an_error_unless_the_list_leaves_it_out(libri):
    (libri / "a/121/7/121-7-0001.flac").unlink()
    with pytest.raises(InputError, match="a transcript for 121-7-0001, but no audio"):
        import_librispeech(libri)
    assert import_librispeech(libri, ["121-7-0000"]).ids == ["121-7-0000"]


def test_audio_without_a_transcript_is_an_error(libri):
    audio(libri / "b/1000/3/1000-3-0007.flac")
    with pytest.raises(InputError, match=r"1000-3-0007\.flac: audio without a transcript"):
        import_librispeech(libri)


def test_bad_files_are_counted_or_left_out_on_request(libri):
    (libri / "a/121/7/121-7-0001.flac").write_text("no audio")
    (libri / "a/19/198/19-198-0001.flac").write_bytes(b"")
    (libri / "b/19/227/19-227-0000.flac").unlink()
    audio(libri / "b/19/227/19-227-0000.wav", samples=0)
    with pytest.raises(InputError, match=r"19-198-0001\.flac: an empty file \(2 more cannot be used\).*--skip-bad"):
        import_librispeech(libri)
    skipped = []
    manifest = import_librispeech(libri, skip=skipped.append)
    assert len(manifest) == 4
    assert [(p.id, p.what.split(" (")[0]) for p in skipped] == [
        ("19-198-0001", "an empty file"), ("19-227-0000", "has no samples"), ("121-7-0001", "cannot be read as audio")]


def test_leaving_everything_out_is_an_error(libri):
    for path in libri.rglob("*.flac"):
        path.write_text("no audio")
    with pytest.raises(InputError, match="none of 7 utterances can be used"):
        import_librispeech(libri, skip=lambda problem: None)


def test_the_same_utterance_in_two_subsets_is_an_error(libri):
    audio(libri / "c/121/7/121-7-0000.flac")
    (libri / "c/121/7/121-7.trans.txt").write_text("121-7-0000 AGAIN\n")
    with pytest.raises(InputError, match="a second utterance with the id 121-7-0000"):
        import_librispeech(libri)


def test_a_transcript_line_without_text_is_named_with_its_line(libri):
    (libri / "a/121/7/121-7.trans.txt").write_text("121-7-0000 TEXT\n\n121-7-0001\n")
    with pytest.raises(InputError, match=r"121-7\.trans\.txt, line 3: no text after the id 121-7-0001"):
        import_librispeech(libri)


@pytest.mark.parametrize("importer", [import_librispeech, import_folder])
def test_a_missing_folder_is_wrong_use_and_an_empty_one_is_wrong_input(tmp_path, importer):
    with pytest.raises(UsageError, match="no such folder"):
        importer(tmp_path / "none")
    with pytest.raises(InputError, match=str(tmp_path)):
        importer(tmp_path)


def test_librispeech_as_it_comes_is_read_with_its_counts(speech):
    ids = (speech / "splits" / "test.txt").read_text().split()
    manifest = import_librispeech(speech / "LibriSpeech", ids)
    assert sorted(manifest.ids) == sorted(ids)
    assert manifest.ids == ids  # the lists are sorted by number, as manifests are
    assert set(manifest.speakers) == {"121", "260", "1089", "1284", "4970", "8230"}
    assert manifest.seconds / 60 == pytest.approx(31.46, abs=0.005)
    assert sum(len(t.split()) for t in manifest.texts) == 5010


def test_a_folder_gives_ids_by_path_and_texts_from_beside(tmp_path):
    audio(tmp_path / "b c" / "x.wav", 500, 44_100, 2)
    audio(tmp_path / "a.flac", 900)
    audio(tmp_path / "d" / "y.ogg", 48_000, 48_000)
    (tmp_path / "a.txt").write_text("\ufeffSome  words\nhere\n", encoding="utf-8")
    (tmp_path / "d" / "README.txt").write_text("not a transcript: no recording here has any")
    manifest = import_folder(tmp_path)
    assert manifest.ids == ["a", "b_c-x", "d-y"]
    assert manifest.texts == ["Some words here", None, None]
    assert manifest.speakers == [None] * 3
    assert (manifest[1].rate, manifest[1].channels, manifest[1].length) == (44_100, 2, 181)


def test_recordings_of_formats_that_are_not_read_are_told(tmp_path, capsys):
    """10 hours of a folder were half of it: m4a and mp4 were passed over without a word."""
    for name in ("b/z.M4A", "c.mp4", "d.mp4", "notes.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something")
    with pytest.raises(InputError, match=r"no recordings; .*; 3 files of formats .* \(.m4a, .mp4\), first"):
        import_folder(tmp_path)
    audio(tmp_path / "d.wav")  # of d.mp4
    assert import_folder(tmp_path).ids == ["d"]
    said = capsys.readouterr().err
    assert f"left out are 2 files of formats that are not read (.m4a, .mp4), first {tmp_path / 'c.mp4'}; " in said
    assert "ffmpeg -i IN OUT.flac" in said


def test_a_recording_that_is_not_read_is_named_and_not_its_transcript(tmp_path):
    audio(tmp_path / "a.wav")
    (tmp_path / "b.m4a").write_bytes(b"something")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("words")
    with pytest.raises(InputError, match=r"b\.m4a: of a format that is not read; write it anew"):
        import_folder(tmp_path)
    left_out = []
    assert import_folder(tmp_path, skip=left_out.append).ids == ["a"]
    assert [problem.path.name for problem in left_out] == ["b.m4a"]


@pytest.mark.parametrize(("name", "way"), [("a.m4a", r"ffmpeg -i IN OUT\.flac"),
                                           ("a.sph", r"sph2pipe -f wav IN OUT\.wav")])
def test_a_single_recording_that_is_not_read_is_told_how_it_would_be(tmp_path, name, way):
    soundfile.write(tmp_path / name, np.zeros(2000), 16_000, format="NIST", subtype="PCM_16")
    content = (tmp_path / name).read_bytes()
    header = content[:1024].replace(b"-s3 pcm", b"-s26 pcm,embedded-shorten-v2.00")[:1024]
    (tmp_path / name).write_bytes(header + content[1024:])
    with pytest.raises(InputError, match=rf"{name}: cannot be read as audio \(.+\); write it anew.*{way}"):
        utterance_of_file(tmp_path / name)


def test_a_folders_transcript_without_audio_is_an_error(tmp_path):
    audio(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "b.txt").write_text("words")
    with pytest.raises(InputError, match=r"b\.txt: a transcript, but no audio"):
        import_folder(tmp_path)


def test_an_empty_transcript_is_an_error(tmp_path):
    audio(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"a\.txt: an empty transcript"):
        import_folder(tmp_path)


def test_two_files_of_one_id_are_refused(tmp_path):
    audio(tmp_path / "a.wav")
    audio(tmp_path / "a.flac")
    with pytest.raises(InputError, match="a second utterance with the id a"):
        import_folder(tmp_path)


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_a_table_gives_texts_speakers_and_ids_in_its_order(tmp_path, suffix):
    mark = "\t" if suffix == "tsv" else ","
    audio(tmp_path / "clips" / "one.wav")
    audio(tmp_path / "clips" / "two.wav")
    audio(tmp_path / "clips" / "unlisted.wav")
    rows = [["path", "text", "speaker", "id", "age"], ["clips/two.wav", "a  b", "ann", "t2", "9"],
            ["clips/one.wav", "", "", "", "8"]]
    (tmp_path / f"t.{suffix}").write_text("\n".join(mark.join(row) for row in rows) + "\n")
    manifest = import_folder(tmp_path, tmp_path / f"t.{suffix}")
    assert manifest.ids == ["t2", "clips-one"]
    assert manifest.texts == ["a b", None]
    assert manifest.speakers == ["ann", None]


def test_quotes_mean_something_in_csv_and_nothing_in_tsv(tmp_path):
    audio(tmp_path / "a.wav")
    (tmp_path / "t.csv").write_text('file,text\na.wav,"well, yes"\n')
    (tmp_path / "t.tsv").write_text('file\ttext\na.wav\t"well, yes\n')
    assert import_folder(tmp_path, tmp_path / "t.csv").texts == ["well, yes"]
    assert import_folder(tmp_path, tmp_path / "t.tsv").texts == ['"well, yes']


@pytest.mark.parametrize(("content", "said"), [
    ("text\tspeaker\nx\ty\n", r"names the columns text, speaker; one of path, file, audio is needed"),
    ("", r"\(none\)"), ("path\ttext\n", "the table has no rows"),
    ("path\ttext\nnone.wav\tx\n", r"none\.wav: there is no such file"),
    ("path\ttext\na.wav\n", "line 2: 2 columns are named"),
    ("path\ttext\na.wav\tx\ty\n", "line 2: 2 columns are named"),
    ("path\ttext\n\tx\n", "line 2: the column path is empty"),
    ("path\tid\na.wav\tu\na.wav\tu\n", "a second utterance with the id u")])
def test_a_bad_table_is_named_with_the_line(tmp_path, content, said):
    audio(tmp_path / "a.wav")
    (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(InputError, match=said):
        import_folder(tmp_path, tmp_path / "t.tsv")


def test_a_table_that_is_not_there_or_of_another_kind_is_wrong_use(tmp_path):
    (tmp_path / "t.xls").write_text("x")
    for name, said in (("none.tsv", "no such table"), ("t.xls", r"ends in \.tsv or \.csv")):
        with pytest.raises(UsageError, match=said):
            import_folder(tmp_path, tmp_path / name)


def test_a_table_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("path,text\na.wav,caf\xe9\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        import_folder(tmp_path, tmp_path / "t.csv")


def test_a_single_bad_file_is_not_told_to_be_skipped_by_an_option_of_another_command(tmp_path):
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(InputError, match=r"a\.wav: .*mend the file or leave it out$"):
        utterance_of_file(tmp_path / "a.wav")


@pytest.mark.parametrize("importer", [import_librispeech, import_folder])
def test_links_that_lead_upwards_bring_nothing_a_second_time(libri, importer):
    """A bug once found: 82 utterances of two files."""
    (libri / "a" / "up").symlink_to(libri)
    (libri / "b" / "19" / "here").symlink_to(".")
    (libri / "b" / "itself").symlink_to("itself")
    outside = libri.parent / f"{libri.name}-outside"
    (libri / "b" / "1000").rename(outside)
    (libri / "b" / "1000").symlink_to(outside)  # another link is followed
    assert len(importer(libri)) == 7


@pytest.mark.parametrize("importer", [import_librispeech, import_folder])
def test_a_folder_that_cannot_be_read_is_named_and_left_out_on_request(libri, importer, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "1000":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(InputError, match=r"b/1000: a folder that cannot be read \(Permission denied\)"):
        importer(libri)
    skipped = []
    assert len(importer(libri, skip=skipped.append)) == 5
    assert [p.path for p in skipped] == [libri / "b" / "1000"]


def test_a_pipe_among_the_recordings_is_not_waited_for(tmp_path):
    audio(tmp_path / "a.wav")
    for name in ("b.wav", "a.txt"):
        os.mkfifo(tmp_path / name)
    skipped = []
    with pytest.raises(InputError, match="none of 2"):
        import_folder(tmp_path, skip=skipped.append)
    assert [(p.id, p.what) for p in skipped] == [("a", "a transcript that is no regular file"),
                                                 ("b", "is no regular file")]


@pytest.mark.parametrize("name", ["sentence", "Text", "transcription", "TRANSCRIPT"])
def test_a_table_may_call_its_transcripts_what_other_corpora_do(tmp_path, name, capsys):
    audio(tmp_path / "a.wav")
    (tmp_path / "t.tsv").write_text(f"Path\tclient_id\t{name}\na.wav\tann\tsome words\n")
    manifest = import_folder(tmp_path, tmp_path / "t.tsv")
    assert (manifest.texts, manifest.speakers) == (["some words"], ["ann"])
    assert capsys.readouterr().err == ""


def test_a_table_of_which_no_text_is_read_is_told_unless_it_has_no_column_for_any(tmp_path, capsys):
    audio(tmp_path / "a.wav")
    for columns, said in (("path\tutterance", True), ("path\ttext", True), ("path\tspeaker", False)):
        (tmp_path / "t.tsv").write_text(f"{columns}\na.wav\t{'x' if 'text' not in columns else ''}\n")
        assert import_folder(tmp_path, tmp_path / "t.tsv").texts == [None]
        assert ("no transcripts in its columns" in capsys.readouterr().err) == said


def test_what_is_counted_as_left_out_is_left_out(tmp_path):
    """A bug once found: a recording with an empty transcript was kept, and counted among what was not."""
    for name, text in (("a", "words"), ("b", " ")):
        audio(tmp_path / f"{name}.wav")
        (tmp_path / f"{name}.txt").write_text(text)
    skipped = []
    assert import_folder(tmp_path, skip=skipped.append).ids == ["a"]
    assert [p.id for p in skipped] == ["b"]


def test_a_program_without_skip_bad_names_the_command_that_has_it(tmp_path):
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(InputError, match=rf"or leave them out: hubertkit corpus import folder {tmp_path} --skip-bad "
                                         r"--out FILE\.arrow, and give data=FILE\.arrow$"):
        import_folder(tmp_path)
