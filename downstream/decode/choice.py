"""Which decoder, from the settings that commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from downstream.decode.alphabet import SEPARATORS, alphabet
from downstream.decode.batched import BatchedDecoder
from downstream.decode.beam import BeamDecoder
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.lexicon import LexiconDecoder
from downstream.text.lexicon import Lexicon
from downstream.text.vocabulary import SEPARATOR, Vocabulary, named, spelled_as
from upstream.errors import FormatError, UsageError

WeightedDecoder = BeamDecoder | LexiconDecoder | BatchedDecoder  # those that weigh a language model
AnyDecoder = GreedyDecoder | WeightedDecoder

# Of a hotword in our own search: it is then heard as if it were said 150 times as often. pyctcdecode's 10 would be too
# much here, for ours also tries letters that are that unlikely.
HOTWORD_NATS = 5.0

MOST_HOTWORD_NATS = 500.0  # far beyond what a frame says of anything; exp of much more is no number
_TOKENS = "tokens_per_frame (--tokens)"  # a setting and its option, where their names differ
MOST = 100_000  # hypotheses or symbols: beyond any use, and before memory or flashlight's integers overflow


class Name(str, Enum):
    """The decoders by the names that commands give them."""

    greedy = "greedy"
    beam = "beam"
    lexicon = "lexicon"
    batched = "batched"


@dataclass(frozen=True)
class Choice:
    """A decoder and its settings. None is the decoder's own default.

    Attributes:
        name: or its text, `"beam"`; None: `batched` where there is a language model, a beam or hotwords, else greedy.
        lm: ARPA file; `batched` takes packed arrays (`.ngrams`) too, and `lexicon` a KenLM binary.
        lexicon: file of `WORD<tab>W O R D |` lines, or of words alone.
        lm_weight, word_score: natural logarithms.
        beam: hypotheses kept after each frame.
        tokens_per_frame: symbols tried in a frame.
        nbest: candidates that a hypothesis lists.
        hotwords: words to expect, and what each adds in nats; None: the decoder's own, 10 of pyctcdecode's, 5 of ours.
        device: of torch, for `batched`.
        unspaced: words need no separator between them, for `batched`.
    """

    name: Name | str | None = None
    lm: Path | None = None
    lexicon: Path | None = None
    lm_weight: float | None = None
    word_score: float | None = None
    beam: int | None = None
    tokens_per_frame: int | None = None
    nbest: int = 1
    hotwords: tuple[tuple[str, float | None], ...] = ()
    device: str | None = None
    unspaced: bool = False

    @property
    def chosen(self) -> Name:
        """The decoder, the default resolved. Raises UsageError where there is none of the name."""
        if self.name is not None:
            return decoder_called(self.name)
        searched = self.lm is not None or self.beam is not None or self.hotwords
        return Name.batched if searched else Name.greedy

    def make(self, symbols: Sequence[str], blank: int) -> AnyDecoder:
        """The decoder for a recogniser's symbols, not yet prepared.

        Raises:
            UsageError: no such decoder, settings that it does not have or that are of no use to it, a weight without
                the language model that it weighs, or a file that is not there.
            InputError: symbols that cannot be decoded with, a lexicon or hotwords that they cannot spell.
        """
        for name, value in {"beam": self.beam, _TOKENS: self.tokens_per_frame}.items():
            if value is not None:
                check_size(name, value)
        check_size("nbest", self.nbest)
        self._refuse_what_has_no_effect()
        self._refuse_what_weighs_nothing()
        symbols = tuple(symbols)
        letters = alphabet(symbols, blank).letters
        hotwords = self._spelled_hotwords(letters)
        if self.chosen == Name.greedy:
            return GreedyDecoder(symbols, blank)
        if self.chosen == Name.beam:
            return self._beam(symbols, blank, hotwords)
        given = {"lm": self.lm, "lm_weight": self.lm_weight, "word_score": self.word_score, "beam": self.beam,
                 "tokens_per_frame": self.tokens_per_frame, "nbest": self.nbest}
        settings = {name: value for name, value in given.items() if value is not None}
        lexicon = None if self.lexicon is None else load_lexicon(self.lexicon, symbols, blank)
        if self.chosen == Name.lexicon:
            return LexiconDecoder(symbols, blank, lexicon=lexicon, **settings)  # type: ignore[arg-type]
        if lexicon is not None and not lexicon.by_characters:
            raise UsageError(f"{self.lexicon}: a lexicon with other spellings than by characters; the batched decoder "
                             "knows none: take the lexicon decoder (--decoder lexicon)")
        if self.device is not None:
            check_device(self.device)
        words = None if lexicon is None else tuple(lexicon.words)
        bonus = tuple((word, HOTWORD_NATS if nats is None else nats) for word, nats in hotwords)
        return BatchedDecoder(symbols, blank, lexicon=words, hotwords=bonus, device=self.device,
                              unspaced=self.unspaced, **settings)  # type: ignore[arg-type]

    def _spelled_hotwords(self, letters: frozenset[str]) -> tuple[tuple[str, float | None], ...]:
        """Hotwords in the form of Unicode that the symbols have. Raises UsageError for one that they cannot spell."""
        found = tuple((spelled_as(word, letters), nats) for word, nats in map(_hotword, self.hotwords))
        for word, _ in found:
            if not word or not letters.issuperset(word):
                odd = next((f", which have no {named(c)}" for c in word if c not in letters), "")
                raise UsageError(f"hotword {word!r} cannot be spelled in the recogniser's symbols{odd}")
        return found

    def _beam(self, symbols: tuple[str, ...], blank: int,
              hotwords: tuple[tuple[str, float | None], ...]) -> BeamDecoder:
        bonuses = {BeamDecoder.hotword_weight if nats is None else nats for _, nats in hotwords}
        if len(bonuses) > 1:
            named = ", ".join(f"{bonus:g}" for bonus in sorted(bonuses))
            raise UsageError(f"hotwords with bonuses of {named}: pyctcdecode has one for all; give the same, or take "
                             "the batched decoder (--decoder batched)")
        given = {"lm_weight": self.lm_weight, "word_score": self.word_score, "beam": self.beam,
                 "hotword_weight": next(iter(bonuses), None)}
        settings = {name: value for name, value in given.items() if value is not None}
        return BeamDecoder(symbols, blank, self.lm, tokens_per_frame=self.tokens_per_frame, nbest=self.nbest,
                           hotwords=tuple(word for word, _ in hotwords), **settings)  # type: ignore[arg-type]

    def _refuse_what_has_no_effect(self) -> None:
        name = self.chosen
        given = {
            "lm": (self.lm is not None, {Name.beam, Name.lexicon, Name.batched}),
            "beam": (self.beam is not None, {Name.beam, Name.lexicon, Name.batched}),
            "nbest": (self.nbest > 1, {Name.beam, Name.lexicon, Name.batched}),
            _TOKENS: (self.tokens_per_frame is not None, {Name.beam, Name.lexicon, Name.batched}),
            "lexicon": (self.lexicon is not None, {Name.lexicon, Name.batched}),
            "hotwords": (bool(self.hotwords), {Name.beam, Name.batched}),
            "device": (self.device is not None, {Name.batched}),
            "unspaced": (self.unspaced, {Name.batched})}
        for setting, (there, takers) in given.items():
            if there and name not in takers:
                others = " or ".join(taker.value for taker in Name if taker in takers)
                raise UsageError(f"{setting} has no effect on the {name.value} decoder: take {others} (--decoder), or "
                                 "leave it out")


    def _refuse_what_weighs_nothing(self) -> None:
        for name, weight in (("lm_weight", self.lm_weight), ("word_score", self.word_score)):
            if weight is not None and not isinstance(weight, int | float | np.number):
                raise UsageError(f"{name}={weight!r}: expected a number")
        if self.lm is None and self.lm_weight is not None:
            raise UsageError(f"lm_weight={self.lm_weight:g} without a language model has no effect: give one as lm "
                             "(--lm), or leave the weight out")
        if self.word_score is not None and self.lm is None and self.chosen in (Name.greedy, Name.beam):
            raise UsageError(f"word_score={self.word_score:g} without a language model has no effect on the "
                             f"{self.chosen.value} decoder: give one as lm (--lm), or leave the score "
                             "out")


def decoder_called(name: str) -> Name:
    """A decoder by its name. Raises UsageError with those there are."""
    try:
        return Name(name)
    except ValueError as error:
        known = ", ".join(decoder.value for decoder in Name)
        raise UsageError(f"no decoder called {name!r}; there are {known}") from error


def check_device(device: str) -> None:
    """Raise UsageError saying why torch cannot use a device, if it cannot."""
    import torch

    try:
        if torch.empty(0, device=device).is_meta:
            raise RuntimeError("it holds no numbers")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {device!r} cannot be used ({reason}); give cpu or cuda, or leave it out") from error


def check_size(name: str, value: int) -> None:
    """Raise UsageError for no number of hypotheses or symbols, or more than can be kept."""
    if not isinstance(value, int | np.integer) or value < 1:
        raise UsageError(f"{name} {value!r}: must be a whole number, 1 or more")
    if value > MOST:
        raise UsageError(f"{name} {value}: at most {MOST}")


def name_of(decoder: AnyDecoder) -> Name:
    """The name that commands give a decoder."""
    return {GreedyDecoder: Name.greedy, BeamDecoder: Name.beam, LexiconDecoder: Name.lexicon,
            BatchedDecoder: Name.batched}[type(decoder)]


def settings_of(decoder: AnyDecoder) -> dict[str, Any]:
    """The settings of a decoder as JSON values, without the files and symbols that it decodes with."""
    return {field.name: getattr(decoder, field.name) for field in fields(decoder)
            if field.name not in ("symbols", "blank", "lm", "lexicon")}


def load_lexicon(path: Path, symbols: Sequence[str], blank: int) -> Lexicon:
    """A lexicon for the symbols of emissions, whose word separator may be a space. Raises as `Lexicon.load`."""
    separated = tuple(SEPARATOR if s in SEPARATORS and i != blank else s for i, s in enumerate(symbols))
    return Lexicon.load(path, Vocabulary(separated, blank))


def parse_hotwords(given: str) -> tuple[tuple[str, float | None], ...]:
    """Hotwords as `WORD=BONUS,WORD,...`, or a file of one such a line; the bonus in nats, None where there is none.

    Raises:
        UsageError: no text, no words, a word twice, or a bonus that is no number.
        FormatError: a file that is no text.
    """
    if not isinstance(given, str):
        raise UsageError(f"hotwords={given!r}: expected text, WORD,WORD=BONUS,... or the name of a file")
    text = given
    if _is_file(given):
        try:
            text = Path(given).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise FormatError(f"{given}: not UTF-8 text; expected a hotword a line, WORD or WORD=BONUS") from error
    found: dict[str, float | None] = {}
    for item in filter(None, map(str.strip, re.split(r"[,\n]", text))):
        word, equals, number = (part.strip() for part in item.partition("="))
        try:
            bonus = float(number) if equals else None
        except ValueError:
            bonus = math.nan
        if word in found or not word or (bonus is not None and not abs(bonus) <= MOST_HOTWORD_NATS):
            raise UsageError(f"hotword {item!r}: expected each word once, as WORD or WORD=BONUS with the bonus in nats"
                             f" (at most {MOST_HOTWORD_NATS:g})")
        found[word] = bonus
    if not found:
        raise UsageError(f"hotwords {given!r}: no words; give WORD,WORD=BONUS,... or a file of such lines")
    return tuple(found.items())


def _hotword(pair: Any) -> tuple[str, float | None]:
    """A hotword of `Choice`. Raises UsageError for anything but a word and a number or None."""
    if isinstance(pair, list | tuple) and len(pair) == 2:
        word, nats = pair
        if isinstance(word, str) and (nats is None or isinstance(nats, int | float | np.number)):
            return word, None if nats is None else float(nats)
    raise UsageError(f"hotword {pair!r}: expected a pair of the word and its bonus in nats, or None")


def _is_file(given: str) -> bool:
    try:
        return Path(given).is_file()
    except OSError:  # a list too long for the name of a file
        return False
