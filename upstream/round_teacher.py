"""The teacher of a round: what its recipe asks for, made from the recordings and the encoders that it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from upstream import ranks
from upstream.audio.caching import AudioCache, CacheRecipe
from upstream.audio.manifest import Manifest
from upstream.disk import file_hash
from upstream.errors import HubertkitError, InputError, UsageError
from upstream.features.centred import with_cmn
from upstream.features.mix import MixSource
from upstream.features.source import LayerSource, Source
from upstream.frames import SAMPLE_RATE
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder
from upstream.places import evenly
from upstream.pretrain_recipe import ProbeRecipe, Round, TeacherRecipe, dimensions_read
from upstream.progress import Report
from upstream.recipe import as_settings
from upstream.teacher.alignments import alignments_hash, find_alignments
from upstream.teacher.importing import import_centroids
from upstream.teacher.matching import named_source
from upstream.teacher.sampling import heard_little
from upstream.teacher.sweep import sweep
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units

BEST = "best"


def make_teacher(recipe: TeacherRecipe, encoders: Sequence[Encoder], manifest: Manifest, train: np.ndarray,
                 probe: ProbeRecipe, *, audio: AudioCache, cache: CacheRecipe, seed: int, device: torch.device,
                 progress: Report, keep: Path | None = None) -> Teacher:
    """Fit, draw or import a teacher.

    Args:
        encoders: those that it reads layers of.
        train: indices of the recordings to fit on.
        audio: what reads them.
        cache: how much is kept of what else is heard, for `layer: best`.
        probe: alignments for `layer: best`, which goes by the stability of labels in noise where there are none.
        keep: as for `Teacher.fit`.

    Raises:
        InputError: too few frames, or centroids or a teacher of other features, e.g. of another encoder.
    """
    layer = recipe.layer
    if recipe.features == "layer" and layer == BEST:
        layer = ranks.alone(lambda: _best_layer(recipe, encoders[0], manifest, train, probe, cache, seed, device,
                                                progress))
    source = teacher_source(recipe, encoders, layer, device)
    if recipe.imported is not None:
        return _imported(Path(recipe.imported), source)
    return Teacher.fit(source, manifest, recipe.numbers if len(recipe.numbers) > 1 else recipe.numbers[0], seed=seed,
                       sample_frames=recipe.sample_frames, sample_within=recipe.sample_within, indices=train,
                       iterations=recipe.iterations, restarts=recipe.restarts, read=audio.wave, progress=progress,
                       kind=None if recipe.kind == "auto" else recipe.kind, pca=recipe.pca, whiten=recipe.whiten,
                       keep=keep)


def say_little(round_: Round, manifest: Manifest, train: np.ndarray, seed: int, say: Callable[[str], None]) -> None:
    """Say in a line where the sample of a round's teacher hears little of its recordings (`heard_little`)."""
    recipe = round_.teacher
    if recipe.imported is not None or recipe.kind == "random":
        return
    little = heard_little(manifest, train, recipe.sample_frames, seed, recipe.sample_within)
    if little is not None:
        say(f"  warning: the teacher's sample hears {little}; raise rounds.{round_.number - 1}.teacher.sample_frames "
            "or sample_within (0 draws from all)")


def teacher_key(recipe: TeacherRecipe, probe: ProbeRecipe) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and inputs that a teacher depends on besides the recordings and the encoder.

    Options that came later are left out at their defaults: a teacher that was made before there were any is not stale.
    """
    settings, plain = as_settings(recipe), as_settings(TeacherRecipe())
    settings = {k: v for k, v in settings.items() if k not in _LATER or v != plain[k]}
    inputs: dict[str, str] = {}
    for name in ("rounds", "encoder"):  # where encoders lie: what they are is among the inputs
        settings.pop(name, None)
    if recipe.features != "layer":
        del settings["layer"]
    elif recipe.layer == BEST:  # what the sweep hears decides
        if probe.alignments is not None:
            place = Path(probe.alignments)
            inputs["alignments"] = ranks.alone(lambda: alignments_hash(find_alignments(place)))
            if probe.manifest is not None:
                inputs["aligned"] = Manifest.load(Path(probe.manifest)).hash
        if probe.seconds != ProbeRecipe().seconds:
            settings["probe_seconds"] = probe.seconds
    if recipe.imported is not None:
        path = Path(recipe.imported)
        inputs["imported"] = Teacher.load(path).hash if path.is_dir() else file_hash(path)
        settings = {k: settings[k] for k in ("features", "layer", "cmn", "probe_seconds") if k in settings}
    return settings, inputs


_LATER = ("kind", "pca", "whiten", "stacked", "cmn", "imported", "rounds", "encoder", "units", "sample_within")


def teacher_source(recipe: TeacherRecipe, encoders: Sequence[Encoder], layer: Any, device: torch.device) -> Source:
    """The frames that a teacher reads: those named, of one layer, or several side by side."""
    return with_cmn(_plain_source(recipe, encoders, layer, device), recipe.cmn)


def _plain_source(recipe: TeacherRecipe, encoders: Sequence[Encoder], layer: Any, device: torch.device) -> Source:
    if recipe.features != "layer":
        return named_source(recipe.features, recipe.stacked)
    if len(encoders) == 1 and isinstance(layer, int):
        return LayerSource(encoders[0], layer, device)
    layers = [layer] if isinstance(layer, int) else list(layer)
    return MixSource([LayerSource(encoder, layers, device) for encoder in encoders])


def check_given(rounds: list[Round], outside: Mapping[str, EncoderConfig]) -> None:
    """Raises UsageError or InputError naming the first round whose teacher or units, made elsewhere, are not there, are
    something else, or are of other features: as far as that can be known before the encoders of the rounds are there.

    Args:
        rounds: all of them.
        outside: what the encoders from elsewhere are.
    """
    for round_ in rounds:
        for name, check in (("imported", _check_imported), ("units", _check_units)):
            path = getattr(round_.teacher, name)
            if path is None:
                continue
            key = f"rounds.{round_.number - 1}.teacher.{name}"
            if not Path(path).exists():
                raise UsageError(f"{key}={path}: no such file or folder")
            with blamed_on(key):
                check(Path(path), round_, rounds, outside)


@contextmanager
def blamed_on(key: str) -> Iterator[None]:
    """Put the key of a recipe before what is said against the file that it names."""
    try:
        yield
    except HubertkitError as error:
        raise type(error)(f"{key}: {error}") from error


def _check_units(path: Path, *_: Any) -> None:
    Units.load(path)


def _check_imported(path: Path, round_: Round, rounds: list[Round], outside: Mapping[str, EncoderConfig]) -> None:
    recipe = round_.teacher
    if recipe.features != "layer":
        _imported(path, with_cmn(named_source(recipe.features, recipe.stacked), recipe.cmn))
        return
    dim = dimensions_read(round_, rounds, outside)
    found = Teacher.load(path).features if path.is_dir() else import_centroids(path, {"dim": dim}).features
    if found.get("dim") != dim:
        raise InputError(f"{path}: a teacher of {found.get('name')} with {found.get('dim')} dimensions, the features "
                         f"have {dim}; name the encoder and layer that it was fitted on")
    if path.is_dir() and bool(found.get("cmn")) != recipe.cmn:
        raise InputError(f"{path}: a teacher of frames {'less' if found.get('cmn') else 'with'} the means of their "
                         f"utterances; give the round teacher.cmn={str(bool(found.get('cmn'))).lower()}")


def _imported(path: Path, source: Source) -> Teacher:
    """Centroids in a file; or a teacher's folder, which says what it was fitted on: that must be what is read here."""
    if not path.is_dir():
        return import_centroids(path, source.describe())
    teacher = Teacher.load(path)
    try:
        teacher.check(source)
    except InputError as error:
        raise InputError(f"imported={path}: {error}") from error
    return teacher


def _best_layer(recipe: TeacherRecipe, encoder: Encoder, manifest: Manifest, train: np.ndarray, probe: ProbeRecipe,
                cache: CacheRecipe, seed: int, device: torch.device, progress: Report) -> int:
    """The layer that a sweep picks."""
    heard = heard_by_sweep(manifest, train, probe)
    alignments = None if probe.alignments is None else find_alignments(Path(probe.alignments))
    found = sweep(encoder, heard, [max(recipe.numbers)], seed=seed, alignments=alignments,
                  read=cache.open(heard).wave, layers=list(range(1, encoder.config.layers + 1)), device=device,
                  measure_abx=False, cmn=recipe.cmn, progress=progress)
    return found.layer


def heard_by_sweep(manifest: Manifest, train: np.ndarray, probe: ProbeRecipe) -> Manifest:
    """What is heard to pick the best layer: of the aligned recordings if there are any, else of those of the training.

    Raises InputError where none of the alignments is of an utterance.
    """
    if probe.alignments is None:
        return _lasting(manifest.select([int(i) for i in train]), probe.seconds)
    alignments = find_alignments(Path(probe.alignments))
    heard = manifest if probe.manifest is None else Manifest.load(Path(probe.manifest))
    heard = heard.only([name for name in heard.ids if name in alignments])  # of which the sweep hears a part
    if not len(heard):
        raise InputError(f"{probe.alignments}: none of its {len(alignments)} alignments is of an utterance of the "
                         "manifest; files are named for the utterances")
    return _lasting(heard, probe.seconds)


def _lasting(manifest: Manifest, seconds: float) -> Manifest:
    """Evenly spread utterances, in their order, that last so long together; the last that is taken may end beyond."""
    order = evenly(len(manifest))
    lengths = manifest.lengths[order]
    taken = order[np.cumsum(lengths) - lengths < seconds * SAMPLE_RATE]
    return manifest.select([int(i) for i in np.sort(taken)])
