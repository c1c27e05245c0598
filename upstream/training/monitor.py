"""What one sees of a training run: progress on stderr, `metrics.jsonl`, TensorBoard, Weights & Biases if asked for."""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from upstream import ranks
from upstream.disk import read_json, write_json, writing
from upstream.errors import UsageError
from upstream.progress import say
from upstream.training.health import bits

WORTH_SAYING = 0.01  # share of the time spent waiting for batches, in a progress line

SKIPPED = "skipped.jsonl"  # updates that were not finite, and their utterances


class Monitor:
    """Logs of one run folder. After a resume the log is cut back to the checkpoint, so no update stands there twice.

    Of several ranks only the first writes.

    Args:
        update: of the checkpoint that the run goes on from; 0 for a new one.
        wandb: project of Weights & Biases to log to as well; none if empty.

    Raises:
        UsageError: `wandb` is asked for and not installed.
    """

    def __init__(self, folder: Path, update: int, wandb: str = "") -> None:
        self._writes = ranks.first()
        if not self._writes:
            return
        self.path = folder / "metrics.jsonl"
        self._wandb = _wandb_run(folder, wandb) if wandb else None
        cut_back(self.path, update)
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1)
        self._file = open(self.path, "a", encoding="utf-8")

    def log(self, update: int, kind: str, values: Mapping[str, Any]) -> None:
        """Record numbers of one update, those that are finite; `kind` is `train` or `valid`."""
        if not self._writes:
            return
        values = finite_ones(values)
        self._file.write(json.dumps({"update": update, "kind": kind, **values}) + "\n")
        self._file.flush()
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        for name, value in numbers.items():
            self._board.add_scalar(name, value, update)
        if self._wandb is not None:
            self._wandb.log(numbers, step=update)

    def close(self) -> None:
        if not self._writes:
            return
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def finite_ones(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without numbers that are not finite: JSON has no words for them, and nothing compares with them."""
    return {k: v for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}


def check_wandb(project: str) -> Any:
    """The package that logs to a project, None for no project. Raises UsageError where it is not installed: to be asked
    before a run of hours, at the end of which the training that wants it may be."""
    if not project:
        return None
    try:
        return import_module("wandb")
    except ImportError as error:
        raise UsageError(f"training.wandb={project}: the package wandb is not installed; `pip install wandb`, or leave "
                         "training.wandb out") from error


def _wandb_run(folder: Path, project: str) -> Any:
    """The run of this folder, the same one after a resume."""
    wandb = check_wandb(project)
    path = folder / "wandb.json"
    if not path.is_file():
        write_json(path, {"id": secrets.token_hex(8)})
    return wandb.init(project=project, id=read_json(path)["id"], name="/".join(folder.resolve().parts[-3:]),
                      dir=str(folder), resume="allow")


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
        self._waited += max(0.0, time.monotonic() - began)

    def take(self) -> dict[str, float]:
        """Since the last call; starts anew. Of several ranks the longest wait counts: the others wait for that one."""
        seconds = time.monotonic() - self._began
        audio, waited = ranks.total(self._audio), max(ranks.gather(self._waited))
        found = {"audio_seconds_per_second": round(audio / seconds, 1) if seconds > 0 else 0.0,
                 "waiting_share": round(min(1.0, waited / seconds), 4) if seconds > 0 else 0.0}
        self._audio = self._waited = 0.0
        self._began = time.monotonic()
        return found


def describe(values: Mapping[str, Any]) -> str:
    """`loss 3.240 nats (4.67 bits), masked 20.1%, 63 codes`: metrics for a progress bar or a line."""
    return ", ".join(_WORDS[k](v) if k in _WORDS else f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                     for k, v in values.items())


_WORDS: dict[str, Callable[[float], str]] = {
    "loss": lambda nats: f"loss {nats:.3f} nats ({bits(nats):.2f} bits)",
    "masked_accuracy": lambda share: f"masked {100 * share:.1f}%",
    "unmasked_accuracy": lambda share: f"unmasked {100 * share:.1f}%",
    "code_perplexity": lambda classes: f"{classes:.0f} codes",
    "gradient_norm": lambda norm: f"gradient {norm:.3g}",
    "audio_seconds_per_second": lambda rate: f"{rate:.4g} audio s/s",
    "waiting_share": lambda share: f"waiting {100 * share:.0f}%",
    "share_of_peak": lambda share: f"{100 * share:.0f}% of peak",
}


def progress_values(train: Mapping[str, Any], valid: Mapping[str, Any]) -> dict[str, Any]:
    """What a progress line shows: an update's numbers, and what only the newest validation knows."""
    of_validation = {k: valid[k] for k in ("unmasked_accuracy", "code_perplexity") if k in valid}
    first = {k: train[k] for k in ("loss", "masked_accuracy") if k in train}
    waiting = {} if train.get("waiting_share", 0) > WORTH_SAYING else {"waiting_share"}
    return {k: v for k, v in {**first, **of_validation, **train}.items() if k not in waiting}


def announce(update: int, values: Mapping[str, Any]) -> None:
    """A line of its own, for what should stay on the screen: a validation, if it measured anything."""
    if values:
        say(f"  update {update}: {describe(values)}")


def read_skipped(folder: Path) -> list[int]:
    """Updates of a training in `folder` that were not finite, in their order."""
    path = folder / SKIPPED
    return [record["update"] for record in _records(path)] if path.is_file() else []


def read_metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """All records of one kind in a run's log, oldest first; an unfinished last line is left out."""
    path = folder / "metrics.jsonl"
    return [r for r in _records(path) if r.get("kind") == kind] if path.is_file() else []


def cut_back(path: Path, update: int) -> None:
    """Leave only what a log of lines says up to an update: what a run that goes on from there will write again."""
    if path.is_file():
        kept = [r for r in _records(path) if r["update"] <= update]
        with writing(path) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")


def _records(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a machine which stopped left half-written or empty is named and left out."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict) and "update" in record:
            found.append(record)
        elif line:
            say(f"warning: {path}: line {number} is damaged and left out")
    return found
