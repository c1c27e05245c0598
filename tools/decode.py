"""`hubertkit decode` and `hubertkit tune`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from downstream.decode.choice import AnyDecoder, Choice, Name, check_size, name_of, settings_of
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import Hypothesis, write_as_found
from downstream.decode.pool import decode_each
from downstream.decode.provenance import check_provenance_place
from downstream.decode.tune import Search
from downstream.decode.tune import tune as run_tuning
from downstream.decode.tune_plot import plot_tuning
from downstream.decode.tuned import choice_of, noted_file, noted_model, tell_other_recogniser
from downstream.emissions import Emissions
from downstream.lm.arrays import model_hash
from downstream.score.intervals import range_of
from downstream.score.references import read_references
from downstream.score.shared import copied_audio, shared_audio
from tools.decoder_options import (
    Beam,
    Decoder,
    Device,
    Hotwords,
    LexiconFile,
    Lm,
    LmWeight,
    Tokens,
    Tuned,
    Unspaced,
    WordScore,
)
from tools.decoding_recipe import Recipe, Settings, recipe_decoder, recipe_lexicon
from tools.few import tell_few
from tools.outputs import check_file, own_command
from upstream.audio.manifest import MANIFESTS, Manifest
from upstream.disk import write_json
from upstream.errors import UsageError
from upstream.progress import progress, say
from upstream.stage import versions

Workers = Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default, one on a GPU.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(decode)
    app.command()(tune)


def decode(
    emissions: Annotated[Path, typer.Argument(help="Folder of emissions, as `hubertkit emit` writes it.")],
    out: Annotated[Path, typer.Option(help="Hypotheses to write, one JSON object a line.")] = ...,  # type: ignore[assignment]
    decoder: Decoder = None,
    lm: Lm = None,
    lm_weight: LmWeight = None,
    word_score: WordScore = None,
    tuned: Tuned = None,
    beam: Beam = None,
    tokens: Tokens = None,
    lexicon: LexiconFile = None,
    hotwords: Hotwords = None,
    nbest: Annotated[int, typer.Option(min=1, help="Candidates to write of each utterance; not of greedy.")] = 1,
    device: Device = None,
    unspaced: Unspaced = False,
    recipe: Recipe = None,
    settings: Settings = None,
    workers: Workers = None,
) -> None:
    """Turn emissions into text: greedily, or by a search with a language model or a lexicon."""
    check_file(out, [emissions, lm, lexicon, tuned, None if recipe is None else Path(recipe)])
    check_provenance_place(out)
    stored = Emissions.load(emissions)
    options: dict[str, Any] = {
        "decoder": decoder, "lm": lm, "lm_weight": lm_weight, "word_score": word_score, "tuned": tuned, "beam": beam,
        "tokens": tokens, "lexicon": lexicon, "hotwords": hotwords, "device": device, "unspaced": unspaced or None}
    if recipe is not None:
        chosen = recipe_decoder(recipe, settings, stored.symbols, stored.blank, **options,
                                nbest=None if nbest == 1 else nbest)
        lexicon = recipe_lexicon(recipe, settings)
    elif settings:
        raise UsageError("--set changes a recipe: name one with --recipe")
    else:
        chosen = choice_of(**options, nbest=nbest).make(stored.symbols, stored.blank)
        tell_other_recogniser(tuned, lambda: stored.meta.get("recogniser_hash"))
    provenance = _provenance(chosen, stored, lexicon, tuned, out)  # files as they are before an hour's decoding
    counts = _Counts()
    with progress("decoding", len(stored)) as report, contextlib.closing(
            decode_each(stored, chosen, workers=workers, progress=report, confidences=True)) as found:
        write_as_found(out, counts.of(found), provenance)
    if counts.unfinished:
        say(f"{counts.unfinished} of {counts.hypotheses} utterances, {counts.first} for instance, end inside a word "
            "that the search did not finish; a wider --beam, or a lexicon that fits, may help")
    print(f"{out}: {counts.hypotheses} hypotheses, {counts.words} words")


@dataclass
class _Counts:
    """What is said of hypotheses, counted as they come; of the unfinished ones the first among the utterances."""

    hypotheses: int = 0
    words: int = 0
    unfinished: int = 0
    first: str = ""
    _place: int = 0

    def of(self, found: Iterable[tuple[int, Hypothesis]]) -> Iterator[tuple[int, Hypothesis]]:
        """The same, with their places, each counted."""
        for place, hypothesis in found:
            self.hypotheses += 1
            self.words += len(hypothesis.words)
            if hypothesis.unfinished:
                if not self.unfinished or place < self._place:
                    self.first, self._place = hypothesis.id, place
                self.unfinished += 1
            yield place, hypothesis


def tune(
    emissions: Annotated[Path, typer.Argument(help="Folder of emissions of a development set.")],
    references: Annotated[Path, typer.Option(help="Its manifest, or a file of `id text` lines.")] = ...,  # type: ignore[assignment]
    lm: Annotated[Path, typer.Option(help="ARPA file (.arpa, .arpa.gz); batched takes packed .ngrams too, lexicon "
                                          "with --lexicon a KenLM binary.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="JSON file for `hubertkit decode --tuned`; a picture of "
                                      "what was tried is written beside it (.png).")] = ...,  # type: ignore[assignment]
    final: Annotated[Path | None, typer.Option(help="Manifest of the final score's set: refuse to tune on "
                                                             "any utterance of it.")] = None,
    decoder: Annotated[Name, typer.Option(help="Which to tune for; see `hubertkit decode --help`.")] = Name.batched,
    beam: Annotated[int | None, typer.Option(min=1, help="Hypotheses kept after each frame, 50 by default.")] = None,
    beams: Annotated[str | None, typer.Option(help="Beams to decode with once the weights are found, for instance "
                                                   "25,50,100: that with the fewest errors is kept, and the speed of "
                                                   "each written down.")] = None,
    tokens: Tokens = None,
    lexicon: LexiconFile = None,
    device: Device = None,
    unspaced: Unspaced = False,
    seconds: Annotated[float, typer.Option(help="Speech to tune on; more is thinned out evenly.")] = 300.0,
    decodes: Annotated[int, typer.Option(min=2, help="Pairs of weights to decode with at most; hundreds more are "
                                                     "tried on the n-best lists.")] = 6,
    characters: Annotated[bool, typer.Option("--characters", help="Count errors in characters without spaces: for "
                                             "references of scripts without spaces between words.")] = False,
    workers: Workers = None,
) -> None:
    """Find the weights of a language model on a development set."""
    check_file(out, [emissions, references, lm, lexicon, final])
    picture = out.with_suffix(".png")
    if picture == out:
        raise UsageError(f"{out}: the name of the picture; give a JSON file, {out.with_suffix('.json')} for instance")
    if decoder is Name.greedy:
        raise UsageError("--decoder greedy has no weights to tune: take beam, lexicon or batched")
    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g}: must be above 0 and finite")
    stored, search = Emissions.load(emissions), Search(seconds=seconds, decodes=decodes)
    forbidden, final_ids = (None, frozenset[str]()) if final is None else _final_set(final, references)
    chosen = Choice(decoder, lm, lexicon, beam=beam, tokens_per_frame=tokens, device=device,
                    unspaced=unspaced).make(stored.symbols, stored.blank)
    assert not isinstance(chosen, GreedyDecoder)  # refused above
    lm_sha256 = model_hash(lm)
    with progress("tuning", decodes * len(stored)) as report:
        found = run_tuning(stored, read_references(references).texts, chosen, search, beams=_numbers(beams),
                           forbidden_manifest_hash=forbidden, forbidden_ids=final_ids, workers=workers,
                           unit="character" if characters else "word", progress=report)
    write_json(out, {**asdict(found), "tokens_per_frame": tokens, "unspaced": unspaced, "lm": noted_model(lm, out),
                     "lm_sha256": lm_sha256, "recogniser_hash": stored.meta.get("recogniser_hash"),
                     "lexicon": None if lexicon is None else str(lexicon)})
    plot_tuning(found, picture)
    for name in found.on_edge:
        say(f"{name}={getattr(found, name):g} lies on the edge of what was tried; the best may lie beyond")
    tell_few(found.utterances)
    rate = "CER" if characters else "WER"
    if found.wer > found.greedy_wer:
        say(f"warning: greedy decoding makes fewer errors ({rate} {found.greedy_wer:.2f}): decode without the model, "
            "or see what `hubertkit decode-check` finds wrong with it"
            + ("; a recogniser that writes no spaces needs --unspaced" if characters and not unspaced else ""))
    for point in found.beams:
        print(f"beam {point.beam}: {rate} {point.wer:.2f}, {point.audio_seconds_per_second:.0f} seconds of audio a "
              f"second with {point.processes} processes")
    print(f"{out}: {found.decoder}, beam {found.beam}, lm_weight {found.lm_weight:g}, word_score {found.word_score:g}, "
          f"{rate} {found.wer:.2f} ({range_of(found.wer_interval)}) on "
          f"{found.utterances} of {found.utterances_given} utterances ({found.seconds:.0f} s)")


def _provenance(decoder: AnyDecoder, stored: Emissions, lexicon: Path | None, tuned: Path | None,
                out: Path) -> dict[str, Any]:
    """What a file of hypotheses says of what made it, as JSON values."""
    lm = None if isinstance(decoder, GreedyDecoder) else decoder.lm
    return {"decoder": name_of(decoder).value, "settings": settings_of(decoder), "lm": noted_file(lm, out),
            "lexicon": noted_file(lexicon, out), "tuned": noted_file(tuned, out), "emissions_hash": stored.hash,
            "recogniser_hash": stored.meta.get("recogniser_hash"), "manifest_hash": stored.manifest_hash,
            "versions": versions(), "command": own_command()}


def _numbers(given: str | None) -> tuple[int, ...]:
    try:
        found = tuple(int(number) for number in given.split(",")) if given is not None else ()
    except ValueError:
        raise UsageError(f"--beams {given}: expected whole numbers such as 25,50,100") from None
    for number in found:
        check_size("--beams", number)
    return found


def _final_set(final: Path, references: Path) -> tuple[str, frozenset[str]]:
    """Hash of the final score's manifest, and the ids that must not be tuned on: its own, and those of references with
    audio of it or copies of its files, where they are a manifest."""
    found = read_references(final)
    if found.manifest_hash is None:
        raise UsageError(f"{final}: --final needs a manifest; plain text does not say which set it is")
    if references.suffix not in MANIFESTS:
        say(f"{references}: no manifest, so that utterances of {final} are known by their ids alone")
        return found.manifest_hash, frozenset(found.texts)
    own, others = Manifest.load(references), Manifest.load(final)
    copies = (copy for _, copy in copied_audio(others, own))
    return found.manifest_hash, frozenset([*found.texts, *shared_audio(own, others), *copies])
