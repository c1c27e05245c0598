"""Pretraining by rounds, as in the paper (Hsu et al. 2021, section II): each round clusters frames into units, and
trains an encoder to predict the units of masked frames; the next round clusters that encoder's layer.

    corpus          the manifest, and which speakers are held out
    round1/teacher  k-means of MFCCs
    round1/units    the label of every frame, checked against the audio
    round1/encoder  masked prediction
    round2/teacher  k-means of a layer of round 1's encoder
    ...

A teacher may read other encoders than that of the round before, and a round may start from one (`round_encoders`).
Where a round's units were made elsewhere (`teacher.units`), there is no teacher, and round1/units holds those.
A round whose objective is wav2vec 2.0's has no teacher and no units: round1/encoder is all there is.
Every line is a stage in a folder of its own; running the same command again goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from upstream import ranks
from upstream.audio.caching import AudioCache
from upstream.audio.corpora.folder import import_folder
from upstream.audio.manifest import Manifest
from upstream.audio.mixing import Mixing
from upstream.contrastive_task import ContrastiveTask
from upstream.course import current, looking
from upstream.device import chosen_device
from upstream.disk import content_hash, path_given, write_json
from upstream.errors import RecipeError, UsageError
from upstream.keyed import keyed
from upstream.locks import locked, watched
from upstream.model.config import EncoderConfig
from upstream.model.contrastive import ContrastivePrediction
from upstream.model.encoder import Encoder
from upstream.model.global_norm import measure_global_norm
from upstream.model.masked_prediction import MaskedPrediction
from upstream.model.saving import encoder_hash, save_encoder
from upstream.pretrain_crops import CropReader
from upstream.pretrain_recipe import PretrainRecipe, Round, outside_encoders, rounds_of, weights_of
from upstream.pretrain_task import PretrainTask
from upstream.probe import LayerProbe, build_probe
from upstream.progress import progress, say
from upstream.recipe import as_settings, check_recipe
from upstream.round_data import check_data
from upstream.round_encoders import EncoderFile, read_outside, refuse_own, start_from
from upstream.round_teacher import blamed_on, check_given, make_teacher, say_little, teacher_key, teacher_source
from upstream.run_stages import encoder_inputs, note_stages, refuse_other_stages, rounds_read, stage_names, stages_read
from upstream.stage import run_stage
from upstream.teacher.alignments import alignments_hash, find_alignments
from upstream.teacher.gate import check_coverage, check_units
from upstream.teacher.kept_sample import forget_sample
from upstream.teacher.quality import quality_of_streams
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units, select
from upstream.training.batch_size import fitted
from upstream.training.health import entropy_of, examine
from upstream.training.loop import Examine, train, weights_settings
from upstream.training.monitor import check_wandb
from upstream.training.reference import beside_the_paper, reference_for

Model = TypeVar("Model", MaskedPrediction, ContrastivePrediction)


@dataclass(frozen=True)
class Corpus:
    """The recordings of a run; `train` and `valid` are indices into the manifest."""

    manifest: Manifest
    train: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class RoundResult:
    """What a round leaves: the folders of its units (None where it has no teacher) and of its encoder, and the results
    of its stages."""

    units: Path | None
    encoder: Path
    teacher_result: dict[str, Any]
    units_result: dict[str, Any]
    encoder_result: dict[str, Any]


def pretrain(recipe: PretrainRecipe, out: Path, say: Callable[[str], None] = say,
             until_round: int | None = None) -> list[RoundResult]:
    """Run all rounds (or those up to `until_round`) into `out`; what is done is skipped, the interrupted resumed.

    Raises:
        BusyError: another process works in `out`.
        UsageError: no recipe, or no such round; the recipe asks for a GPU, and there is none, or for what the run makes
            itself, as from elsewhere; a file of somebody else in `out` has a name of ours.
        RecipeError, InputError: the recipe or the recordings cannot be used; said before training where possible.
    """
    check_recipe(recipe, PretrainRecipe)
    if until_round is not None and (not isinstance(until_round, int) or until_round < 1):
        raise UsageError(f"until_round={until_round!r}: must be at least 1; rounds are counted from 1")
    out = path_given(out, "out")
    refuse_other_stages(out)
    refuse_own(recipe, out)
    outside, configs = read_outside(outside_encoders(recipe))
    rounds = rounds_of(recipe, configs)
    check_sources(recipe, rounds, configs)
    device = chosen_device(recipe.device)
    course = current()
    with (watched if course and course.look else locked)(out):
        note_stages(out, stage_names(recipe, rounds[:until_round]), stages_read(rounds[:until_round]))
        corpus = corpus_stage(recipe, out / "corpus", say)
        trained = _to_be_trained(recipe, rounds[:until_round])
        ranks.alone(lambda: check_data(trained, recipe.probe, corpus.manifest, corpus.train))
        results: list[RoundResult] = []
        for round_ in rounds[:until_round]:
            folder = out / f"round{round_.number}"
            results.append(_round(recipe, round_, corpus, folder, _encoders(round_, results, outside), device, say))
    return results


def _to_be_trained(recipe: PretrainRecipe, rounds: list[Round]) -> list[Round]:
    """The rounds that this run comes to train: none where it only looks, who is told what is to be done."""
    course, names = current(), stage_names(recipe, rounds)
    if looking():
        return []
    ahead = names[:names.index(course.last) + 1] if course and course.last in names else names
    return [round_ for round_ in rounds if f"round{round_.number}/encoder" in ahead]


def check_sources(recipe: PretrainRecipe, rounds: list[Round], outside: Mapping[str, EncoderConfig]) -> None:
    """Raises UsageError or InputError where something that a recipe names is not there, or is something else:
    recordings, noise, teachers and units made elsewhere, alignments, a package; to be asked before hours of work that
    need them at their end. Raises RecipeError where something is asked of a probe that has no alignments.

    Args:
        outside: what the encoders from elsewhere are.
    """
    data_source(recipe)
    heard: set[Path | None] = {None}
    for round_ in rounds:
        check_wandb(round_.training.wandb)
        source = _noise_source(round_.mixing)
        if source not in heard:
            with blamed_on("mixing.noise"):
                _noise_manifest(round_.mixing)
            heard.add(source)
    check_given(rounds, outside)
    if recipe.probe.alignments is not None:
        find_alignments(Path(recipe.probe.alignments))
        if recipe.probe.manifest is not None:
            Manifest.load(Path(recipe.probe.manifest))
    elif recipe.probe.manifest is not None or recipe.probe.layers:
        name = "layers" if recipe.probe.manifest is None else "manifest"
        raise RecipeError(f"probe.{name}: nothing is probed without probe.alignments=DIR, the phones to compare with; "
                          "give it as well, or leave the probe out")


def data_source(recipe: PretrainRecipe) -> Path:
    """The manifest or folder of audio that a recipe names. Raises UsageError where there is none."""
    if not recipe.data:
        raise UsageError("nothing to hear: give data=FOLDER_OF_AUDIO or data=MANIFEST")
    source = Path(recipe.data)
    if not source.exists():
        raise UsageError(f"data={source}: no such manifest or folder of audio")
    return source


def corpus_stage(recipe: PretrainRecipe, folder: Path, say: Callable[[str], None]) -> Corpus:
    """The manifest (made from a folder of audio if need be) and the split into training and held-out speakers."""
    source = data_source(recipe)
    manifest = _recordings(source)

    def work(folder: Path) -> dict[str, Any]:
        manifest.save(folder / "manifest.arrow")
        train, valid = hold_out(manifest, recipe.valid_share, recipe.seed)
        write_json(folder / "split.json", {"valid": manifest.select(valid).ids})
        return {"hash": manifest.hash, "utterances": len(manifest), "hours": manifest.seconds / 3600,
                "valid": [int(i) for i in valid], "train_utterances": len(train)}

    result = run_stage(folder, "corpus", version=1, settings={"valid_share": recipe.valid_share, "seed": recipe.seed},
                       inputs={"manifest": manifest.hash}, work=work, say=say)
    valid = np.array(result["valid"], np.int64)
    if recipe.valid_share and not len(valid):
        say("warning: a single recording, of which nothing is held out: there is no validation")
    return Corpus(manifest, np.setdiff1d(np.arange(len(manifest)), valid), valid)


def _recordings(source: Path) -> Manifest:
    """A manifest, or that of a folder, whose files one rank opens for all."""
    return ranks.alone(lambda: import_folder(source, None)) if source.is_dir() else Manifest.load(source)


def hold_out(manifest: Manifest, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and of held-out utterances: whole speakers, until about `share` of the audio is held out.

    An utterance of an unknown speaker is a group of its own. A group that would take the held-out part beyond one and a
    half times the share is passed over; where that leaves none, as with few speakers, utterances are held out instead.
    """
    count = len(manifest)
    if share == 0 or count < 2:
        return np.arange(count), np.empty(0, np.int64)
    lengths, ids = np.asarray(manifest.lengths), list(manifest.ids)
    by_speaker = [f"speaker {s}" if s is not None else f"utterance {i}" for s, i in zip(manifest.speakers, ids)]
    for groups, most in ((by_speaker, 1.5 * share), (ids, 1.5 * share), (ids, 1.0)):
        held = _draw_groups(groups, lengths, share, most, seed)
        if held.any():
            break
    return np.flatnonzero(~held), np.flatnonzero(held)


def _draw_groups(groups: list[str], lengths: np.ndarray, share: float, most: float, seed: int) -> np.ndarray:
    """(N,) bool: groups drawn until they hold `share` of the audio; never more than `most` of it, and never all."""
    encoded = pc.dictionary_encode(pa.array(groups, pa.large_string()))
    ordered = pc.array_sort_indices(encoded.dictionary).to_numpy()
    number_of = np.empty(len(ordered), np.int64)  # in the order of their names
    number_of[ordered] = np.arange(len(ordered))
    group = number_of[encoded.indices.to_numpy()]
    sizes = np.bincount(group, lengths)
    whole, taken, held = float(sizes.sum()), 0.0, 0
    chosen = np.zeros(len(ordered), bool)
    for number in keyed(seed, "hold out").permutation(len(ordered)):
        if taken >= share * whole:
            break
        if taken + sizes[number] <= most * whole and held + 1 < len(ordered):
            chosen[number] = True
            held += 1
            taken += float(sizes[number])
    return chosen[group]


@dataclass(frozen=True)
class _Encoders:
    """Encoders that a round needs: what its weights start from, and what its teacher reads."""

    init: EncoderFile | None
    read: list[EncoderFile]


def _encoders(round_: Round, results: list[RoundResult], outside: dict[str, EncoderFile]) -> _Encoders:
    init, teacher = None if round_.init is None else outside[round_.init], round_.teacher
    if not round_.has_teacher or teacher.features != "layer":
        return _Encoders(init, [])
    read = [results[n - 1] for n in rounds_read(round_)]
    if not read:
        return _Encoders(init, [outside[teacher.encoder or str(round_.init)]])
    return _Encoders(init, [EncoderFile(str(r.encoder), r.encoder_result["hash"]) for r in read])


def _round(recipe: PretrainRecipe, round_: Round, corpus: Corpus, folder: Path, encoders: _Encoders,
           device: torch.device, say: Callable[[str], None]) -> RoundResult:
    if not round_.has_teacher:
        encoder = _encoder_stage(recipe, round_, corpus, folder, None, encoders.init, device, say)
        return RoundResult(None, folder / "encoder", {}, {}, encoder)
    if round_.teacher.units is not None:
        teacher: dict[str, Any] = {}
        units = _given_units_stage(recipe, Path(round_.teacher.units), corpus, folder, say)
    else:
        teacher = _teacher_stage(recipe, round_, corpus, folder / "teacher", encoders.read, device, say)
        units = _units_stage(recipe, round_, corpus, folder, encoders.read, teacher["hash"], device, say)
    encoder = _encoder_stage(recipe, round_, corpus, folder, units["hash"], encoders.init, device, say)
    quality = _quality_stage(recipe, corpus, folder, units, say)
    return RoundResult(folder / "units", folder / "encoder", teacher, units | quality, encoder)


def _teacher_stage(recipe: PretrainRecipe, round_: Round, corpus: Corpus, folder: Path, read: list[EncoderFile],
                   device: torch.device, say: Callable[[str], None]) -> dict[str, Any]:
    settings, files = teacher_key(round_.teacher, recipe.probe)

    def work(folder: Path) -> dict[str, Any]:
        say_little(round_, corpus.manifest, corpus.train, recipe.seed, say)
        with progress(f"round {round_.number}: teacher", 1) as report:
            teacher = make_teacher(round_.teacher, [e.load(device) for e in read], corpus.manifest, corpus.train,
                                   recipe.probe, audio=recipe.cache.open(corpus.manifest), cache=recipe.cache,
                                   seed=recipe.seed, device=device, progress=report, keep=folder)
        if ranks.first():
            teacher.save(folder)
            forget_sample(folder)
        return {"hash": teacher.hash, "inertia": teacher.inertia, "layer": teacher.features.get("layer")}

    inputs = {"manifest": corpus.manifest.hash, "train": content_hash(corpus.train.tolist())}
    names = encoder_inputs(len(read))
    inputs |= files | {name: encoder.hash for name, encoder in zip(names, read)}
    inputs |= {f"{name}_shape": encoder.shape for name, encoder in zip(names, read) if encoder.shape is not None}
    return run_stage(folder, "teacher", version=3, settings=settings | {"seed": recipe.seed}, inputs=inputs, work=work,
                     say=say, together=True)


def _units_stage(recipe: PretrainRecipe, round_: Round, corpus: Corpus, folder: Path, read: list[EncoderFile],
                 teacher_hash: str, device: torch.device, say: Callable[[str], None]) -> dict[str, Any]:
    def work(target: Path) -> dict[str, Any]:
        teacher = Teacher.load(folder / "teacher")
        layer = teacher.features.get("layer") if round_.teacher.layer == "best" else round_.teacher.layer
        with progress(f"round {round_.number}: units", len(corpus.manifest)) as report:
            source = teacher_source(round_.teacher, [e.load(device) for e in read], layer, device)
            units = teacher.label(source, corpus.manifest, target, read=recipe.cache.open(corpus.manifest).wave,
                                  progress=report)
        histograms = ranks.alone(
            lambda: check_units(units, corpus.manifest, rules=recipe.gate, teacher_hash=teacher_hash))
        return {"hash": units.hash, "classes": list(units.classes), "histogram": [h.tolist() for h in histograms]}

    return run_stage(folder / "units", "units", version=1, settings={}, work=work, say=say, together=True,
                     inputs={"manifest": corpus.manifest.hash, "teacher": teacher_hash})


def _given_units_stage(recipe: PretrainRecipe, source: Path, corpus: Corpus, folder: Path,
                       say: Callable[[str], None]) -> dict[str, Any]:
    """Units that were made elsewhere, those of the manifest's utterances, behind the same gate as our own."""
    given = Units.load(source)

    def work(target: Path) -> dict[str, Any]:
        check_coverage(given, corpus.manifest)
        units = select(given, corpus.manifest.ids, target)
        histograms = check_units(units, corpus.manifest, rules=recipe.gate)
        return {"hash": units.hash, "classes": list(units.classes), "histogram": [h.tolist() for h in histograms]}

    return run_stage(folder / "units", "units", version=1, settings={}, work=work, say=say,
                     inputs={"manifest": corpus.manifest.hash, "given": given.hash})


def _quality_stage(recipe: PretrainRecipe, corpus: Corpus, folder: Path, units: dict[str, Any],
                   say: Callable[[str], None]) -> dict[str, Any]:
    """Phone purity, cluster purity and PNMI of the units, where the training data itself is aligned: of several streams
    those of each as `streams`, and of the first."""
    if recipe.probe.alignments is None or recipe.probe.manifest is not None:
        return {}
    alignments, streams = find_alignments(Path(recipe.probe.alignments)), len(units.get("classes", [0]))

    def work(target: Path) -> dict[str, Any]:
        figures = [{"phone_purity": found.phone_purity, "cluster_purity": found.cluster_purity, "pnmi": found.pnmi}
                   for found in quality_of_streams(Units.load(folder / "units"), alignments, corpus.manifest)]
        return {**figures[0], **({"streams": figures} if streams > 1 else {})}

    inputs = {"units": units["hash"], "alignments": ranks.alone(lambda: alignments_hash(alignments))}
    found = run_stage(folder / "quality", "quality", version=2, settings={}, inputs=inputs, work=work, say=say)
    for number, part in enumerate(found.get("streams", [found] * ("pnmi" in found)), 1):  # none if this only looks
        which = f"stream {number} of {streams}: " if streams > 1 else ""
        say(f"  {which}phone purity {part['phone_purity']:.3f}, cluster purity {part['cluster_purity']:.3f}, "
            f"PNMI {part['pnmi']:.3f}")
    return found


def _encoder_stage(recipe: PretrainRecipe, round_: Round, corpus: Corpus, folder: Path, units_hash: str | None,
                   init: EncoderFile | None, device: torch.device, say: Callable[[str], None]) -> dict[str, Any]:
    settings = {"seed": recipe.seed, "training": weights_settings(round_.training), **weights_of(round_)}
    noise_manifest = _noise_manifest(round_.mixing)
    given = {"units": units_hash, "init": None if init is None else init.hash,
             "noise": None if noise_manifest is None else noise_manifest.hash}
    inputs = {"manifest": corpus.manifest.hash, "train": content_hash(corpus.train.tolist()),
              **{name: digest for name, digest in given.items() if digest is not None}}

    def work(target: Path) -> dict[str, Any]:
        noise = None if noise_manifest is None else recipe.cache.open(noise_manifest)
        units = Units.load(folder / "units") if units_hash is not None else None
        histograms = [] if units is None else ranks.alone(
            lambda: check_units(units, corpus.manifest, rules=recipe.gate))
        training = fitted(round_.training, target, lambda tried: _task(
            recipe, replace(round_, training=tried), corpus, units, noise, init, device), device)
        task = _task(recipe, replace(round_, training=training), corpus, units, noise, init, device)
        audio = beside_the_paper(round_.training.batch_seconds, round_.objective.kind)
        say(f"round {round_.number}: {audio}")
        if init is not None:
            say(f"round {round_.number}: the encoder of {init.source} goes on learning, under new heads; those that it "
                "may have are left behind")
        final = train(task, training, target, seed=recipe.seed, device=device,
                      what=f"round {round_.number}: encoder", examine=_examination(round_, histograms))
        if ranks.first():
            if units is not None and not round_.has_units_already:  # what its labels mean travels with the encoder
                Teacher.load(folder / "teacher").save(target / "teacher")
            extra = {"round": round_.number, "units": units_hash, "objective": as_settings(round_.objective),
                     "training": as_settings(training), **_unit_statistics(units, histograms)}
            save_encoder(task.model.encoder, target, extra=extra, head=head_state(task.model))
        chosen = {} if training is round_.training else {"micro_batch_seconds": training.micro_batch_seconds}
        return {"hash": encoder_hash(task.model.encoder) if ranks.first() else "", **chosen, **final}

    return run_stage(folder / "encoder", "encoder", version=1, settings=settings, inputs=inputs, work=work, say=say,
                     together=True)


def _unit_statistics(units: Units | None, histograms: list[np.ndarray]) -> dict[str, Any]:
    """How often each label came: it travels with the encoder."""
    if units is None:
        return {}
    return {"unit_statistics": {"classes": list(units.classes), "rate": units.rate,
                                "histogram": [h.tolist() for h in histograms]}}


def _examination(round_: Round, histograms: list[np.ndarray]) -> Examine:
    """What is told whether the training looks healthy; reference curves are of first rounds with a teacher."""
    shape, early = round_.encoder, not round_.has_teacher or round_.teacher.features != "layer"
    usual = early and round_.has_teacher and not round_.has_units_already
    reference = reference_for(shape.frontend, shape.width, shape.layers) if usual else None
    entropy = entropy_of([h.tolist() for h in histograms]) if histograms else None
    return partial(examine, reference=reference, first_round=early, label_entropy=entropy)


def _task(recipe: PretrainRecipe, round_: Round, corpus: Corpus, units: Units | None, noise: AudioCache | None,
          init: EncoderFile | None, device: torch.device) -> PretrainTask | ContrastiveTask:
    """What a round trains. Every round starts from scratch, as in the paper, unless it has an `init`: then the encoder
    has that one's weights, and only what belongs to the objective is fresh."""
    audio = recipe.cache.open(corpus.manifest)

    def ready(model: Model) -> Model:
        model.initialise(recipe.seed)
        measure_global_norm(model.encoder, audio.wave, corpus.train, recipe.seed)
        start_from(model.encoder, init)
        return model.to(device)

    crops = CropReader(corpus.manifest, corpus.train, corpus.valid, round_.encoder, round_.training, round_.mask,
                       recipe.seed, round_.mixing, noise, audio, round_.speeds)
    shared: dict[str, Any] = {"device": device, "precision": round_.training.precision,
                              "probe": _probe(recipe, round_, corpus.manifest)}
    if units is not None:
        return PretrainTask(ready(masked_prediction(round_, units.classes)), crops, units, **shared)
    special = round_.objective.contrastive
    return ContrastiveTask(ready(contrastive_prediction(round_)), crops, negatives=special.negatives,
                           gumbel=special.gumbel, **shared)


def masked_prediction(round_: Round, classes: tuple[int, ...]) -> MaskedPrediction:
    """Encoder and prediction heads of a round with a teacher; the weights are still to be drawn."""
    chosen = round_.objective
    return MaskedPrediction(Encoder(round_.encoder), classes, final_dim=chosen.final_dim,
                            temperature=chosen.temperature, head=chosen.head, predict_at=chosen.predict_at,
                            masked_weight=chosen.masked_weight, unmasked_weight=chosen.unmasked_weight,
                            feature_penalty=chosen.feature_penalty, tied_projections=chosen.tied_projections)


def contrastive_prediction(round_: Round) -> ContrastivePrediction:
    """Encoder and quantiser of a round without a teacher; the weights are still to be drawn."""
    chosen, special = round_.objective, round_.objective.contrastive
    return ContrastivePrediction(Encoder(round_.encoder), groups=special.groups, entries=special.entries,
                                 code_dim=special.code_dim, final_dim=chosen.final_dim, temperature=chosen.temperature,
                                 diversity_weight=special.diversity_weight, feature_penalty=chosen.feature_penalty,
                                 feature_dropout=special.feature_dropout)


def head_state(model: MaskedPrediction | ContrastivePrediction) -> dict[str, torch.Tensor]:
    """Weights of the prediction heads or the quantiser: what belongs to the objective and not to the encoder."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith("encoder.")}


def _noise_manifest(mixing: Mixing) -> Manifest | None:
    """The recordings that are mixed in as noise, if there are any."""
    source = _noise_source(mixing)
    if source is None:
        return None
    return _recordings(source)


def _noise_source(mixing: Mixing) -> Path | None:
    if not mixing.share or not mixing.noise_share:
        return None
    source = Path(mixing.noise)
    if not source.exists():
        raise UsageError(f"mixing.noise={source}: no such manifest or folder of audio")
    return source


def _probe(recipe: PretrainRecipe, round_: Round, manifest: Manifest) -> LayerProbe | None:
    probe = recipe.probe
    if probe.alignments is None:
        return None
    aligned = manifest if probe.manifest is None else Manifest.load(Path(probe.manifest))
    layers = probe.layers or tuple(sorted({(round_.encoder.layers + 1) // 2, round_.encoder.layers}))
    return build_probe(aligned, Path(probe.alignments), layers, probe.clusters, recipe.seed, probe.seconds,
                       recipe.cache)
