"""Names of files in other scripts: macOS writes letters apart from their accents (NFD), tables and keyboards do not."""

import unicodedata

import numpy as np
import pytest
import soundfile

from upstream.audio.corpora.folder import import_folder
from upstream.audio.corpora.kaldi import import_kaldi
from upstream.audio.file_names import stored_path
from upstream.teacher.alignments import find_alignments

NAMES = ("phở bò", "한국어", "が")


def in_form(form, text):
    return unicodedata.normalize(form, text)


def record(folder, form):
    """A recording of each name, in a folder of Vietnamese."""
    folder = folder / in_form(form, "tiếng Việt")
    folder.mkdir()
    for name in NAMES:
        soundfile.write(folder / f"{in_form(form, name)}.wav", np.full(1600, 0.1), 16_000)
    return folder


@pytest.mark.parametrize(("audio", "text"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_a_transcript_is_found_beside_a_recording_in_whatever_form_their_names_are(tmp_path, audio, text):
    """All transcripts were left out, and nothing said so."""
    folder = record(tmp_path, audio)
    for name in NAMES:
        (folder / f"{in_form(text, name)}.txt").write_text(name, encoding="utf-8")
    found = import_folder(tmp_path)
    assert sorted(found.texts) == sorted(NAMES)
    assert sorted(found.ids) == sorted(f"tiếng_Việt-{name.replace(' ', '_')}" for name in NAMES)
    assert all(u.audio.is_file() for u in found)


@pytest.mark.parametrize(("audio", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_table_finds_files_whose_names_are_in_another_form(tmp_path, audio, named):
    """`there is no such file`, of a name that looked the same."""
    record(tmp_path, audio)
    folder = in_form(named, "tiếng Việt")
    rows = "".join(f"{folder}/{in_form(named, name)}.wav\t{name}\n" for name in NAMES)
    (tmp_path / "table.tsv").write_text(f"path\ttext\n{rows}", encoding="utf-8")
    found = import_folder(tmp_path, tmp_path / "table.tsv")
    assert list(found.texts) == list(NAMES)
    assert all(u.audio.is_file() for u in found)
    data = tmp_path / "data"
    data.mkdir()
    for file, lines in (("wav.scp", [f"u{i} {tmp_path / folder / in_form(named, name)}.wav"
                                     for i, name in enumerate(NAMES[1:])]),
                        ("text", [f"u{i} {name}" for i, name in enumerate(NAMES[1:])])):
        (data / file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert list(import_kaldi(data).texts) == list(NAMES[1:])


def test_two_files_of_one_look_are_not_guessed_between(tmp_path):
    for form in ("NFC", "NFD"):
        (tmp_path / in_form(form, "が é")).touch()
    assert stored_path(tmp_path / (in_form("NFC", "が ") + in_form("NFD", "é"))) is None
    assert stored_path(tmp_path / "nowhere" / "é") is None


def test_alignments_are_found_by_ids_whose_form_is_another(tmp_path):
    for name in NAMES:
        (tmp_path / f"{in_form('NFD', name)}.ctm").write_text("u 1 0.0 0.1 a\n")
    found = find_alignments(tmp_path)
    for form in ("NFC", "NFD"):
        assert all(in_form(form, name) in found and found.get(in_form(form, name)) == found[in_form(form, name)]
                   for name in NAMES)
    assert "phở" not in found
