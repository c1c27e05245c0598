"""Self-training: a teacher writes what it hears in unlabelled audio, and a student learns from it beside the labels.

    hubertkit selftrain RECIPE --out DIR labelled=10min.arrow unlabelled=train.arrow dev=dev.arrow encoder=DIR

Pseudo-labelling as in Kahn et al. 2020, by rounds as in Xu et al. 2020 ("Iterative pseudo-labeling for speech
recognition") and Park et al. 2020 (noisy student: what is masked, dropped out and played faster is the noise), from a
pretrained encoder as in Xu et al. 2020 ("Self-training and pre-training are complementary for speech recognition").
Round 0 is the first teacher; every step is a stage (`selftrain_stages`), so a run that was killed goes on, and
`selftrain.json` is written after every round.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from downstream.decode import batched
from downstream.decode.choice import AnyDecoder, name_of, settings_of
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import Hypothesis, write_hypotheses
from downstream.decode.pool import decode_all
from downstream.decode.tune import tune
from downstream.emissions import Emissions
from downstream.finetune import recogniser_stage
from downstream.recogniser import compute_emissions
from downstream.selftrain_data import (
    DECODED,
    GREEDY,
    counted,
    data_stage,
    diagnosis_stage,
    error_rates,
    told_rates,
)
from downstream.selftrain_recipe import SelftrainRecipe
from downstream.selftrain_stages import KINDS, stage_names, stages_read
from downstream.selftrain_start import FORMAT, RESULTS, SELFTRAINING, Sets, check_selftrain
from downstream.text.vocabulary import composed
from upstream import ranks
from upstream.audio.manifest import Manifest
from upstream.course import leave, looking
from upstream.device import chosen_device
from upstream.disk import content_hash, file_hash, path_given, read_json, write_json
from upstream.locks import locked, watched
from upstream.progress import progress, say
from upstream.recipe import as_settings, check_recipe
from upstream.run_stages import note_stages
from upstream.stage import Say, run_stage, versions


@dataclass(frozen=True)
class _Run:
    """What every stage of a run may need."""

    recipe: SelftrainRecipe
    sets: Sets
    device: torch.device
    say: Say


@dataclass(frozen=True)
class _Recogniser:
    """One that has been looked at on dev.

    Attributes:
        folder, hash: its own.
        tuned: folder of the stage that did.
        dev: what that stage gave: error rates in percent, weights, hashes.
    """

    folder: Path
    hash: str
    tuned: Path
    dev: dict[str, Any]


def selftrain(recipe: SelftrainRecipe, out: Path, say: Say = say, sets: Sets | None = None) -> dict[str, Any]:
    """Run the rounds into `out` and give the content of `out/selftrain.json`.

    Args:
        sets: as `check_selftrain` gave them, where it was asked before.

    Raises:
        UsageError, InputError: as `check_selftrain`; and InputError where a round keeps no pseudo label.
        BusyError: another process works in `out`.
    """
    check_recipe(recipe, SelftrainRecipe)
    out = path_given(out, "out")
    # Before the lock, which is a file in the folder.
    run = _Run(recipe, sets or check_selftrain(recipe, out, say), chosen_device(recipe.finetune.device), say)
    with (watched if looking() else locked)(out):
        return _rounds(run, out)


def _rounds(run: _Run, out: Path) -> dict[str, Any]:
    recipe, say = run.recipe, run.say
    _prepare(run, out)
    names = stage_names(recipe, run.sets)
    note_stages(out, names, stages_read(recipe, names), SELFTRAINING, KINDS)
    teacher = _look_at(run, *_first_teacher(run, out), out / "round0")
    rounds = [_round_row(0, teacher)]
    results = _report(run, out, rounds)
    leave(teacher.tuned)
    for number in range(1, recipe.rounds + 1):
        folder = out / f"round{number}"
        data = _label(run, teacher, folder)
        batched.let_go()  # a student that learns on the decoder's GPU has the room of its language model
        trained = recogniser_stage(recipe.studying(str(folder / "data" / "train.arrow"), str(teacher.folder)),
                                   folder / "recogniser", say)
        teacher = _look_at(run, folder / "recogniser", trained["hash"], folder)
        rounds.append(_round_row(number, teacher) | {"labels": data})
        results = _report(run, out, rounds)
        leave(teacher.tuned)
    return results


def _prepare(run: _Run, out: Path) -> None:
    """What is wrong with the decoder's files is said before hours of training, where they are still ahead."""
    vocabulary = run.sets.vocabulary

    def load() -> None:
        if not looking() and not (out / "round0" / "tuned" / "stage.json").is_file():
            run.recipe.decoding.make(vocabulary.symbols, vocabulary.blank).prepare()

    ranks.alone(load)


def _first_teacher(run: _Run, out: Path) -> tuple[Path, str]:
    """Its folder and its hash: the one that was given, or one that learns from the labels first."""
    if run.recipe.recogniser is not None and run.sets.teacher_hash is not None:
        return Path(run.recipe.recogniser), run.sets.teacher_hash
    folder = out / "round0" / "recogniser"
    return folder, recogniser_stage(run.recipe.teaching(), folder, run.say)["hash"]


def _look_at(run: _Run, folder: Path, digest: str, target: Path) -> _Recogniser:
    """A recogniser on dev: greedy, and with the decoder that labels, its weights found there. The caller leaves the
    stage, when what came of it is written."""
    heard = _emissions_stage(run, folder, digest, run.sets.dev, target / "dev-emissions")
    dev, recipe = run.sets.dev, run.recipe

    def work(into: Path) -> dict[str, Any]:
        emissions = Emissions.load(target / "dev-emissions")
        truth = {id: composed(text or "") for id, text in zip(dev.ids, dev.texts)}
        greedy = _decode(emissions, GreedyDecoder(emissions.symbols, emissions.blank), into / GREEDY, run)
        decoder, weights = recipe.decoding.make(emissions.symbols, emissions.blank), dict[str, Any]()
        if recipe.tunes and not isinstance(decoder, GreedyDecoder):
            with progress("tuning on dev", recipe.tuning.decodes * len(emissions)) as report:
                found = tune(emissions, truth, decoder, recipe.tuning.search(), unit=recipe.tuning.unit,
                             progress=report)
            write_json(into / "tuning.json", asdict(found) | _tuned_for(run, emissions))
            weights = {"lm_weight": found.lm_weight, "word_score": found.word_score}
            decoder = replace(decoder, **weights)
            if found.on_edge:
                run.say(f"  {', '.join(found.on_edge)} lies on the edge of what was tried; the best may lie beyond")
        decoded = _decode(emissions, decoder, into / DECODED, run)
        return {"hash": content_hash([weights, file_hash(into / DECODED)]),
                "greedy": error_rates(truth, greedy, recipe.unit),
                "decoded": error_rates(truth, decoded, recipe.unit), **weights}

    tuning = as_settings(recipe.tuning) if recipe.tunes else {}
    result = run_stage(target / "tuned", "tuned decoding", version=1, work=work, say=run.say, leave=False,
                       settings={"decoding": decoding_settings(recipe), "tuning": tuning, **counted(recipe)},
                       inputs={"emissions": heard, "references": dev.hash, **decoding_files(run.sets)})
    if "decoded" in result:  # not if this only looks
        _tell_rates(run, target, result)
    return _Recogniser(folder, digest, target / "tuned", result)


def _tell_rates(run: _Run, target: Path, result: dict[str, Any]) -> None:
    """Say what a recogniser does on dev, and warn of a decoder that is worse where students learn."""
    found = [f"{name} {told_rates(result[key], run.recipe)}"
             for name, key in (("greedy", "greedy"), (run.recipe.decoding.decoder.value, "decoded"))]
    run.say(f"{target.name}, dev: {'; '.join(found)}")
    if result["decoded"]["cer"] > result["greedy"]["cer"]:
        run.say(f"warning: {target.name}: of the characters that are decoded more are wrong than of those of greedy "
                "decoding, and characters are what a student learns; give tuning.unit=character (of scripts without "
                "spaces decoding.unspaced=true, too), another language model, or decoding.decoder=greedy")


def _label(run: _Run, teacher: _Recogniser, folder: Path) -> dict[str, Any]:
    """A teacher labels, the filters choose, and `data/train.arrow` holds what a student learns from. Gives what the
    results say of it."""
    heard = _emissions_stage(run, teacher.folder, teacher.hash, run.sets.unlabelled, folder / "emissions")
    weights = {name: teacher.dev[name] for name in ("lm_weight", "word_score") if name in teacher.dev}

    def work(into: Path) -> dict[str, Any]:
        emissions = Emissions.load(folder / "emissions")
        decoder: Any = replace(run.recipe.decoding.make(emissions.symbols, emissions.blank), **weights)
        _decode(emissions, GreedyDecoder(emissions.symbols, emissions.blank), into / GREEDY, run)
        _decode(emissions, decoder, into / DECODED, run)
        return {"hash": content_hash([file_hash(into / name) for name in (DECODED, GREEDY)])}

    labelled = run_stage(folder / "hypotheses", "hypotheses", version=1, work=work, say=run.say,
                         settings={"decoding": decoding_settings(run.recipe) | weights},
                         inputs={"emissions": heard, **decoding_files(run.sets)})
    data = data_stage(folder, run.recipe, run.sets, labelled["hash"], teacher.tuned / DECODED, teacher.dev["hash"],
                      run.say)
    diagnosis = diagnosis_stage(folder, run.recipe, run.sets, data["labels"], run.say)
    told = {key: value for key, value in data.items() if key not in ("hash", "labels")}
    return told | {"teacher": teacher.hash, **diagnosis}


def _emissions_stage(run: _Run, recogniser: Path, digest: str, manifest: Manifest, folder: Path) -> str:
    """Emissions of a manifest in `folder`; gives their hash."""
    def work(into: Path) -> dict[str, Any]:
        return {"hash": compute_emissions(recogniser, manifest, into, run.device)}

    return str(run_stage(folder, "emissions", version=1, settings={}, work=work, say=run.say,
                         inputs={"recogniser": digest, "recordings": manifest.hash})["hash"])


def _decode(emissions: Emissions, decoder: AnyDecoder, out: Path, run: _Run) -> list[Hypothesis]:
    """Hypotheses with confidences of their words, written with what made them."""
    with progress(f"decoding, {name_of(decoder).value}", len(emissions)) as report:
        found = decode_all(emissions, decoder, progress=report, confidences=True)
    files = {} if isinstance(decoder, GreedyDecoder) else {
        name: None if file is None else {"file": file, "sha256": digest} for name, file, digest in (
            ("lm", run.recipe.decoding.lm, run.sets.lm_hash),
            ("lexicon", run.recipe.decoding.lexicon, run.sets.lexicon_hash))}
    write_hypotheses(out, found, {
        "decoder": name_of(decoder).value, "settings": settings_of(decoder), **files,
        "emissions_hash": emissions.hash, "recogniser_hash": emissions.meta.get("recogniser_hash"),
        "manifest_hash": emissions.manifest_hash, "versions": versions()})
    return found


def _tuned_for(run: _Run, emissions: Emissions) -> dict[str, Any]:
    """What a file of weights says besides them, for `decode --tuned`."""
    decoding = run.recipe.decoding
    lm, lexicon = (None if file is None else str(Path(file).resolve()) for file in (decoding.lm, decoding.lexicon))
    return {"tokens_per_frame": decoding.tokens_per_frame, "lm": lm, "lm_sha256": run.sets.lm_hash,
            "recogniser_hash": emissions.meta.get("recogniser_hash"), "lexicon": lexicon}


def decoding_settings(recipe: SelftrainRecipe) -> dict[str, Any]:
    """What of the decoder its texts depend on, besides the contents of its files."""
    decoding = recipe.decoding
    lm_weight, word_score = (None, None) if decoding.lm is None else decoding.weights()
    elsewhere = {"lm", "lexicon", "device", "published", "labels", "pretrained_on"}
    if not decoding.unspaced:
        elsewhere.add("unspaced")  # an option that came later: what was decoded before is not stale
    return {name: value for name, value in as_settings(decoding).items() if name not in elsewhere} | {
        "lm_weight": lm_weight, "word_score": word_score}


def decoding_files(sets: Sets) -> dict[str, str]:
    """Hashes of the decoder's files, those that there are."""
    given = {"lm": sets.lm_hash, "lexicon": sets.lexicon_hash}
    return {name: digest for name, digest in given.items() if digest is not None}


def _round_row(number: int, recogniser: _Recogniser) -> dict[str, Any]:
    return {"round": number, "folder": str(recogniser.folder), "recogniser": recogniser.hash,
            "dev": {key: value for key, value in recogniser.dev.items() if key != "hash"}}


def _report(run: _Run, out: Path, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Write what the rounds so far gave. Results that begin so and say more stay until there is more to say: whoever
    gives a done run another filter, and stops it or has it refused, loses nothing."""
    sets = run.sets
    results = {"format": FORMAT, "version": 1, "recipe": as_settings(run.recipe), **{
        name: {"utterances": len(manifest), "hours": round(manifest.seconds / 3600, 4), "hash": manifest.hash}
        for name, manifest in (("labelled", sets.labelled), ("unlabelled", sets.unlabelled), ("dev", sets.dev))},
        "unit": run.recipe.unit, "rates": list(run.recipe.rates), "lm": sets.lm_hash, "lexicon": sets.lexicon_hash,
        "rounds": rounds, "versions": versions()}

    def write() -> None:
        path, now = out / RESULTS, _wherever(rounds)
        before = _wherever(read_json(path).get("rounds", [])) if path.is_file() else []
        if len(now) > run.recipe.rounds or len(before) <= len(now) or before[:len(now)] != now:
            write_json(path, results)

    if not looking():
        ranks.alone(write)
    return results


def _wherever(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What they are as JSON, without their folders: a run may be moved."""
    return [{key: value for key, value in row.items() if key != "folder"} for row in json.loads(json.dumps(rounds))]
