"""Transcripts and language-model text in one form: upper case, A-Z and the apostrophe, single spaces."""

from __future__ import annotations

import re
import unicodedata

# Unicode does not decompose these: quotation marks used as apostrophes, and Latin letters whose stroke or ligature is
# part of them, here in their usual English spelling (ENCYCLOPAEDIA).
_REPLACED = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\uff07": "'", "`": "'", "\u00b4": "'",
                           "Æ": "AE", "æ": "AE", "Œ": "OE", "œ": "OE", "Ø": "O", "ø": "O", "Ł": "L", "ł": "L",
                           "Đ": "D", "đ": "D", "Ð": "D", "ð": "D", "Þ": "TH", "þ": "TH", "ı": "I"})
_OTHER = re.compile(r"[^A-Z']+")


def normalise(text: str) -> str:
    """Upper case, accents dropped, apostrophes kept, everything else a space; single spaces between words.

    A word of apostrophes alone is dropped, and so are digits: write numbers out before, or they are lost. References
    and language-model text must be treated alike. Normalised text stays as it is.
    """
    plain = text if text.isascii() else _without_accents(text)
    words = _OTHER.sub(" ", plain.translate(_REPLACED).upper()).split()
    return " ".join(word for word in words if word.strip("'"))


def _without_accents(text: str) -> str:
    """Letters alone: `é` is `e` and a combining accent, `ﬁ` is `f` and `i`."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_REPLACED))  # before: `´` would be a space and an accent
    return "".join(c for c in decomposed if not unicodedata.combining(c))
