"""One file of arrays, which processes map into memory and share: magic, length of the header, header (JSON), arrays.

Arrays begin at multiples of 64 bytes. Nothing is copied or parsed when the file is opened.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from downstream.given_files import check_lasting
from upstream.disk import disk_errors, writing
from upstream.errors import FormatError

_MAGIC = b"hubertkit arrays"
_VERSION = 1
_ALIGN = 64
_ADVICE = "; make it again with `hubertkit lm pack`"


def write_arrays(path: Path, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays and what JSON can say of them, atomically. Raises HubertkitError where the disk refuses."""
    offset, places = 0, {}
    for name, values in arrays.items():
        places[name] = [values.dtype.str, list(values.shape), offset]
        offset = _aligned(offset + values.nbytes)
    header = json.dumps({"version": _VERSION, "about": about, "arrays": places, "bytes": offset}).encode()
    start = _aligned(len(_MAGIC) + 8 + len(header))
    with disk_errors(Path(path).parent), writing(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(_MAGIC + len(header).to_bytes(8, "little") + header)
        for name, values in arrays.items():
            file.seek(start + places[name][2])
            file.write(np.ascontiguousarray(values).data)
        file.truncate(start + offset)


def holds_arrays(path: Path) -> bool:
    """Whether a file, whatever its name, begins as `write_arrays` writes it."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def map_arrays(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What was said of the arrays, and the arrays, mapped into memory; writing to them changes this process's copy.

    Raises:
        UsageError: no such file.
        FormatError: another kind or version of file, or one that was cut short.
    """
    path = Path(path)
    check_lasting(path, "no such file; `hubertkit lm pack` makes one of an ARPA file")
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise FormatError(f"{path}: no file of n-gram arrays; `hubertkit lm pack` makes one of an ARPA file")
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, path.stat().st_size)))
        except ValueError as error:
            raise FormatError(f"{path}: the header is damaged" + _ADVICE) from error
    if header.get("version") != _VERSION:
        raise FormatError(f"{path}: version {header.get('version')} of the format, this program reads {_VERSION}"
                          + _ADVICE)
    start = _aligned(len(_MAGIC) + 8 + length)
    if path.stat().st_size != start + header["bytes"]:
        raise FormatError(f"{path}: {path.stat().st_size} bytes, should be {start + header['bytes']}; cut short?"
                          + _ADVICE)
    whole = np.memmap(path, np.uint8, "c")  # as "r", but torch warns of arrays that must not be written to
    return header["about"], {name: _view(whole, start + offset, np.dtype(dtype), shape)
                             for name, (dtype, shape, offset) in header["arrays"].items()}


def _view(whole: np.ndarray, offset: int, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    return np.asarray(whole[offset:offset + size]).view(dtype).reshape(shape)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN
