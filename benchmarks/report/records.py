"""What was measured, in full, as one CSV file: the column `table` says which rows belong together."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from benchmarks.report.document import Report

MARK = ("table,file,", "table,hypotheses,")  # what the first line of a file of ours begins with


def records(report: Report) -> str:
    """All rows below the columns of all: intervals as two columns (`_low`, `_high`), lists as JSON, nothing rounded."""
    rows = [{"table": name} | _flat(row) for name, those in report.records.items() for row in those]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode("utf-8", "backslashreplace").decode()


def _flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        elif "interval" in key and isinstance(value, list | tuple) and len(value) == 2:
            found |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        elif isinstance(value, list | tuple):
            found[name] = json.dumps(value, ensure_ascii=False)
        else:
            found[name] = "" if value is None else value
    return found
