"""Checkpoints that fairseq wrote, and what it computed with them (tests/oracles/hubert/checkpoints)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from upstream.model import MaskedPrediction, save_encoder

CHECKPOINTS = Path(__file__).parents[3] / "oracles" / "hubert" / "checkpoints"


@pytest.fixture(scope="session")
def checkpoints() -> Path:
    return CHECKPOINTS


@pytest.fixture(scope="session")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(CHECKPOINTS / "outputs.npz"))


@pytest.fixture(scope="session")
def speech_batch() -> dict[str, np.ndarray]:
    """The batch that fairseq was given: raw and standardised, and its lengths."""
    return dict(np.load(CHECKPOINTS.parent / "inputs.npz"))


@pytest.fixture
def pretrained(tiny, tmp_path):
    """`pretrained(classes, tied=..., **settings)`: a folder as pretraining leaves it, and the model in it."""

    def make(classes: tuple[int, ...] = (7,), tied: bool = False, **settings: Any) -> tuple[Path, MaskedPrediction]:
        model = MaskedPrediction(tiny(**settings), classes, 8, tied_projections=tied).initialise(3).eval()
        head = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
        folder = tmp_path / "pretrained"
        save_encoder(model.encoder, folder, {"round": 1, "objective": {
            "kind": "hubert", "head": "cosine", "temperature": 0.1, "predict_at": [], "tied_projections": tied}}, head)
        return folder, model

    return make
