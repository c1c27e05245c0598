"""Units of waveforms in memory are those of the same recordings in a corpus."""

from pathlib import Path

import numpy as np
import pytest

from upstream import Labeller
from upstream.errors import InputError, UsageError
from upstream.features.centred import with_cmn
from upstream.features.source import LayerSource, MfccSource
from upstream.model import Encoder, EncoderConfig, save_encoder
from upstream.teacher.teacher import Teacher

SHAPE = EncoderConfig(frontend="fbank", width=32, layers=2, heads=2, ffn=64, positional_groups=2)
LENGTHS = [16_000, 12_000, 20_321]


def encoder() -> Encoder:
    """One of random weights; no two are the same."""
    return Encoder(SHAPE).eval()


def fitted(source, corpus, folder: Path) -> Teacher:
    teacher = Teacher.fit(source, corpus, (6, 4), seed=0, read=corpus.read)
    teacher.save(folder)
    return teacher


@pytest.mark.parametrize("cmn", [False, True])
def test_units_of_a_waveform_are_those_of_the_recording_in_a_corpus(recordings, tmp_path, cmn):
    corpus, read = recordings(LENGTHS), encoder()
    source = with_cmn(LayerSource(read, 1, "cpu"), cmn)
    teacher = fitted(source, corpus, tmp_path / "teacher")
    stored = teacher.label(source, corpus, tmp_path / "units", read=corpus.read)
    save_encoder(read, tmp_path / "encoder", extra={})
    labeller = Labeller(tmp_path / "teacher", [tmp_path / "encoder"], device="cpu")
    assert labeller.teacher.classes == (6, 4)
    for index, name in enumerate(corpus.ids):
        found = labeller.labels(corpus.read(index))
        assert [stream.dtype for stream in found] == [np.int64] * 2
        for number, stream in enumerate(found):
            assert stream.tolist() == stored.labels(name, number).tolist()


def test_a_teacher_of_mfccs_needs_no_encoder_and_an_empty_recording_has_no_units(recordings, tmp_path):
    corpus = recordings(LENGTHS)
    labeller = Labeller(fitted(MfccSource(), corpus, tmp_path))
    assert [stream.shape for stream in labeller.labels(np.zeros(0, np.float32))] == [(0,), (0,)]
    with pytest.raises(UsageError, match="reads mfcc, not an encoder"):
        Labeller(tmp_path, [encoder()])


def test_another_encoder_than_the_teachers_is_refused(recordings, tmp_path):
    fitted(LayerSource(encoder(), 1, "cpu"), recordings(LENGTHS), tmp_path)
    with pytest.raises(InputError, match="fitted on encoder"):
        Labeller(tmp_path, [encoder()], device="cpu")
    with pytest.raises(UsageError, match=r"layer . of an encoder; give it \(--encoder\)$"):
        Labeller(tmp_path)
    with pytest.raises(UsageError, match="encoders='x': a single one; give a list of them"):
        Labeller(tmp_path, "x")
    with pytest.raises(UsageError, match="encoders=an Encoder: a single one; give a list of them"):
        Labeller(tmp_path, encoder())
    with pytest.raises(UsageError, match=r"^None: no encoder\. Known are "):
        Labeller(tmp_path, [None])
