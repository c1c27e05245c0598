"""Speech that a small recogniser can learn: three letters are three pitches."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from upstream.audio import import_folder

PITCHES = {"A": 300, "B": 900, "C": 2400, " ": 0}
SAMPLES = 2400  # of a letter, at 16 kHz


def write_tones(folder: Path, words: Iterable[int], dev: int, pause: str = "") -> Path:
    """Recordings `u00.wav`, ... of so many words of three letters each with their texts, and manifests of all but the
    last `dev`, train.arrow, and of these, dev.arrow; gives the folder.

    Args:
        pause: what is heard, and not written, at either end.
    """
    rng = np.random.default_rng(0)
    for i, count in enumerate(words):
        text = " ".join("".join(rng.choice(list("ABC"), 3)) for _ in range(count))
        time = np.arange(SAMPLES) / 16_000
        wave = np.concatenate([0.2 * np.sin(2 * np.pi * PITCHES[c] * time) for c in f"{pause}{text}{pause}"])
        soundfile.write(folder / f"u{i:02d}.wav", wave + 0.005 * rng.standard_normal(len(wave)), 16_000)
        (folder / f"u{i:02d}.txt").write_text(text)
    whole = import_folder(folder)
    whole.select(range(len(whole) - dev)).save(folder / "train.arrow")
    whole.select(range(len(whole) - dev, len(whole))).save(folder / "dev.arrow")
    return folder
