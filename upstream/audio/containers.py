"""Audio files opened where they are: also those inside another file, members of a tar or values of a Parquet file, and
MP3s that do not say how long they are."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import soundfile

from upstream.audio.mpeg import missing_header

MP3_FORMATS = ("MP3", "MPEG")  # as different versions of libsndfile call it


@contextlib.contextmanager
def open_audio(path: Path, offset: int | None = None, size: int | None = None) -> Iterator[soundfile.SoundFile]:
    """Open an audio file, or the one that lies at `offset` in `path` and has `size` bytes.

    Raises:
        soundfile.SoundFileError, OSError: it is not there or no audio.
    """
    with contextlib.ExitStack() as stack:
        source: Any = path if offset is None else stack.enter_context(_Inside(path, offset, size or 0))
        file = stack.enter_context(soundfile.SoundFile(source))
        if file.format in MP3_FORMATS and (lacks := _lacks(path, offset, size, file.frames)) is not None:
            header, first, length = lacks
            file = stack.enter_context(soundfile.SoundFile(stack.enter_context(_Inside(path, first, length, header))))
        yield file


@contextlib.contextmanager
def open_content(content: bytes) -> Iterator[soundfile.SoundFile]:
    """Open the bytes of an audio file. Raises soundfile.SoundFileError where they are none."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(soundfile.SoundFile(io.BytesIO(content)))
        if file.format in MP3_FORMATS and (lacks := missing_header(content, 0, len(content), file.frames)) is not None:
            header, first = lacks
            file = stack.enter_context(soundfile.SoundFile(io.BytesIO(header + content[first:])))
        yield file


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


def _lacks(path: Path, offset: int | None, size: int | None, said: int) -> tuple[bytes, int, int] | None:
    """The header that an MP3 lacks, and place and length of what to read behind it; None where it lacks none."""
    status = os.stat(path)
    return _made(path, offset, size, said, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1024)  # many spans are read of a long recording
def _made(path: Path, offset: int | None, size: int | None, said: int, state: Any) -> tuple[bytes, int, int] | None:
    with open_bytes(path, offset, size) as (content, begin, end):
        found = missing_header(content, begin, end, said)
        return None if found is None else (*found, end - found[1])


class _Inside(io.RawIOBase):
    """`size` bytes of a file from `offset` on, behind some of our own, as a file that can only be read."""

    def __init__(self, path: Path, offset: int, size: int, header: bytes = b"") -> None:
        self._file = open(path, "rb", buffering=0)
        self._header = header
        self._offset, self._size, self._at = offset - len(header), size + len(header), 0

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
        found = self._header[self._at:self._at + wanted] or os.pread(self._file.fileno(), wanted,
                                                                    self._offset + self._at)
        buffer[:len(found)] = found
        self._at += len(found)
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()
