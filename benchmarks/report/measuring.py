"""How results were measured: what a reader needs to trust or to repeat them, and nothing that the files do not say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.report.document import Block, Cell, Column, Facts, Listing, Section, Table, counted, listed, number
from benchmarks.report.reading import LOW_RESOURCE, Results, is_table, objects
from benchmarks.report.seeds import row_seed
from benchmarks.report.test_sets import named_test

_SHORT = 12  # characters of a hash that a table shows
_TOLD = {"format", "date", "machine", "versions", "benchmark", "command", "rows", "recipe", "seconds", "comparisons",
         "rounds", "summaries", "test", "dev", "rates"}


def section(files: Sequence[Results]) -> Section:
    """A list of facts for each file, its recipe, and of recognisers with weights a table of these."""
    blocks: list[Block] = []
    for file in files:
        title = file.name if len(files) > 1 else ""
        blocks.append(Facts(title, tuple(facts(file))))
        if file.benchmark == LOW_RESOURCE:
            blocks += [encoder_table(found, file, title)] if (found := objects(file.content.get("encoders"))) else []
            blocks.append(recogniser_table(file, title))
        recipe = file.content.get("recipe")
        if recipe is not None:
            blocks.append(Listing(f"Recipe{f' of {title}' if title else ''}, in full", _as_text(recipe)))
    return Section("measured", "How it was measured", tuple(blocks))


def facts(file: Results) -> Iterator[tuple[str, str]]:
    """Terms and what a file says of them."""
    content = file.content
    yield "command", str(content["command"])
    yield "date", str(content["date"])
    if isinstance(content.get("seconds"), int | float):
        yield "time", duration(content["seconds"])
    yield "machine", machine(content["machine"])
    yield "versions", versions(content["versions"])
    seeds = sorted({s for row in file.rows if (s := row_seed(row, file)) is not None})
    if seeds:
        yield "seed" if len(seeds) == 1 else "seeds", ", ".join(map(str, seeds))
    if test := named_test(file):
        yield "test set", _pairs(test)
    if isinstance(dev := content.get("dev"), dict):
        yield "dev set, which weights are tuned on", _pairs(dev)
    if isinstance(content.get("recipe"), dict):
        yield from _recipe_facts(content["recipe"])
    if hashes := sorted({f"sha256 {row['lm_hash']}" for row in file.rows if row.get("lm_hash")}):
        yield "language model", listed(hashes)
    for key, value in content.items():
        if key not in _TOLD and not is_table(value):
            yield key.replace("_", " "), _pairs(value) if isinstance(value, dict) else _plain(value)
    yield "results", f"{file.path.name}, sha256 {file.hash}"


def recogniser_table(file: Results, title: str) -> Table:
    """Recognisers, what was trained, and the weights that were tuned on dev."""
    heads = {"cell": ("cell", "seed", "decoder"), "tuned": ("lm_weight", "word_score", "beam", "dev_wer", "on_edge")}
    keys = [k for k in (*heads["cell"], "recogniser", "finetune_updates", "seconds", *heads["tuned"])
            if any(row.get(k) not in (None, []) for row in file.rows)]
    named = {"cell": "cell", "recogniser": "recogniser", "finetune_updates": "updates", "lm_weight": "LM weight",
             "word_score": "word score", "dev_wer": f"dev {_tuned_on(file)} %", "on_edge": "on edge"}
    texts = ("cell", "decoder", "recogniser", "on_edge")
    columns = tuple(Column(named.get(key, key), numeric=key not in texts) for key in keys)
    rows = tuple(tuple(Cell(_weight(key, row)) for key in keys) for row in file.rows)
    edge = "; on edge: the weight lies on the edge of what was tried" if "on_edge" in keys else (
        "; none lies on the edge of what was tried" if any("on_edge" in row for row in file.rows) else "")
    flatters = " Rates on dev are of the utterances that weights were found on, and flatter." * ("dev_wer" in keys)
    return Table("recognisers", f"Recognisers and the weights found on dev{f', {title}' if title else ''}.", columns,
                 rows, "Recognisers by the beginning of their hash. Weights are of natural logarithms"
                 f"{edge}.{flatters}", paper=False)


def _tuned_on(file: Results) -> str:
    """The rate on dev by which weights were chosen, if the file is of those that name the rates of the test set."""
    recipe = file.content.get("recipe")
    decoding = recipe.get("decoding") if isinstance(recipe, dict) and "rates" in file.content else None
    return "CER" if isinstance(decoding, dict) and decoding.get("unit") == "character" else "WER"


def encoder_table(encoders: Sequence[Mapping[str, Any]], file: Results, title: str) -> Table:
    """Encoders from elsewhere: what their names stand for, and what is particular to their fine-tuning."""
    recipe = file.content.get("recipe")
    given = recipe.get("encoders") if isinstance(recipe, dict) else None
    columns = (Column("encoder", numeric=False), Column("read from", numeric=False), Column("weights", numeric=False),
               Column("front end", numeric=False), Column("ms a frame"), Column("layers"), Column("width"),
               Column("its fine-tuning", numeric=False))
    rows = []
    for found in encoders:
        own = given.get(found.get("name")) if isinstance(given, dict) else None
        changed = own.get("finetune") if isinstance(own, dict) else None
        told = {key: "" if value is None else _plain(value) for key, value in found.items()}
        rows.append((*(Cell(told.get(key, "")) for key in ("name", "encoder")), Cell(short(found.get("hash"))),
                     *(Cell(told.get(key, "")) for key in ("frontend", "stride_ms", "layers", "width")),
                     Cell(_pairs(changed) if isinstance(changed, dict) else "")))
    return Table("encoders", f"Encoders from elsewhere{f', {title}' if title else ''}.", columns, tuple(rows),
                 "Weights by the beginning of their hash. What all fine-tunings have in common is in the recipe.",
                 paper=False)


def machine(found: Mapping[str, Any]) -> str:
    """A machine in a line."""
    said = [str(found.get("processor") or "processor unknown"), counted(found["cores"], "core") if isinstance(
        found.get("cores"), int) else "cores unknown"]
    if isinstance(found.get("threads"), int):
        said.append(counted(found["threads"], "thread"))
    if "gpu" in found:
        said.append(str(found["gpu"]) if found["gpu"] else "no GPU")
    return ", ".join(said + ([str(found["system"])] if found.get("system") else []))


def versions(found: Mapping[str, Any]) -> str:
    """`torch 2.11.0, numpy 1.26.4`, in the order of the file."""
    return ", ".join(f"{name} {version}" for name, version in found.items())


def duration(seconds: float) -> str:
    """`7,172 s (2 h 0 min)`."""
    minutes = round(seconds / 60)
    spelled = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"{seconds:,.0f} s" + (f" ({spelled})" if seconds >= 90 else "")


def short(digest: Any) -> str:
    """The beginning of a hash."""
    return str(digest)[:_SHORT] if digest else ""


def _recipe_facts(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What of a low-resource recipe decides most."""
    heard = ("unlabelled", "dev", "test") if _pretrains(recipe) else ("dev", "test")
    splits = [f"{what} {recipe[what]}" for what in heard if recipe.get(what)]
    if splits:
        yield "data", ", ".join([f"corpus {recipe.get('corpus', 'unknown')}", *splits])
    lm, decoding = recipe.get("lm"), recipe.get("decoding")
    if isinstance(lm, dict):
        yield "n-gram model", _pairs(lm)
    if isinstance(decoding, dict):
        yield "decoding", _pairs(decoding)


def _pretrains(recipe: Mapping[str, Any]) -> bool:
    """Whether a cell is of a round of pretraining: otherwise nothing unlabelled is heard."""
    cells = recipe.get("cells")
    return not isinstance(cells, list) or any(re.search(r":\s*round ?\d+\s*$", str(cell)) for cell in cells)


def _weight(key: str, row: Mapping[str, Any]) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if key == "recogniser":
        return short(value)
    if key == "dev_wer":
        return number(float(value), 2)
    if key == "on_edge":
        return listed([str(v) for v in value]) if isinstance(value, list) else str(value)
    return _plain(value)


def _pairs(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in found.items() if value is not None)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.10g}"
    if isinstance(value, dict):
        return f"({_pairs(value)})"
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _as_text(recipe: Any) -> str:
    """A recipe as YAML, which is how recipes are written."""
    import yaml

    try:
        return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100))
    except yaml.YAMLError:
        return json.dumps(recipe, indent=1, ensure_ascii=False)
