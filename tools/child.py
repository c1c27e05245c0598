"""How a command starts a module of ours in another process."""

from __future__ import annotations

import sys


def module_command(module: str) -> list[str]:
    """Words that run `main()` of a module; arguments follow them.

    `python -m` looks into the working directory first, where a folder or file of the user's may have the module's name.
    """
    elsewhere = "import sys; sys.path[:] = filter(None, sys.path)"  # PYTHONSAFEPATH has done it already
    return [sys.executable, "-c", f"{elsewhere}; from {module} import main; main()"]
