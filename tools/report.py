"""`hubertkit report`: results and hypotheses as a page, LaTeX tables, CSV and Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.report import hypotheses, making
from benchmarks.report.reading import given_files, read_all, unfinished_beside
from downstream.score.references import read_references
from tools.outputs import check_folder
from upstream.errors import UsageError
from upstream.progress import progress, say


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(report)


def report(
    files: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="results.json of benchmarks (or their "
                                                "folders), or hypotheses (.jsonl, or of `transcribe "
                                                "--format json`) with --references.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.md, tables.tex and tables.csv.")] = ...,  # type: ignore[assignment]
    references: Annotated[Path | None, typer.Option(help="Of hypotheses: the manifest, or a file of `id text` "
                                                         "lines.")] = None,
    characters: Annotated[bool, typer.Option("--characters", help="Of hypotheses: count characters, not words, and no "
                                                                  "spaces.")] = False,
    seed: Annotated[int, typer.Option(help="Of hypotheses: of the draws.")] = 0,
) -> None:
    """What was measured, as tables and figures for a paper, a model card or a pull request: how sure it is, how it was
    measured, and what to be careful about. Several files of one benchmark stand side by side."""
    given, decoded = given_files(files)
    if decoded and references is None:
        raise UsageError(f"{given[0]}: hypotheses need --references, the manifest or a file of `id text` lines")
    if not decoded and (references is not None or characters):
        raise UsageError("--references and --characters are of hypotheses; results hold their scores")
    check_folder(out, [*given, references])
    making.check_place(out)
    if decoded:
        assert references is not None  # asked above
        truth = read_references(references)
        pairs = len(given) * (len(given) - 1) // 2
        with progress("scoring", len(given) + pairs) as done:
            found = hypotheses.report(given, truth, "character" if characters else "word", seed, done)
    else:
        for line in unfinished_beside(files):
            say(f"note: {line}")
        found = making.report(read_all(given))
    paths = making.write(found, out)
    for line in found.lead:
        print(line)
    print(f"{paths[-1]}; beside it {', '.join(path.name for path in paths[:-1])}")
