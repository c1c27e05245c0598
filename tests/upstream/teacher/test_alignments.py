"""TextGrid and CTM files give phones with times; each frame gets the phone at its centre."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import FormatError, InputError
from upstream.frames import CONV_GRID, KALDI_GRID
from upstream.teacher.alignments import (
    Interval,
    file_stem,
    find_alignments,
    frame_phones,
    phone_class,
    phones_at_frames,
    read_alignment,
    warn_of_pauses,
    warn_of_words,
)


def textgrid(tiers, end=1.0):
    """Praat's long format, as the Montreal Forced Aligner writes it."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0.0", f"xmax = {end}",
             "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        lines += [f"\titem [{number}]:", '\t\tclass = "IntervalTier"', f'\t\tname = "{name}"', "\t\txmin = 0.0",
                  f"\t\txmax = {end}", f"\t\tintervals: size = {len(intervals)}"]
        for i, (start, stop, label) in enumerate(intervals, 1):
            lines += [f"\t\t\tintervals [{i}]:", f"\t\t\t\txmin = {start}", f"\t\t\t\txmax = {stop}",
                      f'\t\t\t\ttext = "{label}"']
    return "\n".join(lines) + "\n"


PHONES = [(0.0, 0.3, "sil"), (0.3, 0.45, "AE1"), (0.45, 0.8, "T"), (0.8, 1.0, "")]
WORDS = [(0.0, 0.3, ""), (0.3, 0.8, 'at ""home""'), (0.8, 1.0, "")]


def write(path, text, **options):
    path.write_text(text, encoding="utf-8", **options)
    return path


@pytest.mark.parametrize("tiers", [
    {"words": WORDS, "phones": PHONES}, {"phones": PHONES, "words": WORDS},
    {"ann - words": WORDS, "ann - phones": PHONES}])
def test_the_tier_of_phones_is_read(tmp_path, tiers):
    assert read_alignment(write(tmp_path / "a.TextGrid", textgrid(tiers))) == [Interval(*p) for p in PHONES]


@pytest.mark.parametrize("tiers", [
    {"word": WORDS, "phone": PHONES}, {"Ann - phone": PHONES, "Ann - word": WORDS},  # P2FA and FAVE
    {"ORT-MAU": WORDS, "KAN-MAU": WORDS, "MAU": PHONES}, {"phone": WORDS, "phones": PHONES}])
def test_a_tier_called_phone_is_read(tmp_path, tiers):
    assert read_alignment(write(tmp_path / "a.TextGrid", textgrid(tiers))) == [Interval(*p) for p in PHONES]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_of_praat_are_read(tmp_path, encoding):
    path = tmp_path / "a.TextGrid"
    path.write_bytes(textgrid({"phones": [(0.0, 1.0, "ɑ")]}).replace("\n", "\r\n").encode(encoding))
    assert read_alignment(path) == [Interval(0.0, 1.0, "ɑ")]


def test_a_ctm_is_read(tmp_path):
    path = write(tmp_path / "a.ctm", ";; made by hand\na 1 0.30 0.25 AE1\na 1 0.00 0.30 sil\n\na 1 0.55 0.25 T 0.98\n")
    assert read_alignment(path) == [Interval(0.0, 0.3, "sil"), Interval(0.3, 0.55, "AE1"), Interval(0.55, 0.8, "T")]


def test_lines_of_a_ctm_end_where_those_of_a_file_do(tmp_path):
    """A comment that held U+2028 was read as two lines, the second of them no line of a CTM."""
    path = write(tmp_path / "a.ctm", ";; made\u2028by hand\r\na 1 0.00 0.30 A\ra 1 0.30 0.25 B\n")
    assert read_alignment(path) == [Interval(0.0, 0.3, "A"), Interval(0.3, 0.55, "B")]


def test_the_two_formats_give_the_same_phones(tmp_path):
    ctm = "".join(f"a 1 {s} {e - s} {p or 'sp'}\n" for s, e, p in PHONES)
    by_grid = frame_phones(write(tmp_path / "a.TextGrid", textgrid({"phones": PHONES})), 16_000)
    by_ctm = frame_phones(write(tmp_path / "b.ctm", ctm), 16_000)
    np.testing.assert_array_equal(by_grid, by_ctm)


def test_a_frame_has_the_phone_at_its_centre(tmp_path):
    """Frame t is centred at 12.5 + 20 t ms: 14 has 292.5 ms (silence), 15 has 312.5; 21 has 432.5, 22 has 452.5; 39 has
    792.5, 40 has 812.5."""
    phones = frame_phones(write(tmp_path / "a.TextGrid", textgrid({"phones": PHONES})), 16_000)
    assert phones.tolist() == ["SIL"] * 15 + ["AE"] * 7 + ["T"] * 18 + ["SIL"] * 9


def test_at_100_hz_there_is_a_phone_for_each_kaldi_window(tmp_path):
    path = write(tmp_path / "a.TextGrid", textgrid({"phones": PHONES}))
    phones = frame_phones(path, 16_000, KALDI_GRID)
    assert len(phones) == 98
    np.testing.assert_array_equal(phones[::2], frame_phones(path, 16_000))


def test_an_interval_holds_its_start_and_not_its_end(tmp_path):
    """Frame 0 is centred at 12.5 ms sharp."""
    path = write(tmp_path / "a.ctm", "a 1 0 0.0125 A\na 1 0.0125 0.0075 B\n")
    assert frame_phones(path, 400).tolist() == ["B"]


def test_gaps_and_what_lies_after_the_last_interval_are_silence(tmp_path):
    path = write(tmp_path / "a.ctm", "a 1 0.10 0.10 B\na 1 0.30 0.10 C\n")
    assert frame_phones(path, 16_000).tolist() == (["SIL"] * 5 + ["B"] * 5 + ["SIL"] * 5 + ["C"] * 5 + ["SIL"] * 29)


@given(ends=st.lists(st.integers(1, 300), min_size=1, max_size=12, unique=True).map(sorted), frames=st.integers(0, 60))
def test_frames_equal_a_search_through_the_intervals(tmp_path_factory, ends, frames):
    ends = [e / 1000 for e in ends if e / 1000 <= (frames * 320 + 400) / 16_000]
    starts = [0.0, *ends][:len(ends)]
    path = tmp_path_factory.mktemp("a") / "a.TextGrid"
    write(path, textgrid({"phones": [(s, e, f"P{'ABCDEFGHIJKLM'[i]}") for i, (s, e) in enumerate(zip(starts, ends))]}))
    expected = []
    for t in range(frames):
        centre = CONV_GRID.centre_seconds(t)
        inside = [i for i, (s, e) in enumerate(zip(starts, ends)) if s <= centre < e]
        expected.append(f"P{'ABCDEFGHIJKLM'[inside[0]]}" if inside else "SIL")
    assert phones_at_frames(path, frames).tolist() == expected


@pytest.mark.parametrize(("label", "phone"), [
    ("AE1", "AE"), ("AH0", "AH"), ("S", "S"), ("", "SIL"), ("sil", "SIL"), ("SIL", "SIL"), ("sp", "SIL"), (" ", "SIL"),
    ("spn", "spn"), ("1", "1"), ("AH1_B", "AH"), ("T_S", "T"), ("SIL_E", "SIL"), ("_B", "_B"), ("a_b", "a_b"),
    ("i:6", "i:6"), ("a4", "a4"), ("AI1", "AI1"), ("ER2_E", "ER"), ("AXR0", "AXR"), ("T1", "T1"), ("AH3", "AH3")])
def test_stress_and_place_in_the_word_go_and_silences_are_one(label, phone):
    assert phone_class(label) == phone


@pytest.mark.parametrize("label", ["pau", "h#", "<SIL>", "[SIL]", "<p:>", "silence", "<eps>", "PAU", "silB", "_"])
def test_pauses_of_other_aligners_are_silence(tmp_path, label):
    """PNMI counted the pauses of Festvox, TIMIT and MAUS among the phones, and ABX made contexts of them."""
    path = write(tmp_path / "a.ctm", f"a 1 0 0.1 {label}\na 1 0.1 0.1 AH\n")
    assert phones_at_frames(path, 10).tolist() == ["SIL"] * 5 + ["AH"] * 5


@pytest.mark.parametrize(("rows", "warned"), [
    (["QABQ"] * 5, True), (["QABQ", "QBAQ", "QBQ", "QBA", "ABA"], True), (["QABQ"] * 4, False),
    (["QSQ", "QABQ", "QBQ", "QAQ", "QQ"], False),  # a pause it is not: they have silence
    (["QAB", "QBA", "QB", "QA", "QBB"], False), ([], False), ([""] * 5, False)])
def test_one_label_at_both_ends_of_most_utterances_is_told_where_there_is_no_silence(rows, warned, capsys):
    warn_of_pauses(np.array(["SIL" if phone == "S" else phone for phone in row], str) for row in rows)
    assert ("hold no silence, and 'Q' begins and ends most utterances" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.TextGrid", "no grid", "not a TextGrid"),
    ("a.TextGrid", textgrid({"words": WORDS}), "no tier 'phones' or 'phone' or 'MAU' among words"),
    ("a.TextGrid", textgrid({"one - phones": PHONES, "two - phones": [(0.0, 1.0, "IY1")]}),
     "2 tiers of phones .one - phones, two - phones., as of several speakers"),
    ("a.TextGrid", textgrid({"phones": PHONES})[:-120], "holds 2 intervals and announces 4"),
    ("a.TextGrid", 'File type = "ooTextFile"\n"TextGrid"\n0\n1\n<exists>\n1\n"IntervalTier"\n"phones"\n', "long text"),
    ("a.TextGrid", textgrid({"phones": [(0.5, 0.2, "A")]}), "'A' from 0.5 s to 0.2 s"),
    ("a.TextGrid", textgrid({"phones": [(0.0, "nan", "A")]}), "must not run back"),
    ("a.TextGrid", textgrid({"phones": [(0.0, "x", "A")]}), "'x' is no time"),
    ("a.TextGrid", textgrid({"phones": [(0.0, 0.5, "A"), (0.4, 0.6, "B")]}), "'B' starts at 0.4 s, before 'A' ends"),
    ("a.ctm", "a 1 0.0\n", "line 1 has 3 fields"),
    ("a.ctm", "a 1 0.0 0.1 A\nb 1 0.0 0.1 A\n", r"phones of 2 utterances \(a, b"),
    ("a.ctm", "a 1 zero 0.1 A\n", "'zero' is no time"),
])
def test_broken_files_are_refused_by_name(tmp_path, name, content, words):
    with pytest.raises(FormatError, match=f"{name}: .*{words}"):
        read_alignment(write(tmp_path / name, content))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.ctm").write_bytes(b"\xff\x00\x81")
    with pytest.raises(FormatError, match="cannot be read as text"):
        read_alignment(tmp_path / "a.ctm")


def test_the_alignment_of_a_longer_recording_is_refused(tmp_path):
    path = write(tmp_path / "a.TextGrid", textgrid({"phones": PHONES}))
    assert len(frame_phones(path, 14_500)) == 45  # a tenth of a second may be missing
    with pytest.raises(InputError, match=r"ends at 1\.00 s, the recording at 0\.88 s"):
        frame_phones(path, 14_000)


def test_alignments_are_found_in_subfolders_by_the_names_of_utterances(tmp_path):
    (tmp_path / "1" / "2").mkdir(parents=True)
    first = write(tmp_path / "1" / "2" / "1-2-0003.TextGrid", "")
    second = write(tmp_path / "b.c.ctm", "")
    write(tmp_path / "notes.txt", "")
    assert find_alignments(tmp_path) == {"1-2-0003": first, "b.c": second}


def test_two_alignments_of_an_utterance_are_refused(tmp_path):
    write(tmp_path / "a.ctm", "")
    write(tmp_path / "a.TextGrid", "")
    with pytest.raises(InputError, match=r"^a: two alignments"):
        find_alignments(tmp_path)


def test_a_folder_without_alignments_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no alignments here; expected files ID\.TextGrid or ID\.ctm"):
        find_alignments(tmp_path)


def test_real_alignments_are_read(speech):
    found = find_alignments(speech / "LibriSpeech" / "train-clean-aligned")
    assert len(found) == 296
    for path in list(found.values())[::60]:
        intervals = read_alignment(path)
        assert intervals[0].start == 0
        assert all(before.end == after.start for before, after in pairwise(intervals))
        assert 10 < len({phone_class(i.label) for i in intervals}) <= 41


def test_a_textgrid_that_stops_before_its_recording_does_is_refused_where_all_of_it_counts(tmp_path):
    write(tmp_path / "a.TextGrid", textgrid({"phones": [(0.0, 0.5, "A")]}))
    with pytest.raises(InputError, match=r"a.TextGrid: .* ends at 0\.50 s, the recording goes on to 2\.00 s"):
        phones_at_frames(tmp_path / "a.TextGrid", 99, duration=2.0, whole=True)
    (tmp_path / "a.ctm").write_text("a 1 0 0.5 A\n")  # silence may be left out
    assert set(phones_at_frames(tmp_path / "a.ctm", 99, duration=2.0, whole=True)) == {"A", "SIL"}


@pytest.mark.parametrize("lines", ["", "a 1 0 0.5 A\n"])
def test_a_ctm_that_leaves_out_more_than_a_pause_at_the_end_is_refused_until_it_says_that_it_is_one(tmp_path, lines):
    path = write(tmp_path / "a.ctm", lines)
    assert "SIL" in frame_phones(path, 88_000 if lines else 80_000, whole=True)
    with pytest.raises(InputError, match=r"a\.ctm: .* goes on to 6\.00 s; .* silence at its end a line of its own"):
        frame_phones(path, 96_000, whole=True)
    assert "SIL" in frame_phones(path, 96_000)
    write(path, f"{lines}a 1 0.5 5.5 SIL\n")
    assert "SIL" in frame_phones(path, 96_000, whole=True)


@given(ids=st.lists(st.text("a/%25F", min_size=1, max_size=8), min_size=1, unique=True))
def test_files_named_for_any_ids_are_found_under_them(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("alignments")
    for id in ids:
        (folder / f"{file_stem(id)}.ctm").write_text("")
    assert set(find_alignments(folder)) == set(ids)


MANY = ";; of a set\nb 1 0.0 0.3 B1\na 1 0.0 0.2 AA1\n\nb 1 0.3 0.1 T\nc/d 1 0 1 C\n"


@pytest.mark.parametrize("head", ["", "\ufeff"])
def test_a_ctm_of_several_recordings_is_an_alignment_of_each(tmp_path, head):
    """Lines of one need not lie together."""
    write(tmp_path / "e.TextGrid", textgrid({"phones": PHONES}))
    path = write(tmp_path / "all.ctm", head + MANY)
    folder, file = find_alignments(tmp_path), find_alignments(path)
    assert (list(file), set(folder)) == (["b", "a", "c/d"], {"a", "b", "c/d", "e"})
    for found in (folder, file):
        assert read_alignment(found["b"]) == [Interval(0.0, 0.3, "B1"), Interval(0.3, 0.4, "T")]
        assert read_alignment(found["a"]) == [Interval(0.0, 0.2, "AA1")]
        assert frame_phones(found["a"], 3200).tolist() == ["AA"] * 9
    assert len({found["a"], found["b"]}) == 2
    assert read_alignment(pickle.loads(pickle.dumps(found["a"]))) == [Interval(0.0, 0.2, "AA1")]


def test_a_ctm_given_alone_is_named_by_its_first_column_and_one_of_a_folder_by_its_file(tmp_path):
    path = write(tmp_path / "u.ctm", "a 1 0.0 0.2 AA1\n")
    assert list(find_alignments(path)) == ["a"]
    assert find_alignments(tmp_path) == {"u": path}


def test_what_is_wrong_with_a_recording_of_several_is_told_with_its_name(tmp_path):
    found = find_alignments(write(tmp_path / "all.ctm", "a 1 0 0.5 A\nb 1 0 1 B\nc 1 x 1 C\na 1 0.2 0.5 A\n"))
    with pytest.raises(FormatError, match=r"all\.ctm, utterance c: 'x' is no time"):
        read_alignment(found["c"])
    with pytest.raises(FormatError, match=r"all\.ctm, utterance a: 'A' starts at 0\.2 s"):
        read_alignment(found["a"])
    with pytest.raises(InputError, match=r"all\.ctm, utterance b: the alignment ends at 1\.00 s, the recording at"):
        frame_phones(found["b"], 8000)
    with pytest.raises(InputError, match=r"all\.ctm, utterance b: .* or remove the lines, or give the silence"):
        frame_phones(found["b"], 160_000, whole=True)


def test_a_recording_in_two_ctms_of_several_is_refused(tmp_path):
    for name in ("x.ctm", "y.ctm"):
        write(tmp_path / name, MANY)
    with pytest.raises(InputError, match=r"^b: two alignments, .*x\.ctm, utterance b and .*y\.ctm, utterance b"):
        find_alignments(tmp_path)


def test_a_ctm_that_says_that_it_holds_words_is_refused_where_phones_are_wanted(tmp_path):
    for name, lines in (("a.ctm", "a 1 0 0.5 HELLO\n"), ("all.ctm", "b 1 0 0.5 HELLO\nc 1 0 0.5 YOU\n")):
        found = find_alignments(write(tmp_path / name, f";; labels: words\n{lines}"))
        for path in found.values():
            with pytest.raises(FormatError, match=r"words, not phones; .* --dictionary"):
                read_alignment(path)
    assert read_alignment(write(tmp_path / "p.ctm", ";; labels: phones\na 1 0 0.5 A\n")) == [Interval(0.0, 0.5, "A")]


ARPABET = ["SIL", "spn", "AA", "AH", "B", "CH", "NG", "ZH"]


@pytest.mark.parametrize(("labels", "warned"), [
    (ARPABET, False), ([], False), (["SIL"], False),
    ([f"{p}{stress}_{place}" for p in ARPABET for stress in ("", 0, 1, 2) for place in "BIES"], False),  # Kaldi's
    (["a", "tʃʰ", "dʒː", "ɔ̃", "t͡ʃʲː"], False), (["SIL", "THE", "CAT", "SITS", "UPON", "MATS"], True),
    ([f"{final}{tone}" for final in ("aj", "ow", "ej", "aw", "i", "a") for tone in ("˥", "˧˥", "˨˩˦", "˥˩")], False),
    ([f"{'abcdefgh'[i % 8]}{'ijklmnop'[i // 8]}{tone}" for i in range(50) for tone in range(5)], False),  # pinyin's
    ([f"{final}{tone}" for final in ("ang", "ing", "uan", "iao") for tone in range(1, 6)], False),
    ([chr(0x4E00 + i) for i in range(201)], True)])
def test_labels_that_look_like_words_are_warned_of(labels, warned, capsys):
    warn_of_words(labels)
    assert ("look like words" in capsys.readouterr().err) == warned


def test_a_ctm_in_another_encoding_is_its_utterances_own_or_refused(tmp_path):
    path = tmp_path / "a.ctm"
    path.write_bytes("a 1 0 0.5 A\n".encode("utf-16"))
    assert read_alignment(find_alignments(tmp_path)["a"]) == [Interval(0.0, 0.5, "A")]
    path.write_bytes("\xe4 1 0 0.5 A\nb 1 0 0.5 A\n".encode("latin-1"))
    with pytest.raises(FormatError, match=r"a\.ctm: cannot be read as text"):
        find_alignments(tmp_path)
