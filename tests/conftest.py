"""Shared by all tests: threads, where real speech lies, and how much hypothesis tries."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the problems are small: a second thread only waits for the first
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line: waiting threads must not spin

import pytest
import torch
from hypothesis import HealthCheck, settings

from upstream.training import peak

ROOT = Path(__file__).parents[1]
peak.SIZES["cpu"] = 128  # every training asks for the machine's rate, and no test for a good answer
torch.set_num_threads(1)
settings.register_profile("default", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow],
                          derandomize=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def speech() -> Path:
    """A folder of real speech (LibriSpeech layout, `splits/`), named by HUBERTKIT_SPEECH; tests without it skip."""
    folder = Path(os.environ.get("HUBERTKIT_SPEECH", ROOT.parent / "shared" / "speech"))
    if not (folder / "splits").is_dir():
        pytest.skip(f"no real speech at {folder}; set HUBERTKIT_SPEECH to a folder with LibriSpeech/ and splits/")
    return folder


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Small files made by reference programs."""
    return ROOT / "tests" / "oracles"
