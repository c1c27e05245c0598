"""What one sees of a training run: progress on stderr, `metrics.jsonl`, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from upstream import ranks
from upstream.progress import Report, say
from upstream.stage import writing


class Monitor:
    """Logs of one run folder. After a resume the log is cut back to the checkpoint, so no update stands there twice.

    Of several ranks only the first writes.
    """

    def __init__(self, folder: Path, update: int) -> None:
        self._writes = ranks.first()
        if not self._writes:
            return
        self.path = folder / "metrics.jsonl"
        _cut_back(self.path, update)
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1)
        self._file = open(self.path, "a", encoding="utf-8")

    def log(self, update: int, kind: str, values: Mapping[str, Any]) -> None:
        """Record numbers of one update; `kind` is `train` or `valid`."""
        if not self._writes:
            return
        self._file.write(json.dumps({"update": update, "kind": kind, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, update)

    def close(self) -> None:
        if not self._writes:
            return
        self._file.close()
        self._board.close()


class Speed:
    """Audio seconds a second, of all ranks together, and the share of the time spent waiting for batches."""

    def __init__(self) -> None:
        self._audio = self._waited = 0.0
        self._began = time.monotonic()

    def add(self, audio_seconds: float) -> None:
        self._audio += audio_seconds

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what happens inside as waiting."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def take(self) -> dict[str, float]:
        """Since the last call; starts anew. Of several ranks the longest wait counts: the others wait for that one."""
        seconds = max(1e-9, time.monotonic() - self._began)
        found = {"audio_seconds_per_second": round(ranks.total(self._audio) / seconds, 1),
                 "waiting_share": round(max(ranks.gather(self._waited)) / seconds, 4)}
        self._audio = self._waited = 0.0
        self._began = time.monotonic()
        return found


def describe(values: Mapping[str, Any]) -> str:
    """`loss 3.24, masked_accuracy 0.201`: metrics for a progress bar or a line."""
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def show(report: Report, update: int, values: Mapping[str, Any]) -> None:
    """Move the progress bar."""
    report(update, note=describe(values))


def announce(update: int, values: Mapping[str, Any]) -> None:
    """A line of its own, for what should stay on the screen: validation."""
    say(f"  update {update}: {describe(values)}")


def read_metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """All records of one kind in a run's log, oldest first; an unfinished last line is left out."""
    path = folder / "metrics.jsonl"
    return [r for r in _records(path) if r["kind"] == kind] if path.is_file() else []


def _records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _cut_back(path: Path, update: int) -> None:
    if path.is_file():
        kept = [r for r in _records(path) if r["update"] <= update]
        with writing(path) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
