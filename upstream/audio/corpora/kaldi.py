"""Kaldi's data folders: `wav.scp`, and where they are needed `segments`, `text`, `utt2spk`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from upstream.audio.corpora.lines import ids_of, keyed_lines, write_lines
from upstream.audio.corpora.probing import BadFiles, Entry, Header, Skip, manifest_of, probe
from upstream.audio.manifest import Manifest, Utterance
from upstream.claims import claim, refuse_others, remove
from upstream.errors import InputError, UsageError

FILES = ("wav.scp", "utt2spk", "spk2utt", "text", "segments")


def import_kaldi(src: Path, root: Path | None = None, skip: Skip | None = None) -> Manifest:
    """A manifest of a data folder, in the order of `segments`, or of `wav.scp` where there are no segments.

    Args:
        src: folder with `wav.scp` (`ID PATH`; commands that end in `|` are not run) and perhaps `segments`
            (`ID RECORDING START END`, seconds; an end of -1 is that of the file), `text` and `utt2spk`.
        root: what relative paths are relative to; the working directory if None, as in Kaldi.
        skip: called with each file that cannot be used, which is left out then; without it the first is an error.

    Raises:
        UsageError: no such folder, or no `wav.scp` in it.
        InputError: naming the utterance or line: a command, a segment of an unknown recording, an utterance that
            `text` or `utt2spk` lacks or has too many.
    """
    src, bad = Path(src), BadFiles(skip)
    if not (src / "wav.scp").is_file():
        raise UsageError(f"{src}: no wav.scp there; give a Kaldi data folder")
    recordings = {name: _path(src, name, value, root) for name, value in keyed_lines(src / "wav.scp").items()}
    parts = list(_parts(src, recordings))
    ids = {name for name, *_ in parts}
    texts, speakers = (_of_utterances(src / name, ids) for name in ("text", "utt2spk"))
    entries = []
    for name, path, start, end in parts:
        lacking = next((n for n, table in (("text", texts), ("utt2spk", speakers)) if table and name not in table), "")
        if lacking:
            bad.add(name, path, f"{name} has no line in {src / lacking}")
            continue
        entries.append(Entry(name, path, speakers.get(name) or None, " ".join(texts.get(name, "").split()) or None,
                             start, end))
    return manifest_of(entries, bad, src)


def export_kaldi(manifest: Manifest, folder: Path) -> list[Path]:
    """Write `wav.scp`, `utt2spk`, `spk2utt` and, where needed, `segments` and `text`, sorted as Kaldi wants it.

    An utterance of an unknown speaker is a speaker of its own, as in Kaldi. There are segments where an utterance is
    not the whole of its file. Ids are as `kaldi_ids` gives them.

    Raises:
        InputError: a path or a speaker that Kaldi's files cannot hold, audio inside a tar or a Parquet file, a file
            that cannot be read, or one of these that is there and that no export wrote.
    """
    folder = Path(folder)
    for u in manifest:
        _refuse(u)
    rows = sorted((replace(u, id=id) for u, id in zip(manifest, kaldi_ids(manifest))), key=lambda u: u.id.encode())
    paths = sorted({u.audio for u in rows})
    if len(paths) == len(rows) and all(map(_is_whole, rows, probe(Entry(u.id, u.audio) for u in rows))):
        scp, segments = [f"{u.id} {u.audio}" for u in rows], []
    else:
        names = dict(zip(paths, ids_of(Path("/"), paths)))
        if len(set(names.values())) < len(paths):  # `a.wav` and `a.flac` in one folder
            names = {path: f"{name}{path.suffix}" for path, name in names.items()}
        scp = sorted((f"{name} {path}" for path, name in names.items()), key=str.encode)
        segments = [f"{u.id} {names[u.audio]} {u.start / u.rate:.6f} {(u.start + u.samples) / u.rate:.6f}"
                    for u in rows]
    speakers: dict[str, list[str]] = {}
    for u in rows:
        speakers.setdefault(u.speaker or u.id, []).append(u.id)
    files = {"utt2spk": [f"{u.id} {u.speaker or u.id}" for u in rows],
             "spk2utt": [f"{s} {' '.join(ids)}" for s, ids in sorted(speakers.items(), key=lambda x: x[0].encode())]}
    if any(u.text for u in rows):
        files["text"] = [f"{u.id} {' '.join((u.text or '').split())}".rstrip() for u in rows]
    if segments:
        files["segments"] = segments
    files["wav.scp"] = scp
    refuse_others(folder, FILES)
    claim(folder, list(files))
    written = [write_lines(folder / name, lines) for name, lines in files.items()]
    remove(folder, set(FILES) - files.keys())  # of an earlier export: they would be read as part of this one
    return written


def kaldi_ids(manifest: Manifest) -> list[str]:
    """The ids of a data folder: the manifest's where these, sorted, have their speakers sorted, too, as Kaldi's
    validate_data_dir.sh wants it; otherwise SPEAKER-ID of all whose speaker is known.

    Raises:
        InputError: two would then be alike, or a speaker's name has a space in it.
    """
    spaced = next((i for i, s in zip(manifest.ids, manifest.speakers) if s is not None and s.split() != [s]), None)
    if spaced is not None:
        raise InputError(f"{spaced}: its speaker's name holds a space, which utt2spk cannot")
    if sorted_alike(manifest.ids, manifest.speakers):
        return manifest.ids
    ids = [id if speaker is None else f"{speaker}-{id}" for id, speaker in zip(manifest.ids, manifest.speakers)]
    if len(set(ids)) < len(ids):
        [(alike, _)] = Counter(ids).most_common(1)
        raise InputError(f"{alike}: two utterances would have this id, as Kaldi's ids begin with speakers; give the "
                         "corpus ids that begin so")
    return ids


def sorted_alike(ids: Sequence[str], speakers: Sequence[str | None]) -> bool:
    """Whether speakers are sorted where ids are; an utterance of an unknown speaker is one of its own."""
    owners = sorted((id.encode(), (speaker or id).encode()) for id, speaker in zip(ids, speakers))
    return all(one[1] <= other[1] for one, other in pairwise(owners))


def _path(src: Path, name: str, value: str, root: Path | None) -> Path:
    if value.endswith("|") or value.startswith("|"):
        raise InputError(f"{src / 'wav.scp'}: {name} is the command `{value}`, which is not run; write its output to "
                         "files and name them")
    if not value:
        raise InputError(f"{src / 'wav.scp'}: {name} names no file")
    return (root or Path()).absolute() / value


def _parts(src: Path, recordings: dict[str, Path]) -> Iterator[tuple[str, Path, float, float | None]]:
    if not (src / "segments").is_file():
        yield from ((name, path, 0.0, None) for name, path in recordings.items())
        return
    for name, rest in keyed_lines(src / "segments").items():
        cells = rest.split()
        if len(cells) != 3:
            raise InputError(f"{src / 'segments'}: {name} has {len(cells)} columns after the id; expected RECORDING "
                             "START END (a column that chooses a channel is not supported)")
        if cells[0] not in recordings:
            raise InputError(f"{src / 'segments'}: {name} is a part of {cells[0]}, which wav.scp does not name")
        try:
            start, end = float(cells[1]), float(cells[2])
        except ValueError as error:
            raise InputError(f"{src / 'segments'}: {name} has the times {cells[1]} and {cells[2]}; expected "
                             "seconds") from error
        yield name, recordings[cells[0]], start, None if end == -1 else end


def _of_utterances(path: Path, ids: set[str]) -> dict[str, str]:
    """What a file says of each utterance; nothing where there is no such file."""
    if not path.is_file():
        return {}
    found = keyed_lines(path)
    unknown = next((name for name in found if name not in ids), None)
    if unknown is not None:
        raise InputError(f"{path}: {unknown} is no utterance of this folder; mend it with Kaldi's fix_data_dir.sh")
    return found


def _is_whole(u: Utterance, file: Header | str) -> bool:
    if isinstance(file, str):
        raise InputError(f"{u.id}: {u.audio}: {file}")
    return u.start == 0 and u.samples == file.frames


def _refuse(u: Utterance) -> None:
    path = str(u.audio)
    if u.offset is not None:
        raise InputError(f"{u.id}: lies inside {path}, which Kaldi cannot read; write it as a file first (--cut-audio)")
    if path != path.strip() or path.endswith("|") or any(c in path for c in "\n\r\t"):
        raise InputError(f"{u.id}: wav.scp cannot hold the path {path!r}; rename the file")
