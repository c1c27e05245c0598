"""Teachers repeat themselves, do not care about batches, and refuse features that they were not fitted on."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import files_up_to
from killed_reads import Reads

from upstream.audio.manifest import Manifest, Utterance
from upstream.errors import FormatError, HubertkitError, InputError, UsageError
from upstream.features.source import FbankSource, LayerSource, MfccSource
from upstream.frames import CONV_GRID
from upstream.model import Encoder, EncoderConfig
from upstream.teacher.gate import check_units
from upstream.teacher.sampling import draw_utterances, heard_little
from upstream.teacher.teacher import SAMPLE_WITHIN, Teacher, draw_sample
from upstream.teacher.units import Units

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = (16_000, 300, 25_000, 8000, 720, 40_000)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(EncoderConfig(conv_dim=16, width=32, layers=2, heads=2, ffn=64, positional_kernel=16,
                                 positional_groups=4)).initialise(0).eval()


def fitted(recordings, clusters=6, source=None, **options):
    made = recordings(LENGTHS)
    return made, Teacher.fit(source or MfccSource(), made, clusters, seed=1, read=made.read, **options)


def test_a_teacher_labels_every_frame_and_passes_the_gate(recordings, tmp_path):
    made, teacher = fitted(recordings)
    units = teacher.label(MfccSource(), made, tmp_path, read=made.read)
    assert units.ids == made.ids
    assert units.classes == (6,)
    assert (units.teacher_hash, units.manifest_hash) == (teacher.hash, "fake")
    [histogram] = check_units(units, made)
    assert histogram.sum() == sum(CONV_GRID.frames(n) for n in LENGTHS)


def test_labels_are_the_nearest_centroids(recordings, tmp_path):
    made, teacher = fitted(recordings)
    units = teacher.label(MfccSource(), made, tmp_path, read=made.read)
    for index, frames in MfccSource().stream(made, range(len(made)), made.read):
        distances = torch.cdist(frames.double(), teacher.centroids.double())
        np.testing.assert_array_equal(units.labels(made.ids[index]), distances.argmin(1).numpy())


def test_the_inertia_is_that_of_all_frames_when_all_are_sampled(recordings):
    made, teacher = fitted(recordings)
    frames = torch.cat([f for _, f in MfccSource().stream(made, range(len(made)), made.read)])
    assert teacher.fitted["sample_frames"] == len(frames)
    nearest = torch.cdist(frames.double(), teacher.centroids.double()).min(1).values
    assert teacher.inertia == pytest.approx(float(nearest.square().mean()), rel=1e-5)


def test_the_size_of_batches_changes_neither_the_sample_nor_the_labels(recordings, encoder, tmp_path):
    made = recordings(LENGTHS)
    found = []
    for seconds in (0.1, 1.5, 100):
        source = LayerSource(encoder, 2, "cpu", batch_seconds=seconds)
        sample = draw_sample(source, made, np.arange(len(made)), 100, seed=1, read=made.read)
        teacher = Teacher.fit(LayerSource(encoder, 2, "cpu"), made, 6, seed=1, read=made.read)
        found.append((sample, teacher.label(source, made, tmp_path / str(seconds), read=made.read)))
    for sample, units in found[1:]:
        torch.testing.assert_close(sample, found[0][0], atol=1e-4, rtol=0)
        assert units.hash == found[0][1].hash


def test_a_teacher_is_fitted_on_the_utterances_of_a_mask(recordings):
    """A mask was read as the utterances 0 and 1, and repeats left rows of the sample that nothing was written to."""
    mask = np.array([False, False, True, True, False, True])
    _, by_mask = fitted(recordings, indices=mask)
    _, by_places = fitted(recordings, indices=[2, 3, 5])
    assert by_mask.hash == by_places.hash
    assert by_mask.fitted == by_places.fitted
    with pytest.raises(InputError, match="named twice"):
        fitted(recordings, indices=[2, 3, 2])


def test_numbers_of_clusters_may_be_numpys(recordings, tmp_path):
    """`TypeError: 'numpy.int64' object is not iterable`, or an error of JSON when the teacher was saved."""
    made = recordings(LENGTHS)
    found = Teacher.fit(MfccSource(), made, np.int64(5), seed=np.int64(1), read=made.read, iterations=3)
    found.save(tmp_path)
    assert Teacher.load(tmp_path).fitted == fitted(recordings, 5, iterations=3)[1].fitted


def test_what_json_cannot_hold_is_named_before_a_teacher_is_replaced(recordings, tmp_path):
    """The centroids were the new ones, and teacher.json the old one."""
    _, teacher = fitted(recordings)
    teacher.save(tmp_path)
    with pytest.raises(UsageError, match=r"teacher\.json: fitted cannot be written as JSON"):
        replace(fitted(recordings, 5)[1], fitted={"by": tmp_path}).save(tmp_path)
    assert Teacher.load(tmp_path).hash == teacher.hash


def test_a_folder_for_units_may_be_a_string(recordings, tmp_path):
    made, teacher = fitted(recordings)
    assert teacher.label(MfccSource(), made, str(tmp_path), read=made.read).ids == made.ids


def test_the_sample_is_of_different_frames_of_the_chosen_utterances(recordings):
    made = recordings(LENGTHS)
    frames = dict(MfccSource().stream(made, range(len(made)), made.read))
    chosen = np.array([5, 0, 3])
    sample = draw_sample(MfccSource(), made, chosen, 60, seed=4, read=made.read)
    assert sample.shape == (60, 39)
    rows = {tuple(row) for row in sample.tolist()}
    assert len(rows) == 60
    assert rows <= {tuple(row) for i in chosen for row in frames[i].tolist()}


class NumberedFrames:
    """Frames that say where they are from: (utterance, frame)."""

    device = torch.device("cpu")

    def describe(self):
        return {"name": "numbers", "dim": 2, "rate": 50.0}

    def stream(self, manifest, indices, read, after=0):
        for i in reversed(list(indices)):  # a source should keep the order; the sample must not hang on it
            frames = torch.arange(CONV_GRID.frames(int(manifest.lengths[i])))
            yield int(i), torch.stack([torch.full_like(frames, int(i)), frames], dim=1).float()


def test_every_frame_has_the_same_chance_to_be_sampled(recordings):
    """60 of 194 frames, 400 seeds: each frame should be drawn 123.7 times, with a standard deviation of 9.2."""
    made = recordings([40_000, 16_000, 7000])
    counts = {i: np.zeros(CONV_GRID.frames(int(n)), int) for i, n in enumerate(made.lengths)}
    assert [len(c) for c in counts.values()] == [124, 49, 21]
    for seed in range(400):
        for utterance, frame in draw_sample(NumberedFrames(), made, np.arange(3), 60, seed, made.read).int().tolist():
            counts[utterance][frame] += 1
    together = np.concatenate(list(counts.values()))
    assert together.sum() == 400 * 60
    assert together.std() < 12
    np.testing.assert_allclose(together, 400 * 60 / 194, atol=4.5 * 9.2)
    np.testing.assert_allclose([c.mean() for c in counts.values()], 400 * 60 / 194, atol=8)


def test_frames_of_the_sample_are_in_the_order_of_the_utterances(recordings):
    made = recordings([40_000, 16_000, 7000])
    found = draw_sample(NumberedFrames(), made, np.array([2, 0]), 50, 0, made.read).tolist()
    assert found == sorted(found, key=lambda row: (row[0] == 0, row[1]))


def test_utterances_without_a_share_are_not_read(recordings):
    made = recordings([16_000] * 40)
    draw_sample(MfccSource(), made, np.arange(40), 3, seed=0, read=made.read)
    assert 1 <= len(made.asked) <= 3


SHORT_AND_LONG = [16_000, 4000, 40_000, 8000] * 25  # 49, 12, 124 and 24 frames


def test_the_sample_of_a_corpus_that_is_far_larger_reads_a_part_of_it(recordings):
    """A million frames of 960 hours are some of every utterance: all were read, and went through the encoder."""
    made = recordings(SHORT_AND_LONG)
    teacher = Teacher.fit(MfccSource(), made, 4, seed=1, read=made.read, sample_frames=100, sample_within=5)
    frames = sum(CONV_GRID.frames(SHORT_AND_LONG[i]) for i in made.asked)
    assert 250 < frames < 500 + 124  # a few of the utterances drawn have no share, and the last ends beyond
    fitted = teacher.fitted
    assert fitted["sample_frames"] == 100
    assert (fitted["sample_within"], fitted["utterances_given"]) == (5.0, 100)
    assert len(set(made.asked)) <= fitted["utterances"] < 25


@pytest.mark.parametrize(("utterances", "speakers", "frames", "within", "says"), [
    (300, 40, 100, 20, "14 of 300 utterances, "), (300, 0, 100, 20, "14 of 300 utterances"),
    (300, 40, 100, 0, None), (300, 40, 10_000, 20, None),  # all of them
    (50, 3, 100, 20, "14 of 50 utterances, 3 of 3 speakers"),
    (600, 40, 1000, 20, None)])  # 137 utterances of most speakers
def test_a_sample_that_hears_little_is_known_by_its_utterances_and_speakers(utterances, speakers, frames, within, says):
    names = [f"s{i % speakers}" if speakers else None for i in range(utterances)]
    made = Manifest.of([Utterance(f"u{i}", Path("/a.wav"), 0, 48_000, 16_000, 1, name)  # 149 frames each
                        for i, name in enumerate(names)], "a test")
    found = heard_little(made, np.arange(utterances), frames, 1, within)
    assert found is None if says is None else found.startswith(says)


def test_a_sample_of_few_of_many_speakers_hears_little_though_its_utterances_are_many():
    of_one = [Utterance(f"u{i}", Path("/a.wav"), 0, 48_000, 16_000, 1, "main") for i in range(900)]
    others = [Utterance(f"v{i}", Path("/a.wav"), 0, 48_000, 16_000, 1, f"s{i}") for i in range(40)]
    found = heard_little(Manifest.of([*of_one, *others], "a test"), np.arange(940), 1000, 1, 20)
    assert re.fullmatch(r"13\d of 940 utterances, \d+ of 41 speakers", found)


def test_what_is_small_beside_the_sample_gives_the_teacher_that_it_always_gave(recordings):
    """As of all results so far: no utterance is left out, and not a bit differs."""
    frames = sum(CONV_GRID.frames(n) for n in LENGTHS)
    for sample, within in ((frames // 20 + 1, SAMPLE_WITHIN), (frames + 9, 1.0)):
        _, bounded = fitted(recordings, sample_frames=sample, sample_within=within)
        _, unbounded = fitted(recordings, sample_frames=sample, sample_within=0)
        assert (bounded.hash, bounded.fitted) == (unbounded.hash, unbounded.fitted)
        assert bounded.fitted["utterances"] == len(LENGTHS)
    assert fitted(recordings, sample_frames=frames // 40)[1].fitted["utterances"] < len(LENGTHS)


def test_utterances_of_a_sample_follow_from_the_seed_and_their_ids(recordings):
    made = recordings(SHORT_AND_LONG)
    mixed = np.random.default_rng(0).permutation(100)
    moved = replace(made, waves=[made.waves[i] for i in mixed], ids=[made.ids[i] for i in mixed])
    chosen = draw_utterances(made, np.arange(100), 60, seed=3, within=10)
    names = {made.ids[i] for i in chosen}
    assert names == {moved.ids[i] for i in draw_utterances(moved, np.arange(100), 60, seed=3, within=10)}
    assert names != {made.ids[i] for i in draw_utterances(made, np.arange(100), 60, seed=4, within=10)}
    sizes = [CONV_GRID.frames(SHORT_AND_LONG[i]) for i in chosen]
    assert 600 <= sum(sizes) < 600 + 124
    assert list(chosen) == sorted(chosen)
    part = draw_utterances(made, np.arange(99, 49, -1), 60, seed=3, within=10)
    assert list(part) == sorted(part, reverse=True), "in the order given"
    assert min(part) >= 50


def test_every_frame_has_the_same_chance_where_utterances_are_drawn_first(recordings):
    """40 of 5225 frames, of some 23 utterances: those of utterances of each length come as often as there are of them,
    within four standard deviations of 400 draws. Frames of an utterance come together: 1 + 40 / 23 - 1 = 1.74 times the
    variance of frames that were drawn one by one."""
    made, drawn = recordings(SHORT_AND_LONG), np.zeros(4)
    for seed in range(400):
        chosen = draw_utterances(made, np.arange(100), 40, seed, within=30)
        assert len(chosen) < 60
        for utterance, _ in draw_sample(NumberedFrames(), made, chosen, 40, seed, made.read).int().tolist():
            drawn[utterance % 4] += 1
    assert drawn.sum() == 400 * 40
    share = np.array([49, 12, 124, 24]) / 209
    deviation = np.sqrt(16_000 * share * (1 - share) * 1.74)
    np.testing.assert_array_less(np.abs(drawn - 16_000 * share), 4 * deviation)


def test_too_few_frames_to_draw_from_are_refused_by_name(recordings):
    for within in (0.5, -1, float("nan")):
        with pytest.raises(UsageError, match=r"sample_within=.*at least 1, or 0 to draw from all"):
            fitted(recordings, sample_within=within)


def test_only_the_given_utterances_are_sampled(recordings):
    made, teacher = fitted(recordings, indices=[0, 2], sample_frames=50)
    assert set(made.asked) <= {0, 2}
    assert teacher.fitted["utterances"] == 2
    assert teacher.fitted["sample_frames"] == 50


def test_the_same_seed_gives_the_same_teacher(recordings):
    assert fitted(recordings)[1].hash == fitted(recordings)[1].hash


@pytest.mark.parametrize("frames", [0, 5])
def test_too_few_frames_are_refused(recordings, frames):
    made = recordings([300] if frames == 0 else [400 + 320 * (frames - 1)])
    with pytest.raises(InputError, match=f"{frames} frames for 6 clusters"):
        Teacher.fit(MfccSource(), made, 6, seed=0, read=made.read)


def test_a_teacher_comes_back_from_its_folder(recordings, tmp_path):
    _, teacher = fitted(recordings)
    teacher.save(tmp_path)
    (tmp_path / "stage.json").write_text("{}")
    teacher.save(tmp_path)  # again, and beside other files
    loaded = Teacher.load(tmp_path)
    assert torch.equal(loaded.centroids, teacher.centroids)
    assert (loaded.features, loaded.inertia, loaded.fitted) == (teacher.features, teacher.inertia, teacher.fitted)
    assert loaded.hash == teacher.hash
    assert loaded.fitted["engine"] == "faiss"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["centroids.npy", "stage.json", "teacher.json"]


def test_a_teacher_leaves_other_arrays_of_its_folder_alone(recordings, tmp_path):
    """Every `centroids*.npy` and `pca.npy` was taken for a part of a teacher that the folder had held, and removed."""
    mine = {"centroids_500.npy": b"mine", "centroids1.npy": b"mine too", "pca.npy": b"and mine"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    _, teacher = fitted(recordings)
    for _ in range(2):  # into a folder without a teacher, and over one
        teacher.save(tmp_path)
        assert {name: (tmp_path / name).read_bytes() for name in mine} == mine


def test_of_a_teacher_that_is_replaced_nothing_is_left(recordings, tmp_path):
    for options in ({"clusters": (4, 5), "pca": 3}, {"clusters": 6}):
        _, teacher = fitted(recordings, **options)
        teacher.save(tmp_path)
        assert Teacher.load(tmp_path).hash == teacher.hash
    assert sorted(path.name for path in tmp_path.iterdir()) == ["centroids.npy", "teacher.json"]


def test_a_broken_teacher_is_refused(recordings, tmp_path):
    with pytest.raises(FormatError, match=r"teacher\.json: no such file"):
        Teacher.load(tmp_path)
    fitted(recordings)[1].save(tmp_path)
    np.save(tmp_path / "centroids.npy", np.zeros((6, 39), np.float32))
    with pytest.raises(FormatError, match=r"not what teacher\.json was written for"):
        Teacher.load(tmp_path)
    (tmp_path / "centroids.npy").write_bytes(b"")
    with pytest.raises(FormatError, match="cannot be read"):
        Teacher.load(tmp_path)
    described = json.loads((tmp_path / "teacher.json").read_text())
    (tmp_path / "teacher.json").write_text(json.dumps({**described, "version": 9}))
    with pytest.raises(FormatError, match="format version 1"):
        Teacher.load(tmp_path)


def test_features_that_it_was_not_fitted_on_are_refused(recordings, encoder, tmp_path):
    made, teacher = fitted(recordings, source=LayerSource(encoder, 1, "cpu"))
    with pytest.raises(InputError, match="layer 1 is now 2"):
        teacher.label(LayerSource(encoder, 2, "cpu"), made, tmp_path, read=made.read)
    with pytest.raises(InputError, match="name layer is now fbank"):
        teacher.label(FbankSource(), made, tmp_path, read=made.read)
    assert not list(tmp_path.iterdir())


def test_a_waveform_of_nan_is_refused_by_name_and_leaves_no_units(recordings, tmp_path):
    made, teacher = fitted(recordings)
    made.waves[2][100] = np.nan
    with pytest.raises(InputError, match=r"^u2: features that are not finite"):
        teacher.label(MfccSource(), made, tmp_path, read=made.read)
    with pytest.raises(FormatError):
        Units.load(tmp_path)


def test_fitting_names_the_utterance_whose_features_are_not_finite(recordings):
    made = recordings(LENGTHS)
    made.waves[2][100] = np.nan
    with pytest.raises(InputError, match=r"^u2: features that are not finite"):
        Teacher.fit(MfccSource(), made, 6, seed=1, read=made.read)
    fit = Teacher.fit(MfccSource(), made, 6, seed=1, read=made.read, indices=[0, 3, 5])  # without it
    assert fit.fitted["utterances"] == 3


def test_progress_counts_utterances(recordings, tmp_path):
    seen = []
    made, teacher = fitted(recordings, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]  # the one without frames is not read
    seen.clear()
    teacher.label(MfccSource(), made, tmp_path, read=made.read, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_the_hash_of_a_single_teacher_is_that_of_features_shape_and_centroids(recordings):
    """As the first version of the format has it, so that stages that are done stay done."""
    _, teacher = fitted(recordings)
    digest = hashlib.sha256(b'{"dim": 39, "name": "mfcc", "rate": 50.0}(6, 39)' + teacher.centroids.numpy().tobytes())
    assert teacher.hash == digest.hexdigest()


@pytest.fixture
def short_stretches(monkeypatch):
    """LENGTHS end in the seconds 1.0, 1.02, 2.6, 3.1, 3.1 and 5.6, so these are 0 and 1, 2, 3 and 4, 5."""
    monkeypatch.setattr("upstream.teacher.teacher.STRETCH_SECONDS", 1.5)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_labelling_goes_on_from_the_stretches_that_are_done(recordings, encoder, tmp_path, short_stretches):
    """49 hours of LibriSpeech on two cores began again after each kill."""
    source = LayerSource(encoder, 1, "cpu")
    made, teacher = fitted(recordings, source=source)
    whole = teacher.label(source, made, tmp_path / "whole", read=made.read)
    assert names(tmp_path / "whole") == ["ids.arrow", "offsets.npy", "stream0.npy", "units.json"]
    target, seen = tmp_path / "killed", []
    with pytest.raises(KeyboardInterrupt):
        teacher.label(source, made, target, read=Reads(made, killed_at=5))
    with pytest.raises(FormatError):
        Units.load(target)
    again = Reads(made)
    units = teacher.label(source, made, target, read=again, progress=lambda done, total: seen.append((done, total)))
    assert sorted(again.seen) == [5]
    assert seen == [(1, 1)]  # what was done before says nothing of how long the rest will take
    assert (units.hash, units.ids, units.meta) == (whole.hash, made.ids, whole.meta)
    assert names(target) == names(tmp_path / "whole")


def test_stretches_of_another_teacher_or_manifest_are_labelled_anew(recordings, tmp_path, short_stretches):
    made, teacher = fitted(recordings)
    _, other = fitted(recordings, 5)
    for killed, rest in ((teacher, replace(made, hash="other")), (other, made)):
        with pytest.raises(KeyboardInterrupt):
            killed.label(MfccSource(), made, tmp_path, read=Reads(made, killed_at=5))
        reads = Reads(made)
        units = teacher.label(MfccSource(), rest, tmp_path, read=reads)
        assert sorted(reads.seen) == list(range(6))
        assert (units.teacher_hash, units.manifest_hash) == (teacher.hash, rest.hash)
        assert names(tmp_path) == ["ids.arrow", "offsets.npy", "stream0.npy", "units.json"]


def test_a_full_disk_leaves_the_teacher_that_was_there(recordings, tmp_path):
    """The first codebooks were those of the new one."""
    made = recordings(LENGTHS)
    small, large = (Teacher.fit(MfccSource(), made, k, seed=0, read=made.read, iterations=2) for k in ((3, 2), (3, 9)))
    small.save(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    size = (tmp_path / "centroids0.npy").stat().st_size
    with files_up_to(size), pytest.raises(HubertkitError, match="larger than is allowed"):
        large.save(tmp_path)
    assert Teacher.load(tmp_path).hash == small.hash
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_header_of_zeros_is_one_line(recordings, tmp_path):
    """`tokenize.TokenError`: what a crash left of the file."""
    fitted(recordings)[1].save(tmp_path)
    content = (tmp_path / "centroids.npy").read_bytes()
    (tmp_path / "centroids.npy").write_bytes(content[:40] + bytes(60) + content[100:])
    with pytest.raises(FormatError, match="cannot be read"):
        Teacher.load(tmp_path)
