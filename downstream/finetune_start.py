"""What a recogniser's training needs, looked at before anything is made: its data, its symbols, and what cannot be."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path

from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.score.rates import of_phrases
from downstream.score.shared import shared_ids
from downstream.text.vocabulary import Vocabulary
from upstream.audio.manifest import Manifest
from upstream.errors import InputError, UsageError
from upstream.progress import progress


def check_start(recipe: FinetuneRecipe, out: Path) -> tuple[Manifest, Manifest | None, Vocabulary]:
    """Look at what a training needs before anything is made: the manifests of the training data and of dev, and the
    symbols.

    Raises:
        UsageError, InputError: as `finetune`, but for the encoder and the transcripts of the training data.
    """
    if not recipe.data:
        raise UsageError("nothing to learn from: give data=MANIFEST (with transcripts)")
    _refuse_own_encoder(recipe, out)
    _refuse_idle(recipe)
    manifest = Manifest.load(Path(recipe.data))
    dev = None if recipe.dev is None else Manifest.load(Path(recipe.dev))
    vocabulary = chosen_vocabulary(recipe, manifest)
    if dev is not None:
        _check_dev(manifest, dev)
        odd = _unwritable(dev, vocabulary)
        if 2 * len(odd) > len(dev):  # of another case, say: its error rate would stay at 100 to the end
            raise InputError(f"dev, {odd[0]}{_way_out(recipe)}")
    return manifest, dev, vocabulary


def check_layers(recipe: FinetuneRecipe, blocks: int) -> None:
    """Raise UsageError if the head is to hear a layer that an encoder of so many blocks does not have, if more blocks
    are to start anew than it has, or if blocks are random and would never be run: they would stay so."""
    deepest, scratch = recipe.head.layers_read(blocks)[-1], recipe.encoder == SCRATCH
    if not scratch and recipe.fresh_layers > blocks:
        raise UsageError(f"fresh_layers={recipe.fresh_layers}: this encoder has {blocks} layers; give at most as many")
    if deepest < blocks and (scratch or recipe.fresh_layers):
        what = "an encoder from scratch" if scratch else f"fresh_layers={recipe.fresh_layers}"
        raise UsageError(f"head.layers={recipe.head.layers} with {what}: blocks past {deepest} are not run, and would "
                         "stay as they are drawn; leave one of them out")


def chosen_vocabulary(recipe: FinetuneRecipe, manifest: Manifest) -> Vocabulary:
    """The symbols that a recogniser learns.

    Raises:
        InputError: they are to be those of transcripts that are not there, or that hold `|`.
    """
    if recipe.symbols == "english":
        return Vocabulary.characters()
    found = Vocabulary.of(text for text in manifest.texts if text)
    if not found.letters:
        raise InputError("symbols=data: no utterance has a transcript; is `text` filled in the manifest?")
    return found


def encoded(manifest: Manifest, vocabulary: Vocabulary, recipe: FinetuneRecipe) -> list[array[int]]:
    """Ids of every transcript, two bytes each; none where there is none.

    Raises:
        InputError: with the utterance and the character where one cannot be written.
    """
    targets = []
    texts = manifest.texts
    with progress("reading transcripts", len(texts)) as report:
        for done, text in enumerate(texts):
            try:
                targets.append(array("H", vocabulary.encode(text) if text else ()))
            except InputError as error:
                raise InputError(f"{manifest.ids[done]}: {error}{_way_out(recipe)}") from error
            report(done + 1)
    return targets


def _way_out(recipe: FinetuneRecipe) -> str:
    return ", or give symbols=data: the characters of the training transcripts" * (recipe.symbols == "english")


def _unwritable(manifest: Manifest, vocabulary: Vocabulary) -> list[str]:
    """The utterances that hold characters outside the vocabulary, each with what is wrong with it."""
    found = []
    for utterance, text in zip(manifest.ids, manifest.texts):
        try:
            vocabulary.encode(text or "")
        except InputError as error:
            found.append(f"{utterance}: {error}")
    return found


def warn_of_dev(manifest: Manifest, dev: Manifest, vocabulary: Vocabulary, say: Callable[[str], None]) -> None:
    """Say how many utterances of dev cannot be written, whether its words are phrases, and how many of its speakers are
    in the training data."""
    if odd := _unwritable(dev, vocabulary):
        say(f"warning: {len(odd)} of {len(dev)} dev utterances hold characters that are never written and count as "
            f"errors; first {odd[0]}")
    if of_phrases(text or "" for text in dev.texts):
        say("dev's transcripts have no spaces between words, so wer is the share of wrong phrases: look at cer "
            "(and see --characters and --unspaced of `tune`)")
    speakers = set(dev.speakers) - {None}
    known = speakers & set(manifest.speakers)
    if known:
        say(f"warning: {len(known)} of {len(speakers)} dev speakers are also in the training data; the rates on dev "
            "will flatter")


def _refuse_own_encoder(recipe: FinetuneRecipe, out: Path) -> None:
    """Raise UsageError if a recogniser would be written over the encoder that it starts from."""
    if recipe.encoder != SCRATCH and Path(out).resolve() == Path(recipe.encoder).resolve():
        raise UsageError(f"{out}: holds the encoder to start from, which the recogniser would replace; give it a "
                         "folder of its own")


def _refuse_idle(recipe: FinetuneRecipe) -> None:
    """Raise UsageError if what a recipe asks for would never come about."""
    freeze, updates = recipe.freeze_updates, recipe.training.updates
    if recipe.encoder != SCRATCH and not recipe.frozen and freeze >= updates:
        raise UsageError(f"freeze_updates={freeze} of training.updates={updates}: the encoder would never learn; lower "
                         "freeze_updates, or give frozen=true if the head alone is to learn")
    held = "frozen=true" if recipe.frozen else "" if recipe.encoder_scale else "encoder_scale=0"
    wanted = [(recipe.fresh_layers > 0, f"fresh_layers={recipe.fresh_layers}", "blocks would stay as they are drawn"),
              (recipe.train_frontend is True, "train_frontend=true", "front end would never learn")]
    for asked, words, outcome in wanted:
        if recipe.encoder != SCRATCH and held and asked:
            raise UsageError(f"{words} with {held}: the {outcome}; leave one of them out")
    if recipe.training.keep_best and recipe.dev is None:
        raise UsageError("training.keep_best=true: without dev nothing says which weights are the best; give "
                         "dev=MANIFEST")


def _check_dev(manifest: Manifest, dev: Manifest) -> None:
    same, others = shared_ids(manifest, dev)
    if same:
        raise InputError(f"{same[0]} and {len(same) - 1} more utterances are both in the training data and in dev")
    if others:
        raise InputError(f"{others[0]} and {len(others) - 1} more ids are both in the training data and in dev, for "
                         "files that differ; if these are other recordings, give them ids of their own (hubertkit "
                         "corpus import ... --prefix dev-)")
    silent = [i for i, text in zip(dev.ids, dev.texts) if text is None]
    if silent:
        raise InputError(f"{silent[0]}: no transcript, so its words cannot be scored ({len(silent)} of {len(dev)} "
                         "utterances in dev); leave them out of dev or import their transcripts")
