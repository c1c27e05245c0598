"""The splits of a low-resource comparison: lists of utterances below its data folder, as manifests of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.low_resource_recipe import LowResourceRecipe
from upstream.audio.corpora.librispeech import import_librispeech
from upstream.audio.manifest import Manifest
from upstream.disk import content_hash, disk_errors
from upstream.errors import InputError, UsageError
from upstream.stage import Say, run_stage


@dataclass(frozen=True)
class Splits:
    """Manifests of a comparison, by the name of their split, and the files that hold them."""

    manifests: dict[str, Manifest]
    folder: Path

    def file(self, split: str) -> Path:
        return self.folder / f"{split}.arrow"


def splits_stage(recipe: LowResourceRecipe, data: Path, folder: Path, say: Say, aside: Path | None = None) -> Splits:
    """Manifests of the recipe's splits, in a stage of their own.

    Args:
        aside: of a look, which writes nothing into the stage's folder: where it has the manifests instead.

    Raises:
        UsageError, InputError: a split or an utterance is not there, or utterances are in two that must be apart.
    """
    pretraining = [recipe.unlabelled, recipe.aligned] if recipe.rounds_wanted else []
    names = sorted({recipe.dev, recipe.test, *(a.split for a in recipe.labelled.values()), *filter(None, pretraining)})
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
    if aside is not None:
        with disk_errors(aside):
            work(aside)
        folder = aside
    return Splits({name: Manifest.load(folder / f"{name}.arrow") for name in names}, folder)


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
    learned = {a.split for a in recipe.labelled.values()} | ({recipe.unlabelled} if recipe.rounds_wanted else set())
    for held, others in ((recipe.test, learned | {recipe.dev}), (recipe.dev, learned)):
        for other in others:
            both = set(ids[held]) & set(ids[other])
            if both:
                raise InputError(f"split {held} shares {len(both)} utterances with {other}, {min(both)} among them; "
                                 "a score on utterances that were trained on says nothing")
