import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.text.lexicon import Lexicon
from downstream.text.vocabulary import Vocabulary
from upstream.errors import FormatError, InputError, UsageError

VOCABULARY = Vocabulary.characters()
words = st.lists(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ'", min_size=1, max_size=8), min_size=1, max_size=8)


def test_a_word_is_spelled_by_its_letters_and_the_separator(tmp_path):
    Lexicon.spelled(["HE'S", "A"], VOCABULARY).save(tmp_path / "lexicon.txt")
    assert (tmp_path / "lexicon.txt").read_text() == "HE'S\tH E ' S |\nA\tA |\n"


@given(given=words)
def test_a_saved_lexicon_comes_back(tmp_path_factory, given):
    path = tmp_path_factory.mktemp("lexicon") / "lexicon.txt"
    lexicon = Lexicon.spelled(given, VOCABULARY)
    lexicon.save(path)
    assert Lexicon.load(path, VOCABULARY) == lexicon
    assert lexicon.words == list(dict.fromkeys(given))


def test_words_that_cannot_be_spelled_are_counted_and_named():
    with pytest.raises(InputError, match=r"2 of 3 words .*'CAFÉ' \(no 'É', U\+00C9\), 'a'"):
        Lexicon.spelled(["A", "CAFÉ", "a"], VOCABULARY)
    with pytest.raises(InputError, match="and 4 more"):
        Lexicon.spelled([str(i) for i in range(9)], VOCABULARY)
    with pytest.raises(InputError, match=r"'A\|B'"):
        Lexicon.spelled(["A|B"], VOCABULARY)
    with pytest.raises(InputError, match="no words"):
        Lexicon.spelled([], VOCABULARY)


def test_a_word_may_have_several_spellings(tmp_path):
    (tmp_path / "lexicon.txt").write_text("DR\tD R |\nDR\tD O C T O R |\n\nA\tA |\r\n")
    lexicon = Lexicon.load(tmp_path / "lexicon.txt", VOCABULARY)
    assert len(lexicon) == 2
    assert lexicon.spellings["DR"] == (("D", "R", "|"), ("D", "O", "C", "T", "O", "R", "|"))
    assert lexicon.spellings["A"] == (("A", "|"),)


def test_a_list_of_words_is_a_lexicon_too(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("HE'S\r\nA\n\nA\n")
    lexicon = Lexicon.load(path, VOCABULARY)
    assert lexicon == Lexicon.spelled(["HE'S", "A"], VOCABULARY)
    assert lexicon.by_characters
    assert not Lexicon({"DR": (("D", "O", "C", "T", "O", "R", "|"),)}).by_characters
    path.write_text("A\nCAFÉ\n")
    with pytest.raises(InputError, match=r"words\.txt, line 2: 1 of 2 words cannot be spelled.*'CAFÉ'"):
        Lexicon.load(path, VOCABULARY)


@pytest.mark.parametrize(("content", "says"), [
    ("A A |", "line 1: .*expected WORD<tab>"), ("A\tA |\nB\t", "line 2"), ("A\tA |\nB\tb |", "line 2: .*no symbol 'b'"),
    ("A\tA |\nA\tA |", "line 2: 'A' has this spelling"), ("\n", "no words"), ("A B\tA B |", "line 1"),
    (b"\xff\tA |", "UTF-8"),
])
def test_a_faulty_line_is_named(tmp_path, content, says):
    (tmp_path / "lexicon.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FormatError, match=says) as caught:
        Lexicon.load(tmp_path / "lexicon.txt", VOCABULARY)
    assert "lexicon.txt" in str(caught.value)


def test_a_spelling_without_the_separator_at_its_end_is_named_for_that(tmp_path):
    """The decoders refused such a file, one for "other spellings than by characters", the other since the word "cannot
    be spelled"; neither said what was missing, nor where."""
    path = tmp_path / "lexicon.txt"
    path.write_text("A\tA |\nHE\tH E\n")
    with pytest.raises(FormatError, match=r"lexicon\.txt, line 2: the spelling of 'HE' does not end with the word sep"):
        Lexicon.load(path, VOCABULARY)


def test_a_lexicon_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.txt: no such"):
        Lexicon.load(tmp_path / "none.txt", VOCABULARY)


def test_without_a_vocabulary_any_symbols_will_do(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("AB\tA B |\nAB\tA BB\n\nÉ\té |\n")
    assert Lexicon.load(path).spellings == {"AB": (("A", "B", "|"), ("A", "BB")), "É": (("é", "|"),)}
    path.write_text("É\nA|\n")
    assert Lexicon.load(path).spellings == {"É": (("É", "|"),), "A|": (("A", "|", "|"),)}


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    path = tmp_path / "lexicon.txt"
    for content in ("A\nB\n", "A\tA |\nB\tB |\n"):
        path.write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert Lexicon.load(path, VOCABULARY).words == ["A", "B"]


@pytest.mark.parametrize("odd", ["NEW YORK", "NEW\tYORK"])
def test_two_words_on_a_line_of_a_list_are_named(tmp_path, odd):
    path = tmp_path / "words.txt"
    path.write_text("A\n" * 150 + f"{odd}\nB\n")
    with pytest.raises(FormatError, match=r"words\.txt, line 151: 'NEW.*YORK', expected one word"):
        Lexicon.load(path, VOCABULARY)


def test_words_in_another_form_of_unicode_are_spelled_in_the_recognisers(tmp_path):
    """A list of Vietnamese words in NFD was refused: the recogniser has no combining accent."""
    vocabulary, path = Vocabulary.of(["phở bò"]), tmp_path / "words.txt"
    for content in ("phở\nbò\n", "phở\tp h ở |\nbò\tb ò |\n"):
        path.write_text(unicodedata.normalize("NFD", content), encoding="utf-8")
        assert Lexicon.load(path, vocabulary).spellings == {"phở": (("p", "h", "ở", "|"),), "bò": (("b", "ò", "|"),)}
    apart = Vocabulary(("<pad>", "|", *sorted(set(unicodedata.normalize("NFD", "phởbò")))))
    path.write_text("phở\nbò\n", encoding="utf-8")
    assert list(Lexicon.load(path, apart).spellings) == [unicodedata.normalize("NFD", w) for w in ("phở", "bò")]
