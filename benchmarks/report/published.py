"""Word error rates that others published for the same test set, where that is one of LibriSpeech's."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.report.document import Cell, Column, Section, Table, counted, number

LABELS = ("10min", "1h", "10h", "100h", "960h")
_FILE = Path(__file__).parent.parent / "published.yaml"


def section(utterances: Any, words: Any) -> Section | None:
    """What was published for the set with so many utterances and reference words; None where that is none of
    LibriSpeech's, of which other texts or a part have other numbers."""
    test_set = next((name for name, size in _published()["sets"].items() if size == {
        "utterances": utterances, "words": words}), None)
    return None if test_set is None else Section("published", "Published rates", (_table(test_set),))


def _table(test_set: str) -> Table:
    found = _published()
    place = list(found["sets"]).index(test_set)
    columns = [Column(head, numeric=False) for head in ("encoder, pretrained on", "language model")]
    columns += [*map(Column, LABELS), Column("source", numeric=False)]
    rows = tuple((Cell(row["system"]), Cell(row["decoder"]), *(
        Cell(number(row[label][place], 1)) if label in row else Cell() for label in LABELS),
                  Cell(_short(found["sources"][row["source"]]))) for row in found["rates"])
    size = found["sets"][test_set]
    return Table("published", f"Word error rates published for LibriSpeech's {test_set}, by labels, in percent.",
                 tuple(columns), rows, f"The test set here has as many utterances ({size['utterances']:,}) and "
                 f"{counted(size['words'], 'reference word')} as {test_set}. Not measured here: encoders, language "
                 f"models and searches are the authors'. Sources: {'; '.join(found['sources'].values())}.", paper=False)


def _short(source: str) -> str:
    """Authors and year, of which the note says where."""
    return source.partition(",")[0]


@cache
def _published() -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
