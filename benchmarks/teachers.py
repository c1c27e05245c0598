"""How good are the teachers of the paper's question, on the same recordings and against the same phones?

    hubertkit bench teachers --data TRAIN.arrow --aligned ALIGNED.arrow --alignments DIR [--run RUN] [--encoder DIR]
        [--cmn] --out DIR

MFCC with several numbers of clusters, ensemble, product, residual and random projection, and every layer of every round
of a pretraining run and of other encoders; those of one stream also without the means of utterances (`--cmn`). A
teacher is fitted on `data`, which needs no alignments, and judged on `aligned`. Every teacher is a stage, so a
measurement that was killed goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import refuse_other_results, write_results
from benchmarks.teachers_plot import plot_teachers
from upstream.audio.caching import AudioCache
from upstream.audio.manifest import Manifest
from upstream.device import best_device
from upstream.errors import UsageError
from upstream.features.centred import with_cmn
from upstream.features.source import LayerSource, Source
from upstream.features.streaming import draw_hours
from upstream.locks import locked
from upstream.model import encoder_hash, load_encoder
from upstream.progress import progress, say
from upstream.stage import run_stage
from upstream.teacher.alignments import Alignments, alignments_hash, find_alignments, phones_at_frames
from upstream.teacher.matching import named_source
from upstream.teacher.quality import quality_of_utterances
from upstream.teacher.quantiser import Kind
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units
from upstream.training.monitor import read_metrics

BENCHMARK = "teachers"
JOINT = "joint"


@dataclass(frozen=True)
class Candidate:
    """A teacher to be judged."""

    name: str  # `mfcc-100`, `layer-2`
    clusters: tuple[int, ...]
    kind: Kind = "single"
    features: str = "mfcc"
    round: int = 0  # whose encoder it reads; 0: none's, or `encoder`'s
    layer: int | None = None
    encoder: str | None = None  # one that is of no round, by its name
    cmn: bool = False  # without the means of utterances

    @property
    def reads(self) -> str | None:
        """The name of the encoder that it reads."""
        return f"round{self.round}" if self.round else self.encoder


@dataclass(frozen=True)
class Recordings:
    """What teachers are fitted on and judged on."""

    data: Manifest
    aligned: Manifest
    alignments: Alignments
    fit_hours: float
    sample_frames: int
    seed: int


PLAIN = (
    Candidate("mfcc-50", (50,)), Candidate("mfcc-100", (100,)), Candidate("mfcc-500", (500,)),
    Candidate("fbank-100", (100,), features="fbank"),
    Candidate("mfcc-ensemble", (50, 100, 500), "ensemble"),
    Candidate("mfcc-product", (100, 100, 100), "product"),  # static, delta, delta-delta
    Candidate("mfcc-residual", (100, 100), "residual"),
    Candidate("random-projection-100", (100,), "random"),
    Candidate("random-projection-500", (500,), "random"),
)


def run(recordings: Recordings, rounds: Path | None, clusters: Sequence[int], out: Path, command: str,
        say: Callable[[str], None] = say, *, others: Sequence[Path] = (), cmn: bool = False) -> dict[str, Any]:
    """Judge every teacher into `out` and give the content of `out/results.json`; `out/teachers.png` shows it.

    Args:
        rounds: folder of a pretraining run; None for the teachers that need none.
        clusters: of each layer.
        others: folders of encoders, or whatever `load_encoder` reads, that are judged like those of rounds.
        cmn: judge teachers of one fitted stream also on frames without the means of their utterances.

    Raises:
        UsageError: no recording of `aligned` has an alignment, a run without an encoder, two encoders of one name, or
            results of another benchmark in `out`.
    """
    refuse_other_results(out / "results.json", BENCHMARK)
    if not any(i in recordings.alignments for i in recordings.aligned.ids):
        raise UsageError("none of the aligned recordings (--aligned) has an alignment (--alignments): the names of the "
                         "files are those of the utterances")
    of_rounds = {} if rounds is None else _encoders(rounds)
    encoders = {f"round{number}": folder for number, folder in of_rounds.items()} | _named(others)
    candidates = [*PLAIN, *_layers(encoders, clusters)]
    rows: list[dict[str, Any]] = []
    with locked(out):
        for candidate in _with_cmn(candidates) if cmn else candidates:
            rows += _judge(candidate, encoders.get(candidate.reads or ""), recordings, out / candidate.name, say)
        curves = _curves(of_rounds)
        results = {"benchmark": BENCHMARK, "command": command, "rows": rows,
                   "curves": curves,
                   "fitted_on": {"manifest": recordings.data.hash, "hours": recordings.fit_hours,
                                 "sample_frames": recordings.sample_frames, "seed": recordings.seed},
                   "judged_on": {"manifest": recordings.aligned.hash, "utterances": len(recordings.aligned),
                                 "speakers": len(set(recordings.aligned.speakers))}}
        write_results(out / "results.json", results)
        plot_teachers(rows, curves, out / "teachers.png")
    return results


def _encoders(rounds: Path) -> dict[int, Path]:
    """Round -> folder of its encoder."""
    found = {int(folder.parent.name.removeprefix("round")): folder for folder in rounds.glob("round[0-9]*/encoder")
             if (folder / "config.json").is_file()}
    if not found:
        raise UsageError(f"{rounds}: no round1/encoder; give the folder of a finished `hubertkit pretrain` (--run)")
    return dict(sorted(found.items()))


def _named(others: Sequence[Path]) -> dict[str, Path]:
    """Other encoders by the names of their folders, which are to be folders of the measurement."""
    found: dict[str, Path] = {}
    for path in others:
        name = Path(os.path.abspath(path)).name  # of a link its own, not that of what it leads to
        if name in found or re.fullmatch(r"round\d+", name):
            raise UsageError(f"{path}: there is another encoder {name}; rows are named for the last part of "
                             "the path, so give it another one (a link will do)")
        found[name] = path
    return found


def _layers(encoders: Mapping[str, Path], clusters: Sequence[int]) -> Iterator[Candidate]:
    for name, folder in encoders.items():
        number = int(name.removeprefix("round")) if re.fullmatch(r"round\d+", name) else 0
        for layer in range(1, load_encoder(folder).config.layers + 1):
            for k in clusters:
                yield Candidate(f"{name}-layer{layer}-{k}", (k,), features="layer", round=number, layer=layer,
                                encoder=None if number else name)


def _with_cmn(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Each, and behind each of one fitted stream its twin."""
    for candidate in candidates:
        yield candidate
        if candidate.kind == "single":
            name, _, classes = candidate.name.rpartition("-")
            yield replace(candidate, name=f"{name}-cmn-{classes}", cmn=True)


def _judge(candidate: Candidate, encoder: Path | None, recordings: Recordings, folder: Path,
           say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Fit, label, compare; one row for each stream, and one of all streams together where there are several."""
    inputs = {"data": recordings.data.hash, "aligned": recordings.aligned.hash,
              "alignments": alignments_hash(recordings.alignments)}
    if encoder is not None:
        inputs["encoder"] = encoder_hash(load_encoder(encoder))
    settings = _said(candidate) | {"fit_hours": recordings.fit_hours, "sample_frames": recordings.sample_frames,
                                    "seed": recordings.seed}

    def work(target: Path) -> dict[str, Any]:
        source = _source(candidate, encoder)
        data, aligned = recordings.data, recordings.aligned
        chosen = draw_hours(data.lengths, recordings.fit_hours, recordings.seed)
        with progress(f"{candidate.name}: fitting", len(chosen)) as report:
            teacher = Teacher.fit(source, data, candidate.clusters, seed=recordings.seed, indices=chosen,
                                  sample_frames=recordings.sample_frames, sample_within=0, kind=candidate.kind,
                                  read=AudioCache(data).wave, progress=report)
        teacher.save(target / "teacher")
        with progress(f"{candidate.name}: labelling", len(aligned)) as report:
            units = teacher.label(source, aligned, target / "units", read=AudioCache(aligned).wave, progress=report)
        return {"hash": teacher.hash, "rows": list(_rows(candidate, units, recordings))}

    result = run_stage(folder, "judged teacher", version=2, settings=settings, inputs=inputs, work=work, say=say)
    return list(result["rows"])


def _source(candidate: Candidate, encoder: Path | None) -> Source:
    if encoder is None:
        return with_cmn(named_source(candidate.features), candidate.cmn)
    assert candidate.layer is not None  # `_layers` names it
    return with_cmn(LayerSource(load_encoder(encoder), candidate.layer, best_device()), candidate.cmn)


def _said(candidate: Candidate) -> dict[str, Any]:
    """Its settings. Those that came later are left out at their defaults: what was judged before is not stale."""
    return {k: v for k, v in asdict(candidate).items() if k not in ("encoder", "cmn") or v}


def _rows(candidate: Candidate, units: Units, recordings: Recordings) -> Iterator[dict[str, Any]]:
    ids = [i for i in recordings.aligned.ids if i in recordings.alignments]
    streams: list[list[np.ndarray]] = [[units.labels(i, s).astype(np.int64) for i in ids]
                                       for s in range(len(units.classes))]
    phones = [phones_at_frames(recordings.alignments[i], len(labels)) for i, labels in zip(ids, streams[0])]
    place = {"teacher": candidate.name, "kind": candidate.kind, "round": candidate.round, "layer": candidate.layer,
             "cmn": candidate.cmn, "encoder": candidate.encoder}
    for number, (labels, classes) in enumerate(zip(streams, units.classes)):
        yield place | {"stream": number, "classes": classes} | _figures(phones, labels, classes)
    if len(streams) > 1:
        joint, used = _joined(streams, units.classes)
        yield place | {"stream": JOINT, "classes": used} | _figures(phones, joint, used)


def _joined(streams: Sequence[list[np.ndarray]], classes: Sequence[int]) -> tuple[list[np.ndarray], int]:
    """The labels of all streams as one, numbered by those combinations that occur."""
    codes = [np.asarray(np.ravel_multi_index(labels, tuple(classes))) for labels in zip(*streams)]
    found, numbered = np.unique(np.concatenate(codes), return_inverse=True)
    return np.split(numbered, np.cumsum([c.size for c in codes])[:-1]), found.size


def _figures(phones: list[np.ndarray], labels: list[np.ndarray], classes: int) -> dict[str, Any]:
    found = quality_of_utterances(phones, labels, classes)
    speech = found.speech
    return {"pnmi": round(found.overall.pnmi, 4), "phone_purity": round(found.overall.phone_purity, 4),
            "cluster_purity": round(found.overall.cluster_purity, 4),
            "pnmi_speech": None if speech is None else round(speech.pnmi, 4), "frames": found.overall.frames,
            "dead": len(found.dead)}


def _curves(encoders: dict[int, Path]) -> list[dict[str, Any]]:
    """PNMI of layers against updates, as the probe measured it while the rounds were trained."""
    return [{"round": number, "update": record["update"], "layer": int(name.removeprefix("pnmi_layer")),
             "pnmi": round(value, 4)}
            for number, folder in encoders.items() for record in read_metrics(folder, "valid")
            for name, value in record.items() if name.startswith("pnmi_layer")]


def recordings_of(data: Path, aligned: Path, alignments: Path, fit_hours: float, sample_frames: int,
                  seed: int) -> Recordings:
    """Read manifests and find alignments. Raises UsageError where `alignments` is no folder."""
    if not alignments.exists():
        raise UsageError(f"{alignments}: no such folder of alignments, nor a CTM file (--alignments)")
    return Recordings(Manifest.load(data), Manifest.load(aligned), find_alignments(alignments), fit_hours,
                      sample_frames, seed)
