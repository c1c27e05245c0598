"""Reports of results files: all that are committed, a hand-worked one, several side by side, and what is refused."""

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.report import making
from benchmarks.report.cautions import cautions as cautions_of
from benchmarks.report.document import Facts, Figure, Report, Table, first_of
from benchmarks.report.figures import _label
from benchmarks.report.latex import latex
from benchmarks.report.making import WRITERS, report, write
from benchmarks.report.markdown import markdown
from benchmarks.report.page import page
from benchmarks.report.reading import TITLES, given_files, names_of, read_all
from benchmarks.report.records import records
from upstream.errors import FormatError, InputError, UsageError

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results"
COMMITTED = sorted(RESULTS.rglob("*.json"))
HOSTILE = '<script>alert("x")</script> & a_b $x^2$ 50% #1 {y} ~ \\input{z} | * [q] `c` \u202e\ud800 é 中'
VOID = {"meta", "br"}


class Tags(HTMLParser):
    """Which elements there are, all closed in the order in which they were opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes = [], set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def row(encoder="scratch", wer=50.0, labelled="1h", decoder="greedy", **more):
    return {"encoder": encoder, "labelled": labelled, "cell": f"{labelled}-{encoder}", "decoder": decoder, "wer": wer,
            "wer_interval": [wer - 2, wer + 2], "cer": wer / 2, "cer_interval": [wer / 2 - 1, wer / 2 + 1],
            "words": 20_000, "errors": int(200 * wer), "substitutions": 100, "deletions": 10, "insertions": 10,
            "characters": 90_000, **more}


def compared(difference, interval, encoder="round 1", **more):
    return {"labelled": "1h", "decoder": "greedy", "encoder": encoder, "against": "scratch", "rate": "wer",
            "difference": difference, "interval": interval, "p_value": 0.01, **more}


def results(rows, **more):
    return {"format": 1, "date": "2026-11-30", "machine": {"processor": "a processor", "cores": 2},
            "versions": {"python": "3.11", "torch": "2.11"}, "benchmark": "low-resource",
            "command": "hubertkit bench low-resource", "rows": rows, **more}


@pytest.fixture
def read(tmp_path):
    """Contents as results files that were read, each named `file N`."""
    def read_contents(*contents):
        paths = [tmp_path / f"file {number}.json" for number in range(len(contents))]
        for path, content in zip(paths, contents):
            path.write_text(json.dumps(content))
        return read_all(paths)

    return read_contents


@pytest.fixture
def made(read):
    """What a report says of contents of results files."""
    return lambda *contents: report(read(*contents))


@pytest.fixture
def warned(read):
    """What is said to be careful about in contents of results files."""
    return lambda *contents: " ".join(cautions_of(read(*contents)))


def tables(found):
    return {block.name: block for section in found.sections for block in section.blocks if isinstance(block, Table)}


def cautions(found):
    return " ".join(s for section in found.sections if section.name == "cautions"
                    for block in section.blocks for s in block.sentences)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_result_has_a_report_that_needs_nothing_else(path, tmp_path):
    files, decoded = given_files([path])
    assert not decoded
    found = report(read_all(files))
    whole = page(found)
    tags = Tags(whole)
    assert {"script", "link", "img", "iframe"} & tags.seen == set()
    assert not [value for name, value in tags.attributes if name in ("href", "src") and not value.startswith("#")
                and not name.startswith("xmlns")]
    assert "@import" not in whole
    assert whole.count("<table") == whole.count("</table>") >= 1
    rows = list(csv.DictReader(io.StringIO(records(found))))
    assert sum(r["table"] == "rows" for r in rows) == len(json.loads(path.read_text())["rows"])
    assert markdown(found).startswith("<!-- Made by hubertkit report -->\n\n# ")


def test_every_benchmark_of_ours_is_known():
    sources = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    written = set(re.findall(r'(?:"benchmark": |BENCHMARK = )"([\w-]+)"', sources))
    assert written <= set(TITLES)
    assert {json.loads(path.read_text())["benchmark"] for path in COMMITTED} <= set(TITLES)


def test_figures_of_the_committed_comparison_are_the_files():
    """The table of `benchmarks/results/README.md`, from the same file by another hand."""
    found = report(read_all([RESULTS / "librispeech-mini-light.json"]))
    rates = tables(found)["rates"]
    line = next(r for r in rates.rows if [c.text for c in r[:2]] == ["all", "round 2"])
    assert [c.text for c in line[2:]] == ["90.8", "39.8", "66.6", "39.6"]
    assert line[4].detail == "[64.9, 68.4]"
    assert found.lead[0] == ("Lowest word error rate: 66.6 % [64.9, 68.4], with round 2, labels all, decoder "
                             "batched+4gram.")
    assert "excludes 0 in 28 of 36 (27 with fewer errors than the second of the pair and 1 with more)" in found.lead[1]
    assert "26 of 36 p-values are below 0.05" in found.lead[1]
    assert "0 of 36 p-values are below 0.05" in found.lead[2]
    assert "By speakers none of 36 p-values is below 0.05 once adjusted (the smallest is 0.28)" in cautions(found)


def test_mean_and_deviation_over_seeds_by_hand(made):
    """50, 52 and 57: mean 53, squares 9 + 1 + 16 = 26, over 2: 13, its root 3.606."""
    found = made(results([row(wer=wer, seed=seed) for seed, wer in ((2, 57.0), (0, 50.0), (1, 52.0))]))
    cell = tables(found)["rates"].rows[0][2]
    assert (cell.text, cell.detail) == ("53.0", "± 3.6")
    assert [r[3].text for r in tables(found)["seeds"].rows] == ["0", "1", "2"]
    assert "mean of 3 seeds" in found.lead[0]
    assert "One seed" not in cautions(found)


def test_what_the_file_says_of_its_seeds_together_is_shown(made):
    summary = {"labelled": "1h", "encoder": "scratch", "decoder": "greedy", "seeds": [0, 1], "wer": 51.0, "wer_sd": 1.4,
               "wer_interval": [49.5, 52.5], "cer": 25.5, "cer_sd": 0.7, "cer_interval": [25.0, 26.0],
               "interval_covers": "test utterances"}
    rows = [row(wer=wer, seed=seed) for seed, wer in enumerate((50.0, 52.0))]
    seeds = [{"seed": 0, "difference": -3.5}, {"seed": 1, "difference": -2.5}]
    found = made(results([*rows, *(r | {"encoder": "round 1", "wer": 40.0} for r in rows)], summaries=[summary],
                         comparisons=[compared(-3.0, [-4.0, -2.0], seeds=[0, 1], per_seed=seeds)]))
    by_encoder = {r[1].text: r[2].detail for r in tables(found)["rates"].rows}
    assert by_encoder == {"scratch": "± 1.4 [49.5, 52.5]", "round 1": "± 0.0"}
    assert tables(found)["differences"].rows[0][-1].text == "−3.50, −2.50"


def test_files_that_differ_in_their_seed_are_averaged_beside_each_other(made):
    """50 and 54: mean 52, squares 4 + 4 over 1, root of 8: 2.8."""
    found = made(*(results([row(wer=wer)], recipe={"seed": seed, "lm": {"order": 4}}) for seed, wer in enumerate((
        50.0, 54.0))))
    assert [(r[2].text, r[3].text) for r in tables(found)["rates"].rows] == [("file 0", "50.0"), ("file 1", "54.0")]
    cell = tables(found)["over-files"].rows[0][4]
    assert (cell.text, cell.detail) == ("52.0", "± 2.8")
    assert "Recipes differ between the files: seed." in cautions(found)
    other = made(*(results([row()], recipe={"seed": seed, "lm": {"order": order}}) for seed, order in ((0, 3), (1, 4))))
    assert "over-files" not in tables(other)
    assert "Recipes differ between the files: seed and lm.order." in cautions(other)


def test_differences_say_what_is_sure_by_what_sampling(made):
    found = made(results([row(), row("round 1", 47.0), row("round 2", 49.0)], comparisons=[
        compared(-3.0, [-4.0, -2.0], by_speaker={"interval": [-6.0, 0.5], "p_value": 0.25}),
        compared(-1.0, [-2.5, 0.5], "round 2", p_value=0.2, by_speaker={"interval": [-1.5, -0.5], "p_value": 0.03})]))
    first, second = tables(found)["differences"].rows
    assert [c.text for c in first[2:6]] == ["round 1", "WER", "−3.00", "[−4.00, −2.00]"]
    assert [first[5].strong, first[7].strong, second[5].strong, second[7].strong] == [True, False, False, True]
    assert (first[6].text, first[6].detail) == ("0.010", "[0.020]")  # the smaller of two, times two
    said = " ".join(s for section in found.sections if section.name == "differences"
                    for s in section.blocks[1].sentences)
    assert ("Drawing utterances, the 95 % interval excludes 0 in 1 of 2 (1 with fewer errors than scratch); all but "
            "round 2 − scratch (1h, greedy, WER).") in said
    assert "Drawing speakers, the 95 % interval excludes 0 in 1 of 2" in said


def test_adjusted_p_values_of_the_file_are_taken_as_they_are(made):
    found = made(results([row(), row("round 1"), row("round 2")], comparisons=[
        compared(-3.0, [-4.0, -2.0], p_holm=0.07), compared(-1.0, [-2.0, 0.5], "round 2", p_holm=0.09)]))
    assert [r[6].detail for r in tables(found)["differences"].rows] == ["[0.070]", "[0.090]"]
    assert "single comparison" not in cautions(found)


@pytest.mark.parametrize(("content", "says"), [
    (results([row(words=5010)]), "The test set is small: 5,010 reference words."),
    (results([row()], test={"speakers": 6}), "The test set has 6 speakers"),
    (results([row()]), "does not say how many speakers"),
    (results([row()], test={"speakers_trained_on": 2}), "2 speakers of the test set are in the training data as well"),
    (results([row()]), "One seed: "),
    (results([row(seed=0), row(seed=1)]), "2 seeds: their standard deviation is hardly known."),
    (results([row(), *(row("round 1", seed=seed) for seed in range(3))]), "of rounds are of one pretraining"),
    (results([row(on_edge=["lm_weight"])]), "lie on the edge of what was tried in 1h-scratch, greedy (lm_weight)"),
    (results([row(left_out=3)]), "left out of the fine-tuning of 1h-scratch (3)"),
    (results([row(deletions=400, insertions=100)]), "Deletions outnumber insertions more than 3 times in 1 row (most: "
     "1h-scratch, greedy, 400 to 100)"),
    (results([row(deletions=100, insertions=400)]), "Insertions outnumber deletions"),
    (results([row()], recipe={"test": "held", "dev": "held"}), "tuned on the test set itself"),
    (results([row()], recipe={"cells": ["1h: scratch", "1h: round 1"]}), "1 of 2 trainings"),
    (results([row()], comparisons=[compared(-1, [-2, 0])] * 2), "2 p-values are each of a single comparison"),
    (results([row()], comparisons=[compared(-1, [-2, 0])]), "Comparisons are by utterances only"),
])
def test_a_caution_is_said_where_there_is_reason(warned, content, says):
    assert says in warned(content)


def test_no_caution_without_reason(warned):
    seeds = [row(seed=seed, encoder=e) for seed in range(3) for e in ("scratch", "wavlm")]
    content = results(seeds, test={"speakers": 40}, comparisons=[compared(
        -3.0, [-4.0, -2.0], by_speaker={"interval": [-5.0, -1.0], "p_value": 0.01})])
    assert warned(content) == ""


def test_two_pretrainings_are_not_called_one(warned):
    one, other = (results([row(), row("round 1")], recipe={"seed": seed}) for seed in (0, 1))
    assert "of one pretraining" in warned(one)
    assert "of one pretraining" not in warned(one, other)


def test_versions_and_machines_that_differ_between_files_are_told_of(warned):
    other = results([row(wer=40.0)]) | {"versions": {"python": "3.11", "torch": "2.12"}}
    said = warned(results([row()]), other)
    assert "Versions differ between the files: torch." in said
    assert "Not all files name the hash of their test set" in said
    assert "Machines differ" not in said


@pytest.mark.parametrize(("contents", "says"), [
    ([results([row()]), results([row(words=20_001)])], "another test set than .*20,001 reference words here"),
    ([results([row(), row("round 1", characters=1)])], "row 2: another test set than"),
    ([results([row()], test={"manifest": 64 * "a"}), results([row(wer=40)], test={"manifest": 64 * "b"})],
     "manifest bbbbbbbbbbbb… here, manifest aaaaaaaaaaaa… there"),
    ([results([row()]), results([row()])], "the same results as"),
    ([results([row()]), results([{"update": 1}]) | {"benchmark": "curves"}], "of the benchmark curves, and .* of low"),
    ([results([])], "no rows"),
])
def test_what_cannot_stand_side_by_side_is_refused(made, contents, says):
    with pytest.raises((InputError, FormatError), match=says):
        made(*contents)


def test_an_unknown_benchmark_is_refused_with_those_that_are_known(made):
    with pytest.raises(FormatError, match=r"of the benchmark 'mine', which is not known here; known are curves, "):
        made(results([{"a": 1}]) | {"benchmark": "mine"})


@pytest.mark.parametrize("content", ["[]", "{}", "no json", '{"format": 1}'])
def test_a_file_that_is_no_results_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(FormatError, match=r"x\.json: "):
        read_all([tmp_path / "x.json"])


def test_names_tell_files_apart(tmp_path):
    assert names_of([Path("a/x/results.json"), Path("b/y/results.json")]) == ["x", "y"]
    assert names_of([Path("a/x/results.json"), Path("b/x/results.json")]) == ["a/x", "b/x"]
    assert names_of([Path("one.json"), Path("two.json")]) == ["one", "two"]
    assert names_of([Path("a/one.jsonl"), Path("b/one.jsonl")]) == ["a/one", "b/one"]
    with pytest.raises(UsageError, match="given twice"):
        given_files([ROOT / "setup.py", ROOT / "docs" / ".." / "setup.py"])


@pytest.fixture
def hostile(made):
    """A report in which every name that a file may choose is hostile."""
    rows = [row(decoder=HOSTILE, labelled=HOSTILE, cell=HOSTILE, on_edge=[HOSTILE], recogniser=HOSTILE),
            row("round 1", decoder=HOSTILE, labelled=HOSTILE)]
    content = results(rows, comparisons=[compared(-3.0, [-4.0, -2.0]) | {"labelled": HOSTILE, "decoder": HOSTILE}] * 2,
                      recipe={"seed": 0, HOSTILE: HOSTILE}, notes=HOSTILE, extra={HOSTILE: HOSTILE},
                      rounds=[{"round": HOSTILE, "teacher": {"layer": HOSTILE}, "units": {"classes": [HOSTILE]}}])
    return made(content | {"command": HOSTILE, "machine": {"processor": HOSTILE, "cores": 1}})


def test_no_name_becomes_markup_on_the_page(hostile):
    whole = page(hostile)
    assert "script" not in Tags(whole).seen
    assert "\u202e" not in whole
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; a_b" in whole
    whole.encode()


def test_no_name_becomes_a_command_in_latex(hostile):
    text = latex(hostile)
    assert r"\textless{}script\textgreater{}" in text
    assert r"a\_b \$x\textasciicircum{}2\$ 50\% \#1 \{y\} \textasciitilde{} \textbackslash{}input\{z\}" in text
    assert r"\'{e} \texttt{U+4E2D}" in text
    assert text.isascii()
    assert all(line.startswith("%") for line in text.split("\n") if "input{z}" in line)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_the_tables_compile_with_booktabs_alone(hostile, tmp_path):
    (tmp_path / "tables.tex").write_text(latex(hostile))
    (tmp_path / "paper.tex").write_text("\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
                                        "\\input{tables}\n\\end{document}\n")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=tmp_path,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:]


def test_no_name_becomes_a_column_in_markdown_or_csv(hostile):
    lines = markdown(hostile).split("\n")
    heads = [n for n, line in enumerate(lines) if re.fullmatch(r"\|( -+:? \|)+", line)]
    for head in heads:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines[head - 1:head + 3] if line.startswith("|")}
        assert len(columns) == 1
    assert "<script" not in re.sub("`` .* ``", "code", markdown(hostile)).replace("\\<script", "")
    assert {len(line) for line in csv.reader(io.StringIO(records(hostile)))} == {
        len(next(csv.reader(io.StringIO(records(hostile)))))}


def test_the_same_files_make_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        write(report(read_all([RESULTS / "demo-seed0.json"])), tmp_path / folder)
    for name in WRITERS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_records_hold_every_figure_in_full(made):
    found = made(results([row(wer=51.23456)], comparisons=[compared(-1.0, [-2.0, 0.5], by_speaker={
        "interval": [-3.0, 1.0], "p_value": 0.5})]))
    rows = list(csv.DictReader(io.StringIO(records(found))))
    assert (rows[0]["table"], rows[0]["wer"], rows[0]["wer_interval_low"]) == ("rows", "51.23456", "49.23456")
    assert (rows[1]["table"], rows[1]["by_speaker.interval_low"], rows[1]["interval_high"]) == (
        "comparisons", "-3.0", "0.5")


def test_files_of_somebody_else_are_left_and_nothing_is_half_written(tmp_path, monkeypatch):
    found = report(read_all([RESULTS / "ranks.json"]))
    write(found, tmp_path)
    making.check_place(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in WRITERS}

    def broken(found: Report) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(WRITERS, "report.md", (broken, WRITERS["report.md"][1]))
    with pytest.raises(OSError, match="No space"):
        write(report(read_all([RESULTS / "lm.json"])), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in WRITERS} == before
    assert len(list(tmp_path.iterdir())) == len(WRITERS)
    for name in WRITERS:
        other = tmp_path / f"of {name}"
        other.mkdir()
        (other / name).write_text("mine\n")
        with pytest.raises(UsageError, match="no report of ours"):
            making.check_place(other)


def test_a_table_of_tables_of_somebody_else_is_not_taken_for_ours(tmp_path):
    (tmp_path / "tables.csv").write_text("table,rows,owner\nusers,3,me\n")
    with pytest.raises(UsageError, match="no report of ours"):
        making.check_place(tmp_path)


def test_a_table_longer_than_a_page_goes_on_in_another_float(made):
    """35 rows with intervals below, two lines each: 21 on a page, then 14."""
    text = latex(made(results([row(f"e{number}", wer=10.0 + number) for number in range(35)])))
    assert text.count(r"\begin{table}") == 2
    assert "rates. Part 1 of 2. In brackets" in text
    assert "rates. Part 2 of 2.}" in text
    assert r"\label{tab:rates-2}" in text
    first, second = text.split(r"\begin{table}")[1:]
    assert [len(re.findall(r"& e\d+ &", part)) for part in (first, second)] == [21, 14]


def test_what_a_figure_of_means_leaves_out_is_said(made):
    rows = [row(), row("round 1", wer=40.0)]
    found = made(results(rows, recipe={"seed": 0}), results([row(wer=51.0)], recipe={"seed": 1}))
    left = "What only some of the files have is left out."
    assert left in tables(found)["over-files"].note
    assert next(b for s in found.sections for b in s.blocks if isinstance(b, Figure)).caption.endswith(left)


def test_more_encoders_than_colours_are_told_apart_by_their_marks(made):
    rows = [row(f"e{number}", wer=10.0 + number, labelled=labelled) for number in range(9) for labelled in ("1h", "2h")]
    svg = next(b.svg for s in made(results(rows)).sections for b in s.blocks if isinstance(b, Figure))
    lines = re.findall(r'<path d="[^"]*" clip-path="[^"]*" style="fill: none; (stroke-dasharray[^"]*)', svg)
    assert len([line for line in lines if "--series0" in line]) == 2  # the ninth, in both panels of rates


def test_names_of_encoders_do_not_lie_on_each_other(made):
    def turned(*names):
        found = made(results([row(name) for name in names]))
        svg = next(b.svg for s in found.sections for b in s.blocks if isinstance(b, Figure))
        return re.search(r"rotate\(-35(\.0*)?[ )]", svg) is not None

    assert not turned("scratch", "round-1")
    assert turned(*(f"wavlm-base-plus-frozen-{number}" for number in range(8)))


def test_long_names_that_end_differently_have_labels_that_differ():
    names = [f"rescored by a character model, seed {number}" for number in range(3)]
    labels = {_label((one, other), False) for one in names for other in names}
    assert len(labels) == 9
    assert max(map(len, labels)) < 60


def test_a_single_difference_has_its_p_value_in_the_sentence(made):
    one = compared(-3.0, [-4.0, -2.0], by_speaker={"interval": [-5.0, -1.0], "p_value": 0.5})
    said = made(results([row(), row("round 1")], comparisons=[one])).lead
    assert said[1].endswith("excludes 0: −3.00 points, p = 0.010.")
    assert said[2].endswith("excludes 0: −3.00 points, p = 0.500.")


def test_a_figure_is_told_by_its_caption_and_a_table_scrolls_by_keys(made):
    whole = page(made(results([row(), row("round 1")])))
    assert whole.count('<svg role="img" aria-labelledby="rates-figure-caption"') == 1
    assert '<figcaption id="rates-figure-caption">' in whole
    assert '<div class="scroll" role="group" aria-labelledby="rates-caption" tabindex="0">' in whole
    ids = re.findall(r'\bid="([^"]*)"', whole)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("words", "expected"), [
    ("", ""), ("a", "a"), ("ab", "a and b"), ("abc", "a, b and 1 more"), ("abcd", "a, b and 2 more")])
def test_of_many_names_the_first_are_listed_and_the_others_counted(words, expected):
    assert first_of(words, 2) == expected


def test_what_encoders_from_elsewhere_are_stands_in_the_report(made):
    """A bug once found: only the names were told that the recipe had given them, whatever lay behind these."""
    recipe = {"cells": ["1h: wavlm-frozen"], "unlabelled": "train", "dev": "dev", "test": "test", "encoders": {
        "wavlm-frozen": {"encoder": "microsoft/wavlm-base-plus", "finetune": {"frozen": True}}}}
    encoders = [{"name": "wavlm-frozen", "encoder": "microsoft/wavlm-base-plus", "hash": "0123456789abcdef",
                 "frontend": "conv", "stride_ms": 20, "layers": 12, "width": 768}]
    found = made(results([row("wavlm-frozen")], recipe=recipe, encoders=encoders))
    told, = tables(found)["encoders"].rows
    assert [cell.text for cell in told] == ["wavlm-frozen", "microsoft/wavlm-base-plus", "0123456789ab", "conv", "20",
                                            "12", "768", "frozen yes"]
    assert "encoders" not in tables(made(results([row()])))


@pytest.mark.parametrize(("more", "told"), [({}, False), ({"dev_wer": 40.0, "lm_weight": 0.5}, True)])
def test_what_rates_on_dev_are_of_is_told(made, more, told):
    """They are of as much of dev as weights were searched on, and stood beside those of the test set without a word."""
    assert ("of the utterances that weights were found on" in tables(made(results([row(**more)])))[
        "recognisers"].note) == told


@pytest.mark.parametrize(("cell", "data"), [
    ("1h: scratch", "corpus unknown, dev dev, test test"),
    ("1h: round 2", "corpus unknown, unlabelled train, dev dev, test test"),
])
def test_unlabelled_recordings_are_told_of_where_they_were_heard(made, cell, data):
    """A comparison without a pretraining named its default split, which nothing reads."""
    recipe = {"cells": [cell], "unlabelled": "train", "dev": "dev", "test": "test"}
    found = made(results([row()], recipe=recipe))
    facts = [pair for section in found.sections for block in section.blocks if isinstance(block, Facts)
             for pair in block.pairs]
    assert ("data", data) in facts


def test_a_link_keeps_its_own_name(tmp_path):
    (tmp_path / "SHA256E-s1--0a.jsonl").touch()
    (tmp_path / "greedy.jsonl").symlink_to(tmp_path / "SHA256E-s1--0a.jsonl")
    assert names_of([tmp_path / "greedy.jsonl"]) == ["greedy"]


def test_a_report_of_characters_says_nothing_of_words(made):
    """A bug once found: of scripts without spaces the lead, the tables and what to be careful about were of words."""
    rows = [row(cer=20.0, words=9000, deletions=900, dev_wer=30.0, lm_weight=0.5), row("round 1", cer=30.0, words=9000)]
    more = {"unit": "character", "rates": ["cer"], "recipe": {"decoding": {"unit": "character", "unspaced": True}}}
    found = made(results(rows, comparisons=[compared(-4.0, [-5.0, -3.0], rate="cer")], **more))
    assert found.lead[0] == "Lowest character error rate: 20.0 % [24.0, 26.0], with scratch, labels 1h, decoder greedy."
    rates = tables(found)["rates"]
    assert rates.caption == "Character error rates."
    assert [c.head for c in rates.columns] == ["labels", "encoder", "greedy CER %"]
    assert "dev CER %" in [c.head for c in tables(found)["recognisers"].columns]
    assert "The test set is small: 9,000 reference characters." in cautions(found)
    assert "characters are left out" in cautions(found)
    assert "WER" not in markdown(found)
    assert "WER" not in page(found)


def test_a_recipe_that_chooses_weights_by_characters_has_their_rate_first(made):
    rows = [row(cer=20.0), row("round 1", wer=40.0, cer=30.0)]
    more = {"unit": "word", "rates": ["cer", "wer"], "recipe": {"decoding": {"unit": "character"}}}
    found = made(results(rows, **more))
    assert found.lead[0].startswith("Lowest character error rate: 20.0 %")
    rates = tables(found)["rates"]
    assert rates.caption == "Character and word error rates."
    assert [c.head for c in rates.columns[2:]] == ["greedy CER %", "greedy WER %"]
    assert "dev WER %" in [c.head for c in tables(made(results([row(dev_wer=3.0)], recipe=more["recipe"])))[
        "recognisers"].columns], "a file from before says what it said"
    both = made(results(rows, **more), results([row()], unit="word", rates=["wer", "cer"]))
    assert both.lead[0].startswith("Lowest word error rate: 40.0 %")


def test_results_that_count_in_different_units_do_not_stand_side_by_side(read):
    files = read(results([row()]), results([row()], unit="character", rates=["cer"]))
    with pytest.raises(InputError, match=r"file 1.json: counts errors in characters, and .*file 0.json in words, so"):
        report(files)


def test_a_report_of_seams_counted_in_characters_says_so(made):
    """A bug once found: the results say `"unit": "character"`, and the report of them spoke of words."""
    rows = [{"decoder": "greedy", "recordings": "joined", "words": 900, "errors": errors, "wer": errors / 9}
            for errors in (90, 99)]
    found = made(results(rows, unit="character") | {"benchmark": "seams"})
    assert found.lead[0].startswith("Lowest character error rate: 10.00 %")
    assert {"CER %", "WER %"} & {column.head for column in tables(found)["rows"].columns} == {"CER %"}
    assert "900 reference characters" in cautions(found)
