"""The stages of a pretraining run: their names, and the list of them that a run leaves in its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from upstream import ranks
from upstream.course import current
from upstream.disk import read_json, write_json
from upstream.errors import FormatError
from upstream.pretrain_recipe import PretrainRecipe, Round
from upstream.stage import read_stage

STAGES = "stages.json"
_MADE_OF = {"units": "teacher", "encoder": "units", "quality": "units"}  # of the same round, where it has that


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


def stages_read(rounds: list[Round]) -> dict[str, list[str]]:
    """The stages of a run whose encoders a teacher reads: {"round2/teacher": ["round1/encoder"]}."""
    return {f"round{r.number}/teacher": [f"round{n}/encoder" for n in rounds_read(r)] for r in rounds if rounds_read(r)}


def stages_before(name: str, names: Sequence[str], reads: Mapping[str, Sequence[str]]) -> set[str]:
    """The stages that one is made of, and those that these are made of; nothing is made of a quality.

    Args:
        names: those of the run (`stage_names`).
        reads: of teachers, the stages whose encoders they read (`stages_read`).
    """
    folder, _, kind = name.partition("/")
    near = {"corpus", f"{folder}/{_MADE_OF.get(kind)}", *reads.get(name, ())}.intersection(names) - {name}
    return near.union(*(stages_before(other, names, reads) for other in near))


def rounds_read(round_: Round) -> tuple[int, ...]:
    """The numbers of the rounds whose encoders the teacher of a round reads; none where it reads others, or none."""
    teacher = round_.teacher
    if not round_.has_teacher or teacher.features != "layer" or teacher.encoder is not None:
        return ()
    if round_.init is not None and round_.number == 1:  # it reads that one
        return ()
    return tuple(teacher.rounds) or (round_.number - 1,)


def encoder_inputs(count: int) -> list[str]:
    """What the encoders that a teacher reads are called among its stage's inputs."""
    return ["encoder"] if count == 1 else [f"encoder{i}" for i in range(count)]


@dataclass(frozen=True)
class NotedStages:
    """What a run says of its stages.

    Attributes:
        names: in their order.
        reads: of teachers, the stages whose encoders they read.
    """

    names: list[str]
    reads: dict[str, list[str]]

    def leaves_out(self, name: str) -> bool:
        """Whether a stage in the run's folder was made for an earlier recipe, and is no part of the run now."""
        return bool(self.names) and name not in self.names and _STAGE.fullmatch(name) is not None


_STAGE = re.compile(r"corpus|round\d+/(teacher|units|encoder|quality)")  # what a pretraining may have


def note_stages(out: Path, names: list[str], reads: dict[str, list[str]]) -> None:
    """Leave the stages of a run in its folder, for whoever asks how far it is; nothing if it only looks."""
    course = current()
    if ranks.first() and not (course and course.look):
        write_json(out / STAGES, {"format": 1, "stages": names, "reads": reads})


def noted_stages(out: Path) -> NotedStages:
    """The stages that a run in a folder will have; none where no run began.

    Raises:
        FormatError: the file that names them cannot be read.
    """
    path = out / STAGES
    if not path.is_file():
        return NotedStages([], {})
    found = read_json(path)
    try:
        return NotedStages([str(name) for name in found["stages"]],
                           {str(name): list(map(str, read)) for name, read in found.get("reads", {}).items()})
    except (AttributeError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: no stages of a run; remove it, the next `hubertkit pretrain` writes it "
                          "again") from error


def why_stale(run: Path, folder: Path, reads: Mapping[str, Sequence[str]]) -> str:
    """Which input of a stage has changed since it was used, or is stale itself, in words; empty where none has.

    Args:
        run: folder of the run.
        folder: of the stage.
        reads: of teachers, the stages whose encoders they read (`NotedStages.reads`).
    """
    record = read_stage(folder)
    if record is None:
        return ""
    encoders = list(reads.get(str(folder.relative_to(run)), ()))
    sources = {"manifest": run / "corpus", "teacher": folder.parent / "teacher", "units": folder.parent / "units",
               **{name: run / source for name, source in zip(encoder_inputs(len(encoders)), encoders)}}
    used = {name: source for name, source in sources.items() if name in record["inputs"] and source != folder}
    for name, source in used.items():
        result = (read_stage(source) or {}).get("result") or {}
        if result.get("hash") not in (None, record["inputs"][name]):
            return f"other {name}"
    return next((f"old {name}" for name, source in used.items() if why_stale(run, source, reads)), "")
