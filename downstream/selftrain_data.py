"""What a student learns from: the labels, and what the filters keep of what its teacher heard; and a look at that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from downstream.decode.hypothesis import Hypothesis, read_hypotheses
from downstream.pseudo_labels import KEPT, PseudoLabel, ScoreLine, confidence, counts, fit_line, judge
from downstream.score.rates import Unit, score
from downstream.selftrain_recipe import Measure, SelftrainRecipe
from downstream.selftrain_start import Sets
from downstream.text.vocabulary import composed
from upstream.audio.manifest import Manifest
from upstream.disk import content_hash, disk_errors, file_hash, writing
from upstream.errors import InputError
from upstream.frames import SAMPLE_RATE
from upstream.recipe import as_settings
from upstream.stage import Say, run_stage

DECODED, GREEDY = "hypotheses.jsonl", "greedy.jsonl"  # of what a decoder heard, in a stage's folder
LABELS = "labels.jsonl"


def data_stage(folder: Path, recipe: SelftrainRecipe, sets: Sets, hypotheses_hash: str, dev: Path, dev_hash: str,
               say: Say) -> dict[str, Any]:
    """Filter what a teacher heard, and leave in `data/` what a student learns from.

    Args:
        folder: of the round; its `hypotheses/` has been made, and has this hash.
        dev: hypotheses of dev, by the same teacher and decoder: what scores are normalised on.
        dev_hash: of these.

    Returns:
        `hash` of the manifest and of all `labels`, its utterances and hours, those of true labels in it, what was
        `kept` and, by reason, `dropped`, the lowest confidence kept, and the `line` of dev's scores, if one was drawn.

    Raises:
        InputError: no label is kept.
    """
    filters, repeats, unit = recipe.filter.counting(recipe.unit), recipe.labelled_repeats, recipe.unit
    normalised = filters.confidence == "normalised"

    def work(into: Path) -> dict[str, Any]:
        line = fit_line(read_hypotheses(dev)) if normalised else None
        labels = _pseudo_labels(folder / "hypotheses", sets.unlabelled, filters.confidence, line)
        reasons = judge(labels, filters, unit)
        found, kept = counts(labels, reasons), [label for label in labels if reasons[label.id] == KEPT]
        if not kept:
            raise InputError(_none_kept(folder.name, found, len(labels)))
        _write_labels(into / LABELS, labels, reasons)
        union = training_set(sets.labelled, repeats, sets.unlabelled, {label.id: label.text for label in kept})
        union.save(into / "train.arrow")
        return {"hash": union.hash, "labels": file_hash(into / LABELS), "utterances": len(union),
                "hours": round(union.seconds / 3600, 4),
                "labelled_hours": round(repeats * sets.labelled.seconds / 3600, 4), "kept": found.pop("kept"),
                "dropped": found, "lowest_confidence": min(label.confidence for label in kept),
                **({} if line is None else {"line": asdict(line)})}

    inputs = {"hypotheses": hypotheses_hash, "unlabelled": sets.unlabelled.hash, "labelled": sets.labelled.hash,
              "audio": _places(sets)}
    found = run_stage(folder / "data", "training data", version=1, work=work, say=say,
                      settings={"filter": as_settings(filters), "labelled_repeats": repeats,
                                **({} if unit == "word" else {"unit": unit})},  # a later option: words are not stale
                      inputs=inputs | ({"dev": dev_hash} if normalised else {}))
    _tell(folder.name, sets, found, say)
    return found


def _pseudo_labels(hypotheses: Path, unlabelled: Manifest, measure: Measure,
                   line: ScoreLine | None) -> list[PseudoLabel]:
    """What a teacher heard, in the order in which it was decoded."""
    greedy = {h.id: h.text for h in read_hypotheses(hypotheses / GREEDY)}
    seconds = dict(zip(unlabelled.ids, (unlabelled.lengths / SAMPLE_RATE).tolist()))
    return [PseudoLabel(h.id, h.text, greedy[h.id], seconds[h.id], confidence(h, measure, line))
            for h in read_hypotheses(hypotheses / DECODED)]


def _none_kept(name: str, found: dict[str, dict[str, float]], labels: int) -> str:
    why = ", ".join(f"{value['utterances']} {reason}" for reason, value in found.items() if reason != "kept")
    return (f"{name}: none of {labels} pseudo labels is kept ({why}); loosen `filter`, or begin with a better teacher: "
            "more labels, more updates, an encoder")


def training_set(labelled: Manifest, repeats: int, unlabelled: Manifest, texts: dict[str, str]) -> Manifest:
    """What a student learns from: the labelled utterances, so many times, and those of the unlabelled that have texts.

    A second copy of `a` is `a~2`, or `a~2~2` where there is an `a~2`: masks and speeds are drawn by id, so it is heard
    otherwise.
    """
    taken, copies, chosen = {*labelled.ids, *unlabelled.ids}, [labelled], unlabelled.only(texts)
    for number in range(2, repeats + 1):
        ids = []
        for id in labelled.ids:
            copy = f"{id}~{number}"
            while copy in taken:
                copy += f"~{number}"
            taken.add(copy)
            ids.append(copy)
        copies.append(labelled.with_ids(ids))
    return Manifest.joined([*copies, chosen.with_texts([texts[id] for id in chosen.ids])],
                           "labelled and pseudo-labelled utterances")


def _places(sets: Sets) -> str:
    """Hash of where the audio lies, which `train.arrow` says as well: of a corpus that was moved it is written anew. As
    a manifest's own hash does not depend on that, nothing behind it is done anew."""
    return content_hash([[str(one.audio), one.offset] for manifest in (sets.labelled, sets.unlabelled)
                         for one in manifest])


def told_rates(rates: dict[str, Any], recipe: SelftrainRecipe) -> str:
    """`WER 12.1, CER 3.4`, as a line says what `error_rates` gave."""
    return ", ".join(f"{name.upper()} {rates[name]:.1f}" for name in recipe.rates)


def counted(recipe: SelftrainRecipe) -> dict[str, str]:
    """What the settings of a stage say of the unit that errors are counted in: nothing of words, as all once were."""
    return {} if recipe.unit == "word" else {"counted": recipe.unit}


def diagnosis_stage(folder: Path, recipe: SelftrainRecipe, sets: Sets, labels_hash: str,
                    say: Say) -> dict[str, Any]:
    """Error rates of the pseudo labels where the unlabelled set has transcripts, by what became of them. Nothing reads
    it; empty where there are none."""
    truth = {id: composed(text) for id, text in sets.references.items()}
    if not sets.diagnosed:
        return {}

    def work(into: Path) -> dict[str, Any]:
        with (folder / "data" / LABELS).open(encoding="utf-8") as lines:
            labels = [label for label in map(json.loads, lines) if label["id"] in truth]
        groups: dict[str, list[str]] = {"all": [label["id"] for label in labels], "kept": []}
        for label in labels:
            groups.setdefault(label["dropped"] or "kept", []).append(label["id"])
        texts = {label["id"]: label["text"] for label in labels}
        rates = {name: error_rates({id: truth[id] for id in ids}, {id: texts[id] for id in ids}, recipe.unit)
                 for name, ids in groups.items() if any(truth[id] for id in ids)}
        return {"hash": content_hash(rates), "rates": rates}

    found = run_stage(folder / "diagnosis", "diagnosis", version=1, settings=counted(recipe), work=work, say=say,
                      inputs={"labels": labels_hash, "references": content_hash(truth)})
    rates = found.get("rates", {})  # none if this only looks
    told = "; ".join(f"{name}: {told_rates(rate, recipe)}" for name, rate in rates.items())
    say(f"{folder.name}, labels against transcripts that nothing learns from: {told}")
    return {"diagnosis": rates}


def error_rates(truth: dict[str, str], found: Sequence[Hypothesis] | dict[str, str], unit: Unit) -> dict[str, Any]:
    """Rates in percent, and of how many words and utterances, as a stage's result has them; where characters are
    counted, each is a word."""
    texts = found if isinstance(found, dict) else {h.id: h.text for h in found}
    rates = score(truth, texts, unit)
    return {"wer": round(rates.wer, 3), "cer": round(rates.cer, 3), "words": rates.words, "utterances": len(truth)}


def _write_labels(path: Path, labels: Sequence[PseudoLabel], reasons: dict[str, str]) -> None:
    """One JSON object a line: `id`, `text`, `confidence` (null of an empty text) and why it was `dropped`, empty where
    it was not."""
    with disk_errors(path), writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for label in labels:
            sure = label.confidence if label.text else None
            file.write(json.dumps({"id": label.id, "text": label.text, "confidence": sure, "dropped":
                                   reasons[label.id]}, ensure_ascii=False, allow_nan=False) + "\n")


def _tell(name: str, sets: Sets, data: dict[str, Any], say: Say) -> None:
    total = len(sets.unlabelled)
    dropped = "".join(f"; {value['utterances']} dropped: {reason}" for reason, value in data["dropped"].items())
    say(f"{name}: {data['kept']['utterances']} of {total} pseudo labels kept, {data['kept']['hours']:.2f} of "
        f"{sets.unlabelled.seconds / 3600:.2f} h, beside {data['labelled_hours']:.2f} h of labels{dropped}")
