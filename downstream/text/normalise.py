"""Transcripts and language-model text in one form: upper case, A-Z and the apostrophe, single spaces."""

from __future__ import annotations

import re
import unicodedata

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'"})
_OTHER = re.compile(r"[^A-Z']+")


def normalise(text: str) -> str:
    """Upper case, accents dropped, apostrophes kept, everything else a space; single spaces between words.

    A word of apostrophes alone is dropped. References and language-model text must be treated alike.
    """
    plain = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES))
    letters = "".join(c for c in plain if not unicodedata.combining(c)).upper()
    return " ".join(word for word in _OTHER.sub(" ", letters).split() if word.strip("'"))
