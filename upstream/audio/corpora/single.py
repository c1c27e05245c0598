"""Files as utterances, without a manifest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from upstream.audio.corpora.probing import BadFiles, Entry, utterances
from upstream.audio.manifest import Utterance
from upstream.audio.reading import read
from upstream.disk import path_given
from upstream.errors import UsageError


def utterance_of_file(path: Path) -> Utterance:
    """The whole of an audio file; its id is the file's name without its suffix, spaces written as `_`.

    Raises:
        UsageError: no such file.
        InputError: it is no audio.
    """
    return utterances_of_files([path])[0]


def read_audio(path: str | Path) -> np.ndarray:
    """(S,) float32 at 16 kHz, channels mixed down: the whole of an audio file of any format, rate and number of
    channels, exactly as every command hears it. Raises as `utterance_of_file`."""
    return read(utterance_of_file(path_given(path, "path")))


def utterances_of_files(paths: Sequence[Path]) -> list[Utterance]:
    """As `utterance_of_file`, of several, which are given once each.

    The ids of those whose names are alike begin with so many of the folders above them as tell them apart, written as
    in the ids of `import_folder` (`x1-a`, `x2-a`), or have their suffixes where folders do not (`a.wav`, `a.flac`).
    """
    missing = next((path for path in paths if not Path(path).is_file()), None)
    if missing is not None:
        raise UsageError(f"{missing}: no such file")
    named = [Path(os.path.abspath(path)) for path in paths]  # links keep their names
    twice = next((path for path, times in Counter(named).items() if times > 1), None)
    if twice is not None:
        raise UsageError(f"{twice}: named twice; name each file once")
    bad = BadFiles(None)
    entries = [Entry(id, path.resolve(), None, None) for id, path in zip(_ids(named), named)]
    found = list(utterances(entries, bad))
    bad.refuse("mend the file or leave it out" if len(paths) == 1 else "mend the files or leave them out")
    return found


def _ids(paths: list[Path]) -> list[str]:
    """Different ids of different files."""
    alike: dict[str, list[Path]] = {}
    for path in paths:
        alike.setdefault(_tail(path.with_suffix(""), 1), []).append(path)
    ids: dict[Path, str] = {}
    for group in alike.values():
        ids |= _told_apart(group)
    return [ids[path] for path in paths]


def _told_apart(paths: list[Path]) -> dict[Path, str]:
    """{path: its end}, of so many parts, the same number for all, that no two are alike."""
    for named in ([path.with_suffix("") for path in paths], paths):
        for length in range(1, max(len(path.parts) for path in paths)):
            tails = [_tail(path, length) for path in named]
            if len(set(tails)) == len(paths):
                return dict(zip(paths, tails))
    raise UsageError(f"{paths[0]} and {paths[1]}: names that differ in spaces only; rename one of them")


def _tail(path: Path, length: int) -> str:
    return "_".join("-".join(path.parts[1:][-length:]).split())
