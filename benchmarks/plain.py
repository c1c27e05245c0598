"""The head of a results file where only what is measured is installed, and not `hubertkit`."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from benchmarks.results import machine
from upstream.stage import versions


def about(module: str) -> dict[str, Any]:
    """What stands in every results file: the command `python -m MODULE ...`, the machine and the versions."""
    found = versions()
    for package in ("transformers", "triton"):
        if package in sys.modules:
            found[package] = str(getattr(sys.modules[package], "__version__", "unknown"))
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return {"format": 1, "date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": found,
            "command": " ".join([f"python -m {module}", *sys.argv[1:]])}
