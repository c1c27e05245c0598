"""What was measured in one cell of a comparison, with one seed or several, and how much seeds vary."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.report.reading import Results

Row = dict[str, Any]
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|min|h)")
_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Measured:
    """All rows of the same labels, encoder and decoder in one file, or in several that differ in their seed only.

    Attributes:
        file: its name; "" where the seeds are those of several.
        rows: one for each seed, in the order of the seeds.
        summary: what the file says of them together, with intervals of their means; empty where it says nothing.
    """

    file: str
    labelled: str
    encoder: str
    decoder: str
    rows: tuple[Row, ...]
    summary: Row = field(default_factory=dict)

    def interval(self, rate: str) -> tuple[float, float] | None:
        """The 95 % interval over test utterances: of the one seed, or of the mean where the file has it."""
        of = self.rows[0] if len(self.rows) == 1 else self.summary
        ends = of.get(f"{rate}_interval")
        return None if ends is None else (ends[0], ends[1])

    def mean(self, rate: str) -> float:
        """Of a rate, over the seeds."""
        return statistics.fmean(row[rate] for row in self.rows)

    def deviation(self, rate: str) -> float | None:
        """Of single seeds, with n - 1 below the sum of squares; None of a single one."""
        return statistics.stdev(row[rate] for row in self.rows) if len(self.rows) > 1 else None


def measured(files: Sequence[Results]) -> list[Measured]:
    """Every cell of every file, by labels, then decoder, encoder and file."""
    found = [_summed_up(m, file) for file in files
             for m in _gathered(file.name, ((row_seed(row, file), row) for row in file.rows))]
    return _ordered(found)


def over_files(files: Sequence[Results]) -> list[Measured]:
    """The cells that several files have, whose recipes differ in the seed only; none where they differ in more, where
    a file holds several seeds itself, or where a seed comes twice."""
    seeds = [{row_seed(row, file) for row in file.rows} for file in files]
    recipes = {_without_seeds(file.content.get("recipe")) for file in files}
    if len(files) < 2 or len(recipes) > 1 or recipes == {"null"} or any(len(s) != 1 or None in s for s in seeds) or (
            len(set().union(*seeds)) < len(files)):
        return []
    together = _gathered("", ((row_seed(row, file), row) for file in files for row in file.rows))
    return [found for found in together if len(found.rows) == len(files)]


def row_seed(row: Row, file: Results) -> int | None:
    """The seed of a row, or of its file's recipe where the row has none; None where nobody says."""
    recipe = file.content.get("recipe")
    return row.get("seed", recipe.get("seed") if isinstance(recipe, dict) else None)


def in_order(names: Iterable[str], key: Callable[[str], Any]) -> list[str]:
    """Names without repetitions, by a key, and where that is the same as they came."""
    return sorted(dict.fromkeys(names), key=key)


def label_order(labelled: str) -> tuple[int, float]:
    """Amounts of labels by the time that they name (`10min`, `1h`); those that name none (`all`) after them."""
    span = _SPAN.fullmatch(labelled.strip())
    return (1, 0.0) if span is None else (0, float(span[1]) * _SECONDS[span[2]])


def encoder_order(encoder: str) -> tuple[int, int]:
    """Scratch, then rounds by their number, then others."""
    number = re.fullmatch(r"round (\d+)", encoder)
    return (0, 0) if encoder == "scratch" else (1, int(number[1])) if number else (2, 0)


def _gathered(name: str, rows: Iterable[tuple[int | None, Row]]) -> list[Measured]:
    cells: dict[tuple[str, str, str], list[tuple[int | None, Row]]] = {}
    for seed, row in rows:
        cells.setdefault((row["labelled"], row["encoder"], row["decoder"]), []).append((seed, row))
    found = [Measured(name, *key, tuple(row for _, row in sorted(
        those, key=lambda pair: (pair[0] is None, pair[0] or 0)))) for key, those in cells.items()]
    return _ordered(found)


def _summed_up(found: Measured, file: Results) -> Measured:
    """With what the file says of its seeds together, if it is of as many."""
    summaries = file.content.get("summaries")
    for one in summaries if isinstance(summaries, list) else ():
        if (one["labelled"], one["encoder"], one["decoder"]) == (found.labelled, found.encoder, found.decoder) and (
                len(one["seeds"]) == len(found.rows)):
            return replace(found, summary=one)
    return found


def _ordered(found: Sequence[Measured]) -> list[Measured]:
    """By labels, decoder, encoder, and then as they came."""
    decoders = [m.decoder for m in found]
    return sorted(found, key=lambda m: (label_order(m.labelled), m.labelled, decoders.index(m.decoder),
                                        encoder_order(m.encoder)))


def _without_seeds(recipe: Any) -> str:
    """A recipe as text, whatever its seeds."""
    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: bare(v) for k, v in value.items() if k not in ("seed", "seeds")}
        return [bare(v) for v in value] if isinstance(value, list) else value

    return json.dumps(bare(recipe), sort_keys=True)
