"""The comparison of teachers: its rows are what the units say, and it goes on where it was killed."""

from __future__ import annotations

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile

from benchmarks import teachers
from benchmarks.results import read_results
from benchmarks.teachers import Candidate, recordings_of, run
from benchmarks.teachers_plot import plot_teachers
from upstream.audio.corpora.folder import import_folder
from upstream.errors import UsageError
from upstream.model import Encoder, EncoderConfig
from upstream.teacher.quality import figures
from upstream.teacher.units import Units

SMALL = {"frontend": "fbank", "width": 16, "layers": 2, "heads": 2, "ffn": 16, "positional_kernel": 4,
         "positional_groups": 4}
TONES = {"A": 300, "B": 900, "C": 2500}
FEW = (Candidate("mfcc-3", (3,)), Candidate("mfcc-product", (2, 2, 2), "product"),
       Candidate("random-projection-4", (4,), "random"))


@pytest.fixture
def recordings(tmp_path):
    """Four utterances whose phones are tones of 120 ms."""
    rng = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    for number in range(4):
        phones = rng.choice(list(TONES), 20)
        pitch = np.repeat([TONES[p] for p in phones], 1920)
        wave = 0.2 * np.sin(np.cumsum(2 * np.pi * pitch / 16_000)) + rng.normal(0, 0.01, len(pitch))
        soundfile.write(tmp_path / "audio" / f"u{number}.wav", wave, 16_000)
        (tmp_path / "phones").mkdir(exist_ok=True)
        (tmp_path / "phones" / f"u{number}.ctm").write_text(
            "".join(f"u 1 {0.12 * i:.2f} 0.12 {p}\n" for i, p in enumerate(phones)))
    import_folder(tmp_path / "audio").save(tmp_path / "all.arrow")
    return recordings_of(tmp_path / "all.arrow", tmp_path / "all.arrow", tmp_path / "phones", 1.0, 2000, 0)


@pytest.fixture
def trained(tmp_path):
    """A folder that looks like a pretraining run of two rounds."""
    for number in (1, 2):
        folder = tmp_path / "run" / f"round{number}" / "encoder"
        Encoder(EncoderConfig(**SMALL)).initialise(number).save(folder)  # type: ignore[arg-type]
        (folder / "metrics.jsonl").write_text(json.dumps({"update": 5, "kind": "valid", "pnmi_layer2": 0.25}) + "\n")
    return tmp_path / "run"


def test_every_teacher_and_layer_has_its_rows(monkeypatch, recordings, trained, tmp_path):
    monkeypatch.setattr(teachers, "PLAIN", FEW)
    found = run(recordings, trained, [3], tmp_path / "out", "a command", say=lambda _: None)
    assert found["rows"] == read_results(tmp_path / "out" / "results.json")["rows"]
    assert [(r["teacher"], r["round"], r["layer"], r["stream"]) for r in found["rows"]] == [
        ("mfcc-3", 0, None, 0), *(("mfcc-product", 0, None, s) for s in (0, 1, 2, "joint")),
        ("random-projection-4", 0, None, 0),
        *((f"round{n}-layer{layer}-3", n, layer, 0) for n in (1, 2) for layer in (1, 2))]
    assert found["curves"] == [{"round": n, "update": 5, "layer": 2, "pnmi": 0.25} for n in (1, 2)]
    mfcc = found["rows"][0]
    assert mfcc["pnmi"] > 0.8  # tones are what MFCC tell apart
    product = found["rows"][1:5]
    assert product[3]["classes"] <= 8
    assert product[3]["pnmi"] >= max(r["pnmi"] for r in product[:3])  # all streams know what each one knows


def test_a_joint_row_is_the_table_of_combinations(monkeypatch, recordings, tmp_path):
    monkeypatch.setattr(teachers, "PLAIN", FEW[1:2])
    joint = run(recordings, None, [3], tmp_path / "out", "a command", say=lambda _: None)["rows"][-1]
    units = Units.load(tmp_path / "out" / "mfcc-product" / "units")
    pairs: dict[tuple[str, tuple[int, ...]], int] = {}
    for utterance, path in recordings.alignments.items():
        phones = teachers.phones_at_frames(path, len(units.labels(utterance)))
        for i, phone in enumerate(phones):
            key = (str(phone), tuple(int(units.labels(utterance, s)[i]) for s in range(3)))
            pairs[key] = pairs.get(key, 0) + 1
    rows, columns = sorted({p for p, _ in pairs}), sorted({c for _, c in pairs})
    expected = figures(np.array([[pairs.get((p, c), 0) for c in columns] for p in rows]))
    assert joint["classes"] == len(columns)
    assert joint["pnmi"] == pytest.approx(expected.pnmi, abs=1e-4)


def test_what_is_done_is_not_done_again(monkeypatch, recordings, tmp_path):
    monkeypatch.setattr(teachers, "PLAIN", FEW[:2])
    heard: list[str] = []
    first = run(recordings, None, [3], tmp_path / "out", "a command", say=heard.append)
    record = tmp_path / "out" / "mfcc-product" / "stage.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"state": "running"}))  # as if killed there
    heard.clear()
    assert run(recordings, None, [3], tmp_path / "out", "a command", say=heard.append)["rows"] == first["rows"]
    assert any("mfcc-3" in line and "skipped" in line for line in heard)
    assert not any("mfcc-product" in line and "skipped" in line for line in heard)


def test_wrong_use_is_said(recordings, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no round1/encoder"):
        run(recordings, tmp_path / "empty", [3], tmp_path / "out", "a command", say=lambda _: None)
    with pytest.raises(UsageError, match="no such folder"):
        recordings_of(tmp_path / "all.arrow", tmp_path / "all.arrow", tmp_path / "nowhere", 1.0, 100, 0)
    with pytest.raises(UsageError, match="has an alignment"):
        run(replace(recordings, alignments={}), None, [3], tmp_path / "out", "a command", say=lambda _: None)


def test_other_encoders_and_frames_without_their_means_are_judged_too(monkeypatch, recordings, trained, tmp_path):
    monkeypatch.setattr(teachers, "PLAIN", FEW)
    first = run(recordings, trained, [3], tmp_path / "out", "a command", say=lambda _: None)["rows"]
    Encoder(EncoderConfig(**SMALL)).initialise(7).save(tmp_path / "mine")  # type: ignore[arg-type]
    heard: list[str] = []
    rows = run(recordings, trained, [3], tmp_path / "out", "a command", say=heard.append, others=[tmp_path / "mine"],
               cmn=True)["rows"]
    assert [row for row in rows if not row["cmn"] and row["encoder"] is None] == first
    assert sum("skipped" in line for line in heard) == len(FEW) + 4  # what was judged before is not stale
    names = [row["teacher"] for row in rows if row["cmn"] or row["encoder"]]
    assert names == ["mfcc-cmn-3", *(f"round{n}-layer{layer}-cmn-3" for n in (1, 2) for layer in (1, 2)),
                     *(f"mine-layer{layer}{kind}-3" for layer in (1, 2) for kind in ("", "-cmn"))]
    assert all(row["encoder"] == "mine" and row["round"] == 0 for row in rows if row["teacher"].startswith("mine"))


def test_a_link_gives_an_encoder_another_name(monkeypatch, recordings, trained, tmp_path):
    monkeypatch.setattr(teachers, "PLAIN", ())
    for number in (1, 2):
        (tmp_path / f"plain{number}").symlink_to(trained / f"round{number}" / "encoder")
    found = run(recordings, None, [3], tmp_path / "out", "a command", say=lambda _: None,
                others=[tmp_path / "plain1", tmp_path / "plain2"])
    assert [row["encoder"] for row in found["rows"]] == ["plain1", "plain1", "plain2", "plain2"]


def test_two_encoders_of_one_name_are_refused(recordings, trained, tmp_path):
    for others in ([tmp_path / "a" / "same", tmp_path / "b" / "same"], [tmp_path / "round1"]):
        with pytest.raises(UsageError, match="there is another encoder"):
            run(recordings, trained, [3], tmp_path / "out", "a command", say=lambda _: None, others=others)


def test_the_picture_shows_layers_beside_plain_features_and_nothing_where_there_are_none(tmp_path):
    place = {"kind": "single", "stream": 0, "classes": 100, "encoder": None, "cmn": False}
    plain = [place | {"teacher": "mfcc-100", "round": 0, "layer": None, "pnmi": 0.33},
             place | {"teacher": "mfcc-cmn-100", "round": 0, "layer": None, "pnmi": 0.35, "cmn": True}]
    layers = [place | {"teacher": f"round{n}-layer{layer}-100", "round": n, "layer": layer, "pnmi": 0.3 + 0.02 * n,
                       "cmn": cmn} for n in (1, 2) for layer in (1, 2) for cmn in (False, True)]
    curves = [{"round": n, "update": u, "layer": layer, "pnmi": 0.3 + u / 1000 + layer / 100}
              for n in (1, 2) for u in (10, 20) for layer in (1, 2)]
    plot_teachers(plain, [], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    plot_teachers(plain + layers, curves, tmp_path / "both.png")
    plot_teachers(plain + layers, [], tmp_path / "one.png")
    shapes = [plt.imread(tmp_path / name).shape for name in ("one.png", "both.png")]
    assert shapes[1][1] == 2 * shapes[0][1]  # a panel more


def test_old_rows_without_cmn_are_drawn(tmp_path):
    rows = [{"teacher": "round1-layer1-100", "kind": "single", "round": 1, "layer": 1, "stream": 0, "classes": 100,
             "pnmi": 0.3}]
    plot_teachers(rows, [], tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_encoders_of_one_name_are_told_apart_by_links(tmp_path):
    """A bug once found: links were resolved, and the advice to make some led nowhere."""
    for run_ in ("a", "b"):
        (tmp_path / run_ / "encoder").mkdir(parents=True)
        (tmp_path / f"link-{run_}").symlink_to(tmp_path / run_ / "encoder")
    with pytest.raises(UsageError, match="another encoder encoder"):
        teachers._named([tmp_path / "a/encoder", tmp_path / "b/encoder/."])
    assert list(teachers._named([tmp_path / "link-a", tmp_path / "link-b"])) == ["link-a", "link-b"]
