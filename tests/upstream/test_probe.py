"""What a probe between updates reads."""

from types import SimpleNamespace

import numpy as np
import pytest

from upstream import probe


@pytest.mark.parametrize(("labels", "warned"), [(["AH0", "K", "sil"], False), (["HELLO", "WORLDLY", "sil"], True)])
def test_words_for_phones_are_warned_of(monkeypatch, tmp_path, capsys, labels, warned):
    utterances = [SimpleNamespace(id="a", length=16_000), SimpleNamespace(id="b", length=16_000)]
    manifest = SimpleNamespace(ids=["a", "b"], lengths=np.array([16_000, 16_000]), only=lambda ids: utterances)
    monkeypatch.setattr(probe, "find_alignments", lambda folder: {"a": None, "b": None})
    monkeypatch.setattr(probe, "frame_phones", lambda path, length, whole: np.array(labels))
    found = probe.build_probe(manifest, tmp_path, (1,), 2, 0, 60.0, SimpleNamespace(open=lambda subset: None))
    assert [list(row) for row in found.phones] == [labels, labels]
    assert ("look like words" in capsys.readouterr().err) == warned
