"""Reading ARPA files for the beam search, and the health checks of a language model."""

import gzip
import unicodedata

import pytest
from small_arpa import ARPA, write_arpa

from downstream.decode.alphabet import alphabet
from downstream.decode.health_words import examine_model
from downstream.decode.word_model import (
    LEXICON,
    MODEL,
    KnownWords,
    check_coverage,
    check_language_model,
    load_word_model,
)
from downstream.lm.arpa import read_unigrams
from upstream.errors import FormatError, InputError, UsageError

LETTERS = alphabet(("_", "|", "A", "B", "E"), 0)


@pytest.mark.parametrize("zipped", [False, True])
def test_words_are_read_from_plain_and_zipped_files(tmp_path, zipped):
    assert read_unigrams(write_arpa(tmp_path, zipped)) == ["A", "B", "AB", "BE"]


def test_beginnings_of_words():
    assert KnownWords.of(["AB", "B"]).beginnings == {"A", "AB", "B"}


def test_a_model_is_loaded_once_and_again_when_its_file_changes(tmp_path):
    path = write_arpa(tmp_path)
    first = load_word_model(path)
    assert load_word_model(path)[0] is first[0]
    path.write_text(ARPA.replace("BE", "BEE"))
    assert "BEE" in load_word_model(path)[1].words


def test_a_missing_file_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load_word_model(tmp_path / "none.arpa")


@pytest.mark.parametrize("content", [b"", b"mmap lm http://kheafield.com/code format version 5\n\x00\x01", b"words\n",
                                     b"\x1f\x8bbroken", b"\xff\xfe", gzip.compress(ARPA.encode())[:60]])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "lm.arpa"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"lm\.arpa"):
        load_word_model(path)


def test_order_1_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "one.arpa"
    path.write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-1\t<unk>\n0\t<s>\n-1\t</s>\n-1\tA\n\n\\end\\\n")
    with pytest.raises(FormatError, match="order 2"):
        load_word_model(path)


def test_words_that_the_recogniser_cannot_spell():
    assert check_language_model(["A", "BE", "ABBE", "BEE", "CA"], LETTERS) == 0.8
    with pytest.raises(InputError, match=r"75% of the 4 words.*at least 80%"):
        check_language_model(["A", "BE", "ABBE", "CA"], LETTERS)


@pytest.mark.parametrize(("words", "symbols", "case"), [(["be", "a"], "ABE", "upper"), (["BE", "A"], "abe", "lower")])
def test_the_other_case_is_named(words, symbols, case):
    with pytest.raises(InputError, match=f"its symbols are {case} case"):
        check_language_model(words, alphabet(("_", " ", *symbols), 0))


def test_coverage_counts_running_words():
    assert check_coverage(MODEL, ["A", "B"], ["A A A", "B C"]) == 0.8
    with pytest.raises(InputError, match=r"model has 50% of the 2 words of the references, not 'C'.*: add text of the"):
        check_coverage(MODEL, ["A"], ["A C"])
    with pytest.raises(InputError, match=r"the lexicon has 50% .*: add the words to it"):
        check_coverage(LEXICON, ["A"], ["A C"])
    assert check_coverage(MODEL, ["A"], ["A C"], least=0.5) == 0.5


def test_references_without_spaces_are_covered_by_characters():
    """Of unsegmented Mandarin a model of segmented text had none of the words, and weights could not be tuned."""
    known, texts = ["THE", "CAT", "SAT"], ["THECATSATATTHETEA", "SHE"]
    assert check_coverage(MODEL, known, ["THECATSATATTHETEA"], unit="character") == 1
    assert check_coverage(MODEL, known, ["THE CAT", "SUE"], unit="character") == pytest.approx(8 / 9)
    with pytest.raises(InputError, match=r"model has 50% of the 4 characters of the references, not 'X' .*same kind$"):
        check_coverage(MODEL, known, ["TE XX"], unit="character")
    with pytest.raises(InputError, match=r"0% of the 2 words .*no spaces between words, count characters \(--char"):
        check_coverage(MODEL, known, texts)


VIETNAMESE = alphabet(("_", "|", *"người"), 0)


def test_words_in_another_form_of_unicode_than_the_symbols_are_named_with_the_way_out(capsys):
    """The advice was to normalise the text, to A to Z, and of fewer such words there was none: they were not found."""
    apart = unicodedata.normalize("NFD", "người")
    with pytest.raises(InputError, match=r"^1 of the 1 words .* form of Unicode .* symbols have, NFC: build it again"):
        check_language_model([apart], VIETNAMESE)
    assert check_language_model(["n", "g", "ng", "gn", "người", apart], VIETNAMESE) == pytest.approx(5 / 6)
    check_language_model(["n", "g", "ng", "gn", "người", apart], VIETNAMESE)
    assert capsys.readouterr().err.count("warning: 1 of the 6 words of the language model are not in the form") == 1
    letters = alphabet(("_", "|", *sorted(set(apart))), 0)
    with pytest.raises(InputError, match=r"symbols have, NFD: convert the ARPA file"):
        check_language_model(["người"], letters)


@pytest.mark.parametrize(("words", "advice"), [
    (["khong-co"], "(case, digits, punctuation)"), ([unicodedata.normalize("NFD", "người")], "`hubertkit lm build`")])
def test_the_advice_on_a_models_words_suits_other_languages_than_english(words, advice):
    """It was to build the model with --normalise, which keeps A to Z."""
    found = {check.name: check for check in examine_model(words, ["người"], VIETNAMESE.letters)}["model spelled"]
    assert advice in found.advice
    assert "--normalise" not in found.advice
