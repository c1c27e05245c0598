"""What a probe between updates reads."""

from types import SimpleNamespace

import numpy as np
import pytest

from upstream import probe
from upstream.audio.caching import CacheRecipe
from upstream.errors import InputError


def manifest(monkeypatch, labels):
    utterances = [SimpleNamespace(id="a", length=16_000), SimpleNamespace(id="b", length=16_000)]
    monkeypatch.setattr(probe, "find_alignments", lambda folder: {"a": None, "b": None})
    monkeypatch.setattr(probe, "frame_phones", lambda path, length, whole: np.array(labels))
    return SimpleNamespace(ids=["a", "b"], lengths=np.array([16_000, 16_000]), only=lambda ids: utterances)


def test_fewer_frames_than_clusters_are_refused_before_the_training(monkeypatch, tmp_path):
    """It was found at the first validation, before anything was saved."""
    with pytest.raises(InputError, match="4 aligned frames for the probe's 5 clusters; align more"):
        probe.build_probe(manifest(monkeypatch, ["AH", "K"]), tmp_path, (1,), 5, 0, 60.0, CacheRecipe())


@pytest.mark.parametrize(("labels", "warned"), [(["AH0", "K", "sil"], False), (["HELLO", "WORLDLY", "sil"], True)])
def test_words_for_phones_are_warned_of(monkeypatch, tmp_path, capsys, labels, warned):
    found = probe.build_probe(manifest(monkeypatch, labels), tmp_path, (1,), 2, 0, 60.0,
                              SimpleNamespace(open=lambda subset: None))
    assert [list(row) for row in found.phones] == [labels, labels]
    assert ("look like words" in capsys.readouterr().err) == warned


def test_each_layer_is_clustered_by_itself(monkeypatch):
    phones = np.array(["A", "B"] * 50)
    telling = np.where(phones == "A", 1.0, -1.0)[:, None].astype(np.float32)
    noise = np.random.default_rng(0).standard_normal((100, 1)).astype(np.float32)
    monkeypatch.setattr(probe, "layer_features", lambda *_: [{1: noise, 2: telling}])
    found = probe.LayerProbe(SimpleNamespace(), (phones,), (1, 2), 2, 0, None)(None)
    assert found["pnmi_layer2"] == pytest.approx(1)
    assert found["pnmi_layer1"] < 0.2
