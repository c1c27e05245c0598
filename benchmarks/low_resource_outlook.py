"""What a low-resource comparison would do now, how long that takes and how much disk it needs (`--dry-run`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.evaluation import DECODED, EMITTED, decoding_settings
from benchmarks.low_resource import Grid, check_folders, decoded, lm_stage
from benchmarks.low_resource_checks import (
    CELLS,
    LM,
    PRETRAINING,
    RECOGNISER,
    SPLITS,
    check_lm,
    check_lm_text,
    check_trainings,
    pretrain_recipe,
)
from benchmarks.low_resource_recipe import Cell, LanguageModelRecipe, LowResourceRecipe
from benchmarks.low_resource_splits import splits_stage
from downstream.finetune import recogniser_stage
from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.finetune_start import chosen_vocabulary
from downstream.finetune_trial import Shape
from downstream.lm.arpa import read_unigrams
from downstream.recognition_bytes import emissions_bytes, recogniser_bytes, texts_bytes
from downstream.recognition_outlook import Paces, Trials
from upstream.audio.manifest import Manifest
from upstream.course import Course, following
from upstream.disk import folder_bytes
from upstream.locks import watched
from upstream.outlook import Outlook, TeacherTrial, Trial, stages_seen
from upstream.outlook import outlook as pretraining_outlook
from upstream.stage import as_recorded, read_stage
from upstream.stage_bytes import JSON
from upstream.training.optimiser import cut_short

KINDS = (RECOGNISER, *EMITTED, DECODED)  # stages of a cell, in their order


@dataclass(frozen=True)
class Part:
    """What a comparison does in one piece: its splits, its language model, a round of pretraining, or a cell.

    Attributes:
        name: `round 1`, `1h: scratch`.
        stages: of it, in order, named by their folders in the comparison's.
        updates: of what it trains; None where that is nothing.
        hours: of the audio that it learns from, likewise.
        missed: which part of its schedule such a training never comes to; None where it comes to all.
    """

    name: str
    stages: list[Outlook]
    updates: int | None = None
    hours: float | None = None
    missed: str | None = None

    @property
    def ahead(self) -> list[Outlook]:
        """The stages that are not done."""
        return [stage for stage in self.stages if stage.state != "done"]

    @property
    def state(self) -> str:
        """Of the first stage that is not done; `done` where all are."""
        return next((stage.state for stage in self.ahead), "done")

    @property
    def why(self) -> str:
        """Which stage is the first that is not done, and why; empty where all are done, or nothing is begun."""
        if not self.ahead or (len(self.ahead) == len(self.stages) and not self.ahead[0].why):
            return ""
        return ": ".join(filter(None, [self.ahead[0].stage.rpartition("/")[2], self.ahead[0].why]))


@dataclass(frozen=True)
class Ways:
    """What is asked where nothing in the folder says how long something takes: of rounds of the pretraining, of their
    teachers, of cells, and of the language model of a text."""

    rounds: Trial = lambda round_: None
    teachers: TeacherTrial = lambda round_, shapes, lengths: None
    cells: Trials = field(default_factory=Trials)
    lm: Callable[[Path, LanguageModelRecipe], float | None] = lambda text, recipe: None


def outlook(recipe: LowResourceRecipe, data: Path, out: Path, ways: Ways | None = None) -> list[Part]:
    """Every part of a comparison, in the order of work. Nothing is done, and nothing written to `data` or `out`:
    manifests of the splits lie in a folder of their own, which is gone at the end.

    Raises what `low_resource.run` raises before its first cell; of a language model that is still to be made by the
    words of its text. BusyError: a process works in `out`, whose work would be tried against.
    """
    ways = ways or Ways()
    recipe.check_given()
    check_folders(data, out)
    trained = frozenset(f"{CELLS}/{recipe.folder(*training)}/{RECOGNISER}" for training in recipe.trainings)
    course = Course(out, look=True, needed=trained)
    with watched(out), TemporaryDirectory(prefix="hubertkit-") as aside:
        began = time.monotonic()
        with following(course):
            splits = splits_stage(recipe, data, out / SPLITS, _quiet, Path(aside))
        taken = time.monotonic() - began
        planned = check_trainings(recipe, data, splits, out)
        with following(course):
            lm = lm_stage(recipe.lm, data, out / LM, _quiet)
        if course.steps[-1].state == "done":
            check_lm(recipe, splits, read_unigrams(lm.path))
        else:
            check_lm_text(recipe, splits, data / recipe.lm.text)
        grid = Grid(recipe, splits, planned, lm, out)
        rounds = _rounds(grid, data, ways)
        for training in recipe.trainings:
            _look_at(grid, *training, rounds, course)
        return _parts(grid, rounds, course, ways, taken, data / recipe.lm.text)


def _quiet(line: str) -> None:
    pass


def _rounds(grid: Grid, data: Path, ways: Ways) -> list[Outlook]:
    """The stages of the pretraining, up to the last round that a cell wants."""
    last = grid.recipe.rounds_wanted
    if not last:
        return []
    found = pretraining_outlook(pretrain_recipe(grid.recipe, data, grid.splits), grid.out / PRETRAINING, ways.rounds,
                                ways.teachers, last=f"round{last}")
    return [replace(stage, stage=f"{PRETRAINING}/{stage.stage}", why=_by_place(stage)) for stage in found
            if _round_of(stage.stage) <= last]


def _by_place(stage: Outlook) -> str:
    """Why a stage of the pretraining is not done; what it depends on by its place in the comparison."""
    return stage.why.replace("on ", f"on {PRETRAINING}/", 1) if stage.state == "depends" else stage.why


def _round_of(name: str) -> int:
    """The round that a stage of a pretraining belongs to: the recordings to the first."""
    folder, _, kind = name.partition("/")
    return int(folder.removeprefix("round")) if kind else 1


def _encoder(cell: Cell) -> str:
    """The stage of the round that a cell wants."""
    return f"{PRETRAINING}/round{cell.round}/encoder"


def _look_at(grid: Grid, cell: Cell, seed: int, rounds: Sequence[Outlook], course: Course) -> None:
    """Come to the stages of a cell, as far as what they are made of is there."""
    if cell.round and not any(stage.stage == _encoder(cell) and stage.state == "done" for stage in rounds):
        return
    folder, asked = grid.folder(cell, seed), grid.finetuning(cell, seed)
    with following(course):
        decoded(grid, asked, recogniser_stage(asked, folder / RECOGNISER, _quiet)["hash"], folder, _quiet)


def _made_of(grid: Grid, cell: Cell, seed: int) -> dict[str, set[str]]:
    """The stages of a cell by their names, and what each is made of; but for the splits, which are known."""
    names = {kind: str((grid.folder(cell, seed) / kind).relative_to(grid.out)) for kind in KINDS}
    start = {_encoder(cell)} if cell.round else set()
    emitted = {names[kind] for kind in EMITTED}
    found = {RECOGNISER: start, **{kind: start | {names[RECOGNISER]} for kind in EMITTED},
             DECODED: start | {names[RECOGNISER], LM} | emitted}
    return {names[kind]: found[kind] for kind in KINDS}


def _parts(grid: Grid, rounds: Sequence[Outlook], course: Course, ways: Ways, taken: float,
           text: Path) -> list[Part]:
    """All parts: each round before the first cell that wants it, or a later one.

    Args:
        taken: seconds that it took to make the splits aside.
        text: of the language model.
    """
    recipe, out, made_of = grid.recipe, grid.out, dict[str, set[str]]({SPLITS: set(), LM: set()})
    for training in recipe.trainings:
        made_of |= _made_of(grid, *training)
    seen = {one.stage: one for one in stages_seen(course, list(made_of), made_of.__getitem__, rounds)}
    splits, lm = seen[SPLITS], seen[LM]
    if splits.state != "done":
        splits = replace(splits, seconds=taken, bytes=JSON + folder_bytes(grid.splits.folder))
    if lm.state != "done":  # of another text or order, perhaps
        known = (read_stage(out / LM) or {}).get("seconds")
        lm = replace(lm, seconds=ways.lm(text, recipe.lm) if known is None else known)
    parts = [Part("splits", [splits]), Part("language model", [lm])]
    paces = Paces(sorted((out / CELLS).glob("*")), ways.cells, EMITTED, "manifest")
    begun = 0
    for cell, seed in recipe.trainings:
        for number in range(begun + 1, cell.round + 1):
            stages = [one for one in rounds if _round_of(one.stage.removeprefix(f"{PRETRAINING}/")) == number]
            asked = grid.planned.rounds[number - 1].training
            parts.append(Part(f"round {number}", stages, asked.updates,
                              grid.splits.manifests[recipe.unlabelled].seconds / 3600,
                              cut_short(asked.optimiser, asked.updates)))
        begun = max(begun, cell.round)
        ahead = _Ahead(grid, cell, seed, paces)
        parts.append(Part(recipe.named(cell, seed), [ahead.told(seen[name]) for name in _made_of(grid, cell, seed)],
                          ahead.asked.training.updates, ahead.labelled.seconds / 3600,
                          cut_short(ahead.asked.training.optimiser, ahead.asked.training.updates)))
    return parts


@dataclass(frozen=True)
class _Ahead:
    """Times and sizes of a cell's stages."""

    grid: Grid
    cell: Cell
    seed: int
    paces: Paces

    def told(self, stage: Outlook) -> Outlook:
        """A stage with what it took and has, or will take, and will have at most at any time."""
        if stage.state == "done":
            return stage
        kind = Path(stage.stage).name
        return replace(stage, seconds=self._seconds(kind, stage), bytes=self._bytes(kind))

    @cached_property
    def asked(self) -> FinetuneRecipe:
        return self.grid.finetuning(self.cell, self.seed)

    @cached_property
    def labelled(self) -> Manifest:
        return self.grid.splits.manifests[self.grid.recipe.labelled[self.cell.labelled].split]

    @cached_property
    def _shape(self) -> Shape:
        planned = self.grid.planned
        if self.cell.encoder == SCRATCH:
            encoder = self.asked.architecture
        else:
            encoder = planned.rounds[self.cell.round - 1].encoder if self.cell.round else \
                planned.outside[self.cell.encoder]
        return Shape(encoder, self.asked.head, len(chosen_vocabulary(self.asked, self.labelled).symbols))

    @cached_property
    def _heard(self) -> dict[str, Manifest]:
        """What is decoded, by the stage of its emissions."""
        recipe = self.grid.recipe
        return {kind: self.grid.splits.manifests[split] for kind, split in zip(EMITTED, (recipe.dev, recipe.test))}

    def _seconds(self, kind: str, stage: Outlook) -> float | None:
        name = self.grid.recipe.named(self.cell, self.seed)
        if kind == RECOGNISER:
            return self.paces.training_seconds(name, stage, self.grid.out / stage.stage, self.asked, self._shape,
                                               self.labelled.lengths)
        if kind in EMITTED:
            return self.paces.emission_seconds(name, self._shape, self._heard[kind], list(self._heard.values()))
        return self._decoding_seconds()

    def _bytes(self, kind: str) -> int:
        if kind == RECOGNISER:
            return recogniser_bytes(self.asked, self._shape)
        if kind in EMITTED:
            return emissions_bytes(self._heard[kind], self._shape)
        return texts_bytes(self._heard[EMITTED[1]], self._shape)

    def _decoding_seconds(self) -> float | None:
        """What it took in another cell, by the same decoder with the same model, of the same recordings."""
        recipe = self.grid.recipe
        settings = as_recorded(decoding_settings(recipe.decoding, recipe.seed))
        inputs = {"lm": self.grid.lm.hash} | {
            f"{split} manifest": heard.hash for split, heard in zip(("dev", "test"), self._heard.values())}
        return next((record.get("seconds") for _, record in self.paces.done(DECODED)
                     if record["settings"] == settings and inputs.items() <= record["inputs"].items()), None)
