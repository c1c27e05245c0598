"""Low-resource comparison: one pretraining, several amounts of labels, scratch beside every round.

    hubertkit bench low-resource RECIPE --data FOLDER --out DIR

A grid of cells, the most telling first; every step is a stage, so a run that was killed goes on, and `results.json`
is written after every cell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.evaluation import LanguageModel, decode_stage, emissions_stage, references
from benchmarks.low_resource_recipe import LanguageModelRecipe, LowResourceRecipe, parse_cell, scratch_encoder
from benchmarks.results import refuse_other_results, write_results
from downstream.decode.hypothesis import read_hypotheses
from downstream.finetune import finetune
from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.finetune_start import check_start
from downstream.lm.arpa import write_arpa
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from downstream.score.compare import compare
from upstream import ranks
from upstream.audio.corpora.librispeech import import_librispeech
from upstream.audio.manifest import Manifest
from upstream.device import chosen_device
from upstream.disk import content_hash, file_hash, read_json
from upstream.errors import InputError, UsageError
from upstream.locks import locked
from upstream.pretrain import RoundResult, check_sources, hold_out, pretrain
from upstream.pretrain_recipe import Round, outside_encoders, rounds_of
from upstream.progress import progress, say
from upstream.recipe import as_settings, refine
from upstream.round_data import check_data
from upstream.round_encoders import read_outside, refuse_own
from upstream.round_teacher import blamed_on
from upstream.run_stages import refuse_other_stages
from upstream.stage import read_stage, run_stage
from upstream.training.monitor import check_wandb

Say = Callable[[str], None]
BENCHMARK = "low-resource"
PAIRED = ("wer", "cer")
PRETRAINING = "pretrain"  # the folder of that run, in the comparison's


@dataclass(frozen=True)
class Splits:
    """Manifests of a comparison, by the name of their split, and the files that hold them."""

    manifests: dict[str, Manifest]
    folder: Path

    def file(self, split: str) -> Path:
        return self.folder / f"{split}.arrow"


def run(recipe: LowResourceRecipe, data: Path, out: Path, command: str, say: Say = say) -> dict[str, Any]:
    """Run the grid into `out` and give the content of `out/results.json`.

    Args:
        data: folder with the recipe's corpus, splits and language-model text.
        command: how it was called, for the results.

    Raises:
        UsageError: something that the recipe names is not in `data`, or results of another benchmark are in `out`.
        BusyError: another process works in `out`.
    """
    if not data.is_dir():
        raise UsageError(f"--data {data}: no such folder")
    check_out(out)
    with locked(out):
        splits = _splits_stage(recipe, data, out / "splits", say)
        planned = _check_trainings(recipe, data, splits, out)
        lm = _lm_stage(recipe.lm, data, out / "lm", say)
        rows: list[dict[str, Any]] = []
        rounds: list[RoundResult] = []
        for number, cell in enumerate(recipe.cells, 1):
            labelled, round_number = parse_cell(cell, recipe)
            say(f"cell {number} of {len(recipe.cells)}: {cell}")
            if round_number > len(rounds):
                rounds = pretrain(_pretrain_recipe(recipe, data, splits), out / PRETRAINING, say, round_number)
            encoder = str(rounds[round_number - 1].encoder) if round_number else SCRATCH
            rows += _cell(recipe, _finetuning(recipe, splits, labelled, encoder, planned), splits, lm, labelled,
                          round_number, out / "cells", say)
            results = ranks.alone(lambda: _report(recipe, splits, rows, rounds, number, out, command))  # noqa: B023
    return results


def check_out(out: Path) -> None:
    """Raise UsageError where a comparison would write over what somebody else left in a folder."""
    for name in ("results.json", "results.partial.json"):
        refuse_other_results(out / name, BENCHMARK)
    refuse_other_stages(out / "pretrain")


def _report(recipe: LowResourceRecipe, splits: Splits, rows: list[dict[str, Any]], rounds: list[RoundResult],
            cells: int, out: Path, command: str) -> dict[str, Any]:
    """Write what the first `cells` cells gave: beside a whole result, if there is one of another recipe, until all
    have given theirs."""
    results = {"benchmark": BENCHMARK, "command": command, "recipe": as_settings(recipe),
               "seconds": stage_seconds(out), "rows": rows, "rounds": [_round_row(r) for r in rounds],
               "comparisons": compare_cells(rows, out / "cells", splits.manifests[recipe.test], recipe.seed)}
    path, partial = out / "results.json", out / "results.partial.json"
    if cells == len(recipe.cells):
        write_results(path, results)
        partial.unlink(missing_ok=True)
    elif not _is_whole(path):
        write_results(path, results)
    elif read_json(path).get("recipe") != json.loads(json.dumps(as_settings(recipe))):
        write_results(partial, results)  # of a recipe that has changed: what is whole stays until this is
    return results


def stage_seconds(folder: Path) -> float:
    """Seconds that the finished stages below a folder took: the same when a run is only looked at again."""
    records = [read_stage(path.parent) for path in folder.rglob("stage.json")]
    return round(sum(r["seconds"] for r in records if r is not None and r["state"] == "done"), 1)


def _is_whole(path: Path) -> bool:
    """Whether a result with all cells of its own recipe is there already."""
    if not path.is_file():
        return False
    found = read_json(path)
    return len({row.get("cell") for row in found.get("rows", [])}) >= len(found.get("recipe", {}).get("cells", [])) > 0


def cell_name(labelled: str, round_number: int) -> str:
    """`1h`, 2 as `1h-round2`: the folder of a cell."""
    return f"{labelled}-{SCRATCH if round_number == 0 else f'round{round_number}'}"


def compare_cells(rows: list[dict[str, Any]], cells: Path, test: Manifest, seed: int) -> list[dict[str, Any]]:
    """Pretrained cells against scratch with the same labels and decoder, on the same utterances; also by speaker."""
    found, truth = [], references(test)
    for row in rows:
        scratch = [r for r in rows if r["encoder"] == SCRATCH
                   and (r["labelled"], r["decoder"]) == (row["labelled"], row["decoder"])]
        if row["encoder"] == SCRATCH or not scratch:
            continue
        file = "greedy.jsonl" if row["decoder"] == "greedy" else "beam.jsonl"
        paths = [cells / r["cell"] / "decoded" / file for r in (row, scratch[0])]
        texts = [{h.id: h.text for h in read_hypotheses(path)} for path in paths]
        for rate in PAIRED:
            found.append({"labelled": row["labelled"], "decoder": row["decoder"], "encoder": row["encoder"],
                          "against": SCRATCH, "rate": rate,
                          **compare(truth, texts[0], texts[1], rate, seed, test.speakers)})
    return found


def _cell(recipe: LowResourceRecipe, finetuning: FinetuneRecipe, splits: Splits, lm: LanguageModel, labelled: str,
          round_number: int, cells: Path, say: Say) -> list[dict[str, Any]]:
    name = cell_name(labelled, round_number)
    folder = cells / name
    trained = finetune(finetuning, folder / "recogniser", say)
    recogniser = folder / "recogniser"
    dev, test = splits.manifests[recipe.dev], splits.manifests[recipe.test]
    emitted = [emissions_stage(recogniser, trained["hash"], m, folder / part, chosen_device(finetuning.device), say)
               for m, part in ((dev, "emissions-dev"), (test, "emissions-test"))]
    rows = decode_stage(emitted[0], emitted[1], dev, test, lm, recipe.decoding, recipe.seed, folder / "decoded", say)
    place = {"encoder": SCRATCH if round_number == 0 else f"round {round_number}", "labelled": labelled, "cell": name,
             "finetune_updates": finetuning.training.updates, "recogniser": trained["hash"],
             "seconds": stage_seconds(folder)}
    for row in rows:
        say(f"  {name}, {row['decoder']}: WER {row['wer']:.1f}, CER {row['cer']:.1f}")
    return [place | row for row in rows]


def _finetuning(recipe: LowResourceRecipe, splits: Splits, labelled: str, encoder: str,
                rounds: Sequence[Round]) -> FinetuneRecipe:
    """What a cell trains."""
    shape = scratch_encoder(recipe, labelled, rounds) if encoder == SCRATCH else recipe.pretrain.encoder
    return replace(recipe.finetuning(labelled), data=str(splits.file(recipe.labelled[labelled].split)),
                   dev=str(splits.file(recipe.dev)), encoder=encoder, architecture=shape, seed=recipe.seed)


def _splits_stage(recipe: LowResourceRecipe, data: Path, folder: Path, say: Say) -> Splits:
    names = sorted({recipe.unlabelled, recipe.dev, recipe.test, *(a.split for a in recipe.labelled.values()),
                    *([recipe.aligned] if recipe.aligned else [])})
    ids = {name: _read_ids(data / recipe.splits / f"{name}.txt") for name in names}
    _check_apart(recipe, ids)

    source = data / recipe.corpus
    wanted = sorted({i for split in ids.values() for i in split})
    whole = import_librispeech(source, wanted) if source.is_dir() else Manifest.load(source)

    def work(target: Path) -> dict[str, Any]:
        for name in names:
            whole.only(ids[name]).save(target / f"{name}.arrow")
        hours = {n: Manifest.load(target / f"{n}.arrow").seconds / 3600 for n in names}
        return {"hash": content_hash(ids), "hours": hours}

    run_stage(folder, "splits", version=1, settings={}, work=work, say=say,
              inputs={"corpus": whole.hash} | {name: content_hash(ids[name]) for name in names})
    return Splits({name: Manifest.load(folder / f"{name}.arrow") for name in names}, folder)


def _lm_stage(recipe: LanguageModelRecipe, data: Path, folder: Path, say: Say) -> LanguageModel:
    text = data / recipe.text
    if not text.is_file():
        raise UsageError(f"{text}: no such file; the recipe's lm.text names the language model's text below --data")

    def work(target: Path) -> dict[str, Any]:
        options = Options(prune=recipe.prune, fallback=FALLBACK if recipe.discount_fallback else None)
        with progress("language model", recipe.order) as report:
            model = estimate([text], recipe.order, options, report)
        write_arpa(model, target / "lm.arpa")
        return {"hash": file_hash(target / "lm.arpa"), "ngrams": [len(order) for order in model.orders]}

    inputs = {"text": file_hash(text)}
    result = run_stage(folder, "language model", version=1, settings=as_settings(recipe), inputs=inputs, work=work,
                       say=say)
    return LanguageModel(folder / "lm.arpa", result["hash"], f"{recipe.order}gram")


def _check_trainings(recipe: LowResourceRecipe, data: Path, splits: Splits, out: Path) -> list[Round]:
    """What a later cell would find wrong with its trainings is said before the first: scratch may take hours. Gives the
    rounds of the pretraining, none where no cell has one."""
    pretraining, rounds = _pretrain_recipe(recipe, data, splits), list[Round]()
    if any(parse_cell(cell, recipe)[1] for cell in recipe.cells):
        refuse_own(pretraining, out / PRETRAINING)
        _, outside = read_outside(outside_encoders(pretraining))
        rounds = rounds_of(pretraining, outside)
        check_sources(pretraining, rounds, outside)
    check_finetunings(recipe, rounds)
    for cell in recipe.cells:
        labelled, number = parse_cell(cell, recipe)
        with blamed_on(f"cell {cell!r}"):
            check_start(_finetuning(recipe, splits, labelled, f"round {number}" if number else SCRATCH, rounds), data)
    recordings, wanted = splits.manifests[recipe.unlabelled], max(parse_cell(cell, recipe)[1] for cell in recipe.cells)
    train, _ = hold_out(recordings, pretraining.valid_share, pretraining.seed)
    check_data(rounds[:wanted], pretraining.probe, recordings, train)
    return rounds


def check_finetunings(recipe: LowResourceRecipe, rounds: Sequence[Round]) -> None:
    """Raise RecipeError or UsageError naming the first cell whose fine-tuning asks for what its encoder cannot have.

    Args:
        rounds: of the pretraining; none are needed where all cells start from scratch.
    """
    for cell in recipe.cells:
        labelled, number = parse_cell(cell, recipe)
        finetuning = recipe.finetuning(labelled)
        check_wandb(finetuning.training.wandb)
        with blamed_on(f"cell {cell!r}"):
            shape = rounds[number - 1].encoder if number else scratch_encoder(recipe, labelled, rounds)
            refine(shape, finetuning.changes, "finetune.changes")
            if number and finetuning.fresh_layers > shape.layers:
                raise UsageError(f"finetune.fresh_layers={finetuning.fresh_layers}: the encoder has {shape.layers} "
                                 "layers; give at most as many")


def _pretrain_recipe(recipe: LowResourceRecipe, data: Path, splits: Splits) -> Any:
    probe = recipe.pretrain.probe
    if recipe.alignments is not None:
        alignments = data / recipe.alignments
        if not alignments.is_dir():
            raise UsageError(f"{alignments}: no such folder; the recipe's alignments lie below --data")
        manifest = str(splits.file(recipe.aligned)) if recipe.aligned else None
        probe = replace(probe, manifest=manifest, alignments=str(alignments))
    elif probe.alignments is None:
        probe = replace(probe, layers=())  # those that the file names are for its alignments
    return replace(recipe.pretrain, data=str(splits.file(recipe.unlabelled)), probe=probe, seed=recipe.seed)


def _round_row(result: RoundResult) -> dict[str, Any]:
    units = {k: v for k, v in result.units_result.items() if k != "histogram"}
    return {"round": int(result.encoder.parent.name.removeprefix("round")), "teacher": result.teacher_result,
            "units": units, "encoder": result.encoder_result}


def _read_ids(path: Path) -> list[str]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; a split is a text file of utterance ids, one a line")
    try:
        ids = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text of UTF-8; a split is a text file of utterance ids, one a line") from error
    if not ids:
        raise InputError(f"{path}: an empty split")
    return ids


def _check_apart(recipe: LowResourceRecipe, ids: dict[str, list[str]]) -> None:
    """Test utterances must be nowhere else, and dev not in training."""
    learned = {recipe.unlabelled, *(a.split for a in recipe.labelled.values())}
    for held, others in ((recipe.test, learned | {recipe.dev}), (recipe.dev, learned)):
        for other in others:
            both = set(ids[held]) & set(ids[other])
            if both:
                raise InputError(f"split {held} shares {len(both)} utterances with {other}, {min(both)} among them; "
                                 "a score on utterances that were trained on says nothing")
