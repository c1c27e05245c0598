"""Phones as units: labels of alignments, for a round that is to know what the best teacher there is would be worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from upstream.audio.manifest import Manifest
from upstream.errors import InputError
from upstream.frames import CONV_GRID, seconds
from upstream.teacher.alignments import (
    SILENCE,
    AlignmentFile,
    find_alignments,
    phones_at_frames,
    warn_of_pauses,
    warn_of_words,
)
from upstream.teacher.units import Units, UnitsWriter


def import_phones(alignments: Path, manifest: Manifest, out: Path) -> Units:
    """Units of phone alignments: a class for each phone, silence 0, the others in the order of their names.

    The phone of a frame is the one at its centre, without stress digits. `meta["phones"]` names the classes.

    Args:
        alignments: folder of TextGrid or CTM files, or one CTM, as `find_alignments` takes them.
        manifest: the recordings; every one must have an alignment.
        out: folder for the units.

    Raises:
        InputError: naming the first utterance without an alignment, or whose alignment goes on after it ends or does
            not cover it.
        FormatError: a file that cannot be read.
    """
    found = find_alignments(alignments)
    missing = [i for i in manifest.ids if i not in found]
    if missing:
        more = f" (nor {len(missing) - 1} other utterances)" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}: no alignment in {alignments}{more}; align it, or leave it out of the manifest")
    codes: dict[str, int] = {}
    heard = []
    for i, length in zip(manifest.ids, manifest.lengths):
        names, inverse = np.unique(_phones(found[i], int(length)), return_inverse=True)
        heard.append(np.array([codes.setdefault(str(n), len(codes)) for n in names], np.uint16)[inverse])
    warn_of_words(codes)
    in_order = np.array(list(codes))
    warn_of_pauses(in_order[row] for row in heard)
    phones = sorted(codes, key=lambda name: (name != SILENCE, name))
    places = np.empty(len(codes), np.uint16)
    places[[codes[name] for name in phones]] = np.arange(len(phones))
    meta = {"manifest_hash": manifest.hash, "fitted": False, "imported": ["phones"], "phones": phones}
    with UnitsWriter(out, (max(1, len(phones)),), meta) as writer:
        for i, labels in zip(manifest.ids, heard):
            writer.add(i, places[labels])
    return Units.load(out)


def _phones(path: AlignmentFile, length: int) -> np.ndarray:
    return phones_at_frames(path, CONV_GRID.frames(length), duration=seconds(length), whole=True)
