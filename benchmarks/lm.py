"""Estimating an n-gram model: seconds and peak memory, in memory and within a limit.

    hubertkit bench lm TEXT --out lm.json

Every model is estimated and written as an ARPA file by a process of its own, on an idle machine for figures that mean
something. A file that is there already and holds models of the same text is gone on with: what this version of the
code measured is not measured again, and what another one did is replaced. The ARPA files are compared and removed.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.apart import in_a_process, peak_memory
from benchmarks.results import read_results, write_results
from downstream.lm.arpa import write_arpa
from downstream.lm.kneser_ney import Options, Statistics, estimate
from downstream.lm.on_disk import estimate_to_file
from downstream.lm.reading import EOS, read_text
from upstream.disk import file_hash
from upstream.errors import UsageError

SECONDS_GOAL, MEMORY_GOAL = 65.0, 4 << 30  # for 8.76 million words at order 4, in memory on two cores
LIMITED = 2 << 30  # bytes that the other form may take
LIMITED_GOAL = 2.3e9
VERSION = 1  # of what is measured: raised when estimator or measurement would give another model, time or memory


@dataclass(frozen=True)
class Form:
    """One way to estimate. `memory`: bytes that it may take; None: as many as it needs."""

    what: str
    order: int
    prune: tuple[int, ...] = (0,)
    memory: int | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells its row from the others'."""
        return self.what, self.order, ",".join(map(str, self.prune))


FORMS = (Form("in memory", 3, (0, 0, 1)), Form("in memory", 4), Form("within 2 GiB", 4, memory=LIMITED))


def run(text: Path, out: Path, command: str, say: Callable[[str], None] = print,
        forms: tuple[Form, ...] = FORMS) -> dict[str, Any]:
    """Measure what the results file does not have yet; it is written after every model.

    Returns:
        The content of the file. Rows: `what`, `order`, `prune`, `words` of the text, `seconds` (reading and writing
        included), `cpu_seconds`, `peak_memory` (bytes), `ngrams` of each order, `arpa_sha256`, equal for forms that
        give the same model, and `version`, of the code that measured.

    Raises:
        UsageError: there is no such text, or `out` holds the models of another one.
        FormatError: `out` is no results file.
        HubertkitError: the process that estimated was killed.
    """
    if not text.is_file():
        raise UsageError(f"{text}: no such text")
    digest = file_hash(text)
    found: dict[str, Any] = {"benchmark": "lm", "command": command, "text": text.name, "text_sha256": digest,
                             "rows": []}
    if out.is_file():
        there = read_results(out)
        if there.get("text_sha256") != digest:
            raise UsageError(f"{out}: models of another text; give another file (--out)")
        found["rows"] = there["rows"]
    there_already = {(row["what"], row["order"], row["prune"]): row for row in found["rows"]}
    for form in forms:
        old = there_already.get(form.key)
        if old is not None and old.get("version") == VERSION:
            say(f"order {form.order}, {form.what}: there already")
            continue
        say(f"order {form.order}, {form.what}" + ("" if old is None else ": anew, another version measured it"))
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(prefix="lm-", dir=out.absolute().parent) as folder:
            row = in_a_process(f"order {form.order}, {form.what}", measure, text, form, Path(folder) / "lm.arpa")
        row |= {"version": VERSION, "load_before": round(load, 2), **_goals(form)}
        found["rows"] = [*(other for other in found["rows"] if other is not old), row]
        write_results(out, found)
    return found


def measure(text: Path, form: Form, arpa: Path) -> dict[str, Any]:
    """Estimate and write one model; to be called in a process that has done nothing else."""
    began, cpu = time.perf_counter(), time.process_time()
    options = Options(prune=form.prune)
    statistics: tuple[Statistics, ...]
    if form.memory is None:
        model = estimate([text], form.order, options)
        write_arpa(model, arpa)
        statistics = model.statistics
        del model
    else:
        statistics = estimate_to_file([text], form.order, arpa, form.memory, options=options)
    seconds, cpu, peak = time.perf_counter() - began, time.process_time() - cpu, peak_memory()
    what, order, prune = form.key
    return {"what": what, "order": order, "prune": prune, "words": words_of(text), "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1), "peak_memory": peak, "ngrams": [s.kept for s in statistics],
            "arpa_sha256": file_hash(arpa)}


def words_of(text: Path) -> int:
    """Words of a text, the marks of sentences not counted."""
    return int((read_text([text]).tokens > EOS).sum())


def _goals(form: Form) -> dict[str, Any]:
    if form.order != 4:
        return {}
    return ({"goal_seconds": SECONDS_GOAL, "goal_memory": MEMORY_GOAL} if form.memory is None
            else {"goal_memory": int(LIMITED_GOAL)})
