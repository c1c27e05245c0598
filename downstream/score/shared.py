"""Which utterances two sets share, and the refusal to judge by what was tuned on: weights would flatter the score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from upstream.audio.manifest import Manifest, Utterance
from upstream.disk import part_hash
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
                         "makes the score too good: tune on another set, or, if only their ids are the same, import "
                         "one set with ids of its own (hubertkit corpus import ... --prefix dev-)")


def shared_audio(manifest: Manifest, other: Manifest) -> list[str]:
    """Ids of the utterances of a manifest that hold samples which an utterance of another one holds too.

    By the place of the file, whatever the ids are; a copy of a recording is another file (`copied_audio`).
    """
    folders = _Folders()
    spans: defaultdict[tuple[Path, int | None], list[tuple[int, int]]] = defaultdict(list)
    for utterance in other:
        spans[_file(utterance, folders)].append((utterance.start, utterance.start + utterance.samples))
    return [one.id for one in manifest if any(
        start < one.start + one.samples and one.start < end for start, end in spans.get(_file(one, folders), ()))]


def copied_audio(manifest: Manifest, other: Manifest) -> list[tuple[str, str]]:
    """Utterances of the other manifest that hold samples of one of the first in a copy of its file, byte for byte: the
    ids of the one (the first there is) and of the copy, in the order of the copies.

    The first manifest should be the smaller one: it is kept in memory. Only files that were of one size and one look
    when the manifests were made are read and compared, so it costs next to nothing where there are no copies. Of files
    that were not looked into none are found, and a recording in another format is another one.
    """
    known: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for place, (size, crc) in enumerate(manifest.looks()):
        if size and crc is not None:
            known[size, crc].append(place)
    folders = _Folders()
    found, contents = [], dict[tuple[Path, int | None], str | None]()
    for place, (size, crc) in enumerate(other.looks()):
        if not size or crc is None or (size, crc) not in known:
            continue
        its = other[place]
        for one in (manifest[i] for i in known[size, crc]):
            overlap = its.start < one.start + one.samples and one.start < its.start + its.samples
            files = _file(one, folders), _file(its, folders)
            if overlap and files[0] != files[1] and \
                    _content(one, files[0], contents) == _content(its, files[1], contents) is not None:
                found.append((one.id, its.id))
                break
    return found


def _content(utterance: Utterance, file: tuple[Path, int | None],
             known: dict[tuple[Path, int | None], str | None]) -> str | None:
    """Hash of the bytes of an utterance's audio file, noted among those that are known; None of one that cannot be
    read, which is named when it is heard."""
    if file not in known:
        try:
            known[file] = part_hash(file[0], utterance.offset or 0, utterance.size)
        except OSError:
            known[file] = None
    return known[file]


def shared_ids(manifest: Manifest, other: Manifest) -> tuple[list[str], list[str]]:
    """The ids that both have, in the order of their names: of recordings that may be the same, and of others.

    Others differ in the size or the bytes of their files, or are parts of a file that do not overlap.
    """
    both = sorted(set(manifest.ids) & set(other.ids))
    mine, theirs = _heard(manifest.only(both)), _heard(other.only(both))
    same = [id for id in both if _may_be_same(mine[id], theirs[id])]
    return same, sorted(set(both) - set(same))


_Heard = tuple[int, int, tuple[int | None, int | None]]  # start, end, and what is known of the file: its size, its CRC


def _heard(manifest: Manifest) -> dict[str, _Heard]:
    return {u.id: (u.start, u.start + u.samples, look) for u, look in zip(manifest, manifest.looks())}


def _may_be_same(one: _Heard, other: _Heard) -> bool:
    (start, end, look), (its_start, its_end, its_look) = one, other
    return start < its_end and its_start < end and all(a is None or b is None or a == b
                                                       for a, b in zip(look, its_look))


class _Folders(dict[Path, Path]):
    """Folders, and where links lead: each is asked for once, for millions of files lie in few of them."""

    def __missing__(self, folder: Path) -> Path:
        self[folder] = found = folder.resolve()
        return found


def _file(utterance: Utterance, folders: _Folders) -> tuple[Path, int | None]:
    """Where an utterance's audio is, whatever links lead there."""
    audio = utterance.audio
    return audio.resolve() if audio.is_symlink() else folders[audio.parent] / audio.name, utterance.offset
