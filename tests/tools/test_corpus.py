"""`hubertkit corpus`, as a user calls it."""

import json

import numpy as np
import pytest
import soundfile
from typer.main import get_command

from tools.corpus import app
from upstream.audio import Manifest
from upstream.errors import InputError, UsageError


def run(*arguments):
    get_command(app).main(args=[str(a) for a in arguments], standalone_mode=False)


@pytest.fixture
def folder(tmp_path):
    src = tmp_path / "recordings"
    src.mkdir()
    for i in range(4):
        wave = 0.1 * np.random.default_rng(i).standard_normal(16_000 * (i + 1))
        soundfile.write(src / f"{i}.wav", wave, 16_000)
        (src / f"{i}.txt").write_text("some words here")
    return src


@pytest.fixture
def manifest(folder, capsys):
    path = folder.parent / "m.arrow"
    run("import", "folder", folder, "--out", path)
    capsys.readouterr()
    return path


def test_an_import_says_what_it_wrote(folder, capsys):
    out = folder.parent / "m.arrow"
    run("import", "folder", folder, "--out", out)
    assert capsys.readouterr().out == f"{out}: 4 utterances, 0.00 h, speakers not known\n"
    assert Manifest.load(out).texts == ["some words here"] * 4


def test_show_counts_hours_speakers_and_words(manifest, capsys):
    run("show", manifest)
    lines = capsys.readouterr().out.splitlines()
    facts = dict(line.split(maxsplit=1) for line in lines if line.startswith(("utterances", "words", "transcribed")))
    assert facts == {"utterances": "4", "words": "12", "transcribed": "4"}
    assert [line.split()[4] for line in lines if " s   " in line] == ["0", "0", "1", "0", "1", "0", "1", "0", "1"]


def test_show_as_json_holds_the_same(manifest, capsys):
    run("show", manifest, "--json")
    facts = json.loads(capsys.readouterr().out)
    assert (facts["utterances"], facts["hours"], facts["speakers"], facts["without_speaker"]) == (4, 0.003, 0, 4)
    assert (facts["shortest_seconds"], facts["median_seconds"], facts["longest_seconds"]) == (1, 2.5, 4)
    assert facts["formats"] == {"16000 Hz, 1 channel": 4}
    assert facts["hash"] == Manifest.load(manifest).hash
    assert sum(count for _, _, count in facts["seconds_histogram"]) == 4


def test_show_of_an_empty_manifest_works(tmp_path, capsys):
    Manifest.of([], "nothing").save(tmp_path / "m.arrow")
    run("show", tmp_path / "m.arrow")
    assert "utterances         0" in capsys.readouterr().out


def test_check_passes_a_sound_corpus(manifest, capsys):
    run("check", manifest)
    assert capsys.readouterr().out == "4 utterances, 0.00 h: all can be used\n"


def test_check_names_the_faults_and_fails(manifest, folder, capsys):
    (folder / "1.wav").unlink()
    soundfile.write(folder / "2.wav", np.zeros(48_000), 16_000)
    with pytest.raises(InputError, match="2 of 4 utterances cannot be used"):
        run("check", manifest)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"1: {folder / '1.wav'}: is not there")
    assert lines[1] == f"2: {folder / '2.wav'}: is silent: every sample is zero"


def test_check_as_json_lists_every_problem(manifest, folder, capsys):
    (folder / "1.wav").unlink()
    with pytest.raises(InputError):
        run("check", manifest, "--json")
    (problem,) = json.loads(capsys.readouterr().out)
    assert (problem["id"], problem["path"], problem["usable"]) == ("1", str(folder / "1.wav"), False)


def test_remarks_are_counted_with_an_example(tmp_path, capsys):
    src = tmp_path / "src"
    src.mkdir()
    for i in range(3):
        soundfile.write(src / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal((4000, 2)), 8000)
    run("import", "folder", src, "--out", tmp_path / "m.arrow")
    capsys.readouterr()
    run("check", tmp_path / "m.arrow")
    assert capsys.readouterr().out.splitlines() == [
        "note: has 8000 Hz and is resampled to 16000 Hz when read: 3 utterances, first 0",
        "note: has 2 channels, which are averaged when read: 3 utterances, first 0",
        "3 utterances, 0.00 h: all can be used"]


def test_skip_bad_leaves_out_and_names(folder, capsys):
    (folder / "3.wav").write_text("no audio")
    out = folder.parent / "m.arrow"
    with pytest.raises(InputError, match=r"3\.wav: cannot be read as audio"):
        run("import", "folder", folder, "--out", out)
    assert not out.exists()
    run("import", "folder", folder, "--out", out, "--skip-bad")
    said = capsys.readouterr()
    assert said.out == f"{out}: 3 utterances, 0.00 h, speakers not known, 1 left out\n"
    assert f"{folder / '3.wav'}: cannot be read as audio" in said.err
    assert Manifest.load(out).ids == ["0", "1", "2"]


def test_wrong_use_is_told_as_such(folder, tmp_path):
    with pytest.raises(UsageError, match="a folder; --out names"):
        run("import", "folder", folder, "--out", tmp_path)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="is there already and no whole manifest"):
        run("import", "folder", folder, "--out", tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    with pytest.raises(UsageError, match="the name of a recording"):
        run("import", "folder", folder, "--out", folder / "new.wav")
    with pytest.raises(UsageError, match="no such manifest"):
        run("show", tmp_path / "none.arrow")
    with pytest.raises(UsageError, match="list of ids cannot be read"):
        run("import", "librispeech", folder, "--out", tmp_path / "m.arrow", "--ids", tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UsageError, match="list of ids is empty"):
        run("import", "librispeech", folder, "--out", tmp_path / "m.arrow", "--ids", tmp_path / "empty.txt")


def test_a_manifest_without_a_suffix_is_written_again(folder, capsys):
    """The second import to `--out m` said of the manifest that the first one had written that it was none."""
    out = folder.parent / "m"
    for _ in range(2):
        run("import", "folder", folder, "--out", out)
    assert len(Manifest.load(out)) == 4


def test_librispeech_with_a_list_is_imported_and_checked(speech, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("\n".join((speech / "splits" / "dev.txt").read_text().split()[:20]))
    run("import", "librispeech", speech / "LibriSpeech", "--out", tmp_path / "m.arrow", "--ids", tmp_path / "ids.txt")
    run("check", tmp_path / "m.arrow")
    assert capsys.readouterr().out.splitlines()[-1].startswith("20 utterances")


def test_transcripts_are_normalised_on_request(folder, capsys):
    (folder / "0.txt").write_text("Don't stop, Zoë!")
    (folder / "1.txt").write_text("...")
    run("import", "folder", folder, "--normalise", "--out", folder.parent / "m.arrow")
    capsys.readouterr()
    found = Manifest.load(folder.parent / "m.arrow").texts
    assert found == ["DON'T STOP ZOE", None, "SOME WORDS HERE", "SOME WORDS HERE"]


def test_transcripts_of_which_normalising_leaves_nothing_are_counted(folder, capsys):
    (folder / "2.txt").write_text("всё это слова", encoding="utf-8")
    (folder / "3.txt").write_text("你好", encoding="utf-8")
    out = folder.parent / "m.arrow"
    run("import", "folder", folder, "--out", out, "--normalise")
    assert "warning: 2 of 4 transcripts have nothing left after --normalise" in capsys.readouterr().err
    assert Manifest.load(out).texts == ["SOME WORDS HERE"] * 2 + [None] * 2


def test_transcripts_of_which_normalising_loses_a_part_are_counted_and_the_first_is_shown(folder, capsys):
    """`room 101` became ROOM, and nothing was said."""
    (folder / "1.txt").write_text("room 101")
    (folder / "2.txt").write_text("привет, OK", encoding="utf-8")
    (folder / "3.txt").write_text("你好", encoding="utf-8")
    run("import", "folder", folder, "--out", folder.parent / "m.arrow", "--normalise")
    said = capsys.readouterr().err
    assert "1 of 4 transcripts have nothing left" in said
    assert "2 of 4 transcripts lose letters or digits to --normalise, first 1: 'room 101' -> 'ROOM'" in " ".join(
        said.split())


@pytest.mark.parametrize(("texts", "told"), [
    (["tôi đọc sách", "bạn mua phở", "ba", "na"], True), (["kız", "ılık", "a", "b"], True),
    (["a", "b", "c", "d"], False), (["größer", "a", "b", "c"], True), (["it’s", "“so”", "b – c", "d"], False)])
def test_languages_whose_accents_are_letters_are_told_that_normalising_drops_them(folder, capsys, texts, told):
    """Vietnamese lost its tones and Turkish its dotless i, and nothing was said."""
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    run("import", "folder", folder, "--out", folder.parent / "m.arrow", "--normalise")
    assert ("transcripts lose accents to --normalise" in " ".join(capsys.readouterr().err.split())) == told


def test_a_prefix_tells_the_files_of_two_sets_apart(folder, capsys):
    run("import", "folder", folder, "--prefix", "dev-", "--out", folder.parent / "m.arrow")
    found = Manifest.load(folder.parent / "m.arrow")
    assert (found.ids, found.texts) == ([f"dev-{i}" for i in range(4)], ["some words here"] * 4)
    with pytest.raises(UsageError, match="--prefix 'my dev': ids hold no spaces"):
        run("import", "folder", folder, "--prefix", "my dev", "--out", folder.parent / "m.arrow")


def test_an_import_that_has_skip_bad_says_so(folder):
    (folder / "3.wav").write_text("no audio")
    with pytest.raises(InputError, match=r"leave them out \(--skip-bad\)$"):
        run("import", "folder", folder, "--out", folder.parent / "m.arrow")
