"""How much disk the stages of recognition take, at most: while they are done, and before what they need no more is
removed. A text has no more characters than its recording has frames."""

from __future__ import annotations

import torch

from downstream.finetune_recipe import FinetuneRecipe
from downstream.finetune_trial import Shape
from downstream.recogniser import emission_stretches
from upstream.audio.manifest import Manifest
from upstream.frames import frame_counts
from upstream.stage_bytes import JSON, OFFSET, training_bytes

HALF = 2  # bytes of a float16
CHARACTER = 4  # of UTF-8, at most
SYMBOL = 40  # of a symbol's own line in a list of JSON, likewise
LINE = 400  # of what stands in a line of JSON beside texts, words and ids
WORD = 100  # of what stands there of a word beside its characters: two times and a confidence
ROW = 150  # of what stands in a manifest of an utterance beside its strings


def recogniser_bytes(recipe: FinetuneRecipe, shape: Shape) -> int:
    """Of a recogniser and its training."""
    with torch.device("meta"):
        model = shape.recogniser()
    return JSON + SYMBOL * shape.symbols + training_bytes(model, recipe.training)


def emissions_bytes(manifest: Manifest, shape: Shape) -> int:
    """Of emissions. Those of large corpora are put together of stretches, which takes twice the room."""
    values = shape.symbols * _frames(manifest, shape)
    stretches = emission_stretches(manifest, shape.symbols, shape.encoder.grid.rate)
    whole = HALF * values + OFFSET * (len(manifest) + 1) + _ids(manifest)
    return (len(stretches) + 1) * (JSON + SYMBOL * shape.symbols) + whole * (2 if len(stretches) > 1 else 1)


def texts_bytes(manifest: Manifest, shape: Shape, nbest: int = 1) -> int:
    """Of what was decoded greedily and by a decoder, with times and confidences of words.

    Args:
        nbest: candidates that the decoder lists.
    """
    frames, lines = _frames(manifest, shape), LINE * len(manifest) + _ids(manifest)
    best = 2 * CHARACTER * frames + WORD * (frames + len(manifest)) // 2 + lines
    return JSON + 2 * best + nbest * (CHARACTER * frames + LINE * len(manifest))


def data_bytes(labelled: Manifest, repeats: int, unlabelled: Manifest, shape: Shape) -> int:
    """Of the manifest that a student of self-training learns from, if everything is kept, and of all labels.

    Args:
        repeats: of the labelled utterances.
        shape: of the recogniser that labels.
    """
    texts = CHARACTER * _frames(unlabelled, shape)
    copied = 2 * repeats  # of `a` the 12th copy is `a~12`
    labels = LINE * len(unlabelled) + _ids(unlabelled) + texts
    return JSON + labels + texts + _rows(unlabelled) + repeats * (_rows(labelled) + copied * len(labelled))


def _frames(manifest: Manifest, shape: Shape) -> int:
    return int(frame_counts(manifest.lengths, shape.encoder.grid).sum())


def _ids(manifest: Manifest) -> int:
    return sum(len(id.encode()) + OFFSET for id in manifest.ids)


def _rows(manifest: Manifest) -> int:
    return sum(ROW + sum(len(value.encode()) for value in (one.id, str(one.audio), one.speaker, one.text) if value)
               for one in manifest)
