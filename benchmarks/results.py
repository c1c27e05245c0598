"""`results.json`: what was measured, with the command, the machine and the versions; and the table that shows it."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from upstream.disk import check_out, disk_errors, read_json, write_json
from upstream.errors import FormatError, HubertkitError, UsageError
from upstream.stage import versions

SCHEMA = Path(__file__).with_name("results_schema.json")


def write_results(path: Path, content: dict[str, Any]) -> None:
    """Complete a result with versions, machine and date, check it against the schema, and write it atomically."""
    whole = {"format": 1, "date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions(), **content}
    check(whole, path)
    write_json(path, whole)


def read_results(path: Path) -> dict[str, Any]:
    """Read a results file. Raises FormatError where it does not fit the schema."""
    content = read_json(path)
    check(content, path)
    return content


def refuse_other_results(path: Path, benchmark: str) -> None:
    """Raise UsageError where a file that is no result of this benchmark would be written over; to be asked before the
    work.

    Args:
        benchmark: its name, as its results say it.
    """
    if not path.is_file():
        return
    try:
        found = read_json(path)
    except FormatError:
        found = None
    known = isinstance(found, dict) and {"benchmark", "rows"} <= found.keys()
    if not known or found["benchmark"] != benchmark:
        what = f"of the benchmark {found['benchmark']}" if known else "no results of a benchmark of ours"
        raise UsageError(f"{path}: is there already and {what}, so it is left as it is; give another file (--out), or "
                         "move it away")


@contextlib.contextmanager
def results_file(path: Path, benchmark: str) -> Iterator[None]:
    """Around `python -m benchmarks.NAME`, which has none of the command line: what cannot work or fails ends as there,
    before the work where it is known before: with one line and an exit code. Results of others are not replaced.

    Args:
        path, benchmark: as for `refuse_other_results`.
    """
    try:
        with disk_errors(path):
            check_out(path)
            refuse_other_results(path, benchmark)
            yield
    except HubertkitError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def check(content: dict[str, Any], path: Path) -> None:
    """Raise FormatError saying what in a result does not fit `results_schema.json`. Without the package jsonschema, as
    on a machine that is borrowed to measure on, it is checked when it is committed."""
    try:
        import jsonschema
    except ImportError:
        return
    errors = sorted(jsonschema.Draft202012Validator(read_json(SCHEMA)).iter_errors(content), key=lambda e: list(e.path))
    if errors:
        place = ".".join(str(p) for p in errors[0].path) or "top level"
        raise FormatError(f"{path}: {place}: {errors[0].message}")


def machine() -> dict[str, Any]:
    """The processor, its cores, and the GPU if there is one."""
    import torch

    return {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.system(), "bf16_instructions": _has_bf16()}


def table(rows: list[dict[str, Any]], columns: list[str], title: str = "",
          digits: Mapping[str, int] | None = None) -> Any:
    """Rows as a rich table; numbers with one digit or as many as `digits` says, intervals in brackets. Where it is
    narrow, lines are broken and nothing is left out."""
    from rich.table import Table

    found = Table(title=title or None)
    for column in columns:
        found.add_column(column.replace("_", " "), overflow="fold",
                         justify="left" if column in ("encoder", "labelled", "decoder") else "right")
    for row in rows:
        found.add_row(*(_cell(row.get(column), row.get(f"{column}_interval"), (digits or {}).get(column, 1))
                        for column in columns))
    return found


def _cell(value: Any, interval: list[float] | None, digits: int) -> str:
    text = f"{value:.{digits}f}" if isinstance(value, float) else "" if value is None else str(value)
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else text


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _processor() -> str:
    names = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _has_bf16() -> str:
    flags = _cpuinfo()
    return "amx" if "amx_bf16" in flags else "avx512" if "avx512_bf16" in flags else "none known"
