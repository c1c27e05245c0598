"""The gate lets units through that fit the recordings, and names the first utterance of those that do not."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import InputError
from upstream.frames import CONV_GRID, KALDI_GRID, STACKED_GRID
from upstream.teacher.gate import GateRules, check_same_teacher, check_units
from upstream.teacher.units import Units, UnitsWriter


def manifest(lengths, ids=None):
    return SimpleNamespace(ids=ids or [f"u{i}" for i in range(len(lengths))], lengths=np.array(lengths, np.int64))


def units_of(folder, sequences, classes=(3,), ids=None, **options):
    with UnitsWriter(folder, classes, **options) as writer:
        for i, labels in enumerate(sequences):
            writer.add(ids[i] if ids else f"u{i}", *([labels] if len(classes) == 1 else labels))
    return Units.load(folder)


def cycling(frames, classes=3):
    return np.arange(frames) % classes


@given(lengths=st.lists(st.integers(0, 5000), min_size=1, max_size=8), data=st.data())
def test_units_that_fit_pass_in_any_order_and_are_counted(tmp_path_factory, lengths, data):
    counts = [CONV_GRID.frames(n) for n in lengths] + [4]  # and an utterance that the manifest does not have
    order = data.draw(st.permutations(range(len(counts))))
    units = units_of(tmp_path_factory.mktemp("u"), [cycling(counts[i]) for i in order], ids=[f"u{i}" for i in order])
    [histogram] = check_units(units, manifest(lengths))
    expected = sum(np.bincount(cycling(n), minlength=3) for n in counts)
    assert histogram.tolist() == expected.tolist()


@given(lengths=st.lists(st.integers(720, 5000), min_size=2, max_size=6), off=st.sampled_from([-1, 1, 2]),
       data=st.data())
def test_one_label_too_few_or_too_many_is_refused_by_name(tmp_path_factory, lengths, off, data):
    wrong = data.draw(st.integers(0, len(lengths) - 1))
    counts = [CONV_GRID.frames(n) + off * (i == wrong) for i, n in enumerate(lengths)]
    units = units_of(tmp_path_factory.mktemp("u"), [cycling(n) for n in counts])
    with pytest.raises(InputError, match=f"^u{wrong}: {counts[wrong]} labels for {lengths[wrong]} samples, "
                                         f"expected {counts[wrong] - off}[^(]*$"):
        check_units(units, manifest(lengths))


def test_several_wrong_utterances_are_counted(tmp_path):
    units = units_of(tmp_path, [cycling(49), cycling(48), cycling(50)])
    with pytest.raises(InputError, match=r"^u1: 48 labels for 16000 samples, expected 49 \(and 1 more utterances"):
        check_units(units, manifest([16_000] * 3))


def test_labels_at_100_hz_are_recognised(tmp_path):
    units = units_of(tmp_path, [cycling(KALDI_GRID.frames(16_000))])
    with pytest.raises(InputError, match=r"^u0: 98 labels .*100 Hz: keep every second one"):
        check_units(units, manifest([16_000]))


def test_units_at_another_rate_are_refused(tmp_path):
    units = units_of(tmp_path, [cycling(98)], rate=100.0)
    with pytest.raises(InputError, match="units at 100 Hz, the encoder has 50 frames"):
        check_units(units, manifest([16_000]))


def test_units_at_nearly_the_rate_are_refused(tmp_path):
    """Of an hour at 50.01 Hz the labels are ahead by 36 frames in the end."""
    units = units_of(tmp_path, [cycling(49)], rate=50.01)
    with pytest.raises(InputError, match=r"units at 50\.01 Hz, the encoder has 50 frames"):
        check_units(units, manifest([16_000]))


def test_labels_at_100_hz_are_recognised_behind_others_that_fit(tmp_path):
    units = units_of(tmp_path, [cycling(49), cycling(KALDI_GRID.frames(8000))])
    with pytest.raises(InputError, match=r"^u1: 48 labels for 8000 samples, .*100 Hz: keep every second one"):
        check_units(units, manifest([16_000, 8000]))


def test_a_missing_utterance_is_named(tmp_path):
    units = units_of(tmp_path, [cycling(49)])
    with pytest.raises(InputError, match=r"^u1: no units in .*and 1 more utterances"):
        check_units(units, manifest([16_000] * 3))


def test_a_class_that_never_occurs_is_refused(tmp_path):
    units = units_of(tmp_path, [cycling(49)], classes=(5,))
    with pytest.raises(InputError, match=r"class 3 of 5 never occurs \(and 1 more classes"):
        check_units(units, manifest([16_000]))


def test_each_stream_is_checked(tmp_path):
    units = units_of(tmp_path, [(cycling(49), cycling(49, 2))], classes=(3, 3))
    with pytest.raises(InputError, match="stream 1: class 2 of 3 never occurs"):
        check_units(units, manifest([16_000]))


def test_a_single_class_is_refused(tmp_path):
    units = units_of(tmp_path, [cycling(49, 1)], classes=(1,))
    with pytest.raises(InputError, match="1 class; predicting it teaches nothing"):
        check_units(units, manifest([16_000]))


def test_a_label_beyond_the_classes_is_refused_by_the_name_of_its_utterance(tmp_path):
    units_of(tmp_path, [cycling(49), cycling(49)])
    stored = np.load(tmp_path / "stream0.npy")
    stored[50] = 9  # in u1; no writer of ours lets this through
    np.save(tmp_path / "stream0.npy", stored)
    with pytest.raises(InputError, match=r"^u1: label 9 at frame 50 .*3 classes"):
        check_units(Units.load(tmp_path), manifest([16_000] * 2))


def test_the_stacked_filterbank_grid_accepts_the_same_units(tmp_path):
    lengths = [400, 719, 720, 16_000]
    units = units_of(tmp_path, [cycling(CONV_GRID.frames(n)) for n in lengths])
    stacked, conv = (check_units(units, manifest(lengths), grid) for grid in (STACKED_GRID, CONV_GRID))
    np.testing.assert_array_equal(stacked, conv)


def test_codes_that_nobody_fitted_may_go_unused_but_not_all_but_one(tmp_path):
    recordings = manifest([16_000])
    units = units_of(tmp_path / "a", [cycling(49, 2)], classes=(9,), meta={"fitted": False})
    assert check_units(units, recordings)[0].tolist() == [25, 24, 0, 0, 0, 0, 0, 0, 0]
    with pytest.raises(InputError, match="class 2 of 9 never occurs"):
        check_units(units_of(tmp_path / "b", [cycling(49, 2)], classes=(9,), meta={"fitted": True}), recordings)
    with pytest.raises(InputError, match="1 of 9 classes in use"):
        check_units(units_of(tmp_path / "c", [np.zeros(49, int)], classes=(9,), meta={"fitted": False}), recordings)


def test_a_class_with_nearly_everything_is_refused_and_the_rule_can_be_moved(tmp_path):
    """41 of 49 frames are 83.7 %, above the 80 % that are allowed."""
    labels = np.zeros(49, int)
    labels[:8] = [1, 2] * 4
    units, recordings = units_of(tmp_path, [labels]), manifest([16_000])
    with pytest.raises(InputError, match=r"class 0 has 83\.7% of the frames, at most 80% .*gate check `share`, and "
                                         r"gate\.overrule=\[share\]"):
        check_units(units, recordings)
    assert check_units(units, recordings, rules=GateRules(most_share=0.84))[0].tolist() == [41, 4, 4]
    assert check_units(units, recordings, rules=GateRules(overrule=("share",)))[0].tolist() == [41, 4, 4]


def test_what_is_overruled_is_passed_over_and_nothing_else(tmp_path):
    units, recordings = units_of(tmp_path, [cycling(49)], classes=(5,)), manifest([16_000])
    with pytest.raises(InputError, match=r"gate check `unused`, and gate\.overrule=\[unused\] trains all the same"):
        check_units(units, recordings, rules=GateRules(overrule=("share", "teacher")))
    assert check_units(units, recordings, rules=GateRules(overrule=("unused",)))[0].tolist() == [17, 16, 16, 0, 0]
    with pytest.raises(InputError, match=r"gate check `counts`, which cannot be overruled"):
        check_units(units, manifest([16_320]), rules=GateRules(overrule=("unused",)))


@pytest.mark.parametrize("rules", [{"overrule": ("counts",)}, {"most_share": 0}, {"most_share": 1.1}])
def test_rules_that_cannot_be_are_refused(rules):
    with pytest.raises(ValueError, match=r"gate: (overrule=counts, must be one of|most_share=)"):
        GateRules(**rules)


def test_units_of_another_teacher_than_the_expected_are_refused(tmp_path):
    units = units_of(tmp_path, [cycling(49)], meta={"teacher_hash": "a" * 64})
    assert check_units(units, manifest([16_000]), teacher_hash="a" * 64)
    with pytest.raises(InputError, match=r"units of teacher aaaaaaaaaaaa, expected those of teacher bbbbbbbbbbbb; .*"
                                         r"gate\.overrule=\[teacher\]"):
        check_units(units, manifest([16_000]), teacher_hash="b" * 64)


def test_train_and_valid_must_be_of_one_teacher(tmp_path):
    a, b, other, unknown, wide = (
        units_of(tmp_path / name, [cycling(49)], meta=meta, classes=classes) for name, meta, classes in (
            ("a", {"teacher_hash": "a" * 64}, (3,)), ("b", {"teacher_hash": "a" * 64}, (3,)),
            ("other", {"teacher_hash": "c" * 64}, (3,)), ("unknown", {}, (3,)), ("wide", {}, (4,))))
    check_same_teacher(a, b)
    for wrong, said in ((other, "units of teacher cccccccccccc, those of .* are of teacher aaaaaaaaaaaa"),
                        (unknown, "units of an unknown teacher")):
        with pytest.raises(InputError, match=said):
            check_same_teacher(a, wrong)
        check_same_teacher(a, wrong, GateRules(overrule=("teacher",)))
    with pytest.raises(InputError, match="an unknown teacher"):
        check_same_teacher(unknown, unknown)
    with pytest.raises(InputError, match=r"\[4\] classes at 50 Hz, .* has \[3\]"):
        check_same_teacher(a, wide, GateRules(overrule=("teacher",)))


def test_train_and_valid_must_have_one_rate(tmp_path):
    """Of one teacher, once for encoders of frames twice as long."""
    one, wide = (units_of(tmp_path / str(rate), [cycling(49)], meta={"teacher_hash": "a" * 64}, rate=rate)
                 for rate in (50.0, 25.0))
    with pytest.raises(InputError, match=r"\[3\] classes at 25 Hz, .* has \[3\] at 50 Hz"):
        check_same_teacher(one, wide)


def test_four_fifths_of_the_frames_may_be_of_one_class_where_nothing_else_is_said(tmp_path):
    for most, passes in ((40, True), (41, False)):
        labels = np.zeros(50, int)
        labels[most:] = cycling(50 - most, 2) + 1
        units, recordings = units_of(tmp_path / str(most), [labels]), manifest([50 * 320 + 80])
        if passes:
            assert check_units(units, recordings)[0][0] == 40
        else:
            with pytest.raises(InputError, match=r"class 0 has 82\.0% of the frames, at most 80% "):
                check_units(units, recordings)


def test_units_of_another_manifest_are_told_as_such(tmp_path):
    units = units_of(tmp_path, [cycling(49), cycling(48)], meta={"manifest_hash": "d" * 64})
    recordings = manifest([16_000] * 2)
    recordings.hash = "e" * 64
    with pytest.raises(InputError, match=r"u1: 48 labels .*other audio, which were made of manifest dddddddddddd and "
                                         "not of this one, eeeeeeeeeeee"):
        check_units(units, recordings)
    unknown = units_of(tmp_path / "unknown", [cycling(49), cycling(48)])
    with pytest.raises(InputError, match=r"u1: 48 labels .*the units are of other audio; make them again"):
        check_units(unknown, recordings)


def test_counting_in_blocks_gives_the_same_and_finds_the_same_place(tmp_path, monkeypatch):
    monkeypatch.setattr("upstream.teacher.gate.LABELS_AT_ONCE", 7)
    units = units_of(tmp_path, [cycling(49), cycling(49)])
    assert check_units(units, manifest([16_000] * 2))[0].tolist() == [34, 32, 32]
    stored = np.load(tmp_path / "stream0.npy")
    stored[50] = 9
    np.save(tmp_path / "stream0.npy", stored)
    with pytest.raises(InputError, match=r"^u1: label 9 at frame 50 "):
        check_units(Units.load(tmp_path), manifest([16_000] * 2))


@pytest.mark.parametrize(("place", "where"), [(7, "u0: label 3 at frame 7 "), (49, "u1: label 3 at frame 49 ")],
                         ids=["counted from 1", "at the beginning of an utterance"])
def test_the_first_label_beyond_the_classes_is_refused_too(tmp_path, place, where):
    units_of(tmp_path, [cycling(49), cycling(49)])
    stored = np.load(tmp_path / "stream0.npy")
    stored[place] = 3
    np.save(tmp_path / "stream0.npy", stored)
    with pytest.raises(InputError, match=f"^{where}.*3 classes"):
        check_units(Units.load(tmp_path), manifest([16_000] * 2))


def test_one_class_teaches_nothing_whatever_is_overruled(tmp_path):
    """And all of one class is what `most_share: 1` lets through, of two that both occur."""
    rules, recordings = GateRules(most_share=1, overrule=("unused",)), manifest([16_000])
    with pytest.raises(InputError, match="1 of 3 classes in use; predicting one teaches nothing"):
        check_units(units_of(tmp_path / "one", [np.zeros(49, int)]), recordings, rules=rules)
    labels = np.zeros(49, int)
    labels[0] = 1
    assert check_units(units_of(tmp_path / "two", [labels]), recordings, rules=rules)[0].tolist() == [48, 1, 0]


def test_a_class_with_just_the_most_that_one_may_have_passes(tmp_path):
    units = units_of(tmp_path, [cycling(48, 2)], classes=(2,))
    lengths = manifest([48 * 320 + 80])
    assert check_units(units, lengths, rules=GateRules(most_share=0.5))[0].tolist() == [24, 24]
    with pytest.raises(InputError, match=r"class 0 has 50\.0% of the frames"):
        check_units(units, lengths, rules=GateRules(most_share=0.49))
