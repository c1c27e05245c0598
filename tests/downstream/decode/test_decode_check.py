"""The check before decoding: a healthy case passes everything, each deliberate mistake is named by its own check."""

import contextlib
import math
import re
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posteriors import FOLDER, read_slice

from downstream.decode.alphabet import alphabet
from downstream.decode.choice import Choice, Name
from downstream.decode.health import examine
from downstream.decode.health_emissions import kind_of, normalised, temperature_of
from downstream.decode.health_words import examine_lexicon, examine_model, read_model_words
from downstream.emissions import Emissions
from downstream.text.lexicon import Lexicon
from upstream.errors import FormatError, InputError

UTTERANCES, REFERENCES, SYMBOLS = read_slice()
WORDS = read_model_words(FOLDER / "words.arpa.gz")
LEXICON = {word: ((*word, "|"),) for word in WORDS}


def stored(utterances=UTTERANCES, symbols=SYMBOLS, blank=0, rate=50.0):
    """Emissions in memory, whatever they hold; a writer would refuse most mistakes, files of others hold them."""
    offsets = np.cumsum([0, *map(len, utterances.values())])
    rows = np.concatenate([*utterances.values()])
    header = {"symbols": symbols, "blank": blank, "frame_rate": rate, "hash": "", "meta": {}}
    return Emissions(FOLDER, header, list(utterances), offsets, rows)


def changed(change):
    return stored({id: change(rows) for id, rows in UTTERANCES.items()})


def levels(emissions, references=REFERENCES, words=WORDS, lexicon=None):
    return {check.name: check for check in examine(emissions, references, words, lexicon, seconds=math.inf)}


def test_the_page_names_every_check_and_no_other():
    """`references` stood on no line of it."""
    page = (Path(__file__).parents[3] / "docs/decoding.md").read_text(encoding="utf-8")
    table = page.partition("\n## Check first\n")[2].partition("|---")[2].partition("\n\n")[0]
    named = [name for row in table.split("\n")[1:] for name in re.findall("`(.*?)`", row.split(" | ")[0])]
    assert sorted(named) == sorted(levels(stored(), lexicon=LEXICON))


def test_a_healthy_case_passes_every_check():
    found = levels(stored(), lexicon=LEXICON)
    assert {check.level for check in found.values()} == {"ok"}
    assert not any(check.advice for check in found.values())
    assert list(found) == ["references", "references spelled", "values", "blank", "symbols", "word separator",
                           "empty output", "frame rate", "length", "agreement", "temperature", "model spelled",
                           "model coverage", "lexicon spelled", "lexicon separator", "lexicon homophones",
                           "lexicon coverage", "lexicon in model"]
    assert found["temperature"].measured == pytest.approx(1, abs=0.25)  # the posteriors are exact


def test_references_in_another_form_of_unicode_pass_as_well():
    """Of references in NFD it said that the symbols cannot spell them: no combining accent, for instance."""
    symbols, composed = tuple(s.replace("E", "\u00c9") for s in SYMBOLS), [w.replace("E", "\u00c9") for w in WORDS]
    apart = {id: unicodedata.normalize("NFD", text.replace("E", "\u00c9")) for id, text in REFERENCES.items()}
    found = levels(stored(symbols=symbols), apart, composed, {word: ((*word, "|"),) for word in composed})
    assert {check.level for check in found.values()} == {"ok"}


def test_references_without_spaces_pass_by_characters():
    """Right data of a script without spaces failed: no word of the references was in the model."""
    unspaced = {id: text.replace(" ", "") for id, text in REFERENCES.items()}
    found = {check.name: check for check in examine(stored(), unspaced, WORDS, LEXICON, math.inf, "character")}
    assert {check.level for check in found.values()} == {"ok"}
    assert "of the 367 characters" in found["model coverage"].what
    assert set(levels(stored())) - set(found) == {"temperature"}
    by_words = levels(stored(), unspaced, lexicon=LEXICON)
    for name in ("word separator", "model coverage", "lexicon coverage"):
        assert by_words[name].level == "failed"
        assert "count characters" in by_words[name].advice


@pytest.mark.parametrize(("references", "advice"), [
    (REFERENCES, "train it for longer"),
    ({i: t.replace(" ", "") for i, t in REFERENCES.items()}, "decode without them (--unspaced)")])
def test_a_recogniser_without_separators_is_told_to_do_without_them_where_the_references_do(references, advice):
    def without_separators(rows):
        quiet = rows.astype(np.float64)
        quiet[:, SYMBOLS.index(" ")] = -20.0
        return normalised(quiet)

    quiet = changed(without_separators)
    found = {check.name: check for check in examine(quiet, references, WORDS, None, math.inf, "character")}
    assert (found["word separator"].level, advice in found["word separator"].advice) == ("failed", True)


@pytest.mark.parametrize(("sign", "a_second", "level"), [
    ("\u4e2d", 2.2, "ok"), ("\u30ab", 2.2, "ok"), ("\ud55c", 1.5, "warning"), ("\u1112\u1161\u11ab", 2.0, "ok"),
    ("\u4e2d", 0.9, "failed"), ("a", 2.2, "failed")])
def test_scripts_of_one_sign_a_syllable_have_fewer_characters_a_second(sign, a_second, level):
    """Right data of Mandarin failed: "the references have 2.2 characters for each second"."""
    rows = normalised(np.zeros((500, len(SYMBOLS))))
    texts = {"u": sign * round(10 * a_second)}
    assert levels(stored({"u": rows}), texts, None)["frame rate"].level == level


def swapped(one, two):
    order = list(range(len(SYMBOLS)))
    order[one], order[two] = two, one
    return lambda rows: rows[:, order]


@pytest.mark.parametrize(("change", "name", "says"), [
    (np.exp, "values", "natural logarithm"),
    (lambda rows: rows / math.log(10), "values", "multiply them by ln 10"),
    (lambda rows: rows + 7.5, "values", "apply log_softmax over the symbols"),
    (lambda rows: rows[:, :] - 1.0, "values", "leave no column out"),
    (lambda rows: np.where(rows < -19, np.nan, rows), "values", "the audio is broken"),
    (swapped(0, 7), "blank", "the blank is likely column 7"),
    (swapped(1, SYMBOLS.index("Q")), "word separator", "the column of the word separator is another one"),
    (lambda rows: normalised(rows + np.where(np.arange(29) == 0, 30.0, 0.0)), "empty output", "train it for longer"),
    (lambda rows: normalised(rows * 10), "temperature", "multiply the logits by"),
    (lambda rows: normalised(rows / 10), "temperature", "multiply the logits by"),
    (lambda rows: rows[:, [0, 1, 2, *range(28, 2, -1)]], "agreement", "symbols are in another order"),
    (lambda rows: rows[::8], "length", "these references cannot be found"),
])
def test_broken_emissions_are_named(change, name, says):
    check = levels(changed(change))[name]
    assert check.level == "failed"
    assert says in check.advice


@pytest.mark.parametrize(("change", "kind"), [
    (lambda rows: rows, "log-probabilities"), (np.exp, "probabilities"), (lambda rows: rows + 9, "logits"),
    (lambda rows: rows / math.log(10), "log10 probabilities"), (lambda rows: rows * 0.9, "unnormalised"),
])
def test_other_numbers_are_told_apart_and_the_rest_is_still_looked_at(change, kind):
    assert kind_of([change(rows) for rows in UTTERANCES.values()])[0] == kind
    found = levels(changed(change))
    assert found["agreement"].level == "ok"
    assert found["temperature"].level == "ok"


@pytest.mark.parametrize(("rate", "level"), [(50.0, "ok"), (100.0, "warning"), (25.0, "warning"), (200.0, "failed"),
                                             (5.0, "failed")])
def test_the_frame_rate_is_held_against_the_characters_a_second(rate, level):
    check = levels(stored(rate=rate))["frame rate"]
    seconds = sum(map(len, UTTERANCES.values())) / rate
    assert check.measured == pytest.approx(sum(map(len, REFERENCES.values())) / seconds)
    assert check.level == level


@pytest.mark.parametrize(("symbols", "blank", "name", "says"), [
    (tuple("_" if s == " " else s for s in SYMBOLS), 0, "symbols", "0 word separators"),
    (tuple("|" if s == "Z" else s for s in SYMBOLS), 0, "symbols", "2 word separators"),
    (SYMBOLS, 29, "blank", "column 29 of 29"), (SYMBOLS, 28, "blank", "'Z'"),
])
def test_symbols_that_cannot_be_decoded_with_are_named(symbols, blank, name, says):
    check = levels(stored(symbols=symbols, blank=blank))[name]
    assert check.level == "failed"
    assert says in check.what


def test_another_case_is_named_wherever_it_is():
    lower = {id: text.lower() for id, text in REFERENCES.items()}
    found = levels(stored(), lower)
    assert found["references spelled"].level == found["model coverage"].level == "failed"
    assert "write the references in upper case" in found["references spelled"].advice
    assert "write both in that of the recogniser's symbols" in found["model coverage"].advice
    found = levels(stored(), words=[word.lower() for word in WORDS], lexicon={w.lower(): ((*w.lower(), "|"),)
                                                                              for w in WORDS})
    for name in ("model spelled", "model coverage", "lexicon spelled", "lexicon coverage"):
        assert found[name].level == "failed"
        assert "case" in found[name].advice
    symbols = tuple(s.lower() for s in SYMBOLS)
    assert "lower case" in levels(stored(symbols=symbols))["model spelled"].advice


def test_a_model_of_other_words_is_named_with_the_share_that_it_lacks():
    texts, letters = ["A B A C", "A D"], frozenset("ABCD")
    spelled, coverage = examine_model(["A", "B"], texts, letters)
    assert (spelled.level, spelled.measured) == ("ok", 1.0)
    assert (coverage.level, coverage.measured) == ("failed", pytest.approx(2 / 6))
    assert "33.3% of the 6 words" in coverage.what
    spelled, coverage = examine_model(["A", "B", "C", "D", "É"], texts, letters)
    assert (spelled.level, spelled.measured, coverage.level) == ("warning", 0.8, "ok")


@pytest.mark.parametrize(("lexicon", "lm", "name", "says"), [
    ({"A": (("A",),), "B": (("B", "|"),)}, None, "lexicon separator", "end every spelling with '|'"),
    ({"A": (("Á", "|"),), "B": (("B", "|"),)}, None, "lexicon spelled", "of this recogniser's symbols"),
    ({"A": (("A", "|"),)}, None, "lexicon coverage", "add the words"),
    ({"A": (("A", "|"),), "B": (("B", "|"),)}, ["a", "b"], "lexicon in model", "the model's own words"),
])
def test_a_lexicon_that_does_not_fit_is_named(lexicon, lm, name, says):
    found = {c.name: c for c in examine_lexicon(lexicon, ["A B"], ("_", "|", "A", "B"), lm)}
    assert found[name].level == "failed"
    assert says in found[name].advice


def test_words_beyond_six_of_one_spelling_are_counted():
    """Found in a Chinese lexicon by pinyin: the seventh word could never be found, and nothing said so."""
    lexicon = dict.fromkeys("ABCDEFGH", (("A", "|"),)) | {"I": (("A", "|"), ("B", "|")), "J": (("B", "|"),)}
    found = {c.name: c for c in examine_lexicon(lexicon, ["A B"], ("_", "|", "A", "B"))}["lexicon homophones"]
    assert (found.level, found.measured) == ("warning", pytest.approx(8 / 11))
    assert found.what.startswith("3 of the 11 spellings")
    assert found.what.endswith("'A |' is the spelling of 9 words")
    few = {c.name: c for c in examine_lexicon({w: lexicon[w] for w in "ABCDEFJ"}, ["A B"], ("_", "|", "A", "B"))}
    assert (few["lexicon homophones"].level, few["lexicon homophones"].measured) == ("ok", 1.0)


def test_a_test_set_of_words_in_the_other_case_is_looked_at_in_no_time():
    """As many words as LibriSpeech's dev-clean has, all unknown; counting each of 8000 in all took ten seconds."""
    texts = [f"w{n * n % 8009}" for n in range(54_000)]
    began = time.process_time()
    _, coverage = examine_model([text.upper() for text in texts], [*texts, *["w0"] * 20], frozenset("w0123456789"))
    assert time.process_time() - began < 2
    assert (coverage.level, coverage.measured) == ("failed", 1.0)
    assert "'w0' for instance" in coverage.what
    assert "different case: write both in that of the recogniser's symbols" in coverage.advice


def test_utterances_without_a_reference_are_counted_and_none_at_all_is_refused():
    one, *_ = REFERENCES
    check = levels(stored(), {one: REFERENCES[one]})["references"]
    assert (check.level, check.measured) == ("warning", 0.1)
    with pytest.raises(InputError, match="none of the 10 utterances has a reference"):
        levels(stored(), {"other": "A"})
    with pytest.raises(InputError, match="nothing to compare with"):
        levels(stored(), dict.fromkeys(REFERENCES, " "))
    with pytest.raises(InputError, match="emissions of no utterance"):
        levels(Emissions(FOLDER, {"symbols": SYMBOLS, "blank": 0, "frame_rate": 50.0, "hash": "", "meta": {}}, [],
                         np.zeros(1, np.int64), np.zeros((0, 29))))


@pytest.mark.parametrize(("value", "level"), [(-np.inf, "ok"), (np.inf, "failed")])
def test_infinities_are_looked_at_like_the_rest(value, level):
    """Minus infinity is a probability of 0, and may stand anywhere; infinity is none."""
    found = levels(changed(lambda rows: np.where(rows < -19, value, rows)))
    assert found["values"].level == level
    assert found["temperature"].measured > 0
    rows = {id: np.where(np.arange(len(r))[:, None] == 5, -np.inf, r) for id, r in UTTERANCES.items()}
    assert levels(stored(rows))["values"].level == "failed"  # a frame that says nothing at all


def test_emissions_without_frames_are_named():
    check = levels(stored({id: rows[:0] for id, rows in UTTERANCES.items()}))["values"]
    assert (check.level, check.what) == ("failed", "the emissions hold no frame")


@settings(max_examples=8)
@given(factor=st.floats(0.3, 3))
def test_the_temperature_that_was_put_in_is_found_again(factor):
    ids = list(UTTERANCES)[:3]
    rows, texts = [normalised(UTTERANCES[id].astype(np.float64)) for id in ids], [REFERENCES[id] for id in ids]
    columns = alphabet(SYMBOLS, 0)
    once = temperature_of(rows, texts, columns)
    assert temperature_of([normalised(r * factor) for r in rows], texts, columns) == pytest.approx(once * factor,
                                                                                                   rel=0.06)


@pytest.mark.parametrize(("factor", "sure"), [(4.0, "surer than they are right"), (0.25, "less sure than they are")])
def test_what_is_advised_on_a_temperature_undoes_what_was_done_to_the_logits(factor, sure):
    check = levels(changed(lambda rows: normalised(rows * factor)))["temperature"]
    assert (check.level, sure in check.what) == ("warning", True)
    assert check.measured == pytest.approx(factor, rel=0.25)
    [advised] = re.findall(r"multiply the logits by (\S+) before log_softmax", check.advice)
    assert float(advised) * factor == pytest.approx(1, abs=0.25)


def test_a_recogniser_that_ends_with_a_separator_is_as_sure_as_one_that_does_not():
    """Twenty frames of a certain separator after the text, as fairseq's recognisers write it, change nothing."""
    columns = alphabet(SYMBOLS, 0)
    rows, texts = [*map(normalised, UTTERANCES.values())][:3], [*REFERENCES.values()][:3]
    end = normalised(np.where(np.arange(29) == 1, 0.0, np.full((20, 29), -30.0)))
    assert temperature_of([np.concatenate([r, end]) for r in rows], texts, columns) == pytest.approx(
        temperature_of(rows, texts, columns), rel=0.03)


@pytest.mark.parametrize(("content", "failed"), [
    ("AB\tA B |\nB\tB |\n", []), ("AB\nB\n", []), ("AB\tA B\nB\tB\n", ["lexicon separator"]),
    ("AB\tA B |\nB\tB\n", ["lexicon separator"]),
    ("".join(f"A{'B' * n}\n" for n in range(200)) + "AX\nB\n", ["lexicon spelled"]),
    ("AB\tA B |\nB\tB |\nAX\tA X |\n", ["lexicon spelled"])])
def test_a_lexicon_passes_where_a_decoder_takes_it(tmp_path, content, failed):
    """One spelling among hundreds is enough for a decoder to refuse it."""
    path, symbols = tmp_path / "lexicon.txt", ("_", "|", "A", "B")
    path.write_text(content)
    found = examine_lexicon(Lexicon.load(path).spellings, ["AB B"], symbols)
    assert [check.name for check in found if check.level != "ok"] == failed
    with pytest.raises((InputError, FormatError)) if failed else contextlib.nullcontext():
        Choice(Name.lexicon, None, path).make(symbols, 0).prepare()


def test_a_separator_that_comes_too_often_is_not_blamed_on_references_with_long_words():
    """Found in review: for Finnish the advice was to take --characters, with which the fault passes."""
    long_words = {id: " ".join(word * 3 for word in text.split()) for id, text in REFERENCES.items()}
    assert "count characters" not in levels(stored(), long_words)["word separator"].advice
