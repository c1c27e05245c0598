"""Reports of hypotheses: alignments worked by hand, two files side by side, and what is said of what made them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report.alignments import align, confusions, worst
from benchmarks.report.document import Aligned, Facts, Points, Table
from benchmarks.report.hypotheses import report
from benchmarks.report.markdown import markdown
from benchmarks.report.page import page
from downstream.score.rates import score
from downstream.score.references import References
from upstream.disk import file_hash
from upstream.errors import InputError

TRUTH = {"a": "THE CAT SAT DOWN", "b": "A DOG", "c": "NO ERROR HERE"}
FOUND = {"a": "THE BAT SAT", "b": "A A DOG", "c": "NO ERROR HERE"}
SPEAKERS = {"a": "ann", "b": "bob", "c": "bob"}


def test_an_alignment_by_hand():
    aligned = align(TRUTH, FOUND)
    assert aligned["a"] == [("THE", "THE"), ("CAT", "BAT"), ("SAT", "SAT"), ("DOWN", None)]
    assert sorted(aligned["b"], key=str) == sorted([("A", "A"), (None, "A"), ("DOG", "DOG")], key=str)
    found = confusions(aligned)
    assert (found.substitutions, found.deletions, found.insertions) == ([(("CAT", "BAT"), 1)], [("DOWN", 1)],
                                                                        [("A", 1)])
    assert worst(aligned, 5) == ["a", "b"]  # and not the one without errors


def test_the_most_frequent_confusion_comes_first():
    truth, heard = {"x": "B B B A A C"}, {"x": "D D D E E F"}
    assert [n for _, n in confusions(align(truth, heard)).substitutions] == [3, 2, 1]


words = st.lists(st.sampled_from("AB"), max_size=6).map(" ".join)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_alignments_have_the_words_and_the_errors_that_score_counts(pairs):
    truth = {str(n): one for n, (one, _) in enumerate(pairs)} | {"some": "A"}
    heard = {str(n): other for n, (_, other) in enumerate(pairs)} | {"some": "B"}
    aligned, counted = align(truth, heard), score(truth, heard)
    for id, those in aligned.items():
        assert [a for a, _ in those if a is not None] == truth[id].split()
        assert [b for _, b in those if b is not None] == heard[id].split()
    found = confusions(aligned)
    assert sum(n for _, n in found.substitutions) == counted.substitutions
    assert sum(n for _, n in found.deletions) == counted.deletions
    assert sum(n for _, n in found.insertions) == counted.insertions


@pytest.fixture
def write(tmp_path):
    def written(name, texts, made_by=None):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items()))
        if made_by is not None:
            (tmp_path / f"{name}.jsonl.json").write_text(json.dumps({
                "format": "hubertkit hypotheses", "version": 1, "hypotheses_hash": file_hash(path), **made_by}))
        return path

    return written


def blocks(found, kind):
    return [block for section in found.sections for block in section.blocks if isinstance(block, kind)]


def cautions(found):
    return " ".join(s for section in found.sections if section.name == "cautions" for b in section.blocks
                    for s in b.sentences)


def test_two_files_side_by_side(write):
    """Worked by hand: 3 errors in 9 words; the other file has none."""
    found = report([write("first", FOUND), write("second", TRUTH)], References(TRUTH, SPEAKERS), "word", 0)
    tables = {t.name: t for t in blocks(found, Table)}
    first, second = tables["rates"].rows
    assert (first[0].text, first[1].text, second[1].text) == ("first", "33.33", "0.00")
    assert [c.text for c in tables["counts"].rows[0][1:]] == ["9", "3", "1", "1", "1", "2 of 3"]
    assert [[c.text for c in row] for row in tables["speakers"].rows] == [
        ["ann", "1", "4", "50.00", "0.00"], ["bob", "2", "5", "20.00", "0.00"]]
    assert [r[0].text for r in tables["differences"].rows] == ["first − second"] * 2
    assert tables["differences"].rows[0][2].text == "+33.33"
    aligned = blocks(found, Aligned)
    assert [block.title for block in aligned] == ["a: 2 errors in 4 words", "b: 1 error in 2 words"]
    assert '<span class="deleted"><b>DOWN</b><i>·</i></span>' in page(found)
    assert "    REF THE CAT SAT DOWN\n    HYP THE BAT SAT *\n            S       D" in markdown(found)
    assert "No errors." in [s for b in blocks(found, Points) for s in b.sentences]


def test_characters_are_recommended_where_words_are_phrases_and_not_where_characters_are_counted(write):
    """A report with --characters said to take --characters."""
    truth = {"a": "今天天气很好", "b": "我们去公园"}
    spaced = {"a": "今天 天气 很好", "b": "我们 去 公园"}
    advice = "count characters"
    assert advice in cautions(report([write("mine", spaced)], References(truth), "word", 0))
    assert advice in cautions(report([write("mine", truth)], References(truth), "word", 0))
    assert advice not in cautions(report([write("mine", spaced)], References(truth), "character", 0))


@pytest.mark.parametrize(("truth", "found", "lines"), [
    ("我 公园 吧", "我 园 吧 了", "    REF 我 公园 吧 *\n    HYP 我 园   吧 了\n           S       I"),
    ("你好 THE กิน ไป", "好 THE กน ไป", "    REF 你好 THE กิน ไป\n    HYP 好   THE กน ไป\n        S        S"),
    ("मैं आज सेब", "मैं सेब", "    REF मैं आज सेब\n    HYP मैं *  सेब\n          D"),
    ("يحب الكتاب", "يحب", "    REF \u2068يحب\u2069 \u2068الكتاب\u2069\n    HYP \u2068يحب\u2069 *\n            D")])
def test_words_stand_below_each_other_in_scripts_of_other_widths_and_directions(write, truth, found, lines):
    """Hanzi take two columns and marks none, and words of Arabic turned the order of a line but not that of the marks
    below it."""
    assert lines in markdown(report([write("mine", {"a": found})], References({"a": truth}), "word", 0))


def test_what_made_hypotheses_is_told_and_what_was_tuned_on_the_test_set(write, tmp_path):
    tuned = tmp_path / "tuned.json"
    tuned.write_text(json.dumps({"manifest_hash": "m", "on_edge": ["word_score"]}))
    made_by = {"command": "hubertkit decode", "decoder": "batched", "settings": {"beam": 50, "lm_weight": 0.5},
               "tuned": {"file": "tuned.json", "sha256": file_hash(tuned)}, "recogniser_hash": "r",
               "manifest_hash": "m"}
    path = write("mine", FOUND, made_by)
    found = report([path], References(TRUTH, SPEAKERS, "m"), "word", 0)
    facts = dict(blocks(found, Facts)[0].pairs)
    assert (facts["command"], facts["settings"]) == ("hubertkit decode", "beam 50, lm weight 0.5")
    assert "mine: its weights were tuned on these very utterances" in cautions(found)
    assert "mine: word_score of its weights lies on the edge" in cautions(found)
    tuned.write_text("{}")
    assert "is not there as it was" in cautions(report([path], References(TRUTH, SPEAKERS, "m"), "word", 0))
    assert "another manifest" in cautions(report([path], References(TRUTH, SPEAKERS, "n"), "word", 0))


def test_hypotheses_that_nobody_answers_for_are_told_of(write):
    path = write("mine", FOUND, {"decoder": "greedy"})
    path.write_text(path.read_text() + "\n")
    said = cautions(report([path], References(TRUTH), "word", 0))
    assert "nobody says what made it (mine.jsonl.json is of other hypotheses)" in said
    assert "Speakers are not known for all utterances" in said
    one = cautions(report([path], References(TRUTH, dict.fromkeys(TRUTH, "ann")), "word", 0))
    assert "a single speaker" in one


def test_other_utterances_are_refused_with_the_file(write):
    with pytest.raises(InputError, match=r"mine\.jsonl: b: no hypothesis"):
        report([write("mine", {"a": "X"})], References(TRUTH), "word", 0)


def test_characters_have_one_rate(write):
    found = report([write("mine", {"x": "AXC"})], References({"x": "ABC"}), "character", 0)
    rates = next(t for t in blocks(found, Table) if t.name == "rates")
    assert [c.head for c in rates.columns] == ["hypotheses", "CER %"]
    assert rates.rows[0][1].text == "33.33"
    assert rates.rows[0][1].detail == ""  # of one utterance nothing is known of others
    assert found.lead[0] == "Character error rate: 33.33 %."


def test_what_is_said_of_characters_speaks_of_characters(write):
    truth = References({"x": "ABCDEF", "y": "GH"}, {"x": "ann", "y": "bob"})
    found = report([write("mine", {"x": "AB", "y": "GH"})], truth, "character", 0)
    assert "8 reference characters" in cautions(found)
    assert "characters are left out" in cautions(found)
    speakers = next(t for t in blocks(found, Table) if t.name == "speakers")
    assert [c.head for c in speakers.columns] == ["speaker", "utterances", "characters", "CER %"]
    assert speakers.caption.startswith("Character error rate of each speaker")


def test_a_substitution_from_right_to_left_is_not_turned_round(write):
    """Between two words of such scripts an arrow would stand the other way round."""
    found = report([write("mine", {"x": "القط فوق السجادة"})], References({"x": "القط على السجادة"}), "word", 0)
    confused = next(t for t in blocks(found, Table) if t.name.startswith("confusions"))
    assert [c.head for c in confused.columns] == ["substituted", "by", "times"]
    assert [c.text for c in confused.rows[0]] == ["على", "فوق", "1"]
    assert '<div class="aligned" dir="auto">' in page(found)


def test_files_with_as_many_errors_are_named_together(write):
    found = report([write("one", FOUND), write("other", FOUND)], References(TRUTH), "word", 0)
    assert found.lead[0].startswith("Lowest word error rate: 33.33 % [")
    assert found.lead[0].endswith("], one and other.")
