"""`hubertkit doctor`: does what hubertkit stands on work on this machine?

Each check tries the thing itself (decodes a file, clusters points, lets two processes meet) where that takes a moment;
a package that is installed may still not load beside the others. What is broken has a line that says what to do.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from downstream.user_cache import cache_folder
from tools.two_ranks import problem_of_two_ranks
from upstream.control_groups import available_cores
from upstream.progress import say
from upstream.training.peak import advice

State = Literal["ok", "note", "broken"]
EXTRAS = {"demo": "`hubertkit demo` speaks its own recordings with it", "hf": "models of the Hugging Face hub, neural "
          "rescoring"}
FORMATS = {"FLAC": ("FLAC", None), "Opus": ("OGG", "OPUS"), "MP3": ("MP3", None)}
ARPA = ("\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\n-1\t<s>\t0\n-1\t</s>\n\n"
        "\\2-grams:\n-0.5\t<s> </s>\n\n\\end\\\n")
LITTLE_DISK = 5 << 30  # a checkpoint of BASE has 1.1 GB, and three are kept


@dataclass(frozen=True)
class Finding:
    """What one check found. `broken`: something will fail; `note`: something is missing that may be wanted."""

    name: str
    state: State
    what: str


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check what hubertkit stands on: packages, audio formats, GPU, language models, disk; exit 1 if one is broken."""
    found = []
    for check in CHECKS:
        say(f"checking {check.__name__.strip('_').replace('_', ' ')}")
        found += _heard_out(check)
    if as_json:
        print(json.dumps([asdict(f) for f in found], indent=1))
    else:
        _print(found)
    if any(f.state == "broken" for f in found):
        raise typer.Exit(1)


def _heard_out(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check found; one that falls over has found something."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except Exception as error:  # whatever a broken library throws is the finding
        name = check.__name__.strip("_").replace("_", " ")
        found.append(Finding(name, "broken", _first_line(error)))
    return found


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _packages() -> Iterator[Finding]:
    """Versions against what our own metadata ask for."""
    from packaging.requirements import Requirement

    python = platform.python_version()
    yield Finding("python", "ok", f"{python} on {platform.system()} {platform.machine()}")
    missing: dict[str, list[str]] = {}
    wrong, count = [], 0
    for line in metadata.requires("hubertkit") or []:
        wanted = Requirement(line)
        extra = next((e for e in (*EXTRAS, "dev") if f'extra == "{e}"' in str(wanted.marker)), "")
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            missing.setdefault(extra, []).append(wanted.name)
            continue
        count += 1
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} {version} (wanted: {wanted.specifier})")
    unmet = wrong + [f"{name} is not installed" for name in missing.get("", [])]
    yield Finding("packages", "broken", f"{'; '.join(unmet)}: run `pip install hubertkit` again") if unmet else \
        Finding("packages", "ok", f"all {count} that are installed have the versions that are asked for")
    for extra, use in EXTRAS.items():
        if names := missing.get(extra):
            yield Finding(f"extra {extra}", "note", f"{', '.join(names)} not installed: {use}; "
                                                    f"`pip install 'hubertkit[{extra}]'` if wanted")


def _imports() -> Iterator[Finding]:
    """Packages that are compiled against each other."""
    for name in ("torchaudio", "faiss", "kenlm", "pyctcdecode", "flashlight.lib.text.decoder", "pyarrow", "soxr"):
        try:
            import_module(name)
        except Exception as error:  # an undefined symbol is an OSError
            yield Finding(f"import {name}", "broken", f"{_first_line(error)}; install "
                                                      "it again, beside the torch and numpy that are here")
            return
    yield Finding("imports", "ok", "torchaudio, faiss, kenlm, pyctcdecode, flashlight, pyarrow and soxr load")


def _audio() -> Iterator[Finding]:
    """Written and read again: Opus lengths were wrong before libsndfile 1.2.2."""
    import soundfile  # here, for it may not load: others that may not are named by `_imports`

    wave = (0.1 * np.sin(np.arange(24_000) / 20)).astype(np.float32)
    broken = []
    for name, (container, kind) in FORMATS.items():
        file = io.BytesIO()
        try:
            soundfile.write(file, wave, 24_000, format=container, subtype=kind)
            read, _ = soundfile.read(io.BytesIO(file.getvalue()))
            if name != "MP3" and len(read) != len(wave):
                broken.append(f"{name}: {len(read)} of {len(wave)} samples come back")
        except (soundfile.LibsndfileError, ValueError, RuntimeError) as error:
            broken.append(f"{name}: {error}")
    library = soundfile.__libsndfile_version__
    yield Finding("audio", "broken", f"libsndfile {library}: {'; '.join(broken)}; install soundfile 0.13 or later from "
                                     "PyPI, which brings its own") if broken else \
        Finding("audio", "ok", f"libsndfile {library} reads WAV, {', '.join(FORMATS)}")


def _k_means() -> Iterator[Finding]:
    import faiss

    kmeans = faiss.Kmeans(8, 4, niter=2, seed=1)
    points = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    if not np.isfinite(kmeans.train(points)):
        yield Finding("k-means", "broken", f"faiss {faiss.__version__} gives no finite inertia; install it again")
        return
    # where torch finds no GPU that can be used, faiss may end the whole process when it is asked
    count = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") and torch.cuda.is_available() else 0
    yield Finding("k-means", "ok", f"faiss {faiss.__version__}, {count} GPUs")


def _language_models() -> Iterator[Finding]:
    import kenlm

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.arpa"
        path.write_text(ARPA, encoding="utf-8")
        config = kenlm.Config()
        config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
        score = kenlm.Model(str(path), config).score("")
    if abs(score + 0.5) > 1e-4:
        yield Finding("language models", "broken", f"KenLM gives {score:g} for a sentence of log10 -0.5; install kenlm "
                                                   "again")
    elif shutil.which("build_binary") is None:
        yield Finding("language models", "ok", "KenLM reads ARPA; with its `build_binary` on the PATH, which is "
                                               "optional, large models load at once")
    else:
        yield Finding("language models", "ok", "KenLM reads ARPA, and `build_binary` is there")


def _processor() -> Iterator[Finding]:
    said = f"{available_cores()} cores, {torch.get_num_threads()} threads"
    slow = advice(torch.device("cpu"), "bf16")
    yield Finding("processor", "ok", said if slow is None else f"{said}; {slow}")


def _gpu() -> Iterator[Finding]:
    """Before anything else asks for GPUs: torch says only once in a process what is wrong with a driver."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if there:
        for number in range(torch.cuda.device_count()):
            yield _one_gpu(number)
    elif trouble := [str(one.message).partition(" (Triggered")[0] for one in heard if "CUDA" in str(one.message)]:
        yield Finding("GPU", "broken", f"{trouble[0]}; until then everything runs on the CPU")
    else:
        yield Finding("GPU", "note", "none that torch can use: pretraining of BASE takes weeks without; where there is "
                                     "one, see whether `nvidia-smi` finds it and its driver is new enough for CUDA "
                                     f"{torch.version.cuda}" if torch.version.cuda else
                      "this torch is built without CUDA")


def _one_gpu(number: int) -> Finding:
    """Whether a GPU multiplies; one that is full, or held by somebody else, hides none of the others."""
    name = f"GPU {number}"
    try:
        free, total = torch.cuda.mem_get_info(number)
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        works = float((ones @ ones).sum()) == 64.0 ** 3
        own_bf16 = torch.cuda.get_device_capability(number) >= (8, 0)  # torch's answer counts what is emulated
        said = (f"{torch.cuda.get_device_name(number)}, {free / 2 ** 30:.0f} of {total / 2 ** 30:.0f} GiB free, "
                f"bf16 {'yes' if own_bf16 else 'no: use training.precision=fp16'}")
    except Exception as error:  # torch has no finer type for what CUDA says
        return Finding(name, "broken", f"{_first_line(error)}; see what `nvidia-smi` says of it, or leave it out by "
                                       "CUDA_VISIBLE_DEVICES")
    return Finding(name, "ok", said) if works else Finding(name, "broken", f"{said}; a matrix product on it is wrong")


def _disk() -> Iterator[Finding]:
    here = Path.cwd()
    cache = cache_folder()
    free = shutil.disk_usage(here).free
    said = f"{free / 2 ** 30:.0f} GiB free in {here}"
    yield Finding("disk", "ok", said) if free >= LITTLE_DISK else \
        Finding("disk", "note", f"{said}: a pretraining of BASE keeps three checkpoints of 1.1 GB")
    writable = next((p for p in (cache, *cache.parents) if p.exists()), None) if cache is not None else None
    if writable is None or not os.access(writable, os.W_OK):
        yield Finding("cache", "note", f"{cache or 'no home'}: cannot be written, so what could be kept is made again "
                                       "each time; set XDG_CACHE_HOME to a folder that can")


def _ranks() -> Iterator[Finding]:
    """Two processes meet over gloo, as `--ranks 2` has them."""
    problem = problem_of_two_ranks()
    works = "two processes can train together"
    if torch.cuda.device_count() > 1:
        works += " on the CPU; NCCL, which connects GPUs, was not tried"
    yield Finding("ranks", "ok", works) if problem is None else \
        Finding("ranks", "broken", f"two processes cannot train together: {problem}; --ranks 1 works without; see that "
                                   "`localhost` and this machine's name have addresses")


CHECKS = (_packages, _gpu, _imports, _audio, _k_means, _language_models, _processor, _disk, _ranks)


def _print(found: list[Finding]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for finding in found:
        table.add_row(finding.state, finding.name, finding.what)
    Console(highlight=False, markup=False).print(table)  # `hubertkit[hf]` is no markup
    broken = sum(f.state == "broken" for f in found)
    print(f"{broken} broken" if broken else "nothing is broken", file=sys.stderr)
