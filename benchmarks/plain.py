"""Results where only what is measured is installed: complete, and not checked against the schema."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
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


def write_plain(path: Path, content: dict[str, Any]) -> None:
    """All of the file or nothing; its folder is made."""
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
