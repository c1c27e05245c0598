"""How sure the emissions are of each word of a text, whatever decoder found it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from downstream.decode.alphabet import Alphabet
from downstream.decode.hypothesis import Hypothesis, Word

Spelled = Callable[[str], Sequence[str]]


@runtime_checkable
class Speller(Protocol):
    """A decoder whose words may be spelled otherwise than by their characters: `LexiconDecoder`."""

    def spelled(self, word: str) -> Sequence[str]:
        """The spellings of a word, without the separator."""


def spellings_of(decoder: object) -> Spelled | None:
    """How a decoder spells words, where that may be otherwise than by their characters."""
    return decoder.spelled if isinstance(decoder, Speller) else None


def with_confidences(hypothesis: Hypothesis, rows: np.ndarray, columns: Alphabet, rate: float,
                     spelled: Spelled | None = None) -> Hypothesis:
    """The same with `confidences` of its words; see `confidences`."""
    return replace(hypothesis, confidences=tuple(confidences(rows, hypothesis.words, columns, rate, spelled)))


def confidences(rows: np.ndarray, words: Sequence[Word], columns: Alphabet, rate: float,
                spelled: Spelled | None = None) -> list[float]:
    """P(word | its frames) ** (1 / frames) of each word, in [0, 1], over all alignments: a mean over frames.

    It says how well the word fits what was heard and not how probable it is that the word is right; a language model
    that overrules the emissions makes it low.

    Args:
        rows: (T, usable columns) natural-log probabilities, as `Alphabet.usable` gives them.
        words: with their times in these rows, in seconds.
        columns: what the columns mean.
        rate: frames a second (Hz).
        spelled: the spellings of a word, without the separator, where they are not its characters; the likeliest
            counts. 0 where there is none that the columns have.
    """
    places = {character: i for i, character in enumerate(columns.characters) if character not in ("", " ")}
    spans, targets, owners = [], [], []
    for index, word in enumerate(words):
        span = rows[max(0, round(word.start_s * rate)):round(word.end_s * rate)]
        for spelling in (word.word,) if spelled is None else spelled(word.word):
            if len(span) and spelling and places.keys() >= set(spelling):
                spans.append(span)
                targets.append([places[character] for character in spelling])
                owners.append(index)
    found = [0.0] * len(words)
    for index, value in zip(owners, _means(spans, targets, columns.characters.index(""))):
        found[index] = max(found[index], value)
    return found


def _means(spans: list[np.ndarray], targets: list[list[int]], blank: int) -> list[float]:
    """Each span's mean over frames of the probability of its target; one call for all."""
    import torch
    import torch.nn.functional as F

    if not spans:
        return []
    lengths = torch.tensor([len(span) for span in spans])
    padded = np.zeros((int(lengths.max()), len(spans), spans[0].shape[1]))
    for i, span in enumerate(spans):
        padded[:len(span), i] = span
    losses = F.ctc_loss(torch.from_numpy(padded), torch.tensor([c for target in targets for c in target]), lengths,
                        torch.tensor([len(target) for target in targets]), blank=blank, reduction="none")
    return torch.exp(-losses / lengths).clamp(max=1.0).tolist()
