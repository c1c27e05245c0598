"""KenLM's models from files, loaded once a process; from a binary file where KenLM's `build_binary` is at hand.

An ARPA file is parsed by every process anew, each with a copy of its own. A binary file is mapped into memory: it is
there at once, and processes share it. KenLM's Python package cannot write one, so `build_binary` of its command line
tools makes it where that is on the PATH, once, into `~/.cache/hubertkit/kenlm` (`$XDG_CACHE_HOME` if that is set).
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from downstream.given_files import check_lasting
from downstream.lm.arpa_lines import arpa_lines, header
from downstream.lm.loading import load_arpa
from downstream.user_cache import cache_folder
from upstream.disk import path_given, writing
from upstream.errors import FormatError, HubertkitError

_BINARY = b"mmap lm http://kheafield.com/code"  # what KenLM's own binary files begin with
_SHOWN = 300  # characters of what KenLM says


def load_kenlm(path: Path) -> Any:
    """KenLM's model of a file, loaded once a process as long as the file stays as it is.

    Args:
        path: an ARPA file, plain or gzipped, or a KenLM binary, of order 2 or more.

    Raises:
        UsageError: no such file.
        FormatError: an empty, broken or truncated file, or a model of order 1, which KenLM's Python package refuses.
    """
    path = path_given(path, "path")
    about = _about(path)
    return _load(path, about.st_mtime_ns, about.st_size)


def quickest_file(path: Path) -> Path:
    """The binary of an ARPA file where `build_binary` is at hand to make it, else the file itself.

    Raises:
        UsageError: no such file.
        FormatError: an empty one.
    """
    path = Path(path)
    about = _about(path)
    return _binary(path, about.st_mtime_ns, about.st_size) or path


def is_binary(path: Path) -> bool:
    """Whether a file is a binary of KenLM's."""
    with open(path, "rb") as file:
        return file.read(len(_BINARY)) == _BINARY


def refusal(path: Path, error: Exception) -> FormatError:
    """What to raise where KenLM refused a file; it names the line of a broken ARPA file."""
    try:
        return FormatError(_reason(Path(path), error))
    except FormatError as found:  # by our own reader, which says more
        return found


def memory_of(path: Path) -> int:
    """Bytes of its own that a process takes to load a model with `load_kenlm`, measured in one. Raises as that does."""
    load_kenlm(path)  # raises here what is wrong, and makes the binary
    code = ("import sys; from downstream.lm.kenlm_file import load_kenlm, own_bytes; import kenlm; "
            "before = own_bytes(); load_kenlm(sys.argv[1]); print(own_bytes() - before)")
    done = subprocess.run([sys.executable, "-c", code, str(Path(path).resolve())], capture_output=True, text=True,
                          check=False, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise HubertkitError(f"{path}: a process that loads it fails ({' '.join(done.stderr.split())[-200:]})")
    return max(0, int(done.stdout))


def own_bytes() -> int:
    """Bytes of memory that this process shares with no other; the most it ever took where the system does not tell."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@lru_cache(maxsize=2)
def _load(path: Path, modified: int, size: int) -> Any:
    import kenlm

    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE  # it would advise to build a binary
    try:
        return kenlm.Model(str(_binary(path, modified, size) or path), config)
    except (OSError, RuntimeError, ValueError) as error:
        raise refusal(path, error) from error


def _binary(path: Path, modified: int, size: int) -> Path | None:
    """The binary of an ARPA file, made unless it is there. None where there can be none: then the ARPA is loaded."""
    program, folder = shutil.which("build_binary"), cache_folder()
    if program is None or folder is None or is_binary(path):
        return None
    cache = folder / "kenlm"
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:20]
    binary = cache / f"{name}-{modified}-{size}.binary"
    if binary.is_file():
        return binary
    try:
        with writing(binary) as temporary:
            subprocess.run([program, "probing", str(path), str(temporary)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):  # a full disk, or a broken model, which is told when it is loaded
        return None
    for old in cache.glob(f"{name}-*.binary"):
        if old != binary:  # of what the file was before
            old.unlink(missing_ok=True)
    return binary


def _about(path: Path) -> os.stat_result:
    check_lasting(path, "no such language model; `hubertkit lm build` makes one")
    about = path.stat()
    if not about.st_size:
        raise FormatError(f"{path}: an empty file; build the model again")
    return about


def _reason(path: Path, error: Exception) -> str:
    """Why KenLM refused a file. Our own reader names the line of a broken ARPA file."""
    if not is_binary(path):
        load_arpa(path)
        with arpa_lines(path) as lines:
            order = len(header(lines))
        if order == 1:
            return f"{path}: a model of order 1; KenLM reads models of order 2 and more: build it with one (--order 2)"
        if limit := re.search(r"compiled to support up to (\d+)", str(error)):
            return f"{path}: a model of order {order}; KenLM reads models of order {limit[1]} and less, as it was built"
    said = " ".join(str(error).split())
    said = said.partition(" threw ")[2] or said  # before it stands where in KenLM's code
    return f"{path}: KenLM cannot read it ({said if len(said) <= _SHOWN else said[:_SHOWN] + '...'})"
