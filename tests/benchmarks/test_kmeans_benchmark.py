"""The k-means benchmark measures what it says."""

from __future__ import annotations

import pytest
import torch

from benchmarks.kmeans import Plan, labelling, labelling_a_layer, mixture, run
from benchmarks.results import read_results, write_results
from upstream.model.config import EncoderConfig

TINY = Plan(points=4000, dim=5, clusters=8, label_frames=500, label_dim=16, label_clusters=9, repeats=2,
            encoder=EncoderConfig(width=32, layers=2, heads=2, ffn=64, conv_dim=16), layer=1, utterances=3,
            utterance_seconds=1.0)


def test_systems_find_clusters_as_good_as_each_other(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("faiss")
    found = run(TINY, say=lambda _: None)
    fits = {r["system"]: r for r in found["rows"] if r["what"] == "fit"}
    assert set(fits) == {"hubertkit", "scikit-learn MiniBatchKMeans", "faiss"}
    best = min(r["inertia"] for r in fits.values())
    for row in fits.values():
        assert row["inertia"] < 1.1 * best
        assert row["held_out_inertia"] < 1.2 * best
    write_results(tmp_path / "kmeans.json", {"command": "a command", **found})
    assert read_results(tmp_path / "kmeans.json")["rows"] == found["rows"]


def test_held_out_points_are_others_of_the_same_mixture():
    train, held = mixture(5000, 3, 0), mixture(5000, 3, 0, part="held out")
    assert not torch.equal(train, held)
    torch.testing.assert_close(train.mean(0), held.mean(0), atol=0.3, rtol=0)
    assert torch.equal(train, mixture(5000, 3, 0))


def test_rates_follow_from_times():
    for row in labelling(TINY, say=lambda _: None):
        assert row["frames_per_second"] == pytest.approx(500 / row["seconds"], rel=0.2)
        assert row["hours_960"] == pytest.approx(960 * 50 / row["frames_per_second"], rel=0.01, abs=1e-4)


def test_the_rate_of_labelling_recordings_follows_from_its_time():
    row = labelling_a_layer(TINY, say=lambda _: None)
    assert row["audio_seconds_per_second"] == pytest.approx(3 / row["seconds"], rel=0.2)
    assert row["hours_960"] == pytest.approx(960 / row["audio_seconds_per_second"], rel=0.01, abs=0.01)
    assert (row["encoder_layers"], row["dim"], row["clusters"]) == (1, 32, 9)
