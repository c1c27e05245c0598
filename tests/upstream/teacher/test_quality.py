"""Purities and PNMI equal fairseq's, a table worked by hand, and what information theory demands."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.audio import AudioCache, import_librispeech
from upstream.errors import InputError
from upstream.features.source import MfccSource
from upstream.teacher.alignments import find_alignments, phone_class
from upstream.teacher.heat_map import ordered_shares, plot_heat_map
from upstream.teacher.quality import (
    count_pairs,
    figures,
    mean_run,
    quality,
    quality_of_frames,
    quality_of_streams,
    quality_of_utterances,
    reference_pairs,
)
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units, UnitsWriter

CLOSE = {"rel": 1e-6, "abs": 2e-7}  # fairseq adds 1e-8 inside its logarithms


@pytest.fixture(scope="module")
def inputs(oracles):
    return json.loads((oracles / "teacher" / "inputs.json").read_text())


def cases(oracles):
    return {c["case"]: c for c in json.loads((oracles / "teacher" / "figures.json").read_text())}


def compare(phones, labels, expected, upsample, pad=0):
    truth = {i: np.array([phone_class(str(p)) for p in sequence]) for i, sequence in phones.items()}
    labels = {i: np.array(sequence, int) for i, sequence in labels.items()}
    pairs = reference_pairs(truth, labels, upsample, pad)
    found = quality_of_utterances(*pairs, clusters=1 + max(max(s) for s in labels.values()))
    assert found.phone_purity == pytest.approx(expected["ref pur"], **CLOSE)
    assert found.cluster_purity == pytest.approx(expected["hyp pur"], **CLOSE)
    assert found.overall.phone_entropy == pytest.approx(expected["H(ref)"], **CLOSE)
    assert found.overall.cluster_entropy == pytest.approx(expected["H(hyp)"], **CLOSE)
    assert found.overall.mutual_information == pytest.approx(expected["MI"], **CLOSE)
    assert found.pnmi == pytest.approx(expected["MI/H(ref)"], **CLOSE)
    assert found.frames == expected["frm tot"]
    assert found.utterances == expected["utt tot"] - expected["utt miss"]
    assert [len(found.phones), found.table.shape[1] - len(found.dead)] == expected["p_xy shape"]
    assert mean_run(truth.values()) == pytest.approx(expected["ref segL"])
    lengthened = [np.pad(s, pad, mode="edge").repeat(upsample) for s in labels.values()]
    assert mean_run(lengthened) == pytest.approx(expected["hyp segL"])


@pytest.mark.parametrize("pad", [0, 1, 3])
def test_figures_of_clusters_at_50_hz_equal_fairseq(oracles, inputs, pad):
    expected = cases(oracles)[f"phones_vs_clusters_upsample2_pad{pad}"]["figures"]
    compare(inputs["phones_100hz"], inputs["clusters_50hz"], expected, upsample=2, pad=pad)


def test_figures_without_upsampling_equal_fairseq(oracles, inputs):
    expected = cases(oracles)["phones_vs_clusters_upsample1"]["figures"]
    compare(inputs["phones_100hz"], inputs["clusters_50hz"], expected, upsample=1)


def test_figures_of_labels_against_labels_equal_fairseq(oracles, inputs):
    names = {i: [f"L{chr(65 + n)}" for n in s] for i, s in inputs["other_labels_50hz"].items()}  # no digits to strip
    compare(names, inputs["clusters_50hz"], cases(oracles)["labels_vs_clusters_upsample1"]["figures"], upsample=1)


@pytest.mark.parametrize("case", ["single_cluster", "perfect"])
def test_extreme_figures_equal_fairseq(oracles, case):
    known = cases(oracles)[case]
    compare(known["refs"], known["hyps"], known["figures"], upsample=1)


def test_the_joint_table_equals_fairseq(inputs):
    truth = {i: np.array([phone_class(p) for p in s]) for i, s in inputs["phones_100hz"].items()}
    phones, labels = reference_pairs(truth, {i: np.array(s) for i, s in inputs["clusters_50hz"].items()})
    names, table = count_pairs(np.concatenate(phones), np.concatenate(labels), 17)
    expected = inputs["joint_table_upsample2_pad0"]
    for phone, row in zip(expected["phones"], expected["p"]):
        ours = table[names.index(phone)] / table.sum()
        np.testing.assert_allclose(ours[[int(c) for c in expected["clusters"]]], row, atol=1e-12)


def test_a_table_worked_by_hand():
    """Four frames each of A and B; cluster 0 holds 3 A and 1 B, cluster 1 holds 1 A and 3 B.

    Phone purity 3/8 + 3/8 = .75, cluster purity the same. H(phone) = ln 2. H(phone | cluster) is that of (3/4, 1/4):
    .75 ln(4/3) + .25 ln 4 = .562335. PNMI = 1 - .562335 / .693147 = .188722.
    """
    found = figures(np.array([[3, 1], [1, 3]]))
    assert (found.phone_purity, found.cluster_purity, found.frames) == (0.75, 0.75, 8)
    assert found.phone_entropy == pytest.approx(np.log(2))
    assert found.pnmi == pytest.approx(0.188722, abs=1e-6)


def test_silence_is_one_class_and_is_left_out_of_the_second_figure():
    """Clusters 2 and 3 are silence, 0 is A, 1 is B: perfect. Without silence two clusters are left, both used."""
    phones = np.array(["SIL", "SIL", "A", "A", "B", "SIL"])
    labels = np.array([2, 3, 0, 0, 1, 2])
    found = quality_of_frames(phones, labels, 5)
    assert found.phones == ("SIL", "A", "B")
    assert found.pnmi == pytest.approx(1)
    assert found.cluster_purity == pytest.approx(5 / 6)
    assert found.speech.frames == 3
    assert found.speech.cluster_purity == 1
    assert found.speech.phone_entropy == pytest.approx(np.log(3) - 2 / 3 * np.log(2))
    assert found.dead == (4,)
    assert (found.phone_run, found.cluster_run) == (6 / 4, 6 / 5)
    assert found.units_per_second == pytest.approx(50 * 5 / 6)  # five runs in six frames of 20 ms


def test_speech_figures_are_those_of_the_frames_of_speech():
    rng = np.random.default_rng(0)
    phones, labels = rng.choice(["SIL", "A", "B", "C"], 500), rng.integers(7, size=500)
    spoken = phones != "SIL"
    assert quality_of_frames(phones, labels, 7).speech == quality_of_frames(phones[spoken], labels[spoken], 7).overall


def test_where_nobody_is_silent_all_frames_are_speech():
    found = quality_of_frames(np.array(["A", "B", "A", "B"]), np.array([0, 1, 0, 0]), 2)
    assert found.speech == found.overall
    assert found.phones == ("A", "B")


def test_units_that_say_nothing_have_no_information_and_never_less():
    """H(phone) + H(cluster) - H(both) of three by three equal cells is -4e-16 in float64."""
    for shape in ((3, 3), (1, 4), (4, 1), (2, 7)):
        found = figures(np.full(shape, 3))
        assert 0 <= found.mutual_information <= 1e-15
        assert 0 <= found.pnmi <= 1e-15
    assert str(figures(np.full((4, 1), 3)).cluster_entropy) == "0.0"


def test_nothing_but_silence_has_no_speech_figures():
    found = quality_of_frames(np.array(["SIL"] * 3), np.array([0, 1, 0]), 2)
    assert found.speech is None
    assert (found.pnmi, found.phone_purity) == (0.0, 1.0)
    json.dumps(found.as_json(), allow_nan=False)


def test_runs_do_not_span_utterances():
    assert mean_run([np.array([1, 1]), np.array([1, 1, 2]), np.array([])]) == 5 / 3
    assert mean_run([]) == 0


tables = st.integers(1, 6).flatmap(lambda rows: st.integers(1, 6).flatmap(lambda columns: st.lists(
    st.integers(0, 50), min_size=rows * columns, max_size=rows * columns).map(
        lambda counts: np.array(counts).reshape(rows, columns)))).filter(lambda table: table.sum() > 0)


@given(table=tables)
def test_figures_obey_information_theory(table):
    found, turned = figures(table), figures(table.T)
    assert 0 <= found.pnmi <= 1 + 1e-9
    assert found.mutual_information <= min(found.phone_entropy, found.cluster_entropy) + 1e-9
    assert found.mutual_information == pytest.approx(turned.mutual_information, abs=1e-9)
    assert found.phone_purity == pytest.approx(turned.cluster_purity)
    assert table.sum(1).max() / table.sum() <= found.phone_purity + 1e-12 <= 1 + 2e-12
    joint = table / table.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    direct = sum(p * np.log(p / q) for p, q in zip(joint.ravel(), product.ravel()) if p > 0)
    assert found.mutual_information == pytest.approx(direct, abs=1e-9)


@given(table=tables, data=st.data())
def test_the_order_of_clusters_and_phones_does_not_matter_and_splitting_a_cluster_never_lowers_pnmi(table, data):
    found = figures(table)
    rows, columns = (data.draw(st.permutations(range(n))) for n in table.shape)
    assert figures(table[list(rows)][:, list(columns)]).pnmi == pytest.approx(found.pnmi, abs=1e-9)
    part = np.array([[data.draw(st.integers(0, int(row[0])))] for row in table])
    split = np.hstack([part, table[:, :1] - part, table[:, 1:]])
    assert figures(split).pnmi >= found.pnmi - 1e-9
    assert figures(split).phone_purity >= found.phone_purity - 1e-12


@pytest.mark.parametrize(("phones", "labels", "words"), [
    (["A", "B"], [0], "2 phones for 1 labels"), (["A"], [3], "expected .0, 3"), ([], [], "no frames to compare")])
def test_frames_that_cannot_be_compared_are_refused(phones, labels, words):
    with pytest.raises(InputError, match=words):
        quality_of_frames(np.array(phones, "<U3"), np.array(labels, int), 3)


@pytest.fixture
def stored(tmp_path):
    """Three utterances of 20 frames: `a` and `b` with an alignment of A for .2 s and then B, `c` without."""
    with UnitsWriter(tmp_path / "units", (3,)) as writer:
        for utterance_id, second in (("a", 1), ("b", 2), ("c", 0)):
            writer.add(utterance_id, np.repeat([0, second], 10))
    for utterance_id in "ab":
        (tmp_path / f"{utterance_id}.ctm").write_text(f"{utterance_id} 1 0 0.2 AA1\n{utterance_id} 1 0.2 0.2 B\n")
    return Units.load(tmp_path / "units"), {i: tmp_path / f"{i}.ctm" for i in "ab"}


def test_stored_units_are_compared_frame_by_frame(stored):
    units, alignments = stored
    seen = []
    found = quality(units, alignments, progress=lambda done, total: seen.append((done, total)))
    assert found.table.tolist() == [[20, 0, 0], [0, 10, 10]]
    assert (found.phones, found.utterances, found.missing, found.frames) == (("AA", "B"), 2, 1, 40)
    assert (found.phone_purity, found.cluster_purity, found.pnmi) == (1.0, 0.75, pytest.approx(1))
    assert seen == [(1, 2), (2, 2)]


def test_every_stream_is_compared_with_its_own_classes(tmp_path):
    """Ten frames of A and ten of B: the second of three classes and of two; the first stream knows neither."""
    with UnitsWriter(tmp_path / "units", (2, 3)) as writer:
        writer.add("a", np.arange(20) % 2, np.repeat([2, 0], 10))
    (tmp_path / "a.ctm").write_text("a 1 0 0.2 A\na 1 0.2 0.2 B\n")
    units, alignments = Units.load(tmp_path / "units"), {"a": tmp_path / "a.ctm"}
    first, second = quality_of_streams(units, alignments)
    assert first.table.tolist() == [[5, 5], [5, 5]]
    assert second.table.tolist() == [[0, 0, 10], [10, 0, 0]]
    assert quality(units, alignments, stream=1).table.tolist() == second.table.tolist()


def test_an_alignment_that_does_not_cover_its_recording_is_refused(tmp_path):
    """Of six seconds it tells of .4: it is of another recording, or was cut off."""
    with UnitsWriter(tmp_path / "units", (3,)) as writer:
        writer.add("a", np.zeros(300, int))
    (tmp_path / "a.ctm").write_text("a 1 0 0.2 A\na 1 0.2 0.2 B\n")
    with pytest.raises(InputError, match=r"ends at 0\.40 s, the recording goes on to 6\.0.* does not cover it"):
        quality(Units.load(tmp_path / "units"), {"a": tmp_path / "a.ctm"})


def test_a_manifest_restricts_the_comparison(stored):
    units, alignments = stored
    found = quality(units, alignments, SimpleNamespace(ids=["b", "c"]))
    assert found.table.tolist() == [[10, 0, 0], [0, 0, 10]]
    assert found.dead == (1,)


def test_units_and_alignments_of_different_utterances_are_refused(stored, tmp_path):
    with pytest.raises(InputError, match=r"no utterance has both .*\(units of a, alignment of x\)"):
        quality(stored[0], {"x": tmp_path / "a.ctm"})


def test_a_heat_map_orders_clusters_along_the_phones(tmp_path):
    table = np.array([[0, 9, 0, 1], [30, 0, 0, 10], [0, 1, 0, 0]])
    shares, phones, clusters = ordered_shares(table)
    assert phones.tolist() == [1, 0, 2]
    assert clusters.tolist() == [0, 3, 1]  # cluster 2 is unused
    np.testing.assert_allclose(shares, [[1, 10 / 11, 0], [0, 1 / 11, 0.9], [0, 0, 0.1]])
    plot_heat_map(quality_of_frames(np.array(["A", "B"] * 5), np.arange(10) % 4, 4), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_hundred_clusters_of_mfccs_of_real_speech_say_a_third_of_what_phones_do(speech, tmp_path):
    """PNMI of .25 is published for LibriSpeech at 1000 hours; four speakers and their own hour are easier."""
    manifest = import_librispeech(speech / "LibriSpeech", (speech / "splits" / "aligned.txt").read_text().split())
    audio = AudioCache(manifest)
    teacher = Teacher.fit(MfccSource(), manifest, 100, seed=0, sample_frames=50_000, read=audio.wave)
    units = teacher.label(MfccSource(), manifest, tmp_path, read=audio.wave)
    found = quality(units, find_alignments(speech / "LibriSpeech" / "train-clean-aligned"), manifest)
    assert 0.33 < found.pnmi < 0.38
    assert 0.29 < found.speech.pnmi < found.pnmi
