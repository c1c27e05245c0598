"""`hubertkit teacher quality` prints figures, JSON on request, and one line for mistakes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from tools.teacher import app
from upstream.audio.manifest import Manifest, Utterance
from upstream.errors import BusyError, FormatError, InputError, UsageError
from upstream.locks import LOCK, locked
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import UnitsWriter


@pytest.fixture
def data(tmp_path):
    """One utterance of 20 frames, half A, half silence, and one without an alignment."""
    with UnitsWriter(tmp_path / "units", (3,)) as writer:
        writer.add("a", np.repeat([0, 1], 10))
        writer.add("b", np.array([2]))
    (tmp_path / "alignments").mkdir()
    (tmp_path / "alignments" / "a.ctm").write_text("a 1 0 0.2 A1\na 1 0.2 0.2 sil\n")
    return tmp_path


def call(*arguments):
    result = CliRunner().invoke(app, ["quality", *map(str, arguments)], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_figures_are_printed_with_silence_and_without(data):
    result = call(data / "units", "--alignments", data / "alignments")
    assert result.exit_code == 0
    rows = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:4]]
            for line in result.stdout.splitlines() if line.startswith("│")}
    assert rows["phone purity"] == ["1.0000", "1.0000"]
    assert rows["PNMI"] == ["1.0000", "0.0000"]
    assert rows["frames"] == ["20", "10"]
    assert "3 classes, 1 of them dead; 2 phones" in result.stdout
    assert "5.0 units a second" in " ".join(result.stdout.split())
    assert "1 of 2 utterances have no alignment" in result.stderr


def test_json_holds_all_figures_and_nothing_else_is_on_stdout(data):
    found = json.loads(call(data / "units", "--alignments", data / "alignments", "--json").stdout)
    assert (found["phone_purity"], found["cluster_purity"], found["pnmi"]) == (1.0, 1.0, 1.0)
    assert found["without_silence"]["frames"] == 10
    assert found["dead_classes"] == [2]
    assert found["units_per_second"] == 5  # two runs in 0.4 s
    assert found["utterances_without_alignment"] == 1


def test_of_several_streams_it_is_said_which_one_is_judged(data):
    with UnitsWriter(data / "two", (3, 3)) as writer:
        writer.add("a", np.repeat([0, 1], 10), np.repeat([2], 20))
    for stream, purity in ((0, "1.0000"), (1, "0.5000")):
        result = call(data / "two", "--alignments", data / "alignments", "--stream", stream)
        assert f"these are the figures of stream {stream}; --stream names another of 0 to 1" in result.stderr
        assert purity in next(line for line in result.stdout.splitlines() if "phone purity" in line)
    assert "stream" not in call(data / "units", "--alignments", data / "alignments").stderr


def test_one_ctm_of_all_recordings_gives_the_figures_of_a_file_for_each(data):
    (data / "set.ctm").write_text("b 1 0 0.02 B\na 1 0 0.2 A1\na 1 0.2 0.2 sil\n")
    (data / "set").mkdir()
    for name, lines in (("a", "a 1 0 0.2 A1\na 1 0.2 0.2 sil\n"), ("b", "b 1 0 0.02 B\n")):
        (data / "set" / f"{name}.ctm").write_text(lines)
    one, each = (json.loads(call(data / "units", "--alignments", data / name, "--json").stdout)
                 for name in ("set.ctm", "set"))
    assert one == each
    assert one["utterances"] == 2


def test_a_picture_is_written_on_request(data):
    call(data / "units", "--alignments", data / "alignments", "--plot", data / "map.png")
    assert (data / "map.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_told_in_a_line(data):
    with pytest.raises(FormatError, match=r"no units\.json"):
        call(data, "--alignments", data / "alignments")
    with pytest.raises(UsageError, match="no such folder"):
        call(data / "units", "--alignments", data / "nowhere")
    with pytest.raises(InputError, match="no alignments here"):
        call(data / "units", "--alignments", data / "units")
    with pytest.raises(UsageError, match="streams 0 to 0"):
        call(data / "units", "--alignments", data / "alignments", "--stream", "1")


@pytest.mark.parametrize(("option", "value", "says"), [
    ("--hours", "nan", "nan hours: must be above 0"), ("--hours", "0", "0 hours: must be above 0"),
    ("--hours", "-1", "-1 hours: must be above 0"), ("--snr", "nan", "snr nan: expected"),
    ("--snr", "-inf", "snr -inf: expected"), ("--snr", "-5000", "snr -5000"), ("--snr", "1e300", "snr 1e\\+300")])
def test_amounts_that_are_none_are_refused(data, option, value, says):
    with pytest.raises(UsageError, match=says):
        call(data / "units", "--proxies", data / "m.arrow", option, value)


@pytest.mark.parametrize(("options", "says"), [
    ("--alignments alignments --teacher t", "--teacher has no effect without --proxies"),
    ("--alignments alignments --encoder e", "--encoder has no effect without --proxies"),
    ("--proxies m.arrow --encoder e", "--encoder has no effect without --teacher"),
    ("--proxies m.arrow --plot map.png", "--plot has no effect without --alignments")])
def test_options_of_quality_without_an_effect_are_refused(data, monkeypatch, options, says):
    monkeypatch.chdir(data)
    with pytest.raises(UsageError, match=says):
        call("units", *options.split())


@pytest.mark.parametrize(("options", "says"), [
    ("--stacked", "--stacked is for fbank alone"), ("--features mfcc --stacked", "--stacked is for fbank alone"),
    ("--encoder e --layer 1 --stacked", "no effect beside --encoder"),
    ("--encoder e --layer 1 --features fbank", "no effect beside --encoder")])
def test_features_that_fitting_would_not_read_are_refused(tmp_path, options, says):
    found = CliRunner().invoke(app, ["fit", "m.arrow", "--clusters", "3", "--out", str(tmp_path / "t"),
                                     *options.split()])
    assert isinstance(found.exception, UsageError)
    assert says in str(found.exception)


def test_a_fit_draws_from_as_much_as_is_said(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("tools.teacher.Manifest.load", lambda path: Manifest.of([], "a test"))
    monkeypatch.setattr("tools.teacher.AudioCache", lambda manifest: SimpleNamespace(wave=None))
    monkeypatch.setattr("tools.teacher.Teacher.fit", lambda *_, **options: asked.append(options) or 1 / 0)

    def fit(*words):
        arguments = ["fit", "m.arrow", "--clusters", "3", "--out", str(tmp_path / "teacher"), *words]
        return CliRunner().invoke(app, arguments).exception

    fit()
    fit("--within", "0", "--frames", "70")
    assert [(one["sample_frames"], one["sample_within"]) for one in asked] == [(1_000_000, 20), (70, 0)]
    assert "--within 0.5: must be at least 1, or 0" in str(fit("--within", "0.5"))
    assert len(asked) == 2


@pytest.fixture
def noise(tmp_path):
    """A manifest of 30 seconds of noise, and the words that fit a teacher on it."""
    for i in range(30):
        soundfile.write(tmp_path / f"{i}.wav", np.random.default_rng(i).normal(0, 0.1, 16_000), 16_000)
    Manifest.of([Utterance(f"u{i}", tmp_path / f"{i}.wav", 0, 16_000, 16_000, 1, f"s{i}") for i in range(30)],
                "a test").save(tmp_path / "m.arrow")
    return ["fit", str(tmp_path / "m.arrow"), "--clusters", "3", "--out", str(tmp_path / "teacher")]


def test_of_two_teachers_that_are_fitted_at_once_into_one_folder_the_second_is_refused(noise, tmp_path):
    with locked(tmp_path / "teacher"):
        assert isinstance(CliRunner().invoke(app, noise).exception, BusyError)
        np.save(tmp_path / "c.npy", np.zeros((3, 39), np.float32))
        imported = ["import", str(tmp_path / "c.npy"), "--out", str(tmp_path / "teacher")]
        assert isinstance(CliRunner().invoke(app, imported).exception, BusyError)
        assert [path.name for path in (tmp_path / "teacher").iterdir()] == [LOCK]
    assert CliRunner().invoke(app, noise).exit_code == 0
    assert Teacher.load(tmp_path / "teacher").classes == (3,)


def test_a_fit_whose_sample_hears_little_says_so(noise):
    """A small --frames reads a small part of the recordings, and nothing said it."""
    assert "warning" not in CliRunner().invoke(app, noise).stderr
    little = CliRunner().invoke(app, [*noise, "--frames", "10"])
    assert ("warning: the sample hears 5 of 30 utterances, 5 of 30 speakers; raise --frames or --within (0 draws from "
            "all)") in little.stderr
    assert "warning" not in CliRunner().invoke(app, [*noise, "--frames", "10", "--within", "0"]).stderr
