"""Simulated posteriors as emissions, for comparing decoders where no recogniser of a given quality is at hand.

A folder of them holds, for `dev` and `test` each, `SPLIT.npz` (`logprobs`: frames of all utterances one after another
x symbols, natural logarithms; `lengths`: frames of each utterance) and `SPLIT.json` (a list of `id` and `text` in the
same order), and `symbols.json` (`symbols`, `blank`, `frame_rate` in Hz).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from downstream.emissions import Emissions, EmissionsWriter, refuse_others
from downstream.score.references import read_references
from upstream.audio.manifest import MANIFESTS
from upstream.disk import disk_errors, file_hash, read_json, writing
from upstream.errors import FormatError, InputError, UsageError
from upstream.headers import WRITING

SPLITS = ("dev", "test")
SOURCE = "simulated posteriors"


@dataclass(frozen=True)
class Spoken:
    """Emissions and what was really said."""

    emissions: Emissions
    texts: dict[str, str]


@dataclass(frozen=True)
class Sets:
    """What decoders are tuned on, and what they are compared on."""

    dev: Spoken
    test: Spoken

    @staticmethod
    def load(folder: Path, dev_references: Path | None = None, test_references: Path | None = None) -> Sets:
        """Open the emissions `folder/dev` and `folder/test`.

        Args:
            dev_references, test_references: a manifest or lines of `id text`; None: `folder/SPLIT` with the ending
                `.txt`, `.arrow` or `.parquet`.

        Raises:
            UsageError: references that are not there.
            FormatError: no emissions.
            InputError: sets of different recognisers or that are the same, or an utterance without a reference.
        """
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; it holds the emissions `dev` and `test`")
        found = Sets(_spoken(folder / "dev", dev_references), _spoken(folder / "test", test_references))
        dev, test = found.dev.emissions, found.test.emissions
        if (dev.symbols, dev.blank) != (test.symbols, test.blank):
            raise InputError(f"{dev.folder} and {test.folder}: emissions of other symbols ({len(dev.symbols)} and "
                             f"{len(test.symbols)}) or another blank; take both from the same recogniser")
        if dev.hash == test.hash:
            raise InputError(f"{dev.folder} and {test.folder} are the same emissions: what is tuned on the final set "
                             "is judged too well there")
        return found


def import_posteriors(folder: Path, out: Path) -> None:
    """Write `out/dev` and `out/test` (emissions) and `out/dev.txt` and `out/test.txt` (references).

    Raises:
        UsageError: a file is not there, or `out` holds other emissions or references.
        FormatError: naming the file that is not of this form.
        InputError: rows that are no log-probabilities, or an id that comes twice.
    """
    for name in ("symbols.json", *(f"{split}.{kind}" for split in SPLITS for kind in ("npz", "json"))):
        if not (folder / name).is_file():
            raise UsageError(f"{folder / name}: no such file; a folder of posteriors holds dev and test (.npz and "
                             ".json) and symbols.json")
    for split in SPLITS:
        _refuse_others(out, split)
    for split in SPLITS:
        _import(folder, split, out)


def _refuse_others(out: Path, split: str) -> None:
    """Raise UsageError where emissions of a recogniser, or files of somebody else, would be written over."""
    refuse_others(out / split)
    header, references = out / split / "emissions.json", out / f"{split}.txt"
    if header.is_file():
        if not _is_simulated(header):
            raise UsageError(f"{out / split}: holds emissions of a recogniser, which would be overwritten; give "
                             "another folder (--out)")
    elif references.exists() and not (out / split / WRITING).is_dir():
        raise UsageError(f"{references}: is there already and of no posteriors of ours, so it is left as it is; give "
                         "another folder (--out), or move it away")


def _is_simulated(header: Path) -> bool:
    try:
        return bool(read_json(header)["meta"].get("source") == SOURCE)
    except (FormatError, KeyError, TypeError, AttributeError):  # damaged: nothing is lost
        return True


def _import(folder: Path, split: str, out: Path) -> None:
    where, path = folder / "symbols.json", folder / f"{split}.npz"
    try:
        about = read_json(where)
        symbols, blank, rate = list(about["symbols"]), int(about["blank"]), float(about["frame_rate"])
        where = folder / f"{split}.json"
        texts = [(str(u["id"]), str(u["text"])) for u in read_json(where)]
        where = path
        with np.load(path, allow_pickle=False) as stored:
            rows, lengths = stored["logprobs"], stored["lengths"]
        if len(lengths) != len(texts) or lengths.sum() != len(rows):
            raise ValueError(f"{len(texts)} utterances, {len(lengths)} lengths of {lengths.sum()} frames, {len(rows)} "
                             "rows")
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise FormatError(f"{where}: not a file of posteriors ({type(error).__name__}: {error})") from error
    meta = {"source": SOURCE, "manifest_hash": file_hash(path)}
    with EmissionsWriter(out / split, symbols, blank, rate, meta) as writer:
        for (id, _), part in zip(texts, np.split(rows, np.cumsum(lengths)[:-1])):
            writer.add(id, part)
    with disk_errors(out), writing(out / f"{split}.txt") as temporary:
        temporary.write_text("".join(f"{id} {text}\n" for id, text in texts), encoding="utf-8")


def _spoken(folder: Path, references: Path | None) -> Spoken:
    emissions = Emissions.load(folder)
    candidates = [folder.with_name(folder.name + ending) for ending in (".txt", *MANIFESTS)]
    path = references or next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise UsageError(f"{folder}: no references; give a manifest or lines of `id text`, or put them beside it as "
                         f"{' or '.join(p.name for p in candidates)}")
    texts = read_references(path).texts
    missing = [id for id in emissions.ids if id not in texts]
    if missing:
        raise InputError(f"{missing[0]}: no reference in {path} ({len(missing)} of {len(emissions)} utterances have "
                         "none)")
    return Spoken(emissions, {id: texts[id] for id in emissions.ids})
