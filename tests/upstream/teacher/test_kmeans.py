"""k-means reaches the inertia of the reference, repeats itself, and assigns as brute force does."""

import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import InputError, UsageError
from upstream.keyed import keyed
from upstream.teacher import kmeans, nearest
from upstream.teacher.kmeans import assign, fit, inertia, levels
from upstream.teacher.lloyd import _plus_plus, draw_starts, lloyd, repair_empty
from upstream.teacher.nearest import common_offset

pytestmark = pytest.mark.usefixtures("one_thread")
ENGINES = ("faiss", "torch")


@pytest.fixture(scope="module")
def frames(oracles):
    stored = np.load(oracles / "kmeans" / "features.npz")
    return {name: torch.from_numpy(stored[name].astype(np.float32)) for name in ("x", "heldout")}


@pytest.fixture(scope="module")
def lloyd_results(oracles):
    return json.loads((oracles / "kmeans" / "results.json").read_text())["lloyd"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("clusters", [50, 100])
def test_inertia_is_within_a_hundredth_of_the_references_ten_restarts(frames, lloyd_results, engine, clusters):
    best = min(r["inertia_per_point"] for r in lloyd_results if r["k"] == clusters)
    centroids, found = fit(frames["x"], clusters, seed=0, restarts=200 // clusters, engine=engine)
    assert centroids.shape == (clusters, 39)
    assert found <= 1.01 * best
    assert found == pytest.approx(inertia(frames["x"], centroids, assign(frames["x"], centroids)), rel=1e-6)
    held_out = inertia(frames["heldout"], centroids, assign(frames["heldout"], centroids))
    worst = max(r["heldout_inertia_per_point"] for r in lloyd_results if r["k"] == clusters)
    assert held_out <= 1.015 * worst


@pytest.mark.parametrize("engine", ENGINES)
def test_six_points_in_two_groups_by_hand(engine):
    """0, 1, 5 and 10, 12, 14: means 2 and 12. Squared distances 4 + 1 + 9 and 4 + 0 + 4: 22 over 6 points."""
    points = torch.tensor([[0.0], [10.0], [1.0], [12.0], [5.0], [14.0]])
    centroids, found = fit(points, 2, seed=3, engine=engine)
    assert sorted(centroids[:, 0].tolist()) == [2.0, 12.0]
    assert found == pytest.approx(22 / 6)
    low = int(centroids[:, 0].argmin())
    assert assign(points, centroids).tolist() == [low, 1 - low, low, 1 - low, low, 1 - low]


def test_one_iteration_of_lloyd_by_hand():
    """Starts 0 and 4 share the points 0, 1, 3, 9 at 2: 0 and 1 have mean 0.5, 3 and 9 have mean 6."""
    points = torch.tensor([[0.0], [1.0], [3.0], [9.0]])
    assert lloyd(points, torch.tensor([[0.0], [4.0]]), 1)[:, 0].tolist() == [0.5, 6.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_seed_gives_the_same_centroids_and_another_seed_others(frames, engine):
    part = frames["x"][:4000]
    first, again, other = (fit(part, 20, seed=s, iterations=5, engine=engine)[0] for s in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_engines_agree_from_the_same_starts(frames):
    by_faiss, by_torch = (fit(frames["x"], 50, seed=1, iterations=10, engine=e)[1] for e in ENGINES)
    assert by_faiss == pytest.approx(by_torch, rel=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_more_restarts_never_raise_the_inertia(frames, engine):
    part = frames["x"][:3000]
    found = [fit(part, 30, seed=2, iterations=8, restarts=r, engine=engine)[1] for r in (1, 2, 4)]
    assert found == sorted(found, reverse=True)


def test_all_frames_are_used_and_not_256_for_each_centroid():
    """faiss's own default trains 2 centroids on 512 frames. With a step of 1 in a million frames, the mean shows it."""
    points = torch.zeros(4000, 1)
    points[::2] = 100.0
    points[1::2] = torch.arange(2000.0)[:, None] / 1000  # mean .9995
    centroids, _ = fit(points, 2, seed=0, engine="faiss")
    assert centroids.min().item() == pytest.approx(0.9995, abs=1e-5)


def test_coarse_to_fine_ends_within_three_percent_of_a_hundred_iterations_over_all(monkeypatch):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 5)) * 2
    points = torch.from_numpy(centres[rng.integers(12, size=20_000)] + rng.standard_normal((20_000, 5))).float()
    assert [(len(part), times) for part, times in levels(points, 4, 30)] == [(1250, 12), (5000, 15), (20_000, 4)]
    assert [(len(part), times) for part, times in levels(points, 16, 30)] == [(5000, 12), (20_000, 15)]
    assert levels(points[:1900], 4, 30)[0][1] == 30
    for clusters in (4, 12, 16):
        quick = fit(points, clusters, seed=1, restarts=5)[1]
        with monkeypatch.context() as patch:
            patch.setattr(kmeans, "levels", lambda points, clusters, iterations: [(points, 100)])
            thorough = fit(points, clusters, seed=1, restarts=5)[1]
        assert quick < 1.03 * thorough  # other local optima; on a million points it found the better one


def test_the_best_of_several_coarse_starts_goes_on(monkeypatch):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 5)) * 4
    points = torch.from_numpy(centres[rng.integers(12, size=20_000)] + rng.standard_normal((20_000, 5))).float()
    several = [fit(points, 12, seed=seed)[1] for seed in range(4)]
    monkeypatch.setattr(kmeans, "STARTS", 1)
    alone = [fit(points, 12, seed=seed)[1] for seed in range(4)]
    assert np.mean(several) < 0.9 * np.mean(alone)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_cluster_stays_empty(engine):
    """Nine in ten frames are the same: starts and updates alike tend to lose clusters."""
    rng = np.random.default_rng(0)
    points = torch.from_numpy(np.where(rng.random((2000, 1)) < 0.9, 0, rng.normal(size=(2000, 3)))).float()
    centroids, _ = fit(points, 60, seed=0, engine=engine)
    assert torch.bincount(assign(points, centroids), minlength=60).min() > 0


def test_every_restart_has_starts_of_its_own(monkeypatch):
    drawn = []

    def noted(seed, purpose, *key):
        drawn.append((seed, purpose, *key))
        return keyed(seed, purpose, *key)

    monkeypatch.setattr(kmeans, "keyed", noted)
    points = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    fit(points[:100], 3, seed=4, iterations=1, restarts=2)
    assert drawn == [(4, "k-means starts", number) for number in range(2)]
    drawn.clear()
    monkeypatch.setattr(kmeans, "_ENOUGH", 10)  # on parts: each restart is the best of six
    fit(points, 3, seed=4, iterations=1, restarts=2)
    assert drawn == [(4, "k-means starts", number) for number in range(12)]


def test_parts_are_those_of_all_points_whoever_has_them(monkeypatch):
    """Of 2000 points the first rank has 701, and the parts of both, one after the other, are those of one process."""
    points = torch.arange(2000.0)[:, None]
    whole = [part[:, 0].tolist() for part, _ in levels(points, 1, 30)]
    assert [len(part) for part in whole] == [125, 500, 2000]
    joined = [[], [], []]
    for before, own in ((0, points[:701]), (701, points[701:])):
        monkeypatch.setattr(kmeans.ranks, "place", lambda rows, before=before: (before, 2000))
        for together, (part, _) in zip(joined, levels(own, 1, 30), strict=True):
            together += part[:, 0].tolist()
    assert joined == whole


def test_a_quarter_is_enough_where_it_has_120_points_a_cluster():
    points = torch.zeros(1920, 1)
    assert [len(part) for part, _ in levels(points, 4, 30)] == [480, 1920]
    assert [len(part) for part, _ in levels(points[:1919], 4, 30)] == [1919]


def test_of_points_that_are_equally_far_the_first_fill_empty_clusters():
    points = torch.tensor([[1.0], [-1.0]]).repeat(50, 1) + torch.arange(100)[:, None] // 100
    labels = torch.zeros(100, dtype=torch.int64)
    found = repair_empty(points, torch.tensor([[0.0], [7.0], [8.0], [9.0]]), labels)
    assert found[:, 0].tolist() == [0, 1, -1, 1]


def test_an_empty_cluster_goes_to_the_farthest_point():
    """The start at 50 has no points; 9 is the point that is farthest from its own centroid, 1."""
    points = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    centroids = lloyd(points, torch.tensor([[1.0], [50.0]]), 1)
    assert centroids[:, 0].tolist() == [1.0, 9.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_as_many_clusters_as_points_gives_the_points(engine):
    points = torch.tensor([[0.0, 0], [0, 1], [5, 5], [9, 0]])
    centroids, found = fit(points, 4, seed=0, engine=engine)
    assert found == 0
    assert sorted(centroids.tolist()) == sorted(points.tolist())


@pytest.mark.parametrize(("points", "clusters", "words"), [
    (torch.zeros(3, 2), 4, "3 frames for 4 clusters"),
    (torch.zeros(10, 2), 2, "1 different frames for 2 clusters"),
    (torch.tensor([[0.0, 1], [float("nan"), 0], [1, 1]]), 2, "frame 1 of the sample is not finite"),
    (torch.zeros(3, 2), 0, "0 clusters"),
    (torch.zeros(3, 2), 65_537, "65537 clusters"),
])
def test_frames_that_cannot_be_clustered_are_refused(points, clusters, words):
    with pytest.raises(InputError, match=words):
        fit(points, clusters, seed=0)


@given(data=st.data(), n=st.integers(0, 30), d=st.integers(1, 4), k=st.integers(1, 6))
def test_assignment_equals_brute_force_and_ties_go_to_the_lower_index(data, n, d, k):
    """Small integers are exact in float32, so ties are ties."""
    numbers = st.integers(-3, 3).map(float)
    frames = np.array([data.draw(st.lists(numbers, min_size=d, max_size=d)) for _ in range(n)]).reshape(n, d)
    centroids = np.array([data.draw(st.lists(numbers, min_size=d, max_size=d)) for _ in range(k)])
    expected = ((frames[:, None] - centroids[None]) ** 2).sum(-1).argmin(1) if n else []
    found = assign(torch.from_numpy(frames).float(), torch.from_numpy(centroids).float())
    assert found.dtype == torch.int64
    assert found.tolist() == list(expected)


def test_the_lowest_score_is_the_same_with_few_threads_and_with_many(monkeypatch, frames):
    centroids = torch.cat([frames["x"][:20], frames["x"][:20]])  # every one has its equal
    few = assign(frames["x"], centroids)
    monkeypatch.setattr(nearest, "_NUMPY_UP_TO", 0)
    assert torch.equal(assign(frames["x"], centroids), few)
    assert few.max() < 20


def test_assignment_in_pieces_equals_assignment_at_once(monkeypatch, frames):
    centroids = frames["x"][:10]
    at_once = assign(frames["x"], centroids)
    monkeypatch.setitem(nearest._AT_A_TIME, "cpu", 70)
    assert torch.equal(assign(frames["x"][:1000], centroids), at_once[:1000])


@given(n=st.integers(1, 200), k=st.integers(1, 20), seed=st.integers(0, 50))
def test_starts_are_different_points_of_the_data(n, k, seed):
    points = torch.arange(float(n))[:, None]
    starts = draw_starts(points, min(k, n), keyed(seed, "test"))[:, 0].tolist()
    assert len(set(starts)) == min(k, n)
    assert set(starts) <= set(range(n))


def test_starts_are_drawn_among_64_points_a_cluster_that_are_drawn_first():
    """Evenly from everywhere: k-means++ over all of a million would take as long as clustering."""
    points = torch.arange(1000.0)[:, None]
    starts = draw_starts(points, 3, keyed(5, "test"))[:, 0].tolist()
    assert set(starts) <= set(keyed(5, "test").choice(1000, 192, replace=False).tolist())
    firsts = [float(draw_starts(points, 1, keyed(seed, "test"))[0, 0]) for seed in range(40)]
    assert np.mean(firsts) == pytest.approx(500, abs=4 * 289 / 40**0.5)
    assert min(firsts) < 100 < 900 < max(firsts)


def test_as_many_clusters_as_labels_can_say_are_possible():
    kmeans._check(torch.zeros(65_536, 1), 65_536)


def test_starts_spread_over_groups():
    """Two far groups: after one start in either, the other holds all but a millionth of the squared distance."""
    points = torch.cat([torch.zeros(500, 1) + torch.arange(500)[:, None] / 1e4, torch.full((500, 1), 1e3)])
    for seed in range(20):
        starts = draw_starts(points, 2, keyed(seed, "test"))[:, 0]
        assert (starts < 1).sum() == 1


def test_starts_are_drawn_by_squared_distance_from_the_first_on():
    """From 0, the points 0, 1 and 3 reach to 0, 1 and 10: a draw of .15 lies at 1.5, beyond the 1."""
    points = torch.tensor([[0.0], [1.0], [3.0]])
    assert _plus_plus(points, np.array([0.0, 0.15])).tolist() == [[0], [3]]
    assert _plus_plus(points, np.array([0.0, 0.05])).tolist() == [[0], [1]]
    assert _plus_plus(points, np.array([0.0, 0.0])).tolist() == [[0], [1]], "and never one that is drawn already"
    assert _plus_plus(points, np.array([0.0, 0.1])).tolist() == [[0], [3]]


def test_without_faiss_torch_does_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    kmeans._has_faiss.cache_clear()
    try:
        assert kmeans.default_engine(torch.device("cpu")) == "torch"
        assert fit(torch.tensor([[0.0], [9.0]]), 2, seed=0)[1] == 0
    finally:
        monkeypatch.undo()
        kmeans._has_faiss.cache_clear()


def test_points_on_an_accelerator_stay_there():
    assert kmeans.default_engine(torch.device("cuda")) == "torch"
    assert kmeans.default_engine(torch.device("cpu")) == "faiss"


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_an_offset_that_all_frames_share_hides_nothing(engine):
    """Pre-norm layers have dimensions that are large and nearly constant: products of float32 lost all the rest."""
    points = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    offset = torch.tensor([5000.0, *[0.0] * 6, -3000.0])
    near, spread = fit(points, 20, seed=0, engine=engine)
    far, far_spread = fit(points + offset, 20, seed=0, engine=engine)
    assert far_spread == pytest.approx(spread, rel=0.02)
    assert inertia(points + offset, far, assign(points + offset, far)) == pytest.approx(spread, rel=0.02)
    exact = torch.cdist((points + offset).double(), far.double()).argmin(1)
    assert (assign(points + offset, far) == exact).double().mean() > 0.999
    assert not common_offset(near).any(), "and where there is none, no bit changes"


def test_a_common_offset_by_hand():
    """Mean (20, 0), squared 400; each is 1 from it: 400 of 1 is far off, 4 of 1 is not."""
    assert common_offset(torch.tensor([[20.0, 1.0], [20.0, -1.0]])).tolist() == [20, 0]
    assert common_offset(torch.tensor([[2.0, 1.0], [2.0, -1.0]])).tolist() == [0, 0]
    assert common_offset(torch.tensor([[10.1, 1.0], [10.1, -1.0]])).tolist() == [pytest.approx(10.1), 0]  # 102 of 1
    assert common_offset(torch.tensor([[9.9, 1.0], [9.9, -1.0]])).tolist() == [0, 0]  # 98


def test_an_engine_that_is_none_is_refused():
    """`sklearn` ran torch's."""
    with pytest.raises(UsageError, match="engine='sklearn': expected faiss or torch"):
        fit(torch.rand(20, 2), 3, 0, engine="sklearn")
