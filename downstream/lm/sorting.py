"""Sort more records than memory holds: sorted runs in a file, merged block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Combine = Callable[[np.ndarray], np.ndarray]


class Sorter:
    """Takes records in any order and gives them back sorted by their field `key`.

    Nothing is written as long as the records fit into the memory allowed.
    """

    def __init__(self, path: Path, memory: int, combine: Combine | None = None) -> None:
        """Make an empty one.

        Args:
            path: of the file of runs; removed when all records have been given back.
            memory: bytes that it may take, copies made while sorting included.
            combine: makes one record of sorted records with equal keys. Without it all keys must differ.
        """
        self._path = path
        self._memory = memory
        self._combine = combine or (lambda records: records)
        self._held: list[np.ndarray] = []
        self._runs: list[_Run] = []

    def add(self, records: np.ndarray) -> None:
        """Take records: a structured array with a field `key`."""
        self._held.append(records)
        if 4 * sum(part.nbytes for part in self._held) > self._memory:  # the sorted copy, its parts and the order
            self._spill()

    def blocks(self) -> Iterator[np.ndarray]:
        """All records, sorted, some at a time; once only."""
        if not self._runs:
            if self._held:
                yield self._sorted(np.concatenate(self._held))
            self._held = []
            return
        if self._held:
            self._spill()
        yield from self._merged()
        self._path.unlink()

    def _sorted(self, records: np.ndarray) -> np.ndarray:
        self._held = []
        order = np.argsort(records["key"], kind="stable")  # which merges runs that are sorted already
        return self._combine(records[order])

    def _spill(self) -> None:
        records = self._sorted(np.concatenate(self._held))
        with open(self._path, "ab") as file:
            self._runs.append(_Run(self._path, file.tell(), len(records), records.dtype))
            file.write(records.view(np.uint8).data)

    def _merged(self) -> Iterator[np.ndarray]:
        """Up to the least of the last keys of the runs' blocks no record is missing: so much can be given.

        What is half used is filled up. Runs that were filled one by one, each when it was empty, would drift apart
        until every step gave no more than one of them: as many steps as the square of the runs.
        """
        rows = max(1, self._memory // (5 * self._runs[0].dtype.itemsize * len(self._runs)))
        runs, heads = self._runs, [run.read(rows) for run in self._runs]
        while runs:
            ends = [head["key"][-1] for run, head in zip(runs, heads) if run.left]
            cuts = [len(head) if not ends else int(np.searchsorted(head["key"], min(ends), side="right"))
                    for head in heads]
            yield self._sorted(np.concatenate([head[:cut] for head, cut in zip(heads, cuts)]))
            heads = [run.filled(head[cut:], rows) for run, head, cut in zip(runs, heads, cuts)]
            left = [i for i, head in enumerate(heads) if len(head)]
            runs, heads = [runs[i] for i in left], [heads[i] for i in left]


@dataclass
class _Run:
    """Sorted records in a file, from `offset` (bytes), of which `left` have not been read."""

    path: Path
    offset: int
    left: int
    dtype: np.dtype

    def filled(self, head: np.ndarray, rows: int) -> np.ndarray:
        """What is left of `rows` that were read, with more behind it unless it is over half of them."""
        return head if 2 * len(head) > rows else np.concatenate([head, self.read(rows - len(head))])

    def read(self, rows: int) -> np.ndarray:
        found = np.fromfile(self.path, self.dtype, min(rows, self.left), offset=self.offset)
        self.offset += found.nbytes
        self.left -= len(found)
        return found
