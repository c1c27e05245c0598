"""Folders that one process works in at a time, and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from upstream import ranks
from upstream.disk import disk_errors, remove
from upstream.errors import BusyError, HubertkitError, UsageError

LOCK = ".lock"
UNFINISHED = ".writing"  # within a folder that was there already, and empty
TRIES = 20  # at a folder or a lock that somebody removes while it is taken


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder; a second process is refused. The kernel drops the lock of a dead process.

    A folder that was made for this and in which nothing has come to be, because of a mistake, is removed again (its
    parents stay).
    """
    run = Path(run)
    descriptor, is_new = ranks.alone(lambda: _lock(run))
    try:
        yield
    finally:
        if ranks.first():
            if is_new:
                _remove_unused(run, descriptor)
            os.close(descriptor)


@contextlib.contextmanager
def watched(run: Path) -> Iterator[None]:
    """Look into a run folder, which is refused where a process works in it now; nothing is written there."""
    if busy(run):
        raise _busy(run)
    yield


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Give a hidden folder that becomes `folder` on success and goes on failure. What a killed process left of one is
    cleared; a second process is refused.

    Raises:
        UsageError: the folder is there and holds something.
        BusyError: another process fills it.
    """
    folder = Path(folder)
    within = folder.is_dir()  # it may be a link or a place where a disk is mounted, which no rename replaces
    hidden = folder / UNFINISHED if within else folder.with_name(f".{folder.name}{UNFINISHED}")
    with locked(hidden):
        renamed = False  # what lies in its place then is another process's
        try:
            if is_taken(folder):
                raise UsageError(f"{folder}: is there already; give another folder")
            for left in _filled(hidden):
                remove(left)
            yield hidden
            if within:
                for path in _filled(hidden):
                    path.rename(folder / path.name)
            else:
                hidden.rename(folder)
                renamed = True
                (folder / LOCK).unlink()
        finally:
            if not renamed:
                _remove_held(hidden)


def _filled(hidden: Path) -> list[Path]:
    """What was written into a folder that is being filled."""
    return [path for path in hidden.iterdir() if path.name != LOCK]


def _remove_held(hidden: Path) -> None:
    """Remove a folder that this process holds, its lock last: whoever comes behind that fills it anew."""
    with contextlib.suppress(OSError):
        for path in _filled(hidden):
            with contextlib.suppress(OSError):
                remove(path)
        (hidden / LOCK).unlink()
        hidden.rmdir()


def is_taken(path: Path) -> bool:
    """Whether a file stands at a path, or a folder that holds more than what `filling` left unfinished."""
    if not path.is_dir():
        return path.exists()
    return any(found.name != UNFINISHED for found in path.iterdir())


def busy(run: Path) -> bool:
    """Whether a process works in a run folder now."""
    try:
        with open(Path(run) / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock: nobody ever worked here
        return False
    return False


def _remove_unused(run: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if os.listdir(run) == [LOCK] and _is_lock(descriptor, run):
            (run / LOCK).unlink()
            run.rmdir()


def _lock(run: Path) -> tuple[int, bool]:
    """An open file that holds the folder, and whether the folder was made for it.

    Whoever leaves a folder may remove it and its lock at any step of this, which then begins again: a file that lies
    nowhere holds nothing.
    """
    gone: FileNotFoundError | None = None
    with disk_errors(run):
        for _ in range(TRIES):
            try:
                is_new = _made(run)
                descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError as error:
                gone = error
                continue
            try:
                _hold(descriptor, run)
                if _is_lock(descriptor, run):
                    return descriptor, is_new
            except BlockingIOError as error:
                os.close(descriptor)
                raise _busy(run) from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        if gone is not None:
            raise gone
    raise _busy(run)


def _made(run: Path) -> bool:
    """Make a folder; whether it was not there. Of several processes one makes it."""
    try:
        run.mkdir(parents=True)
    except OSError as error:
        if run.is_dir():  # of a folder that is there some file systems say that none may be made
            return False
        if not isinstance(error, FileExistsError) or os.path.lexists(run):
            raise
        return False  # and is gone again
    return True


def _is_lock(descriptor: int, run: Path) -> bool:
    """Whether an open file is the lock that lies in a folder now."""
    try:
        return os.path.samestat(os.stat(run / LOCK), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _busy(run: Path) -> BusyError:
    return BusyError(f"{run}: another process works here; wait for it or give another folder")


def _hold(descriptor: int, run: Path) -> None:
    """Lock an open file, or raise BlockingIOError where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno == errno.EACCES:  # as some systems say that it is held
            raise BlockingIOError from error
        raise HubertkitError(f"{run}: its file system has no locks ({error.strerror}), and two processes could spoil "
                             "each other's work there; give a folder on another (of Lustre: one that is mounted with "
                             "-o flock)") from error
