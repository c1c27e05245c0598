"""fairseq's label files: `NAME.km`, a line of numbers for each line of `NAME.tsv`, and `dict.km.txt`, the classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from upstream.audio.corpora.lines import lines_of, write_lines
from upstream.audio.manifest import Manifest
from upstream.claims import claim
from upstream.disk import file_hash
from upstream.errors import InputError, UsageError
from upstream.frames import CONV_GRID, KALDI_GRID, frame_counts
from upstream.teacher.gate import check_coverage
from upstream.teacher.units import Units, UnitsWriter

GRIDS = {50: CONV_GRID, 100: KALDI_GRID}  # labels a second -> frames; MFCCs have 100


def export_labels(units: Units, manifest: Manifest, folder: Path, name: str = "train") -> list[Path]:
    """Write the labels of a manifest's utterances in its order, and the dictionary.

    Several streams are `NAME.km0`, `dict.km0.txt`, ...: the label sets `[km0, km1]` of fairseq's `task.labels`.

    Raises:
        InputError: units that do not fit the manifest, naming the first utterance; labels that no export wrote; a
            dictionary of another number of classes that other lists of the folder need.
    """
    folder = Path(folder)
    check_coverage(units, manifest)
    check_dictionaries(units, folder, name)
    claim(folder, label_names(units, name))
    written = []
    for stream, (kind, classes) in enumerate(zip(_kinds(units), units.classes)):
        lines = (" ".join(map(str, units.labels(i, stream).tolist())) for i in manifest.ids)
        written += [write_lines(folder / f"dict.{kind}.txt", (f"{c} 1" for c in range(classes))),
                    write_lines(folder / f"{name}.{kind}", lines)]
    return written


def check_dictionaries(units: Units, folder: Path, name: str) -> None:
    """Raise InputError where the dictionary in a folder has another number of classes, and labels of other lists are
    numbers of it."""
    for kind, classes in zip(_kinds(units), units.classes):
        path = folder / f"dict.{kind}.txt"
        others = sorted(other.name for other in folder.glob(f"*.{kind}") if other.name != f"{name}.{kind}")
        there = sum(1 for _ in lines_of(path)) if others and path.is_file() else classes
        if there != classes:
            raise InputError(f"{path}: {there} classes, of which {others[0]} has its labels, and these units have "
                             f"{classes}; label both with one teacher, or give another folder")


def label_names(units: Units, name: str) -> list[str]:
    """The files that an export of these units writes."""
    return [each for kind in _kinds(units) for each in (f"dict.{kind}.txt", f"{name}.{kind}")]


def import_labels(paths: Sequence[Path], manifest: Manifest, out: Path, rate: int = 50,
                  dictionaries: Sequence[Path] | None = None) -> Units:
    """Units of label files whose lines are the utterances of a manifest in its order.

    Args:
        paths: one file for each stream.
        manifest: of the `.tsv` beside them, complete: a file that was left out would shift the lines.
        out: folder for the units.
        rate: labels a second in the files, 50 or 100; of 100 every second one is kept, as fairseq does.
        dictionaries: `dict.km.txt` of each stream: K is its largest number and one. None takes `dict.SUFFIX.txt`
            beside each file where it is there, and otherwise the largest label.

    Raises:
        UsageError: no such file, another rate.
        InputError: naming the first line that is not numbers, has another number of labels than its utterance has
            frames, or a label that the dictionary lacks; more or fewer lines than utterances.
    """
    if rate not in GRIDS:
        raise UsageError(f"rate {rate}: label files have 50 or 100 labels a second")
    if not paths or (dictionaries is not None and len(dictionaries) != len(paths)):
        raise UsageError(f"{len(paths)} label files and {len(dictionaries or [])} dictionaries; give one for each file")
    names = list(dictionaries) if dictionaries is not None else [p.with_name(f"dict{p.suffix}.txt") for p in paths]
    known = [_dictionary(n) if dictionaries is not None or n.is_file() else None for n in names]
    ids, lengths = manifest.ids, manifest.lengths
    # The first pass finds everything that is wrong, so that the second one writes without an error.
    largest = [max((int(labels.max()) for labels in _labels(p, ids, lengths, rate, d) if len(labels)), default=0)
               for p, d in zip(paths, known)]
    classes = [max(d) + 1 if d else top + 1 for d, top in zip(known, largest)]
    meta = {"manifest_hash": manifest.hash, "fitted": False, "imported": [p.name for p in paths],
            "file_sha256": [file_hash(p) for p in paths]}
    with UnitsWriter(out, classes, meta) as writer:
        for i, *streams in zip(ids, *(_labels(p, ids, lengths, rate, d) for p, d in zip(paths, known))):
            writer.add(i, *streams)
    return Units.load(out)


def _kinds(units: Units) -> list[str]:
    """Endings of the label files, one for each stream."""
    return ["km"] if len(units.classes) == 1 else [f"km{stream}" for stream in range(len(units.classes))]


def _labels(path: Path, ids: list[str], lengths: np.ndarray, rate: int,
            dictionary: frozenset[int] | None) -> Iterator[np.ndarray]:
    """(T,) int64 labels at 50 Hz of each utterance in order."""
    expected = frame_counts(lengths, GRIDS[rate])
    number = 0
    for number, line in lines_of(path):
        if number > len(ids):
            raise InputError(f"{path}, line {number}: one line too many: the manifest has {len(ids)} utterances")
        name = ids[number - 1]
        try:
            labels = np.array(line.split(), np.int64)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{path}, line {number} ({name}): not numbers between spaces ({error})") from error
        if len(labels) != expected[number - 1]:
            raise InputError(f"{path}, line {number} ({name}): {len(labels)} labels for {lengths[number - 1]} samples, "
                             f"expected {expected[number - 1]}{_hint(len(labels), int(lengths[number - 1]), rate)}")
        wrong = next((c for c in np.unique(labels).tolist()
                      if not 0 <= c < 1 << 16 or (dictionary and c not in dictionary)), None)
        if wrong is not None:
            raise InputError(f"{path}, line {number} ({name}): the label {wrong} is "
                             + ("not in the dictionary" if 0 <= wrong < 1 << 16 else "not in [0, 65536)"))
        yield labels[::rate // 50]
    if number < len(ids):
        raise InputError(f"{path}: {number} lines for {len(ids)} utterances; line {number + 1} ({ids[number]}) is "
                         "missing: is this the whole list that was labelled, in its order?")


def _hint(found: int, samples: int, rate: int) -> str:
    other = next((r for r, grid in GRIDS.items() if r != rate and grid.frames(samples) == found), None)
    if other is None:
        return "; the labels are of other audio"
    return f"; these are labels at {other} Hz: give that rate (--rate {other})"


def _dictionary(path: Path) -> frozenset[int]:
    found = set()
    for number, line in lines_of(path):
        symbol = line.split()[:1]
        if symbol and not (re.fullmatch(r"\d{1,9}", symbol[0]) and int(symbol[0]) < 1 << 16):
            raise InputError(f"{path}, line {number}: {symbol[0]!r} is no class; expected `NUMBER COUNT`")
        found |= {int(s) for s in symbol}
    if not found:
        raise InputError(f"{path}: no classes; an empty dictionary trains on nothing")
    return frozenset(found)
