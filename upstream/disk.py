"""Files that are there whole or not at all, hashes of what they hold, and what is wrong with a disk, in a line."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, Literal

import numpy as np
from safetensors import SafetensorError

from upstream.errors import FormatError, HubertkitError, UsageError

TEMPORARY = re.compile(r"\..*\.\d+(\.[0-9a-f]{8})?\.tmp")  # what `writing` was interrupted at


def path_given(value: object, name: str) -> Path:
    """The path that a program gave as the argument `name`. Raises UsageError for what is none, such as None."""
    if isinstance(value, str | os.PathLike):
        return Path(value)
    raise UsageError(f"{name}={value!r:.60}: expected a path, as text or a Path")


def check_out(path: Path) -> Path:
    """The path of a file to be written, to be asked before an hour's work; UsageError if nothing can be renamed to it:
    a folder, a device or a pipe."""
    if path.exists() and not path.is_file():  # a rename would put a file in the place of a device or fail on a folder
        raise UsageError(f"{path}: {'a folder' if path.is_dir() else 'no ordinary file'}; give the name of a file to "
                         "write")
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The file is flushed to disk before the rename, so a reader sees the old file or the whole new one, never a part.

    Raises:
        UsageError: `path` is a folder, a device or a pipe.
    """
    path = check_out(Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # In containers that share a folder many a process has number 1.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors makes files that their owner alone may read
        yield temporary
        temporary.chmod(mode)
        _flush(temporary)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Give temporary paths beside files that belong together; a full disk leaves all that were there.

    They are renamed when all are written and flushed, in this order. The last one is the file that readers ask for
    first: the old one goes before the first rename, so nobody reads it beside others.

    Raises:
        UsageError: one of the paths is a folder, a device or a pipe.
    """
    with contextlib.ExitStack() as stack:
        temporaries = [stack.enter_context(writing(path)) for path in reversed(paths)][::-1]
        yield temporaries
        for temporary in temporaries:
            _flush(temporary)
        paths[-1].unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder or a missing permission into one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = disk_reason(_as_os_error(error), where)
        if reason is None:
            raise
        raise HubertkitError(reason) from error


def _as_os_error(error: OSError | SafetensorError) -> OSError:
    """safetensors wraps the system's errors and leaves their number in the text: `... (os error 28)`."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]) if number else 0, str(error))


def disk_reason(error: OSError, where: Path | None = None) -> str | None:
    """What is wrong with the disk and what to do, in a line; None for errors that say something else."""
    advice = {errno.ENOSPC: "the disk is full; free some space and run the same command again",
              errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
              errno.ENOENT: "there is no such folder, and none can be made there; give another",
              errno.EIO: "the disk failed (input/output error); look at the system's log, and run the same command "
                         "again once it answers",
              errno.EFBIG: "the file is larger than is allowed here (ulimit -f, or the file system); raise the limit "
                           "and run the same command again",
              errno.ESTALE: "the network file system lost the file; run the same command again once it answers",
              errno.EROFS: "the file system is read-only; give another folder",
              errno.EACCES: "no permission; give another file or folder",
              errno.ENAMETOOLONG: "the name is too long for the file system; give a shorter one",
              errno.ENOTDIR: "a file stands where a folder is needed; give another folder",
              errno.EEXIST: "a file stands where a folder is needed; give another folder"}.get(error.errno or 0)
    return None if advice is None else f"{error.filename or where or 'disk'}: {advice}"


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; numbers that JSON has no words for (NaN, infinity) are refused."""
    with writing(path) as temporary:
        temporary.write_text(json_text(content), encoding="utf-8")


def json_text(content: Any) -> str:
    """What `write_json` writes. Raises ValueError for numbers that JSON has no words for."""
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def load_array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """As `np.load` without pickles. Raises ValueError for every header that is damaged, half of it zeros, too."""
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (TokenError, SyntaxError) as error:
        raise ValueError(f"{path}: the header is damaged") from error


def save_array(file: BinaryIO, array: np.ndarray) -> None:
    """As `np.save`, which drops the number of the system's error, so that nobody can tell a full disk."""
    content = io.BytesIO()
    np.save(content, array)
    file.write(content.getbuffer())


def check_json(values: dict[str, Any], where: Path) -> None:
    """Raise UsageError naming a key whose value JSON cannot hold: asked before a byte of what it describes is written.

    Args:
        where: the file that is to hold them.
    """
    for name, value in values.items():
        try:
            json.dumps({name: value}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{where}: {name} cannot be written as JSON ({error}); give strings, finite numbers, "
                             "lists and dictionaries") from error


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises FormatError naming the file where it is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of thousands of digits
        raise FormatError(f"{path}: not JSON ({error})") from error


def content_hash(content: Any) -> str:
    """Hash of plain values: the same for the same values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    return part_hash(path)


def part_hash(path: Path, offset: int = 0, size: int | None = None) -> str:
    """sha256 (hex) of a file's bytes from `offset` on, of so many or of all."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(offset)
        while block := file.read(1 << 20 if size is None else min(1 << 20, size)):
            digest.update(block)
            size = None if size is None else size - len(block)
    return digest.hexdigest()


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())


def remove(path: Path) -> None:
    """A file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Make a rename last; nothing where the file system cannot flush folders, as some that are shared cannot."""
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
