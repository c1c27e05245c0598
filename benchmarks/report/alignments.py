"""Reference and hypothesis word by word, as `score` counts them: which words are taken for which, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from downstream.score.rates import Unit, compared_words

Pair = tuple[str | None, str | None]


@dataclass(frozen=True)
class Confusions:
    """How often what happened to words, the most frequent first; of equal counts in the order of the words."""

    substitutions: list[tuple[tuple[str, str], int]]  # (reference, hypothesis)
    deletions: list[tuple[str, int]]
    insertions: list[tuple[str, int]]


def align(references: Mapping[str, str], hypotheses: Mapping[str, str], unit: Unit = "word") -> dict[str, list[Pair]]:
    """For each utterance its pairs of (reference, hypothesis) words: with the fewest errors, by jiwer, as `score`.

    Returns:
        {id: pairs} in the order of the references; a deletion is (word, None), an insertion (None, word).
    """
    import jiwer

    truth = {id: compared_words(text, unit) for id, text in references.items()}
    found = {id: compared_words(hypotheses[id], unit) for id in references}
    chunks = jiwer.process_words([" ".join(words) for words in truth.values()],
                                 [" ".join(words) for words in found.values()]).alignments
    return {id: [pair for chunk in those for pair in _pairs(chunk, truth[id], found[id])]
            for id, those in zip(references, chunks)}


def confusions(aligned: Mapping[str, Sequence[Pair]]) -> Confusions:
    """Counts over all utterances."""
    pairs = Counter(pair for those in aligned.values() for pair in those if pair[0] != pair[1])
    return Confusions(
        _ranked(Counter({(a, b): n for (a, b), n in pairs.items() if a is not None and b is not None})),
        _ranked(Counter({a: n for (a, b), n in pairs.items() if a is not None and b is None})),
        _ranked(Counter({b: n for (a, b), n in pairs.items() if a is None and b is not None})))


def worst(aligned: Mapping[str, Sequence[Pair]], count: int) -> list[str]:
    """Ids of the utterances with the most errors, of equal numbers those with fewer words first; none without any."""
    errors = {id: sum(a != b for a, b in pairs) for id, pairs in aligned.items()}
    ranked = sorted((id for id in aligned if errors[id]), key=lambda id: (-errors[id], len(aligned[id]), id))
    return ranked[:count]


def _pairs(chunk: object, truth: Sequence[str], found: Sequence[str]) -> list[Pair]:
    kind = chunk.type  # type: ignore[attr-defined]
    one = truth[chunk.ref_start_idx:chunk.ref_end_idx]  # type: ignore[attr-defined]
    other = found[chunk.hyp_start_idx:chunk.hyp_end_idx]  # type: ignore[attr-defined]
    if kind == "delete":
        return [(word, None) for word in one]
    if kind == "insert":
        return [(None, word) for word in other]
    return list(zip(one, other))


def _ranked(counts: Counter) -> list:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
