"""What a GPU is asked for in the few minutes that somebody has one runs on a pretended one, so that it runs then."""

from dataclasses import replace

import torch
from pretend_gpu import CUDA, pretended_gpu

from benchmarks import kmeans, speed
from upstream.model.config import EncoderConfig

KMEANS = kmeans.Plan(device=CUDA, points=2000, dim=5, clusters=8, label_frames=500, label_dim=16, label_clusters=9,
                     repeats=2, encoder=EncoderConfig(width=32, layers=2, heads=2, ffn=64, conv_dim=16), layer=1,
                     utterances=3, utterance_seconds=1.0)


def test_the_comparison_of_speed_runs():
    with pretended_gpu():
        plan = speed.plan_for("cuda", quick=True)
        plan = replace(plan, systems=("hubertkit", "transformers"), memory=True)
        [rows] = speed.measure(plan, say=lambda line: None)
    assert [row["system"] for row in rows] == ["hubertkit", "transformers"]
    assert all(row["device"] == "cuda" and row["seconds"] > 0 for row in rows)


def test_the_comparison_of_kmeans_runs_and_finds_what_the_cpu_finds():
    def ours(plan):
        rows = [row for row in kmeans.run(plan, say=lambda line: None)["rows"] if row["system"] == "hubertkit"]
        return {row["what"]: row.get("inertia") for row in rows}

    with pretended_gpu():
        there = ours(KMEANS)
    here = ours(replace(KMEANS, device=torch.device("cpu")))
    assert here.keys() == there.keys() == {"fit", "label", "label a layer"}
    assert abs(here["fit"] - there["fit"]) < 0.05 * here["fit"]
