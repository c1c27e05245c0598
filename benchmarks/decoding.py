"""Which decoder finds the fewest wrong words in a given time? Error rate against speed, all decoders in one run.

    hubertkit bench decoding --emissions DIR --lm LM.arpa --out DIR

The weights of every decoder are tuned on `dev` at one beam; then each beam decodes `test` in a process of its own with
one thread, and on request those that no other beats decode it again over all cores. Each tuning and each measurement is
a stage, so a run that was killed goes on, and `results.json` has after each what is known so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoding_plot import plot_decoding
from benchmarks.decoding_systems import FAMILIES, REFERENCE, Family, Job, Models, lacking, measured, on_device
from benchmarks.posteriors import Sets
from benchmarks.results import refuse_other_results, write_results
from downstream.decode.choice import Name
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import read_hypotheses
from downstream.decode.tune import Search, tune
from downstream.lm.arrays import pack
from downstream.score.intervals import bootstrap_interval
from downstream.score.rates import Score, score
from downstream.score.significance import paired_difference
from upstream.control_groups import available_cores
from upstream.disk import content_hash, file_hash
from upstream.errors import UsageError
from upstream.locks import LOCK, locked
from upstream.progress import progress, say
from upstream.stage import run_stage, versions

LEAST_DIFFERENCE = 0.2  # points of WER: what our own search may be worse by at most, at the goals' speeds
BENCHMARK = "decoding"
ARRAYS, PLOT = "lm.ngrams", "frontier.png"  # beside results.json
VERSION = 2  # of both stages: raised when decoders, tuning or measurement would find other texts, weights or speeds
GOALS = {100: 2.0, 500: 3.0}  # beam of the peer -> how many times as fast our own search should be


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        families: in the order of the table. Those compared with come before those that are compared with them.
        device: of torch, for our own search by it as well; None: numpy alone.
        all_cores: whether the points that no other beats are measured over all cores too.
        repeats: decodes of which the median counts; fewer where they are long.
        search: how weights are tuned; on all of dev by default.
    """

    families: tuple[Family, ...] = FAMILIES
    device: str | None = None
    all_cores: bool = False
    repeats: int = 3
    search: Search = field(default_factory=lambda: Search(seconds=1e9))

    def measured(self) -> tuple[Family, ...]:
        """The families, those on the device included."""
        if self.device is None:
            return self.families
        return (*self.families, *(on_device(f, self.device) for f in self.families if f.decoder == Name.batched))


QUICK = Plan(tuple(Family(f.name, f.decoder, f.beams[:1], f.beams[0], f.threshold, f.tokens_per_frame)
                   for f in FAMILIES), repeats=1, search=Search(seconds=30.0, decodes=2, nbest=10))


def run(plan: Plan, sets: Sets, lm: Path, out: Path, command: str, say: Callable[[str], None] = say) -> dict[str, Any]:
    """Tune and measure into `out`; gives the content of `out/results.json`, beside which is `frontier.png`.

    Args:
        lm: ARPA file, may be gzipped; all decoders use it.

    Raises:
        UsageError: no such language model, or not as ARPA; files of somebody else in `out`.
        InputError: a language model that does not fit the recogniser or the references.
    """
    check_file(lm)
    check_out(out)
    with locked(out):
        models = Models(lm, out / ARRAYS)
        with progress("packing the language model", 1) as report:
            pack(lm, models.arrays, report)
        comparison = _Comparison(plan, sets, models, out, command, say)
        for family in plan.measured():
            if missing := lacking(family):
                say(f"{family.name} is left out: {missing} is not installed")
                comparison.left_out[family.name] = f"{missing} is not installed"
                continue
            for beam in family.beams:
                comparison.point(family, beam, 1)
        if plan.all_cores and (cores := available_cores()) > 1:
            families = {f.name: f for f in plan.families}
            for row in frontier([r for r in comparison.rows if r["decoder"] in families]):
                comparison.point(families[row["decoder"]], row["beam"] or 0, cores)
        plot_decoding(comparison.rows, out / PLOT)
        return comparison.write()


def check_out(out: Path) -> None:
    """Raise UsageError where a comparison would write over what somebody else left in a folder."""
    refuse_other_results(out / "results.json", BENCHMARK)
    begun = any((out / name).exists() for name in ("results.json", LOCK))  # what is there is its own then
    for name in () if begun else (ARRAYS, PLOT):
        if (out / name).exists():
            raise UsageError(f"{out / name}: is there already and of no comparison of ours, so it is left as it is; "
                             "give another folder (--out), or move it away")


def check_file(lm: Path) -> None:
    """Raise UsageError where there is no such file, or none that all decoders can read."""
    if not lm.is_file():
        raise UsageError(f"{lm}: no such file; language models are made by `hubertkit lm build`")
    if lm.suffix == ".ngrams":
        raise UsageError(f"{lm}: packed arrays, which only our own decoder reads; give the ARPA file")


def frontier(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that no other is both as fast as and better than, fastest first."""
    found: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda r: (-r["audio_seconds_per_second"], r["wer"])):
        if not found or row["wer"] < found[-1]["wer"]:
            found.append(row)
    return found


def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows as a table has room for them: `speed` in audio seconds a second, `memory_mb` at the peak, `difference`
    from the reference decoder."""
    return [{"decoder": row["decoder"], "beam": row["beam"], "threads": row["threads"], "wer": row["wer"],
             "wer_interval": row["wer_interval"], "speed": round(row["audio_seconds_per_second"]),
             "memory_mb": round(row["peak_memory"] / 1e6), "difference": row["difference"],
             "difference_interval": row["difference_interval"]} for row in rows]


class _Comparison:
    """What has been measured so far."""

    def __init__(self, plan: Plan, sets: Sets, models: Models, out: Path, command: str,
                 say: Callable[[str], None]) -> None:
        self.rows: list[dict[str, Any]] = []
        self.left_out: dict[str, str] = {}
        self._plan, self._sets, self._models, self._out, self._say = plan, sets, models, out, say
        self._tuned: dict[str, dict[str, Any]] = {}
        self._errors: dict[tuple[str, int], np.ndarray] = {}  # (N,) of each family and beam, by one thread
        self._seconds = sum(sets.test.emissions.seconds(id) for id in sets.test.emissions.ids)
        self._head = {"benchmark": BENCHMARK, "command": command}
        self._lm_hash = file_hash(models.arpa)

    def point(self, family: Family, beam: int, threads: int) -> None:
        """Tune the family unless that is done, measure, and write what there is now."""
        weights = self._weights(family)
        emissions = self._sets.test.emissions
        decoder = family.make(emissions, self._models, beam, *(weights[w] or 0.0 for w in ("lm_weight", "word_score")))
        name = f"{family.name}, beam {beam}" if beam else family.name
        folder = self._out / "points" / _file_name(f"{name}, {threads} threads" if threads > 1 else name)
        settings = {**_settings(decoder), "threads": threads, "repeats": self._plan.repeats}

        def work(target: Path) -> dict[str, Any]:
            job = Job(emissions.folder, decoder, threads, self._plan.repeats, target / "hypotheses.jsonl")
            found = measured(job, name)
            return {"hash": file_hash(job.hypotheses), **found}

        found = run_stage(folder, "measured decoder", version=VERSION, settings=settings, work=work, say=self._say,
                          inputs={"emissions": emissions.hash, "lm": self._lm_hash})
        texts = {h.id: h.text for h in read_hypotheses(folder / "hypotheses.jsonl")}
        self._add(family, beam, threads, weights, found, score(self._sets.test.texts, texts))
        self.write()

    def _add(self, family: Family, beam: int, threads: int, weights: dict[str, Any], found: dict[str, Any],
             scored: Score) -> None:
        counts = scored.per_utterance
        interval = bootstrap_interval(counts.errors, counts.words)
        if threads == 1:
            self._errors[family.name, beam] = counts.errors
        seconds, busy = (float(np.median(found[kind])) for kind in ("seconds", "cpu_seconds"))
        self.rows.append({
            "decoder": family.name, "beam": beam or None, "wer": round(scored.wer, 3),
            "wer_interval": interval.rounded,
            "audio_seconds_per_second": round(self._seconds / seconds, 1), "threads": threads,
            "peak_memory": found["peak_memory"], "load_seconds": found["load_seconds"], **weights,
            "tokens_per_frame": family.tokens_per_frame, "threshold": family.threshold,
            "device": family.device or "cpu", "words": scored.words, "errors": scored.errors,
            "decoding_seconds": found["seconds"], "cpu_seconds": found["cpu_seconds"],
            "audio_seconds_per_cpu_second": round(self._seconds / busy, 1),
            "memory_at_start": found["memory_at_start"], "gpu_memory": found["gpu_memory"],
            **self._against(family, beam, counts.errors, counts.words)})

    def _against(self, family: Family, beam: int, errors: np.ndarray, words: np.ndarray) -> dict[str, Any]:
        """The difference from the reference decoder with the same beam, or the next wider one, or its widest."""
        beams = sorted(b for name, b in self._errors if name == REFERENCE)
        if not beams or family.name == REFERENCE:
            return {"against": None, "difference": None, "difference_interval": None}
        other = next((b for b in beams if b >= beam), beams[-1])
        found = paired_difference(errors, self._errors[REFERENCE, other], words)
        return {"against": f"{REFERENCE}, beam {other}", "difference": round(found.points, 3),
                "difference_interval": found.interval.rounded}

    def _weights(self, family: Family) -> dict[str, Any]:
        if not family.tuned_at:
            return {"lm_weight": None, "word_score": None, "on_edge": []}
        if family.weights_of:
            family = next(f for f in self._plan.families if f.name == family.weights_of)
        if family.name not in self._tuned:
            self._tuned[family.name] = self._tune(family)
        return self._tuned[family.name]

    def _tune(self, family: Family) -> dict[str, Any]:
        dev, search = self._sets.dev, self._plan.search
        decoder = family.make(dev.emissions, self._models, family.tuned_at)
        if isinstance(decoder, GreedyDecoder):
            raise ValueError(f"{family.name}: greedy decoding has no weights to tune")

        def work(target: Path) -> dict[str, Any]:
            with progress(f"{family.name}: tuning", search.decodes * len(dev.emissions)) as report:
                found = tune(dev.emissions, dev.texts, decoder, search, progress=report,
                             forbidden_manifest_hash=self._sets.test.emissions.manifest_hash)
            result = {"lm_weight": found.lm_weight, "word_score": found.word_score, "on_edge": list(found.on_edge)}
            return {"hash": content_hash(result), **result, "dev_wer": round(found.wer, 3),
                    "dev_utterances": found.utterances}

        found = run_stage(
            self._out / "tuning" / _file_name(family.name), "tuned decoder", version=VERSION,
            settings={**_settings(decoder), "search": asdict(search)}, work=work, say=self._say,
            inputs={"emissions": dev.emissions.hash, "references": content_hash(dev.texts), "lm": self._lm_hash})
        return {key: found[key] for key in ("lm_weight", "word_score", "on_edge")}

    def write(self) -> dict[str, Any]:
        """Write `results.json`, the goals as far as they can be judged; gives its content."""
        test = self._sets.test.emissions
        content = {**self._head, "rows": self.rows, "goals": self._goals(),
                   "test": {"utterances": len(test), "seconds": round(self._seconds, 2), "emissions": test.hash,
                            "manifest": test.manifest_hash},
                   "dev": {"utterances": len(self._sets.dev.emissions), "emissions": self._sets.dev.emissions.hash},
                   "lm": {"file": self._models.arpa.name, "sha256": self._lm_hash}}
        if self.left_out:
            content["left_out"] = self.left_out
        write_results(self._out / "results.json", content)
        return content

    def _goals(self) -> list[dict[str, Any]]:
        """For each peer and beam, our own fastest point that is surely less than the least difference worse."""
        single = {(r["decoder"], r["beam"]): r for r in self.rows if r["threads"] == 1}
        found = []
        for peer in self._plan.families:
            for beam in peer.beams if peer.decoder in (Name.lexicon, Name.beam) else ():
                if (theirs := single.get((peer.name, beam))) is None:
                    continue
                for family in self._plan.measured():
                    rows = [single[family.name, b] for b in family.beams if (family.name, b) in single]
                    if family.decoder == Name.batched and rows:
                        found.append(self._goal(peer, theirs, family, rows))
        return found

    def _goal(self, peer: Family, theirs: dict[str, Any], ours: Family, rows: list[dict[str, Any]]) -> dict[str, Any]:
        close = [row for row in rows if self._worse_by(ours.name, row["beam"], peer.name, theirs["beam"])
                 <= LEAST_DIFFERENCE]
        best = min(close, key=_seconds, default=None)
        ratio = None if best is None else round(_seconds(theirs) / _seconds(best), 2)
        goal = GOALS.get(theirs["beam"]) if peer.decoder == Name.lexicon else None
        return {"against": f"{peer.name}, beam {theirs['beam']}", "decoder": ours.name,
                "beam": None if best is None else best["beam"], "times_as_fast": ratio, "goal": goal,
                "reached": None if goal is None else ratio is not None and ratio >= goal}

    def _worse_by(self, name: str, beam: int, other: str, other_beam: int) -> float:
        """Points of WER that the first is worse by at most, at the upper end of the paired 95 % interval."""
        words = np.asarray([len(text.split()) for text in self._sets.test.texts.values()])
        return paired_difference(self._errors[name, beam], self._errors[other, other_beam], words).interval.high


def _seconds(row: Mapping[str, Any]) -> float:
    return float(np.median(row["decoding_seconds"]))


def _settings(decoder: Any) -> dict[str, Any]:
    """What a result depends on, but for what stands among the inputs: emissions and the language model. The versions
    are those that `results.json` says all its rows are of."""
    values = {k: v for k, v in asdict(decoder).items() if k not in ("symbols", "blank", "lm")}
    return {"class": type(decoder).__name__, "versions": versions(),  # JSON has no infinity
            **{k: str(v) if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()}}


def _file_name(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")
