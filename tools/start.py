"""The program's beginning: Ctrl-C is one line while everything else is still being imported, too."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `tools.main.main` and exit."""
    try:
        from tools.main import main as run
    except KeyboardInterrupt:
        print("hubertkit: interrupted", file=sys.stderr)
        sys.exit(130)
    run()
