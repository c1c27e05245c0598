"""One file as one utterance, without a manifest."""

from __future__ import annotations

from pathlib import Path

from upstream.audio.corpora.probing import BadFiles, Entry, utterances
from upstream.audio.manifest import Utterance
from upstream.errors import UsageError


def utterance_of_file(path: Path) -> Utterance:
    """The whole of an audio file; its id is the file's name, spaces written as `_`.

    Raises:
        UsageError: no such file.
        InputError: it is no audio.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    bad = BadFiles(None)
    found = list(utterances([Entry("_".join(path.name.split()), path.resolve(), None, None)], bad))
    bad.refuse("mend the file or leave it out")
    return found[0]
