"""What gives a word error rate of 90, named before an hour is spent: checks of emissions, references, model, lexicon.

    hubertkit decode-check EMISSIONS --references DEV --lm LM --lexicon FILE

Each check has a number that is measured, limits that stand beside it in the code, and a sentence on what to do. The
first one that failed is the cause more often than not: a wrong blank, for instance, makes the text wrong as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from downstream.decode import health_emissions, health_words
from downstream.decode.alphabet import alphabet
from downstream.decode.check import Check
from downstream.decode.tune import evenly
from downstream.emissions import Emissions
from downstream.score.rates import Unit
from downstream.text.vocabulary import spelled_as
from upstream.errors import InputError


def examine(emissions: Emissions, references: Mapping[str, str], lm_words: Collection[str] | None = None,
            lexicon: Mapping[str, Collection[tuple[str, ...]]] | None = None, seconds: float = 300.0,
            unit: Unit = "word", unspaced: bool = False) -> list[Check]:
    """Every check that the given things allow.

    Args:
        emissions: of a development set.
        references: {id: text} of it; ids without emissions do not matter.
        lm_words: the words of the language model, without `<s>`, `</s>` and `<unk>`.
        lexicon: {word: spellings}, the `spellings` of a `Lexicon`.
        seconds: of speech to look at; more is thinned out evenly along utterance lengths. Texts are looked at whole.
        unit: that errors and shares of the references are counted in; `character` for references without spaces.
        unspaced: the decoder will need no separators between words.

    Raises:
        InputError: no utterance, none that has a reference, or only empty ones.
    """
    ids = [id for id in emissions.ids if id in references]
    if not len(emissions):
        raise InputError(f"{emissions.folder}: emissions of no utterance; there is nothing to decode")
    if not ids:
        raise InputError(f"{emissions.folder}: none of the {len(emissions)} utterances has a reference, "
                         f"{emissions.ids[0]} for instance; give the references of what was "
                         "recognised")
    letters = _letters(emissions)
    references = {id: spelled_as(references[id], letters or frozenset()) for id in ids}
    texts = list(references.values())
    if not any(texts):
        raise InputError(f"the references of all {len(ids)} utterances are empty: nothing to compare with")
    checks = [_references_there(len(ids), emissions)]
    if letters is not None:
        checks.append(health_words.references_spelled(texts, letters, unit))
    chosen = set(evenly(emissions, seconds)) & set(ids) or set(ids)
    sample = health_emissions.Sample.of(emissions, [id for id in ids if id in chosen], references)
    checks += health_emissions.examine(sample, unit, unspaced, lm_words or ())
    if letters is None:
        return checks
    if lm_words is not None:
        checks += health_words.examine_model(lm_words, texts, letters, unit)
    if lexicon is not None:
        checks += health_words.examine_lexicon(lexicon, texts, emissions.symbols, lm_words, unit)
    return checks


def _letters(emissions: Emissions) -> frozenset[str] | None:
    """None where the symbols cannot be decoded with, which the checks of the emissions say."""
    try:
        return alphabet(emissions.symbols, emissions.blank).letters
    except InputError:
        return None


def _references_there(found: int, emissions: Emissions) -> Check:
    share = found / len(emissions)
    what = f"{found} of {len(emissions)} utterances have a reference"
    if found == len(emissions):
        return Check("references", "ok", share, what)
    missing = len(emissions) - found
    return Check("references", "warning", share, what,
                 f"{missing} cannot be tuned on; give the references of the same set as the emissions")
