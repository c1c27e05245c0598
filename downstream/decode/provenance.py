"""What made a file of hypotheses: `FILE.jsonl.json` beside `FILE.jsonl`, bound to it by the hash of its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upstream.disk import file_hash, read_json, write_json
from upstream.errors import FormatError, UsageError

FORMAT = "hubertkit hypotheses"
VERSION = 1


def provenance_path(hypotheses: Path) -> Path:
    """Where it stands of a file of hypotheses."""
    return Path(f"{hypotheses}.json")


def check_provenance_place(hypotheses: Path) -> None:
    """Raise UsageError if a file of somebody else's stands where it would be written."""
    path = provenance_path(hypotheses)
    if path.exists() and _read(path) is None:
        raise UsageError(f"{path}: is there already, and says nothing of hypotheses; move it away, or give another "
                         "file (--out)")


def write_provenance(hypotheses: Path, digest: str, provenance: dict[str, Any]) -> None:
    """Say what made hypotheses of which the file has this sha256."""
    write_json(provenance_path(hypotheses), {"format": FORMAT, "version": VERSION, "hypotheses_hash": digest,
                                             **provenance})


def remove_provenance(hypotheses: Path) -> None:
    """Remove what was said of hypotheses that are replaced; a file of somebody else's stays."""
    path = provenance_path(hypotheses)
    if _read(path) is not None:
        path.unlink()


def read_provenance(hypotheses: Path) -> dict[str, Any] | None:
    """What made the hypotheses that a file holds now; None where nobody says."""
    found = _read(provenance_path(hypotheses))
    return found if found is not None and found.get("hypotheses_hash") == file_hash(hypotheses) else None


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = read_json(path)
    except FormatError:
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None
