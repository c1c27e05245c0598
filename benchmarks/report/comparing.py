"""Differences between systems as a table: how large, how sure by utterances and by speakers, and among how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report.document import MINUS, Cell, Column, Table, first_of, interval, listed, number
from downstream.score.significance import holm, p_value_text

UTTERANCES, SPEAKERS = "utterances", "speakers"  # what intervals draw
LEVEL = 0.05
_MANY = 8  # comparisons that a sentence names


@dataclass(frozen=True)
class Sure:
    """How sure a difference is, by one sampling.

    Attributes:
        ends: of the 95 % interval in points; None where there is none.
        p: two-sided; None where there is none.
        p_holm: adjusted for the comparisons made with it, where the file has it.
    """

    ends: tuple[float, float] | None
    p: float | None
    p_holm: float | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.ends is not None and (self.ends[0] > 0 or self.ends[1] < 0)


@dataclass(frozen=True)
class Difference:
    """One system's error rate minus another's, in percentage points.

    Attributes:
        place: what both have in common, as (column, value): the labels, the decoder.
        system, against: their names.
        rate: `wer` or `cer`.
        seeds: differences of single seeds, where there are several.
        file: that it is of; "" where there is one only.
    """

    place: tuple[tuple[str, str], ...]
    system: str
    against: str
    rate: str
    points: float
    utterances: Sure
    speakers: Sure | None = None
    seeds: tuple[float, ...] = ()
    file: str = ""

    @property
    def name(self) -> str:
        """What it is of, in a sentence."""
        return f"{self.named(False)} ({', '.join([*(v for _, v in self.place), self.rate.upper()])})"

    def named(self, from_one: bool) -> str:
        """Its system, and what it is compared with where that is not one for all."""
        return self.system if from_one else f"{self.system} {MINUS} {self.against}"

    def by(self, sampling: str) -> Sure | None:
        """How sure it is by utterances or by speakers."""
        return self.utterances if sampling == UTTERANCES else self.speakers


def from_one(found: Sequence[Difference]) -> bool:
    """Whether several systems are compared with one and the same."""
    return len({d.against for d in found}) == 1 and len({d.system for d in found}) > 1


def adjusted(found: Sequence[Difference], sampling: str) -> list[float | None]:
    """p-values for as many comparisons as there are: those of the file where it has them, otherwise by Holm's procedure
    over those of the same file, rate and decoder, as `bench low-resource` does it."""
    values: list[float | None] = [None] * len(found)
    families: dict[tuple[str | None, ...], list[int]] = {}
    for index, difference in enumerate(found):
        sure = difference.by(sampling)
        if sure is not None and sure.p_holm is not None:
            values[index] = sure.p_holm
        elif sure is not None and sure.p is not None:
            key = (difference.file, difference.rate, dict(difference.place).get("decoder"))
            families.setdefault(key, []).append(index)
    for members in families.values():
        p_values = [sure.p for index in members
                    if (sure := found[index].by(sampling)) is not None and sure.p is not None]
        for index, value in zip(members, holm(p_values)):
            values[index] = value
    return values


def difference_table(found: Sequence[Difference], what: str, digits: int) -> Table:
    """One row for each difference. Bold are the intervals that exclude 0.

    Args:
        what: is compared: the head of the column that names it.
        digits: of the differences after the point.
    """
    samplings = [s for s in (UTTERANCES, SPEAKERS) if any(d.by(s) is not None for d in found)]
    several = len(found) > 1
    same = from_one(found)
    files = any(d.file for d in found)
    columns = [Column(head, numeric=False) for head in (*(["file"] if files else []), *dict(found[0].place), what,
                                                        "rate")]
    columns += [Column("points")]
    for sampling in samplings:
        columns += [Column(f"95 % by {sampling}"), Column("p [Holm]" if several else "p")]
    seeds = any(d.seeds for d in found)
    columns += [Column("each seed")] if seeds else []
    corrected = {sampling: adjusted(found, sampling) for sampling in samplings}
    rows = []
    for index, difference in enumerate(found):
        row = [Cell(value) for value in (*([difference.file] if files else []), *dict(difference.place).values())]
        row += [Cell(difference.named(same))]
        row += [Cell(difference.rate.upper()), Cell(number(difference.points, digits, "+"))]
        for sampling in samplings:
            row += _sure_cells(difference.by(sampling), digits, corrected[sampling][index] if several else None)
        row += [Cell(", ".join(number(s, digits, "+") for s in difference.seeds))] if seeds else []
        rows.append(tuple(row))
    caption = f"Differences of error rates from {found[0].against}" if same else "Differences of error rates"
    return Table("differences", f"{caption}, on the same utterances.", tuple(columns), tuple(rows),
                 _note(found, several))


def verdicts(found: Sequence[Difference], naming: bool = True) -> list[str]:
    """How many intervals exclude 0, a sentence for each file and sampling, and how many p-values stay small.

    Args:
        naming: whether it says which.
    """
    said = []
    for sampling in (UTTERANCES, SPEAKERS):
        corrected = adjusted(found, sampling)
        for file in dict.fromkeys(d.file for d in found):
            those = [(d, p) for d, p in zip(found, corrected) if d.file == file and (sure := d.by(sampling)) is not None
                     and sure.ends is not None]
            if not those:
                continue
            certain = sum(p is not None and p < LEVEL for _, p in those)
            among = (f" Adjusted by Holm's procedure, {certain} of {len(those)} p-values "
                     f"{'is' if certain == 1 else 'are'} below {LEVEL}.") * (len(found) > 1)
            said.append((f"{file}: " if file else "") + _verdict([d for d, _ in those], sampling, naming) + among)
    return said


def _verdict(those: Sequence[Difference], sampling: str, naming: bool) -> str:
    excluding = [d for d in those if (sure := d.by(sampling)) is not None and sure.excludes_zero]
    others = [d for d in those if d not in excluding]
    than = those[0].against if len({d.against for d in those}) == 1 else "the second of the pair"
    lower = sum(d.points < 0 for d in excluding)
    ways = [f"{lower} with fewer errors than {than}"] * bool(lower)
    ways += [f"{len(excluding) - lower} with more{'' if lower else f' than {than}'}"] * (len(excluding) > lower)
    if not (others and naming):
        which = ""
    elif len(excluding) < len(others):
        which = f": {_named(excluding)}" if excluding else ""
    else:
        which = f"; all but {_named(others)}"
    how = f" ({listed(ways)})" if ways else ""
    if len(those) == 1:
        said = "excludes" if excluding else "includes"
        p = "" if (sure := those[0].by(sampling)) is None else p_value_text(sure.p)
        told = f", p {p}" if p.startswith("<") else f", p = {p}" if p else ""
        return (f"Drawing {sampling}, the 95 % interval of {those[0].name} {said} 0: "
                f"{number(those[0].points, 2, '+')} points{told}.")
    return f"Drawing {sampling}, the 95 % interval excludes 0 in {len(excluding)} of {len(those)}{how}{which}."


def _named(those: Sequence[Difference]) -> str:
    return first_of([d.name for d in those], _MANY)


def _sure_cells(sure: Sure | None, digits: int, corrected: float | None) -> list[Cell]:
    if sure is None:
        return [Cell(), Cell()]
    return [Cell(interval(sure.ends, digits, "+"), strong=sure.excludes_zero),
            Cell(p_value_text(sure.p), "" if corrected is None else f"[{p_value_text(corrected)}]")]


def _note(found: Sequence[Difference], several: bool) -> str:
    """How the numbers came about, as far as the file says."""
    said = ["Percentage points; negative: fewer errors. Bold: intervals that exclude 0."]
    if several:
        own = all(s is None or s.p is None or s.p_holm is not None for d in found for s in (d.utterances, d.speakers))
        of = ["rate", *(["decoder"] if "decoder" in dict(found[0].place) else []), *(["file"] if found[0].file else [])]
        said.append("In brackets beside p: adjusted by Holm's procedure, " + (
            "as the file has it." if own else f"among the comparisons of the same {listed(of)}."))
    if any(d.seeds for d in found):
        said.append("Intervals and p-values are of test utterances or speakers with these very trainings; what other "
                    "seeds would give, only the differences of each seed show.")
    return " ".join(said)
