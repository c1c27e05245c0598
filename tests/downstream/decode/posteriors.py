"""Ten utterances of calibrated simulated posteriors (29 symbols, 50 Hz), for the tests of decoders."""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[2] / "oracles" / "decoding"


def read_slice() -> tuple[dict[str, np.ndarray], dict[str, str], tuple[str, ...]]:
    """{id: (T, 29) float32 log-probabilities}, {id: reference}, symbols; column 0 is the blank."""
    about = json.loads((FOLDER / "slice.json").read_text())
    stored = np.load(FOLDER / "slice.npz")
    parts = np.split(stored["logprobs"].astype(np.float32), np.cumsum(stored["lengths"])[:-1])
    ids = [u["id"] for u in about["utterances"]]
    return dict(zip(ids, parts)), {u["id"]: u["text"] for u in about["utterances"]}, tuple(about["symbols"])
