"""The stages of a pretraining run: their names, and the list of them that a run leaves in its folder."""

from __future__ import annotations

from pathlib import Path

from upstream import ranks
from upstream.course import current
from upstream.errors import FormatError
from upstream.pretrain_recipe import PretrainRecipe, Round
from upstream.stage import read_json, write_json

STAGES = "stages.json"


def stage_names(recipe: PretrainRecipe, rounds: list[Round]) -> list[str]:
    """The stages of a run in the order in which they are done, named by their folders."""
    names = ["corpus"]
    judged = recipe.probe.alignments is not None and recipe.probe.manifest is None
    for round_ in rounds:
        kinds = ["teacher", "units", "encoder", *["quality"] * judged] if round_.has_teacher else ["encoder"]
        if round_.has_units_already:
            kinds.remove("teacher")
        names += [f"round{round_.number}/{kind}" for kind in kinds]
    return names


def note_stages(out: Path, names: list[str]) -> None:
    """Leave the names of a run's stages in its folder, for whoever asks how far it is; nothing if it only looks."""
    course = current()
    if ranks.first() and not (course and course.look):
        write_json(out / STAGES, {"format": 1, "stages": names})


def noted_stages(out: Path) -> list[str]:
    """The stages that a run in a folder will have, in their order; none where no run began.

    Raises:
        FormatError: the file that names them cannot be read.
    """
    path = out / STAGES
    if not path.is_file():
        return []
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("stages"), list):
        raise FormatError(f"{path}: not a list of stages; remove it, the next `hubertkit pretrain` writes it again")
    return [str(name) for name in found["stages"]]
