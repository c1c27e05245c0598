"""Texts of language models in any form of Unicode, and with white space that is none to lmplz."""

import unicodedata

import pytest

from downstream.lm.kneser_ney import FALLBACK, Options
from downstream.lm.on_disk import estimate_to_file
from downstream.lm.reading import read_text
from tools.main import run


@pytest.fixture
def texts(tmp_path):
    """`lad ka` with its letter of Hindi as one character, which NFC parts, and Vietnamese in NFD, beside NFC."""
    lines = ["\u0932\u095c\u0915\u093e \u0906\u091c", "tôi là người Việt"]
    for name, form in (("composed", "NFC"), ("apart", "NFD")):
        (tmp_path / f"{name}.txt").write_text("".join(f"{unicodedata.normalize(form, line)}\n" for line in lines),
                                              encoding="utf-8")
    (tmp_path / "as-typed.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return tmp_path


def test_a_word_is_one_in_whatever_form_of_unicode_it_stands(texts):
    """Hindi typed with one character for a letter and its dot was spelled in no symbols of a recogniser, which are in
    NFC, and a text of both forms had every such word twice."""
    composed, apart, typed = (read_text([texts / f"{name}.txt"]) for name in ("composed", "apart", "as-typed"))
    assert composed.words == apart.words == typed.words == [unicodedata.normalize("NFC", w) for w in composed.words]
    assert composed.tokens.tolist() == apart.tokens.tolist() == typed.tokens.tolist()
    both = read_text([texts / "composed.txt", texts / "apart.txt"])
    assert both.words == composed.words
    assert both.tokens.tolist() == composed.tokens.tolist() * 2


def test_models_of_both_forms_are_the_same_in_memory_and_on_disk(texts):
    for name in ("composed", "apart"):
        assert run(["lm", "build", str(texts / f"{name}.txt"), "--order", "2", "--discount-fallback", "--out",
                    str(texts / f"{name}.arpa")]) == 0
        estimate_to_file([texts / f"{name}.txt"], 2, texts / f"{name}-disk.arpa", 10**9, say=lambda line: None,
                         options=Options(fallback=FALLBACK))
    found = {path.read_bytes() for path in texts.glob("*.arpa")}
    assert len(found) == 1


@pytest.mark.parametrize(("space", "number"), [("\u3000", "U+3000"), ("\u00a0", "U+00A0"), ("\u200b", "U+200B")])
def test_white_space_that_parts_no_words_is_told(tmp_path, capsys, space, number):
    """Words of Japanese text were whole sentences with an ideographic space in them, which no recogniser spells."""
    (tmp_path / "text.txt").write_text(f"今日は{space}晴れ 今日\n", encoding="utf-8")
    assert len(read_text([tmp_path / "text.txt"]).words) == 5
    assert "1 different words hold white space that parts no words here" in (said := capsys.readouterr().err)
    assert number in said
    (tmp_path / "text.txt").write_text("今日は 晴れ\n", encoding="utf-8")
    read_text([tmp_path / "text.txt"])
    assert not capsys.readouterr().err
