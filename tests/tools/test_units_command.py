"""`hubertkit units`: files in, units out, in every form; and a teacher of something else is refused."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from tools import units as command
from tools.teacher import app as teacher_app
from upstream.audio.caching import AudioCache
from upstream.audio.corpora.folder import import_folder
from upstream.errors import InputError, UsageError
from upstream.features.mix import MixSource
from upstream.features.source import LayerSource, MfccSource
from upstream.model import Encoder, EncoderConfig, save_encoder
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units

SMALL = {"conv_dim": 16, "width": 32, "layers": 2, "heads": 2, "ffn": 64, "positional_kernel": 16,
         "positional_groups": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three files, two encoders, a teacher of MFCCs and one of layer 1 of the first encoder."""
    folder = tmp_path_factory.mktemp("units")
    (folder / "audio").mkdir()
    rng = np.random.default_rng(0)
    for name, seconds in (("a", 2), ("b", 3), ("c", 1)):
        t = np.arange(seconds * 16_000) / 16_000
        wave = 0.2 * np.sin(2 * np.pi * (200 + 150 * np.sin(5 * t)) * t) + rng.normal(0, 0.02, len(t))
        soundfile.write(folder / "audio" / f"{name}.wav", wave, 16_000)
    for seed in (0, 1):
        save_encoder(Encoder(EncoderConfig(**SMALL)).initialise(seed), folder / f"encoder{seed}", extra={})
    manifest = import_folder(folder / "audio")
    manifest.save(folder / "manifest.arrow")
    read = AudioCache(manifest).wave
    Teacher.fit(MfccSource(), manifest, (5, 9), seed=0, read=read).save(folder / "mfcc")
    source = LayerSource(Encoder(EncoderConfig(**SMALL)).initialise(0).eval(), 1, "cpu")
    Teacher.fit(source, manifest, 6, seed=0, read=read).save(folder / "layer")
    return folder


def call(*arguments, app=None):
    if app is None:
        app = typer.Typer()
        command.register(app)
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_a_bad_file_of_a_folder_is_left_out_by_a_command_that_can(data, tmp_path):
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(InputError, match=r"--skip-bad --out FILE\.arrow, and give FILE\.arrow in place of the folder"):
        call(tmp_path, "--teacher", data / "mfcc", "--out", tmp_path / "u.jsonl")


def test_files_become_jsonl_with_a_bit_rate(data, tmp_path):
    result = call(data / "audio" / "a.wav", data / "audio" / "c.wav", "--teacher", data / "layer", "--encoder",
                  data / "encoder0", "--layer", 1, "--out", tmp_path / "new" / "u.jsonl", "--collapse")
    head, first, _ = [json.loads(line) for line in (tmp_path / "new" / "u.jsonl").read_text().splitlines()]
    assert (first["id"], sum(first["durations"])) == ("a", 99)
    assert (head["layer"], head["classes"], head["rate"]) == (1, [6], 50)
    assert head["teacher_hash"] == Teacher.load(data / "layer").hash
    assert head["encoder_hash"] == Teacher.load(data / "layer").features["encoder"]
    rate = head["bit_rate"][0]
    assert f"{rate['entropy_rate']:.1f}" in result.stdout
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["u.jsonl"]


@pytest.mark.parametrize("name", ["u.jsonl", "store"])
def test_units_go_on_from_the_stretches_that_were_done_before_a_kill(data, tmp_path, monkeypatch, name):
    words = (data / "manifest.arrow", "--teacher", data / "mfcc", "--out", tmp_path / name)
    monkeypatch.setattr("upstream.teacher.teacher.STRETCH_SECONDS", 1.0)
    read, seen = AudioCache.wave, []

    def watched(audio, index):
        seen.append(index)
        if seen == [0, 1, 2]:
            raise RuntimeError("killed")
        return read(audio, index)

    monkeypatch.setattr(AudioCache, "wave", watched)
    with pytest.raises(RuntimeError, match="killed"):
        call(*words)
    assert not (tmp_path / "u.jsonl").exists()
    call(*words)
    assert seen == [0, 1, 2, 2]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_ids_of_files_are_those_of_their_folder(data, tmp_path):
    for name in ("x1", "x2"):
        (tmp_path / "audio" / name).mkdir(parents=True)
        shutil.copy(data / "audio" / "c.wav", tmp_path / "audio" / name)
    files = sorted((tmp_path / "audio").glob("*/*.wav"))
    for recordings, out in (([tmp_path / "audio"], "folder"), (files, "files")):
        call(*recordings, "--teacher", data / "mfcc", "--out", tmp_path / out)
    assert Units.load(tmp_path / "files").ids == Units.load(tmp_path / "folder").ids == ["x1-c", "x2-c"]
    call(data / "audio" / "a.wav", "--teacher", data / "mfcc", "--out", tmp_path / "one")
    assert Units.load(tmp_path / "one").ids == ["a"]


def test_a_manifest_becomes_a_store_that_trains(data, tmp_path):
    found = json.loads(call(data / "manifest.arrow", "--teacher", data / "mfcc", "--out", tmp_path / "store",
                            "--json").stdout)
    units = Units.load(tmp_path / "store")
    assert (units.ids, units.classes) == (["a", "b", "c"], (5, 9))
    assert found["units_hash"] == units.hash
    assert [r["uniform_rate"] for r in found["bit_rate"]] == pytest.approx([50 * np.log2(5), 50 * np.log2(9)])


def test_all_forms_hold_the_same_units(data, tmp_path):
    for name in ("store", "u.jsonl", "u.km"):
        call(data / "audio", "--teacher", data / "mfcc", "--out", tmp_path / name)
    units = Units.load(tmp_path / "store")
    rows = [json.loads(line) for line in (tmp_path / "u.jsonl").read_text().splitlines()][1:]
    for stream in (0, 1):
        lines = (tmp_path / f"u.{stream}.km").read_text().splitlines()
        for utterance_id, row, line in zip(units.ids, rows, lines):
            labels = units.labels(utterance_id, stream).tolist()
            assert row["id"] == utterance_id
            assert labels == row["units"][stream] == [int(x) for x in line.split()]


def test_a_codebook_of_another_encoder_or_layer_is_refused(data, tmp_path):
    audio, layer = data / "audio" / "a.wav", ("--teacher", data / "layer", "--out", tmp_path / "u.jsonl")
    with pytest.raises(InputError, match=r"fitted on encoder [0-9a-f]{12}, this one is"):
        call(audio, *layer, "--encoder", data / "encoder1")
    with pytest.raises(InputError, match="fitted on layer 1, not on layer 2"):
        call(audio, *layer, "--encoder", data / "encoder0", "--layer", 2)
    with pytest.raises(UsageError, match=r"give it \(--encoder\)"):
        call(audio, *layer)
    with pytest.raises(UsageError, match="reads mfcc, not an encoder"):
        call(audio, "--teacher", data / "mfcc", "--encoder", data / "encoder0", "--out", tmp_path / "u.km")
    assert not list(tmp_path.iterdir())


def test_wrong_uses_are_told(data, tmp_path):
    audio = data / "audio" / "a.wav"
    with pytest.raises(UsageError, match="the units store has a label for each frame"):
        call(audio, "--teacher", data / "mfcc", "--out", tmp_path / "store", "--collapse")
    with pytest.raises(UsageError, match=r"name it \.jsonl, \.km or \.arrow"):
        call(audio, "--teacher", data / "mfcc", "--out", tmp_path / "u.txt")
    with pytest.raises(UsageError, match="one manifest, or one folder, or audio files only"):
        call(audio, data / "manifest.arrow", "--teacher", data / "mfcc", "--out", tmp_path / "u.km")
    with pytest.raises(UsageError, match="first hubertkit teacher import"):
        call(audio, "--teacher", data / "mfcc" / "centroids0.npy", "--out", tmp_path / "u.km")


def test_published_centroids_are_imported_and_used(data, tmp_path):
    np.save(tmp_path / "c.npy", Teacher.load(data / "layer").centroids.numpy())
    call("import", tmp_path / "c.npy", "--encoder", data / "encoder0", "--layer", 1, "--out", tmp_path / "teacher",
         app=teacher_app)
    for teacher, name in ((tmp_path / "teacher", "imported.km"), (data / "layer", "own.km")):
        call(data / "manifest.arrow", "--teacher", teacher, "--encoder", data / "encoder0", "--out", tmp_path / name)
    assert (tmp_path / "imported.km").read_text() == (tmp_path / "own.km").read_text()
    with pytest.raises(UsageError, match="go together"):
        call("import", tmp_path / "c.npy", "--layer", 1, "--out", tmp_path / "t", app=teacher_app)
    with pytest.raises(InputError, match="32 dimensions, the features have 39"):
        call("import", tmp_path / "c.npy", "--out", tmp_path / "t", app=teacher_app)


def test_centroids_are_not_removed_by_their_own_import(data, tmp_path):
    """`teacher import km/centroids_500.npy --out km` gave rc 0, and they were gone with everything of such a name."""
    (tmp_path / "km").mkdir()
    np.save(tmp_path / "km" / "centroids_500.npy", Teacher.load(data / "layer").centroids.numpy())
    for name in ("centroids_best.npy", "pca.npy", "notes.txt"):
        (tmp_path / "km" / name).write_text("mine")
    (tmp_path / "link.npy").symlink_to(tmp_path / "km" / "centroids_500.npy")
    before = {path: path.read_bytes() for path in (tmp_path / "km").iterdir()}
    words = ("--encoder", data / "encoder0", "--layer", 1, "--out", tmp_path / "km")
    for centroids in (tmp_path / "km" / "centroids_500.npy", tmp_path / "link.npy"):
        with pytest.raises(UsageError, match="lies in the folder that would be filled"):
            call("import", centroids, *words, app=teacher_app)
        assert {path: path.read_bytes() for path in (tmp_path / "km").iterdir()} == before
    np.save(tmp_path / "c.npy", Teacher.load(data / "layer").centroids.numpy())
    for _ in range(2):  # from elsewhere it goes beside them, twice if need be
        call("import", tmp_path / "c.npy", *words, app=teacher_app)
        assert {path: path.read_bytes() for path in before} == before


def test_units_do_not_take_the_place_of_files_of_somebody_else(data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "stream1.npy").write_text("mine")
    command = (data / "manifest.arrow", "--teacher", data / "mfcc", "--out", tmp_path / "mine")
    with pytest.raises(UsageError, match=r"stream1\.npy: is there already and no part of units of ours"):
        call(*command)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["stream1.npy"]
    (tmp_path / "mine" / "stream1.npy").unlink()
    for _ in range(2):
        call(*command)


def test_proxies_need_no_alignments(data, tmp_path):
    call(data / "manifest.arrow", "--teacher", data / "layer", "--encoder", data / "encoder0", "--out",
         tmp_path / "store")
    with pytest.raises(UsageError, match="give --alignments DIR, or --proxies"):
        call("quality", tmp_path / "store", app=teacher_app)
    short = json.loads(call("quality", tmp_path / "store", "--proxies", data / "manifest.arrow", "--json",
                            app=teacher_app).stdout)["proxies"]
    assert short["speakers"] is None  # nobody has said who speaks
    assert "noise" not in short
    whole = ("quality", tmp_path / "store", "--proxies", data / "manifest.arrow", "--teacher", data / "layer",
             "--encoder", data / "encoder0", "--snr", 0)
    found = json.loads(call(*whole, "--json", app=teacher_app).stdout)["proxies"]
    assert found["runs"] == short["runs"]
    assert (found["noise"]["amount"], found["speed"]["amount"]) == (0, 1.1)
    assert found["noise"]["kappa"] < found["noise"]["agreement"] <= 1
    assert "same label with noise (0 dB)" in call(*whole, app=teacher_app).stdout
    with pytest.raises(InputError, match="give the teacher that made them"):
        call(*whole[:5], data / "mfcc", app=teacher_app)


def test_proxies_of_a_manifest_with_the_same_ids_and_other_audio_are_refused(data, tmp_path):
    call(data / "manifest.arrow", "--teacher", data / "mfcc", "--out", tmp_path / "store")
    (tmp_path / "audio").mkdir()
    for name, samples in (("a", 32_000), ("b", 40_000), ("c", 16_000)):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", np.zeros(samples), 16_000)
    import_folder(tmp_path / "audio").save(tmp_path / "other.arrow")
    with pytest.raises(InputError, match=r"^b: 149 labels for 40000 samples, expected 124; .* of other audio"):
        call("quality", tmp_path / "store", "--proxies", tmp_path / "other.arrow", app=teacher_app)


def test_teachers_of_every_kind_are_fitted(data, tmp_path):
    manifest = data / "manifest.arrow"
    for name, classes, words in (
            ("product", (5, 5, 5), ["--clusters", "5,5,5", "--kind", "product"]),
            ("random", (16,), ["--clusters", 16, "--kind", "random", "--features", "fbank", "--stacked"]),
            ("ensemble", (5, 9), ["--clusters", "5,9"]),
            ("single", (6,), ["--clusters", 6, "--encoder", data / "encoder0", "--layer", 1]),
            ("residual", (4, 4), ["--clusters", "4,4", "--kind", "residual", "--pca", 10, "--whiten"])):
        printed = call("fit", manifest, *words, "--out", tmp_path / name, app=teacher_app).stdout
        assert f"{name} teacher of {'+'.join(map(str, classes))} classes" in printed
        assert Teacher.load(tmp_path / name).classes == classes
    assert Teacher.load(tmp_path / "ensemble").hash == Teacher.load(data / "mfcc").hash
    assert Teacher.load(tmp_path / "single").hash == Teacher.load(data / "layer").hash
    call(manifest, "--teacher", tmp_path / "random", "--out", tmp_path / "u.km")
    with pytest.raises(UsageError, match="kind 'triple': expected one of single"):
        call("fit", manifest, "--clusters", 4, "--kind", "triple", "--out", tmp_path / "x", app=teacher_app)


def test_a_teacher_of_several_layers_and_encoders_labels_recordings(data, tmp_path):
    """In whatever order the encoders are named; the units are those of the teacher's own source."""
    manifest = import_folder(data / "audio")
    read = AudioCache(manifest).wave
    encoders = [Encoder(EncoderConfig(**SMALL)).initialise(seed).eval() for seed in (0, 1)]
    for name, chosen in (("two", encoders), ("one", encoders[:1])):
        source = MixSource([LayerSource(encoder, [1, 2], "cpu") for encoder in chosen])
        teacher = Teacher.fit(source, manifest, 6, seed=0, read=read)
        teacher.save(tmp_path / name)
        expected = teacher.label(source, manifest, tmp_path / f"{name}-expected", read=read)
        named = [word for i in reversed(range(len(chosen))) for word in ("--encoder", data / f"encoder{i}")]
        call(data / "manifest.arrow", "--teacher", tmp_path / name, *named, "--out", tmp_path / f"{name}-units")
        assert Units.load(tmp_path / f"{name}-units").hash == expected.hash
    with pytest.raises(UsageError, match=r"2 encoders; give each of them \(--encoder\)"):
        call(data / "manifest.arrow", "--teacher", tmp_path / "two", "--encoder", data / "encoder0", "--out",
             tmp_path / "x")
    with pytest.raises(InputError, match="given twice"):
        call(data / "manifest.arrow", "--teacher", tmp_path / "two", "--encoder", data / "encoder0", "--encoder",
             data / "encoder0", "--out", tmp_path / "x")


def test_teachers_of_several_layers_and_encoders_are_fitted_imported_and_judged(data, tmp_path):
    manifest, encoders = import_folder(data / "audio"), [data / "encoder0", data / "encoder1"]
    loaded = [Encoder(EncoderConfig(**SMALL)).initialise(seed).eval() for seed in (0, 1)]
    source = MixSource([LayerSource(encoder, [1, 2], "cpu") for encoder in loaded])
    both = ["--encoder", encoders[0], "--encoder", encoders[1]]
    layers = ["--layer", 1, "--layer", 2]
    call("fit", data / "manifest.arrow", "--clusters", 6, *both, *layers, "--out", tmp_path / "two", app=teacher_app)
    two = Teacher.load(tmp_path / "two")
    assert two.hash == Teacher.fit(source, manifest, 6, seed=0, read=AudioCache(manifest).wave).hash
    np.save(tmp_path / "c.npy", two.centroids.numpy())
    call("import", tmp_path / "c.npy", *both, *layers, "--out", tmp_path / "imported", app=teacher_app)
    assert Teacher.load(tmp_path / "imported").features == two.features
    call(data / "manifest.arrow", "--teacher", tmp_path / "two", *both, "--out", tmp_path / "units")
    judged = ("quality", tmp_path / "units", "--proxies", data / "manifest.arrow", "--teacher", tmp_path / "two")
    found = json.loads(call(*judged, *both, "--json", app=teacher_app).stdout)["proxies"]
    assert 0 < found["noise"]["agreement"] <= 1
    with pytest.raises(UsageError, match=r"2 encoders; give each of them \(--encoder\)"):
        call(*judged, *both[:2], app=teacher_app)
    with pytest.raises(UsageError, match="one of them twice"):
        call("fit", data / "manifest.arrow", "--clusters", 6, *both, "--layer", 1, "--layer", 1, "--out",
             tmp_path / "x", app=teacher_app)
