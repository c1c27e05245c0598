"""Is the pretraining broken? What its log says, in plain sentences, with what to do.

Thresholds come from runs that went well and from reports of runs that did not (fairseq issues 4742, 4312 and 5453,
fairseq pull request 4521). Losses are in nats, summed over label streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from upstream.training.reference import Reference

SETTLED = 300  # updates before which a loss says nothing
NOTHING_TO_LEARN = 0.05  # nats: no real labels are that predictable
STUCK_WITHIN = 0.02  # of the label entropy, as a share of it
COLLAPSED_SHARE = 0.2  # of the best code perplexity so far
RISEN_BY = 0.05  # validation loss over its own minimum, as a share
PATIENCE = 8000  # updates of a warm-up that a loss may wait for
DIVERGED = 1.15  # loss over its own minimum
BEHIND = 0.25  # of what the reference had learnt
SLOW_LOADER = 0.1  # share of the time spent waiting

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that a log says. `broken` runs should be stopped; a `warning` can wait; a `note` is no trouble."""

    topic: Literal["empty labels", "misfit labels", "collapse", "divergence", "behind", "overfitting",
                   "unmasked frames", "loader"]
    level: Literal["broken", "warning", "note"]
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level}: {self.what}; {self.advice}"


def examine(train: Sequence[Record], valid: Sequence[Record], reference: Reference | None = None,
            first_round: bool = True) -> list[Finding]:
    """What the records of `metrics.jsonl` say about a pretraining, the worst first.

    Args:
        train: records of kind `train`: `update`, `loss`, and `rate` and `waiting_share` if known.
        valid: records of kind `valid`: `update`, `loss`, and where known `unmasked_accuracy`, `code_perplexity`
            (classes in use by the predictions) and `label_entropy` (of the label histogram, what knowing nothing of the
            audio costs).
        reference: a run of such an encoder that went well.
        first_round: whether the teacher knows no encoder: then unmasked frames are forgotten, and that is normal.
    """
    found = [*_labels(train, valid), *_collapse(valid), *_divergence(train), *_behind(train, valid, reference),
             *_generalisation(train, valid), *_unmasked(valid, first_round), *_loader(train)]
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
    entropy = _entropy(valid)
    if entropy and _settled(losses) and newest["loss"] > (1 - STUCK_WITHIN) * entropy:
        yield Finding("misfit labels", "broken",
                      f"after {newest['update']} updates the loss, {newest['loss']:.2f} nats, is still what "
                      f"the label histogram alone gives ({entropy:.2f})",
                      "the labels do not fit the audio (another manifest, another rate, shifted?), or the learning "
                      "rate is far too low")


def _entropy(valid: Sequence[Record]) -> float | None:
    return next((r["label_entropy"] for r in reversed(valid) if "label_entropy" in r), None)


def _settled(records: Sequence[Record]) -> bool:
    """Whether the loss says something yet: not while a warm-up has the rate still near nothing."""
    rates = [r["rate"] for r in records if "rate" in r]
    rising = len(rates) > 1 and rates[-1] == max(rates) and rates[-1] > rates[-2]
    return records[-1]["update"] >= (PATIENCE if rising else SETTLED)


def _collapse(valid: Sequence[Record]) -> Iterator[Finding]:
    codes = [r["code_perplexity"] for r in valid if "code_perplexity" in r]
    if len(codes) > 1 and codes[-1] < COLLAPSED_SHARE * max(codes):
        yield Finding("collapse", "broken",
                      f"the predictions use {codes[-1]:.0f} classes, once they used {max(codes):.0f}: the "
                      "model has collapsed",
                      "go back to an earlier checkpoint with a lower training.optimiser.peak_rate or a longer warm-up")


def _divergence(train: Sequence[Record]) -> Iterator[Finding]:
    losses = [r["loss"] for r in train if "loss" in r]
    if len(losses) < 6:
        return
    least, newest = min(losses), min(losses[-3:])  # three in a row, so that no odd batch counts
    if train[-1]["update"] >= SETTLED and newest > DIVERGED * least and newest - least > NOTHING_TO_LEARN:
        yield Finding("divergence", "broken",
                      f"the training loss rose from {least:.2f} to {newest:.2f} nats",
                      "the learning rate is too high: go back to an earlier checkpoint with a lower "
                      "training.optimiser.peak_rate or a lower clip_norm; if that does not help, use precision=float32")


def _behind(train: Sequence[Record], valid: Sequence[Record], reference: Reference | None) -> Iterator[Finding]:
    """Compared is the share of the labels' entropy that was learnt: labels of another corpus have another entropy."""
    losses, entropy = [r for r in train if "loss" in r], _entropy(valid)
    if reference is None or not losses or not entropy or not _settled(losses):
        return
    update, loss = reference.at(losses[-1]["update"])
    theirs, ours = 1 - loss / reference.label_entropy, 1 - losses[-1]["loss"] / entropy
    if STUCK_WITHIN <= ours < BEHIND * theirs:
        yield Finding("behind", "warning",
                      f"after {losses[-1]['update']} updates {100 * ours:.0f}% of the labels' entropy is learnt; "
                      f"{reference.name} on synthesised speech had learnt {100 * theirs:.0f}% at update {update}, with "
                      f"{reference.batch_seconds:g} s of audio an update",
                      "with more audio or noisier recordings that may be so; with a peak rate or batches far below the "
                      "recipe's, raise them; otherwise listen to what is trained on, and look at the units")


def _generalisation(train: Sequence[Record], valid: Sequence[Record]) -> Iterator[Finding]:
    losses = [r["loss"] for r in valid if "loss" in r]
    if len(losses) < 3 or len(train) < 2 or losses[-1] < (1 + RISEN_BY) * min(losses):
        return
    if train[-1].get("loss", math.inf) < train[0].get("loss", -math.inf):
        yield Finding("overfitting", "warning",
                      f"the validation loss rose from {min(losses):.2f} to {losses[-1]:.2f} nats while the "
                      "training loss fell",
                      "more data, a smaller model or fewer updates; make sure that one teacher labelled both parts")


def _unmasked(valid: Sequence[Record], first_round: bool) -> Iterator[Finding]:
    accuracies = [r["unmasked_accuracy"] for r in valid if "unmasked_accuracy" in r]
    if len(accuracies) < 2 or accuracies[-1] >= 0.9 * max(accuracies):
        return
    what = f"the accuracy on unmasked frames fell from {max(accuracies):.3f} to {accuracies[-1]:.3f}"
    if first_round:
        yield Finding("unmasked frames", "note", what, "in round 1 that is normal: the loss is on masked frames only "
                      "(an author's answer in fairseq issue 4742)")
    else:
        yield Finding("unmasked frames", "warning", what, "in a later round it should stay well above that on masked "
                      "ones; if the masked accuracy falls too, lower the learning rate, and otherwise see whether the "
                      "teacher read the layer that you meant")


def _loader(train: Sequence[Record]) -> Iterator[Finding]:
    waits = [r["waiting_share"] for r in train[-5:] if "waiting_share" in r]
    if len(waits) == 5 and min(waits) > SLOW_LOADER:
        yield Finding("loader", "warning",
                      f"{100 * min(waits):.0f}% of the time goes into waiting for audio",
                      "convert it to FLAC at 16 kHz, or put it on a faster disk")
