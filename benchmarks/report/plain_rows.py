"""Any other benchmark: its rows as a table, as the file has them, and what other lists it holds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.decoding_plot import draw_decoding, not_drawn
from benchmarks.report.document import MINUS, Block, Cell, Column, Section, Table, counted, interval, listed, number
from benchmarks.report.figures import scatter_figure
from benchmarks.report.measuring import short
from benchmarks.report.reading import Results, is_table

_HASH = re.compile(r"[0-9a-f]{40,}")
_HEADS = {"wer": "WER %", "cer": "CER %", "dev_wer": "dev WER %", "ngrams": "n-grams"}
_CAPITALS = {"wer", "cer", "pnmi", "lm", "gpu", "cpu", "tflop", "tflops"}
_RATES = ("wer", "cer", "dev_wer", "difference")
_NUMBERS = ("round", "layer", "stream", "update", "seed", "beam", "order", "run")  # they name and count nothing


def sections(files: Sequence[Results]) -> list[Section]:
    """A section of the rows of all files, and one for each other list of objects."""
    rows = [(file.name, _named(row, file)) for file in files for row in file.rows]
    blocks: list[Block] = [*tables(rows, "rows", "What was measured.", len(files) > 1)]
    if files[0].benchmark == "decoding":
        blocks += [_decoding_figure(file, len(files) > 1) for file in files]
    found = [Section("rows", "Measured", tuple(blocks))]
    for key in dict.fromkeys(key for file in files for key in file.content):
        lists = [(file.name, one) for file in files if is_table(file.content.get(key)) for one in file.content[key]]
        if key != "rows" and lists:
            name = key.replace("_", " ")
            found.append(Section(f"more-{_slug(key)}", name.capitalize(), tuple(
                tables(lists, f"more-{_slug(key)}", f"{name.capitalize()}.", len(files) > 1))))
    return found


def _named(row: Mapping[str, Any], file: Results) -> Mapping[str, Any]:
    """A row by what its numbers are of, where characters are counted in the place of words."""
    names = {} if file.unit == "word" else {"wer": "cer", "wer_interval": "cer_interval", "words": "characters"}
    return {names.get(key, key): value for key, value in row.items()}


def lead(files: Sequence[Results]) -> list[str]:
    """How much there is; which of the rows matters the benchmark alone knows."""
    rows = [f"{counted(len(file.rows), 'row')} of the benchmark {file.benchmark}, measured on {file.content['date']}"
            + (f" ({file.name})" if len(files) > 1 else "") + "." for file in files]
    said = []
    rated = [(file, row) for file in files for row in file.rows if isinstance(row.get("wer"), int | float)]
    if rated:
        file, best = min(rated, key=lambda pair: pair[1]["wer"])
        what = ", ".join(f"{_head(k)} {_shown(k, best[k])}" for k in ("decoder", "beam", "recordings", "threads")
                         if best.get(k) is not None)
        ends = interval(best.get("wer_interval"), 2)
        rate = f"{number(best['wer'], 2)} % {ends}".rstrip()
        said.append(f"Lowest {file.unit} error rate: {rate} ({what})" + (f" in {file.name}" * (len(files) > 1)) + ".")
    return said + rows


def tables(rows: Sequence[tuple[str, Mapping[str, Any]]], name: str, caption: str, name_files: bool) -> list[Table]:
    """One table, or where rows of several kinds differ in their columns one for each kind (`what`)."""
    kinds = list(dict.fromkeys(str(row["what"]) for _, row in rows if "what" in row))
    if len(kinds) < 2 or len({frozenset(row) for _, row in rows}) == 1 or not all("what" in row for _, row in rows):
        return [_table(rows, name, caption, name_files)]
    return [_table([(file, row) for file, row in rows if str(row["what"]) == kind], f"{name}-{number_}",
                   f"{kind[:1].upper()}{kind[1:]}.", name_files) for number_, kind in enumerate(kinds, 1)]


def _table(rows: Sequence[tuple[str, Mapping[str, Any]]], name: str, caption: str, name_files: bool) -> Table:
    keys = list(dict.fromkeys(key for _, row in rows for key in row))
    keys = [k for k in keys if not (k.endswith("_interval") and k.removesuffix("_interval") in keys)
            and any(row.get(k) not in (None, []) for _, row in rows)]
    readings = [k for k in keys if any(_is_readings(row.get(k)) for _, row in rows)]
    keys = [k for k in keys if k not in readings] or keys
    same = [k for k in keys if len(rows) > 1 and f"{k}_interval" not in rows[0][1] and all(
        k in row and row[k] == rows[0][1][k] for _, row in rows)]
    keys = [k for k in keys if k not in same] or keys
    columns = ([Column("file", numeric=False)] if name_files else []) + [
        Column(_head(k), numeric=not any(isinstance(row.get(k), str | bool) for _, row in rows)) for k in keys]
    digits = {k: _digits([row[k] for _, row in rows if isinstance(row.get(k), float)]) for k in keys}
    cells = [(*([Cell(file)] if name_files else []), *(
        Cell(_shown(k, row.get(k), digits[k]), interval(row.get(f"{k}_interval"), 2)) for k in keys))
        for file, row in rows]
    note = "; ".join(f"{_head(k)} {_shown(k, rows[0][1][k])}" for k in same if k in rows[0][1] and k not in keys)
    intervals = any(key.endswith("_interval") for _, row in rows for key in row)
    left = [f"Single readings of {listed([_head(k) for k in readings])} are in tables.csv."] if readings else []
    said = ["In brackets: 95 % intervals over test utterances."] * intervals
    return Table(name, caption, tuple(columns), tuple(cells),
                 " ".join([*said, *([f"In all rows: {note}."] if note else []), *left]))


def _head(key: str) -> str:
    words = [word.upper() if word in _CAPITALS else word for word in key.split("_")]
    return _HEADS.get(key, " ".join(words))


def _digits(values: Sequence[float]) -> int | None:
    """How many digits after the point all numbers of a column may have: five figures of the largest, and no more than
    the file has; None where the smallest would lose its figures."""
    if not values or any("e" in repr(v) or not math.isfinite(v) for v in values):
        return None
    digits = max(0, 4 - math.floor(math.log10(max(1.0, *map(abs, values)))))
    digits = min(digits, max(len(repr(value).partition(".")[2]) for value in values))
    return digits if all(value == 0 or abs(value) >= 10.0 ** (1 - digits) for value in values) else None


def _shown(key: str, value: Any, digits: int | None = None) -> str:
    """A value to be read; the CSV file has it in full."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(key, value, digits)
    if isinstance(value, list):
        if len(value) == 2 and all(isinstance(v, float) for v in value):
            return f"{_number(key, value[0])} to {_number(key, value[1])}"
        return ", ".join(_shown(key, one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{_head(k)} {_shown(k, v)}" for k, v in value.items() if v is not None)
    return short(value) + "…" if _HASH.fullmatch(str(value)) else str(value)


def _number(key: str, value: float, digits: int | None = None) -> str:
    if "memory" in key or "bytes" in key:
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
    if key in _RATES:
        return number(value, 2, "+" if key == "difference" else "")
    if isinstance(value, int):
        return str(value) if key in _NUMBERS else f"{value:,}".replace("-", MINUS)
    if digits is not None:
        return f"{value:,.{digits}f}".replace("-", MINUS)
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def _decoding_figure(file: Results, name_files: bool) -> Block:
    aside = not_drawn(file.rows)
    which = f" ({file.name})" if name_files else ""
    return scatter_figure(lambda axes: draw_decoding(axes, file.rows), f"speed-{_slug(file.name)}",
                          f"Error rate against speed{which}; numbers are beams, bars 95 % intervals over test "
                          f"utterances, hollow points over several threads.{f' Not drawn: {aside}.' if aside else ''}")


def _is_readings(value: Any) -> bool:
    """Whether something was measured again and again; a pair is a range."""
    return isinstance(value, list) and len(value) > 2 and all(isinstance(one, float) for one in value)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"
