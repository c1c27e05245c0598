"""Transcripts and language-model text in one form: upper case, A-Z and the apostrophe, single spaces."""

from __future__ import annotations

import re
import unicodedata

from upstream.errors import InputError

# Unicode does not decompose these: quotation marks used as apostrophes, and Latin letters whose stroke, hook or
# ligature is part of them, here in their usual English spelling (ENCYCLOPAEDIA) or as the letters that they come from.
# Soft hyphens and characters without a width are no part of a word, and no end of it.
_REPLACED = str.maketrans({
    **dict.fromkeys("\u2018\u2019\u02bb\u02bc\uff07`\u00b4", "'"),
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", ""),
    "Æ": "AE", "æ": "AE", "Œ": "OE", "œ": "OE", "ẞ": "SS", "Þ": "TH", "þ": "TH",
    "Ø": "O", "ø": "O", "Ɔ": "O", "ɔ": "O", "Ɛ": "E", "ɛ": "E", "Ə": "E", "ə": "E", "Ǝ": "E", "ǝ": "E", "ı": "I",
    "Ɨ": "I", "ɨ": "I", "Ʉ": "U", "ʉ": "U", "Ɓ": "B", "ɓ": "B", "Đ": "D", "đ": "D", "Ð": "D", "ð": "D", "Ɖ": "D",
    "ɖ": "D", "Ɗ": "D", "ɗ": "D", "Ƒ": "F", "ƒ": "F", "Ɠ": "G", "ɠ": "G", "Ǥ": "G", "ǥ": "G", "Ħ": "H", "ħ": "H",
    "Ƙ": "K", "ƙ": "K", "Ł": "L", "ł": "L", "Ɲ": "N", "ɲ": "N", "Ŋ": "N", "ŋ": "N", "Ŧ": "T", "ŧ": "T", "Ʋ": "V",
    "ʋ": "V", "Ƴ": "Y", "ƴ": "Y", "Ƶ": "Z", "ƶ": "Z"})
_OTHER = re.compile(r"[^A-Z']+")


def normalise(text: str) -> str:
    """Upper case, accents dropped, apostrophes kept, everything else a space; single spaces between words.

    A word of apostrophes alone is dropped, and so are digits: write numbers out before, or they are lost (`loses`).
    References and language-model text must be treated alike. Normalised text stays as it is. Raises InputError for what
    is no text.
    """
    if not isinstance(text, str):
        raise InputError(f"{text!r:.40}: expected text to normalise")
    return " ".join(word for word in _OTHER.sub(" ", _plain(text)).split() if word.strip("'"))


def loses(text: str) -> bool:
    """Whether letters or digits of a text have no place in its normalised form."""
    return any(c.isalnum() for c in set("".join(_OTHER.findall(_plain(text)))))


def drops_accents(text: str) -> bool:
    """Whether letters of a text lose an accent, a dot or a stroke in its normalised form."""
    return not text.isascii() and any(c.isalpha() and not c.isascii() and _OTHER.sub("", _plain(c)) for c in
                                      set(unicodedata.normalize("NFC", text)))


def _plain(text: str) -> str:
    """Upper case without accents; what is neither a letter from A to Z nor an apostrophe still in it."""
    return (text if text.isascii() else _without_accents(text)).translate(_REPLACED).upper()


def _without_accents(text: str) -> str:
    """Letters alone: `é` is `e` and a combining accent, `ﬁ` is `f` and `i`."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_REPLACED))  # before: `´` would be a space and an accent
    return "".join(c for c in decomposed if not unicodedata.combining(c))
