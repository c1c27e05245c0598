"""PNMI at a checkpoint: cluster the layers of a half-trained encoder on aligned speech and compare with the phones.

A run that goes nowhere is seen in minutes: the figure must rise above that of the untrained encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from upstream.audio.caching import AudioCache, CacheRecipe
from upstream.audio.manifest import Manifest
from upstream.errors import InputError
from upstream.features.source import LayerSource
from upstream.keyed import keyed
from upstream.model.encoder import Encoder
from upstream.teacher.alignments import find_alignments, frame_phones, warn_of_pauses, warn_of_words
from upstream.teacher.kmeans import assign, fit
from upstream.teacher.quality import quality_of_frames

FIT_FRAMES = 40_000


@dataclass(frozen=True)
class LayerProbe:
    """PNMI of k-means clusters of some layers, fitted and measured on the same aligned utterances.

    Attributes:
        manifest: utterances that all have an alignment.
        phones: per utterance the phone of each 50 Hz frame.
        layers: which (0 is the input of the first block).
        clusters: of each k-means.
    """

    manifest: Manifest
    phones: tuple[np.ndarray, ...]
    layers: tuple[int, ...]
    clusters: int
    seed: int
    audio: AudioCache

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """{"pnmi_layer4": .31, ...}: PNMI with silence as one class."""
        features = layer_features(encoder, self.manifest, self.audio, self.layers)
        truth = np.concatenate(self.phones)
        values = {}
        for layer in self.layers:
            frames = np.concatenate([f[layer] for f in features])
            values[f"pnmi_layer{layer}"] = cluster_pnmi(frames, truth, self.clusters, self.seed)
        return values


def layer_features(encoder: Encoder, manifest: Manifest, audio: AudioCache,
                   layers: tuple[int, ...]) -> list[dict[int, np.ndarray]]:
    """For each utterance of a manifest, in its order, {layer: (T, D) float32}."""
    device = next(encoder.parameters()).device
    source = LayerSource(encoder, layers, device)
    found: list[dict[int, np.ndarray]] = [{} for _ in range(len(manifest))]
    for index, frames in source.stream(manifest, range(len(manifest)), audio.wave):
        found[index] = {k: v.cpu().numpy() for k, v in frames.items()}
    return found


def cluster_pnmi(frames: np.ndarray, phones: np.ndarray, clusters: int, seed: int) -> float:
    """PNMI of a k-means of `frames` (n, D) against `phones` (n,), fitted on at most 40,000 of them."""
    chosen = keyed(seed, "probe").permutation(len(frames))[:FIT_FRAMES]
    centroids, _ = fit(torch.from_numpy(frames[np.sort(chosen)]), clusters, seed=seed, iterations=15)
    labels = assign(torch.from_numpy(frames), centroids).numpy()
    return quality_of_frames(phones, labels, clusters).pnmi


def build_probe(manifest: Manifest, alignments: Path, layers: tuple[int, ...], clusters: int, seed: int,
                seconds: float, cache: CacheRecipe) -> LayerProbe:
    """A probe on utterances of a manifest that have an alignment, kept in `cache`: all, or drawn until they are
    `seconds` of audio or a little more.

    Raises InputError where no utterance has one, or all together fewer frames than clusters.
    """
    paths = find_alignments(alignments)
    aligned = [u for u in manifest.ids if u in paths]
    if not aligned:
        raise InputError(f"{alignments}: none of its {len(paths)} alignments is of an utterance of the manifest; files "
                         "are named for the utterances")
    order = keyed(seed, "probe utterances").permutation(len(aligned))
    chosen, total = [], 0.0
    lengths = {i: n / 16_000 for i, n in zip(manifest.ids, manifest.lengths)}
    for i in order:
        if total >= seconds:
            break
        chosen.append(aligned[i])
        total += lengths[aligned[i]]
    subset = manifest.only(chosen)
    phones = tuple(frame_phones(paths[u.id], u.length, whole=True) for u in subset)
    warn_of_words({str(phone) for row in phones for phone in np.unique(row)})
    warn_of_pauses(phones)
    if (frames := sum(map(len, phones))) < clusters:  # now, and not at the first validation
        raise InputError(f"{alignments}: {frames} aligned frames for the probe's {clusters} clusters; align more "
                         "utterances, raise probe.seconds, or lower probe.clusters")
    return LayerProbe(subset, phones, layers, clusters, seed, cache.open(subset))
