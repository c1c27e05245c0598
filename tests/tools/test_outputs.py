"""`--out` never takes the place of what a command reads, of what another command made, or of a part of a run."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from downstream.emissions import EmissionsWriter
from downstream.emissions import refuse_others as refuse_other_emissions
from downstream.lm.character_model import CharacterModel, CharacterShape
from downstream.lm.character_model import refuse_others as refuse_other_models
from tools.main import run
from tools.outputs import check_file, check_folder
from upstream.errors import HubertkitError, UsageError
from upstream.teacher.quantiser import Quantiser
from upstream.teacher.teacher import Teacher
from upstream.teacher.teacher import refuse_others as refuse_other_teachers
from upstream.teacher.units import UnitsWriter
from upstream.teacher.units import refuse_others as refuse_other_units

EMIT, UNITS = "emit asr m.arrow --out", "units m.arrow --teacher teacher --out"
FIT, IMPORT = "teacher fit m.arrow --clusters 3 --out", "teacher import c.npy --out"
SWEEP, ALIGN = "teacher sweep encoder m.arrow --out", "align asr m.arrow --out"
TRAIN, TUNE = "lm train t.txt --out", "tune emissions --references ref.txt --lm lm.arpa --final m.arrow --out"
KM, PHONES = "corpus import km t.txt --manifest m.arrow --out", "corpus import phones round1 --manifest m.arrow --out"
RESCORE = "rescore h.jsonl --model characters --lm-weight 1 --out"
RESCORE_TUNE = "rescore-tune h.jsonl --references ref.txt --model characters --out"
FOLDERS = {"emissions": "emissions.json", "units": "units.json", "teacher": "teacher.json", "asr": "hubertkit.json",
           "encoder": "hubertkit.json", "characters": "characters.json", "round1": "stage.json"}
FILES = ("m.arrow", "c.npy", "t.txt", "ref.txt", "lm.arpa", "h.jsonl", "emissions/logprobs.npy")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Artefacts of every kind, of which nothing is ever read."""
    for folder, name in FOLDERS.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("{}")
    for name in FILES:
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def held(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(place, capsys, command, says):
    before = held(place)
    assert run(command.split()) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert (said.err.count("\n"), said.out) == (1, "")
    assert held(place) == before


@pytest.mark.parametrize("command", [
    f"{UNITS} emissions", f"{EMIT} units", f"{FIT} emissions", f"{IMPORT} units", f"{SWEEP} emissions",
    f"{ALIGN} units", f"{TRAIN} teacher", f"{EMIT} characters"])
def test_what_another_command_made_is_not_overwritten(place, capsys, command):
    refused(place, capsys, command, "which would be overwritten")


@pytest.mark.parametrize("command", [EMIT, UNITS, FIT, IMPORT, SWEEP, ALIGN, TRAIN])
def test_a_folder_of_a_run_is_left_to_the_run(place, capsys, command):
    refused(place, capsys, f"{command} round1", "round1: belongs to a run")


def test_the_teacher_of_a_run_is_not_replaced_by_that_of_a_sweep(place, capsys):
    (place / "round1" / "stage.json").unlink()
    (place / "round1" / "teacher").mkdir()
    (place / "round1" / "teacher" / "stage.json").write_text("{}")
    refused(place, capsys, f"{SWEEP} round1", "round1/teacher: belongs to a run")


@pytest.mark.parametrize("command", [
    "lm pack lm.arpa --out lm.arpa", "lm build t.txt --order 2 --out t.txt", "lm build t.txt ref.txt --order 2 --out "
    "../{here}/ref.txt", "lm build t.txt --order 2 --vocab ref.txt --out ref.txt",
    "lm prune lm.arpa --ngrams 5 --out lm.arpa", "lm interpolate lm.arpa c.npy --dev t.txt --out c.npy",
    "lm interpolate lm.arpa c.npy --dev t.txt --out t.txt", f"{TUNE} lm.arpa", f"{TUNE} ref.txt", f"{TUNE} m.arrow",
    f"{RESCORE} h.jsonl", f"{RESCORE_TUNE} ref.txt", "decode emissions --lm lm.arpa --out lm.arpa",
    "decode emissions --lm lm.arpa --tuned t.txt --out t.txt", "units m.arrow --teacher teacher --out m.arrow",
    f"{ALIGN} asr", "teacher quality units --alignments round1 --proxies m.arrow --plot m.arrow"])
def test_what_a_command_reads_is_not_overwritten(place, capsys, command):
    refused(place, capsys, command.format(here=place.name), "what the command reads, which would be overwritten")


def test_a_subset_is_not_written_over_its_manifest_nor_over_its_rest(place, capsys):
    refused(place, capsys, "corpus split m.arrow --hours 1min --out m.arrow", "what the command reads")
    refused(place, capsys, "corpus split m.arrow --hours 1min --out x.arrow --rest m.arrow", "what the command reads")
    refused(place, capsys, "corpus split m.arrow --hours 1min --out x.arrow --rest x.arrow", "are the same file")


def test_a_part_of_an_artefact_is_not_overwritten(place, capsys):
    (place / "emissions/ids.arrow").write_text("ids")
    (place / "asr/vocab.json").write_text("{}")
    for part in ("emissions/logprobs.npy", "emissions/ids.arrow", "asr/vocab.json"):
        refused(place, capsys, f"decode emissions --out {part}", "a part of what its folder holds")
    check_file(place / "emissions" / "hypotheses.jsonl")


@pytest.mark.parametrize("command", [
    f"{FIT} t.txt", f"{SWEEP} t.txt", f"{UNITS} t.txt/store", f"{ALIGN} t.txt", f"{IMPORT} t.txt", f"{TUNE} t.txt/x",
    f"{RESCORE_TUNE} t.txt/x", f"{RESCORE} t.txt/x", "lm pack lm.arpa --out t.txt/x",
    "teacher quality units --alignments round1 --plot t.txt/x.png"])
def test_an_output_that_cannot_be_written_is_told_before_the_work(place, capsys, command):
    refused(place, capsys, command, "t.txt: a file stands where a folder is needed")


def test_a_picture_is_no_folder(place, capsys):
    refused(place, capsys, "teacher quality units --alignments round1 --plot round1", "round1: a folder")


@pytest.mark.parametrize(("command", "name"), [
    (EMIT, "ids.arrow"), (EMIT, "emissions.json"), (FIT, "centroids.npy"), (f"{FIT} mine --pca 3", "pca.npy"),
    (f"{FIT} mine --kind random", "pca.npy"), (f"{FIT} mine --clusters 3,4", "centroids1.npy"),
    (IMPORT, "centroids.npy"), (IMPORT, "teacher.json"), (KM, "stream0.npy"), (KM, "units.json"),
    (KM.replace("t.txt", "t.txt ref.txt"), "stream1.npy"), (PHONES, "offsets.npy"), (TRAIN, "model.safetensors"),
    (TRAIN, "characters.json"), (SWEEP, "sweep.json"), (SWEEP, "sweep.png"), (SWEEP, "teacher/centroids.npy")])
def test_files_of_somebody_else_are_not_written_over(place, capsys, command, name):
    """In a folder of one's own arrays `teacher import`, `units` and the like took the place of those of their names."""
    (place / "mine" / "teacher").mkdir(parents=True)
    (place / "mine" / name).write_text('["mine"]')
    refused(place, capsys, command if " mine" in command else f"{command} mine", f"{name}: is there already")


@pytest.mark.parametrize("command", [
    "emit asr mine/m.arrow --out mine", "teacher fit mine/m.arrow --clusters 3 --out mine",
    "units mine/m.arrow --teacher teacher --out mine", "corpus import km mine/t.txt --manifest m.arrow --out mine",
    "teacher import mine/c_500.npy --out ../{here}/mine"])
def test_what_is_read_lies_elsewhere_than_what_is_made(place, capsys, command):
    (place / "mine").mkdir()
    for name in ("m.arrow", "t.txt", "c_500.npy"):
        (place / "mine" / name).write_text(name)
    refused(place, capsys, command.format(here=place.name), "lies in the folder that would be filled")


def test_what_stands_beside_results_of_ours_is_not_written_over(place):
    UnitsWriter(place / "units", (3,)).close()
    np.save(place / "units" / "stream1.npy", np.zeros(3))
    refuse_other_units(place / "units", 1)
    with pytest.raises(UsageError, match=r"stream1\.npy: is there already"):
        refuse_other_units(place / "units", 2)


@pytest.mark.parametrize("header", ["{", '{"format": "hubertkit units", "version": 0}'])
def test_damaged_results_of_ours_may_be_made_again(place, header):
    UnitsWriter(place / "units", (3, 4)).close()
    (place / "units" / "units.json").write_text(header)
    refuse_other_units(place / "units", 2)


def test_a_command_that_was_cut_short_may_be_given_again(place, monkeypatch):
    """The arrays of units and emissions are in their places, and the header that says so is not yet."""
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("upstream.rows.write_json", full)
    monkeypatch.setattr("upstream.teacher.teacher.json_text", full)
    monkeypatch.setattr("downstream.lm.character_model.json_text", full)
    teacher = Teacher(Quantiser((torch.zeros(3, 2),)), {"dim": 2}, None, {})
    for write, refuse in (
            (lambda folder: UnitsWriter(folder, (3,)).close(), lambda folder: refuse_other_units(folder, 1)),
            (teacher.save, lambda folder: refuse_other_teachers(folder, 1)),
            (lambda folder: EmissionsWriter(folder, ["-", "A"], 0, 50.0).close(), refuse_other_emissions),
            (CharacterModel("AB", CharacterShape(4)).save, refuse_other_models)):
        with pytest.raises(HubertkitError, match="full"):
            write(place / "new")
        refuse(place / "new")
        shutil.rmtree(place / "new")


def test_results_of_the_same_kind_and_new_places_are_allowed(place):
    check_folder(place / "units", [place / "m.arrow"], own="units.json")
    check_folder(place / "new" / "units", [place / "m.arrow"], own="units.json")
    with pytest.raises(UsageError, match="holds units"):
        check_folder(place / "units")
