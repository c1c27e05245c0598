"""`hubertkit teacher sweep`: a table, a picture, JSON, and a teacher that `hubertkit units` takes."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from tools.teacher import app
from upstream.audio.corpora.folder import import_folder
from upstream.errors import BusyError, UsageError
from upstream.locks import locked
from upstream.model import Encoder, EncoderConfig, encoder_hash, save_encoder
from upstream.teacher.teacher import Teacher

SMALL = {"frontend": "fbank", "width": 32, "layers": 1, "heads": 2, "ffn": 64, "positional_kernel": 16,
         "positional_groups": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "audio").mkdir()
    rng = np.random.default_rng(0)
    for name in "abcd":
        pitch = np.repeat(rng.choice([300, 900, 2500], 20), 1600)
        wave = 0.2 * np.sin(np.cumsum(2 * np.pi * pitch / 16_000)) + rng.normal(0, 0.01, 32_000)
        soundfile.write(folder / "audio" / f"{name}.wav", wave, 16_000)
        if name != "d":
            (folder / f"{name}.ctm").write_text("".join(
                f"u 1 {0.1 * i:.1f} 0.1 P{p}X\n" for i, p in enumerate(pitch[::1600])))
    import_folder(folder / "audio").save(folder / "manifest.arrow")
    save_encoder(Encoder(EncoderConfig(**SMALL)).initialise(0), folder / "encoder", extra={})
    return folder


def call(data, out, *arguments):
    result = CliRunner().invoke(app, ["sweep", str(data / "encoder"), str(data / "manifest.arrow"), "--out", str(out),
                                      *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_layers_are_judged_by_alignments(data, tmp_path):
    result = call(data, tmp_path / "out", "--clusters", "3,5", "--alignments", data)
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (found["measure"], found["utterances"]) == ("pnmi", 3)  # one has no alignment
    assert [(r["layer"], r["clusters"]) for r in found["rows"]] == [(0, 3), (0, 5), (1, 3), (1, 5)]
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    teacher = Teacher.load(tmp_path / "out" / "teacher")
    assert teacher.features["encoder"] == encoder_hash(data / "encoder") == found["encoder"]
    assert teacher.features["layer"] == found["pick"]["layer"]
    assert f"pick: layer {found['pick']['layer']}" in result.stdout
    assert f"{found['rows'][0]['pnmi']:.3f}" in result.stdout


def test_an_encoder_that_is_not_there_is_told_before_a_folder_is_made_or_locked(data, tmp_path):
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "mine", tmp_path / "new" / "out"):
        with pytest.raises(UsageError, match="nowhere"):
            CliRunner().invoke(app, ["sweep", str(tmp_path / "nowhere"), str(data / "manifest.arrow"), "--out",
                                     str(out)], catch_exceptions=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_of_two_sweeps_at_once_into_one_folder_the_second_is_refused(data, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(BusyError, match="another process works here"):
        call(data, tmp_path / "out", "--clusters", "3")


def test_or_by_stability_without(data, tmp_path):
    found = json.loads(call(data, tmp_path, "--clusters", "4", "--json", "--layers", "1").stdout)
    assert (found["measure"], found["utterances"], found["snr"], found["cmn"]) == ("stability", 4, 10, False)
    assert found["rows"][0]["stability"] is not None
    assert call(data, tmp_path, "--clusters", "4", "--hours", "0.001").stdout.count("stable in noise") == 1


def test_wrong_uses_are_told(data, tmp_path):
    with pytest.raises(UsageError, match="whole numbers with commas between"):
        call(data, tmp_path, "--clusters", "[3,5]")
    with pytest.raises(UsageError, match="no such folder"):
        call(data, tmp_path, "--alignments", tmp_path / "nowhere")
    for hours in ("nan", "0", "-1"):
        with pytest.raises(UsageError, match=f"{hours} hours: must be above 0"):
            call(data, tmp_path, "--hours", hours)
    for snr in ("nan", "inf"):
        with pytest.raises(UsageError, match=f"snr {snr}: expected -200 to 200 dB"):
            call(data, tmp_path, "--snr", snr)
    with pytest.raises(UsageError, match="layers 0 to 1"):
        call(data, tmp_path, "--clusters", "3", "--layers", "0,2")
