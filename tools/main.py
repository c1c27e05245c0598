"""`hubertkit`: the command line. Every command is thin: parse, call, print.

Results go to standard output, progress and warnings to standard error. Exit codes: 0 done, 1 failed, 2 wrong use,
130 interrupted. A user's mistake never shows a traceback; HUBERTKIT_DEBUG=1 does.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import signal
import sys
import traceback
from typing import Annotated, Any

import torch
import typer
import typer.main

from tools.launch import first_says, join_from_environment
from upstream import ranks
from upstream.control_groups import available_cores
from upstream.disk import disk_reason
from upstream.errors import HubertkitError, Interrupted, RankLost
from upstream.progress import printable
from upstream.stage import versions
from upstream.stopping import heeded
from upstream.telling import tell

INTERRUPTED = 130
# Which module of `tools` holds a command, in the order of `--help`.
COMMANDS = {"demo": "demo", "pretrain": "pretrain", "status": "pretrain", "finetune": "recognise", "emit": "recognise",
            "selftrain": "selftrain",
            "transcribe": "transcribe", "decode-check": "decode_check", "decode": "decode", "tune": "decode",
            "rescore": "rescore", "rescore-tune": "rescore", "score": "score", "report": "report",
            "errors": "decomposition", "align": "align", "units": "units", "convert": "convert",
            "recipe": "recipes", "doctor": "doctor"}
GROUPS = {"corpus": "Manifests: import, export, check, show, segment, split.",
          "teacher": "Teachers: fit, import, check, how good they are, which layer.",
          "lm": "Language models: build, prune, interpolate, pack, info, score of n-grams; train one of characters.",
          "bench": "Benchmarks that write results.json."}
# What is done is on disk, and the same command takes it up: their --out says so. All others begin again.
GOING_ON = ("demo", "pretrain", "finetune", "selftrain", "bench low-resource", "bench curves", "bench teachers",
            "bench lm", "bench front-ends", "bench decoding")
# What several ranks do as one; any other command works by itself, though RANK and WORLD_SIZE are set in its container.
TOGETHER = ("demo", "pretrain", "finetune", "selftrain", "bench", "teacher", "units")
# Before CUDA starts: batches of many shapes would leave its memory in pieces.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

# Recent versions of typer carry a click of their own, older ones use the package: take whichever typer's errors are of.
_WRONG_USE: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


@functools.cache
def build_command(name: str | None = None) -> Any:
    """The command line, or as much of it as one command needs: to import the others takes longer than many a command.

    Args:
        name: of a command or a group; None, or one that there is not, for all, so that `--help` says all there is.
    """
    app = typer.Typer(name="hubertkit", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                      help="From recordings to a speech encoder, a recogniser, and a word error rate to trust.")
    app.callback()(_options)
    known = name in COMMANDS or name in GROUPS
    for module in dict.fromkeys(m for command, m in COMMANDS.items() if not known or command == name):
        importlib.import_module(f"tools.{module}").register(app)
    for group, says in GROUPS.items():
        if not known or group == name:
            app.add_typer(importlib.import_module(f"tools.{group}").app, name=group, help=says)
    return typer.main.get_group(app)


def _tell_version(asked: bool) -> None:
    if asked:
        print(", ".join(f"{name} {version}" for name, version in sorted(versions().items(), key=_hubertkit_first)))
        raise typer.Exit


def _hubertkit_first(found: tuple[str, str]) -> bool:
    return found[0] != "hubertkit"


def _options(version: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True,
                                                   help="Say the versions that numbers depend on.")] = False) -> None:
    """Options of the program itself."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    for number in set(heeded()) - {signal.SIGINT}:
        signal.signal(number, _terminated)
    if torch.get_num_threads() > (cores := available_cores()):  # torch does not see what a container is given
        torch.set_num_threads(cores)
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to stop
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(arguments)
    except SystemExit as end:  # of a rank for which the first one speaks
        code = end.code if isinstance(end.code, int) else 1
    except Exception:
        if not ranks.has_joined():
            raise
        traceback.print_exc()  # now: what follows ends the process
        code = 1
    ranks.leave(failed=code != 0)  # its threads would abort an interpreter that ends under them
    if ranks.has_joined():
        # Some threads of torch.distributed outlive the group, and now and then abort a process that takes itself apart
        # ("terminate called without an active exception"), which torchrun takes for a failure. All work is on disk.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, or nobody reads on
                stream.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words and words[0] in TOGETHER:
            join_from_environment()
        command = build_command(words[0] if words else None)
        code = int(command.main(args=words, prog_name="hubertkit", standalone_mode=False) or 0)
        if code == INTERRUPTED:  # some versions of typer make a number of Ctrl-C
            raise KeyboardInterrupt
        return code
    except typer.Exit as request:
        return request.exit_code
    except _WRONG_USE as error:
        error.show()
        return error.exit_code
    except (RankLost, Interrupted) as error:  # all ranks know: one line is enough
        speaks = ranks.first()
        if isinstance(error, Interrupted):
            ranks.leave()  # as all others do now
        return _failed(str(error), error.exit_code) if speaks else error.exit_code
    except HubertkitError as error:
        return error.exit_code if first_says(str(error)) else _failed(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):  # typer turns the one into the other
        return _failed(f"interrupted; {_afterwards(words)}", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except torch.OutOfMemoryError:
        return _failed("the GPU has too little free memory; run the command again when other programs that use it have "
                       "ended; a training goes on with training.checkpoint_activations=true, which needs less, or "
                       "begins anew with a lower training.micro_batch_seconds", 1)
    except OSError as error:
        reason = disk_reason(error)
        if reason is None:
            raise
        return _failed(reason, 1)


def _afterwards(arguments: list[str]) -> str:
    """What the same command does after it was interrupted."""
    if any(arguments[:len(name.split())] == name.split() for name in GOING_ON):
        return "the same command goes on where it stopped"
    return "the same command begins again from the start"


def _failed(line: str, code: int) -> int:
    if os.environ.get("HUBERTKIT_DEBUG"):
        raise
    tell(f"hubertkit{'' if ranks.first() else f' (rank {ranks.rank()})'}: {printable(line)}")
    return code


def _terminated(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
