"""Read the centroids out of a pickled k-means of scikit-learn without running anything of the pickle.

A pickle names functions and classes and has them called. Here each name that a k-means needs stands for a class of ours
that only keeps what it is given, and every other name is refused. joblib writes an array's bytes right behind the
pickled description of it (`joblib/numpy_pickle.py`), plainly or compressed as a whole.
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickle
import zlib
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from upstream.errors import FormatError

_MOST_BYTES = 4 << 30  # of a decompressed file: 65,536 centroids of 16,384 dimensions
_NUMBERS = {f"{kind}{size}" for kind in "iuf" for size in (2, 4, 8)} | {"i1", "u1", "b1"}


def read_kmeans(path: Path) -> np.ndarray:
    """The centroids (k, d) of a `KMeans` or `MiniBatchKMeans` that joblib or pickle wrote.

    Raises:
        FormatError: no such file, another object, a pickle that names anything that a k-means does not need (nothing is
            run), or a file that is cut short.
    """
    path = Path(path)
    try:
        found = _Reader(io.BytesIO(_decompressed(path.read_bytes()))).load()
        centres = found.state.get("cluster_centers_") if _is_fitted(found) else None
        if isinstance(centres, _Array):
            centres = centres.read()
    except _Refused as error:
        raise FormatError(f"{path}: {error}; nothing of it was run. Save the centroids as .npy instead") from error
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file") from error
    except Exception as error:  # a broken pickle fails in any way that there is
        raise FormatError(f"{path}: not a pickled k-means, or cut short ({error!r:.200})") from error
    if not _is_fitted(found):
        raise FormatError(f"{path}: holds no KMeans or MiniBatchKMeans of scikit-learn")
    if not isinstance(centres, np.ndarray):
        raise FormatError(f"{path}: a k-means without centroids; it was never fitted")
    return centres


def _is_fitted(found: Any) -> bool:
    return isinstance(found, _Model) and isinstance(found.state, dict)


class _Refused(Exception):
    """The pickle wants something that no k-means needs."""


class _Kept:
    """Stands for whatever a pickle builds: keeps what it is given and does nothing."""

    state: Any = None

    def __init__(self, *arguments: Any, **_: Any) -> None:
        self.arguments = arguments


class _Model(_Kept):
    """A k-means."""


class _Dtype(_Kept):
    """numpy's description of a kind of number."""

    def read(self) -> np.dtype:
        name = self.arguments[0] if self.arguments else None
        if not isinstance(name, str) or name.lstrip("<>|=") not in _NUMBERS:
            kind = repr(name[:40]) if isinstance(name, str) else type(name).__name__  # a nested one has no end
            raise _Refused(f"an array of {kind} where numbers are expected")
        big = isinstance(self.state, tuple) and self.state[1:2] == (">",)
        return np.dtype((">" if big else "<") + name.lstrip("<>|="))


class _Array(_Kept):
    """An array as numpy itself pickles it: (version, shape, dtype, order, bytes)."""

    def read(self) -> np.ndarray:
        _, shape, dtype, fortran, data = self.state
        values = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.read())
        return values.reshape(shape, order="F" if fortran else "C")


class _Wrapper(_Kept):
    """joblib's note that the bytes of an array come next."""

    def read(self, file: io.BytesIO) -> np.ndarray:
        shape, dtype = tuple(int(n) for n in self.state["shape"]), self.state["dtype"].read()
        if self.state.get("numpy_array_alignment_bytes") is not None:
            file.read(file.read(1)[0])
        wanted = prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or wanted > len(file.getbuffer()) - file.tell():
            raise ValueError(f"an array of shape {shape} where {len(file.getbuffer()) - file.tell()} bytes are left")
        return np.frombuffer(file.read(wanted), dtype).reshape(shape, order=self.state["order"])


def _array(*_: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """How protocol 5 writes arrays."""
    found = _Array()
    found.state = (1, shape, dtype, order == "F", data)
    return found


def _empty(kind: Any = None, *_: Any) -> Any:
    """`copyreg._reconstructor`: an object without its state."""
    if not (isinstance(kind, type) and issubclass(kind, _Kept)):
        raise _Refused("an object of an unknown class")
    return kind()


def _latin1(text: Any, *_: Any) -> bytes:
    """`codecs.encode`, which old pickles write bytes with."""
    if not isinstance(text, str):
        raise _Refused("codecs.encode of something that is no text")
    return text.encode("latin1")


_ALLOWED: dict[str, Callable[..., Any]] = {
    **{f"sklearn.cluster.{module}.{name}": _Model
       for module in ("_kmeans", "k_means_", "_k_means_") for name in ("KMeans", "MiniBatchKMeans")},
    **{f"{module}.numpy_pickle.NumpyArrayWrapper": _Wrapper for module in ("joblib", "sklearn.externals.joblib")},
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _Kept for core in ("core", "_core")},
    **{f"numpy.random.{name}": _Kept for name in (
        "_pickle.__randomstate_ctor", "_pickle.__bit_generator_ctor", "__RandomState_ctor", "mtrand.RandomState",
        "_mt19937.MT19937")},
    "numpy.ndarray": _Array, "numpy.dtype": _Dtype,
    "copyreg._reconstructor": _empty, "copy_reg._reconstructor": _empty,
    "builtins.object": _Kept, "__builtin__.object": _Kept,
    "_codecs.encode": _latin1,
}


class _Reader(pickle._Unpickler):  # type: ignore[name-defined,misc]  # the one in Python, whose steps can be replaced
    """An unpickler for which no name means what it says."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]
    stack: list[Any]

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self._source = file

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get(f"{module}.{name}")
        if found is None:
            raise _Refused(f"the pickle asks for {module}.{name}, which no k-means needs")
        return found

    def load_build(self) -> None:
        """Set the state of an object; where it is joblib's wrapper, put the array that follows in its place."""
        state = self.stack.pop()
        kept = self.stack[-1]
        if not isinstance(kept, _Kept):
            raise _Refused(f"the pickle sets the state of a {type(kept).__name__}")
        kept.state = state
        if isinstance(kept, _Wrapper):
            self.stack[-1] = kept.read(self._source)

    dispatch[pickle.BUILD[0]] = load_build


def _decompressed(content: bytes) -> bytes:
    """Undo the compression that joblib may have used; told by the first bytes."""
    opener: Any
    if content.startswith((b"\x1f\x8b", b"\x78")):
        opener = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    elif content.startswith(b"BZ"):
        opener = bz2.BZ2Decompressor()
    elif content.startswith((b"\xfd7zXZ", b"\x5d\x00")):
        opener = lzma.LZMADecompressor()
    else:
        return content
    found = opener.decompress(content, _MOST_BYTES)
    if not opener.eof:
        raise ValueError("the compressed file is cut short or far too large")
    return bytes(found)
