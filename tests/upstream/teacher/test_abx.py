"""ABX: by hand, against loops that follow the definition word by word, and at the extremes."""

import itertools
import math
import tracemalloc
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import UsageError
from upstream.frames import WIDE_GRID
from upstream.teacher.abx import Span, Token, abx, find_spans, frame_distances, pairwise, thinned, warp


def angle(u, v):
    """Independent of the product of matrices: from the chord of unit vectors."""
    u, v = (np.asarray(w, np.float64) / math.dist(w, np.zeros(len(w))) for w in (u, v))
    return 2 * math.asin(min(1.0, math.dist(u, v) / 2)) / math.pi


def dtw_by_recursion(distances):
    """Libri-light's: costs forwards, then the path backwards."""
    n, m = distances.shape
    cost = np.full((n, m), np.inf)
    for i, j in itertools.product(range(n), range(m)):
        before = [cost[a, b] for a, b in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if a >= 0 and b >= 0]
        cost[i, j] = distances[i, j] + (min(before) if before else 0)
    i, j, length = n - 1, m - 1, 1
    while i > 0 and j > 0:
        up, left, diagonal = cost[i - 1, j], cost[i, j - 1], cost[i - 1, j - 1]
        if diagonal <= left and diagonal <= up:
            i, j = i - 1, j - 1
        elif left <= up:
            j -= 1
        else:
            i -= 1
        length += 1
    return cost[-1, -1] / (length + i + j)


def abx_by_loops(tokens, across):
    """Every triplet in turn: errors listed by pair of phones, speakers and context; averaged from the inside out."""
    tree = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for a, b, x in itertools.permutations(range(len(tokens)), 3):
        A, B, X = tokens[a], tokens[b], tokens[x]
        if not A.context == B.context == X.context or A.phone != X.phone or A.phone == B.phone:
            continue
        if A.speaker != B.speaker or (A.speaker != X.speaker) != across:
            continue
        ax, bx = (dtw_by_recursion(np.array([[angle(u, v) for v in X.frames] for u in T.frames])) for T in (A, B))
        error = 0.5 if abs(ax - bx) < 1e-9 else float(ax > bx)
        tree[A.phone, B.phone][A.speaker, X.speaker][A.context].append(error)
    if not tree:
        return None
    return 100 * np.mean([np.mean([np.mean([np.mean(e) for e in contexts.values()]) for contexts in speakers.values()])
                          for speakers in tree.values()])


def direction(degrees):
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def token(phone, degrees, speaker="s", context=("p", "n")):
    return Token(speaker, phone, context, np.array([direction(d) for d in degrees], np.float32))


def test_frames_are_apart_by_their_angle():
    found = frame_distances(np.array([direction(0), [0, 0]]), np.array([direction(d) for d in (0, 45, 90, 180)]))
    np.testing.assert_allclose(found, [[0, 0.25, 0.5, 1], [0.5] * 4], atol=1e-9)
    assert frame_distances(np.array([[5.0, 0]]), np.array([[0.1, 0]]))[0, 0] == 0


def test_angles_are_in_memory_once():
    """Bug: three times, so that a thousand tokens of eight frames took a gigabyte and a half."""
    frames = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    tracemalloc.start()
    found = frame_distances(frames, frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * found.nbytes


def test_a_warp_worked_by_hand():
    """0 90 against 0 0 90 at right angles: 0 + 0 + 0 along a path of 3; the last frame late costs 1/2 over 3."""
    same = frame_distances(np.array([direction(0), direction(90)]), np.array([direction(d) for d in (0, 0, 90)]))
    late = frame_distances(np.array([direction(0), direction(90)]), np.array([direction(d) for d in (0, 0, 0)]))
    found = warp(np.stack([same, late]), np.array([2, 2]), np.array([3, 3]))
    np.testing.assert_allclose(found, [0, 0.5 / 3], atol=1e-9)


def test_errors_worked_by_hand():
    """a at 0, 20 and b at 24 degrees, one speaker.

    a against b: X = 0: A is 20 away, B 24: right. X = 20: A is 20 away, B 4: wrong: 50%. b has one token, so there is
    no b against a. Another speaker's a at 30: A = 0 and A = 20 are 30 and 10 away, B 6: both wrong. Nobody speaks b but
    s, so across is 100%.
    """
    tokens = [token("a", [0]), token("a", [20]), token("b", [24]), token("a", [30], "t")]
    found = abx(tokens)
    assert (found.within, found.within_triplets) == (50, 2)
    assert (found.across, found.across_triplets) == (100, 2)


def test_contexts_are_averaged_before_speakers_and_speakers_before_phones():
    right = [token("a", [0]), token("a", [1]), token("b", [90])]
    wrong = [token("a", [0], "s", ("q", "n")), token("a", [90], "s", ("q", "n")), token("b", [45], "s", ("q", "n"))]
    other = [token("a", [0], "t"), token("a", [90], "t"), token("b", [45], "t")]
    assert abx(right + wrong + other).within == 100 * np.mean([np.mean([0, 1]), 1])


@given(seed=st.integers(0, 10_000), count=st.integers(3, 14))
def test_errors_are_those_of_loops_over_all_triplets(seed, count):
    rng = np.random.default_rng(seed)
    tokens = [Token(str(rng.choice(["s", "t"])), str(rng.choice(["a", "b", "c"])), (str(rng.choice(["p", "q"])), "n"),
                    rng.normal(size=(rng.integers(1, 5), 3)).astype(np.float32)) for _ in range(count)]
    found = abx(tokens)
    for mine, across in ((found.within, False), (found.across, True)):
        expected = abx_by_loops(tokens, across)
        assert mine == (None if expected is None else pytest.approx(expected))


@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 9), min_size=2, max_size=7))
def test_distances_are_those_of_one_pair_at_a_time(seed, sizes):
    rng = np.random.default_rng(seed)
    tokens = [rng.normal(size=(n, 4)).astype(np.float32) for n in sizes]
    found = pairwise(tokens)
    for i, j in itertools.combinations(range(len(tokens)), 2):
        table = np.array([[angle(u, v) for v in tokens[j]] for u in tokens[i]])
        assert found[i, j] == found[j, i] == pytest.approx(dtw_by_recursion(table), abs=1e-7)


def test_features_that_name_the_phone_make_no_error_and_noise_half():
    rng = np.random.default_rng(0)
    keys = [(s, p, (c, "n")) for s in "stu" for p in "abcd" for c in "pq" for _ in range(4)]
    axes = dict(zip("abcd", np.eye(4, dtype=np.float32)))
    clean = abx([Token(*key, np.tile(axes[key[1]], (3, 1))) for key in keys])
    assert (clean.within, clean.across) == (0, 0)
    noise = abx([Token(*key, rng.normal(size=(3, 8)).astype(np.float32)) for key in keys])
    assert noise.within == pytest.approx(50, abs=5)
    assert noise.across == pytest.approx(50, abs=5)
    same = abx([Token(*key, np.ones((2, 3), np.float32)) for key in keys])
    assert (same.within, same.across) == (50, 50)


def test_nothing_to_compare_is_none():
    found = abx([token("a", [0]), token("a", [10])])
    assert (found.within, found.across, found.within_triplets) == (None, None, 0)


@pytest.mark.parametrize("speaker", ["within", "across"])
def test_errors_are_those_of_fastabx_where_that_is_installed(tmp_path, speaker):
    """ZeroSpeech's evaluation; it wants Python 3.12. One file for each token, all of its frames."""
    fastabx = pytest.importorskip("fastabx")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    tokens, rows = [], ["#file onset offset #phone prev-phone next-phone speaker"]
    for number in range(120):
        phone, owner, before = str(rng.choice(["a", "b", "c"])), str(rng.choice(["s", "t", "v"])), \
            str(rng.choice(["p", "q"]))
        frames = rng.normal(size=(rng.integers(2, 9), 8)) + 2 * np.eye(8)["abc".index(phone)]
        tokens.append(Token(owner, phone, (before, "n"), frames.astype(np.float32)))
        torch.save(torch.from_numpy(tokens[-1].frames), tmp_path / f"f{number}.pt")
        rows.append(f"f{number} 0.0 {0.02 * len(frames):.2f} {phone} {before} n {owner}")
    (tmp_path / "all.item").write_text("\n".join(rows) + "\n")
    expected = fastabx.zerospeech_abx(tmp_path / "all.item", tmp_path, max_size_group=None, max_x_across=None,
                                      speaker=speaker, device="cpu")
    assert 1 < getattr(abx(tokens), speaker) < 40
    assert getattr(abx(tokens), speaker) == pytest.approx(100 * expected, abs=1e-3)


def write_ctm(path, phones, seconds=0.1):
    path.write_text("".join(f"u 1 {i * seconds:.3f} {seconds} {p}\n" for i, p in enumerate(phones)))
    return path


def test_spans_are_phones_between_phones_with_rivals_in_their_context(tmp_path):
    """P A N and P B N share a context; the phone next to silence and P C Q without a rival do not take part."""
    alignments = {"u1": write_ctm(tmp_path / "u1.ctm", ["sil", "P", "AA1", "N", "P", "B", "N", "sil"]),
                  "u2": write_ctm(tmp_path / "u2.ctm", ["P", "C", "Q", "spn", "P", "AA2", "N"])}
    lengths = {"u1": 12_800, "u2": 11_200}
    found = find_spans(alignments, lengths, {"u1": "s", "u2": "t"})
    assert [(s.utterance, s.phone, s.speaker, s.context) for s in found] == [
        ("u1", "AA", "s", ("P", "N")), ("u1", "B", "s", ("P", "N")), ("u2", "AA", "t", ("P", "N"))]
    # A lasts from .2 to .3 s; frames have their centres at .0125 + .02 t
    assert (found[0].first, found[0].last) == (10, 15)


def test_frames_of_a_span_are_those_of_the_grid(tmp_path):
    """A lasts from .2 to .3 s; frames of 40 ms have their centres at .0275 + .04 t: t = 5 and 6 lie in it."""
    alignments = {"u": write_ctm(tmp_path / "u.ctm", ["sil", "P", "A", "N", "P", "B", "N"])}
    found = find_spans(alignments, {"u": 11_200}, {"u": "s"}, grid=WIDE_GRID)
    assert [(s.phone, s.first, s.last) for s in found] == [("A", 5, 7), ("B", 12, 15)]
    shorter = find_spans(alignments, {"u": 9_300}, {"u": "s"}, grid=WIDE_GRID)  # frames up to 13: .5475 s
    assert [(s.phone, s.first, s.last) for s in shorter] == [("A", 5, 7), ("B", 12, 14)]


@pytest.mark.parametrize("noise", ["sil", "spn", "SPN"])
def test_what_is_no_phone_is_no_context(tmp_path, noise):
    phones = [noise, "A", "N", noise, "B", "N", "P", "A", noise, "P", "B", noise]
    assert find_spans({"u": write_ctm(tmp_path / "u.ctm", phones)}, {"u": 12 * 1600}, {"u": "s"}) == []


def test_no_more_tokens_than_asked_for_and_always_the_same(tmp_path):
    alignments = {"u": write_ctm(tmp_path / "u.ctm", ["P", "A", "N", "P", "B", "N"] * 12)}
    lengths, speakers = {"u": 72 * 1600}, {"u": "s"}
    found = find_spans(alignments, lengths, speakers, most=3)
    assert sorted(s.phone for s in found if s.context == ("P", "N")) == ["A"] * 3 + ["B"] * 3
    assert found == find_spans(alignments, lengths, speakers, most=3)
    assert found != find_spans(alignments, lengths, speakers, most=3, seed=1)
    assert find_spans(alignments, lengths, speakers) == find_spans(alignments, lengths, speakers, most=5, seed=0)


def spans_of(context, speakers, tokens=5):
    """Of two phones of each speaker."""
    return [Span(f"u{s}", f"s{s}", phone, context, i, i + 2) for s in range(speakers) for phone in "ab"
            for i in range(tokens)]


def test_a_very_common_context_is_of_some_speakers_and_others_are_whole():
    """Every token met every other one: a context of 10,000 took fifty million alignments, and a day."""
    rare, common = spans_of(("p", "n"), 3), spans_of(("q", "n"), 40)
    mixed = [span for pair in itertools.zip_longest(rare, common) for span in pair if span is not None]
    found = thinned(mixed, 100)
    assert [span for span in found if span.context == ("p", "n")] == rare
    left = [span for span in found if span.context == ("q", "n")]
    assert len(left) == 100  # ten speakers with all their tokens
    assert left == [span for span in common if span.speaker in {one.speaker for one in left}]
    assert found == [span for span in mixed if span in set(found)]
    assert thinned(mixed, 100) == found == thinned(list(reversed(mixed)), 100)[::-1]
    assert thinned(mixed, 100, seed=1) != found
    assert thinned(mixed, 400) == mixed
    assert len({span.speaker for span in thinned(common, 1)}) == 2
    with pytest.raises(UsageError, match="0 tokens of a context"):
        thinned(mixed, 0)


@given(seed=st.integers(0, 1000), most=st.integers(10, 30))
def test_errors_under_the_bound_are_those_of_loops_over_all_triplets(seed, most):
    rng = np.random.default_rng(seed)
    spans = [Span(f"u{i}", str(rng.choice(["s", "t", "v"])), str(rng.choice(["a", "b"])), ("p", "n"), 0, 1)
             for i in range(10)]
    frames = {span: rng.normal(size=(2, 3)).astype(np.float32) for span in spans}
    tokens = [Token(span.speaker, span.phone, span.context, frames[span]) for span in thinned(spans, most, seed)]
    assert len(tokens) == 10
    found = abx(tokens)
    for mine, across in ((found.within, False), (found.across, True)):
        expected = abx_by_loops(tokens, across)
        assert mine == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(("start", "end"), [(0.1, 0.2), (0.15, 0.2), (0.1, 0.15)], ids=["touching", "before", "after"])
def test_phones_with_a_gap_between_them_are_no_neighbours(tmp_path, start, end):
    alignments = {"u": tmp_path / "u.ctm", "v": write_ctm(tmp_path / "v.ctm", ["P", "B", "N"])}
    alignments["u"].write_text(f"u 1 0 0.1 P\nu 1 {start} {end - start} A\nu 1 0.2 0.1 N\n")
    found = find_spans(alignments, {"u": 4800, "v": 4800}, {"u": "s", "v": "s"})
    assert [s.phone for s in found] == (["A", "B"] if (start, end) == (0.1, 0.2) else [])


@pytest.mark.parametrize(("gap", "neighbours"), [(0.0005, True), (0.002, False)])
def test_a_gap_that_may_be_rounding_is_none(tmp_path, gap, neighbours):
    alignments = {"u": tmp_path / "u.ctm", "v": write_ctm(tmp_path / "v.ctm", ["P", "B", "N"])}
    alignments["u"].write_text(f"u 1 0 0.1 P\nu 1 {0.1 + gap:.4f} {0.1 - 2 * gap:.4f} A\nu 1 0.2 0.1 N\n")
    found = find_spans(alignments, {"u": 4800, "v": 4800}, {"u": "s", "v": "s"})
    assert [s.phone for s in found] == (["A", "B"] if neighbours else [])
