"""Libri-light's limited supervision (Kahn et al. 2020, section 3): 10 minutes, 1 hour and 10 hours of LibriSpeech.

    librispeech_finetuning/1h/0 ... 1h/5    six sets of ten minutes, each with `clean` and `other`; together one hour
    librispeech_finetuning/9h               what makes the hour ten
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from upstream.audio.corpora.librispeech import import_librispeech
from upstream.audio.corpora.probing import Skip
from upstream.audio.manifest import Manifest
from upstream.errors import UsageError

Part = Literal["10min", "1h", "10h"]
FOLDS = 6


def import_libri_light(src: Path, part: Part, fold: int = 0, skip: Skip | None = None) -> Manifest:
    """A manifest of one of the three amounts, sorted by speaker, chapter and number; each lies within the next.

    Args:
        src: the folder `librispeech_finetuning`.
        part: how much of it.
        fold: which of the six sets of ten minutes; for `10min` only.
        skip: called with each file that cannot be used, which is left out then; without it the first is an error.

    Raises:
        UsageError: a folder of the layout is not there, or no such fold.
        InputError: as `import_librispeech`.
    """
    src = Path(src)
    if not 0 <= fold < FOLDS or (fold and part != "10min"):
        raise UsageError(f"fold {fold} of {part}: only 10min has folds, 0 to {FOLDS - 1}")
    folds = [fold] if part == "10min" else range(FOLDS)
    folders = [src / "1h" / str(number) for number in folds] + ([src / "9h"] if part == "10h" else [])
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; give Libri-light's librispeech_finetuning")
    return import_librispeech(src, skip=skip, folders=folders)
