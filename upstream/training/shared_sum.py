"""The sum of a vector over ranks of one machine, through memory that they share instead of messages.

A message over the loopback device is copied four times and wakes threads on cores that are busy; here each rank adds up
its slice of what all have written. Memory is that of a file whose name is taken away as soon as all have it: when the
last rank ends, however it ends, it is gone.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import sys
from pathlib import Path

import torch
from torch import Tensor

from upstream import ranks

FOLDER = Path("/dev/shm")  # files in memory, on Linux


class SharedSum:
    """Float32 vectors of one size, one of each rank, and their sum. Make it with `shared_sum`.

    Args:
        memory: ((ranks + 1) * size,) float32, the same on every rank.
        size: of a vector.

    Attributes:
        own: (size,) what this rank adds; write to it, then call `add_up`.
    """

    def __init__(self, memory: Tensor, size: int) -> None:
        rows = memory.view(ranks.count() + 1, size)
        self.own = rows[ranks.rank()]
        self._parts, self._total = rows[:-1], rows[-1]
        bounds = [size * rank // ranks.count() for rank in range(ranks.count() + 1)]
        self._slice = slice(bounds[ranks.rank()], bounds[ranks.rank() + 1])

    def add_up(self) -> Tensor:
        """The sum, (size,): the same memory for all ranks, so read it only, and before the next `add_up`.

        Raises:
            RankLost: another rank has died.
        """
        ranks.meet()  # all have written their vector, and have read the sum before
        torch.sum(self._parts[:, self._slice], 0, out=self._total[self._slice])
        ranks.meet()
        return self._total


def shared_sum(size: int) -> SharedSum | None:
    """A sum through shared memory; None on every rank if any has none with the first one, or there is no room.

    Raises:
        RankLost: another rank has died.
    """
    if ranks.count() == 1 or any(system != "linux" for system in ranks.gather(sys.platform)):
        return None
    path, length = FOLDER / f"hubertkit-{secrets.token_hex(16)}", 4 * size * (ranks.count() + 1)
    try:
        made, word = ranks.gather((str(path), _made(path, length)) if ranks.first() else ("", None))[0]
        memory = _mapped(made, length, word) if word is not None else None
        everybody = all(ranks.gather(memory is not None))
    finally:
        if ranks.first():
            path.unlink(missing_ok=True)
    return SharedSum(memory, size) if everybody and memory is not None else None


def _made(path: Path, length: int) -> bytes | None:
    """Make a file of so many bytes, all of them there to be written; gives what stands at its beginning.

    None where that cannot be.
    """
    word = secrets.token_bytes(4)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return None
    try:
        os.posix_fallocate(descriptor, 0, length)  # or the first write beyond the room would kill the process
        os.pwrite(descriptor, word, 0)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    finally:
        os.close(descriptor)
    return word


def _mapped(path: str, length: int, word: bytes) -> Tensor | None:
    """The file's memory as float32; None where there is no such file: on another machine, or in another container."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_size != length or os.pread(descriptor, len(word), 0) != word:
            return None
        memory = mmap.mmap(descriptor, length)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return torch.frombuffer(memory, dtype=torch.float32)
