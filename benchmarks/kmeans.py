"""k-means and labelling beside scikit-learn, as fairseq sets it, and faiss alone.

    hubertkit bench kmeans --out kmeans.json [--device cuda]        python -m benchmarks.kmeans --device cuda

Points are a mixture of Gaussians with the sizes and spread of MFCCs, so nothing need be decoded. Every system works
with the same number of threads; inertias are those of all points and of as many held out. With a GPU ours runs there,
its peers where they always do. Labelling as a round does it, a layer of BASE on audio and its nearest centroids, is
measured by itself: at that rate 960 h would be labelled.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.plain import about
from benchmarks.results import results_file
from upstream.device import finish
from upstream.disk import write_json
from upstream.features.source import LayerSource
from upstream.frames import SAMPLE_RATE
from upstream.keyed import keyed
from upstream.model.config import EncoderConfig
from upstream.model.encoder import Encoder
from upstream.progress import say
from upstream.teacher.kmeans import fit
from upstream.teacher.nearest import assign, inertia

LABELLED_HOURS = 960.0  # LibriSpeech
FRAMES_AN_HOUR = 50 * 3600
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """What is measured. The labelling part has the sizes of a layer of BASE and the paper's 500 clusters.

    Attributes:
        layer: whose frames are labelled, of `encoder`: the paper's second teacher reads the sixth.
        utterances, utterance_seconds: of noise, that it hears; about as long as LibriSpeech's.
        device: where ours runs.
    """

    points: int = 1_000_000
    dim: int = 39
    clusters: int = 100
    label_frames: int = 50_000
    label_dim: int = 768
    label_clusters: int = 500
    repeats: int = 7
    seed: int = 0
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    layer: int = 6
    utterances: int = 16
    utterance_seconds: float = 12.0
    device: torch.device = CPU


def run(plan: Plan, say: Callable[[str], None] = say) -> dict[str, Any]:
    """Rows for a results file: `what` is `fit` or `label`; a peer that is not installed is left out and named.

    Returns:
        Rows of `fit`: `system`, `points`, `dim`, `clusters`, `seconds`, `inertia`, `held_out_inertia`. Rows of `label`:
        `system`, `frames`, `dim`, `clusters`, `seconds` (median), `frames_per_second`, and `share_of_matmul` for ours:
        the time of the matrix product alone over the time of labelling. `hours_960` is what labelling 960 h of frames
        takes at that rate, their features apart. The row of `label a layer` has those in it: `encoder_layers` run,
        `audio_seconds_per_second`, `hours_960`.
    """
    train, held = mixture(plan.points, plan.dim, plan.seed), mixture(plan.points, plan.dim, plan.seed, part="held out")
    rows: list[dict[str, Any]] = []
    for name, system in (("hubertkit", _ours), ("scikit-learn MiniBatchKMeans", _minibatch), ("faiss", _faiss)):
        say(f"{name}: {plan.points} points, {plan.clusters} clusters")
        try:
            here = train.to(plan.device) if system is _ours else train
            system(here[:max(plan.clusters, len(train) // 100)], plan.clusters, plan.seed)  # imports, thread pools
            began = time.perf_counter()
            centroids = system(here, plan.clusters, plan.seed).cpu()  # which waits for a GPU
            seconds = time.perf_counter() - began
        except ImportError as error:
            say(f"{name} is left out: {error}")
            continue
        found = [inertia(points, centroids, assign(points, centroids)) for points in (train, held)]
        rows.append({"what": "fit", "system": name, "points": plan.points, "dim": plan.dim, "clusters": plan.clusters,
                     "seconds": round(seconds, 3), "inertia": round(found[0], 5),
                     "held_out_inertia": round(found[1], 5)})
    return {"benchmark": "kmeans", "threads": torch.get_num_threads(), "device": plan.device.type,
            "rows": [*rows, *labelling(plan, say), labelling_a_layer(plan, say)]}


def mixture(points: int, dim: int, seed: int, part: str = "train") -> Tensor:
    """(points, dim) float32 of 300 overlapping Gaussians; `part` draws other points of the same mixture."""
    centres = keyed(seed, "centres").standard_normal((300, dim)) * np.linspace(3, 0.3, dim)
    rng = keyed(seed, "points", 0 if part == "train" else 1)
    which = rng.integers(0, len(centres), points)
    return torch.from_numpy((centres[which] + rng.standard_normal((points, dim))).astype(np.float32))


def labelling(plan: Plan, say: Callable[[str], None] = say) -> list[dict[str, Any]]:
    """Labels by one product and its argmin beside the product alone and faiss' search."""
    rng = keyed(plan.seed, "labelled")
    frames, book = (torch.from_numpy(rng.standard_normal((n, plan.label_dim), dtype=np.float32)).to(plan.device)
                    for n in (plan.label_frames, plan.label_clusters))
    index = _index(book.cpu())
    systems: dict[str, Callable[[], Any]] = {"matrix product alone": lambda: frames @ book.T,
                                             "hubertkit": lambda: assign(frames, book)}
    if index is not None:
        on_host = frames.cpu().numpy()
        systems["faiss"] = lambda: index.search(on_host, 1)
    times: dict[str, list[float]] = {name: [] for name in systems}
    say(f"labelling {plan.label_frames} frames of {plan.label_dim} by {plan.label_clusters} centroids")
    for _ in range(plan.repeats + 1):  # in turn: all meet the same noise of the machine; the first time warms up
        for name, system in systems.items():
            began = time.perf_counter()
            system()
            finish(plan.device)
            times[name].append(time.perf_counter() - began)
    median = {name: float(np.median(taken[1:])) for name, taken in times.items()}
    rows = []
    for name, seconds in median.items():
        rate = plan.label_frames / seconds
        rows.append({"what": "label", "system": name, "frames": plan.label_frames, "dim": plan.label_dim,
                     "clusters": plan.label_clusters, "seconds": round(seconds, 7), "frames_per_second": round(rate),
                     "share_of_matmul": round(median["matrix product alone"] / seconds, 4),
                     "hours_960": round(LABELLED_HOURS * FRAMES_AN_HOUR / rate / 3600, 4)})
    return rows


def labelling_a_layer(plan: Plan, say: Callable[[str], None] = say) -> dict[str, Any]:
    """Labels of recordings as a round makes them: the encoder up to a layer, and the nearest centroid of each frame.

    Decoding is not in it.
    """
    encoder = Encoder(plan.encoder).initialise(plan.seed).eval()
    source = LayerSource(encoder, plan.layer, plan.device)  # in float32, as rounds do
    rng = keyed(plan.seed, "recordings")
    samples = int(plan.utterance_seconds * SAMPLE_RATE)
    waves = 0.1 * rng.standard_normal((plan.utterances, samples), np.float32)
    book = torch.from_numpy(rng.standard_normal((plan.label_clusters, plan.encoder.width), dtype=np.float32))
    book = book.to(plan.device)
    say(f"labelling {plan.utterances * plan.utterance_seconds:g} s of audio by layer {plan.layer}")
    times = []
    for _ in range(3):  # the first warms up
        began = time.perf_counter()
        for _, frames in source.stream(_Lengths(np.full(plan.utterances, samples)), range(plan.utterances),
                                       lambda index: waves[index]):
            assign(frames, book).cpu()
        times.append(time.perf_counter() - began)
    seconds = float(np.median(times[1:]))
    rate = plan.utterances * plan.utterance_seconds / seconds
    return {"what": "label a layer", "system": "hubertkit", "encoder_layers": plan.layer, "dim": plan.encoder.width,
            "clusters": plan.label_clusters, "seconds": round(seconds, 3), "audio_seconds_per_second": round(rate, 1),
            "hours_960": round(LABELLED_HOURS / rate, 2)}


@dataclass(frozen=True)
class _Lengths:
    lengths: np.ndarray


def _ours(points: Tensor, clusters: int, seed: int) -> Tensor:
    return fit(points, clusters, seed)[0]


def _minibatch(points: Tensor, clusters: int, seed: int) -> Tensor:
    """As fairseq's learn_kmeans.py."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(n_clusters=clusters, init="k-means++", max_iter=100, batch_size=10_000, tol=0.0,
                            max_no_improvement=100, n_init=20, reassignment_ratio=0.0, compute_labels=False,
                            random_state=seed)
    return torch.from_numpy(np.asarray(model.fit(points.numpy()).cluster_centers_, np.float32))


def _faiss(points: Tensor, clusters: int, seed: int) -> Tensor:
    """As it comes: 25 iterations from random points, on a sample of 256 points a centroid."""
    import faiss

    model = faiss.Kmeans(points.shape[1], clusters, seed=seed)
    model.train(points.numpy())
    return torch.from_numpy(np.array(model.centroids, np.float32))


def _index(book: Tensor) -> Any:
    try:
        import faiss
    except ImportError:
        return None
    index = faiss.IndexFlatL2(book.shape[1])
    index.add(book.numpy())
    return index


def main() -> None:
    """Measure and write plain JSON, where `hubertkit` itself is not installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--points", type=int, default=Plan.points)
    parser.add_argument("--out", type=Path, default=Path("kmeans.json"))
    given = parser.parse_args()
    with results_file(given.out, "kmeans"):
        found = run(Plan(points=given.points, device=torch.device(given.device)), say)
        write_json(given.out, about("benchmarks.kmeans") | found)


if __name__ == "__main__":
    main()
