"""Error rates: worked examples, the edges, independent counts, and what sclite finds."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.score.rates import compared_words, of_phrases, score, without_spaces, word_errors
from upstream.errors import InputError, UsageError

SCTK = Path(__file__).parents[2] / "oracles" / "sctk"


def edit_distance(a, b):
    """The textbook recursion, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(diagonal + (x != y), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def test_an_example_by_hand():
    result = score({"a": "THE CAT SAT", "b": "ON MATS", "c": "NOW"}, {"c": "", "b": "ON MATS", "a": "THE BAT SAT DOWN"})
    # a: CAT -> BAT, DOWN inserted; b: right; c: NOW deleted. 3 errors in 6 words.
    assert (result.words, result.errors, result.substitutions, result.deletions, result.insertions) == (6, 3, 1, 1, 1)
    assert result.wer == 50.0
    # a: C -> B, " DOWN" inserted: 6; c: 3. 9 errors in 11 + 7 + 3 characters.
    assert (result.characters, result.character_errors) == (21, 9)
    assert result.cer == pytest.approx(100 * 9 / 21)
    assert result.sentence_errors == 2
    assert result.per_utterance.ids == ("a", "b", "c")
    assert result.per_utterance.errors.tolist() == [2, 0, 1]
    assert result.per_utterance.words.tolist() == [3, 2, 1]


@pytest.mark.parametrize(("reference", "hypothesis"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD"), ("NFC", "NFC")])
def test_letters_that_look_the_same_are_the_same(reference, hypothesis):
    """`é` as one code point and as `e` with an accent were different words, and two characters."""
    truth, found = (unicodedata.normalize(form, text) for form, text in
                    ((reference, "déjà vu Ångström"), (hypothesis, "déjà vu Angström")))
    result = score({"a": truth}, {"a": found})
    assert (result.words, result.errors, result.characters, result.character_errors) == (3, 1, 16, 1)
    assert word_errors(truth, found) == 1


@given(st.text())
def test_the_form_of_a_text_changes_no_number_of_words(text):
    assert len(compared_words(text)) == len(text.split())


def test_inserted_spaces_are_no_errors_where_characters_are_counted():
    """Mandarin that was right to the last sign had a WER of 325 and a CER of 50, for its references have no spaces."""
    references = {"a": "\u4eca\u5929\u5929\u6c14", "b": "\u597d", "c": "cafe\u0301"}
    result = score(references, {"a": "\u4eca\u5929 \u5929\u6c23", "b": "\u597d", "c": "c a f\u00e9"}, "character")
    assert (result.words, result.errors, result.substitutions, result.sentence_errors) == (9, 1, 1, 1)
    assert (result.characters, result.character_errors) == (9, 1)
    assert result.wer == result.cer == pytest.approx(100 / 9)
    assert result.per_utterance.characters.tolist() == [4, 1, 4]
    assert score(references, references, "character").errors == 0


@given(st.text(), st.text())
def test_counts_of_characters_equal_an_independent_edit_distance(a, b):
    one, two = ("".join(unicodedata.normalize("NFC", text).split()) for text in (a, b))
    assert word_errors(a, b, "character") == edit_distance(one, two)


def test_texts_without_spaces_are_known_beside_texts_with_them():
    assert without_spaces(["\u4eca\u5929\u5929\u6c14\u5f88\u597d"], ["\u4eca\u5929 \u5929\u6c14 \u5f88 \u597d"])
    assert not without_spaces(["YES", "NO"], ["YES Y E", "N O"])  # single words, some of them cut
    assert not without_spaces(["THE CAT SAT"], ["THECAT SAT"])


@pytest.mark.parametrize(("text", "spaced", "without"), [
    ("THECATSAT", "THE CAT SAT", True),  # 9 letters a word against 3, and one word
    ("THEBLACKCATS SATONTHEMATS", "THE BLACK CATS SAT ON THE MATS", True),  # two words of 12 letters against 3.4
    ("THEBLACKCATS SATONTHEMAT", "THE BLACK CATS SAT ON THE MAT", False),  # of 11.5: as words of some languages are
    ("CAT", "CA T", False),  # of 3 against 1.5: not more than twice as long
    ("THE CAT", "", False)])
def test_texts_of_letters_are_without_spaces_where_words_are_long_or_single_and_twice_those_beside(
        text, spaced, without):
    assert without_spaces([text], [spaced]) is without
    assert without_spaces([text], spaced.split()) is without


@pytest.mark.parametrize(("texts", "phrases"), [
    (["今天天气很好", "你好"], True), (["今天天气很好不是吗 我们去公园走走吧"], True),
    (["きょうはいいてんきです"], True), (["今天 天气"], False), (["今天 天气 很好", "", ""], False),
    (["น้ำอ่านที่นี่พรุ่งนี้ แม่กินข้าววันนี้"], True), (["今天 天气 很好", "你 好 吗"], False),
    (["น้ำ อ่าน ที่นี่ พรุ่งนี้"], False), (["선생님은 오늘 영화를 사요"], False), (["शिक्षक आज सेब खरीदता है"], False),
    (["YES", "NO"], False), (["", ""], False), (["DONAUDAMPFSCHIFFFAHRT", "KAPITÄN"], False)])
def test_references_of_a_script_without_spaces_are_known_by_it(texts, phrases):
    """Greedy Mandarin beside its references, both without spaces, was given a WER of 79 and no word on it."""
    assert of_phrases(texts) is phrases
    assert without_spaces(texts, texts) is phrases


def test_words_against_an_empty_reference_are_insertions():
    result = score({"silence": "", "speech": "A B"}, {"silence": "X Y", "speech": "A B"})
    assert (result.words, result.errors, result.insertions, result.wer) == (2, 2, 2, 100.0)


def test_only_empty_references_have_no_rate():
    with pytest.raises(InputError, match="all 2 references are empty"):
        score({"a": "", "b": "  "}, {"a": "", "b": "X"})


def test_a_missing_hypothesis_is_named():
    with pytest.raises(InputError, match=r"^b: no hypothesis \(1 of 2"):
        score({"a": "X", "b": "Y"}, {"a": "X"})


def test_a_missing_reference_is_named():
    with pytest.raises(InputError, match=r"^c: no reference \(1 of 2"):
        score({"a": "X"}, {"a": "X", "c": "Y"})


def test_nothing_to_score_is_refused():
    with pytest.raises(InputError, match="no references"):
        score({}, {})


def test_white_space_does_not_count_and_case_does():
    assert score({"a": "A  B\n"}, {"a": " A B"}).errors == 0
    assert score({"a": "a B"}, {"a": "A B"}).errors == 1


texts = st.lists(st.sampled_from("ABC"), max_size=8).map(" ".join)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_counts_equal_an_independent_edit_distance(pairs):
    references, hypotheses = {"always": "A"}, {"always": "A"}
    for i, (reference, hypothesis) in enumerate(pairs):
        references[str(i)], hypotheses[str(i)] = reference, hypothesis
    result = score(references, hypotheses)
    counts = result.per_utterance
    for i, (reference, hypothesis) in enumerate(pairs, 1):
        assert counts.errors[i] == edit_distance(reference.split(), hypothesis.split())
        assert counts.errors[i] == word_errors(reference, hypothesis)
        assert counts.character_errors[i] == edit_distance(reference, hypothesis)
        assert counts.words[i] - counts.deletions[i] + counts.insertions[i] == len(hypothesis.split())
    assert result.errors == counts.errors.sum()
    assert result.wer == pytest.approx(100 * result.errors / result.words)


def read_trn(name):
    lines = (SCTK / name).read_text().splitlines()
    return {line[line.rindex("(") + 1:-1].lower(): line[:line.rindex("(")].strip() for line in lines if line.strip()}


@pytest.mark.parametrize("system", ["sysa", "sysb", "sysc"])
def test_totals_equal_those_of_sclite_and_jiwer(system):
    expected = json.loads((SCTK / "jiwer_vs_sclite.json").read_text())[system]
    result = score(read_trn("ref.trn"), read_trn(f"{system}.trn"))
    correct, substitutions, deletions, insertions = expected["jiwer"]
    assert (result.substitutions, result.deletions, result.insertions) == (substitutions, deletions, insertions)
    assert result.words == correct + substitutions + deletions
    assert result.errors == sum(expected["sclite"][1:])  # sclite splits some otherwise, and finds as many


@pytest.mark.parametrize("system", ["sysa", "sysb", "sysc"])
def test_utterances_and_sentence_errors_equal_those_of_sclite(system):
    expected = json.loads((SCTK / "utterance_errors.json").read_text())[system]
    result = score(read_trn("ref.trn"), read_trn(f"{system}.trn"))
    found = dict(zip(result.per_utterance.ids, result.per_utterance.errors.tolist()))
    assert found == expected
    assert result.sentence_errors == sum(errors > 0 for errors in expected.values())


def test_runs_of_white_space_are_no_characters():
    result = score({"a": " A  B", "b": "C"}, {"a": "A B ", "b": "  C"})
    assert (result.errors, result.character_errors, result.characters) == (0, 0, 4)
    assert score({"a": "A B"}, {"a": "A \t B"}).cer == 0


def test_ids_that_differ_in_form_alone_are_named_as_such():
    """It read: phở, no hypothesis; phở, no reference."""
    with pytest.raises(InputError, match="one of the same looks is in another form of Unicode"):
        score({"phở": "a"}, {unicodedata.normalize("NFD", "phở"): "a"})


@pytest.mark.parametrize(("references", "hypotheses", "says"), [
    ({"a": "THE"}, {"a": None}, "^a: the hypothesis is None; expected text, empty where nothing was said$"),
    ({"a": None}, {"a": "THE"}, "^a: the reference is None; expected text"),
    ({"a": "THE"}, {"a": ["THE"]}, r"^a: the hypothesis is \['THE'\]; expected text"),
    ({"a": "THE"}, {"a": b"THE"}, "^a: the hypothesis is b'THE'; expected"), ({"a": 3}, {"a": 3}, "reference is 3;"),
    (["THE"], ["THE"], r"^\['THE'\]: expected {id: text}, the reference of each utterance$"),
    ({"a": "THE"}, None, "^None: expected {id: text}, the hypothesis of each utterance$"),
    ("THE", "THE", "^'THE': expected {id: text}"),
])
def test_what_is_no_text_is_told_by_its_id(references, hypotheses, says):
    """None, from a transcript that is not there, ended in `normalize() argument 2 must be str, not None`."""
    with pytest.raises(InputError, match=says):
        score(references, hypotheses)


def test_what_is_no_text_has_no_errors_and_a_unit_is_a_word_or_a_character():
    """`unit="letter"` counted characters."""
    with pytest.raises(InputError, match=r"^hypothesis: the text is None; expected text"):
        word_errors("THE", None)
    for count in (score, word_errors):
        with pytest.raises(UsageError, match=r"^unit='letter': expected word or character$"):
            count("THE", "THE", "letter")
