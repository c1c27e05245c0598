"""Do references, language model, lexicon and the recogniser's symbols speak of the same words?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from downstream.decode.alphabet import SEPARATORS
from downstream.decode.check import Check, graded
from downstream.decode.flashlight_search import WORDS_OF_A_SPELLING
from downstream.decode.word_model import LEAST_COVERAGE, other_form, spelt_share
from downstream.lm.arpa import ngram_counts, read_unigrams
from downstream.lm.array_file import holds_arrays
from downstream.lm.arrays import NgramArrays
from downstream.score.rates import NO_SPACES, Unit, units_of, without_spaces
from downstream.text.vocabulary import LETTERS, SEPARATOR, named
from upstream.errors import FormatError

_ENGLISH = frozenset(LETTERS)

# (good), (bearable) shares
REFERENCES_SPELLED = (0.995, 1.0), (0.9, 1.0)
WORDS_SPELLED = (0.98, 1.0), (LEAST_COVERAGE, 1.0)
UNKNOWN_WORDS = (0.0, 0.05), (0.0, 1 - LEAST_COVERAGE)
LEXICON = (1.0, 1.0), (1.0, 1.0)  # decoders refuse a lexicon with a single spelling that does not fit
LEXICON_IN_MODEL = (0.5, 1.0), (0.1, 1.0)
LEXICON_HELD = (1.0, 1.0), (0.0, 1.0)  # decoders leave out the rest, and go on


def references_spelled(texts: Collection[str], letters: frozenset[str], unit: Unit = "word") -> Check:
    """The share of the references' running words (or characters) that the symbols can spell."""
    words = [word for text in texts for word in units_of(text, unit)]
    share = spelt_share(words, letters)
    odd = next((c for word in words for c in word if c not in letters), "")
    return graded("references spelled", share, *REFERENCES_SPELLED,
                  f"the symbols can spell {share:.1%} of the {len(words)} {unit}s of the references"
                  + (f", no {named(odd)} for instance" if odd else ""),
                  _other_case(words, letters, "the references") or "normalise the references as the transcripts of "
                  f"training were (case, digits, punctuation); no decoder can find these {unit}s")


def examine_model(words: Collection[str], texts: Collection[str], letters: frozenset[str],
                  unit: Unit = "word") -> list[Check]:
    """Of a language model's words: can they be spelled, and do they cover the references?"""
    share = spelt_share(words, letters)
    odd = next((c for word in words for c in word if c not in letters), "")
    return [
        graded("model spelled", share, *WORDS_SPELLED,
               f"the symbols can spell {share:.1%} of the {len(words)} words of the language model"
               + (f", no {named(odd)} for instance" if odd else ""),
               _other_case(words, letters, "the language model's text") or other_form(words, letters)
               or "build the model from text normalised as the transcripts were"
               + (" (`hubertkit lm build --normalise`)" if letters <= _ENGLISH else " (case, digits, punctuation)")),
        _unknown("model coverage", words, texts, unit, "the language model", "build it from text of the same kind, or "
                 "with a larger vocabulary")]


def examine_lexicon(lexicon: Mapping[str, Collection[tuple[str, ...]]], texts: Collection[str],
                    symbols: Sequence[str], lm_words: Collection[str] | None = None,
                    unit: Unit = "word") -> list[Check]:
    """Of a lexicon: can its spellings be made of the symbols, do they end words, can a decoder hold all words of each,
    does it cover references and model?"""
    known = frozenset(SEPARATOR if symbol in SEPARATORS else symbol for symbol in symbols)  # as files write it
    spellings = [spelling for each in lexicon.values() for spelling in each]
    odd = [spelling for spelling in spellings if not known.issuperset(spelling)]
    checks = [
        graded("lexicon spelled", 1 - len(odd) / max(1, len(spellings)), *LEXICON,
               f"the symbols cannot make {len(odd)} of the {len(spellings)} spellings of the lexicon"
               + (f", {' '.join(odd[0])!r} for instance" if odd else ""),
               _other_case(["".join(s) for s in spellings], known, "the lexicon") or "make the lexicon of this "
               "recogniser's symbols and take other words out; decoders refuse it as it is"),
        _ends(spellings),
        _held(spellings),
        _unknown("lexicon coverage", lexicon, texts, unit, "the lexicon", "add the words: with a lexicon no other word "
                 "can be found")]
    if lm_words is not None:
        checks.append(_common(lexicon, lm_words))
    return checks


def read_model_words(path: Path, progress: Callable[[float, float], None] | None = None,
                     say: Callable[[str], None] | None = None) -> list[str]:
    """The words of a whole ARPA file or of what `hubertkit lm pack` wrote, without `<unk>`, `<s>`, `</s>`.

    Args:
        progress: told the n-grams counted and how many the header announces.
        say: told in a line where the model has no `<unk>`, or two.

    Raises:
        UsageError: no such file.
        FormatError: no language model, one that was cut short, or one without words.
    """
    path = Path(path)
    if holds_arrays(path):
        words = list(NgramArrays.load(path).words.own)
    else:
        words = read_unigrams(path)
        ngram_counts(path, progress, say)  # a file that was cut short looks whole up to there
    if not words:
        raise FormatError(f"{path}: a language model without words; build it from text")
    return words


def _unknown(name: str, words: Collection[str], texts: Collection[str], unit: Unit, whose: str, advice: str) -> Check:
    """The share of the references' running words that are not among `words`, or of characters that none of them has."""
    known = frozenset(words if unit == "word" else "".join(words))
    running = [word for text in texts for word in units_of(text, unit)]
    counts = Counter(word for word in running if word not in known)
    unknown = counts.total()
    share = unknown / max(1, len(running))
    example = f", {max(counts, key=lambda word: (counts[word], word))!r} for instance" if counts else ""
    folded = {word.lower() for word in known}
    if share > UNKNOWN_WORDS[0][1] and sum(word.lower() not in folded for word in running) < 0.5 * unknown:
        advice = f"{whose} and the references are of different case: write both in that of the recogniser's symbols"
    elif unit == "word" and without_spaces(texts, words):
        advice = f"{advice}; {NO_SPACES}"
    return graded(name, share, *UNKNOWN_WORDS,
                  f"{share:.1%} of the {len(running)} {unit}s of the references are not in {whose}{example}", advice)


def _ends(spellings: Sequence[tuple[str, ...]]) -> Check:
    """Flashlight finds a word only where its spelling ends with the separator that the recogniser emits."""
    ended = sum(spelling[-1] == SEPARATOR for spelling in spellings)
    return graded("lexicon separator", ended / max(1, len(spellings)), *LEXICON,
                  f"{ended} of the {len(spellings)} spellings end with the word separator {SEPARATOR!r}",
                  f"end every spelling with {SEPARATOR!r}; decoders refuse the lexicon as it is")


def _held(spellings: Sequence[tuple[str, ...]]) -> Check:
    """Flashlight holds so many words of one spelling, and drops the others."""
    counts = Counter(spellings)
    longest = max(counts, key=lambda spelling: counts[spelling], default=())
    left_out = sum(max(0, count - WORDS_OF_A_SPELLING) for count in counts.values())
    example = f": {' '.join(longest)!r} is the spelling of {counts[longest]} words" if left_out else ""
    return graded("lexicon homophones", 1 - left_out / max(1, len(spellings)), *LEXICON_HELD,
                  f"{left_out} of the {len(spellings)} spellings belong to a seventh or later word of the same"
                  + example,
                  "the lexicon decoder finds the six likeliest words of a spelling: leave rare ones out, or spell "
                  "them apart")


def _common(lexicon: Collection[str], lm_words: Collection[str]) -> Check:
    known = frozenset(lm_words)
    share = sum(word in known for word in lexicon) / max(1, len(lexicon))
    return graded("lexicon in model", share, *LEXICON_IN_MODEL,
                  f"the language model knows {share:.1%} of the {len(lexicon)} words of the lexicon",
                  "the others all get its <unk>: take a lexicon of the model's own words, in the same case")


def _other_case(words: Collection[str], letters: frozenset[str], whose: str) -> str:
    """What to do where the words could be spelled in the other case."""
    before = spelt_share(words, letters)
    for case, change in (("upper", str.upper), ("lower", str.lower)):
        if before < WORDS_SPELLED[0][0] and spelt_share([change(w) for w in words], letters) > max(0.9, before):
            return f"the symbols are {case} case: write {whose} in {case} case"
    return ""
