"""A teacher's sample that is killed goes on from the stretches that were read, and is the same to the last bit."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from killed_reads import Reads
from small_rounds import ENCODER, TRAINING, write_recordings

from upstream import stage_bytes
from upstream.audio.caching import AudioCache
from upstream.course import Course, following
from upstream.disk import read_json
from upstream.features.centred import CentredSource
from upstream.features.mix import MixSource
from upstream.features.source import FbankSource, LayerSource, MfccSource
from upstream.model import Encoder, EncoderConfig
from upstream.pretrain import pretrain
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe, TeacherRecipe
from upstream.recipe import load_recipe
from upstream.teacher.kept_sample import forget_sample
from upstream.teacher.sampling import draw_sample
from upstream.teacher.teacher import Teacher

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = (16_000, 300, 25_000, 8000, 720, 40_000, 9000, 30_000)  # the second has no frame, and is not read


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """Those that are read end after 1.0, 2.6, 3.1, 3.1, 5.6, 6.2 and 8.0 s: stretches of 1, 3, 2 and 1. Batches of a
    layer are planned for those up to 3.1, 6.2 and 8.0 s; the first and the fourth recording share one."""
    monkeypatch.setattr("upstream.teacher.kept_sample.STRETCH_SECONDS", 1.6)
    monkeypatch.setattr("upstream.features.streaming._STRETCH", 2)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(EncoderConfig(conv_dim=16, width=32, layers=2, heads=2, ffn=64, positional_kernel=16,
                                 positional_groups=4)).initialise(0).eval()


def draw(made, folder, source=None, killed_at=None, seed=1, frames=300):
    """The sample, or None where it is killed; and the utterances that were read."""
    read = Reads(made, killed_at)
    try:
        return draw_sample(source or MfccSource(), made, np.arange(len(made)), frames, seed, read, keep=folder), \
            read.seen
    except KeyboardInterrupt:
        return None, read.seen


def kept(folder):
    return sorted(path.name.partition("-")[2] for path in (folder / ".sample").glob("*"))


def sources(encoder):
    layer = LayerSource(encoder, 2, "cpu", batch_seconds=2)
    return {"mfcc": MfccSource(), "fbank": FbankSource(), "layer": layer, "centred": CentredSource(layer),
            "mix": MixSource([LayerSource(encoder, [1, 2], "cpu", batch_seconds=2)])}


@pytest.mark.parametrize("name", ["mfcc", "fbank", "layer", "centred", "mix"])
def test_a_sample_that_was_killed_goes_on_and_is_the_same_to_the_bit(recordings, encoder, tmp_path, name):
    """It began again from nothing: six hours of two cores with BASE."""
    made, source = recordings(LENGTHS), sources(encoder)[name]
    whole = draw_sample(source, made, np.arange(len(made)), 300, 1, made.read)
    killed, _ = draw(made, tmp_path, source, killed_at=7)
    assert killed is None
    assert kept(tmp_path) == ["0-1.npy", "1-4.npy", "4-6.npy"]
    again, seen = draw(made, tmp_path, source)
    assert torch.equal(again, whole)
    assert set(seen) == {7}
    clustered, seen = draw(made, tmp_path, source)  # killed while it was clustered
    assert torch.equal(clustered, whole)
    assert seen == []
    [path] = (tmp_path / ".sample").glob("*-1-4.npy")
    path.unlink()  # what is left begins within a batch
    mended, seen = draw(made, tmp_path, source)
    assert torch.equal(mended, whole)
    assert set(seen) == {2, 3, 4, 5, 6, 7} | ({0} if name in ("layer", "centred", "mix") else set())
    forget_sample(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_frames_after_a_place_are_those_of_the_whole_to_the_bit(recordings, encoder):
    made = recordings(LENGTHS)
    for source in sources(encoder).values():
        whole = list(source.stream(made, range(8), made.read))
        for after in (0, 3, 8):
            rest = list(source.stream(made, range(8), made.read, after))
            assert [index for index, _ in rest] == list(range(after, 8))
            assert all(torch.equal(frames, whole[index][1]) for index, frames in rest)


def test_what_is_kept_of_another_sample_is_removed_and_never_used(recordings, encoder, tmp_path):
    made = recordings(LENGTHS)
    others = {"seed": (made, {"seed": 2}), "frames": (made, {"frames": 299}),
              "features": (made, {"source": FbankSource()}),
              "manifest": (replace(made, hash="another"), {}), "lengths": (recordings([*LENGTHS[:-1], 32_000]), {})}
    for recordings_of_it, options in others.values():
        draw(recordings_of_it, tmp_path, killed_at=7, **options)
        assert len(kept(tmp_path)) > 1
        sample, seen = draw(made, tmp_path)
        assert set(seen) == {0, 2, 3, 4, 5, 6, 7}
        assert torch.equal(sample, draw_sample(MfccSource(), made, np.arange(8), 300, 1, made.read))
        assert len(kept(tmp_path)) == 4


@pytest.mark.parametrize("damage", ["cut", "empty", "shape", "gone"])
def test_a_damaged_stretch_is_read_again(recordings, tmp_path, damage):
    made = recordings(LENGTHS)
    whole, _ = draw(made, tmp_path)
    [path] = (tmp_path / ".sample").glob("*-1-4.npy")
    if damage == "gone":
        path.unlink()
    elif damage == "shape":
        np.save(path, np.zeros((3, 39), np.float32))
    else:
        path.write_bytes(path.read_bytes()[:-50] if damage == "cut" else b"")
    again, seen = draw(made, tmp_path)
    assert seen == [2, 3, 4, 5, 6, 7]
    assert torch.equal(again, whole)


def test_nothing_is_kept_of_a_short_sample(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr("upstream.teacher.kept_sample.STRETCH_SECONDS", 36_000.0)
    draw(recordings(LENGTHS), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_else_keeps_in_a_folder_of_that_name_stays(recordings, tmp_path):
    """A folder may be given that is not the teacher's alone: `.sample` of a project went with the first teacher."""
    made, others = recordings(LENGTHS), {".sample/notes.txt", ".sample/mine/take-1.npy", ".sample/a-0-1.npy"}
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    draw(made, tmp_path, killed_at=7)
    temporary = tmp_path / ".sample" / f".{'0' * 32}-6-7.npy.11.0123abcd.tmp"
    temporary.touch()
    draw(made, tmp_path, seed=2)
    assert not temporary.exists()
    forget_sample(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == others


def test_a_round_goes_on_with_its_sample_and_leaves_nothing_of_it(tmp_path, monkeypatch):
    data, out, seen = write_recordings(tmp_path / "data", 6), tmp_path / "run", []
    words = [*ENCODER, *TRAINING, f"data={data}", "rounds=[{teacher: {clusters: 5, sample_frames: 200}}]"]
    recipe = load_recipe(PretrainRecipe, "hubert-tiny", words, SHIPPED)
    wave, save = AudioCache.wave, Teacher.save
    monkeypatch.setattr(AudioCache, "wave", lambda self, index: seen.append(index) or wave(self, index))

    def run(killed=False):
        seen.clear()
        monkeypatch.setattr(Teacher, "save", (lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)) if killed else save)
        with following(Course(out, None, "round1/teacher")):
            pretrain(recipe, out, lambda line: None)

    with pytest.raises(KeyboardInterrupt):
        run(killed=True)
    first = len(seen)
    assert first > 3
    assert len(kept(out / "round1/teacher")) > 1
    run()
    assert seen == []
    assert kept(out / "round1/teacher") == []
    assert read_json(out / "round1/teacher/stage.json")["files"] == ["centroids.npy", "stage.json", "teacher.json"]
    mended = Teacher.load(out / "round1/teacher").hash
    shutil.rmtree(out)
    run()
    assert len(seen) == first
    assert Teacher.load(out / "round1/teacher").hash == mended


def test_a_dry_run_counts_what_is_kept_of_a_long_sample():
    """By hand: a million frames of 768 numbers of 4 bytes; of a corpus of ten hours all of its 1,800,000 - 36 frames,
    which are not kept where it is a little shorter."""
    recipe, size = TeacherRecipe(features="layer", sample_frames=10**7), stage_bytes._sample_bytes
    hours = np.full(36, 16_000_000)
    assert size(TeacherRecipe(), hours, 768) == 4 * 10**6 * 768 + stage_bytes.JSON
    assert size(recipe, hours, 768) == 4 * (36 * 49_999) * 768 + stage_bytes.JSON
    assert size(recipe, hours[:-1], 768) == 0
    assert size(TeacherRecipe(kind="random"), hours, 768) == 0
    assert size(TeacherRecipe(), None, 768) == 4 * 10**6 * 768 + stage_bytes.JSON
