"""Several ranks that hold a part of the frames each cluster them as one process with all of them does."""

import numpy as np
import pytest
import soundfile
import torch
from several_ranks import on_ranks

from upstream import ranks
from upstream.audio import AudioCache, import_folder
from upstream.errors import InputError
from upstream.features.source import MfccSource
from upstream.teacher import teacher as teachers
from upstream.teacher.kmeans import assign, fit
from upstream.teacher.quantiser import fit_quantiser
from upstream.teacher.teacher import Teacher

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("one_thread")]
SHARES = {1: (4000,), 2: (1501, 2499), 3: (1003, 0, 2997)}  # a rank may have nothing at all


def blobs():
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((7, 6)) * 3 + 10
    return torch.from_numpy(centres[rng.integers(7, size=4000)] + rng.standard_normal((4000, 6))).float()


def nearly_all_the_same():
    """Starts and updates alike lose clusters here, so empty ones are repaired."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.where(rng.random((4000, 1)) < 0.95, 0, rng.normal(size=(4000, 6)))).float()


def cluster(recordings):
    """Everything that k-means does with frames, as this rank sees the outcome."""
    sizes = SHARES[ranks.count()]
    own = [points[sum(sizes[:ranks.rank()]):][:sizes[ranks.rank()]] for points in (blobs(), nearly_all_the_same())]
    found = {}
    for name, points, clusters in (("coarse to fine", own[0], 8), ("plain", own[0], 40), ("emptied", own[1], 60)):
        centroids, inertia = fit(points, clusters, seed=3, iterations=12, restarts=2, engine="torch")
        found[name] = centroids.numpy(), inertia
    for kind, pca, whiten in (("residual", 0, False), ("product", 4, True)):
        quantiser, inertias = fit_quantiser(own[0], (4, 6), kind, 1, iterations=5, engine="torch", pca=pca,
                                            whiten=whiten)
        found[kind] = np.concatenate([book.numpy() for book in quantiser.codebooks]), sum(inertias)
    broken = own[0].clone()
    if ranks.rank() == ranks.count() - 1:
        broken[-1, 2] = float("nan")
    for name, points, clusters in (("nan", broken, 8), ("many", own[0], 4001), ("same", own[0] * 0, 2)):
        try:
            fit(points, clusters, seed=0, engine="torch")
        except (InputError, SystemExit) as error:
            found[name] = str(error)
    manifest = import_folder(recordings)
    made = Teacher.fit(MfccSource(), manifest, 6, seed=3, read=AudioCache(manifest).wave, sample_frames=300)
    found["teacher"] = made.centroids.numpy(), made.inertia
    found["fitted"] = {name: made.fitted[name] for name in ("engine", "ranks", "sample_frames")}
    return found


def cluster_in_parts(recordings):
    teachers.ONE_PROCESS = 0
    return cluster(recordings)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for i, samples in enumerate((48_000, 16_000, 30_000, 8000)):
        rng = np.random.default_rng(i)
        soundfile.write(folder / f"u{i}.wav", 0.2 * np.sin(np.cumsum(rng.uniform(0.02, 0.4, samples))), 16_000)
    return folder


@pytest.fixture(scope="module")
def one_process(recordings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "default_engine", lambda device: "torch")
        return cluster(recordings)


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_with_a_part_of_the_frames_each_end_as_one_process_with_all(recordings, one_process, count):
    found = on_ranks(count, cluster_in_parts, recordings)
    for name in ("coarse to fine", "plain", "emptied", "residual", "product", "teacher"):
        centroids, inertia = one_process[name]
        for rank in range(count):
            np.testing.assert_array_equal(found[rank][name][0], found[0][name][0])  # the same bits everywhere
            np.testing.assert_allclose(found[rank][name][0], centroids, rtol=1e-6, atol=1e-7)
            assert found[rank][name][1] == pytest.approx(inertia, rel=1e-7)  # a row's own sum is float32
    for rank in range(count):
        assert found[rank]["fitted"] == {"engine": "torch", "ranks": count, "sample_frames": 300}
        for name in ("nan", "many", "same"):  # the first one says it for all
            assert found[rank][name] == (one_process[name] if rank == 0 else "1")


def test_one_process_repairs_names_and_records(one_process):
    labels = assign(nearly_all_the_same(), torch.from_numpy(one_process["emptied"][0]))
    assert torch.bincount(labels, minlength=60).min() > 0
    assert one_process["nan"].startswith("frame 3999 of the sample is not finite")
    assert one_process["many"].startswith("4000 frames for 4001 clusters")
    assert one_process["same"].startswith("1 different frames for 2 clusters")
    assert one_process["fitted"] == {"engine": "torch", "ranks": 1, "sample_frames": 300}
