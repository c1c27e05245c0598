"""Audio files that lie inside another file, members of a tar or values of a Parquet file: read where they are."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile


@contextlib.contextmanager
def open_audio(path: Path, offset: int | None = None, size: int | None = None) -> Iterator[soundfile.SoundFile]:
    """Open an audio file, or the one that lies at `offset` in `path` and has `size` bytes.

    Raises:
        soundfile.SoundFileError, OSError: it is not there or no audio.
    """
    with contextlib.ExitStack() as stack:
        source: Any = path if offset is None else stack.enter_context(_Inside(path, offset, size or 0))
        yield stack.enter_context(soundfile.SoundFile(source))


@contextlib.contextmanager
def open_bytes(path: Path, offset: int | None = None, size: int | None = None) -> Iterator[tuple[mmap.mmap, int, int]]:
    """The bytes of a file that is not empty, mapped, with begin and end of the audio file in them. Raises OSError."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        begin = offset or 0
        yield content, begin, len(content) if offset is None else min(len(content), begin + (size or 0))


def place(path: Path, offset: int | None, size: int | None) -> str:
    """Where an audio file lies, in words."""
    return str(path) if offset is None else f"{path} (the {size} bytes from byte {offset})"


def reason(error: Exception, path: Path) -> str:
    """Why opening a file failed, without its name: libsndfile's sentence, but where it may not be read."""
    if not os.access(path, os.R_OK):
        return "no permission"  # libsndfile says: System error
    return str(getattr(error, "error_string", error)).rstrip(".")


class _Inside(io.RawIOBase):
    """`size` bytes of a file from `offset` on, as a file of their own that can only be read."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = open(path, "rb", buffering=0)
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + to)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._size - self._at))
        found = os.pread(self._file.fileno(), wanted, self._offset + self._at)
        buffer[:len(found)] = found
        self._at += len(found)
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()
