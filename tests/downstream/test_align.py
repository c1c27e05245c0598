"""Forced alignment: the likeliest path, words and phones in seconds, and the files that others read."""

import itertools

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.align import align_text, character_spans, divided, pronunciation, read_dictionary
from downstream.alignment_files import filled, write_ctm, write_textgrid
from downstream.heads.ctc import Recogniser, least_frames
from downstream.recogniser import save_recogniser
from downstream.text.vocabulary import Vocabulary
from tools.main import run
from upstream.audio import import_folder
from upstream.audio.manifest import Manifest, Utterance
from upstream.errors import InputError, UsageError
from upstream.keyed import keyed_torch
from upstream.model import Encoder, EncoderConfig
from upstream.teacher.alignments import Interval, find_alignments, frame_phones, read_alignment
from upstream.teacher.units import UnitsWriter

LETTERS = Vocabulary(("<pad>", "|", "A", "B"))
NOTHING = float(np.log(1e-4))


def emissions(path, symbols=LETTERS.symbols):
    """Log-probabilities that say a path of symbols, `-` for the blank, almost surely."""
    found = np.full((len(path), len(symbols)), NOTHING)
    for row, symbol in zip(found, path):
        row[0 if symbol == "-" else symbols.index(symbol)] = np.log(1 - 3e-4)
    return found


def collapsed(path, blank):
    return [k for k, _ in itertools.groupby(path) if k != blank]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), frames=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_the_path_is_the_likeliest_of_all(data, frames, seed):
    """Against every path of so many frames that collapses to the targets."""
    blank = data.draw(st.integers(0, 3))
    letters = st.sampled_from([symbol for symbol in range(4) if symbol != blank])
    targets = data.draw(st.lists(letters, min_size=1, max_size=3).filter(lambda t: least_frames(t) <= frames))
    logprobs = torch.randn(frames, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(-1).numpy()
    paths = [p for p in itertools.product(range(4), repeat=frames) if collapsed(p, blank) == targets]
    best = max(sum(logprobs[t, k] for t, k in enumerate(p)) for p in paths)
    spans, score = character_spans(logprobs, targets, blank)
    assert score * frames == pytest.approx(best, abs=1e-4)
    path = [blank] * frames
    for (first, end), target in zip(spans, targets, strict=True):
        path[first:end] = [target] * (end - first)
    assert collapsed(path, blank) == targets
    assert sum(logprobs[t, k] for t, k in enumerate(path)) == pytest.approx(best, abs=1e-4)


def test_the_symbol_before_the_blank_is_not_lost_at_the_ends():
    """Bug: `blank - 1` stood for what is before the first frame and after the last one."""
    path = [2, 2, 3, 1, 3, 2]
    logprobs = np.full((6, 4), NOTHING)
    logprobs[range(6), path] = 0.0
    assert character_spans(logprobs, [2, 1, 2], 3)[0] == [(0, 2), (3, 4), (5, 6)]


def test_words_by_hand():
    """50 frames a second. `AB` is emitted in frames 10 to 14, `B` in 30 and 31, of a second and 0.2."""
    path = "-" * 10 + "AA-BB" + "---|" + "-" * 11 + "BB" + "-" * 28
    found = align_text(emissions(path), "AB B", LETTERS, 50.0, 1.2)
    [first, second] = found.words
    assert (first.label, second.label) == ("AB", "B")
    assert (first.start, first.end) == pytest.approx((0.2 - 0.1, 0.3 + 0.1))  # room on both sides
    assert (second.start, second.end) == pytest.approx((0.6 - 0.1, 0.64 + 0.1))
    assert found.phones == ()
    assert found.score == pytest.approx(np.log(1 - 3e-4), abs=1e-6)


def test_neighbours_share_the_gap_and_the_ends_are_the_recordings():
    """`A` in frame 0, `B` in frames 3 and 4 of 5: .02 to .06 s is between them, half for each."""
    found = align_text(emissions("A|-BB"), "A B", LETTERS, 50.0, 0.09)
    assert [tuple(w[:2]) for w in found.words] == [pytest.approx((0.0, 0.04)), pytest.approx((0.04, 0.09))]


def test_characters_of_a_script_without_spaces_are_aligned_one_by_one():
    """A sentence of Mandarin was one word, and of no dictionary. A letter of Hindi keeps its sign."""
    vocabulary = Vocabulary.of(["他看书", "कि"])
    text, dictionary = "他看书 कि", {"他": ("t", "a1"), "书": ("sh", "u1")}
    rows = emissions("-他-看--书-|क-ि", vocabulary.symbols)
    found = align_text(rows, text, vocabulary, 50.0, 0.3, dictionary, characters=True)
    assert [w.label for w in found.words] == ["他", "看", "书", "कि"]
    assert [p.label for p in found.phones] == ["t", "a1", "spn", "sh", "u1", "spn"]
    assert found.words[1][:2] == pytest.approx((0.05, 0.1))
    assert align_text(rows, text, vocabulary, 50.0, 0.3).words[0].label == "他看书"


def test_phones_follow_the_letters():
    """Three letters at 0, .1 and .4 s of a word until .5: the first of three phones lasts .1 s, the second .3."""
    word = Interval(0.0, 0.5, "cat")
    phones = divided(word, [0.02, 0.1, 0.4], {"CAT": ("K", "AE", "T")})
    assert [p.label for p in phones] == ["K", "AE", "T"]
    assert [p.start for p in phones] == pytest.approx([0.0, 0.1, 0.4])
    assert phones[-1].end == 0.5
    two = divided(word, [0.02, 0.1, 0.4], {"CAT": ("KA", "T")})  # by hand: halfway along the letters is .1 + .15
    assert two[0].end == pytest.approx(0.25)
    assert divided(word, [0.02, 0.1, 0.4], {}) == [Interval(0.0, 0.5, "spn")]


@given(starts=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6), phones=st.integers(1, 8))
def test_phones_cover_their_word_without_gaps(starts, phones):
    starts = sorted(starts)
    word = Interval(max(0.0, starts[0] - 0.05), starts[-1] + 0.1, "x")
    found = divided(word, starts, {"X": tuple("abcdefgh"[:phones])})
    assert len(found) == phones
    assert (found[0].start, found[-1].end) == pytest.approx((word.start, word.end))
    for before, after in itertools.pairwise(found):
        assert before.end == after.start
    assert all(p.end >= p.start for p in found)


def test_what_cannot_be_aligned_says_why():
    with pytest.raises(InputError, match="2 frames cannot hold the 2 characters"):
        align_text(emissions("-A"), "AA", LETTERS, 50.0, 1.0)
    with pytest.raises(InputError, match="no transcript"):
        align_text(emissions("-A"), "", LETTERS, 50.0, 1.0)
    with pytest.raises(InputError, match="not in the vocabulary"):
        align_text(emissions("-A"), "C", LETTERS, 50.0, 1.0)


def test_a_dictionary_in_the_format_of_cmudict(tmp_path):
    (tmp_path / "d").write_text(";;; comment\nABOUT  AH0 B AW1 T\nabout(2)  B AW1 T # short\n\nA  AH0\n")
    assert read_dictionary(tmp_path / "d") == {"ABOUT": ("AH", "B", "AW", "T"), "A": ("AH",)}
    (tmp_path / "d").write_text("A  AH0\nB\n")
    with pytest.raises(InputError, match="line 2: 'B' has no pronunciation"):
        read_dictionary(tmp_path / "d")
    (tmp_path / "d").write_text(";;; nothing\n")
    with pytest.raises(InputError, match="no pronunciations"):
        read_dictionary(tmp_path / "d")
    for path, what in ((tmp_path / "none", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(UsageError, match=what):
            read_dictionary(path)
    (tmp_path / "d").write_bytes(b"A  AH0 \xff\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_dictionary(tmp_path / "d")


def test_probabilities_of_the_montreal_forced_aligner_are_no_phones(tmp_path):
    (tmp_path / "d").write_text("haus\t0.99\t0.12\t1.0\t1.02\th aʊ s\nund 1e-05 ʊ n t\neins\t1 2\n")
    found = read_dictionary(tmp_path / "d")
    assert [found[word] for word in ("haus", "und", "eins")] == [("h", "aʊ", "s"), ("ʊ", "n", "t"), ("1", "2")]
    (tmp_path / "d").write_text("haus\t0.99\t0.12\n")
    with pytest.raises(InputError, match="line 1: 'haus' has no pronunciation"):
        read_dictionary(tmp_path / "d")


def test_tones_are_no_stress(tmp_path):
    """The tones 1 and 2 of Mandarin went, and the others stayed."""
    (tmp_path / "d").write_text("ma  m a1\nmei  m ei2 AI1 T1\nOUR  AW1 ER0\n")
    found = read_dictionary(tmp_path / "d")
    assert [found[word] for word in ("ma", "mei", "OUR")] == [("m", "a1"), ("m", "ei2", "AI1", "T1"), ("AW", "ER")]


def test_words_that_are_equal_in_upper_case_have_their_own_phones(tmp_path):
    """Turkish kır and kir, German Maße and Masse: the second of a pair was said as the first."""
    (tmp_path / "d").write_text("kır  k ı r\nkir  c i r\nMaße  m aː s ə\nMasse  m a s ə\nMasse(2)  m a s\n")
    found = read_dictionary(tmp_path / "d")
    said = {word: " ".join(pronunciation(found, word) or ()) for word in ("kır", "kir", "KIR", "Maße", "Masse", "x")}
    assert said == {"kır": "k ı r", "kir": "c i r", "KIR": "k ı r", "Maße": "m aː s ə", "Masse": "m a s ə", "x": ""}
    assert [i.label for i in divided(Interval(0.0, 1.0, "kir"), [0.1, 0.2, 0.3], found)] == ["c", "i", "r"]


def test_files_come_back_as_they_were_written(tmp_path):
    phones = [Interval(0.1, 0.25, "AH"), Interval(0.25, 0.3, 'say "B"'), Interval(0.5, 0.9, "T")]
    write_textgrid(tmp_path / "a.TextGrid", {"words": phones[:1], "phones": phones}, 1.0)
    found = read_alignment(tmp_path / "a.TextGrid")
    assert found == filled(phones, 1.0)
    assert [i.label for i in found] == ["", "AH", 'say "B"', "", "T", ""]
    write_ctm(tmp_path / "b.ctm", "b", [phones[0], phones[2]], "phones")
    for before, after in zip([phones[0], phones[2]], read_alignment(tmp_path / "b.ctm"), strict=True):
        assert after[:2] == pytest.approx(before[:2])
        assert after.label == before.label
    assert filled([], 1.0) == [Interval(0.0, 1.0, "")]


@pytest.fixture
def recogniser(tmp_path):
    shape = EncoderConfig(frontend="fbank", width=32, layers=1, heads=2, ffn=32, positional_kernel=15,
                          positional_groups=2)
    vocabulary = Vocabulary.characters()
    model = Recogniser(Encoder(shape).initialise(0), len(vocabulary.symbols)).initialise_head(keyed_torch(0, "head"))
    save_recogniser(model, vocabulary, tmp_path / "asr", {})
    return tmp_path / "asr"


@pytest.mark.parametrize("form", ["TextGrid", "ctm"])
def test_the_command_writes_what_teacher_quality_reads(recogniser, tmp_path, capsys, form):
    audio = tmp_path / "audio"
    audio.mkdir()
    for name, text, samples in (("a", "A CAT SAT", 16_000), ("b", "A", 20_000), ("c", "SAT " * 30, 3200)):
        soundfile.write(audio / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, samples), 16_000)
        (audio / f"{name}.txt").write_text(text)
    import_folder(audio).save(tmp_path / "m.arrow")
    (tmp_path / "cmudict").write_text("A  AH0\nCAT  K AE1 T\n")
    assert run(["align", str(recogniser), str(tmp_path / "m.arrow"), "--out", str(tmp_path / "out"), "--dictionary",
                str(tmp_path / "cmudict"), "--format", form]) == 0
    said = capsys.readouterr()
    assert "2 utterances aligned" in said.out
    assert "not aligned: c: 9 frames cannot hold the 119 characters" in said.err
    assert "1 words are not in the dictionary" in said.err
    found = find_alignments(tmp_path / "out")
    assert set(found) == {"a", "b"}
    labels = [i.label for i in read_alignment(found["a"]) if i.label]
    assert labels == ["AH", "K", "AE", "T", "spn"]
    phones = frame_phones(found["a"], 16_000)
    assert len(phones) == 49
    assert set(phones) <= {"AH", "K", "AE", "T", "spn", "SIL"}


def test_words_are_not_scored_as_phones(recogniser, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    Manifest.of([Utterance("a", tmp_path / "a.wav", 0, 16_000, 16_000, 1, None, "A CAT")],
                "a test").save(tmp_path / "m.arrow")
    with UnitsWriter(tmp_path / "units", (3,)) as writer:
        writer.add("a", np.zeros(49, int))
    for form in ("ctm", "TextGrid"):
        out = tmp_path / form
        assert run(["align", str(recogniser), str(tmp_path / "m.arrow"), "--out", str(out), "--format", form]) == 0
        assert run(["teacher", "quality", str(tmp_path / "units"), "--alignments", str(out)]) == 1
        said = capsys.readouterr().err
        assert "--dictionary" in said.splitlines()[-1]
        assert "look like" not in said


def test_recordings_without_transcripts_are_refused(recogniser, tmp_path, capsys):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio/a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    import_folder(tmp_path / "audio").save(tmp_path / "m.arrow")
    assert run(["align", str(recogniser), str(tmp_path / "m.arrow"), "--out", str(tmp_path / "out")]) == 1
    assert "no utterance has a transcript" in capsys.readouterr().err


def test_lines_of_a_dictionary_end_with_newlines_alone(tmp_path):
    (tmp_path / "d").write_bytes("\ufeffA  AH0 # a\u2028remark\r\nCAT  K AE1 T\r\n".encode())
    assert read_dictionary(tmp_path / "d") == {"A": ("AH",), "CAT": ("K", "AE", "T")}


def test_alignments_of_ids_with_slashes_are_found_again(recogniser, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    ids = ["s1/000", "50%2F", "a%b", "你" * 90, "你" * 90 + "/b"]  # the last two are too long for a file's name
    Manifest.of([Utterance(id, tmp_path / "a.wav", 0, 16_000, 16_000, 1, None, "A CAT") for id in ids],
                "a test").save(tmp_path / "m.arrow")
    assert run(["align", str(recogniser), str(tmp_path / "m.arrow"), "--out", str(tmp_path / "out")]) == 0
    found = find_alignments(tmp_path / "out")
    assert len(found) == len({found[id] for id in ids}) == 5
    assert all(id in found and found.get(id) == found[id] for id in ids)
    assert "你" * 91 not in found
    assert found.get("你" * 91) is None


def test_accents_of_a_dictionary_may_be_written_in_either_way(tmp_path):
    """Words whose transcripts have accents apart (NFD) were aligned, and had no pronunciation."""
    (tmp_path / "d").write_text("cafe\u0301  K AE F EY\nno\u00e9  N OW EY\n", encoding="utf-8")
    found = read_dictionary(tmp_path / "d")
    for word in ("caf\u00e9", "cafe\u0301", "noe\u0301", "NO\u00c9"):
        assert pronunciation(found, word)


def test_alignments_of_somebody_else_stay_and_ours_are_replaced(recogniser, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    Manifest.of([Utterance("a", tmp_path / "a.wav", 0, 16_000, 16_000, 1, None, "A CAT")],
                "a test").save(tmp_path / "m.arrow")
    words = ["align", str(recogniser), str(tmp_path / "m.arrow"), "--out", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.TextGrid").write_text("by hand")
    assert run(words) == 1
    assert "a.TextGrid: is there already" in capsys.readouterr().err
    assert (tmp_path / "out/a.TextGrid").read_text() == "by hand"
    (tmp_path / "out/a.TextGrid").unlink()
    assert [run(words), run(words)] == [0, 0]


def test_an_alignment_made_by_hand_of_what_could_not_be_aligned_stays(recogniser, tmp_path, capsys):
    """A bug once found: its name was noted as ours with those of the others."""
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)

    def aligned(text: str) -> int:
        Manifest.of([Utterance("a", tmp_path / "a.wav", 0, 16_000, 16_000, 1, None, "A CAT"),
                     Utterance("b", tmp_path / "a.wav", 0, 16_000, 16_000, 1, None, text)],
                    "a test").save(tmp_path / "m.arrow")
        return run(["align", str(recogniser), str(tmp_path / "m.arrow"), "--out", str(tmp_path / "out")])

    assert aligned("A CAT " * 30) == 0  # too long for a second
    assert "not aligned: b" in capsys.readouterr().err
    (tmp_path / "out/b.TextGrid").write_text("by hand")
    assert aligned("A CAT") == 1
    assert "b.TextGrid: is there already" in capsys.readouterr().err
