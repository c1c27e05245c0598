"""Recordings in formats that are not read: told, so that none is left out without a word."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

# Of audio and video that the bundled libsndfile does not decode.
UNREAD_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".aac", ".ac3", ".amr", ".ape", ".asf", ".avi", ".ds2", ".dss", ".m4a", ".m4b", ".m4v", ".mka",
    ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ra", ".shn", ".spx", ".tta", ".webm", ".wma", ".wmv", ".wv"})
ANEW = "write it anew, e.g. as FLAC (ffmpeg -i IN OUT.flac)"
SPHERE = (".sph", ".nist")
_SPHERE_ANEW = "write it anew (sph2pipe -f wav IN OUT.wav)"  # those that fail are compressed, mostly


def unread_names(names: Iterable[str], read: Collection[str]) -> list[str]:
    """Those names of a folder's files that are of such formats, without those whose stem is also that of a recording
    that is read: who converted a file may keep both."""
    return [name for name in names if os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES
            and os.path.splitext(name)[0] not in read]


def without_converted(audio: Sequence[Path]) -> list[Path]:
    """Recordings of a folder without those in SPHERE that lie there in another format, too."""
    converted = {path.stem for path in audio if path.suffix.lower() not in SPHERE}
    return [path for path in audio if path.suffix.lower() not in SPHERE or path.stem not in converted]


def left_out(unread: Sequence[Path]) -> str:
    """How many recordings are left out, of which formats, the first one, and what to do."""
    suffixes = sorted({path.suffix.lower() for path in unread})
    files = f"{len(unread):,} file{'s' * (len(unread) > 1)}"
    return (f"{files} of formats that are not read ({', '.join(suffixes)}), first {unread[0]}; write them anew, e.g. "
            "as FLAC (ffmpeg -i IN OUT.flac)")


def way_out(path: Path) -> str:
    """What to do about a file that cannot be read, where its name says it; else nothing."""
    suffix = path.suffix.lower()
    if suffix in SPHERE:
        return f"; {_SPHERE_ANEW}"
    return f"; {ANEW}" if suffix in UNREAD_SUFFIXES else ""
