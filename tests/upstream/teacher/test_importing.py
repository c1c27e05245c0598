"""Centroids of others come in as they are, and a pickle that wants to run something does not."""

import contextlib
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import FormatError, InputError, UsageError
from upstream.features.source import MfccSource
from upstream.teacher.importing import _read_npy, import_centroids
from upstream.teacher.teacher import Teacher
from upstream.teacher.unpickling import read_kmeans

joblib = pytest.importorskip("joblib")
cluster = pytest.importorskip("sklearn.cluster")
pytestmark = pytest.mark.usefixtures("one_thread")
FEATURES = MfccSource().describe()


def fitted(kind="MiniBatchKMeans", dtype=np.float32, d=39):
    x = np.random.default_rng(0).normal(size=(300, d)).astype(dtype)
    return getattr(cluster, kind)(7, n_init=1, random_state=np.random.RandomState(3)).fit(x), x


@pytest.mark.parametrize("kind", ["KMeans", "MiniBatchKMeans"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", [{}, {"compress": 3}, {"compress": ("gzip", 3)}, {"compress": ("bz2", 3)},
                                 {"compress": ("xz", 1)}, {"compress": ("lzma", 1)}, {"protocol": 2}])
def test_a_kmeans_that_joblib_wrote_gives_its_centroids_and_labels(tmp_path, kind, dtype, how):
    model, x = fitted(kind, dtype)
    joblib.dump(model, tmp_path / "km.bin", **how)
    teacher = import_centroids(tmp_path / "km.bin", FEATURES)
    np.testing.assert_array_equal(teacher.centroids.numpy(), model.cluster_centers_.astype(np.float32))
    [labels] = teacher.quantiser.labels(torch.from_numpy(x.astype(np.float32)))
    np.testing.assert_array_equal(labels.numpy(), model.predict(x))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_gives_its_centroids(tmp_path, protocol):
    model, _ = fitted()
    model.cluster_centers_ = np.asfortranarray(model.cluster_centers_)
    (tmp_path / "km.pkl").write_bytes(pickle.dumps(model, protocol))
    np.testing.assert_array_equal(read_kmeans(tmp_path / "km.pkl"), model.cluster_centers_)


def test_neither_scikit_learn_nor_joblib_is_needed(tmp_path, monkeypatch):
    joblib.dump(fitted()[0], tmp_path / "km.bin")
    for name in [n for n in sys.modules if n.split(".")[0] in ("sklearn", "joblib")]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it now fails
    assert read_kmeans(tmp_path / "km.bin").shape == (7, 39)


def test_an_array_file_gives_its_centroids(tmp_path):
    found = np.random.default_rng(0).normal(size=(5, 39))
    np.save(tmp_path / "c.npy", found)
    teacher = import_centroids(tmp_path / "c.npy", FEATURES)
    np.testing.assert_array_equal(teacher.centroids.numpy(), found.astype(np.float32))
    teacher.save(tmp_path / "teacher")
    loaded = Teacher.load(tmp_path / "teacher")
    assert (loaded.hash, loaded.inertia, loaded.fitted["imported"]) == (teacher.hash, None, "c.npy")


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrap", [lambda m, evil: evil, lambda m, evil: setattr(m, "verbose", evil) or m,
                                  lambda m, evil: setattr(m, "cluster_centers_", np.array([evil], object)) or m])
@pytest.mark.parametrize("write", [joblib.dump, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_malicious_file_is_refused_and_nothing_of_it_runs(tmp_path, wrap, write):
    trace = tmp_path / "was-here"
    bad = wrap(fitted()[0], Evil(trace))
    write(bad, tmp_path / "km.bin")
    with pytest.raises(FormatError, match=r"asks for posix\.system|'O'|where numbers are expected"):
        import_centroids(tmp_path / "km.bin", FEATURES)
    assert not trace.exists()
    joblib.load(tmp_path / "km.bin")  # the file is what it says it is
    assert trace.exists()


@pytest.mark.parametrize("opcodes", [
    b"cbuiltins\neval\n(S'1'\ntR.", b"(S'touch x'\nios\nsystem\n.", b"cnumpy\nload\n(S'x'\ntR.",
    b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", b"cnumpy\ndtype\n}S'__class__'\nNsb.",
    b"ccopyreg\n_reconstructor\n(cnumpy\ndtype\ncbuiltins\nobject\nNtR.", b"P1\n.", b"}}b.", b"", b"."])
def test_other_ways_in_are_refused(tmp_path, opcodes):
    (tmp_path / "km.bin").write_bytes(opcodes)
    with pytest.raises(FormatError, match=r"km\.bin: "):
        read_kmeans(tmp_path / "km.bin")


@given(cut=st.integers(0, 4000), flip=st.integers(0, 4000), data=st.binary(max_size=8))
def test_damaged_files_give_an_error_of_ours_or_an_array(tmp_path_factory, cut, flip, data):
    folder = tmp_path_factory.mktemp("damaged")
    joblib.dump(fitted()[0], folder / "km.bin")
    content = (folder / "km.bin").read_bytes()
    (folder / "km.bin").write_bytes((content[:flip] + data + content[flip + len(data):])[:max(cut, 1)])
    with contextlib.suppress(FormatError):
        assert isinstance(read_kmeans(folder / "km.bin"), np.ndarray)


def test_files_that_hold_no_centroids_for_these_features_are_refused(tmp_path):
    joblib.dump({"a": 1}, tmp_path / "dict.bin")
    with pytest.raises(FormatError, match="holds no KMeans"):
        import_centroids(tmp_path / "dict.bin", FEATURES)
    joblib.dump(cluster.KMeans(4), tmp_path / "new.bin")
    with pytest.raises(FormatError, match="never fitted"):
        import_centroids(tmp_path / "new.bin", FEATURES)
    joblib.dump(fitted(d=13)[0], tmp_path / "small.bin")
    with pytest.raises(InputError, match="centroids of 13 dimensions, the features have 39"):
        import_centroids(tmp_path / "small.bin", FEATURES)
    np.save(tmp_path / "objects.npy", np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(FormatError, match="cannot be read as an array"):
        import_centroids(tmp_path / "objects.npy", FEATURES)
    np.save(tmp_path / "flat.npy", np.zeros(39))
    with pytest.raises(FormatError, match="expected numbers"):
        import_centroids(tmp_path / "flat.npy", FEATURES)
    np.save(tmp_path / "nan.npy", np.full((2, 39), np.nan))
    with pytest.raises(InputError, match="centroid 0 is not finite"):
        import_centroids(tmp_path / "nan.npy", FEATURES)
    with pytest.raises(UsageError, match=r"nowhere\.bin: no such file"):
        import_centroids(tmp_path / "nowhere.bin", FEATURES)
    with pytest.raises(UsageError, match="no file of centroids"):
        import_centroids(tmp_path, FEATURES)
    (tmp_path / "teacher.json").write_text("{}")
    with pytest.raises(UsageError, match="a teacher already"):
        import_centroids(tmp_path, FEATURES)


def test_arrays_that_promise_more_than_the_file_holds_are_refused(tmp_path):
    with open(tmp_path / "c.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**8, 10**6)})
    with pytest.raises(FormatError, match="cannot be read as an array"):
        _read_npy(tmp_path / "c.npy")
