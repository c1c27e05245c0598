"""`hubertkit decode-check`: what would give a word error rate of 90, before an hour is spent."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from downstream.decode.check import Check
from downstream.decode.health import examine
from downstream.decode.health_words import read_model_words
from downstream.emissions import Emissions
from downstream.score.references import read_references
from downstream.text.lexicon import Lexicon
from upstream.progress import progress, say

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("decode-check")(decode_check)


def decode_check(
    emissions: Annotated[Path, typer.Argument(help="Folder of emissions of a development set.")],
    references: Annotated[Path, typer.Option(help="Its manifest, or a file of `id text` lines.")] = ...,  # type: ignore[assignment]
    lm: Annotated[Path | None, typer.Option(help="ARPA file, may be gzipped, or what `lm pack` wrote.")] = None,
    lexicon: Annotated[Path | None, typer.Option(help="Lines WORD<tab>W O R D |, or words alone.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Speech to look at; more is thinned out evenly.")] = 300.0,
    characters: Annotated[bool, typer.Option("--characters", help="Look at characters, not words: for references of "
                                             "scripts without spaces between words.")] = False,
    unspaced: Annotated[bool, typer.Option("--unspaced", help="Decoding will need no separators between words "
                                           "(`tune --unspaced`).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of lines.")] = False,
) -> None:
    """Check emissions, references, language model and lexicon against each other; exit 1 if a check failed."""
    stored, texts = Emissions.load(emissions), read_references(references).texts
    with progress("reading", 1) as report:
        words = None if lm is None else read_model_words(lm, report, say)
    with progress("checking", 1):
        checks = examine(stored, texts, words, None if lexicon is None else Lexicon.load(lexicon).spellings, seconds,
                         "character" if characters else "word", unspaced)
    failed = sum(check.level == "failed" for check in checks)
    if as_json:
        print(json.dumps([_plain(check) for check in checks], indent=1, ensure_ascii=False))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for check in checks:
            level = f"[{_COLOURS[check.level]}]{check.level:<8}[/]"
            console.print(f"{level}[bold]{check.name}[/]: {escape(check.what)}")
            if check.advice:
                console.print(f"{'':8}-> {escape(check.advice)}")
        print(f"{len(checks)} checks: {failed} failed, {sum(c.level == 'warning' for c in checks)} warnings")
    if failed:
        raise typer.Exit(1)


def _plain(check: Check) -> dict[str, object]:
    record = asdict(check)
    if check.measured != check.measured:  # NaN is no JSON
        record["measured"] = None
    return record
