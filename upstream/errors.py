"""What goes wrong in a way a user can mend: one line saying what, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class HubertkitError(Exception):
    """Base of every error shown to a user without a traceback. `exit_code` is what the command line exits with."""

    exit_code = 1


class UsageError(HubertkitError):
    """The command was called with arguments that cannot work: a missing file, two options that exclude each other."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe or an override names an unknown key, or gives a value of the wrong type or out of range."""


class InputError(HubertkitError):
    """Data that cannot be used: broken audio, a transcript without audio, units of another manifest."""


class FormatError(InputError):
    """A file is not in the format, or not of the version, that it should be."""


class BusyError(HubertkitError):
    """Another process works on the same run."""


class Interrupted(HubertkitError):
    """SIGINT, SIGTERM, SIGUSR1 or SIGHUP arrived; what was done is saved."""

    exit_code = 130


class RankLost(HubertkitError):
    """One of several processes that train together has died."""


def some_of(names: Sequence[str]) -> str:
    """`a, b`, and of more than five the first and how many more there are: `a, b, c, d, e and 3 more`."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
