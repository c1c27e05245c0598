"""Torch files of others, read without running anything of their pickles, and written.

A pickle names functions and classes and has them called. torch's own restricted unpickler knows tensors and plain
containers; here it is given stand-ins for the few further classes that fairseq's files name. They keep what they are
given and do nothing. Every other name is refused, before anything is called.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from upstream.errors import FormatError, UsageError


class Dictionary:
    """Stands for `fairseq.data.dictionary.Dictionary`: `symbols` in the order of their ids."""

    symbols: list[str]


class _Kept:
    """Stands for a class or function of which nothing is needed: keeps its state."""

    def __new__(cls, *_: Any, **__: Any) -> _Kept:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class _Namespace(_Kept):
    """Stands for `argparse.Namespace`."""


class _Container(_Kept):
    """Stands for omegaconf's dictionaries and lists: `_content` holds nodes."""


class _Node(_Kept):
    """Stands for omegaconf's leaves: `_val` holds the value."""


def _empty(*_: Any) -> dict[Any, Any]:
    """Stands for `collections.defaultdict`."""
    return {}


_ALLOWED: dict[str, Callable[..., Any]] = {
    "fairseq.data.dictionary.Dictionary": Dictionary,
    "argparse.Namespace": _Namespace,
    "omegaconf.dictconfig.DictConfig": _Container,
    "omegaconf.listconfig.ListConfig": _Container,
    **{f"omegaconf.nodes.{kind}Node": _Node for kind in ("Any", "String", "Integer", "Float", "Boolean", "Enum")},
    **{f"omegaconf.base.{name}": _Kept for name in ("ContainerMetadata", "Metadata", "SCMode")},
    **{f"fairseq.meters.{kind}Meter": _Kept for kind in ("Average", "Time", "Stopwatch")},
    **{f"numpy.{core}.multiarray.scalar": _Kept for core in ("core", "_core")},
    "numpy.dtype": _Kept,
    "typing.Any": _Kept,
    "collections.defaultdict": _empty,
    **{f"builtins.{name}": _Kept for name in ("dict", "list", "str", "int", "float", "bool")},  # types in its metadata
}


def write_torch_file(path: Path, content: Any, pickle_module: Any = pickle) -> None:
    """As `torch.save`, whose errors do not say that a disk is full."""
    file = io.BytesIO()
    torch.save(content, file, pickle_module=pickle_module)
    # Not `write_bytes`: the traceback of a write that fails holds a view of the bytes, and Python 3.12.1 crashes when
    # it collects that.
    with file.getbuffer() as written, path.open("wb") as target:
        target.write(written)


def read_torch_file(path: Path) -> Any:
    """The contents of a file that `torch.save` wrote: tensors on the host, containers, and the stand-ins.

    Raises:
        UsageError: no such file.
        FormatError: not such a file, cut short, or a pickle that names a class outside the allow-list, which the
            message names; nothing of it is run. Or tensors that stand for more numbers than the file could hold.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    content = _unpickled(path)
    _refuse_repeated(content, path)
    return content


def _unpickled(path: Path) -> Any:
    try:
        return _load(path)
    except pickle.UnpicklingError:
        pass  # a name that torch itself does not know: try again with the stand-ins
    except Exception as error:  # a broken file fails in any way that there is
        raise _broken(path, error) from error
    try:
        with torch.serialization.safe_globals([(kept, name) for name, kept in _ALLOWED.items()]):
            return _load(path)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        if name is None:
            raise _broken(path, error) from error
        raise FormatError(f"{path}: its pickle asks for {_full_name(name[1])}, which no checkpoint needs; nothing of "
                          "it was run. If you trust the file, load it where it was made and save its tensors alone"
                          ) from error
    except Exception as error:
        raise _broken(path, error) from error


def plain(value: Any) -> Any:
    """Nested settings as JSON has them: namespaces and omegaconf's containers become dictionaries and lists, whatever
    else there is becomes text."""
    if isinstance(value, _Container):
        return plain(vars(value).get("_content"))
    if isinstance(value, _Node):
        return plain(vars(value).get("_val"))
    if isinstance(value, _Namespace | Namespace):
        return {key: plain(item) for key, item in vars(value).items()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    known = value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if known else str(value)


def _refuse_repeated(content: Any, path: Path) -> None:
    """Raise FormatError where tensors whose numbers the file repeats (strides of 0, sparse ones) would take more memory
    than the whole file: a kilobyte may stand for terabytes, that a copy would ask for."""
    room, taken = path.stat().st_size, 0
    for name, tensor in _tensors(content):
        # Python's integers: the product of the sizes may be more than 64 bits hold
        wanted = math.prod(tensor.shape) * tensor.element_size()
        plainly = tensor.layout == torch.strided and not tensor.is_meta
        if wanted > (tensor.untyped_storage().nbytes() if plainly else 0):
            taken += wanted
            if taken > room:
                raise FormatError(f"{path}: {name} stands for {wanted:,} bytes, of a file of {room:,}: it repeats what "
                                  "is stored, and is not read. If you trust the file, load it where it was made and "
                                  "save contiguous copies of its tensors")


def _tensors(content: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in nested containers and stand-ins, as often as they stand there, behind their dotted names; no
    container twice."""
    seen: set[int] = set()
    waiting = [("", content)]
    while waiting:
        name, found = waiting.pop()
        if isinstance(found, torch.Tensor):
            yield name.lstrip(".") or "its tensor", found
            continue
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, dict):
            waiting += [(f"{name}.{key}", value) for key, value in found.items()]
        elif isinstance(found, list | tuple | set):
            waiting += [(f"{name}.{place}", value) for place, value in enumerate(found)]
        elif isinstance(found, _Kept | Dictionary):
            waiting.append((name, vars(found)))


def _load(path: Path) -> Any:
    # Mapped files are read where tensors are used, so optimizer states, twice the weights, are not. Copies are made
    # of what is kept (`checkpoint.of_shape`).
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _full_name(name: str) -> str:
    """torch leaves `builtins.` out of what it refuses."""
    return name if "." in name else f"builtins.{name}"


def _broken(path: Path, error: Exception) -> FormatError:
    reason = " ".join(str(error).split())[:200]
    return FormatError(f"{path}: not a file of torch.save, or cut short ({reason or type(error).__name__})")
