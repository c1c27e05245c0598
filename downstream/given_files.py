"""Whether a path that was given for reading can be read: once, as pipes can, or again and again, as only files can."""

from __future__ import annotations

from pathlib import Path

from upstream.errors import UsageError

MISSING = "no such file"


def check_readable(path: Path, missing: str = MISSING) -> None:
    """Raise UsageError unless there is something to be read once: a file, a pipe such as `<(zcat x.gz)`, a device.

    Args:
        missing: what to say where nothing is there.
    """
    if not path.exists():
        raise UsageError(f"{path}: {missing}")
    if path.is_dir():
        raise UsageError(f"{path}: a folder; expected a file")


def check_lasting(path: Path, missing: str = MISSING) -> None:
    """Raise UsageError unless there is a file, which can be read again and again."""
    check_readable(path, missing)
    if not path.is_file():
        raise UsageError(f"{path}: a pipe or a device, which can be read once only, and this is read several times: "
                         "write it into a file and give that")
