"""Names of files that are made of utterances' ids."""

from __future__ import annotations

import hashlib
import re

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
