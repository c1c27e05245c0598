"""Published rates beside measured ones: the right set's, and only of that set."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.report.document import Table
from benchmarks.report.hypotheses import report
from benchmarks.report.making import report as report_of_results
from benchmarks.report.markdown import markdown
from benchmarks.report.published import LABELS, _published, section
from benchmarks.report.reading import read_all
from downstream.score.references import References


def _rates(found, system, decoder):
    """Of the table's rows of a system and decoder: what stands below each amount of labels."""
    table, = (block for block in found.blocks if isinstance(block, Table))
    return [[cell.text for cell in r[2:2 + len(LABELS)]] for r in table.rows if (r[0].text, r[1].text) == (
        system, decoder)]


@pytest.mark.parametrize(("utterances", "words", "ten_hours"), [
    (2703, 54_402, "3.9"), (2864, 50_948, "9.0"), (2620, 52_576, "4.3"), (2939, 52_343, "9.4")])
def test_each_of_librispeechs_sets_has_its_own_column_of_the_papers_table(utterances, words, ten_hours):
    rates = _rates(section(utterances, words), "HuBERT BASE, 960 h", "4-gram")
    assert ten_hours in [of_source[LABELS.index("10h")] for of_source in rates]


@pytest.mark.parametrize(("utterances", "words"), [(2620, 52_575), (2619, 52_576), (247, 5010), (None, None)])
def test_nothing_was_published_for_another_set(utterances, words):
    assert section(utterances, words) is None


def test_every_row_names_its_source_and_has_four_rates_in_percent_that_fall_with_more_labels():
    for one in _published()["rates"]:
        assert one["source"] in _published()["sources"]
        rates = [one[label] for label in LABELS if label in one]
        assert rates
        assert len(one) == 3 + len(rates)
        assert {len(four) for four in rates} == {len(_published()["sets"])}
        assert all(0 < rate < 100 for four in rates for rate in four)
        assert all(more <= less for few, many in pairwise(rates) for less, more in zip(few, many, strict=True))


@pytest.mark.parametrize(("words", "there"), [(52_576, True), (5010, False)])
def test_a_comparison_on_test_clean_and_no_other_stands_beside_published_rates(words, there, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({
        "format": 1, "date": "2026-12-01", "machine": {"processor": "a processor", "cores": 2},
        "versions": {"python": "3.11", "torch": "2.11"}, "benchmark": "low-resource", "command": "hubertkit bench",
        "test": {"utterances": 2620}, "rows": [{
            "encoder": "scratch", "labelled": "1h", "cell": "1h-scratch", "decoder": "greedy", "words": words,
            "wer": 50.0, "wer_interval": [48.0, 52.0], "errors": 1, "substitutions": 1,
            "deletions": 0, "insertions": 0, "characters": 90_000, "character_errors": 1,
            "cer": 20.0, "cer_interval": [19.0, 21.0]}]}))
    found = report_of_results(read_all([path]))
    assert ("published" in [s.name for s in found.sections]) == there
    assert ("Hsu et al. 2021" in markdown(found)) == there


def test_hypotheses_of_test_clean_stand_beside_published_rates_and_those_counted_in_characters_do_not(tmp_path):
    texts = {f"u{n}": "A" for n in range(2619)} | {"long": " ".join("A" * (52_576 - 2619))}
    path = tmp_path / "all.jsonl"
    path.write_text("".join(f'{{"id": "{i}", "text": ""}}\n' for i in texts))
    truth = References(texts, None, None)
    assert "published" in [s.name for s in report([path], truth, "word", 0).sections]
    short = replace(truth, texts=dict.fromkeys(texts, "A"))
    assert "published" not in [s.name for s in report([path], short, "word", 0).sections]
    assert "published" not in [s.name for s in report([path], short, "character", 0).sections]
