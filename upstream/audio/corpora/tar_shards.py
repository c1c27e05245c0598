"""Tar shards as WebDataset writes them: members of one name belong together (`KEY.flac`, `KEY.txt`, `KEY.json`).

Audio is read where it lies; nothing is unpacked. A compressed tar has no places to read from, and is refused, unless
it lies in a folder beside what was unpacked of it.
"""

from __future__ import annotations

import copy
import glob
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from upstream.audio.corpora.probing import AUDIO_SUFFIXES, BadFiles, Entry, Skip, manifest_of
from upstream.audio.corpora.unread import SPHERE
from upstream.audio.corpora.walking import files_below
from upstream.audio.cutting import flac, reported
from upstream.audio.manifest import Manifest
from upstream.claims import claim, refuse_others, remove
from upstream.disk import disk_errors, writing
from upstream.errors import InputError, UsageError

TEXT_NAMES = ("text", "sentence", "transcription", "transcript")  # what corpora call it, the first that is there
SPEAKER_NAMES = ("speaker", "speaker_id", "client_id")
_READ = AUDIO_SUFFIXES | {".txt", ".json"}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
SHORT_NAMES = (".tgz", ".tbz2", ".txz", ".tzst")  # of `.tar.gz` and so on
UNREADABLE = "a compressed tar cannot be read in place"
UNPACK = "unpack it to a .tar first"


def import_tar(src: Path, skip: Skip | None = None) -> Manifest:
    """A manifest of a tar or of a folder of them, in the order of names and members.

    A key ends at the first dot of a name, as in WebDataset, or at the last one where what follows the first says
    nothing (`talk_0.5.wav`). An id is the key, `/` written as `-` and spaces as `_`; where a key occurs in two shards,
    all ids are `SHARD-KEY`. A text is that of `KEY.txt`, or `text` of `KEY.json` (also `sentence`, `transcription`,
    `transcript`); a speaker is `speaker`, `speaker_id` or `client_id` there.

    Args:
        src: `.tar`, or a folder with `.tar` files at any depth.
        skip: called with each member or compressed tar of a folder that cannot be used, which is left out then; without
            it the first is an error.

    Raises:
        UsageError: nothing there.
        InputError: a tar that is compressed, cut short or none, two recordings of one key, a text that is not UTF-8.
    """
    src, bad = Path(src), BadFiles(skip)
    shards = _shards_below(src, bad) if src.is_dir() else [src]
    if not shards or not src.exists():
        raise UsageError(f"{src}: no such tar, or no folder with any; a tar of audio ends in .tar")
    found = [(shard, entry) for shard in shards for entry in _members(shard, bad)]
    often = Counter(entry.id for _, entry in found)
    if max(often.values(), default=0) > 1:
        found = [(shard, replace(entry, id=f"{_word(shard.stem)}-{entry.id}")) for shard, entry in found]
    return manifest_of([entry for _, entry in found], bad, src)


def export_tar(manifest: Manifest, folder: Path, name: str = "train", shard_bytes: int = 1 << 30) -> list[Path]:
    """Write `NAME-000000.tar`, ...: of each utterance `KEY.flac`, and `KEY.txt` and `KEY.json` (`speaker`) where there
    is a text and a speaker. A key is the id with its dots, which end keys, as `_`; a shard ends after `shard_bytes`.
    Further shards of this name, left by an earlier export, are removed at the end: they would be read as part of this.

    Raises:
        InputError: an utterance that cannot be read, or that lies in a shard that would be written over; a shard of
            this name that no export wrote; two ids that differ in dots only; complete shards are left.
    """
    folder, shards = Path(folder), list[Path]()
    ours = re.compile(rf"{re.escape(name)}-\d{{6,}}\.tar")
    for audio in dict.fromkeys(u.audio for u in manifest):
        if ours.fullmatch(audio.name) and audio.parent.resolve() == folder.resolve():
            raise InputError(f"{audio}: holds utterances of the manifest, and would be written over; export to another "
                             "folder or name")
    there = [path.name for path in folder.glob(f"{glob.escape(name)}-*.tar") if ours.fullmatch(path.name)]
    refuse_others(folder, there)
    keys: dict[str, str] = {}
    utterances = iter(reported(manifest))
    waiting = next(utterances, None)
    while waiting is not None:
        path = folder / f"{name}-{len(shards):06d}.tar"
        with disk_errors(path), writing(path) as temporary, tarfile.open(temporary, "w") as tar:
            while waiting is not None and tar.offset < shard_bytes:
                key = waiting.id.replace(".", "_")
                if key in keys:
                    raise InputError(f"{waiting.id}: a tar cannot tell it from {keys[key]}; rename one of them")
                keys[key] = waiting.id
                _append(tar, f"{key}.flac", flac(waiting))
                if waiting.text:
                    _append(tar, f"{key}.txt", waiting.text.encode())
                if waiting.speaker is not None:
                    _append(tar, f"{key}.json", json.dumps({"speaker": waiting.speaker}, ensure_ascii=False).encode())
                waiting = next(utterances, None)
            claim(folder, [path.name])  # now, before it takes its name
        shards.append(path)
    remove(folder, set(there) - {path.name for path in shards})
    return shards


def _shards_below(folder: Path, bad: BadFiles) -> list[Path]:
    """The tars of a folder in the order of their names; compressed ones, and folders that cannot be read, go to `bad`.
    Raises InputError where there are any of these, and none may be left out."""
    names = (".tar", *(f".tar{ending}" for ending in COMPRESSED), *SHORT_NAMES)
    found = sorted(files_below(folder, names, bad.folder))
    bad.refuse()
    shards = [path for path in found if path.suffix.lower() == ".tar"]
    unpacked = {(path.parent, path.stem) for path in shards}
    for path in found:
        name = path.stem if path.suffix.lower() in SHORT_NAMES else path.with_suffix("").stem
        if path.suffix.lower() != ".tar" and (path.parent, name) not in unpacked:
            bad.add(path.stem, path, UNREADABLE)
    bad.refuse(f"{UNPACK}, or leave such tars out (--skip-bad)")
    return shards


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@dataclass
class _Sample:
    """What a key has."""

    audio: tarfile.TarInfo | None = None
    text: str | None = None
    said: dict[str, Any] = field(default_factory=dict)


def _members(shard: Path, bad: BadFiles) -> Iterator[Entry]:
    if shard.suffix.lower() in COMPRESSED + SHORT_NAMES:
        raise InputError(f"{shard}: {UNREADABLE}; {UNPACK}")
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isfile() or member.islnk():
                    _note(shard, tar, _linked(shard, tar, member), samples)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{shard}: no tar, a compressed one, or cut short ({error}); only plain tars can be read in "
                         "place") from error
    for key, sample in samples.items():
        if sample.audio is None:
            if "." in key.rpartition("/")[2]:  # `KEY.vad.json` and the like belong to KEY, and are not for us
                continue
            bad.add(key, shard, f"{key} has no audio in the tar")
            continue
        text = sample.text if sample.text is not None else first_of(sample.said, TEXT_NAMES)
        yield Entry(_word(key), shard.absolute(), first_of(sample.said, SPEAKER_NAMES),
                    " ".join((text or "").split()) or None, offset=sample.audio.offset_data, size=sample.audio.size)


def _linked(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member itself, or, where it is a second name of a file, that file under this name."""
    if not member.islnk():
        return member
    try:
        file = copy.copy(tar.getmember(member.linkname))
    except KeyError as error:
        raise InputError(f"{shard}: {member.name} is a link to {member.linkname}, which the tar does not hold"
                         ) from error
    file.name = member.name
    return file


def _note(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, samples: dict[str, _Sample]) -> None:
    folder, _, name = member.name.rpartition("/")
    stem, _, suffix = name.partition(".")
    if f".{suffix.lower()}" not in _READ:
        stem, _, suffix = name.rpartition(".")
    suffix = f".{suffix.lower()}"
    if not stem or suffix not in _READ:
        return
    key = f"{folder}/{stem}".removeprefix("./").lstrip("/")
    sample = samples.setdefault(key, _Sample())
    if suffix in AUDIO_SUFFIXES:
        if sample.audio is not None and suffix in SPHERE:
            return  # the same in another format
        if sample.audio is not None and not sample.audio.name.lower().endswith(SPHERE):
            raise InputError(f"{shard}: {member.name} is a second recording of {key}, after {sample.audio.name}")
        if member.issparse():
            raise InputError(f"{shard}: {member.name} is a sparse member, which cannot be read in place")
        sample.audio = member
        return
    content = tar.extractfile(member)
    try:
        text = content.read().decode("utf-8-sig") if content is not None else ""
        if suffix == ".txt":
            sample.text = text
        else:
            said = json.loads(text)
            sample.said = said if isinstance(said, dict) else {}
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON
        raise InputError(f"{shard}: {member.name} cannot be read ({error})") from error


def first_of(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these that is there and not empty, as a string."""
    return next((str(values[n]).strip() for n in names if values.get(n) is not None and str(values[n]).strip()), None)


def _word(key: str) -> str:
    return "_".join(key.replace("/", "-").split())
