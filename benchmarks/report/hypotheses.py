"""Hypotheses against their references: error rates as `score` has them, differences of all pairs, and where errors are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report.alignments import Confusions, confusions, worst
from benchmarks.report.cautions import few_speakers, few_words, imbalanced
from benchmarks.report.comparing import Difference, difference_table, verdicts
from benchmarks.report.document import (
    Aligned,
    Block,
    Cell,
    Column,
    Facts,
    Points,
    Report,
    Section,
    Table,
    counted,
    interval,
    listed,
    number,
)
from benchmarks.report.figures import difference_figure
from benchmarks.report.measuring import short, versions
from benchmarks.report.published import section as published
from benchmarks.report.reading import names_of
from benchmarks.report.scoring import Decoded, decoded, difference
from downstream.decode.provenance import provenance_path
from downstream.score.compare import known_speakers
from downstream.score.intervals import RESAMPLES
from downstream.score.rates import NO_SPACES, Unit, rates_of, without_spaces
from downstream.score.references import References
from upstream.disk import file_hash

DIGITS = 2
_CONFUSIONS = 15  # of a kind, that are listed
_WORST = 10  # utterances that are shown
_SPEAKERS = 40


def report(paths: Sequence[Path], truth: References, unit: Unit, seed: int,
           progress: Callable[[float], None] = lambda done: None) -> Report:
    """What there is to say of hypotheses.

    Args:
        truth: references of all utterances, and of no others.
        progress: called with the files and pairs that are done.

    Raises:
        InputError: naming the file whose utterances are not those of the references.
    """
    speakers = known_speakers(None if truth.speakers is None else list(truth.speakers.values()))
    found = []
    for path, name in zip(paths, names_of(paths)):
        found.append(decoded(path, name, truth, unit, seed, speakers))
        progress(len(found))
    compared = []
    for one, other in combinations(found, 2):
        compared += [difference(one, other, rate, seed, speakers) for rate in rates_of(unit)]
        progress(len(found) + len(compared) / len(rates_of(unit)))
    sections = [Section("rates", "Error rates", (_rate_table(found, unit, speakers), _count_table(found, unit)))]
    if compared:
        sections.append(Section("differences", "Differences", (
            difference_table(compared, "pair", DIGITS), Points(tuple(verdicts(compared))),
            *difference_figure(compared))))
    sections.append(Section("cautions", "Read with care", (Points(tuple(_cautions(found, truth, unit, speakers))),)))
    if unit == "word" and (others := published(len(truth.texts), found[0].score.words)):
        sections.append(others)
    if speakers is not None:
        sections.append(Section("speakers", "Speakers", (_speaker_table(found, unit, speakers),)))
    sections += [_errors(one, len(found) > 1, place, unit) for place, one in enumerate(found, 1)]
    sections.append(Section("measured", "How it was measured", tuple(
        Facts(one.name if len(found) > 1 else "", tuple(_facts(one, truth, unit, seed))) for one in found)))
    words = counted(found[0].score.words, unit)
    return Report("Hypotheses against their references", f"{counted(len(truth.texts), 'utterance')}, {words}",
                  tuple(_lead(found, compared, unit)), tuple(sections), _records(found, compared))


def _rate_table(found: Sequence[Decoded], unit: Unit, speakers: Sequence[str] | None) -> Table:
    columns = [Column("hypotheses", numeric=False)]
    for rate in rates_of(unit):
        columns += [Column(f"{rate.upper()} %"), *([Column("by speakers")] if speakers else [])]
    rows = []
    for one in found:
        row = [Cell(one.name)]
        for rate in rates_of(unit):
            value = one.score.wer if rate == "wer" else one.score.cer
            row += [Cell(number(value, DIGITS), interval(one.intervals[rate, False], DIGITS))]
            row += [Cell(interval(one.intervals[rate, True], DIGITS))] if speakers else []
        rows.append(tuple(row))
    note = "In brackets: 95 % intervals, drawing utterances" + ("; by speakers: drawing whole speakers." if speakers
                                                                  else ".")
    return Table("rates", f"{'Word and character' if unit == 'word' else 'Character'} error rates.", tuple(columns),
                 tuple(rows), note)


def _count_table(found: Sequence[Decoded], unit: Unit) -> Table:
    heads = (f"{unit}s", "errors", "substituted", "deleted", "inserted", "sentences with an error")
    rows = [(Cell(one.name), *(Cell(f"{count:,}") for count in (
        one.score.words, one.score.errors, one.score.substitutions, one.score.deletions, one.score.insertions)),
             Cell(f"{one.score.sentence_errors:,} of {len(one.texts):,}")) for one in found]
    return Table("counts", f"Errors in {unit}s.", (Column("hypotheses", numeric=False), *map(Column, heads)),
                 tuple(rows))


def _speaker_table(found: Sequence[Decoded], unit: Unit, speakers: Sequence[str]) -> Table:
    """Words or characters and error rates of each speaker, the highest rate of the first file first."""
    names, of = list(dict.fromkeys(speakers)), np.asarray(speakers)
    masks = {name: of == name for name in names}
    counts = found[0].score.per_utterance

    def rate(one: Decoded, name: str) -> float | None:
        errors, words = one.score.per_utterance.errors[masks[name]].sum(), counts.words[masks[name]].sum()
        return float(100 * errors / words) if words else None

    ranked = sorted(names, key=lambda name: (-(rate(found[0], name) or 0.0), name))
    columns = [Column("speaker", numeric=False), Column("utterances"), Column(f"{unit}s"),
               *(Column(f"{one.name} %" if len(found) > 1 else f"{rates_of(unit)[0].upper()} %") for one in found)]
    rows = tuple((Cell(name), Cell(f"{masks[name].sum():,}"), Cell(f"{counts.words[masks[name]].sum():,}"),
                  *(Cell("" if (value := rate(one, name)) is None else number(value, DIGITS)) for one in found))
                 for name in ranked[:_SPEAKERS])
    of_first = f" of {found[0].name}" if len(found) > 1 else ""
    left = f" {len(ranked) - _SPEAKERS} with lower rates are left out." if len(ranked) > _SPEAKERS else ""
    what = "Word" if unit == "word" else "Character"
    return Table("speakers", f"{what} error rate of each speaker, the highest{of_first} first.", tuple(columns), rows,
                 f"{counted(len(names), 'speaker')}.{left}", paper=False)


def _errors(one: Decoded, several: bool, place: int, unit: Unit) -> Section:
    """What is taken for what, and the utterances with the most errors."""
    if not one.score.errors:
        return Section(f"errors-{place}", f"Errors of {one.name}" if several else "Errors", (Points(("No errors.",)),))
    blocks: list[Block] = [_confusion_table(f"confusions-{place}", f"Most frequent confusions of {unit}s.",
                                            confusions(one.aligned))]
    for id in worst(one.aligned, _WORST):
        pairs = one.aligned[id]
        errors, words = sum(a != b for a, b in pairs), sum(a is not None for a, _ in pairs)
        blocks.append(Aligned(f"{id}: {counted(errors, 'error')} in {counted(words, unit)}", tuple(pairs)))
    return Section(f"errors-{place}", f"Errors of {one.name}" if several else "Errors", tuple(blocks))


def _confusion_table(name: str, caption: str, found: Confusions) -> Table:
    """What there is of the three kinds, side by side; words in columns of their own, for an arrow between two that are
    written from right to left would point from what was heard to what was said."""
    all_kinds: dict[str, list[tuple[tuple[str, ...], int]]] = {
        "substituted": list(found.substitutions), "deleted": [((word,), n) for word, n in found.deletions],
        "inserted": [((word,), n) for word, n in found.insertions]}
    kinds = {kind: those for kind, those in all_kinds.items() if those}
    heads = {kind: (kind, "by") if kind == "substituted" else (kind,) for kind in kinds}
    rows = tuple(tuple(cell for kind, those in kinds.items() for cell in (
        (*map(Cell, those[i][0]), Cell(f"{those[i][1]:,}")) if i < len(those) else (Cell(),) * (1 + len(heads[kind]))))
        for i in range(min(_CONFUSIONS, max(map(len, kinds.values())))))
    columns = tuple(column for those in heads.values() for column in (
        *(Column(head, numeric=False) for head in those), Column("times")))
    totals = listed([f"{len(those):,} {kind}" for kind, those in kinds.items()])
    return Table(name, caption, columns, rows, f"Different in all: {totals}.", paper=False)


def _cautions(found: Sequence[Decoded], truth: References, unit: Unit,
              speakers: Sequence[str] | None) -> Iterator[str]:
    for one in found:
        if one.made_by is None:
            beside = "is of other hypotheses" if provenance_path(one.path).is_file() else "is not there"
            yield (f"{one.name}: nobody says what made it ({provenance_path(one.path).name} {beside}).")
        elif truth.manifest_hash and one.made_by.get("manifest_hash") not in (None, truth.manifest_hash):
            yield (f"{one.name}: decoded from another manifest than that of the references; ids agree, and texts are "
                   "those of the references.")
        yield from _tuning(one, truth)
        if unit == "word" and without_spaces(truth.texts.values(), one.texts.values()):
            yield f"{one.name}: words are counted, and those of the references look like whole phrases; {NO_SPACES}."
    yield from few_words(found[0].score.words, unit)
    if speakers is not None:
        yield from few_speakers(len(set(speakers)))
    elif truth.speakers is not None and None not in truth.speakers.values():
        yield from few_speakers(1)
    else:
        yield ("Speakers are not known for all utterances, so intervals draw utterances only: too narrow where "
               "speakers are few.")
    yield from imbalanced(((one.name, {"deletions": one.score.deletions, "insertions": one.score.insertions,
                                      "words": one.score.words}) for one in found), unit)
    made = {one.name: one.made_by for one in found if one.made_by is not None}
    for what, key in (("recognisers", "recogniser_hash"), ("versions", "versions")):
        if len({str(by.get(key)) for by in made.values()}) > 1:
            each = listed([f"{name} ({_told(by.get(key))})" for name, by in made.items()])
            yield f"The files are of different {what}: {each}."


def _tuning(one: Decoded, truth: References) -> Iterator[str]:
    """What the file of weights says, where it is there."""
    if one.tuned is None:
        if one.made_by is not None and one.made_by.get("tuned"):
            yield (f"{one.name}: the weights' file that it names is not there as it was, so whether they were tuned on "
                   "the test set was not looked at.")
        return
    if truth.manifest_hash and one.tuned.get("manifest_hash") == truth.manifest_hash:
        yield f"{one.name}: its weights were tuned on these very utterances: the error rates are too good."
    if one.tuned.get("on_edge"):
        yield (f"{one.name}: {listed([str(e) for e in one.tuned['on_edge']])} of its weights lies on the edge of what "
               "was tried; a better one may lie beyond.")


def _facts(one: Decoded, truth: References, unit: Unit, seed: int) -> Iterator[tuple[str, str]]:
    made = one.made_by or {}
    for key in ("command", "decoder"):
        if made.get(key):
            yield key, str(made[key])
    for key in ("settings", "weights"):
        if isinstance(made.get(key), dict):
            yield key, ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in made[key].items() if v is not None)
    for key, what in (("lm", "language model"), ("lexicon", "lexicon"), ("tuned", "weights' file")):
        if isinstance(made.get(key), dict):
            yield what, f"{made[key].get('file')}, sha256 {made[key].get('sha256')}"
    for key in ("model", "recogniser_hash", "emissions_hash"):
        if made.get(key):
            yield key.replace("_hash", "").replace("model", "rescored by"), str(made[key])
    if isinstance(made.get("versions"), dict):
        yield "versions", versions(made["versions"])
    if truth.manifest_hash:
        yield "references", f"manifest {truth.manifest_hash}"
    yield "intervals", (f"95 %, percentile bootstrap, {RESAMPLES:,} draws, seed {seed}; p-values: two-sided "
                        "paired randomisation test")
    yield "counted in", f"{unit}s"
    yield "hypotheses", f"{one.path.name}, sha256 {file_hash(one.path)}"


def _lead(found: Sequence[Decoded], compared: Sequence[Difference], unit: Unit) -> Iterator[str]:
    least = min(one.score.errors for one in found)
    best = [one for one in found if one.score.errors == least]
    what = "Word" if unit == "word" else "Character"
    which = f"Lowest {what.lower()} error rate" if len(found) > 1 else f"{what} error rate"
    rate = rates_of(unit)[0]
    ends = {one.intervals[rate, False] for one in best}  # of files with as many errors the tables tell each
    sure = interval(ends.pop(), DIGITS) if len(ends) == 1 else ""
    yield (" ".join(filter(None, [f"{which}: {number(best[0].score.wer, DIGITS)} %", sure]))
           + (f", {listed([one.name for one in best])}" if len(found) > 1 else "") + ".")
    yield from verdicts(compared, naming=False)


def _records(found: Sequence[Decoded], compared: Sequence[Difference]) -> dict[str, Any]:
    rows = [{"hypotheses": one.name, "wer": one.score.wer, "cer": one.score.cer, "words": one.score.words,
             "errors": one.score.errors, "substitutions": one.score.substitutions, "deletions": one.score.deletions,
             "insertions": one.score.insertions, "characters": one.score.characters,
             "character_errors": one.score.character_errors, "sentences": len(one.texts),
             "sentence_errors": one.score.sentence_errors}
            | {f"{rate}_interval{'_by_speaker' if drawn else ''}": ends
               for (rate, drawn), ends in one.intervals.items()}
            for one in found]
    differences = [{"hypotheses": d.system, "against": d.against, "rate": d.rate, "difference": d.points,
                    "difference_interval": d.utterances.ends, "p_value": d.utterances.p}
                   | ({} if d.speakers is None else {"difference_interval_by_speaker": d.speakers.ends,
                                                     "p_value_by_speaker": d.speakers.p}) for d in compared]
    return {"rates": rows} | ({"differences": differences} if differences else {})


def _told(value: Any) -> str:
    return versions(value) if isinstance(value, dict) else short(value) or "not said"
