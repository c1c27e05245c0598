"""What to know of the characters that a recogniser is to learn: each is a class of its own, seen or not."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from downstream.text.vocabulary import Vocabulary, composed, hidden, seen

RARE = 3  # transcripts; what stands in fewer can hardly be learnt
_SHOWN = 12  # of each kind
_APOSTROPHES = "'\u2018\u2019\u02bb\u02bc\u02b9\u2032\uff07`\u00b4"
_MIXED = ("CYRILLIC", "GREEK")  # scripts with letters that look as Latin ones do


def remarks(texts: Iterable[str | None], vocabulary: Vocabulary) -> Iterator[str]:
    """Lines on the symbols of transcripts: which they are, and which of them may be meant to be none.

    Those that are not seen, those in fewer than `RARE` transcripts, those that may be the same character (apostrophes,
    dashes, digits of several scripts, forms of one width and another), and words of Latin letters and others.
    """
    counts: Counter[str] = Counter()
    words: set[str] = set()
    for text in texts:
        plain = composed(text or "")
        counts.update(set(plain))
        words.update(plain.split())
    symbols = [c for c in vocabulary.symbols if c in vocabulary.letters]
    others = [] if len(symbols) <= 40 else [c for c in symbols if not unicodedata.category(c).startswith(("L", "M"))]
    yield (f"symbols, of the training transcripts: {vocabulary.shown()}"
           + (f"; no letters among them: {_listed(map(seen, others), '')}" if others else ""))
    unseen = [f"U+{ord(c):04X} ({_transcripts(counts[c])})" for c in symbols if hidden(c)]
    if unseen:
        yield f"warning: symbols that are not seen: {_listed(unseen)}; take out those that spell nothing"
    rare = [f"{seen(c)} ({counts[c]})" for c in symbols if counts[c] < RARE]
    if rare and len(symbols) > len(rare):
        yield (f"warning: {len(rare)} of {len(symbols)} symbols stand in fewer than {RARE} transcripts and will hardly "
               f"be learnt: {_listed(rare)}")
    alike = defaultdict(list)
    for c in symbols:
        alike[_plain(c)].append(f"{seen(c)} (U+{ord(c):04X}, {_transcripts(counts[c])})")
    for group in alike.values():
        if len(group) > 1:
            yield f"warning: symbols that may be one: {' and '.join(group)}; write them alike"
    if mixed := sorted(filter(_mixed, words)):
        yield (f"warning: Latin letters among others that look alike, in {_listed(mixed)}; write each word in one "
               "script")


def _plain(c: str) -> str:
    """What a character may be another way to write; one of several characters is nothing's."""
    if c in _APOSTROPHES:
        return "'"
    if unicodedata.category(c) == "Pd":
        return "-"
    digit = unicodedata.decimal(c, None)
    if digit is not None:
        return str(digit)
    plain = unicodedata.normalize("NFKC", c)
    return plain if len(plain) == 1 else c


def _mixed(word: str) -> bool:
    if word.isascii():
        return False
    scripts = {unicodedata.name(c, "").partition(" ")[0] for c in word if c.isalpha()}
    return "LATIN" in scripts and any(script in scripts for script in _MIXED)


def _transcripts(count: int) -> str:
    return f"{count} transcript{'s' * (count != 1)}"


def _listed(items: Iterable[str], join: str = ", ") -> str:
    items = list(items)
    return join.join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
