"""The files that a report is made of, each with a name that tells it from the others, and what belongs side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import read_results
from downstream.given_files import check_readable
from downstream.score.rates import RATES, Unit
from upstream.disk import content_hash, file_hash
from upstream.errors import FormatError, InputError, UsageError

LOW_RESOURCE = "low-resource"  # the benchmark of which a report knows most
# Benchmarks whose results there are, and what a report on them is called.
TITLES = {LOW_RESOURCE: "Recognition with few labels", "decoding": "Decoders: error rate against speed",
          "teachers": "Teachers against phones", "speed": "Speed of an update", "speed-ledger": "Speed of an update, "
          "commit by commit", "pretraining-speed": "Speed of a pretraining",
          "finetuning-shapes": "Speed of a fine-tuning",
          "front-ends": "Front ends: cost and what they learn", "ranks": "What a second rank is worth",
          "feeding": "How fast recordings become batches", "kmeans": "k-means: fitting and labelling",
          "lm": "Estimating n-gram models", "scale": "A corpus of millions of utterances",
          "seams": "Long recordings: seams", "selftrain": "Self-training, round by round",
          "curves": "Reference curves of pretraining"}
HYPOTHESES = ".jsonl"
RESULTS = "results.json"
PARTIAL = "results.partial.json"  # of a comparison that is not finished, beside the whole results of another recipe


@dataclass(frozen=True)
class Results:
    """A results file.

    Attributes:
        name: what tells it from the others of a report.
        content: as `benchmarks/results_schema.json` says.
        hash: sha256 of the file's bytes.
    """

    name: str
    path: Path
    content: dict[str, Any]
    hash: str

    @property
    def benchmark(self) -> str:
        return str(self.content["benchmark"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.content["rows"])

    @property
    def unit(self) -> Unit:
        """That errors are counted in."""
        return "character" if self.content.get("unit") == "character" else "word"

    @property
    def rates(self) -> tuple[str, ...]:
        """Of a comparison, that which is to be read first before the other, where there are two."""
        return tuple(self.content.get("rates", RATES))


def rates_of_all(files: Sequence[Results]) -> tuple[str, ...]:
    """The error rates that tables of several files show, in their order; of files that disagree the words' first."""
    return files[0].rates if len({file.rates for file in files}) == 1 else RATES


def is_table(value: Any) -> bool:
    """Whether a value of a file is a list of objects, and not empty: rows of a table."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list of a file; none where it is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def given_files(paths: Sequence[Path]) -> tuple[list[Path], bool]:
    """The files that are meant, and whether they are hypotheses; a folder stands for the `results.json` in it.
    Transcripts of `transcribe --format json` are hypotheses, as for `score`.

    Raises:
        UsageError: no file, the same file twice, or hypotheses beside results.
    """
    files = [path / RESULTS if path.is_dir() else path for path in paths]
    for path, given in zip(files, paths):
        if given.is_dir() and not path.is_file():
            raise UsageError(f"{given}: a folder without {RESULTS}; give the file of results or of hypotheses")
        check_readable(path, f"no such file; give {RESULTS} of a benchmark, or hypotheses ({HYPOTHESES})")
    for number, path in enumerate(files):
        if any(path.samefile(other) for other in files[:number]):
            raise UsageError(f"{path}: given twice; a file beside itself compares nothing")
    hypotheses = [path.suffix == HYPOTHESES or _begins_with_a_hypothesis(path) for path in files]
    if len(set(hypotheses)) > 1:
        raise UsageError(f"{files[hypotheses.index(False)]}: results beside hypotheses; make a report of each kind")
    return files, all(hypotheses)


def _begins_with_a_hypothesis(path: Path) -> bool:
    """Whether a file's first line is a hypothesis; results have their first brace alone on it."""
    if not path.is_file():  # what a pipe says is said once
        return False
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(file.readline())
    except (ValueError, RecursionError):  # no text, no JSON
        return False
    return isinstance(first, dict) and {"id", "text"} <= first.keys()


def unfinished_beside(paths: Sequence[Path]) -> list[str]:
    """What is to be said of results that are given by their folder, and are not the newest there; a line for each."""
    newer = [path / PARTIAL for path in paths if path.is_dir() and (path / PARTIAL).is_file()]
    return [f"{path}: of a comparison by another recipe, which is not finished; the report is of {RESULTS} beside it, "
            "and of that file if it is given" for path in newer]


def read_all(files: Sequence[Path]) -> list[Results]:
    """Results files of one benchmark.

    Raises:
        FormatError: a file that is no results of ours, or of a benchmark that is not known.
        InputError: several benchmarks, or the same results twice.
    """
    found = [_read(path, name) for path, name in zip(files, names_of(files))]
    for number, results in enumerate(found):
        if results.benchmark != found[0].benchmark:
            raise InputError(f"{results.path}: of the benchmark {results.benchmark}, and {found[0].path} of "
                             f"{found[0].benchmark}; make a report of each")
        for other in found[:number]:
            if content_hash(other.content) == content_hash(results.content):
                raise InputError(f"{results.path}: the same results as {other.path}; give one of them")
    return found


def _read(path: Path, name: str) -> Results:
    content = read_results(path)
    benchmark = content["benchmark"]
    if benchmark not in TITLES:
        raise FormatError(f"{path}: of the benchmark {benchmark!r}, which is not known here; known are "
                          f"{', '.join(sorted(TITLES))}")
    if not content["rows"]:
        raise InputError(f"{path}: no rows, so there is nothing to report; run the benchmark until it has measured")
    return Results(name, path, content, file_hash(path))


def names_of(paths: Sequence[Path]) -> list[str]:
    """The shortest endings of paths that tell them apart, without the suffix; of `results.json` their folder's name.
    Links keep their own names: what they lead to may be called by a hash."""
    wholes = [Path(os.path.abspath(path)) for path in paths]
    parts = [path.with_suffix("").parts for path in wholes]
    stems = [p[:-1] if p[-1] == Path(RESULTS).stem and len(p) > 2 else p for p in parts]
    chosen = stems if len(set(stems)) == len(stems) else parts
    if len(set(chosen)) < len(chosen):  # they differ in their suffix alone
        chosen = [path.parts for path in wholes]
    length = next(n for n in range(1, 1 + max(map(len, chosen))) if len({c[-n:] for c in chosen}) == len(chosen))
    return ["/".join(c[-length:]).lstrip("/") for c in chosen]
