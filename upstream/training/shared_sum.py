"""The sum of a vector over ranks of one machine, through memory that they share instead of messages.

A message over the loopback device is copied four times and wakes threads on cores that are busy; here each rank adds up
its slice of what all have written. Memory is that of a file without a name: when the last rank ends, however it ends,
it is gone.
"""

from __future__ import annotations

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
    """A sum through shared memory; None on every rank if any has none with the first one, or there is no room."""
    if ranks.count() == 1 or any(system != "linux" for system in ranks.gather(sys.platform)):
        return None
    path = FOLDER / f"hubertkit-{secrets.token_hex(16)}"  # on another machine nobody has this name
    length = 4 * size * (ranks.count() + 1)
    made = ranks.gather(str(path) if ranks.first() and _made(path, length) else "")[0]
    memory = _mapped(made, length) if made else None
    everybody = all(ranks.gather(memory is not None))
    if made and ranks.first():
        path.unlink()
    return SharedSum(memory, size) if everybody and memory is not None else None


def _made(path: Path, length: int) -> bool:
    """Whether there is now a file of so many bytes, all of them there to be written."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return False
    try:
        os.posix_fallocate(descriptor, 0, length)  # or the first write beyond the room would kill the process
    except OSError:
        path.unlink()
        return False
    finally:
        os.close(descriptor)
    return True


def _mapped(path: str, length: int) -> Tensor | None:
    try:
        return torch.from_file(path, shared=True, size=length // 4, dtype=torch.float32)
    except RuntimeError:  # no such file here: another machine
        return None
