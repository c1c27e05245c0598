"""Every kind of teacher in a round, and what makes a teacher's stage stale."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_rounds import TINY, write_recordings

from upstream.audio import AudioCache, Manifest, Utterance, import_folder
from upstream.audio.caching import CacheRecipe
from upstream.errors import InputError, RecipeError, UsageError
from upstream.model import Encoder, EncoderConfig
from upstream.outlook import outlook
from upstream.pretrain import pretrain
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe, ProbeRecipe, TeacherRecipe, rounds_of
from upstream.recipe import load_recipe
from upstream.round_teacher import heard_by_sweep, make_teacher, say_little, teacher_key
from upstream.run_stages import stage_names
from upstream.stage import read_stage
from upstream.teacher.alignments import find_alignments
from upstream.teacher.importing import import_centroids
from upstream.teacher.matching import named_source
from upstream.teacher.quality import quality
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units, UnitsWriter


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"), 8)


def rounds(recordings, out, *words):
    recipe = load_recipe(PretrainRecipe, "hubert-tiny", [*TINY, f"data={recordings}", *words], SHIPPED)
    return pretrain(recipe, out, lambda line: None)


@pytest.mark.parametrize(("words", "classes"), [
    (["clusters=[8,12]"], (8, 12)),
    (["clusters=[8,8,8]", "kind=product"], (8, 8, 8)),
    (["clusters=[8,8]", "kind=residual", "pca=10"], (8, 8)),
    (["clusters=[8,16]", "kind=random", "features=fbank", "stacked=true"], (8, 16)),
    (["clusters=8", "whiten=true"], (8,)),
], ids=["ensemble", "product", "residual of PCA", "random", "whitened"])
def test_a_round_trains_on_every_stream_of_its_teacher(recordings, tmp_path, words, classes):
    first, second = rounds(recordings, tmp_path, *(f"rounds.0.teacher.{word}" for word in words))
    assert Units.load(first.units).classes == classes
    assert Units.load(second.units).classes == (8,)
    assert first.encoder_result["loss"] > 0


def test_a_round_says_that_the_sample_of_its_teacher_hears_little():
    recipe = load_recipe(PretrainRecipe, "hubert-tiny", ["rounds.1.teacher.clusters=8",
                                                         "rounds.1.teacher.sample_frames=100"], SHIPPED)
    manifest = Manifest.of([Utterance(f"u{i}", Path("/a.wav"), 0, 48_000, 16_000, 1, f"s{i}") for i in range(300)], "")
    said: list[str] = []
    for round_ in rounds_of(recipe):
        say_little(round_, manifest, np.arange(300), 1, said.append)
    assert said == ["  warning: the teacher's sample hears 14 of 300 utterances, 14 of 300 speakers; raise "
                    "rounds.1.teacher.sample_frames or sample_within (0 draws from all)"]


def test_every_option_of_a_teacher_reaches_it(recordings):
    recipe = TeacherRecipe(clusters=4, sample_frames=200, iterations=7, restarts=3, pca=5, whiten=True,
                           sample_within=1.5)
    manifest = import_folder(recordings)
    teacher = make_teacher(recipe, [], manifest, np.arange(8), ProbeRecipe(), audio=AudioCache(manifest),
                           cache=CacheRecipe(), seed=3, device=torch.device("cpu"), progress=lambda *done: None)
    expected = {"clusters": 4, "sample_frames": 200, "iterations": 7, "restarts": 3, "pca": 5, "whiten": True,
                "seed": 3, "sample_within": 1.5}
    assert {name: teacher.fitted.get(name) for name in expected} == expected


def test_centroids_made_elsewhere_are_used_as_they_are(recordings, tmp_path):
    centroids = np.random.default_rng(0).normal(size=(6, 39)).astype(np.float32) * 10
    np.save(tmp_path / "centroids.npy", centroids)
    rounds(recordings, tmp_path / "run", f"rounds.0.teacher.imported={tmp_path / 'centroids.npy'}")
    assert np.array_equal(Teacher.load(tmp_path / "run/round1/teacher").centroids.numpy(), centroids)


def test_units_made_elsewhere_are_predicted_without_a_teacher_and_the_next_round_goes_on(recordings, tmp_path):
    manifest = import_folder(recordings)
    with UnitsWriter(tmp_path / "given", (5, 3), {"fitted": False}) as writer:
        for number, i in enumerate(["another", *manifest.ids]):
            labels = np.arange(number, number + 74)
            writer.add(i, labels % 5, labels % 3)
    words = [f"rounds.0.teacher.units={tmp_path / 'given'}"]
    first, second = rounds(recordings, tmp_path / "run", *words)
    assert Units.load(first.units).ids == manifest.ids
    assert Units.load(first.units).labels(manifest.ids[2], 1).tolist() == (np.arange(3, 77) % 3).tolist()
    assert Units.load(second.units).classes == (8,)
    assert not (tmp_path / "run/round1/teacher").exists()
    recipe = load_recipe(PretrainRecipe, "hubert-tiny", [*TINY, f"data={recordings}", *words], SHIPPED)
    assert stage_names(recipe, rounds_of(recipe))[1:3] == ["round1/units", "round1/encoder"]
    assert {o.state for o in outlook(recipe, tmp_path / "run")} == {"done"}
    with UnitsWriter(tmp_path / "given", (5,)) as writer:
        for i in manifest.ids[1:]:
            writer.add(i, np.arange(74) % 5)
    assert [o.state for o in outlook(recipe, tmp_path / "run")][:2] == ["done", "stale"]
    with pytest.raises(InputError, match=f"^{manifest.ids[0]}: no units in .*gate check `coverage`"):
        rounds(recordings, tmp_path / "run", *words)


def test_the_best_layer_is_what_a_sweep_picks(recordings, tmp_path):
    _, second = rounds(recordings, tmp_path, "rounds.1.teacher.layer=best")
    teacher = Teacher.load(tmp_path / "round2/teacher")
    assert second.teacher_result["layer"] == teacher.features["layer"]
    assert teacher.features["layer"] in (1, 2)


def test_what_the_sweep_for_the_best_layer_hears_is_part_of_its_key(recordings, tmp_path):
    manifest = import_folder(recordings)
    aligned = []
    for number in (8, 4):
        aligned.append(str(tmp_path / f"{number}.arrow"))
        manifest.select(range(number)).save(tmp_path / f"{number}.arrow")
    (tmp_path / "u0.ctm").write_text("u0 1 0 1.5 A\n")
    best, fixed = TeacherRecipe(features="layer", layer="best"), TeacherRecipe(features="layer")
    probes = [ProbeRecipe(alignments=str(tmp_path), **more)
              for more in ({}, {"manifest": aligned[0]}, {"manifest": aligned[1]}, {"seconds": 3.0})]
    keys = [teacher_key(best, probe) for probe in [ProbeRecipe(), *probes, ProbeRecipe(seconds=3.0)]]
    assert len({str(key) for key in keys}) == len(keys)
    assert len({str(teacher_key(fixed, probe)) for probe in probes}) == 1  # it hears nothing of them
    assert "probe_seconds" not in keys[0][0]  # as before there were such inputs
    assert "aligned" not in keys[1][1]


@pytest.mark.parametrize(("word", "says"), [
    ("clusters=1", "at least 2"), ("clusters=[8,x]", "at least 2"), ("clusters=[]", "at least 2"),
    ("layer=last", "a number or best"), ("kind=many", "kind"), ("pca=-1", "pca=-1"),
    ("stacked=true", "stacked=true is for features=fbank"), ("sample_frames=5", "at least as many"),
    ("sample_within=0.5", "sample_within=0.5 must be at least 1, or 0"),
    ("units=x rounds.0.teacher.pca=3", "units=x are used as they are; leave out pca"),
])
def test_a_teacher_that_cannot_be_is_refused_by_name(recordings, tmp_path, word, says):
    with pytest.raises(RecipeError, match=says):
        rounds(recordings, tmp_path, *f"rounds.0.teacher.{word}".split())


def test_options_at_their_defaults_leave_an_older_stage_fresh():
    settings, inputs = teacher_key(TeacherRecipe(), ProbeRecipe())
    assert settings == {"features": "mfcc", "clusters": 100, "sample_frames": 1_000_000, "iterations": 30,
                        "restarts": 1}
    assert inputs == {}
    assert teacher_key(TeacherRecipe(pca=20), ProbeRecipe())[0]["pca"] == 20
    assert teacher_key(TeacherRecipe(sample_within=0), ProbeRecipe())[0]["sample_within"] == 0
    assert teacher_key(TeacherRecipe(features="layer"), ProbeRecipe())[0]["layer"] == 6


def test_everything_that_is_heard_is_kept_as_the_recipe_says(recordings, tmp_path):
    """A bug once found: noise, what a probe hears and what a sweep hears had caches of their own, of 2 GB each."""
    rng = np.random.default_rng(0)
    for folder in ("noise", "alignments"):
        (tmp_path / folder).mkdir()
    soundfile.write(tmp_path / "noise/n.wav", 0.1 * rng.standard_normal(20_000), 16_000)
    for i in range(6):
        (tmp_path / f"alignments/u{i}.ctm").write_text(f"u{i} 1 0 0.7 AA\nu{i} 1 0.7 0.8 B\n")
    words = ["mixing.share=1", "mixing.noise_share=1", f"mixing.noise={tmp_path / 'noise'}",
             "rounds.1.training.updates=1", f"probe.alignments={tmp_path / 'alignments'}", "probe.clusters=2",
             "probe.seconds=4", "rounds.1.teacher.layer=best", "cache.memory_gb=0",
             f"cache.folder={tmp_path / 'cache'}"]
    recipe = load_recipe(PretrainRecipe, "hubert-tiny", [*TINY, f"data={recordings}", *words], SHIPPED)
    outlook(recipe, tmp_path / "run")
    assert not (tmp_path / "cache").exists(), "who only looks keeps nothing"
    pretrain(recipe, tmp_path / "run", lambda line: None)
    kept = {path.stem for path in (tmp_path / "cache").glob("*.s16")}
    everything, noise = import_folder(recordings, None), import_folder(tmp_path / "noise", None)
    swept = everything.only(["u0", "u2", "u4"])  # evenly spread
    assert {manifest.hash[:16] for manifest in (everything, noise, swept)} < kept
    assert len(kept) == 4  # and what the probe hears, drawn at random


def test_the_best_layer_is_judged_on_what_is_aligned_however_little_of_the_manifest_that_is(recordings, tmp_path):
    """A bug once found: utterances were drawn first, and those without an alignment left out of them."""
    manifest = import_folder(recordings, None)
    (tmp_path / "u5.ctm").write_text("u5 1 0 0.7 AA\nu5 1 0.7 0.8 B\n")
    encoder = Encoder(EncoderConfig(frontend="fbank", width=32, layers=2, heads=2, ffn=32, positional_groups=2))
    teacher = TeacherRecipe(features="layer", layer="best", clusters=4)

    def made(alignments):
        return make_teacher(teacher, [encoder.initialise(0).eval()], manifest, np.arange(8),
                            ProbeRecipe(alignments=str(alignments), seconds=1.5), audio=AudioCache(manifest),
                            cache=CacheRecipe(), seed=0, device=torch.device("cpu"), progress=lambda *done: None)

    assert made(tmp_path).features["layer"] in (1, 2)
    (tmp_path / "others").mkdir()
    (tmp_path / "others/x.ctm").write_text("x 1 0 0.7 AA\n")
    with pytest.raises(InputError, match="none of its 1 alignments is of an utterance of the manifest"):
        made(tmp_path / "others")


@pytest.mark.parametrize(("first", "second"), [(20, 1), (1, 20)])
def test_a_sweep_hears_about_as_many_seconds_as_are_asked_for_whatever_the_lengths(tmp_path, first, second):
    """Every tenth utterance was taken, however long: 80 or 4 of 42 seconds where lengths alternate."""
    soundfile.write(tmp_path / "x.wav", np.zeros(400_000), 16_000)
    lengths = [16_000 * (first, second)[i % 2] for i in range(40)]
    manifest = Manifest.of((Utterance(f"u{i:02}", tmp_path / "x.wav", 0, n, 16_000, 1, None, None)
                            for i, n in enumerate(lengths)), "test")
    heard = heard_by_sweep(manifest, np.arange(40), ProbeRecipe(seconds=42))
    assert 42 <= heard.seconds < 42 + 20
    assert heard.ids == sorted(heard.ids)
    assert len(heard_by_sweep(manifest, np.arange(40), ProbeRecipe(seconds=0.001))) == 1
    assert heard_by_sweep(manifest, np.arange(40), ProbeRecipe(seconds=1e6)).ids == manifest.ids


def test_every_stream_of_a_rounds_units_is_judged(recordings, tmp_path):
    """The quality of a round was that of its first stream, and did not say so."""
    alignments = tmp_path / "alignments"
    alignments.mkdir()
    for i in range(8):
        (alignments / f"u{i}.ctm").write_text("".join(f"u{i} 1 {0.3 * k:.1f} 0.3 {'ABC'[k % 3]}\n" for k in range(5)))
    words = [*TINY, f"data={recordings}", f"probe.alignments={alignments}", "probe.clusters=2",
             "rounds.0.teacher.clusters=[4,12]", "rounds.0.teacher.kind=residual", "training.updates=1"]
    lines = []
    first, second = pretrain(load_recipe(PretrainRecipe, "hubert-tiny", words, SHIPPED), tmp_path / "run", lines.append)
    judged = [quality(Units.load(first.units), find_alignments(alignments), stream=stream) for stream in (0, 1)]
    assert [part["pnmi"] for part in first.units_result["streams"]] == [found.pnmi for found in judged]
    assert first.units_result["pnmi"] == judged[0].pnmi != judged[1].pnmi
    assert [line for line in lines if "PNMI" in line] == [
        *(f"  stream {n} of 2: phone purity {q.phone_purity:.3f}, cluster purity {q.cluster_purity:.3f}, PNMI "
          f"{q.pnmi:.3f}" for n, q in enumerate(judged, 1)),
        "  phone purity {phone_purity:.3f}, cluster purity {cluster_purity:.3f}, PNMI {pnmi:.3f}".format(
            **second.units_result)]
    assert "streams" not in second.units_result
    assert read_stage(tmp_path / "run/round2/quality")["settings"] == {}


@pytest.mark.parametrize("word", ["pca=10", "whiten=true"])
def test_a_random_teacher_fits_nothing_and_says_so(recordings, word):
    with pytest.raises(RecipeError, match="kind=random draws its projection"):
        load_recipe(PretrainRecipe, "hubert-tiny", ["rounds.0.teacher.kind=random", f"rounds.0.teacher.{word}"],
                    SHIPPED)


@pytest.mark.parametrize(("words", "error", "said"), [
    (["training.micro_batch_seconds=0.5", "training.batch_seconds=1"], RecipeError,
     r"round 1: training.micro_batch_seconds=0.5 cannot hold a crop of training.crop_seconds=1"),
    (["probe.alignments=nowhere"], InputError, "nowhere: no alignments here"),
    (["probe.alignments={here}", "probe.manifest=nowhere.arrow"], UsageError, "nowhere.arrow: no such manifest"),
    (["data=nowhere"], UsageError, "data=nowhere: no such manifest or folder"),
    (["rounds.1.teacher.imported={here}/u1.ctm"], InputError, r"^rounds.1.teacher.imported: .*u1.ctm: .*"),
    (["rounds.1.teacher.imported={here}"], InputError, r"^rounds.1.teacher.imported: .*teacher.json: "),
    (["rounds.1.teacher.imported={here}/mfcc.npy"], InputError, "centroids of 39 dimensions, the features have 32"),
    (["rounds.1.teacher.imported={here}/mfcc"], InputError, "a teacher of mfcc with 39 dimensions, the features have"),
    (["rounds.1.teacher={imported: '{here}/mfcc', features: fbank, layer: null}"], InputError,
     r"^rounds.1.teacher.imported: imported="),
    (["rounds.1.teacher.imported={here}/centred"], InputError,
     r"^rounds.1.teacher.imported: .* less the means of their utterances; give the round teacher.cmn=true"),
    (["rounds.1.teacher={units: '{here}', features: mfcc, layer: null}"], InputError, "^rounds.1.teacher.units: "),
    (["rounds.1.mixing={share: 0.2, noise_share: 1, noise: '{here}/u1.ctm'}"], InputError, "^mixing.noise: .*u1.ctm"),
    (["rounds.1.mixing={share: 0.2, noise_share: 1, noise: '{here}'}"], InputError, "^mixing.noise: .*no recordings"),
    (["rounds.1.training.wandb=mine"], UsageError, "training.wandb=mine: the package wandb is not installed"),
])
def test_what_can_be_known_is_said_before_anything_is_done(recordings, tmp_path, monkeypatch, words, error, said):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    (tmp_path / "al").mkdir()
    (tmp_path / "al/u1.ctm").write_text("u1 1 0 0.7 AA\n")
    np.save(tmp_path / "al/mfcc.npy", np.eye(6, 39, dtype=np.float32))
    import_centroids(tmp_path / "al/mfcc.npy", named_source("mfcc", False).describe()).save(tmp_path / "al/mfcc")
    np.save(tmp_path / "al/layer.npy", np.eye(6, 32, dtype=np.float32))
    import_centroids(tmp_path / "al/layer.npy", {"name": "layer", "dim": 32, "cmn": True}).save(tmp_path / "al/centred")
    words = [word.replace("{here}", str(tmp_path / "al")) for word in words]
    with pytest.raises(error, match=said):
        rounds(recordings, tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()
    with pytest.raises(error, match=said):
        outlook(load_recipe(PretrainRecipe, "hubert-tiny", [*TINY, f"data={recordings}", *words], SHIPPED),
                tmp_path / "run")


def test_centroids_that_fit_an_encoder_to_come_are_let_through(recordings, tmp_path):
    """What is checked beforehand is no more than what the round itself would refuse."""
    np.save(tmp_path / "two.npy", np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32))
    _, second = rounds(recordings, tmp_path / "run", "rounds.1.teacher.layer=[1,2]",
                       f"rounds.1.teacher.imported={tmp_path / 'two.npy'}")
    assert Units.load(second.units).classes == (6,)
