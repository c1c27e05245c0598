"""Which layer to cluster: every layer, several numbers of clusters, one forward pass for each utterance.

Utterances come in random order. The frames of the first ones, of all layers, are kept until there are enough to fit
k-means on; these and all later utterances are labelled, so every frame is judged and none is computed twice.

The measure is PNMI where there are phone alignments. Without any it is stability: the agreement of labels with those of
the same recording in noise, corrected for chance (`proxies.Stability.kappa`), for which each utterance goes through a
second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from upstream.audio.manifest import Manifest
from upstream.errors import InputError
from upstream.features.centred import with_cmn
from upstream.features.source import LayerSource
from upstream.features.streaming import Read
from upstream.frames import CONV_GRID
from upstream.keyed import keyed
from upstream.model.encoder import Encoder
from upstream.progress import say
from upstream.teacher.abx import CONTEXT_TOKENS, Abx, Span, Token, abx, find_spans, thinned
from upstream.teacher.alignments import AlignmentFile, frame_phones, warn_of_pauses, warn_of_words
from upstream.teacher.kmeans import assign, default_engine, fit
from upstream.teacher.proxies import Change, runs, speaker_information, stability
from upstream.teacher.quality import quality_of_utterances
from upstream.teacher.quantiser import Quantiser, check_clusters
from upstream.teacher.sampling import Progress, refuse_broken
from upstream.teacher.teacher import Teacher

FIT_FRAMES = 50_000  # of all layers at once: 2 GB for BASE
ABX_TOKENS = 6_000
ITERATIONS = 20
_Pair = tuple[int, int]  # layer, clusters


@dataclass(frozen=True)
class Row:
    """Figures of one layer's units with so many clusters; what needs alignments, or their absence, is None without.

    Attributes:
        pnmi, phone_purity, cluster_purity: with silence as one class.
        pnmi_speech: without silence.
        stability: kappa of labels with and without noise.
        neighbours: share of neighbouring frames with the same label.
        speakers: normalised information about speakers beyond chance.
    """

    layer: int
    clusters: int
    pnmi: float | None
    pnmi_speech: float | None
    phone_purity: float | None
    cluster_purity: float | None
    stability: float | None
    neighbours: float
    speakers: float | None
    inertia: float


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        measure: what the pick goes by.
        rows: by layer, then by clusters.
        abx: {layer: errors}; empty where it was not measured.
        layer: the pick: the layer with the highest measure, the mean over the numbers of clusters.
        teacher: of that layer with the most clusters. How many to take, PNMI cannot say: it rises with their number.
        best: {clusters: the layer with the highest measure}.
        frames, fit_frames, utterances: judged; clustered; judged.
        thinned_contexts: those of which ABX errors are of some speakers, for they had too many tokens.
    """

    measure: Literal["pnmi", "stability"]
    rows: tuple[Row, ...]
    abx: Mapping[int, Abx]
    layer: int
    teacher: Teacher
    best: Mapping[int, int]
    frames: int
    fit_frames: int
    utterances: int
    thinned_contexts: int = 0

    def as_json(self) -> dict[str, Any]:
        """Everything but the centroids, as plain values."""
        return {"measure": self.measure, "pick": {"layer": self.layer, "clusters": self.teacher.clusters},
                "best_layer": {str(k): layer for k, layer in self.best.items()},
                "rows": [asdict(row) for row in self.rows],
                "abx": [{"layer": layer, **asdict(found)} for layer, found in self.abx.items()],
                "abx_thinned_contexts": self.thinned_contexts,
                "frames": self.frames, "fit_frames": self.fit_frames, "utterances": self.utterances,
                "encoder": self.teacher.features["encoder"], "teacher": self.teacher.hash}


def sweep(encoder: Encoder, manifest: Manifest, clusters: Sequence[int], *, read: Read, seed: int = 0,
          alignments: Mapping[str, AlignmentFile] | None = None, layers: Sequence[int] | None = None,
          device: torch.device | str = "cpu", fit_frames: int = FIT_FRAMES, measure_abx: bool = True,
          snr: float = 10.0, cmn: bool = False, context_tokens: int = CONTEXT_TOKENS,
          progress: Progress | None = None) -> Sweep:
    """Judge the layers of an encoder.

    Args:
        manifest: recordings; with alignments those that have one.
        clusters: numbers of clusters to try.
        read: gives the waveform of an index of the manifest.
        alignments: {utterance id: file}, as `find_alignments` gives them; None goes by stability.
        layers: 0 is the input of the first block, k the raw output of block k; None for all.
        fit_frames: about so many frames are clustered.
        measure_abx: also give ABX errors, with alignments and where speakers are known.
        snr: of the noise in dB, without alignments.
        cmn: judge, and cluster, frames without the means of their utterances (`upstream.features.centred`).
        context_tokens: that ABX errors of a context are of, at most (`thinned`).
        progress: called with (utterances done, utterances).

    Raises:
        UsageError: a layer that is not there, no number of clusters, or of tokens.
        InputError: no utterance has an alignment, one does not cover its recording, fewer frames than clusters, frames
            that are not finite (of which utterance is said).
    """
    check_clusters(clusters, "ensemble")
    numbers = sorted(set(clusters))
    chosen = sorted(set(range(encoder.config.layers + 1) if layers is None else layers))
    source = with_cmn(LayerSource(encoder, chosen, device), cmn)
    indices = np.array([i for i, name in enumerate(manifest.ids) if alignments is None or name in alignments], np.int64)
    if not len(indices):
        raise InputError("none of the alignments is of an utterance of the manifest; files are named for the utterances"
                         if alignments is not None else "no recordings to sweep over")
    indices = keyed(seed, "sweep utterances").permutation(indices)
    phones = None if alignments is None else _phones(manifest, indices, alignments)
    spans, thin = (_spans(manifest, indices, alignments, seed, context_tokens)
                   if alignments is not None and measure_abx else ({}, 0))
    heard = _Heard(manifest, read, None if alignments is not None else Change("noise", snr), seed)
    labeller = _Labeller(chosen, numbers, seed, torch.device(device))
    tokens: dict[int, list[Token]] = {layer: [] for layer in chosen}
    waiting: list[tuple[int, dict[int, torch.Tensor]]] = []
    count = 0
    for done, (place, states) in enumerate(source.stream(heard, heard.places(indices), heard.read), 1):
        refuse_broken(manifest, place // heard.copies, *states.values())
        for span in spans.get(place, ()):
            for layer, frames in states.items():
                tokens[layer].append(Token(span.speaker, span.phone, span.context,
                                           frames[span.first:span.last].cpu().numpy()))
        if labeller.fitted:
            labeller.label(place, states)
        else:
            waiting.append((place, {layer: frames.clone() for layer, frames in states.items()}))
            count += len(states[chosen[0]]) * heard.is_plain(place)  # noisy copies are not clustered
            if count >= fit_frames:
                _fit(labeller, waiting, heard)
        if progress is not None:
            progress(done / heard.copies, len(indices))
    if not labeller.fitted:
        _fit(labeller, waiting, heard)
    rows = tuple(_row(labeller, pair, manifest, indices, phones, heard, seed) for pair in labeller.centroids)
    errors = {layer: abx(found) for layer, found in tokens.items()} if spans else {}
    return replace(_picked(rows, errors, labeller, encoder, manifest, heard, indices, cmn), thinned_contexts=thin)


class _Heard:
    """Recordings; if there is a change, each followed by its noisy copy: 2 i is utterance i, 2 i + 1 its copy."""

    def __init__(self, manifest: Manifest, read: Read, change: Change | None, seed: int) -> None:
        self.copies = 1 if change is None else 2
        self.lengths = np.repeat(manifest.lengths, self.copies)
        self._ids, self._read, self._change, self._seed = manifest.ids, read, change, seed

    def places(self, indices: np.ndarray) -> np.ndarray:
        """Places of utterances and their copies, in the order of the utterances."""
        return (indices[:, None] * self.copies + np.arange(self.copies)).ravel()

    def is_plain(self, place: int) -> bool:
        return place % self.copies == 0

    def read(self, place: int) -> np.ndarray:
        """(length,) float32."""
        index = place // self.copies
        wave = self._read(index)
        if self._change is None or self.is_plain(place):
            return wave
        return self._change.apply(wave, keyed(self._seed, "proxy noise", self._ids[index]))


class _Labeller:
    """k-means of every layer and number of clusters, and the labels of what came by."""

    def __init__(self, layers: Sequence[int], clusters: Sequence[int], seed: int, device: torch.device) -> None:
        self.fitted = False
        self.fit_frames = 0
        self.centroids: dict[_Pair, torch.Tensor] = {}
        self.inertia: dict[_Pair, float] = {}
        self.labels: dict[_Pair, dict[int, np.ndarray]] = {(i, k): {} for i in layers for k in clusters}
        self._seed, self.device = seed, device

    def fit(self, sample: Callable[[int], torch.Tensor]) -> None:
        """Cluster `sample(layer)` (n, D) of each layer, one layer in memory at a time."""
        points = torch.empty(0)
        before = -1
        for layer, k in self.labels:
            if layer != before:
                points, before = sample(layer).to(self.device), layer
            found, self.inertia[layer, k] = fit(points, k, self._seed, ITERATIONS,
                                                engine=default_engine(self.device))
            self.centroids[layer, k] = found
        self.fitted, self.fit_frames = True, len(points)

    def label(self, place: int, states: Mapping[int, torch.Tensor]) -> None:
        """Keep the labels of an utterance's layers (T, D)."""
        for (layer, k), found in self.labels.items():
            labels = assign(states[layer], self.centroids[layer, k])
            found[place] = labels.cpu().numpy().astype(np.uint16)


def _fit(labeller: _Labeller, waiting: list[tuple[int, dict[int, torch.Tensor]]], heard: _Heard) -> None:
    """Fit on what was kept, label it and let it go."""
    labeller.fit(lambda layer: torch.cat([s[layer] for place, s in waiting if heard.is_plain(place)]))
    for place, states in waiting:
        labeller.label(place, states)
    waiting.clear()


def _phones(manifest: Manifest, indices: np.ndarray, alignments: Mapping[str, AlignmentFile]) -> list[np.ndarray]:
    """The phones of each utterance's frames: read first, so that a broken alignment is found before hours of frames."""
    ids, lengths = manifest.ids, manifest.lengths
    found = [frame_phones(alignments[ids[i]], int(lengths[i]), whole=True) for i in indices]
    warn_of_words({str(phone) for phones in found for phone in np.unique(phones)})
    warn_of_pauses(found)
    return found


def _spans(manifest: Manifest, indices: np.ndarray, alignments: Mapping[str, AlignmentFile], seed: int,
           most: int) -> tuple[dict[int, list[Span]], int]:
    """{index: tokens} for ABX, of contexts drawn until there are enough, each with at most so many tokens, and how many
    of these contexts are not whole (`thinned`); where there are none, why is said."""
    ids, speakers = manifest.ids, manifest.speakers
    known = {ids[i]: int(i) for i in np.sort(indices) if speakers[i] is not None}
    if not known:
        say("no ABX errors: no speakers in the manifest; import it with them (corpus import folder --table), or "
            "leave them out (--no-abx)")
        return {}, 0
    found = find_spans(alignments, {name: int(manifest.lengths[i]) for name, i in known.items()},
                       {name: str(speakers[i]) for name, i in known.items()}, seed=seed)
    if not found:
        say("no ABX errors: no two phones lie between the same two others; align more utterances, or leave "
            "them out (--no-abx)")
    contexts = sorted({span.context for span in found})
    order = keyed(seed, "abx contexts").permutation(len(contexts))
    rank = {contexts[place]: number for number, place in enumerate(order)}
    found.sort(key=lambda span: rank[span.context])
    whole = Counter(span.context for span in found)
    found = thinned(found, most, seed)
    result: dict[int, list[Span]] = {}
    taken: Counter[tuple[str, str]] = Counter()
    for number, span in enumerate(found):
        if number >= ABX_TOKENS and span.context != found[number - 1].context:
            break
        taken[span.context] += 1
        result.setdefault(known[span.utterance], []).append(span)
    return result, sum(count < whole[context] for context, count in taken.items())


def _row(labeller: _Labeller, pair: _Pair, manifest: Manifest, indices: np.ndarray,
         phones: list[np.ndarray] | None, heard: _Heard, seed: int) -> Row:
    layer, clusters = pair
    found = labeller.labels[pair]
    plain = [found[int(i) * heard.copies] for i in indices]
    ids, owners = manifest.ids, manifest.speakers
    by_id = {ids[i]: labels for i, labels in zip(indices, plain)}
    speakers = speaker_information(by_id.__getitem__, list(by_id), [owners[i] for i in indices], clusters, seed)
    row = Row(layer, clusters, None, None, None, None, None, runs(plain, clusters).neighbours,
              speakers.excess if speakers else None, labeller.inertia[pair])
    if phones is None:
        stable = stability(((labels, found[int(i) * 2 + 1]) for i, labels in zip(indices, plain)), clusters)
        return replace(row, stability=stable.kappa)
    quality = quality_of_utterances(phones, plain, clusters)
    return replace(row, pnmi=quality.pnmi, pnmi_speech=quality.speech.pnmi if quality.speech else None,
                   phone_purity=quality.phone_purity, cluster_purity=quality.cluster_purity)


def _picked(rows: tuple[Row, ...], errors: dict[int, Abx], labeller: _Labeller, encoder: Encoder, manifest: Manifest,
            heard: _Heard, indices: np.ndarray, cmn: bool) -> Sweep:
    measure: Literal["pnmi", "stability"] = "pnmi" if heard.copies == 1 else "stability"
    scores: dict[int, list[float]] = {}
    for row in rows:
        scores.setdefault(row.layer, []).append(getattr(row, measure))
    layer = max(scores, key=lambda number: float(np.mean(scores[number])))
    numbers = sorted({row.clusters for row in rows})
    best = {k: max((r for r in rows if r.clusters == k), key=lambda r: getattr(r, measure)).layer for k in numbers}
    pair = layer, numbers[-1]
    fitted = {"clusters": pair[1], "sample_frames": labeller.fit_frames, "iterations": ITERATIONS,
              "manifest_hash": manifest.hash, "sweep": measure}
    described = with_cmn(LayerSource(encoder, layer, labeller.device), cmn).describe()
    teacher = Teacher(Quantiser((labeller.centroids[pair].cpu(),)), described, labeller.inertia[pair], fitted)
    frames = sum(CONV_GRID.frames(int(n)) for n in manifest.lengths[indices])
    return Sweep(measure, rows, errors, layer, teacher, best, frames, labeller.fit_frames, len(indices))
