"""`hubertkit pretrain` and `hubertkit status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tools.dry_run import show, tried_round, tried_teacher
from tools.launch import AUTO, RanksOption, check_ranks, launched
from tools.outputs import check_place
from upstream.course import Course, following
from upstream.device import chosen_device
from upstream.errors import UsageError
from upstream.locks import LOCK, busy
from upstream.outlook import known_manifest, outlook
from upstream.pretrain import RoundResult
from upstream.pretrain import pretrain as run_rounds
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe, Round, rounds_of
from upstream.progress import say
from upstream.recipe import load_recipe
from upstream.run_stages import noted_stages, stage_names, why_stale
from upstream.stage import BEFORE, read_stage
from upstream.training.health import entropy_of, examine, verdict
from upstream.training.monitor import read_metrics, read_skipped
from upstream.training.optimiser import cut_short
from upstream.training.reference import reference_for


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(pretrain)
    app.command()(status)


def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships (hubert-tiny, hubert-base, wav2vec2-tiny, ...) or "
                                               "a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. data=recordings/ seed=1")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again goes on there.")] = ...,  # type: ignore[assignment]
    ranks: RanksOption = AUTO,
    first: Annotated[str | None, typer.Option("--from", help="Do this stage (round2/teacher) and those after it "
                                                             "anew.")] = None,
    last: Annotated[str | None, typer.Option("--until", help="Stop after this stage (round1/units), or round.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and why, how long it would "
                                                            "take and how much disk it would need.")] = False,
) -> None:
    """Pretrain an encoder by rounds: teacher, units, masked prediction, and again with the encoder's own layer."""
    loaded = load_recipe(PretrainRecipe, recipe, overrides or [], SHIPPED)
    planned = rounds_of(loaded)
    device = chosen_device(loaded.device)  # or say that there is none before ranks are started
    course = Course(out, first, last)
    course.check(names := stage_names(loaded, planned))
    check_place(out)
    micro_batches, most = [r.training.accumulate for r in planned], min(r.training.most_ranks for r in planned)
    if dry_run:
        count = check_ranks(ranks, micro_batches, loaded.device, most)
        together = count if device.type == "cuda" else 1  # on CPUs one process has all the cores that ranks share
        _warn_of_schedules(planned, names[:names.index(course.last) + 1] if course.last else names)
        show(outlook(loaded, out, lambda round_: tried_round(round_, device, together),
                     lambda *asked: tried_teacher(*asked, device=device, probe=loaded.probe, together=together),
                     course.first, course.last), course.last)
        if known_manifest(loaded, out) is None:
            say(f"data={loaded.data}: a folder, and nobody knows yet how much audio it holds. To see what hangs on "
                f"that, as how long teachers take: hubertkit corpus import folder {loaded.data} --out all.arrow, and "
                "data=all.arrow here")
        return
    rounds: list[RoundResult] = []
    with launched(ranks, micro_batches, loaded.device, most), following(course):
        rounds = run_rounds(loaded, out)
    if not rounds:
        say(f"stopped after {course.last}, as asked; the same command without --until goes on")
    for number, result in enumerate(rounds, 1):
        figures = {k: v for k, v in result.encoder_result.items() if isinstance(v, float)}
        print(f"round {number}: {result.encoder} " + " ".join(f"{k}={v:.4g}" for k, v in figures.items()))


def status(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Show the stages of a run: done, stale, running, to do; times and sizes; whether its trainings look healthy.

    Stale is what was made of something that has changed since, as a stage done again with `--until` leaves it. What a
    changed recipe makes stale is said by `--dry-run` of `pretrain` or `selftrain`. What an earlier recipe has left in
    the folder is no part of the run now.
    """
    if not run.is_dir():
        raise UsageError(f"{run}: no such folder")
    table = Table(Column("stage", overflow="fold"), "state", "seconds", "MB", "started")
    open_state = "running" if any(busy(p.parent) for p in run.rglob(LOCK)) else "interrupted"
    noted = noted_stages(run)
    found = [(p.parent, read_stage(p.parent)) for p in sorted(run.rglob("stage.json")) if BEFORE not in p.parts]
    for folder, record in sorted(found, key=lambda f: _place(str(f[0].relative_to(run)), f[1] or {}, noted.names)):
        if record is not None:
            name, why = str(folder.relative_to(run)), why_stale(run, folder, noted.reads)
            state = "of an earlier recipe" if noted.leaves_out(name) else \
                open_state if record["state"] != "done" else f"stale: {why}" if why else "done"
            table.add_row(escape(name), escape(state), str(record.get("seconds", "")),
                          f"{record['bytes'] / 1e6:.1f}" if "bytes" in record else "", record.get("started", ""))
    ahead = [name for name in noted.names if not (run / name / "stage.json").is_file()]
    for name in ahead:
        table.add_row(escape(name), "to do", "", "", "")
    if not found and not ahead:
        raise UsageError(f"{run}: no stages here; is it the folder given to --out?")
    Console(emoji=False).print(table)
    for folder, record in found:
        name = str(folder.relative_to(run))
        if record is not None and record.get("kind") == "encoder" and not noted.leaves_out(name):
            for line in _health(folder, record):
                print(f"{name}: {line}")


def _warn_of_schedules(rounds: list[Round], stages: list[str]) -> None:
    """Say which of the trainings among these stages would never come to a part of their schedule."""
    for round_ in rounds:
        missed = cut_short(round_.training.optimiser, round_.training.updates)
        if missed and f"round{round_.number}/encoder" in stages:
            say(f"warning: round {round_.number}: {missed}")


def _health(folder: Path, record: dict[str, Any]) -> list[str]:
    """What the log of an encoder's stage says, in lines."""
    shape = record["settings"].get("encoder", {})
    reads, histograms = _learnt_from(folder, record)
    first, usual = reads != "layer", reads not in ("layer", "")  # curves are of trainings with a teacher of features
    reference = reference_for(*(shape.get(name) for name in ("frontend", "width", "layers"))) if usual else None
    train, valid = read_metrics(folder, "train"), read_metrics(folder, "valid")
    found = examine(train, valid, reference, first, entropy_of(histograms) if histograms else None,
                    read_skipped(folder))
    return [line for line in (*map(str, found), verdict(train, valid, found)) if line]


def _learnt_from(folder: Path, record: dict[str, Any]) -> tuple[str, list[list[int]] | None]:
    """What the teacher of an encoder's units read (`layer` of another one in later rounds; empty where there was no
    teacher), and the histograms of the units, if they are still there. Those beside it may be an earlier recipe's."""
    used = record["inputs"].get("units")
    units = None if used is None else read_stage(folder.parent / "units")
    if units is None:
        return "", None
    teacher = read_stage(folder.parent / "teacher") if "teacher" in units["inputs"] else None
    result = units.get("result") or {}
    return (str(teacher["settings"].get("features", "")) if teacher is not None else "",
            result.get("histogram") if result.get("hash") == used else None)


def _place(name: str, record: dict[str, Any], order: list[str]) -> tuple[int, str, int]:
    """Where a stage stands in a list: where its run comes to it, whenever it was done last; others by their time."""
    return (order.index(name) if name in order else len(order)), record.get("started", ""), _ORDER.find(Path(name).name)


_ORDER = "corpus teacher units encoder quality"  # where two stages started in the same second
