"""What rounds need of the recordings is looked at before the first of them."""

import numpy as np
import pytest
from small_rounds import TINY, write_recordings

from tools.main import run as main
from upstream.audio import import_folder
from upstream.errors import InputError
from upstream.pretrain import pretrain
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe
from upstream.recipe import load_recipe
from upstream.teacher.units import UnitsWriter


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"), 8)


def rounds(recordings, out, *words):
    return pretrain(load_recipe(PretrainRecipe, "hubert-tiny", [*TINY, f"data={recordings}", *words], SHIPPED), out,
                    lambda line: None)


@pytest.mark.parametrize(("words", "says"), [
    (["rounds.1.teacher={units: '{here}/others', features: mfcc, layer: null}"], "^u0: no units in .*`coverage`"),
    (["rounds.1.teacher={units: '{here}/long', features: mfcc, layer: null}"], "^u0: 75 labels .*expected 74"),
    (["rounds.1.training.least_seconds=9"], "^no utterance has the 449 frames that training needs at least in round 2"),
    (["rounds.1.mask.span=80", "rounds.1.training.crop_seconds=4"], "^no utterance has the .* in round 2; lower "),
    (["rounds.1.teacher.clusters=5000"], "^rounds.1.teacher.clusters=5000: the recordings to train on have [45].. "),
    (["rounds.1.teacher.clusters=[8,5000]"], r"^rounds.1.teacher.clusters=\[8, 5000\]: .* frames; give more audio"),
    (["rounds.1.teacher.layer=best", "rounds.1.teacher.clusters=300", "probe.seconds=3"],
     r"what is heard for layer=best \(probe.seconds=3\) has 148 frames"),
    (["rounds.1.teacher.layer=best", "probe.alignments={here}/al", "probe.clusters=2"],
     "none of its 1 alignments is of an utterance of the manifest"),
])
def test_what_a_later_round_cannot_train_on_is_told_before_the_first(recordings, tmp_path, words, says):
    (tmp_path / "al").mkdir()
    (tmp_path / "al/x.ctm").write_text("x 1 0 0.7 AA\n")
    for name, ids, frames in (("others", ["x"], 74), ("long", import_folder(recordings).ids, 75)):
        with UnitsWriter(tmp_path / name, (5,), {"fitted": False}) as writer:
            for i in ids:
                writer.add(i, np.arange(frames) % 5)
    with pytest.raises(InputError, match=says):
        rounds(recordings, tmp_path / "run", *(word.replace("{here}", str(tmp_path)) for word in words))
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_dir()] == ["corpus"]


def test_a_teacher_that_fits_nothing_needs_no_frames(recordings, tmp_path):
    """What is checked beforehand is no more than what the round itself would refuse."""
    words = ["rounds.0.teacher.kind=random", "rounds.0.teacher.clusters=5000", "rounds.0.teacher.sample_frames=5000"]
    first, second = rounds(recordings, tmp_path, *words)
    assert (first.units_result["classes"], second.units_result["classes"]) == ([5000], [8])


def test_only_what_is_done_before_the_end_is_asked_for(recordings, tmp_path, capsys):
    """`--until round1/units` was refused for recordings that are too short for the training that it leaves out."""
    words = ["pretrain", "hubert-tiny", *TINY, f"data={recordings}", "training.least_seconds=9", "--ranks", "1"]
    words += ["--out", str(tmp_path)]
    assert main([*words, "--until", "round1/units"]) == 0
    assert main([*words, "--until", "round1"]) == 1
    assert "training needs at least in round 1" in capsys.readouterr().err
