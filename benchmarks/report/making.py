"""The report of results files, and its files on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.report import (
    cautions,
    latex,
    low_resource,
    markdown,
    measuring,
    page,
    plain_rows,
    published,
    records,
    rounds,
)
from benchmarks.report.document import Points, Report, Section, counted, listed
from benchmarks.report.reading import LOW_RESOURCE, TITLES, Results, is_table
from benchmarks.report.test_sets import named_test, refuse_different
from upstream.disk import disk_errors, writing_together
from upstream.errors import UsageError

# Each file of a report: what writes it, and what a file of ours begins with. The page is the last to be renamed.
WRITERS: dict[str, tuple[Callable[[Report], str], str | tuple[str, ...]]] = {
    "tables.tex": (latex.latex, latex.MARK), "tables.csv": (records.records, records.MARK),
    "report.md": (markdown.markdown, markdown.MARK), "report.html": (page.page, page.MARK)}
_BEGINNING = 1000  # characters in which the mark stands


def report(files: Sequence[Results]) -> Report:
    """What there is to say of results of one benchmark.

    Raises:
        InputError: they are of different test sets.
    """
    refuse_different(files)
    kind = low_resource if files[0].benchmark == LOW_RESOURCE else plain_rows
    warned = cautions.cautions(files)
    sections = kind.sections(files)
    if warned:
        sections.append(Section("cautions", "Read with care", (Points(tuple(warned)),)))
    test = named_test(files[0])
    if kind is low_resource and (others := published.section(test.get("utterances"), test.get("words"))):
        sections.append(others)
    sections += rounds.pretraining(files) if kind is low_resource else []
    sections.append(measuring.section(files))
    dates = listed(list(dict.fromkeys(str(file.content["date"]) for file in files)))
    machines = dict.fromkeys(str(file.content["machine"].get("processor")) for file in files)
    subtitle = f"Benchmark {files[0].benchmark}, {dates}, {listed(list(machines))}"
    subtitle += f"; {counted(len(files), 'file')}" if len(files) > 1 else ""
    rows: dict[str, list[dict[str, object]]] = {}
    for file in files:
        for key, value in file.content.items():
            if is_table(value):
                rows.setdefault(key, []).extend({"file": file.name} | one for one in value)
    rows = {"rows": rows.pop("rows"), **rows}
    return Report(TITLES[files[0].benchmark], subtitle, tuple(kind.lead(files)), tuple(sections), rows)


def check_place(out: Path) -> None:
    """Raise UsageError where a file that is none of ours would be written over; to be asked before the work."""
    for name, (_, mark) in WRITERS.items():
        path = out / name
        if path.is_file() and not _is_ours(path, mark):
            raise UsageError(f"{path}: is there already and no report of ours, so it is left as it is; give another "
                             "folder (--out), or move it away")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: is there already and no file, where one would be written; give another "
                             "folder (--out)")


def write(found: Report, out: Path) -> list[Path]:
    """Write all files of a report, whole or not at all; gives their paths."""
    texts = {name: writer(found) for name, (writer, _) in WRITERS.items()}
    paths = [out / name for name in texts]
    with disk_errors(out), writing_together(paths) as temporaries:
        for temporary, text in zip(temporaries, texts.values()):
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return paths


def _is_ours(path: Path, mark: str | tuple[str, ...]) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            beginning = file.read(_BEGINNING)
    except UnicodeDecodeError:
        return False
    return mark in beginning if mark == page.MARK else beginning.startswith(mark)
