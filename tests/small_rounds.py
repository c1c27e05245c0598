"""Pretraining that takes a second: recordings of tones that wander, and what makes a recipe small."""

from pathlib import Path

import numpy as np
import soundfile

ENCODER = ["encoder.width=32", "encoder.layers=2", "encoder.heads=2", "encoder.ffn=64", "encoder.positional_groups=2"]
TRAINING = ["training.crop_seconds=1", "training.micro_batch_seconds=4", "training.batch_seconds=4",
            "training.least_seconds=0.5", "valid_share=0.2"]
TEACHERS = ["rounds.0.teacher.clusters=8", "rounds.1.teacher.clusters=8", "rounds.1.teacher.layer=1"]
TINY = [*ENCODER, *TRAINING, *TEACHERS, "training.updates=2"]  # for hubert-tiny; later words override these


def write_recordings(folder: Path, count: int, longer: int = 0) -> Path:
    """`u0.wav`, `u1.wav`, ... of 1.5 s at 16 kHz, each by `longer` samples longer than the last; gives the folder."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        tone = np.sin(np.cumsum(rng.uniform(0.02, 0.4, 40).repeat(600)))
        tone = np.resize(tone, 24_000 + longer * i)
        soundfile.write(folder / f"u{i}.wav", 0.2 * tone + 0.02 * rng.standard_normal(len(tone)), 16_000)
    return folder
