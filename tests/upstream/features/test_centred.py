"""Frames without the mean of their utterance, as sources of teachers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from upstream.errors import InputError
from upstream.features.centred import CentredSource, centred
from upstream.features.source import LayerSource, MfccSource
from upstream.model import Encoder, EncoderConfig
from upstream.pretrain_recipe import ProbeRecipe, TeacherRecipe
from upstream.round_teacher import teacher_key, teacher_source
from upstream.teacher.matching import matching_source
from upstream.teacher.sweep import sweep
from upstream.teacher.teacher import Teacher

SMALL = EncoderConfig(frontend="fbank", width=16, layers=2, heads=2, ffn=16, positional_kernel=4, positional_groups=4)


LENGTHS = (16_000, 9_000, 300)  # the last has no frame
pytestmark = pytest.mark.usefixtures("one_thread")


def test_two_frames_by_hand():
    assert centred(torch.tensor([[1.0, 10.0], [3.0, 30.0]])).tolist() == [[-1, -10], [1, 10]]


@given(st.integers(0, 9), st.integers(1, 5), st.floats(-100, 100))
def test_what_is_the_same_in_all_frames_is_gone(frames, dim, offset):
    x = torch.randn(frames, dim, generator=torch.Generator().manual_seed(frames))
    assert centred(x).shape == x.shape
    assert torch.allclose(centred(x + offset), centred(x), atol=1e-4)


def test_an_utterance_depends_on_itself_alone_and_one_without_frames_has_none(recordings):
    made = recordings(LENGTHS)
    found = dict(CentredSource(MfccSource()).stream(made, [0, 1, 2], made.read))
    plain = dict(MfccSource().stream(made, [0, 1, 2], made.read))
    assert len(found[2]) == len(plain[2]) == 0
    for i in (0, 1):
        assert torch.equal(found[i], plain[i] - plain[i].mean(0))


def test_each_layer_of_several_has_its_own_mean(recordings):
    made = recordings(LENGTHS)
    source = LayerSource(Encoder(SMALL).initialise(0), [1, 2], "cpu")
    frames: dict[int, Tensor] = dict(CentredSource(source).stream(made, [0], made.read))[0]
    for layer, plain in dict(source.stream(made, [0], made.read))[0].items():
        assert torch.allclose(frames[layer], plain - plain.mean(0), atol=1e-6)


def test_a_teacher_of_such_frames_says_so_and_takes_no_others(recordings, tmp_path):
    made = recordings(LENGTHS)
    teacher = Teacher.fit(CentredSource(MfccSource()), made, 4, seed=0, read=made.read)
    assert teacher.features["cmn"] is True
    teacher.save(tmp_path)
    loaded = Teacher.load(tmp_path)
    assert matching_source(loaded).describe() == teacher.features
    with pytest.raises(InputError, match="cmn True is now None"):
        loaded.check(MfccSource())


def test_a_recipe_asks_for_them_and_one_that_does_not_has_the_key_it_had():
    said = TeacherRecipe(cmn=True)
    assert teacher_source(said, [], None, torch.device("cpu")).describe()["cmn"] is True
    assert "cmn" not in teacher_source(TeacherRecipe(), [], None, torch.device("cpu")).describe()
    assert teacher_key(said, ProbeRecipe())[0] == teacher_key(TeacherRecipe(), ProbeRecipe())[0] | {"cmn": True}


def test_given_units_are_not_made_of_frames():
    with pytest.raises(ValueError, match="leave out cmn"):
        TeacherRecipe(units="somewhere", cmn=True)


def test_a_sweep_judges_them(recordings):
    made, encoder = recordings(LENGTHS[:2]), Encoder(SMALL).initialise(0)
    found = sweep(encoder, made, [2], read=made.read, layers=[2], cmn=True)
    assert found.teacher.features == CentredSource(LayerSource(encoder, 2, "cpu")).describe()
    again = Teacher.fit(CentredSource(LayerSource(encoder, 2, "cpu")), made, 2, seed=0, read=made.read)
    plain = sweep(encoder, made, [2], read=made.read, layers=[2])
    assert found.rows[0].inertia == pytest.approx(again.inertia, rel=0.05)
    assert found.rows[0].inertia < plain.rows[0].inertia  # the means of the utterances are gone
