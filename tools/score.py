"""`hubertkit score`."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from downstream.decode.hypothesis import read_hypotheses
from downstream.decode.provenance import provenance_path, read_provenance
from downstream.score.intervals import bootstrap_interval, range_of
from downstream.score.rates import NO_SPACES, Score, Unit, rates_of, without_spaces
from downstream.score.rates import score as rate
from downstream.score.references import References, read_references
from downstream.score.significance import p_value_text, paired_difference
from tools.few import tell_few
from upstream.progress import say


class By(str, enum.Enum):
    """What the intervals draw anew."""

    utterance = "utterance"
    speaker = "speaker"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(score)


def score(
    hypotheses: Annotated[Path, typer.Argument(help="What `hubertkit decode` or `transcribe --json` wrote.")],
    references: Annotated[Path, typer.Option(help="The manifest, or a file of `id text` lines.")] = ...,  # type: ignore[assignment]
    against: Annotated[Path | None, typer.Option(help="Other hypotheses of the same utterances to compare "
                                                      "with.")] = None,
    by: Annotated[By, typer.Option(help="Intervals draw utterances or whole speakers.")] = By.utterance,
    characters: Annotated[bool, typer.Option("--characters", help="Count characters, not words, and no spaces: of "
                                                                  "scripts without spaces between words.")] = False,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Word and character error rates with 95% intervals, and the difference between two decodings."""
    truth = read_references(references)
    unit: Unit = "character" if characters else "word"
    tell_few(len(set(_groups(truth, by) or truth.texts)), by.value, tested=against is not None)
    first = _score(hypotheses, truth, unit)
    made_by = _made_by if as_json else lambda _: {}  # of which a table says nothing
    result: dict[str, Any] = {"unit": unit, "hypotheses": str(hypotheses), **summary(first, truth, by, seed),
                              **made_by(hypotheses)}
    if against is not None:
        second = _score(against, truth, unit)
        result["against"] = {"hypotheses": str(against), **summary(second, truth, by, seed), **made_by(against)}
        result["difference"] = difference(first, second, truth, by, seed)
    if as_json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        _show(result)


def summary(found: Score, truth: References, by: By, seed: int) -> dict[str, Any]:
    """Rates in percent with intervals, and counts, as JSON values; where characters are counted, those of words are of
    characters, too."""
    counts, groups = found.per_utterance, _groups(truth, by)
    wer = bootstrap_interval(counts.errors, counts.words, seed=seed, groups=groups)
    cer = bootstrap_interval(counts.character_errors, counts.characters, seed=seed, groups=groups)
    return {
        "wer": found.wer, "wer_interval": wer.ends, "cer": found.cer, "cer_interval": cer.ends,
        "words": found.words, "errors": found.errors, "substitutions": found.substitutions,
        "deletions": found.deletions, "insertions": found.insertions, "characters": found.characters,
        "character_errors": found.character_errors, "sentences": len(counts.ids),
        "sentence_errors": found.sentence_errors, "interval_by": by.value, "seed": seed}


def difference(first: Score, second: Score, truth: References, by: By, seed: int) -> dict[str, Any]:
    """First minus second in percentage points, with intervals and p-values, as JSON values."""
    one, two, groups = first.per_utterance, second.per_utterance, _groups(truth, by)
    wer = paired_difference(one.errors, two.errors, one.words, seed=seed, groups=groups)
    cer = paired_difference(one.character_errors, two.character_errors, one.characters, seed=seed, groups=groups)
    return {"wer": wer.points, "wer_interval": wer.interval.ends, "wer_p_value": wer.p_value,
            "cer": cer.points, "cer_interval": cer.interval.ends, "cer_p_value": cer.p_value}


def _score(path: Path, truth: References, unit: Unit) -> Score:
    texts = {h.id: h.text for h in read_hypotheses(path)}
    found = rate(truth.texts, texts, unit)
    if unit == "word" and without_spaces(truth.texts.values(), texts.values()):
        say(f"{path}: words are counted, and those of the references look like whole phrases; {NO_SPACES}")
    return found


def _made_by(path: Path) -> dict[str, Any]:
    """`provenance` of hypotheses, where it stands beside them."""
    found = read_provenance(path)
    if found is None and provenance_path(path).is_file():
        say(f"{provenance_path(path)}: is not of {path.name} as it is now; left out")
    return {} if found is None else {"provenance": found}


def _groups(truth: References, by: By) -> list[str] | None:
    return truth.groups() if by is By.speaker else None


def _show(result: dict[str, Any]) -> None:
    """A table that fits a terminal of 80 columns: intervals stand below their rates."""
    rates = rates_of(result["unit"])
    table = Table(Column("hypotheses", overflow="fold"), *(Column(f"{name.upper()} %", no_wrap=True) for name in rates),
                  *(Column(name, no_wrap=True) for name in (f"{result['unit']}s", "sub", "del", "ins", "wrong")),
                  box=SIMPLE_HEAD)
    for row in filter(None, (result, result.get("against"))):
        table.add_row(
            escape(Path(row["hypotheses"]).name), *_cells(row, rates), str(row["words"]), str(row["substitutions"]),
            str(row["deletions"]), str(row["insertions"]), f"{row['sentence_errors']}/{row['sentences']}")
    if "difference" in result:
        table.add_row("difference", *_cells(result["difference"], rates, "+"))
    intervals = f"95% intervals: bootstrap by {result['interval_by']}" if result["wer_interval"] else "no intervals"
    table.caption = f"{intervals}; wrong: sentences with an error"
    table.caption_justify = "left"
    console = Console()
    console.print(table)
    if "difference" in result:
        row = result["difference"]
        values = ", ".join(f"{p_value_text(row[f'{name}_p_value'])} for {name.upper()}" for name in rates)
        console.print(f"p = {values} (two-sided randomisation test by {result['interval_by']})", highlight=False)


def _cells(row: dict[str, Any], rates: Sequence[str], sign: str = "") -> list[str]:
    return [f"{row[name]:{sign}.2f}\n{range_of(row[f'{name}_interval'], sign, ', ')}" for name in rates]

