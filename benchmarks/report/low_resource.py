"""The low-resource comparison: error rates by labels, encoder and decoder, and differences from the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.report.comparing import Difference, Sure, difference_table, verdicts
from benchmarks.report.document import (
    Block,
    Cell,
    Column,
    Paragraph,
    Points,
    Section,
    Table,
    interval,
    number,
)
from benchmarks.report.figures import difference_figure, rate_figure
from benchmarks.report.reading import Results, objects, rates_of_all
from benchmarks.report.seeds import Measured, label_order, measured, over_files

DIGITS = 1
_COUNTED = {"wer": "word", "cer": "character"}  # what a rate is of


def sections(files: Sequence[Results]) -> list[Section]:
    """What was found."""
    cells, together, rates = measured(files), over_files(files), rates_of_all(files)
    shown: list[Block] = [rate_table(cells, len(files) > 1, rates)]
    if any(len(m.rows) > 1 for m in cells):
        shown.append(seed_table(cells, len(files) > 1, rates))
    if together:
        shown.append(_over_files_table(together, _left_out(together, cells), rates))
    shown += rate_figure(together or cells, _left_out(together, cells), rates)
    found = [Section("rates", "Error rates", tuple(shown))]
    compared = differences(files)
    if compared:
        blocks: list[Block] = [difference_table(compared, "encoder", DIGITS + 1), Points(tuple(verdicts(compared)))]
        found.append(Section("differences", "Differences", (*blocks, *difference_figure(compared))))
    else:
        found.append(Section("differences", "Differences", (Paragraph(
            "The results hold no comparisons. Intervals of single rates that overlap do not say that systems are "
            "equal, nor that they differ; a paired comparison needs the hypotheses."),)))
    return found


def lead(files: Sequence[Results]) -> list[str]:
    """The best cell, and what is sure of the differences."""
    cells, first = measured(files), rates_of_all(files)[0]
    best = min(cells, key=lambda m: m.mean(first))
    several = f", mean of {len(best.rows)} seeds" if len(best.rows) > 1 else ""
    where = f" in {best.file}" if len(files) > 1 else ""
    rate = f"{number(best.mean(first), DIGITS)} % {_sureness(best, first)}{several}"
    said = [f"Lowest {_COUNTED[first]} error rate: {rate}, with {best.encoder}, labels {best.labelled}, decoder "
            f"{best.decoder}{where}."]
    return said + verdicts(differences(files), naming=False)


def differences(files: Sequence[Results]) -> list[Difference]:
    """The comparisons of each file, by labels, and otherwise in their order."""
    found = []
    for file in files:
        those = [_difference(file.name if len(files) > 1 else "", one) for one in objects(
            file.content.get("comparisons")) if {"difference", "encoder", "rate"} <= one.keys()]
        found += sorted(those, key=lambda d: label_order(dict(d.place).get("labels", "")))
    return found


def rate_table(cells: Sequence[Measured], name_files: bool, rates: Sequence[str]) -> Table:
    """Labels and encoders down, decoders and rates across; the lowest of each column in bold."""
    decoders = list(dict.fromkeys(m.decoder for m in cells))
    by_place: dict[tuple[str, ...], dict[str, Measured]] = {}
    for m in cells:
        place = (m.labelled, m.encoder, *([m.file] if name_files else []))
        by_place.setdefault(place, {})[m.decoder] = m
    least = {(d, r): min(m.mean(r) for m in cells if m.decoder == d) for d in decoders for r in rates}
    heads = ["labels", "encoder", *(["file"] if name_files else [])]
    columns = [Column(head, numeric=False) for head in heads] + [
        Column(f"{decoder} {rate.upper()} %") for decoder in decoders for rate in rates]
    rows = []
    for place, found in by_place.items():
        row = [Cell(value) for value in place]
        for decoder in decoders:
            row += [_rate(found[decoder], rate, found[decoder].mean(rate) == least[decoder, rate]) if decoder in found
                    else Cell() for rate in rates]
        rows.append(tuple(row))
    seeds = {len(m.rows) for m in cells}
    what = "In brackets: 95 % intervals over test utterances." if seeds == {1} else (
        "±: standard deviation of single seeds; in brackets: 95 % intervals over test utterances.")
    told = " and ".join(_COUNTED[rate] for rate in rates).capitalize()
    return Table("rates", f"{told} error rates.", tuple(columns), tuple(rows),
                 f"{what} Bold: the lowest of a column.")


def seed_table(cells: Sequence[Measured], name_files: bool, rates: Sequence[str]) -> Table:
    """Every seed by itself, where a cell has several."""
    columns = [Column(h, numeric=False) for h in ("labels", "encoder", *(["file"] if name_files else []), "decoder")]
    columns += [Column("seed"), *(Column(f"{rate.upper()} %") for rate in rates)]
    rows = []
    for m in cells:
        for row in m.rows if len(m.rows) > 1 else ():
            place = [m.labelled, m.encoder, *([m.file] if name_files else []), m.decoder, str(row.get("seed", ""))]
            rows.append((*map(Cell, place), *(Cell(number(row[r], DIGITS), interval(row[f"{r}_interval"], DIGITS))
                                              for r in rates)))
    return Table("seeds", "Every seed.", tuple(columns), tuple(rows), "In brackets: 95 % intervals over test "
                 "utterances.")


def _left_out(together: Sequence[Measured], cells: Sequence[Measured]) -> str:
    """What is said of cells of which means over the files are not of all files, if there are any."""
    whole, every = ({(m.labelled, m.encoder, m.decoder) for m in those} for those in (together, cells))
    return "What only some of the files have is left out." if whole and whole < every else ""


def _over_files_table(together: Sequence[Measured], left_out: str, rates: Sequence[str]) -> Table:
    columns = [Column(head, numeric=False) for head in ("labels", "encoder", "decoder")]
    columns += [Column("seeds"), *(Column(f"{rate.upper()} %") for rate in rates)]
    rows = tuple((*map(Cell, (m.labelled, m.encoder, m.decoder)), Cell(str(len(m.rows))),
                  *(_rate(m, rate, False) for rate in rates)) for m in together)
    return Table("over-files", "Means over the files, whose recipes differ in the seed only.", tuple(columns), rows,
                 " ".join(filter(None, ["±: standard deviation of single seeds.", left_out])))


def _rate(m: Measured, rate: str, strong: bool) -> Cell:
    return Cell(number(m.mean(rate), DIGITS), _sureness(m, rate), strong)


def _sureness(m: Measured, rate: str) -> str:
    """The standard deviation of seeds, where there are several, and the interval, where it is known."""
    deviation = m.deviation(rate)
    said = [] if deviation is None else [f"± {number(deviation, DIGITS)}"]
    return " ".join([*said, interval(m.interval(rate), DIGITS)]).strip()


def _difference(file: str, found: dict[str, Any]) -> Difference:
    place = [(column, str(found[key])) for column, key in (("labels", "labelled"), ("decoder", "decoder"))
             if key in found]
    speakers = found.get("by_speaker")
    return Difference(
        place=tuple(place), file=file, system=str(found["encoder"]),
        against=str(found.get("against", "baseline")), rate=str(found["rate"]), points=float(found["difference"]),
        utterances=_sure(found), speakers=_sure(speakers) if isinstance(speakers, dict) else None,
        seeds=tuple(_seed_differences(found)))


def _sure(found: dict[str, Any]) -> Sure:
    ends = found.get("interval")
    return Sure(None if ends is None else (float(ends[0]), float(ends[1])), found.get("p_value"), found.get("p_holm"))


def _seed_differences(found: dict[str, Any]) -> Iterator[float]:
    """Of a comparison over several seeds: a list of numbers, or of objects with a `difference`."""
    seeds = found.get("per_seed")
    for one in seeds.values() if isinstance(seeds, dict) else seeds if isinstance(seeds, list) else ():
        value = one.get("difference") if isinstance(one, dict) else one
        if isinstance(value, int | float):
            yield float(value)
