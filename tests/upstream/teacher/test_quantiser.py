"""Every kind of teacher gives the labels that plain loops give; PCA is scikit-learn's; random codes need no data."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import FormatError, InputError, UsageError
from upstream.features import log_mel
from upstream.features.source import FbankSource, MfccSource
from upstream.frames import CONV_GRID
from upstream.model import EncoderConfig
from upstream.model.mel_frontends import FbankFrontend
from upstream.teacher.gate import check_units
from upstream.teacher.projection import Projection, fit_pca, random_codes, random_projection
from upstream.teacher.quantiser import Quantiser, fit_quantiser, random_quantiser, slices, total_inertia
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = (16_000, 300, 25_000, 8000, 720, 40_000)


def points(n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3).astype(np.float32))


def nearest(x, book):
    """By differences, in float64: independent of the product of matrices."""
    return ((x.double()[:, None] - book.double()[None]) ** 2).sum(-1).argmin(1)


def test_a_frame_worked_by_hand():
    """(3, 9): the residual stages take 2 (of 0 or 2) and leave (1, 7), of which (1, 8) is nearer than (0, 0).

    As a product, 3 is nearer to 2 than to 7, and 9 nearer to 8 than to 1.
    """
    frame = torch.tensor([[3.0, 9.0]])
    residual = Quantiser((torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([[0.0, 0.0], [1.0, 8.0]])), "residual")
    assert [labels.tolist() for labels in residual.labels(frame)] == [[1], [1]]
    product = Quantiser((torch.tensor([[7.0], [2.0]]), torch.tensor([[8.0], [1.0]])), "product")
    assert [labels.tolist() for labels in product.labels(frame)] == [[1], [0]]
    assert product.dim == residual.dim == 2


def test_a_member_of_an_ensemble_is_the_single_teacher():
    x = points()
    together, inertias = fit_quantiser(x, (3, 5, 8), "ensemble", seed=2)
    assert together.classes == (3, 5, 8)
    for book, inertia, labels, k in zip(together.codebooks, inertias, together.labels(x), (3, 5, 8)):
        [alone], [spread] = (lambda q: (q[0].codebooks, q[1]))(fit_quantiser(x, (k,), "single", seed=2))
        assert torch.equal(book, alone)
        assert inertia == spread
        assert torch.equal(labels, nearest(x, alone))
    assert inertias[0] > inertias[1] > inertias[2]


def test_a_product_clusters_each_slice_by_itself():
    x = points()
    found, inertias = fit_quantiser(x, (4, 5, 3), "product", seed=1)
    for place, (book, labels, inertia) in enumerate(zip(found.codebooks, found.labels(x), inertias)):
        own = x[:, 2 * place: 2 * place + 2]
        assert torch.equal(labels, nearest(own, book))
        assert inertia == pytest.approx(float((own - book[labels]).square().sum(1).mean()), rel=1e-4)
    assert found.dim == 6


def test_residual_stages_quantise_what_is_left_and_leave_less():
    x = points()
    found, inertias = fit_quantiser(x, (6, 6, 6), "residual", seed=1)
    left = x.clone()
    for book, labels, inertia in zip(found.codebooks, found.labels(x), inertias):
        assert torch.equal(labels, nearest(left, book))
        left = left - book[labels]
        assert inertia == pytest.approx(float(left.square().sum(1).mean()), rel=1e-4)
    assert inertias[0] > inertias[1] > inertias[2]


@pytest.mark.parametrize("whiten", [False, True])
def test_principal_components_are_those_of_scikit_learn(whiten):
    sklearn = pytest.importorskip("sklearn.decomposition")
    x = points(500, 6)
    mine = fit_pca(x, 4, whiten)(x).numpy()
    reference = sklearn.PCA(4, whiten=whiten, svd_solver="full").fit(x.double().numpy())
    theirs = reference.transform(x.double().numpy())
    signs = np.sign((mine * theirs).sum(0))  # sign conventions differ
    np.testing.assert_allclose(mine, theirs * signs, atol=2e-4, rtol=1e-4)
    if whiten:
        np.testing.assert_allclose(mine.std(0, ddof=1), 1, atol=1e-3)


def test_a_teacher_that_only_whitens_keeps_all_components():
    x = points(500, 6)
    found, _ = fit_quantiser(x, (4,), "single", seed=0, whiten=True)
    white = found.projection(x)
    assert white.shape == x.shape
    np.testing.assert_allclose(np.cov(white.numpy().T), np.eye(6), atol=1e-2)
    assert (found.labels(x)[0] == nearest(white, found.codebooks[0])).float().mean() > 0.99


def test_whitening_leaves_a_direction_without_variance_small():
    x = torch.cat([points(300, 3), torch.full((300, 1), 2.0)], dim=1)
    white = fit_pca(x, 0, whiten=True)(x)
    assert white.shape == (300, 4)
    assert float(white[:, 3].abs().max()) < 0.1


@given(seed=st.integers(0, 1000), kept=st.integers(1, 6), whiten=st.booleans())
def test_a_projection_survives_its_file_and_its_signs_are_fixed(seed, kept, whiten):
    found = fit_pca(points(50, 6, seed), kept, whiten)
    again = Projection.from_array(found.as_array())
    assert torch.equal(found.mean, again.mean)
    assert torch.equal(found.matrix, again.matrix)
    assert bool((found.matrix.gather(1, found.matrix.abs().argmax(1, keepdim=True)) > 0).all())


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["ensemble", "product", "residual"]),
       clusters=st.lists(st.integers(1, 7), min_size=1, max_size=3), pca=st.sampled_from([0, 6]))
def test_labels_lie_in_their_streams_and_do_not_depend_on_the_other_frames(seed, kind, clusters, pca):
    x = points(60, 6, seed)
    found, _ = fit_quantiser(x, clusters, kind, seed, iterations=3, pca=pca)
    streams = found.labels(x)
    assert len(streams) == len(clusters) == len(found.classes)
    for labels, k in zip(streams, found.classes):
        assert int(labels.min()) >= 0
        assert int(labels.max()) < k
    for whole, part in zip(streams, found.labels(x[20:30])):
        assert torch.equal(whole[20:30], part)


def test_random_codes_are_the_nearest_by_angle():
    """BEST-RQ's own words: argmin over |norm(code) - norm(A x)|, after mean and variance are taken out."""
    x, found = points(200, 160), random_quantiser(160, (50, 30), seed=3)
    normed = (x - x.mean(0)) / x.std(0, correction=0)
    for place, labels in enumerate(found.labels(x)):
        z = normed @ found.projection.matrix[16 * place: 16 * place + 16].T
        assert torch.equal(labels, nearest(z / z.norm(dim=1, keepdim=True), found.codebooks[place]))
    assert found.dim == 160


def test_random_projections_are_keyed_and_spread_as_xavier_says():
    one, again, other = (random_projection(300, 16, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(one.matrix, again.matrix)
    assert not torch.equal(one.matrix, other.matrix)
    assert not torch.equal(one.matrix[:16], one.matrix[16:])
    reach = (6 / 316) ** 0.5
    assert 0.99 * reach < float(one.matrix.abs().max()) <= reach
    assert float(one.matrix.std()) == pytest.approx(reach / 3 ** 0.5, rel=0.03)
    np.testing.assert_allclose(random_codes(40, 16, 0, 0).norm(dim=1), 1, rtol=1e-6)


def test_loudness_does_not_change_random_labels(recordings, tmp_path):
    """Gain is a shift of log-mels, which leaves with the mean of the utterance."""
    made = recordings(LENGTHS)
    teacher = Teacher.random(FbankSource(stacked=True), (64,), seed=0)
    loud = teacher.label(FbankSource(stacked=True), made, tmp_path / "a", read=lambda i: 1.7 * made.waves[i])
    plain = teacher.label(FbankSource(stacked=True), made, tmp_path / "b", read=made.read)
    assert (loud.streams[0] == plain.streams[0]).mean() > 0.995
    assert np.bincount(plain.streams[0], minlength=64).astype(bool).sum() > 30  # it does not collapse


def test_a_random_teacher_reads_nothing(recordings):
    made = recordings(LENGTHS)
    teacher = Teacher.fit(MfccSource(), made, (8, 8), seed=0, read=made.read, kind="random")
    assert made.asked == []
    assert teacher.inertia is None
    assert teacher.hash == Teacher.random(MfccSource(), (8, 8), seed=0).hash


def test_stacked_mels_are_what_the_filterbank_front_end_sees(recordings):
    made = recordings(LENGTHS)
    front = FbankFrontend(EncoderConfig(frontend="fbank", fbank_norm="none"))
    for index, frames in FbankSource(stacked=True).stream(made, range(len(made)), made.read):
        assert frames.shape == (CONV_GRID.frames(LENGTHS[index]), 160)
        if len(frames):
            wave = torch.from_numpy(made.waves[index])[None]
            torch.testing.assert_close(frames, front(wave, None)[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(frames[:, :80], log_mel(wave)[0, ::2], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("clusters", "options"), [
    ((4, 6), {}), ((4, 5, 6), {"kind": "product"}), ((5, 5), {"kind": "residual", "pca": 12}), (6, {"whiten": True}),
    ((8,), {"kind": "random"}), ((8, 9), {"kind": "random"})])
def test_every_kind_labels_stores_and_comes_back(recordings, tmp_path, clusters, options):
    made = recordings(LENGTHS)
    teacher = Teacher.fit(MfccSource(), made, clusters, seed=1, read=made.read, **options)
    teacher.save(tmp_path / "teacher")
    loaded = Teacher.load(tmp_path / "teacher")
    assert loaded.hash == teacher.hash
    assert (loaded.kind, loaded.classes, loaded.fitted) == (teacher.kind, teacher.classes, teacher.fitted)
    units = loaded.label(MfccSource(), made, tmp_path / "units", read=made.read)
    assert units.classes == teacher.classes == ((clusters,) if isinstance(clusters, int) else clusters)
    assert units.meta["hop"] == 320
    check_units(units, made)
    assert units.meta["fitted"] == (teacher.kind != "random")
    for index, frames in MfccSource().stream(made, range(len(made)), made.read):
        for stream, labels in enumerate(teacher.quantiser.labels(frames)):
            np.testing.assert_array_equal(Units.load(tmp_path / "units").labels(made.ids[index], stream), labels)


def test_another_teacher_in_the_same_folder_leaves_nothing_of_the_first(recordings, tmp_path):
    made = recordings(LENGTHS)
    for clusters, options in (((4, 5, 6), {"kind": "product", "pca": 12}), (4, {}), ((3, 4), {})):
        teacher = Teacher.fit(MfccSource(), made, clusters, seed=1, read=made.read, **options)
        teacher.save(tmp_path)
        assert Teacher.load(tmp_path).hash == teacher.hash
    assert sorted(p.name for p in tmp_path.iterdir()) == ["centroids0.npy", "centroids1.npy", "teacher.json"]


def test_teachers_of_the_same_numbers_but_another_kind_have_other_hashes(recordings):
    made = recordings(LENGTHS)
    hashes = {Teacher.fit(MfccSource(), made, (4,) * 3, seed=1, read=made.read, kind=kind, pca=pca).hash
              for kind in ("ensemble", "product", "residual") for pca in (0, 12)}
    hashes.add(Teacher.fit(MfccSource(), made, (4,) * 3, seed=1, read=made.read, kind="random").hash)
    assert len(hashes) == 7
    for options in ({"pca": 12}, {"whiten": True}):
        with pytest.raises(UsageError, match="kind=random draws its projection"):
            Teacher.fit(MfccSource(), made, (4,) * 3, seed=1, read=made.read, kind="random", **options)


def test_a_broken_projection_is_refused(recordings, tmp_path):
    made = recordings(LENGTHS)
    Teacher.fit(MfccSource(), made, 4, seed=1, read=made.read, pca=5).save(tmp_path)
    np.save(tmp_path / "pca.npy", np.zeros((6, 39), np.float32))
    with pytest.raises(FormatError, match=r"not what teacher\.json was written for"):
        Teacher.load(tmp_path)
    np.save(tmp_path / "pca.npy", np.zeros(39, np.float32))
    with pytest.raises(FormatError, match="a row for each dimension"):
        Teacher.load(tmp_path)


@pytest.mark.parametrize(("clusters", "kind", "options", "message"), [
    ((4, 5), "single", {}, "expected one number"), ((), "ensemble", {}, "a number for each stream"),
    ((4, 4, 4, 4), "product", {}, "6 dimensions do not divide into 4 equal slices"),
    ((0,), "single", {}, "each at least 1"), ((4,), "double", {}, "kind 'double': expected one of single, ensemble"),
    ((4,), "single", {"pca": 7}, "the frames have 6 dimensions")])
def test_designs_that_cannot_be_are_refused(clusters, kind, options, message):
    with pytest.raises(UsageError, match=message):
        fit_quantiser(points(), clusters, kind, seed=0, **options)


def test_too_few_frames_for_a_stage_are_refused():
    with pytest.raises(InputError, match="3 frames for 4 clusters"):
        fit_quantiser(points(3), (2, 4), "ensemble", seed=0)
    with pytest.raises(InputError, match="1 frames for a PCA"):
        fit_quantiser(points(1), (1,), "single", seed=0, pca=2)


def test_slices_are_equal_and_in_order():
    assert [s.tolist() for s in slices(torch.arange(6.0).view(1, 6), 3)] == [[[0, 1]], [[2, 3]], [[4, 5]]]


@pytest.mark.parametrize(("kind", "total"), [("product", 7.0), ("residual", 1.0), ("ensemble", 1.0)])
def test_the_inertia_of_several_codebooks(kind, total):
    assert total_inertia(kind, (4.0, 2.0, 1.0)) == total
    assert total_inertia("ensemble", (1.0, 2.0)) == 1.0
