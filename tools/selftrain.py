"""`hubertkit selftrain`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from downstream.recognition_outlook import Trials
from downstream.selftrain import selftrain as run_rounds
from downstream.selftrain_outlook import outlook
from downstream.selftrain_recipe import SHIPPED, SelftrainRecipe
from downstream.selftrain_stages import stage_names
from downstream.selftrain_start import check_selftrain
from tools.dry_run import show, tried_emissions, tried_training
from tools.launch import AUTO, RanksOption, check_ranks, launched
from tools.outputs import check_folder
from upstream.course import Course, following
from upstream.device import chosen_device
from upstream.progress import say
from upstream.recipe import load_recipe


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(selftrain)


def selftrain(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships (selftrain-light) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. labelled=10min.arrow "
                                                               "unlabelled=train.arrow dev=dev.arrow encoder=DIR "
                                                               "decoding.lm=lm.arpa")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again goes on there.")] = ...,  # type: ignore[assignment]
    ranks: RanksOption = AUTO,
    first: Annotated[str | None, typer.Option("--from", help="Do this stage (round1/data) and those after it "
                                                             "anew.")] = None,
    last: Annotated[str | None, typer.Option("--until", help="Stop after this stage (round0/tuned), or round.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and why, how long it would "
                                                            "take and how much disk it would need.")] = False,
) -> None:
    """Train on what a recogniser hears in recordings without transcripts, beside those with: pseudo-labelling."""
    loaded = load_recipe(SelftrainRecipe, recipe, overrides or [], SHIPPED)
    check_folder(out, [Path(given) for given in (loaded.labelled, loaded.unlabelled, loaded.dev) if given])
    told: list[str] = []  # said when nothing is wrong with the words either
    sets = check_selftrain(loaded, out, told.append)  # before ranks are started
    device = chosen_device(loaded.finetune.device)  # or say that there is none before ranks are started
    course = Course(out, first, last)
    course.check(stage_names(loaded, sets))
    micro_batches = [part.training.accumulate for part in (loaded.finetune, loaded.studying("", ""))]
    if dry_run:
        check_ranks(ranks, micro_batches, loaded.finetune.device)
        _say_all(told)
        trials = Trials(partial(tried_training, device=device), partial(tried_emissions, device=device))
        show(outlook(loaded, out, trials, course.first, course.last, sets), course.last)
        return
    results: dict[str, Any] = {"rounds": []}
    with launched(ranks, micro_batches, loaded.finetune.device), following(course):
        _say_all(told)
        results = run_rounds(loaded, out, sets=sets)
    if not results["rounds"]:
        say(f"stopped after {course.last}, as asked; the same command without --until goes on")
    for row in results["rounds"]:
        dev = row["dev"]
        found = (f"{how} " + " ".join(f"{name}={dev[how][name]:g}" for name in loaded.rates)
                 for how in ("greedy", "decoded"))
        print(f"round {row['round']}: {row['folder']} dev {', '.join(found)}")


def _say_all(lines: list[str]) -> None:
    for line in lines:
        say(line)
