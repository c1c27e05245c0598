"""Where files are kept that can be made again: `$XDG_CACHE_HOME/hubertkit`, by default `~/.cache/hubertkit`."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """The folder, which may not be there yet; None for a user without a home, as containers have them."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(given) if given else Path.home() / ".cache") / "hubertkit"
    except RuntimeError:
        return None
