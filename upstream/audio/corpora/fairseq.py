"""fairseq's lists: a `.tsv` whose first line is a folder and whose others are `PATH<tab>SAMPLES`, with the transcripts
in a `.ltr` (letters) or `.wrd` (words) file of the same name beside it, one line for each file of the list, and the
letters in `dict.ltr.txt`.

An `.ids` file beside them, a line each, is ours: fairseq does not look at it, and knows no ids.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from upstream.audio.corpora.lines import ids_of, lines_of, write_lines
from upstream.audio.corpora.probing import BadFiles, Entry, Skip, manifest_of
from upstream.audio.manifest import Manifest
from upstream.claims import claim, refuse_others, remove
from upstream.errors import InputError

DICTIONARY = "dict.ltr.txt"  # one for all lists of a folder, as fairseq's fine-tuning reads it
_NUMBER = re.compile(r"[0-9]{1,18}")


def import_fairseq(src: Path, root: Path | None = None, skip: Skip | None = None) -> Manifest:
    """A manifest of a `.tsv`, in its order. `a.zip:OFFSET:SIZE` names a file stored in a zip, as fairseq has it.

    Ids are those of the `.ids` file; without one the files' stems, or their paths where two stems are alike. Speakers
    are unknown. `.wrd` is read where both transcripts are there.

    Args:
        src: the `.tsv`.
        root: instead of the folder in its first line, if the audio has moved.
        skip: called with each file that cannot be used, which is left out then; without it the first is an error.

    Raises:
        UsageError: no such file.
        InputError: naming the line: not two columns, a file that is not there or has another number of samples, more
            or fewer lines in the transcripts or ids than files.
    """
    src, bad = Path(src), BadFiles(skip)
    lines = list(lines_of(src))
    if not lines or "\t" in lines[0][1]:
        raise InputError(f"{src}, line 1: expected the folder that the paths are relative to")
    folder = Path(root if root is not None else lines[0][1].strip()).absolute()
    rows = [_row(src, folder, number, line) for number, line in lines[1:] if line.strip()]
    ids = _beside(src, ".ids", len(rows)) or _ids(folder, rows)
    words, letters = _beside(src, ".wrd", len(rows)), _beside(src, ".ltr", len(rows))
    texts: list[str] = words or [_spelt(line) for line in letters or []] or [""] * len(rows)
    entries = [Entry(name, path, None, " ".join(text.split()) or None, samples=samples, offset=offset, size=size)
               for name, text, (path, samples, offset, size) in zip(ids, texts, rows)]
    return manifest_of(entries, bad, src)


def export_fairseq(manifest: Manifest, folder: Path, name: str = "train") -> list[Path]:
    """Write `NAME.tsv`, `NAME.ids` and, where there are transcripts, `NAME.ltr`, `NAME.wrd` and `dict.ltr.txt`; the
    `.tsv` last.

    The utterances must be whole files at 16 kHz, which is all that fairseq reads: `cutting.refuse_parts` sees to that.

    Transcripts of an earlier list of this name, which would be read as those of this one, are removed. A dictionary
    that is there stays: a model may have been trained on its order (see `letters_without_a_place`).

    Raises:
        InputError: a path that a list cannot hold; labels (`NAME.km`) of another list of this name are there, or a list
            that no export wrote.
    """
    folder, rows = Path(folder), list(manifest)
    paths = [os.fspath(u.audio) for u in rows]
    for u, path in zip(rows, paths):
        if any(c in path for c in "\t\n\r"):
            raise InputError(f"{u.id}: {path!r} holds a tab or a line break, which a .tsv cannot; rename the file")
    root = os.path.commonpath([os.path.dirname(p) for p in paths]) if paths else "/"
    texts = [" ".join((u.text or "").split()) for u in rows]
    files = {".ids": [u.id for u in rows]}
    if any(texts):
        files |= {".wrd": texts, ".ltr": [letters_of(t) for t in texts]}
    files[".tsv"] = [root, *(f"{os.path.relpath(p, root)}\t{u.samples}" for p, u in zip(paths, rows))]
    refuse_other_labels(folder, name, len(rows))
    refuse_others(folder, list_names(name))
    named = {f"{name}{suffix}": lines for suffix, lines in files.items()}
    if any(texts) and not (folder / DICTIONARY).exists():
        named = {DICTIONARY: _dictionary(files[".ltr"]), **named}
    claim(folder, list(named))
    remove(folder, (f"{name}{suffix}" for suffix in {".wrd", ".ltr"} - files.keys()))
    return [write_lines(folder / file, lines) for file, lines in named.items()]


def letters_without_a_place(manifest: Manifest, folder: Path) -> list[str]:
    """The letters of the transcripts, sorted, that the folder's `dict.ltr.txt` lacks, so that fairseq takes them for
    `<unk>`; none where there is no dictionary yet. Raises InputError where it is no text."""
    path = folder / DICTIONARY
    if not path.exists():
        return []
    known = {line.rpartition(" ")[0] for _, line in lines_of(path)}
    used = {letter for text in manifest.texts for letter in letters_of(" ".join((text or "").split())).split()}
    return sorted(used - known)


def list_names(name: str) -> list[str]:
    """The files that an export of this name may write."""
    return [f"{name}{suffix}" for suffix in (".tsv", ".ids", ".wrd", ".ltr")]


def refuse_other_labels(folder: Path, name: str, count: int, anew: Collection[str] = ()) -> None:
    """Raise InputError where there are labels (`NAME.km`) of another list than one of so many files.

    They are not removed, since making them takes hours.

    Args:
        anew: names of labels that are written as well.
    """
    for path in sorted(folder.glob(f"{glob.escape(name)}.km*")):
        if path.name in anew:
            continue
        with path.open("rb") as lines:
            found = sum(1 for _ in lines)
        if found != count:
            raise InputError(f"{path}: {found} lines of labels, and the list has {count} files: it is of another list; "
                             "remove it, or export to another folder or name")


def letters_of(text: str) -> str:
    """`A BAD` as `A | B A D |`."""
    return " ".join([*"|".join(text.split()), "|"]) if text else ""


def _dictionary(lines: Iterable[str]) -> list[str]:
    """`SYMBOL COUNT` of each letter, the most frequent first, ties by letter, as fairseq-preprocess writes it, but
    without the symbols that it makes up to fill eights."""
    counts = Counter(letter for line in lines for letter in line.split())
    return [f"{letter} {count}" for letter, count in sorted(counts.items(), key=lambda x: (-x[1], x[0]))]


def _spelt(letters: str) -> str:
    return letters.replace(" ", "").replace("|", " ")


def _row(src: Path, folder: Path, number: int, line: str) -> tuple[Path, int, int | None, int | None]:
    """Path, samples, and where the file lies in a zip."""
    path, _, samples = line.partition("\t")
    if not path or not _NUMBER.fullmatch(samples.strip()):
        raise InputError(f"{src}, line {number}: {line!r} is not `PATH<tab>SAMPLES`")
    parts = path.rsplit(":", 2)
    if len(parts) == 3 and parts[0].endswith(".zip") and all(map(_NUMBER.fullmatch, parts[1:])):
        return folder / parts[0], int(samples), int(parts[1]), int(parts[2])
    return folder / path, int(samples), None, None


def _ids(folder: Path, rows: Sequence[tuple[Path, int, int | None, int | None]]) -> list[str]:
    names = ids_of(folder, [path for path, *_ in rows])
    return [name if offset is None else f"{name}-{offset}" for name, (_, _, offset, _) in zip(names, rows)]


def _beside(src: Path, suffix: str, count: int) -> list[str] | None:
    """The lines of a file beside the list, one for each of its files; None where it is not there."""
    path = src.with_suffix(suffix)
    if not path.is_file():
        return None
    lines = [line for _, line in lines_of(path)]
    if len(lines) != count:
        where = f"line {count + 1} is one too many" if len(lines) > count else f"line {len(lines) + 1} is missing"
        raise InputError(f"{path}: {len(lines)} lines for the {count} files of {src.name}: {where}")
    return lines
