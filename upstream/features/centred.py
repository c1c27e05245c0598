"""Frames without the mean of their utterance (cepstral mean normalisation, CMN): what stays the same from beginning to
end, the voice and the microphone, is taken off before k-means, which would spend clusters on it.

HuBERT's MFCCs and layers are clustered as they are. On representations of others van Niekerk, Nortje, Baas and Kamper
2021 ("Analyzing speaker information in self-supervised models to improve zero-resource speech processing") found far
less of the speaker and more of the phones in normalised ones; what it does here is in `benchmarks/results/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from upstream.features.source import Source
from upstream.features.streaming import Lengths, Read


class CentredSource:
    """Another source, each utterance's frames less their mean over time. Nothing is fitted: a frame depends on its
    recording alone, on all of it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.device = source.device

    def describe(self) -> dict[str, Any]:
        """As the other's, with `cmn`."""
        return self._source.describe() | {"cmn": True}

    def stream(self, manifest: Lengths, indices: Iterable[int], read: Read,
               after: int = 0) -> Iterator[tuple[int, Any]]:
        """As `Source.stream`; {layer: frames} where the other gives that."""
        for index, frames in self._source.stream(manifest, indices, read, after):
            yield index, {k: centred(v) for k, v in frames.items()} if isinstance(frames, dict) else centred(frames)


def centred(frames: Tensor) -> Tensor:
    """(T, D) less their mean over T; an utterance of no frames as it is."""
    return frames - frames.mean(0) if len(frames) else frames


def with_cmn(source: Source, cmn: bool) -> Source:
    """The source itself, or without the means of utterances."""
    return CentredSource(source) if cmn else source
