"""Hypotheses and their scores: what `hubertkit score` computes, for several files and all pairs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report.alignments import Pair, align
from benchmarks.report.comparing import Difference, Sure
from downstream.decode.hypothesis import read_hypotheses
from downstream.decode.provenance import read_provenance
from downstream.score.compare import errors_of, sizes_of
from downstream.score.intervals import bootstrap_interval
from downstream.score.rates import Score, Unit, rates_of, score
from downstream.score.references import References
from downstream.score.significance import PairedDifference, paired_difference
from upstream.disk import file_hash, read_json
from upstream.errors import FormatError, InputError

Ends = tuple[float, float] | None


@dataclass(frozen=True)
class Decoded:
    """A file of hypotheses and its scores.

    Attributes:
        made_by: what stands beside it; None where nobody says.
        tuned: the file of weights that it names, where that is there as it was.
        intervals: {(rate, whether speakers are drawn): ends}.
    """

    name: str
    path: Path
    texts: dict[str, str]
    made_by: dict[str, Any] | None
    tuned: dict[str, Any] | None
    score: Score
    intervals: dict[tuple[str, bool], Ends]
    aligned: dict[str, list[Pair]]


def decoded(path: Path, name: str, truth: References, unit: Unit, seed: int,
            speakers: Sequence[str] | None) -> Decoded:
    """Read and score a file of hypotheses.

    Args:
        name: what it is called in the report.
        speakers: of the references, in their order; None where intervals draw utterances only.

    Raises:
        InputError: naming the file whose utterances are not those of the references.
    """
    texts = {h.id: h.text for h in read_hypotheses(path)}
    try:
        found = score(truth.texts, texts, unit)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    made_by = read_provenance(path)
    intervals = {(rate, drawn): _ends(found, rate, seed, speakers if drawn else None) for rate in rates_of(unit)
                 for drawn in ((False, True) if speakers else (False,))}
    return Decoded(name, path, texts, made_by, _tuned(path, made_by), found, intervals, align(truth.texts, texts, unit))


def _ends(found: Score, rate: str, seed: int, speakers: Sequence[str] | None) -> Ends:
    counts = found.per_utterance
    return bootstrap_interval(errors_of(counts, rate), sizes_of(counts, rate), seed=seed, groups=speakers).ends


def difference(one: Decoded, other: Decoded, rate: str, seed: int, speakers: Sequence[str] | None) -> Difference:
    """`one` minus `other`, in percentage points (negative: `one` has fewer errors), by utterances and, where speakers
    are given, by whole speakers."""
    sizes = sizes_of(one.score.per_utterance, rate)
    errors, others = (errors_of(found.score.per_utterance, rate) for found in (one, other))
    drawn = paired_difference(errors, others, sizes, seed=seed)
    by_speaker = None if speakers is None else paired_difference(errors, others, sizes, seed=seed, groups=speakers)
    return Difference((), one.name, other.name, rate, drawn.points, _sure(drawn),
                      None if by_speaker is None else _sure(by_speaker))


def _sure(found: PairedDifference) -> Sure:
    return Sure(found.interval.ends, found.p_value)


def _tuned(path: Path, made_by: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The file of weights that made hypotheses, if it is the same now."""
    named = (made_by or {}).get("tuned")
    if not isinstance(named, dict) or not isinstance(named.get("file"), str):
        return None
    file = path.parent / named["file"]
    try:
        found = read_json(file) if file.is_file() and file_hash(file) == named.get("sha256") else None
    except FormatError:
        return None
    return found if isinstance(found, dict) else None
