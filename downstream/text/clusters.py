"""What is read as one character: a letter with its accents and vowel signs, a conjunct, a syllable in parts."""

from __future__ import annotations

import re
import unicodedata

_VIRAMA = 9  # combining class of what makes one sign of two consonants of a script of India
_JOINER = "\u200d"
_LEADING = re.compile("[\u0e40-\u0e44\u0ec0-\u0ec4]")  # vowels of Thai and Lao that stand before their consonant
_TRAILING = re.compile("[\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3"  # and those that stand behind it
                       "\u1160-\u11ff\ud7b0-\ud7fb]")  # vowels and last consonants of Hangul's syllables in parts


def clusters(text: str) -> list[str]:
    """A text in pieces that are read as one character each; joined they are the text."""
    found: list[str] = []
    for place, character in enumerate(text):
        if place and belongs(text[place - 1], character):
            found[-1] += character
        else:
            found.append(character)
    return found


def belongs(before: str, after: str) -> bool:
    """Whether two neighbouring characters are read as one."""
    joins_next = unicodedata.combining(before) == _VIRAMA or before == _JOINER or _LEADING.match(before)
    return bool(joins_next or after == _JOINER or unicodedata.category(after).startswith("M") or _TRAILING.match(after))
