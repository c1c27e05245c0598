import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.text.normalise import loses, normalise
from downstream.text.vocabulary import Vocabulary, spelled_as
from upstream.errors import FormatError, InputError

words = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ'", min_size=1, max_size=8)
sentences = st.lists(words, max_size=6).map(" ".join)


def test_the_standard_sets_have_the_ids_of_their_checkpoints():
    assert Vocabulary.characters().encode("A CAT") == [4, 1, 16, 4, 3]  # A 4, | 1, C 16, T 3
    transformers = Vocabulary.transformers()
    assert len(transformers.symbols) == 32
    assert [transformers.symbols.index(s) for s in "|ENICZ'"] == [4, 5, 9, 10, 19, 31, 27]
    assert len(Vocabulary.characters().symbols) == 29
    assert Vocabulary.characters().symbols[28] == "Z"


@given(text=sentences, trailing=st.booleans())
def test_text_comes_back(text, trailing):
    for vocabulary in (Vocabulary.characters(), Vocabulary.transformers(), Vocabulary.of([text])):
        assert vocabulary.decode(vocabulary.encode(text, trailing)) == text


def test_worked_example_of_collapsing():
    # frames: blank C C blank A A blank A T -> C A A T
    v = Vocabulary.of(["CAT"])
    c, a, t = (v.symbols.index(s) for s in "CAT")
    assert v.decode(v.collapse([0, c, c, 0, a, a, 0, a, t])) == "CAAT"


@given(text=sentences)
def test_collapsing_frames_of_a_text_gives_the_text(text):
    v = Vocabulary.characters()
    frames = [f for i in v.encode(text) for f in (i, i, v.blank)]
    assert v.decode(v.collapse(frames)) == text


@pytest.mark.parametrize(("text", "shown"), [("a", "'a' (U+0061)"), ("CAFÉ", "'É' (U+00C9)"), ("ROOM 5", "'5'")])
def test_a_character_outside_is_named_with_its_code_point(text, shown):
    with pytest.raises(InputError) as caught:
        Vocabulary.characters().encode(text)
    assert shown in str(caught.value)
    assert text in str(caught.value)


def test_a_saved_vocabulary_comes_back(tmp_path):
    for vocabulary in (Vocabulary.characters(), Vocabulary.transformers(), Vocabulary.of(["XYZ"])):
        vocabulary.save(tmp_path / "vocab.json")
        assert Vocabulary.load(tmp_path / "vocab.json") == vocabulary


@pytest.mark.parametrize("content", [{"<pad>": 0, "|": 2}, {"a": 0, "|": 1}, ["<pad>", "|"], {"<pad>": 0, "A": 1}])
def test_a_vocabulary_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "vocab.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"vocab\.json"):
        Vocabulary.load(tmp_path / "vocab.json")


@pytest.mark.parametrize(("text", "expected"), [
    ("Don’t stop — he's 'here'!", "DON'T STOP HE'S 'HERE'"), ("naïve  Café", "NAIVE CAFE"), ("' '' a", "A"), ("", ""),
    ("well-known", "WELL KNOWN"),
])
def test_normalisation(text, expected):
    assert normalise(text) == expected


@given(st.text(max_size=40))
def test_normalised_text_is_in_the_vocabulary_and_stays_as_it_is(text):
    plain = normalise(text)
    assert normalise(plain) == plain
    assert Vocabulary.characters().decode(Vocabulary.characters().encode(plain)) == plain


@pytest.mark.parametrize(("text", "expected"), [
    ("co\u00adop\u200ber\u200ca\u200dti\u2060on\ufeff", "COOPERATION"), ("Hawai\u02bbi", "HAWAI'I"),
    ("GROẞ", "GROSS"), ("Ħal Għaxaq", "HAL GHAXAQ"), ("ɓarna ɗaki ƙasa", "BARNA DAKI KASA"),
    ("Łódź, eŋ, Bərdə, Ɛkɔ", "LODZ EN BERDE EKO")])
def test_words_are_not_cut_by_characters_without_a_width_nor_by_letters_with_a_plain_spelling(text, expected):
    """Each was cut in two, or lost a letter, and nothing was said."""
    assert normalise(text) == expected
    assert not loses(text)


@pytest.mark.parametrize(("text", "lost"), [("room 101", True), ("привет, OK", True), ("№ 5", True), ("½ past", True),
                                            ("Don’t — “stop”, Zoë… ' '", False), ("", False)])
def test_lost_letters_and_digits_are_told_from_lost_marks(text, lost):
    assert loses(text) is lost


@pytest.mark.parametrize(("text", "expected"), [
    ("Encyclopædia", "ENCYCLOPAEDIA"), ("it´s o`clock", "IT'S O'CLOCK"), ("Straße", "STRASSE"), ("ﬁn ŉ", "FIN 'N"),
    ("a\tb\r\nc", "A B C"), ("room 5", "ROOM"),
])
def test_letters_that_unicode_does_not_decompose_are_spelled_in_ascii(text, expected):
    assert normalise(text) == expected


@given(text=sentences)
def test_a_trailing_separator_follows_the_last_word_alone(text):
    v = Vocabulary.transformers()
    assert v.encode(text, trailing=True) == v.encode(text) + ([v.symbols.index("|")] if text else [])


def test_the_separator_cannot_be_part_of_a_text():
    with pytest.raises(InputError, match=r"'\|'"):
        Vocabulary.characters().encode("A|B")
    with pytest.raises(InputError, match="space between words"):
        Vocabulary.of(["A|B"])


def test_white_space_of_any_kind_is_the_separator():
    assert Vocabulary.of(["A\tB\u00a0C"]).symbols == ("<pad>", "|", "A", "B", "C")
    assert Vocabulary.characters().encode("A \t B") == Vocabulary.characters().encode("A B")


def test_specials_say_nothing_and_long_symbols_are_said():
    v = Vocabulary(("<pad>", "|", "[UNK]", "tʃ", "a"))
    assert v.decode([3, 4, 2, 1, 4, 0]) == "tʃa a"


@pytest.mark.parametrize(("symbols", "blank"), [(("-", "|", "A"), 0), (("A", "|", "[PAD]"), 2), (("|", "<blank>"), 1)])
def test_blanks_of_other_toolkits_are_found(tmp_path, symbols, blank):
    Vocabulary(symbols, blank).save(tmp_path / "vocab.json")
    assert Vocabulary.load(tmp_path / "vocab.json") == Vocabulary(symbols, blank)


@pytest.mark.parametrize(("symbols", "blank"), [(("-", "|", "A", "A"), 0), (("-", "A"), 0), (("-", "|"), 2)])
def test_a_vocabulary_that_contradicts_itself_is_refused(symbols, blank):
    with pytest.raises(InputError, match="vocabulary"):
        Vocabulary(symbols, blank)


def test_accents_are_parts_of_their_letters_however_they_are_written():
    """A text in NFD, as macOS writes it, is that in NFC; a vocabulary of accents by themselves is spelled with them."""
    assert Vocabulary.of(["e\u0301t\u00e9"]).symbols == ("<pad>", "|", "t", "é")
    found = Vocabulary.of(["\u00e9t\u00e9"])
    assert found.encode("e\u0301te\u0301") == found.encode("\u00e9t\u00e9") == [3, 2, 3]
    assert Vocabulary(("<pad>", "|", "e", "\u0301"), 0).encode("e\u0301") == [2, 3]


@pytest.mark.parametrize(("text", "letters", "expected"), [
    ("cafe\u0301  noir", "abcdefghinor\u00e9", "caf\u00e9 noir"),
    ("caf\u00e9", "abcdef\u0301", "cafe\u0301"),
    ("\u1112\u1161\u11ab\n\uae00", "\ud55c\uae00", "\ud55c \uae00"),
    ("cafe\u0301 e\u0301x", "acef\u00e9", "caf\u00e9 e\u0301x"),  # no form of the second word can be spelled
    ("cafe\u0301 e\u00e9", "acef\u00e9\u0301", "caf\u00e9 e\u00e9"),  # one spelling where the letters allow for two
    (" ", "a", ""),
])
def test_words_are_in_the_form_that_the_letters_spell(text, letters, expected):
    """Letters apart from their accents (NFD) were unknown letters, and their words no words of the language model."""
    assert spelled_as(text, frozenset(letters)) == expected


@pytest.mark.parametrize("given", [None, 3, ["A"], b"A"])
def test_what_is_no_text_is_neither_normalised_nor_encoded(given):
    with pytest.raises(InputError, match=r"expected text to normalise$"):
        normalise(given)
    with pytest.raises(InputError, match=r"expected text to encode$"):
        Vocabulary.characters().encode(given)


@pytest.mark.parametrize("odd", [29, -1])
def test_an_id_of_no_symbol_has_no_text(odd):
    """-1 was the last symbol."""
    with pytest.raises(InputError, match=f"^id {odd}: the vocabulary has 29 symbols, counted from 0$"):
        Vocabulary.characters().decode([2, odd])
