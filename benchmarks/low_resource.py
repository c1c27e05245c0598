"""Low-resource comparison: encoders of one pretraining or from elsewhere, several amounts of labels, several seeds.

    hubertkit bench low-resource RECIPE --data FOLDER --out DIR

A grid of cells, the most telling first, and all of them with one seed before the next; every step is a stage, so a run
that was killed goes on, and `results.json` is written after every cell.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evaluation import DECODED, EMITTED, LanguageModel, decode_stage, emissions_stage
from benchmarks.low_resource_checks import (
    CELLS,
    LM,
    PRETRAINING,
    RECOGNISER,
    SPLITS,
    Planned,
    check_lm,
    check_trainings,
    finetuning,
    pretrain_recipe,
)
from benchmarks.low_resource_recipe import Cell, LanguageModelRecipe, LowResourceRecipe
from benchmarks.low_resource_scratch import told_shape
from benchmarks.low_resource_splits import Splits, splits_stage
from benchmarks.over_seeds import Tally
from benchmarks.results import refuse_other_results, write_results
from downstream.finetune import recogniser_stage
from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.lm.arpa import read_unigrams, write_arpa
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from upstream import ranks
from upstream.device import chosen_device
from upstream.disk import file_hash, path_given, read_json
from upstream.errors import InputError, UsageError
from upstream.locks import locked
from upstream.pretrain import RoundResult, pretrain
from upstream.progress import progress, say
from upstream.recipe import as_settings
from upstream.run_stages import refuse_other_stages
from upstream.stage import Say, read_stage, run_stage

BENCHMARK = "low-resource"


def run(recipe: LowResourceRecipe, data: Path, out: Path, command: str, say: Say = say) -> dict[str, Any]:
    """Run the grid into `out` and give the content of `out/results.json`.

    Args:
        data: folder with the recipe's corpus, splits and language-model text.
        command: how it was called, for the results.

    Raises:
        RecipeError: no cells.
        UsageError: something that the recipe names is not in `data`, or results of another benchmark are in `out`.
        BusyError: another process works in `out`.
    """
    data, out = path_given(data, "data"), path_given(out, "out")
    recipe.check_given()
    check_folders(data, out)
    with locked(out):
        splits = splits_stage(recipe, data, out / SPLITS, say)
        planned = check_trainings(recipe, data, splits, out)
        lm = lm_stage(recipe.lm, data, out / LM, say)
        check_lm(recipe, splits, read_unigrams(lm.path))
        _tell_scratch(recipe, planned, say)
        grid = Grid(recipe, splits, planned, lm, out)
        tally = Tally(out / CELLS, splits.manifests[recipe.test], recipe.seed, recipe.decoding.resamples,
                      recipe.decoding.counted, recipe.decoding.rates)
        rows: list[dict[str, Any]] = []
        rounds: list[RoundResult] = []
        for number, (cell, seed) in enumerate(recipe.trainings, 1):
            say(f"cell {number} of {len(recipe.trainings)}: {recipe.named(cell, seed)}")
            if cell.round > len(rounds):
                rounds = pretrain(pretrain_recipe(recipe, data, splits), out / PRETRAINING, say, cell.round)
            rows += _cell(grid, cell, seed, say)
            results = ranks.alone(lambda: _report(grid, tally, rows, rounds, number, command))  # noqa: B023
    return results


@dataclass(frozen=True)
class Grid:
    """What all cells of a comparison have in common."""

    recipe: LowResourceRecipe
    splits: Splits
    planned: Planned
    lm: LanguageModel
    out: Path

    def source(self, cell: Cell) -> str:
        """What a cell's encoder is read from, or `scratch`."""
        if cell.encoder in self.recipe.encoders:
            return self.recipe.encoders[cell.encoder].encoder
        return str(self.out / PRETRAINING / f"round{cell.round}" / "encoder") if cell.round else SCRATCH

    def finetuning(self, cell: Cell, seed: int) -> FinetuneRecipe:
        """What a cell trains."""
        return finetuning(self.recipe, self.splits, cell, seed, self.source(cell), self.planned)

    def folder(self, cell: Cell, seed: int) -> Path:
        """Of a cell's stages."""
        return self.out / CELLS / self.recipe.folder(cell, seed)


def check_folders(data: Path, out: Path) -> None:
    """Raise UsageError where there is no data, and as `check_out`."""
    if not data.is_dir():
        raise UsageError(f"{data}: no such folder of data (--data)")
    check_out(out)


def check_out(out: Path) -> None:
    """Raise UsageError where a comparison would write over what somebody else left in a folder."""
    for name in ("results.json", "results.partial.json"):
        refuse_other_results(out / name, BENCHMARK)
    refuse_other_stages(out / "pretrain")


def _report(grid: Grid, tally: Tally, rows: list[dict[str, Any]], rounds: list[RoundResult], done: int,
            command: str) -> dict[str, Any]:
    """Write what the first `done` fine-tunings gave: beside a whole result, if there is one of another recipe, until
    all have given theirs. Gives nothing where a whole result of this one is there and stays."""
    settings, whole = as_settings(grid.recipe), done == len(grid.recipe.trainings)
    path, partial = grid.out / "results.json", grid.out / "results.partial.json"
    target = path
    if not whole and _is_whole(path):
        if read_json(path).get("recipe") == json.loads(json.dumps(settings)):
            return {}
        target = partial  # of a recipe that has changed: what is whole stays until this is
    results = {"benchmark": BENCHMARK, "command": command, "recipe": settings, "seconds": _seconds(grid, rows, rounds),
               "unit": grid.recipe.decoding.counted, "rates": list(grid.recipe.decoding.rates),
               "rows": rows, "test": _set_row(grid, grid.recipe.test) | _heard_before(grid),
               "dev": _set_row(grid, grid.recipe.dev), "rounds": [_round_row(r) for r in rounds],
               "encoders": _encoder_rows(grid),
               "summaries": tally.summaries(rows), "comparisons": tally.comparisons(rows, _against(grid.recipe))}
    write_results(target, results)
    if whole:
        partial.unlink(missing_ok=True)
    return results


def _seconds(grid: Grid, rows: list[dict[str, Any]], rounds: list[RoundResult]) -> float:
    """That the stages took which these rows come from: an earlier recipe may have left others in the folder."""
    pretraining = [grid.out / PRETRAINING / "corpus", *(r.encoder.parent for r in rounds)] if rounds else []
    cells = [grid.out / CELLS / name for name in dict.fromkeys(row["cell"] for row in rows)]
    return round(sum(map(stage_seconds, [grid.out / SPLITS, grid.out / LM, *pretraining, *cells])), 1)


def stage_seconds(folder: Path) -> float:
    """Seconds that the finished stages below a folder took: the same when a run is only looked at again."""
    records = [read_stage(path.parent) for path in folder.rglob("stage.json")]
    return round(sum(r["seconds"] for r in records if r is not None and r["state"] == "done"), 1)


def _is_whole(path: Path) -> bool:
    """Whether a result with all fine-tunings of its own recipe is there already."""
    if not path.is_file():
        return False
    found = read_json(path)
    recipe = found.get("recipe", {})
    wanted = len(recipe.get("cells", [])) * max(1, len(recipe.get("seeds", [])))
    return len({row.get("cell") for row in found.get("rows", [])}) >= wanted > 0


def _against(recipe: LowResourceRecipe) -> list[str]:
    """The encoders that others are compared with: scratch, where a cell has it, and the recipe's own choice."""
    chosen = [SCRATCH] * any(cell.encoder == SCRATCH for cell in recipe.parsed_cells)
    return list(dict.fromkeys([*chosen, *filter(None, [recipe.baseline])]))


def _tell_scratch(recipe: LowResourceRecipe, planned: Planned, say: Say) -> None:
    """Say which shape scratch has where that is a choice: beside encoders from elsewhere alone."""
    if planned.outside and not planned.rounds:
        for cell in recipe.parsed_cells:
            if cell.encoder == SCRATCH:
                say(told_shape(recipe, cell.labelled, planned.outside))


def _cell(grid: Grid, cell: Cell, seed: int, say: Say) -> list[dict[str, Any]]:
    recipe, folder, asked = grid.recipe, grid.folder(cell, seed), grid.finetuning(cell, seed)
    trained = recogniser_stage(asked, folder / RECOGNISER, say)
    ranks.alone(lambda: _refuse_changed(grid, cell, folder / RECOGNISER))
    rows = decoded(grid, asked, trained["hash"], folder, say)
    place = {"encoder": cell.encoder, "labelled": cell.labelled, "cell": folder.name, "seed": seed,
             "finetune_updates": asked.training.updates, "recogniser": trained["hash"],
             "seconds": stage_seconds(folder)}
    if trained["left_out"]:  # fewer frames, fewer utterances: the encoders then learn from different data
        place["left_out"] = trained["left_out"]
    for row in rows:
        rates = ", ".join(f"{rate.upper()} {row[rate]:.1f}" for rate in recipe.decoding.rates)
        say(f"  {folder.name}, {row['decoder']}: {rates}")
    return [place | row for row in rows]


def _refuse_changed(grid: Grid, cell: Cell, recogniser: Path) -> None:
    """Raise InputError where an encoder from elsewhere is another by now than before the first cell: one mean would be
    over recognisers of both."""
    file, record = grid.planned.files.get(cell.encoder), read_stage(recogniser)
    if file is not None and record is not None and record["inputs"]["encoder"] != file.hash:
        raise InputError(f"encoders.{cell.encoder}: {file.source} has changed since the comparison began; once it "
                         "stays as it is, give the same command again: what was trained on other weights is done anew")


def decoded(grid: Grid, asked: FinetuneRecipe, recogniser_hash: str, folder: Path, say: Say) -> list[dict[str, Any]]:
    """The rows of a fine-tuning; none if this only looks."""
    recipe, device = grid.recipe, chosen_device(asked.device)
    dev, test = (emissions_stage(folder / RECOGNISER, recogniser_hash, grid.splits.manifests[split], folder / part,
                                 device, say) for split, part in zip((recipe.dev, recipe.test), EMITTED))
    return decode_stage(dev, test, grid.lm, recipe.decoding, recipe.seed, folder / DECODED, say)


def lm_stage(recipe: LanguageModelRecipe, data: Path, folder: Path, say: Say) -> LanguageModel:
    """The n-gram model, in a stage of its own. Raises UsageError: its text is not there."""
    text = data / recipe.text
    if not text.is_file():
        raise UsageError(f"{text}: no such file; the recipe's lm.text names the language model's text below the folder "
                         "of data (--data)")

    def work(target: Path) -> dict[str, Any]:
        with progress("language model", recipe.order) as report:
            model = estimate([text], recipe.order, lm_options(recipe), report)
        write_arpa(model, target / "lm.arpa")
        return {"hash": file_hash(target / "lm.arpa"), "ngrams": [len(order) for order in model.orders]}

    inputs = {"text": file_hash(text)}
    result = run_stage(folder, "language model", version=1, settings=as_settings(recipe), inputs=inputs, work=work,
                       say=say)
    return LanguageModel(folder / "lm.arpa", result["hash"], f"{recipe.order}gram")


def lm_options(recipe: LanguageModelRecipe) -> Options:
    """How the n-gram model is estimated."""
    return Options(prune=recipe.prune, fallback=FALLBACK if recipe.discount_fallback else None)


def _round_row(result: RoundResult) -> dict[str, Any]:
    units = {k: v for k, v in result.units_result.items() if k != "histogram"}
    return {"round": int(result.encoder.parent.name.removeprefix("round")), "teacher": result.teacher_result,
            "units": units, "encoder": result.encoder_result}


def _set_row(grid: Grid, split: str) -> dict[str, Any]:
    """A set that was decoded: which it is, and how much. Speakers are None where some are unknown."""
    manifest = grid.splits.manifests[split]
    speakers = set(manifest.speakers)
    return {"manifest": manifest.hash, "utterances": len(manifest), "seconds": round(manifest.seconds, 1),
            "speakers": None if None in speakers else len(speakers)}


def _heard_before(grid: Grid) -> dict[str, Any]:
    """How many speakers of the test set are in what is trained on as well; nothing where none is."""
    recipe, manifests = grid.recipe, grid.splits.manifests
    names = {recipe.labelled[cell.labelled].split for cell in recipe.parsed_cells}
    names |= {recipe.unlabelled} if recipe.rounds_wanted else set()
    trained_on = {speaker for name in names for speaker in manifests[name].speakers}
    known = set(manifests[recipe.test].speakers) & trained_on - {None}
    return {"speakers_trained_on": len(known)} if known else {}


def _encoder_rows(grid: Grid) -> list[dict[str, Any]]:
    """The encoders from elsewhere: what they were read from, and what they are."""
    return [{"name": name, "encoder": file.source, "hash": file.hash, "frontend": shape.frontend,
             "stride_ms": shape.stride_ms, "layers": shape.layers, "width": shape.width}
            for (name, file), shape in zip(grid.planned.files.items(), grid.planned.outside.values())]
