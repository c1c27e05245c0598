"""The stages of a pretraining run: their names; and the list of its stages that any run leaves in its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upstream import ranks
from upstream.course import WISH, looking
from upstream.disk import read_json, write_json
from upstream.errors import FormatError, UsageError
from upstream.pretrain_recipe import PretrainRecipe, Round
from upstream.stage import read_stage

STAGES = "stages.json"
PRETRAINING = "pretraining"
KINDS = ("corpus", "teacher", "units", "encoder", "quality")  # of a pretraining's stages
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
        reads: of stages, the ones that their inputs come from, by the inputs' names.
        kinds: of the stages that such a run may have.
    """

    names: list[str]
    reads: dict[str, dict[str, str]]
    kinds: tuple[str, ...] = KINDS

    def leaves_out(self, name: str) -> bool:
        """Whether a stage in the run's folder was made for an earlier recipe, and is no part of the run now."""
        folder, _, kind = name.rpartition("/")
        place = folder == "" if kind == KINDS[0] else re.fullmatch(r"round\d+", folder) is not None
        return bool(self.names) and name not in self.names and kind in self.kinds and place


def note_stages(out: Path, names: list[str], reads: Mapping[str, Sequence[str] | Mapping[str, str]],
                run: str = PRETRAINING, kinds: Sequence[str] = KINDS) -> None:
    """Leave the stages of a run in its folder, for whoever asks how far it is; nothing if it only looks.

    Args:
        reads: of stages, the ones that their inputs come from, by the inputs' names; of a pretraining only those whose
            encoders a teacher reads, in their order (`stages_read`).
        run: what the run is called.
        kinds: of the stages that such a run may have.
    """
    if ranks.first() and not looking():
        which = {} if run == PRETRAINING else {"run": run, "kinds": list(kinds)}
        write_json(out / STAGES, {"format": 1, **which, "stages": names, "reads": reads})


def refuse_other_stages(out: Path, run: str = PRETRAINING) -> None:
    """Raise UsageError where a folder that a run is to work in holds a `stages.json` or an `anew.json` that no run
    wrote: it writes both, and removes the second. Likewise where a run of another kind has its stages there."""
    for name, key, kind in ((STAGES, "stages", list), (WISH, "wish", str)):
        try:
            found = read_json(out / name) if (out / name).is_file() else {"format": 1, key: kind()}
        except FormatError:
            found = None
        if not isinstance(found, dict) or found.get("format") != 1 or not isinstance(found.get(key), kind):
            raise UsageError(f"{out / name}: is there already and no run of ours wrote it, so it is left as it is; "
                             "give another folder to write to, or move it away")
        if key == "stages" and found[key] and found.get("run", PRETRAINING) != run:
            raise UsageError(f"{out}: holds the stages of a {found.get('run', PRETRAINING)}; give this {run} a folder "
                             "of its own (--out)")


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
                           {str(name): _by_input(read) for name, read in found.get("reads", {}).items()},
                           tuple(map(str, found.get("kinds", KINDS))))
    except (AttributeError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: no stages of a run; remove it, the next command that goes on with the run writes "
                          "it again") from error


def _by_input(read: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Of a stage, by its inputs' names, the stages that these come from: of a teacher, only those stand there."""
    if isinstance(read, Mapping):
        return {str(name): str(source) for name, source in read.items()}
    return {name: str(source) for name, source in zip(encoder_inputs(len(read)), read)}


def why_stale(run: Path, folder: Path, reads: Mapping[str, Mapping[str, str]]) -> str:
    """Which input of a stage has changed since it was used, or is stale itself, in words; empty where none has.

    What a stage took from another into its settings, as weights that were tuned, counts as an input.

    Args:
        run: folder of the run.
        folder: of the stage.
        reads: of stages, the ones that their inputs come from (`NotedStages.reads`).
    """
    record = read_stage(folder)
    if record is None:
        return ""
    named = reads.get(str(folder.relative_to(run)), {})
    sources = {"manifest": run / "corpus", "teacher": folder.parent / "teacher", "units": folder.parent / "units",
               **{name: run / source for name, source in named.items()}}
    used = {name: source for name, source in sources.items() if source != folder and (
        name in record["inputs"] or (name in named and isinstance(record["settings"].get(name), dict)))}
    for name, source in used.items():
        result = (read_stage(source) or {}).get("result") or {}
        if result and not _is_of(record, name, result):
            return f"other {name}"
    return next((f"old {name}" for name, source in used.items() if why_stale(run, source, reads)), "")


def _is_of(record: Mapping[str, Any], name: str, result: Mapping[str, Any]) -> bool:
    """Whether a stage has had an input from a stage with this result: its part of that name, or its hash."""
    if name in record["inputs"]:
        return result.get(name, result.get("hash")) in (None, record["inputs"][name])
    taken = record["settings"][name]
    return all(taken[key] == result[key] for key in taken.keys() & result.keys())
