"""What a decoder found for an utterance, and the JSONL file of many."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np

from downstream.decode.provenance import remove_provenance, write_provenance
from downstream.given_files import check_readable
from upstream.disk import disk_errors, file_hash, path_given, writing
from upstream.errors import FormatError

_OPTIONAL = ("nbest", "confidences", "unfinished")  # left out of files where there are none


class Word(NamedTuple):
    """A word and the time from the first frame that emits it to the end of the last one, in seconds."""

    word: str
    start_s: float
    end_s: float


class Candidate(NamedTuple):
    """One text of an n-best list; scores are natural logarithms.

    `score = acoustic + lm_weight * (lm + unknown_penalty * unknown) + word_score * words`, and after rescoring what
    `decode.rescoring` makes of these and of another model.
    """

    text: str
    score: float
    acoustic: float  # of the text's alignments that the search kept, summed over them
    lm: float  # of the text with sentence ends by the decoder's model, unweighted; 0 without one
    unknown: int  # words that the language model does not hold
    words: int | None = None  # that the score counts, where they are not those that spaces part

    @property
    def word_count(self) -> int:
        """Words that the score counts."""
        return len(self.text.split()) if self.words is None else self.words


@dataclass(frozen=True)
class Hypothesis:
    """The best text of an utterance.

    Attributes:
        id: of the utterance.
        text: words joined by single spaces, of `unspaced` decoding only where a separator was heard; "" where nothing
            was recognised.
        score: natural logarithm; what the decoder ranked by.
        acoustic: natural logarithm of the emissions' share of it.
        lm: natural-log probability by the decoder's language model, unweighted; 0 without one.
        words: the words of the text with their times.
        nbest: the best candidates, the text itself first; empty where the decoder was not asked for them.
        confidences: of the words, in [0, 1]; empty where they were not asked for. See `decode.confidence`.
        unfinished: whether a search over a lexicon ended inside a word: the text lacks that piece, which its score
            holds. Where no word was finished it is empty, or of flashlight's search that of greedy decoding. What the
            list holds lacks a piece then, too: a search gives such texts only where it has found no whole one.
    """

    id: str
    text: str
    score: float
    acoustic: float
    lm: float = 0.0
    words: tuple[Word, ...] = ()
    nbest: tuple[Candidate, ...] = ()
    confidences: tuple[float, ...] = ()
    unfinished: bool = False


def spaces_before(hypothesis: Hypothesis) -> list[bool]:
    """Of each word whether it is the first one or a space stands before it in the text; `unspaced` decoding puts none
    where no separator was heard."""
    found, place = [], 0
    for word in hypothesis.words:
        spaced = not place or hypothesis.text[place:place + 1] == " "
        found.append(spaced)
        place += len(word.word) + (spaced and place > 0)
    return found


def write_hypotheses(path: Path, hypotheses: Iterable[Hypothesis], provenance: dict[str, Any] | None = None) -> None:
    """Write one JSON object a line, atomically, and what made them beside it (`decode.provenance`): what is said there
    of hypotheses that are replaced goes."""
    _write_lines(path_given(path, "path"), map(_line, hypotheses), provenance)


def write_as_found(path: Path, found: Iterable[tuple[int, Hypothesis]],
                   provenance: dict[str, Any] | None = None) -> None:
    """The same file of hypotheses that come in any order, each with its place among them: from 0 on, none left out.

    They are not kept in memory, but for the place of each on disk, 24 bytes: until all are there their lines wait in a
    nameless file beside the one that is written.
    """
    path, found = path_given(path, "path"), iter(found)
    first = list(islice(found, 1))  # what is wrong with the decoding is said before a folder is made
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent) as waiting:
            places = array("q")
            for place, hypothesis in chain(first, found):
                line = _line(hypothesis)
                places.extend((place, waiting.tell(), len(line)))
                waiting.write(line)
            rows = np.array(places, np.int64).reshape(-1, 3)
            rows = rows[np.argsort(rows[:, 0])]

            def lines() -> Iterator[bytes]:
                for _, start, size in rows:
                    waiting.seek(start)
                    yield waiting.read(size)

            _write_lines(path, lines(), provenance)


def _line(hypothesis: Hypothesis) -> bytes:
    return (json.dumps(_plain(hypothesis), ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write_lines(path: Path, lines: Iterable[bytes], provenance: dict[str, Any] | None) -> None:
    with disk_errors(path.parent):
        with writing(path) as temporary:
            with temporary.open("wb") as out:
                out.writelines(lines)
            digest = file_hash(temporary)
            remove_provenance(path)
        if provenance is not None:
            write_provenance(path, digest, provenance)


def read_hypotheses(path: Path) -> list[Hypothesis]:
    """Read a file of hypotheses in its order, or of lines of `transcribe --json`.

    Raises:
        UsageError: there is no such file.
        FormatError: naming the line that is no hypothesis, or the id that comes twice.
    """
    path = path_given(path, "path")
    check_readable(path, "no such file; hypotheses are made by `hubertkit decode`")
    found: dict[str, Hypothesis] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    hypothesis = _parse(path, number, line)
                    if hypothesis.id in found:
                        raise FormatError(f"{path}, line {number}: a second hypothesis for {hypothesis.id}")
                    found[hypothesis.id] = hypothesis
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text; hypotheses are JSON lines") from error
    return list(found.values())


def _parse(path: Path, number: int, line: str) -> Hypothesis:
    try:
        record: dict[str, Any] = json.loads(line)
        return Hypothesis(
            id=_text(record["id"]), text=_text(record["text"]), score=float(record.get("score", 0.0)),
            acoustic=float(record.get("acoustic", 0.0)), lm=float(record.get("lm", 0.0)),
            words=tuple(map(_word, record.get("words", ()))),
            nbest=tuple(map(_candidate, record.get("nbest", ()))),
            confidences=tuple(map(float, record.get("confidences", _sure(record)))),
            unfinished=bool(record.get("unfinished", False)))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path}, line {number}: not a hypothesis ({type(error).__name__}: {error}); each line is a "
                          'JSON object with at least "id" and "text"') from error


def _word(found: Any) -> Word:
    """A word as `decode` writes it, or as `transcribe`."""
    word, start, end = [found[name] for name in Word._fields] if isinstance(found, dict) else found
    return Word(_text(word), float(start), float(end))


def _sure(record: dict[str, Any]) -> list[Any]:
    """Confidences of the words of a line of `transcribe`."""
    return [word["confidence"] for word in record.get("words", ()) if isinstance(word, dict)]


def _candidate(found: dict[str, Any]) -> Candidate:
    numbers = {name: float(found[name]) for name in ("score", "acoustic", "lm")}
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError(f"{numbers} of an n-best list are no logarithms")
    if more := found.keys() - {*Candidate._fields}:
        raise ValueError(f"{', '.join(sorted(more))}: no such field of an n-best list")
    words = None if found.get("words") is None else _number_of_words(found, "words")
    return Candidate(text=_text(found["text"]), unknown=_number_of_words(found, "unknown"), words=words, **numbers)


def _number_of_words(found: dict[str, Any], name: str) -> int:
    number = found[name]
    if not isinstance(number, int | float):
        raise TypeError(f"{name} is {number!r}, no number")
    if number != number // 1:
        raise ValueError(f"{name} is {number!r}, expected a whole number of words")
    return int(number)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _plain(hypothesis: Hypothesis) -> dict[str, Any]:
    record = asdict(hypothesis)  # named tuples stay tuples
    record["nbest"] = [{name: value for name, value in candidate._asdict().items() if value is not None}
                       for candidate in hypothesis.nbest]
    return {key: value for key, value in record.items() if key not in _OPTIONAL or value}
