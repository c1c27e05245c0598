"""A recogniser on dev and test: emissions once, then greedy and beam search with a language model tuned on dev."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.low_resource_recipe import BeamSearchRecipe
from downstream.decode.batched import BatchedDecoder
from downstream.decode.beam import BeamDecoder
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import Hypothesis, write_hypotheses
from downstream.decode.pool import decode_all
from downstream.decode.tune import Search, tune
from downstream.emissions import Emissions
from downstream.recogniser import compute_emissions
from downstream.score.intervals import bootstrap_interval
from downstream.score.rates import score
from upstream.audio.manifest import Manifest
from upstream.disk import content_hash, write_json
from upstream.errors import InputError
from upstream.progress import progress
from upstream.recipe import as_settings
from upstream.stage import Say, run_stage

GREEDY = "greedy"  # the decoder of a row
DECODED = "decoded"  # folder of `decode_stage` in a cell's
EMITTED = ("emissions-dev", "emissions-test")  # of `emissions_stage`, likewise


@dataclass(frozen=True)
class LanguageModel:
    """An ARPA file, its hash, and what to call it in a table."""

    path: Path
    hash: str
    name: str


@dataclass(frozen=True)
class Emitted:
    """Emissions of a manifest: where they lie, and their hash."""

    manifest: Manifest
    folder: Path
    hash: str


def emissions_stage(recogniser: Path, recogniser_hash: str, manifest: Manifest, folder: Path, device: torch.device,
                    say: Say) -> Emitted:
    """Emissions of one manifest, in a stage of their own."""

    def work(target: Path) -> dict[str, Any]:
        return {"hash": compute_emissions(recogniser, manifest, target, device)}

    result = run_stage(folder, "emissions", version=1, settings={}, work=work, say=say,
                       inputs={"recogniser": recogniser_hash, "manifest": manifest.hash})
    return Emitted(manifest, folder, result["hash"])


def decode_stage(of_dev: Emitted, of_test: Emitted, lm: LanguageModel, recipe: BeamSearchRecipe, seed: int,
                 folder: Path, say: Say) -> list[dict[str, Any]]:
    """Rows of the result table: greedy, and beam search at the weights that are best on dev. None if this only looks.
    """
    name = f"{recipe.decoder}+{lm.name}"
    dev_manifest, test_manifest = of_dev.manifest, of_test.manifest

    def work(target: Path) -> dict[str, Any]:
        dev, test = Emissions.load(of_dev.folder), Emissions.load(of_test.folder)
        greedy = _decode(test, GreedyDecoder(test.symbols, test.blank), target / hypotheses_file(GREEDY), "greedy")
        decoder = _search_decoder(recipe, lm, test)
        with progress("tuning on dev", 1) as report:
            search = Search.for_weak(recipe.tune_decodes, recipe.tune_seconds)
            found = tune(dev, references(dev_manifest), decoder, search,
                         forbidden_manifest_hash=test_manifest.hash, unit=recipe.unit, progress=report)
        write_json(target / "tuning.json", asdict(found))
        decoder = replace(decoder, lm_weight=found.lm_weight, word_score=found.word_score)
        beam = _decode(test, decoder, target / hypotheses_file(name), "beam search")
        tuned = {"lm_weight": found.lm_weight, "word_score": found.word_score, "beam": recipe.beam,
                 "dev_wer": round(found.wer, 3), "on_edge": list(found.on_edge), "lm_hash": lm.hash}
        rows = [_row(GREEDY, greedy, test_manifest, recipe, seed, {}),
                _row(name, beam, test_manifest, recipe, seed, tuned)]
        return {"hash": content_hash(rows), "rows": rows}

    inputs = {"dev": of_dev.hash, "test": of_test.hash, "lm": lm.hash, "dev manifest": dev_manifest.hash,
              "test manifest": test_manifest.hash}  # emissions say nothing of the transcripts
    return list(run_stage(folder, "decoded", version=1, settings=decoding_settings(recipe, seed), inputs=inputs,
                          work=work, say=say).get("rows", []))


def decoding_settings(recipe: BeamSearchRecipe, seed: int) -> dict[str, Any]:
    """What of a recipe the rows of `decode_stage` depend on."""
    settings = as_settings(recipe) | {"seed": seed, "counted": recipe.counted}
    for later, before in (("decoder", "beam"), ("unspaced", False), ("unit", "word"), ("counted", "word")):
        if settings[later] == before:
            del settings[later]  # an option that came later: what was decoded before is not stale
    return settings


def hypotheses_file(decoder: str) -> str:
    """The name of a decoder's hypotheses of the test set in the folder of `decode_stage`.

    Args:
        decoder: as rows of the result table have it.
    """
    return "greedy.jsonl" if decoder == GREEDY else "beam.jsonl"


def _search_decoder(recipe: BeamSearchRecipe, lm: LanguageModel, emissions: Emissions) -> BeamDecoder | BatchedDecoder:
    given = (emissions.symbols, emissions.blank, lm.path)
    if recipe.decoder == "beam":
        return BeamDecoder(*given, beam=recipe.beam, tokens_per_frame=recipe.tokens_per_frame)
    return BatchedDecoder(*given, beam=recipe.beam, tokens_per_frame=recipe.tokens_per_frame, unspaced=recipe.unspaced)


def references(manifest: Manifest) -> dict[str, str]:
    """id -> transcript. Raises InputError where an utterance has none: its words would count as insertions."""
    missing = [i for i, t in zip(manifest.ids, manifest.texts) if t is None]
    if missing:
        raise InputError(f"{missing[0]} and {len(missing) - 1} more utterances have no transcript to score against")
    return {i: t or "" for i, t in zip(manifest.ids, manifest.texts)}


def _decode(emissions: Emissions, decoder: GreedyDecoder | BeamDecoder | BatchedDecoder, out: Path,
            what: str) -> dict[str, str]:
    with progress(what, len(emissions.ids)) as report:
        found: list[Hypothesis] = decode_all(emissions, decoder, progress=report)
    write_hypotheses(out, found)
    return {h.id: h.text for h in found}


def _row(decoder: str, hypotheses: dict[str, str], manifest: Manifest, recipe: BeamSearchRecipe, seed: int,
         extra: dict[str, Any]) -> dict[str, Any]:
    found = score(references(manifest), hypotheses, recipe.counted)
    counts = found.per_utterance
    wer = bootstrap_interval(counts.errors, counts.words, seed=seed, resamples=recipe.resamples)
    cer = bootstrap_interval(counts.character_errors, counts.characters, seed=seed, resamples=recipe.resamples)
    return {"decoder": decoder, "wer": round(found.wer, 3), "wer_interval": wer.rounded, "cer": round(found.cer, 3),
            "cer_interval": cer.rounded, "words": found.words, "errors": found.errors,
            "substitutions": found.substitutions, "deletions": found.deletions, "insertions": found.insertions,
            "characters": found.characters, "character_errors": found.character_errors, **extra}
