"""What the rounds of a pretraining gave, beside the comparison that they were made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.report.document import Cell, Column, Section, Table, number
from benchmarks.report.reading import Results, objects


def pretraining(files: Sequence[Results]) -> list[Section]:
    """What the rounds of pretraining gave, as far as the files say."""
    rows = [(file, found) for file in files for found in objects(file.content.get("rounds"))]
    if not rows:
        return []
    heads = [*(["file"] if len(files) > 1 else []), "round", "teacher reads", "classes", "PNMI of the units",
             "masked accuracy", "best layer's PNMI", "loss"]
    cells = [tuple(map(Cell, [*([file.name] if len(files) > 1 else []), *_round(found, _features(file, found))]))
             for file, found in rows]
    kept = [i for i in range(len(heads)) if any(row[i].text for row in cells)]
    left = 2 if len(files) > 1 else 1
    columns = tuple(Column(heads[i], numeric=not (i == left or heads[i] == "file")) for i in kept)
    table = Table("rounds", "Rounds of pretraining.", columns, tuple(tuple(row[i] for i in kept) for row in cells),
                  "PNMI: phone-normalised mutual information with aligned phones, 0 to 1.", paper=False)
    return [Section("rounds", "Pretraining", (table,))]


def _round(found: dict[str, Any], features: str) -> list[str]:
    parts: list[dict[str, Any]] = [part if isinstance(part := found.get(key), dict) else {}
                                   for key in ("teacher", "units", "encoder")]
    teacher, units, encoder = parts
    read = features if teacher.get("layer") is None else f"layer {teacher['layer']}"
    classes = " × ".join(map(str, units["classes"])) if isinstance(units.get("classes"), list) else ""
    layers = {k.removeprefix("pnmi_layer"): v for k, v in encoder.items() if k.startswith("pnmi_layer")}
    best = max(layers, key=lambda k: layers[k]) if layers else None
    return [str(found.get("round", "")), read, classes, _three(units.get("pnmi")),
            _three(encoder.get("masked_accuracy")),
            "" if best is None else f"{_three(layers[best])} (layer {best})", _three(encoder.get("loss"))]


def _features(file: Results, found: dict[str, Any]) -> str:
    """What the teacher of a round reads, as the recipe says it; "" where it does not."""
    try:
        return str(file.content["recipe"]["pretrain"]["rounds"][found["round"] - 1]["teacher"]["features"]).upper()
    except (KeyError, IndexError, TypeError):
        return ""


def _three(value: Any) -> str:
    return number(float(value), 3) if isinstance(value, int | float) else ""
