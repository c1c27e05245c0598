"""Is the pretraining broken? What its log says, in plain sentences, with what to do.

Thresholds come from runs that went well and from reports of runs that did not (fairseq issues 4742, 4312 and 5453,
fairseq pull request 4521). Losses are in nats over one label stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SETTLED = 300  # updates before which a loss says nothing
NOTHING_TO_LEARN = 0.05  # nats: no real labels are that predictable
STUCK_WITHIN = 0.02  # of the label entropy, as a share of it
COLLAPSED_SHARE = 0.2  # of the best code perplexity so far
RISEN_BY = 0.05  # validation loss over its own minimum, as a share
SLOW_LOADER = 0.1  # share of the time spent waiting

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that a log says. `broken` runs should be stopped; a `warning` can wait; a `note` is no trouble."""

    topic: Literal["empty labels", "misfit labels", "collapse", "overfitting", "unmasked frames", "loader"]
    level: Literal["broken", "warning", "note"]
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level}: {self.what}; {self.advice}"


def examine(train: Sequence[Record], valid: Sequence[Record]) -> list[Finding]:
    """What the records of `metrics.jsonl` say about a pretraining, the worst first.

    Args:
        train: records of kind `train`: `update`, `loss`, and `waiting_share` if known.
        valid: records of kind `valid`: `update`, `loss`, and where known `unmasked_accuracy`, `code_perplexity`
            (classes in use by the predictions) and `label_entropy` (of the label histogram, what knowing nothing of the
            audio costs).
    """
    found = [*_labels(train, valid), *_collapse(valid), *_generalisation(train, valid), *_unmasked(valid),
             *_loader(train)]
    return sorted(found, key=lambda finding: ("broken", "warning", "note").index(finding.level))


def bits(nats: float) -> float:
    """Nats to bits, the unit that fairseq logs."""
    return nats / math.log(2)


def _labels(train: Sequence[Record], valid: Sequence[Record]) -> Iterator[Finding]:
    losses = [r for r in train if "loss" in r]
    if not losses:
        return
    newest = losses[-1]
    if newest["loss"] < NOTHING_TO_LEARN:
        yield Finding("empty labels", "broken",
                      f"the loss is {newest['loss']:.3f} nats after {newest['update']} updates: the labels "
                      "can be guessed without hearing anything",
                      "look at the units' histogram; are they of one class, or empty?")
    entropy = next((r["label_entropy"] for r in reversed(valid) if "label_entropy" in r), None)
    if entropy and newest["update"] >= SETTLED and newest["loss"] > (1 - STUCK_WITHIN) * entropy:
        yield Finding("misfit labels", "broken",
                      f"after {newest['update']} updates the loss, {newest['loss']:.2f} nats, is still what "
                      f"the label histogram alone gives ({entropy:.2f})",
                      "the labels do not fit the audio (another manifest, another rate, shifted?), or the learning "
                      "rate is far too low")


def _collapse(valid: Sequence[Record]) -> Iterator[Finding]:
    codes = [r["code_perplexity"] for r in valid if "code_perplexity" in r]
    if len(codes) > 1 and codes[-1] < COLLAPSED_SHARE * max(codes):
        yield Finding("collapse", "broken",
                      f"the predictions use {codes[-1]:.0f} classes, once they used {max(codes):.0f}: the "
                      "model has collapsed",
                      "go back to an earlier checkpoint with a lower training.optimiser.peak_rate or a longer warm-up")


def _generalisation(train: Sequence[Record], valid: Sequence[Record]) -> Iterator[Finding]:
    losses = [r["loss"] for r in valid if "loss" in r]
    if len(losses) < 3 or len(train) < 2 or losses[-1] < (1 + RISEN_BY) * min(losses):
        return
    if train[-1].get("loss", math.inf) < train[0].get("loss", -math.inf):
        yield Finding("overfitting", "warning",
                      f"the validation loss rose from {min(losses):.2f} to {losses[-1]:.2f} nats while the "
                      "training loss fell",
                      "more data, a smaller model or fewer updates; make sure that one teacher labelled both parts")


def _unmasked(valid: Sequence[Record]) -> Iterator[Finding]:
    accuracies = [r["unmasked_accuracy"] for r in valid if "unmasked_accuracy" in r]
    if len(accuracies) > 1 and accuracies[-1] < 0.9 * max(accuracies):
        yield Finding("unmasked frames", "note",
                      f"the accuracy on unmasked frames fell from {max(accuracies):.3f} to "
                      f"{accuracies[-1]:.3f}",
                      "that is normal: the loss is on masked frames only (an author's answer in fairseq issue 4742)")


def _loader(train: Sequence[Record]) -> Iterator[Finding]:
    waits = [r["waiting_share"] for r in train[-5:] if "waiting_share" in r]
    if len(waits) == 5 and min(waits) > SLOW_LOADER:
        yield Finding("loader", "warning",
                      f"{100 * min(waits):.0f}% of the time goes into waiting for audio",
                      "convert it to FLAC at 16 kHz, or put it on a faster disk")
