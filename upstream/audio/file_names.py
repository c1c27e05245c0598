"""Names of files that are made of utterances' ids, and names that differ in Unicode's form alone: macOS and its zip
files write letters apart from their accents (NFD), tables and keyboards as one (NFC)."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

LONGEST_BYTES = 200  # file systems take 255, and suffixes and the names of unfinished files come to this


def fitting(name: str) -> str:
    """The name, or of one that is too long for a file system its beginning and a hash of all of it.

    The same name always becomes the same, and two names two. Letters beyond ASCII make nine bytes each as `%E4%BD%A0`,
    so that a sentence of twenty of them is too long.
    """
    content = name.encode(errors="surrogateescape")
    if len(content) <= LONGEST_BYTES:
        return name
    digest = hashlib.sha256(content).hexdigest()[:24]
    begin = content[:LONGEST_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{re.sub('%[0-9A-F]?$', '', begin)}-{digest}"


def composed_name(name: str) -> str:
    """A name in NFC, in which two that look alike are the same."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def stored_path(path: Path) -> Path | None:
    """Where a file lies whose path is given in another form of Unicode than its folders and it have; None where there
    is no such file, or several."""
    found = Path(path.anchor)
    for part in path.parts[bool(path.anchor):]:
        if not (found / part).exists():
            alike = _names(found).get(composed_name(part), [])
            if len(alike) != 1:
                return None
            part = alike[0]
        found /= part
    return found


def _names(folder: Path) -> dict[str, list[str]]:
    try:
        return _listed(folder, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=8)
def _listed(folder: Path, modified: int) -> dict[str, list[str]]:
    """The names in a folder by their NFC."""
    found: dict[str, list[str]] = {}
    for path in folder.iterdir():
        found.setdefault(composed_name(path.name), []).append(path.name)
    return found
