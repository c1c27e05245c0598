"""Which utterances two sets share, and the refusal to judge by what was tuned on: weights would flatter the score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from upstream.audio.manifest import Manifest, Utterance
from upstream.errors import InputError


def refuse_shared(ids: Sequence[str], others: Collection[str], whose: str, where: str) -> None:
    """Raise InputError if one set holds utterances of another, with their number and the first one.

    Args:
        ids: of the set in hand.
        others: of the other set.
        whose: what the ids are of, as the message says it.
        where: what the others are, likewise.
    """
    known = frozenset(others)
    shared = [id for id in ids if id in known]
    if shared:
        raise InputError(f"{whose}: {len(shared)} of {len(ids)} utterances, {shared[0]} the first, {where}, which "
                         "makes the score too good: tune on another set")


def shared_audio(manifest: Manifest, other: Manifest) -> list[str]:
    """Ids of the utterances of a manifest that hold samples which an utterance of another one holds too.

    By the place of the file, whatever the ids are; a copy of a recording is another file.
    """
    spans: defaultdict[tuple[Path, int | None], list[tuple[int, int]]] = defaultdict(list)
    for utterance in other:
        spans[_file(utterance)].append((utterance.start, utterance.start + utterance.samples))
    return [one.id for one in manifest if any(
        start < one.start + one.samples and one.start < end for start, end in spans.get(_file(one), ()))]


def _file(utterance: Utterance) -> tuple[Path, int | None]:
    return utterance.audio.resolve(), utterance.offset
