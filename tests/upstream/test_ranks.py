"""What several ranks do together besides training: reading a sample, labelling, dividing what there is to do."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from several_ranks import on_ranks

from upstream import ranks
from upstream.audio import AudioCache, import_folder
from upstream.errors import RankLost
from upstream.features.source import LayerSource, MfccSource
from upstream.model import Encoder, EncoderConfig
from upstream.teacher import kept_sample
from upstream.teacher import teacher as labelling
from upstream.teacher.kept_sample import forget_sample
from upstream.teacher.sampling import draw_sample
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units

pytestmark = pytest.mark.processes

SHAPE = EncoderConfig(frontend="fbank", width=32, layers=2, heads=2, ffn=64, pre_norm=True, positional_kernel=15,
                      positional_groups=2)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Seven recordings of very different lengths, one of them too short for a frame."""
    folder = tmp_path_factory.mktemp("recordings")
    for i, samples in enumerate((48_000, 4000, 399, 16_000, 30_000, 8000, 2000)):
        rng = np.random.default_rng(i)
        tone = np.sin(np.cumsum(rng.uniform(0.02, 0.4, samples)))
        soundfile.write(folder / f"u{i}.wav", 0.2 * tone + 0.02 * rng.standard_normal(samples), 16_000)
    return folder


def source(kind):
    return MfccSource() if kind == "mfcc" else LayerSource(Encoder(SHAPE).initialise(0).eval(), 1, "cpu")


def teach(recordings, kind, out):
    """Fit and label; gives the teacher's hash and what the sample was."""
    manifest = import_folder(recordings)
    read = AudioCache(manifest).wave
    sample = draw_sample(source(kind), manifest, np.arange(len(manifest)), 150, 3, read, keep=out)
    kept = draw_sample(source(kind), manifest, np.arange(len(manifest)), 150, 3, read, keep=out)
    assert torch.equal(kept, sample)
    teacher = Teacher.fit(source(kind), manifest, 5, seed=3, read=read, sample_frames=200)
    units = teacher.label(source(kind), manifest, out, read=read)
    stretches = len(list(out.glob(".sample/*.npy")))
    ranks.meet()
    ranks.alone(lambda: forget_sample(out))
    return {"hash": teacher.hash, "sample": sample.tolist(), "frames": teacher.fitted["sample_frames"],
            "units": units.hash, "stretches": stretches, "left": [p.name for p in out.glob(".*")]}


def teach_by_stretches(recordings, kind, out, stretch_seconds):
    labelling.STRETCH_SECONDS = kept_sample.STRETCH_SECONDS = stretch_seconds
    return teach(recordings, kind, out)


@pytest.mark.parametrize(("kind", "count", "stretch_seconds"), [("mfcc", 2, 36_000.0), ("layer", 3, 36_000.0),
                                                                ("mfcc", 2, 1.0)])
def test_several_ranks_teach_and_label_as_one_does(recordings, tmp_path, kind, count, stretch_seconds):
    torch.set_num_threads(1)
    (tmp_path / "several" / ".part-7-9").mkdir(parents=True)  # left by a process that was killed
    several = on_ranks(count, teach_by_stretches, recordings, kind, tmp_path / "several", stretch_seconds)
    alone = teach(recordings, kind, tmp_path / "alone")
    assert [len(r["sample"]) for r in several] == [150] + [0] * (count - 1)
    assert several[0]["stretches"] == (3 if stretch_seconds == 1.0 else 0)  # of the second; the first has one
    torch.testing.assert_close(torch.tensor(several[0]["sample"]), torch.tensor(alone["sample"]), atol=1e-4, rtol=0)
    assert all(r["hash"] == several[0]["hash"] and r["units"] == several[0]["units"] for r in several)
    assert all((r["frames"], r["left"]) == (alone["frames"], []) for r in several)
    ours, theirs = Units.load(tmp_path / "several"), Units.load(tmp_path / "alone")
    assert ours.ids == theirs.ids
    np.testing.assert_array_equal(ours.offsets, theirs.offsets)
    assert (ours.streams[0] == theirs.streams[0]).mean() > 0.99  # a layer differs by the rounding of other batches
    if kind == "mfcc":
        assert several[0]["hash"] == alone["hash"]
        assert several[0]["units"] == alone["units"]


@given(weights=st.lists(st.integers(0, 1000), max_size=40), count=st.integers(1, 6))
def test_every_item_has_one_rank_and_ranks_have_about_as_much(weights, count):
    shares = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "count", lambda: count)
        for rank in range(count):
            patch.setattr(ranks, "rank", lambda rank=rank: rank)
            shares.append(range(len(weights))[ranks.divide(np.array(weights))])
    assert [i for share in shares for i in share] == list(range(len(weights)))
    for share in shares:
        assert sum(weights[i] for i in share) <= sum(weights) / count + max(weights, default=0) + 1e-6


def test_dividing_by_hand(monkeypatch):
    """Sums 4, 5, 6, 10, 12: a half of it, 6, is reached by the third item, so the second rank begins there."""
    monkeypatch.setattr(ranks, "count", lambda: 2)
    found = []
    for rank in (0, 1):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        found.append(ranks.divide(np.array([4, 1, 1, 4, 2])))
    assert found == [slice(0, 2), slice(2, 5)]


@pytest.mark.parametrize(("on_gpus", "failed", "left"), [(False, False, True), (False, True, True),
                                                         (True, False, True), (True, True, False)])
def test_after_a_failure_nobody_waits_for_the_ranks_of_other_gpus(monkeypatch, on_gpus, failed, left):
    """NCCL does, when it is taken apart: the rank that failed would hang instead of saying why."""
    done = []
    monkeypatch.setattr(ranks, "_on_gpus", on_gpus)
    monkeypatch.setattr(ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks.dist, "destroy_process_group", lambda: done.append(True))
    ranks.leave(failed)
    assert done == [True] * left


def test_lack_of_memory_in_a_collective_is_no_dead_rank(monkeypatch):
    with pytest.raises(torch.OutOfMemoryError), ranks._losses():
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RankLost, match=r"another process of this job has died.*noticed: NCCL error in: x"), \
            ranks._losses():
        raise RuntimeError("NCCL error in: x\nmore")


@pytest.mark.parametrize(("said", "several", "named"), [
    ("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1", True, True),
    ("Connection reset by peer", True, True), ("NCCL Error 6: remote process exited", True, True),
    ("Connection closed by peer", False, False), ("mat1 and mat2 shapes cannot be multiplied", True, False)])
def test_a_sharded_model_whose_collective_fails_says_that_a_rank_is_lost(monkeypatch, said, several, named):
    """The traceback of a backward pass was all that was said."""
    monkeypatch.setattr(ranks, "_several", lambda: several)
    with pytest.raises(RankLost if named else RuntimeError, match="has died" if named else said[:10]), \
            ranks.naming_losses():
        raise RuntimeError(said)


def test_alone_everything_is_ones_own():
    rows = torch.arange(6.0).view(3, 2)
    assert ranks.rows_on_first(rows) is rows
    assert ranks.divide(np.ones(3)) == slice(0, 3)
