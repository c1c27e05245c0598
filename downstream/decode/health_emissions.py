"""Are these log-probabilities what they say: natural, of these symbols, at this rate, as sure as they look?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from downstream.decode.alphabet import SEPARATORS, Alphabet, alphabet
from downstream.decode.check import Check, graded
from downstream.decode.greedy import greedy
from downstream.decode.likelihood import text_logprobs
from downstream.emissions import Emissions
from downstream.heads.ctc import least_frames
from downstream.score.rates import NO_SPACES, Unit, mean_word, score, without_spaces
from downstream.text.vocabulary import composed
from upstream.errors import InputError

# Hanzi, kana and the syllables of Hangul, each a syllable or so.
_SIGN = re.compile("[\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff"
                   "\U00020000-\U0003ffff]")

Kind = Literal["log-probabilities", "NaN", "infinity", "probabilities", "log10 probabilities", "logits",
               "unnormalised"]

ROW_SUM = 0.01  # of the logarithm of a row's sum; float16 rounding stays below .001
TEMPERATURES = (0.1, 10.0)  # that are tried
TEMPERATURE_SECONDS = 120.0  # of speech, so that it takes seconds

# (good), (bearable). Speech read aloud has 10 to 20 characters a second in languages written with letters, 3 to 8 where
# a sign is a syllable.
CHARACTERS_A_SECOND = (7.0, 22.0), (2.5, 40.0)
SIGNS_A_SECOND = (2.0, 22.0), (1.0, 40.0)
WORD_LENGTH = (0.0, 1.5), (0.0, 3.0)  # of a word in the likeliest path, over that of a word of the model
WORDS_FOUND = (0.6, 1.6), (0.3, 3.0)  # in the likeliest path, for each word of the references
SILENT = (0.0, 0.05), (0.0, 0.5)  # share of utterances without any text
TOO_SHORT = (0.0, 0.0), (0.0, 0.05)  # share of utterances
CHARACTER_ERRORS = (0.0, 0.5), (0.0, 0.75)  # texts of another language or order have .75 and more
TEMPERATURE = (0.6, 1.7), (0.2, 5.0)

_TO_LOGPROBS: dict[Kind, Callable[[np.ndarray], np.ndarray]] = {
    "log-probabilities": lambda rows: rows,
    "infinity": lambda rows: rows,
    "probabilities": lambda rows: np.log(np.maximum(rows, 1e-9)),
    "log10 probabilities": lambda rows: rows * math.log(10),
    "logits": lambda rows: rows,
    "unnormalised": lambda rows: rows,
}
_BROKEN = "the recogniser or the audio is broken: look at the recordings, and compute the emissions in float32"
_WHAT_TO_DO = {
    "NaN": _BROKEN,
    "infinity": _BROKEN,
    "probabilities": "these are probabilities: take their natural logarithm, or store log_softmax of the logits",
    "log10 probabilities": "these are logarithms of base 10: multiply them by ln 10 = 2.3026",
    "logits": "these look like logits: apply log_softmax over the symbols before they are stored",
    "unnormalised": "rows must be natural-log probabilities of all symbols: apply log_softmax, and leave no column out",
}


@dataclass(frozen=True)
class Sample:
    """Some utterances of the emissions with their references.

    Attributes:
        rows: (T, V) float64 of each, as they are stored.
        texts: the references.
        ids: likewise.
        symbols, blank, rate: of the emissions.
    """

    rows: tuple[np.ndarray, ...]
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    symbols: tuple[str, ...]
    blank: int
    rate: float

    @staticmethod
    def of(emissions: Emissions, ids: Sequence[str], references: Mapping[str, str]) -> Sample:
        """Read utterances."""
        return Sample(tuple(emissions.as_stored(id).astype(np.float64) for id in ids),
                      tuple(" ".join(references[id].split()) for id in ids), tuple(ids), emissions.symbols,
                      emissions.blank, emissions.rate)

    @property
    def seconds(self) -> float:
        """Of all utterances."""
        return sum(map(len, self.rows)) / self.rate


def examine(sample: Sample, unit: Unit = "word", unspaced: bool = False,
            model_words: Collection[str] = ()) -> list[Check]:
    """The checks in the order in which one mistake causes the next; those that cannot be made are left out, such as
    those that need the references' spaces where characters are the unit.

    Args:
        unspaced: the decoder needs no separators between words.
        model_words: of the language model, if there is one: as long as these must words be in the likeliest path, too.
    """
    kind, deviation = kind_of(sample.rows)
    checks = [_values(kind, deviation, sum(map(len, sample.rows)))]
    if kind == "NaN" or not any(map(len, sample.rows)):
        return checks
    logprobs = (np.clip(_TO_LOGPROBS[kind](rows), -1e4, 1e4) for rows in sample.rows)  # infinities would give NaN
    sample = replace(sample, rows=tuple(map(normalised, logprobs)))
    checks.append(_blank(sample))
    try:
        columns = alphabet(sample.symbols, sample.blank)
    except InputError as error:
        return [*checks, _symbols(sample, str(error))]
    paths = [greedy(rows, sample.symbols, sample.blank, sample.rate).text for rows in sample.rows]
    parted = [_separator(sample, paths)] if unit == "word" else \
        [_parted(sample, paths, model_words)] if model_words and any(paths) and not unspaced else []
    return [*checks, _symbols(sample), *parted, _silent(sample, paths), _frame_rate(sample), _room(sample, columns),
            _agreement(sample, paths, unit), *(_temperature(sample, columns) if unit == "word" or unspaced else [])]


def kind_of(rows: Sequence[np.ndarray]) -> tuple[Kind, float]:
    """What numbers (T, V) arrays hold, and the largest absolute natural log of a row's sum; NaN where one or plus
    infinity is among them."""
    each = np.concatenate([*rows, np.empty((0, rows[0].shape[1]))]) if rows else np.empty((0, 1))
    if np.isnan(each).any():
        return "NaN", math.nan
    if (each == np.inf).any():
        return "infinity", math.nan
    if not len(each):
        return "log-probabilities", 0.0
    deviation = _deviation(each)
    if deviation <= ROW_SUM:
        return "log-probabilities", deviation
    if each.min() >= 0 and np.abs(each.sum(axis=1) - 1).max() <= ROW_SUM:
        return "probabilities", deviation
    if _deviation(each * math.log(10)) <= 3 * ROW_SUM:  # rounded before they were multiplied
        return "log10 probabilities", deviation
    return "logits" if each.max() > ROW_SUM else "unnormalised", deviation


def normalised(rows: np.ndarray) -> np.ndarray:
    """Rows whose exponentials sum to 1."""
    return rows - _log_sums(rows)[:, None]


def temperature_of(rows: Sequence[np.ndarray], texts: Sequence[str], columns: Alphabet) -> float:
    """The temperature that makes the texts likeliest, summed over alignments: rows become `rows / temperature`,
    normalised again (Guo et al. 2017, for CTC). Over 1: the emissions are surer than they are right.

    Args:
        rows: (T, usable columns) natural-log probabilities of each utterance.

    Returns:
        Within `TEMPERATURES`, to about 2%; NaN where no text fits its frames.
    """
    from scipy.optimize import minimize_scalar  # which takes half a second to import

    floored = [np.maximum(r, -1e4) for r in rows]  # minus infinity stays so at every temperature
    fitting = [(r, text) for r, text in zip(floored, texts, strict=True)
               if text and np.isfinite(text_logprobs(r, [text], columns)[0])]

    def loss(log_temperature: float) -> float:
        return -sum(text_logprobs(normalised(r / math.exp(log_temperature)), [text], columns)[0] for r, text in fitting)

    low, high = map(math.log, TEMPERATURES)
    if not fitting:
        return math.nan
    return math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 0.02}).x))


def _log_sums(rows: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(rows, axis=1)


def _deviation(rows: np.ndarray) -> float:
    return float(np.abs(_log_sums(rows)).max())


def _values(kind: Kind, deviation: float, frames: int) -> Check:
    if not frames:
        return Check("values", "failed", 0.0, "the emissions hold no frame", "the recordings are empty or too short")
    if kind == "log-probabilities":
        return Check("values", "ok", deviation, f"rows are natural-log probabilities; their sums are within "
                                                f"{deviation:.1g} of 1")
    found = (f"there is {kind} among them" if kind in ("NaN", "infinity") else
             f"the exponentials of a row miss the sum of 1 by a factor of {math.exp(min(deviation, 700.0)):.3g}")
    return Check("values", "failed", deviation, found, _WHAT_TO_DO[kind])


def _blank(sample: Sample) -> Check:
    if not 0 <= sample.blank < len(sample.symbols):
        return Check("blank", "failed", 0.0, f"the blank is column {sample.blank} of {len(sample.symbols)}",
                     "declare a column that is there; the recogniser's vocab.json says which")
    winners = np.concatenate([rows.argmax(axis=1) for rows in sample.rows])
    counts = np.bincount(winners, minlength=len(sample.symbols))
    shares, first = counts / counts.sum(), int(counts.argmax())
    what = (f"the blank, column {sample.blank} ({sample.symbols[sample.blank]!r}), is the likeliest symbol in "
            f"{shares[sample.blank]:.0%} of the frames")
    if first == sample.blank:
        return Check("blank", "ok", float(shares[first]), what)
    return Check("blank", "failed" if shares[first] >= 2 * shares[sample.blank] else "warning",
                 float(shares[sample.blank]),
                 f"{what}, column {first} ({sample.symbols[first]!r}) in {shares[first]:.0%}",
                 f"CTC says blank most of the time, so the blank is likely column {first}: declare that one, and see "
                 "whether the other symbols are in the recogniser's order")


def _symbols(sample: Sample, fault: str = "") -> Check:
    separators = [s for i, s in enumerate(sample.symbols) if s in SEPARATORS and i != sample.blank]
    if fault:
        return Check("symbols", "failed", len(separators), fault, "mend the list of symbols in emissions.json; what "
                                                                  "follows from it was not looked at")
    return Check("symbols", "ok", len(separators), f"{len(sample.symbols)} symbols, words end with {separators[0]!r}")


def _separator(sample: Sample, paths: Sequence[str]) -> Check:
    found, wanted = (sum(len(text.split()) for text in texts) for texts in (paths, sample.texts))
    ratio = found / max(1, wanted)
    return graded("word separator", ratio, *WORDS_FOUND,
                  f"greedy decoding finds {found} words where the references have {wanted}",
                  "the column of the word separator is another one, or the recogniser learnt without it: compare the "
                  "symbols with those that it was trained with" +
                  (f"; {NO_SPACES}" if without_spaces(sample.texts, paths) else ""))


def _parted(sample: Sample, paths: Sequence[str], model_words: Collection[str]) -> Check:
    """Recognisers of scripts without spaces write no separators, and decoders wait for one after every word."""
    unspaced = without_spaces(sample.texts, model_words)
    found, expected = mean_word(paths)[0], mean_word(model_words)[0]
    return graded("word separator", found / max(expected, 1e-9), *WORD_LENGTH,
                  f"greedy decoding finds words of {found:.1f} characters, the language model has words of "
                  f"{expected:.1f}",
                  "the recogniser writes no separators between the model's words, so that decoders cannot end them: " +
                  ("decode without them (--unspaced), here and in `tune`" if unspaced else
                   "compare the symbols with those that it was trained with, or train it for longer"))


def _silent(sample: Sample, paths: Sequence[str]) -> Check:
    spoken = [path for path, text in zip(paths, sample.texts) if text]
    silent = sum(not path for path in spoken)
    return graded("empty output", silent / max(1, len(spoken)), *SILENT,
                  f"greedy decoding finds nothing in {silent} of {len(spoken)} utterances that have a text",
                  "the recogniser says only blank: train it for longer, or see whether the audio is what it was "
                  "trained on (rate, level, normalisation)")


def _frame_rate(sample: Sample) -> Check:
    text = composed("".join(sample.texts))
    signs = len(_SIGN.findall(text)) > 0.5 * sum(c.isalpha() for c in text)
    rate = sum(map(len, sample.texts)) / sample.seconds
    return graded("frame rate", rate, *(SIGNS_A_SECOND if signs else CHARACTERS_A_SECOND),
                  f"the references have {rate:.1f} characters for each second at {sample.rate:g} frames a second",
                  f"speech has {'3 to 8' if signs else '10 to 20'}: see whether the frame rate is the recogniser's and "
                  "the references are of these recordings")


def _room(sample: Sample, columns: Alphabet) -> Check:
    texts = [text for text in sample.texts if columns.letters.issuperset(text.replace(" ", ""))]
    short = [id for id, rows, text in zip(sample.ids, sample.rows, sample.texts)
             if text in texts and least_frames(list(map(ord, text))) > len(rows)]
    return graded("length", len(short) / max(1, len(texts)), *TOO_SHORT,
                  f"{len(short)} of {len(texts)} utterances have fewer frames than their reference needs"
                  + (f", {short[0]} for instance" if short else ""),
                  "these references cannot be found: are they of the same utterances, and is the frame rate high "
                  "enough for the speech?")


def _agreement(sample: Sample, paths: Sequence[str], unit: Unit) -> Check:
    spoken = {id: text for id, text in zip(sample.ids, sample.texts) if text}
    found = dict(zip(sample.ids, paths))
    rate = score(spoken, {id: found[id] for id in spoken}, unit).cer / 100 if spoken else math.nan
    example = max(spoken, key=lambda id: len(found[id]), default="")
    return graded("agreement", rate, *CHARACTER_ERRORS, f"{rate:.0%} character errors of greedy decoding",
                  f"{example}: {found.get(example, '')[:40]!r} for {spoken.get(example, '')[:40]!r}; if that is no "
                  "weak recogniser, the symbols are in another order, or the references of other utterances")


def _temperature(sample: Sample, columns: Alphabet) -> list[Check]:
    some, frames = 0, 0
    while some < len(sample.rows) and frames < TEMPERATURE_SECONDS * sample.rate:
        frames += len(sample.rows[some])
        some += 1
    found = temperature_of([columns.usable(rows) for rows in sample.rows[:some]], sample.texts[:some], columns)
    if math.isnan(found):
        return []
    sure = "surer than they are right" if found > 1 else "less sure than they are right"
    good = TEMPERATURE[0][0] <= found <= TEMPERATURE[0][1]
    return [graded("temperature", found, *TEMPERATURE,
                   f"the references are likeliest at temperature {found:.2f}" + ("" if good else
                                                                                 f": the emissions are {sure}"),
                   f"multiply the logits by {1 / found:.2g} before log_softmax, or expect weights of the language "
                   "model far from the usual ones and tune over a wide range; far from 1, were they softened twice?")]
