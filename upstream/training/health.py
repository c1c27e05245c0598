"""Is the pretraining broken? What its log says, in plain sentences, with what to do.

Thresholds come from runs that went well and from reports of runs that did not (fairseq issues 4742, 4312 and 5453,
fairseq pull request 4521). Losses are in nats, summed over label streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from upstream.training.reference import Reference

SETTLED = 300  # updates before which a loss says nothing
BY_HEART_AFTER = 500  # updates before which a validation may lag behind
NOTHING_TO_LEARN = 0.05  # nats: no real labels are that predictable
STUCK_WITHIN = 0.02  # of the label entropy, as a share of it
COLLAPSED_SHARE = 0.2  # of the best code perplexity so far
BLOWN_UP = 3.0  # loss over the label entropy: one that has learnt nothing is near 1
RISEN_BY = 0.05  # validation loss over its own minimum, as a share
PATIENCE = 8000  # updates of a warm-up that a loss may wait for
DIVERGED = 1.15  # loss over its own minimum
BEHIND = 0.25  # of what the reference had learnt
BAD_UPDATES_IN_A_ROW = 20  # so many non-finite ones end a run
SLOW_LOADER = 0.1  # share of the time spent waiting

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that a log says. `broken` runs should be stopped; a `warning` can wait; a `note` is no trouble."""

    topic: Literal["empty labels", "misfit labels", "collapse", "divergence", "behind", "overfitting",
                   "unmasked frames", "loader", "not finite"]
    level: Literal["broken", "warning", "note"]
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level}: {self.what}; {self.advice}"


def examine(train: Sequence[Record], valid: Sequence[Record], reference: Reference | None = None,
            first_round: bool = True, label_entropy: float | None = None,
            skipped: Sequence[int] = ()) -> list[Finding]:
    """What the records of `metrics.jsonl` say about a pretraining, the worst first.

    Args:
        train: records of kind `train`: `update`, `loss`, and `rate` and `waiting_share` if known; `unmasked_accuracy`
            where unmasked frames count, with `unmasked_loss` where others count as well.
        valid: records of kind `valid`: `update`, `loss`, and where known `unmasked_accuracy`, `code_perplexity`
            (classes in use by the predictions) and `label_entropy` (of the label histogram, what knowing nothing of the
            audio costs).
        reference: a run of such an encoder that went well.
        first_round: whether the teacher knows no encoder: then unmasked frames are forgotten, and that is normal.
        label_entropy: of all labels, nats (`entropy_of`); that of the validation's stands in for it, whose speakers may
            be few.
        skipped: updates that were not finite, in their order.
    """
    found = [*_not_finite(train, skipped), *_empty(train, valid), *_misfit(train, valid, label_entropy),
             *_by_heart(train, valid), *_collapse(valid), *_divergence(train), *_blown_up(valid),
             *_behind(train, valid, reference), *_generalisation(train, valid),
             *_unmasked(valid, first_round), *_loader(train)]
    return sorted(found, key=lambda finding: ("broken", "warning", "note").index(finding.level))


def bits(nats: float) -> float:
    """Nats to bits, the unit that fairseq logs."""
    return nats / math.log(2)


def entropy_of(histograms: Iterable[Sequence[int]]) -> float:
    """Nats that a label costs one who knows how common each class is and no more, summed over streams.

    Args:
        histograms: of each stream, how often each class occurs.
    """
    total = 0.0
    for counts in histograms:
        whole = sum(counts)
        total -= sum(n / whole * math.log(n / whole) for n in counts if n)
    return total


def verdict(train: Sequence[Record], valid: Sequence[Record], found: Sequence[Finding]) -> str:
    """What to say of a log in which nothing is broken and nothing to be warned of; empty where something is.

    Healthy is what has learnt to hear: a validation loss below what its label histogram alone gives. Without one or the
    other nobody can say (labels are learnt by heart as well; wav2vec 2.0 has none, and guesses well once all codes are
    one).
    """
    losses = [r for r in train if "loss" in r]
    if not losses or any(finding.level != "note" for finding in found):
        return ""
    newest, checks, entropy = losses[-1], [r["loss"] for r in valid if "loss" in r], _entropy(valid)
    if not _settled(losses):
        why = ("the rate was still rising" if _rising(losses) else f"a loss says little in the first {SETTLED}")
        return f"too early to say after {newest['update']} updates: {why}"
    so_far = f"after {newest['update']} updates, loss {newest['loss']:.2f} nats ({bits(newest['loss']):.2f} bits)"
    if not checks or not entropy:
        return f"nothing stands out {so_far}; there {'are no labels' if checks else 'is no validation'} to say more by"
    if checks[-1] > (1 - STUCK_WITHIN) * entropy:
        return (f"too early to say after {newest['update']} updates: the validation loss, {checks[-1]:.2f} nats, is "
                f"not yet below what its label histogram alone gives ({entropy:.2f})")
    return f"looks healthy {so_far}"


def _not_finite(train: Sequence[Record], skipped: Sequence[int]) -> Iterator[Finding]:
    known = [r["update"] for r in train if "loss" in r]
    last = list(skipped[-BAD_UPDATES_IN_A_ROW:])
    if len(last) == BAD_UPDATES_IN_A_ROW and last[-1] - last[0] == len(last) - 1 and last[-1] >= max(known, default=0):
        yield Finding("not finite", "broken", f"the last {len(last)} updates, to update {last[-1]}, were not finite",
                      "lower training.optimiser.peak_rate, or use training.precision=float32 if it is not used yet")


def _empty(train: Sequence[Record], valid: Sequence[Record]) -> Iterator[Finding]:
    """Of masked frames: what an unmasked one is called follows from what is heard, and may be learnt to the last. Where
    held-out speakers have a loss, what training heard was learnt by heart, and the labels are not to blame."""
    losses, held_out = ([r for r in records if "loss" in r] for records in (train, valid))
    if held_out and held_out[-1]["loss"] >= NOTHING_TO_LEARN:
        return
    if losses and losses[-1]["loss"] < NOTHING_TO_LEARN and not _of_unmasked_frames(losses[-1]):
        yield Finding("empty labels", "broken",
                      f"the loss is {losses[-1]['loss']:.3f} nats after {losses[-1]['update']} updates: the labels "
                      "can be guessed without hearing anything",
                      "look at the units' histogram; are they of one class, or empty?")


def _of_unmasked_frames(record: Record) -> bool:
    """Whether a loss in training is that of unmasked frames, which has no other beside it (`PretrainTask`)."""
    return "unmasked_accuracy" in record and "unmasked_loss" not in record


def _misfit(train: Sequence[Record], valid: Sequence[Record], label_entropy: float | None) -> Iterator[Finding]:
    losses, entropy = [r for r in train if "loss" in r], label_entropy or _entropy(valid)
    if entropy and losses and _settled(losses) and losses[-1]["loss"] > (1 - STUCK_WITHIN) * entropy:
        yield Finding("misfit labels", "broken",
                      f"after {losses[-1]['update']} updates the loss, {losses[-1]['loss']:.2f} nats, is no better "
                      f"than what the label histogram alone gives ({entropy:.2f})",
                      "the labels do not fit the audio (another manifest, another rate, shifted?), or the learning "
                      "rate is wrong: far too high if the loss goes up and down, far too low if it hardly moves")


def _by_heart(train: Sequence[Record], valid: Sequence[Record]) -> Iterator[Finding]:
    """Labels that do not fit can still be remembered: then the training loss falls and that of a validation never."""
    entropy, losses = _entropy(valid), [r["loss"] for r in valid if "loss" in r]
    known = [r for r in train if "loss" in r]
    if not entropy or len(losses) < 3 or not known or not _settled(known) or known[-1]["update"] < BY_HEART_AFTER:
        return
    if min(losses) > (1 - STUCK_WITHIN) * entropy > known[-1]["loss"]:
        yield Finding("misfit labels", "broken",
                      f"after {known[-1]['update']} updates the validation loss has never been better than what its "
                      f"label histogram alone gives ({entropy:.2f} nats), while the training loss fell to "
                      f"{known[-1]['loss']:.2f}: what is learnt holds for the training audio alone",
                      "the labels do not fit the audio (another manifest, another rate, shifted?), two teachers "
                      "labelled the two parts, the learning rate is far too high, or there is far too little audio for "
                      "this model")


def _entropy(valid: Sequence[Record]) -> float | None:
    return next((r["label_entropy"] for r in reversed(valid) if "label_entropy" in r), None)


def _settled(records: Sequence[Record]) -> bool:
    """Whether the loss says something yet: not while a warm-up has the rate still near nothing."""
    return records[-1]["update"] >= (PATIENCE if _rising(records) else SETTLED)


def _rising(records: Sequence[Record]) -> bool:
    rates = [r["rate"] for r in records if "rate" in r]
    return len(rates) > 1 and rates[-1] == max(rates) and rates[-1] > rates[-2]


def _collapse(valid: Sequence[Record]) -> Iterator[Finding]:
    """A model that still gains by what it hears has not collapsed: at first it may know two or three classes only."""
    codes, losses = ([r[name] for r in valid if name in r] for name in ("code_perplexity", "loss"))
    entropy = _entropy(valid)
    hears = entropy and losses and losses[-1] < (1 - STUCK_WITHIN) * entropy
    has_heard = not entropy or not losses or min(losses) < (1 - STUCK_WITHIN) * entropy
    if len(codes) > 1 and codes[-1] < COLLAPSED_SHARE * max(codes) and has_heard and not hears:
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


def _blown_up(valid: Sequence[Record]) -> Iterator[Finding]:
    losses, entropy = [r for r in valid if "loss" in r], _entropy(valid)
    if entropy and losses and losses[-1]["loss"] > BLOWN_UP * max(entropy, 1):
        yield Finding("divergence", "broken",
                      f"the validation loss is {losses[-1]['loss']:.1f} nats after {losses[-1]['update']} updates, "
                      f"where who hears nothing and knows the label histogram loses {entropy:.2f}",
                      "the learning rate is far too high: begin anew with a lower training.optimiser.peak_rate or a "
                      "longer warm-up")


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
    """Two validations in a row, so that no odd one counts, and a training loss that went on falling in the meantime."""
    losses = [(r["loss"], r["update"]) for r in valid if "loss" in r]
    if len(losses) < 3:
        return
    least, when = min(losses)
    then = [r["loss"] for r in train if "loss" in r and r["update"] <= when]
    newest = [r["loss"] for r in train if "loss" in r]
    if not then or min(loss for loss, _ in losses[-2:]) < (1 + RISEN_BY) * least:
        return
    if newest[-1] < then[-1]:
        yield Finding("overfitting", "warning",
                      f"the validation loss rose from {least:.2f} to {losses[-1][0]:.2f} nats while the "
                      "training loss fell",
                      "more data, a smaller model or fewer updates; make sure that one teacher labelled both parts")


def _unmasked(valid: Sequence[Record], first_round: bool) -> Iterator[Finding]:
    known = [r for r in valid if "unmasked_accuracy" in r]
    accuracies = [r["unmasked_accuracy"] for r in known]
    if len(accuracies) < 2 or accuracies[-1] >= 0.9 * max(accuracies) or next(_blown_up(valid), None):
        return
    if known[-1]["update"] < SETTLED:  # the guesses of a fresh head
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
