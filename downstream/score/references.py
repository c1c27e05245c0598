"""Reference texts, from a manifest or from a plain file of `id text` lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from downstream.given_files import check_readable
from upstream.audio.manifest import MANIFESTS, Manifest
from upstream.errors import FormatError, InputError


@dataclass(frozen=True)
class References:
    """What was really said.

    Attributes:
        texts: {id: text}, in the order of the file.
        speakers: {id: speaker} of a manifest; None where the file does not know of speakers.
        manifest_hash: of the manifest; None for a plain file.
    """

    texts: dict[str, str]
    speakers: dict[str, str | None] | None = None
    manifest_hash: str | None = None

    def groups(self) -> list[str]:
        """The speaker of each utterance. Raises InputError where one is not known."""
        if self.speakers is None:
            raise InputError("the references are plain text, without speakers: give a manifest, or draw utterances")
        unknown = [id for id, speaker in self.speakers.items() if speaker is None]
        if unknown:
            raise InputError(f"{unknown[0]}: no speaker in the manifest ({len(unknown)} utterances have none); "
                             "draw utterances instead")
        return [str(speaker) for speaker in self.speakers.values()]


def read_references(path: Path) -> References:
    """Read references.

    Args:
        path: a manifest (`.arrow`, `.parquet`) with texts, or a UTF-8 file of lines `id text` (a tab or spaces between;
            an id alone has an empty text; blank lines are skipped).

    Raises:
        UsageError: there is no such file.
        InputError: a manifest's utterance without text.
        FormatError: an id that comes twice, no lines, no UTF-8.
    """
    path = Path(path)
    check_readable(path, "no such file; references are a manifest or lines of `id text`")
    return _of_manifest(path) if path.suffix in MANIFESTS else _of_lines(path)


def _of_manifest(path: Path) -> References:
    manifest = Manifest.load(path)
    ids, texts = manifest.ids, manifest.texts
    missing = [id for id, text in zip(ids, texts) if text is None]
    if missing:
        raise InputError(f"{missing[0]}: no text in {path} ({len(missing)} of {len(ids)} utterances have none)")
    return References({id: text or "" for id, text in zip(ids, texts)}, dict(zip(ids, manifest.speakers)),
                      manifest.hash)


def _of_lines(path: Path) -> References:
    texts: dict[str, str] = {}
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")  # any other separator is white space of a text
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text; references are a manifest or lines of `id text`") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        id, *text = line.split(maxsplit=1)
        if id in texts:
            raise FormatError(f"{path}, line {number}: a second text for {id}")
        texts[id] = text[0].strip() if text else ""
    if not texts:
        raise FormatError(f"{path}: no references; lines of `id text` are expected")
    return References(texts)
