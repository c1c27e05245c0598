"""A decoder as options and files of weights name it: what `hubertkit tune` found, for whom, and with which model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from downstream.decode.choice import Choice, Name, decoder_called, parse_hotwords
from downstream.lm.arrays import model_hash
from upstream.errors import UsageError
from upstream.progress import say

T = TypeVar("T")


def choice_of(*, decoder: Name | str | None = None, lm: Path | None = None, lm_weight: float | None = None,
              word_score: float | None = None, tuned: Path | None = None, beam: int | None = None,
              tokens: int | None = None, lexicon: Path | None = None, hotwords: str | None = None,
              device: str | None = None, nbest: int = 1, unspaced: bool | None = None) -> Choice:
    """A decoder with its settings, from the options of a command.

    Raises:
        UsageError: no such decoder, weights without a language model, given twice, a file that is not of `hubertkit
            tune`, or hotwords that are none.
    """
    decoder = None if decoder is None else decoder_called(decoder)
    lm, lexicon, tuned = (None if path is None else Path(path) for path in (lm, lexicon, tuned))
    if lm is None and (tuned is not None or lm_weight is not None):  # some searches score words without one (`Choice`)
        raise UsageError("weights without a language model have no effect: give one as lm (--lm)")
    found = _Tuned(lm_weight, word_score)
    if tuned is not None:
        if lm_weight is not None or word_score is not None:
            raise UsageError(f"{tuned}: holds both weights: leave out lm_weight and word_score (--lm-weight, "
                             "--word-score)")
        found = _Tuned.read(tuned)
        if decoder is not None and found.decoder not in (None, decoder):
            say(f"{tuned}: tuned for the {found.decoder.value} decoder; its weights may not suit {decoder.value}")
            found = _Tuned(found.lm_weight, found.word_score, lm=found.lm, lm_sha256=found.lm_sha256)
        elif found.lexicon is not None and lexicon is None:
            say(f"{tuned}: tuned with the lexicon {found.lexicon}; without one (--lexicon) the words are those of "
                "the language model")
        if unspaced and not found.unspaced:
            say(f"{tuned}: tuned without unspaced (--unspaced); its weights may not suit it")
        if found.lm is not None and lm is not None:
            _tell_other_model(found.lm, found.lm_sha256, lm, tuned)
    return Choice(decoder or found.decoder, lm, lexicon, found.lm_weight, found.word_score,
                  found.beam if beam is None else beam, found.tokens if tokens is None else tokens, nbest,
                  parse_hotwords(hotwords) if hotwords is not None else (), device, bool(unspaced or found.unspaced))


def tell_other_recogniser(tuned: Path | None, own: Callable[[], str | None]) -> None:
    """Say so where weights were tuned for another recogniser.

    Args:
        own: gives the hash of the recogniser that they are used for, None where nobody knows; asked only where the
            file of weights names one.
    """
    noted = None if tuned is None else _Tuned.read(Path(tuned)).recogniser_hash
    here = None if noted is None else own()
    if noted is not None and here not in (None, noted):
        say(f"{tuned}: tuned for the recogniser {noted[:12]}; its weights may not suit {str(here)[:12]}")


def _tell_other_model(recorded: str, recorded_hash: str | None, given: Path, tuned: Path) -> None:
    """Say so where weights were tuned with another model: of other bytes (packed, of an ARPA file of other bytes) or,
    where those cannot be compared, as of a file with those of the same gzipped, of another name."""
    here = None if recorded_hash is None else model_hash(given)
    if here is not None and here == recorded_hash:
        return
    kinds = {Path(recorded).suffix, Path(given).suffix}
    if not same_model(recorded, given, tuned):
        say(f"{tuned}: tuned with the language model {tuned.parent / recorded}; its weights may not suit {given}")
    elif here is not None and (len(kinds) == 1 or ".ngrams" in kinds or ".gz" not in kinds):
        say(f"{tuned}: the language model {given} has changed since; its weights may not suit it")


def noted_model(model: Path | str, tuned: Path) -> str:
    """What a file of weights says of the model that they were tuned with: where it lies as seen from there, or the
    name that it has on a hub."""
    if Path(model).is_absolute() or not Path(model).exists():
        return str(model)
    return os.path.relpath(Path(model).resolve(), tuned.parent.resolve())


def noted_file(path: Path | None, out: Path) -> dict[str, str | None] | None:
    """What a file of results says of one that it was made with: where it lies as seen from there, and its sha256, of a
    packed language model that of the ARPA file; None without one."""
    return None if path is None else {"file": noted_model(path, out), "sha256": model_hash(path)}


def same_model(recorded: str, given: Path | str, tuned: Path) -> bool:
    """Whether weights tuned with one model are used with the same; an ARPA file and arrays of its name are one. Files
    of older versions say where a model lies as seen from where they were made."""
    places = (tuned.parent / recorded).resolve(), Path(recorded).resolve(), Path(given).resolve()
    *ours, other = (re.sub(r"(\.arpa)?(\.gz)?$|\.ngrams$", "", str(place)) for place in places)
    return other in ours or (recorded == str(given) and not Path(given).exists())


@dataclass(frozen=True)
class _Tuned:
    """What `hubertkit tune` found."""

    lm_weight: float | None
    word_score: float | None
    decoder: Name | None = None
    beam: int | None = None
    tokens: int | None = None
    lexicon: str | None = None
    lm: str | None = None
    lm_sha256: str | None = None
    recogniser_hash: str | None = None
    unspaced: bool = False

    @staticmethod
    def read(path: Path) -> _Tuned:
        if not path.is_file():
            raise UsageError(f"{path}: no such file; `hubertkit tune` writes it")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            neural = "ngram_weight" in found
            made = _Tuned(float(found["lm_weight"]), float(found["word_score"]), _if(Name, found.get("decoder")),
                         _if(int, found.get("beam")), _if(int, found.get("tokens_per_frame")),
                         _if(str, found.get("lexicon")), _if(str, found.get("lm")), _if(str, found.get("lm_sha256")),
                         _if(str, found.get("recogniser_hash")), bool(found.get("unspaced", False)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: not what `hubertkit tune` writes") from error
        if neural:
            raise UsageError(f"{path}: not what `hubertkit tune` writes, but the weights of a neural model, which "
                             "`hubertkit rescore` takes")
        return made


def _if(kind: Callable[[str], T], value: str | None) -> T | None:
    return None if value is None else kind(value)
