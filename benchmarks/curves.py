"""Reference curves of pretraining: loss and masked accuracy, update by update, of runs that went well.

    hubertkit bench curves hubert-tiny --out benchmarks/results/curves/hubert-tiny.json

They are round 1 of a shipped recipe in float32, on one thread, on synthesised speech, so that they can be made again
anywhere. `upstream/training/curves/` holds copies of the files, for the health panel. The first updates are there one
by one, and a test makes them again: what the warm-up's rates do not depend on, the number of updates for one, may
then be another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upstream.audio.manifest import Manifest
from upstream.errors import UsageError
from upstream.pretrain import pretrain
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe
from upstream.recipe import load_recipe
from upstream.run_stages import STAGES
from upstream.stage import read_stage
from upstream.training.monitor import read_metrics

ONE_BY_ONE = 50  # updates; of later ones the file holds the means of every `TOGETHER`
TOGETHER = 10
MANIFEST = "recordings.arrow"  # of the run
SENTENCES = 300  # that are spoken, by voices in turn: a quarter of an hour
MEASURED = ("loss", "masked_accuracy", "gradient_norm")


@dataclass(frozen=True)
class Shortened:
    """A shipped recipe, cut down to minutes of one core."""

    updates: int
    overrides: tuple[str, ...]


CURVES = {
    "hubert-tiny": Shortened(400, ("training.optimiser.warmup_updates=100", "training.validate_every=50")),
    # BASE with the warm-up of the released yaml, but for the batch: 6 s of audio in an update are what a core does in
    # seconds. The recipe's first round has a shorter warm-up and holds out less.
    "hubert-base": Shortened(200, ("training.batch_seconds=6", "training.micro_batch_seconds=6",
                                   "training.crop_seconds=3", "training.least_seconds=1",
                                   "training.validate_every=50", "training.optimiser.warmup_updates=32000",
                                   "valid_share=0.05")),
}


def record(name: str, speech: Manifest, folder: Path, updates: int = 0) -> dict[str, Any]:
    """Train and give the content of a results file.

    Args:
        name: one of `CURVES`.
        speech: the recordings; round 1's teacher is fitted on them.
        folder: of the run; the same call again goes on there.
        updates: to make, instead of the curve's own number.

    Returns:
        `rows` of `update`, `loss` (nats), `masked_accuracy` and `gradient_norm`; those after `ONE_BY_ONE` are means
        over the `TOGETHER` updates that end there. `valid` has the validations, `label_entropy` what a loss would be
        that knows how common labels are and no more (nats), and `hashes` those of the list of recordings and of the
        units.
    """
    run = train(name, speech, folder, updates or CURVES[name].updates)
    valid = read_metrics(run / "encoder", "valid")
    units = _result(run.parent / "round1/units")
    recipe = _recipe(name, folder, CURVES[name].updates)
    return {"benchmark": "curves", "curve": name, "rows": _thinned(read_metrics(run / "encoder", "train")),
            "valid": [{k: v for k, v in r.items() if k != "kind"} for r in valid],
            "label_entropy": valid[-1]["label_entropy"], "classes": units["classes"],
            "shape": {"frontend": recipe.encoder.frontend, "width": recipe.encoder.width,
                      "layers": recipe.encoder.layers},
            "batch_seconds": recipe.training.batch_seconds, "overrides": list(CURVES[name].overrides),
            "source": speech.source.rsplit("/", 1)[-1], "minutes": round(speech.seconds / 60, 1),
            "hashes": {"recordings": speech.listing_hash, "units": units["hash"]}}


def train(name: str, speech: Manifest, folder: Path, updates: int, *more: str) -> Path:
    """Round 1 of the recipe, so many updates of it; gives the round's folder.

    Args:
        more: `key=value` words that come last.

    Raises:
        UsageError: the folder of no run holds another `recordings.arrow`.
    """
    manifest = folder / MANIFEST
    if manifest.is_file() and not (folder / STAGES).is_file() and Manifest.load(manifest).hash != speech.hash:
        raise UsageError(f"{manifest}: another list of recordings is there already; give the run a folder of its own, "
                         "or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    speech.save(manifest)
    pretrain(_recipe(name, manifest, updates, *more), folder, until_round=1)
    return folder / "round1"


def _recipe(name: str, data: Path, updates: int, *more: str) -> PretrainRecipe:
    words = [f"data={data}", "training.precision=float32", f"rounds.0.training.updates={updates}",
             "training.log_every=1", "rounds.0.teacher.sample_frames=50000", *CURVES[name].overrides, *more]
    return load_recipe(PretrainRecipe, name, words, SHIPPED)


def _thinned(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One by one at first, then means."""
    rows = [{"update": r["update"], **{k: r[k] for k in MEASURED}} for r in records]
    kept, rest = rows[:ONE_BY_ONE], rows[ONE_BY_ONE:]
    for first in range(0, len(rest) - TOGETHER + 1, TOGETHER):
        part = rest[first:first + TOGETHER]
        kept.append({"update": part[-1]["update"], **{k: sum(r[k] for r in part) / TOGETHER for k in MEASURED}})
    return kept


def _result(folder: Path) -> dict[str, Any]:
    found = read_stage(folder)
    assert found is not None, f"{folder} was just made"
    return found["result"]
