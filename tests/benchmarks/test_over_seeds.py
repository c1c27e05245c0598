"""Means, deviations and paired differences over seeds, by hand; and the tables that show them."""

import itertools
import json
import statistics

import numpy as np
import pytest
from rich.console import Console

from benchmarks.evaluation import hypotheses_file
from benchmarks.low_resource_table import tables
from benchmarks.over_seeds import Tally, add_holm
from downstream.score.intervals import bootstrap_interval
from downstream.score.significance import holm, paired_difference


class Recordings:
    """Utterances of four words and eleven characters, spaces among them."""

    ids = ("u1", "u2")
    texts = ("AA BB CC DD", "EE FF GG HH")
    speakers = ("ann", "bob")


# words wrong of eight: scratch 4 and 2, mine 1 and 1, other 2 with seed 0 alone
SAID = {("scratch", 0): ("XX YY CC DD", "EE FF XX YY"), ("scratch", 7): ("XX YY CC DD", "EE FF GG HH"),
        ("mine", 0): ("XX BB CC DD", "EE FF GG HH"), ("mine", 7): ("AA BB CC DD", "EE FF GG XX"),
        ("other", 0): ("XX YY CC DD", "EE FF GG HH")}


@pytest.fixture
def tally(tmp_path):
    """Of the rows of `SAID`, which are given as well."""
    rows = []
    for (encoder, seed), texts in SAID.items():
        cell = f"1h-{encoder}-seed{seed}"
        (tmp_path / cell / "decoded").mkdir(parents=True)
        lines = [json.dumps({"id": i, "text": t, "score": 0.0, "acoustic": 0.0}) for i, t in zip(Recordings.ids, texts)]
        (tmp_path / cell / "decoded/greedy.jsonl").write_text("\n".join(lines) + "\n")
        rows.append({"cell": cell, "encoder": encoder, "labelled": "1h", "decoder": "greedy", "seed": seed})
    return Tally(tmp_path, Recordings, seed=0, resamples=200), rows


def test_summaries_by_hand(tally):
    """Scratch: 50 and 25 %, mean 37.5, deviation sqrt(2 * 12.5 ** 2 / 1) = 17.678. u1 has 2 errors with either seed, u2
    2 and 0: draws of two utterances give 4 + 4, 4 + 2 or 2 + 2 of 16 words."""
    counted, rows = tally
    scratch, mine, other = counted.summaries(rows)
    assert (scratch["encoder"], scratch["seeds"]) == ("scratch", [0, 7])
    assert (scratch["wer"], scratch["wer_sd"]) == (37.5, 17.678)
    assert scratch["wer_interval"] == [25.0, 50.0]
    assert scratch["cer"] == pytest.approx(100 * (8 + 4) / 44, abs=1e-3)  # of 22 characters each seed
    assert (mine["wer"], mine["wer_sd"]) == (12.5, 0)
    assert (other["seeds"], other["wer"], other["wer_sd"]) == ([0], 25.0, None)
    assert all("test utterances" in summary["interval_covers"] for summary in (scratch, mine, other))


def test_comparisons_by_hand(tally):
    """Mine against scratch: -37.5 and -12.5 points. Of 16 words, u1 has 1 + 0 errors against 2 + 2 and u2 0 + 1 against
    2 + 0: differences -3 and -1, which 2 of 4 swaps reach."""
    counted, rows = tally
    found = {(c["encoder"], c["against"], c["rate"]): c for c in counted.comparisons(rows, ["scratch", "other"])}
    assert list(found) == [("mine", "scratch", "wer"), ("mine", "scratch", "cer"), ("other", "scratch", "wer"),
                           ("other", "scratch", "cer"), ("mine", "other", "wer"), ("mine", "other", "cer")]
    mine = found["mine", "scratch", "wer"]
    assert (mine["difference"], mine["p_value"], mine["seeds"]) == (-25.0, 0.5, [0, 7])
    assert mine["per_seed"] == [{"seed": 0, "difference": -37.5}, {"seed": 7, "difference": -12.5}]
    alone = found["other", "scratch", "wer"]
    assert (alone["difference"], alone["seeds"]) == (-25.0, [0])  # of the seed that both have
    assert {c["p_holm"] for c in found.values()} == {1}  # .5 and more, three times


def test_what_is_kept_is_what_would_be_computed_again(tally, tmp_path):
    counted, rows = tally
    counted.comparisons(rows[:4], ["scratch"])
    first = counted.comparisons(rows, ["scratch"])
    assert counted.comparisons(rows, ["scratch"]) == first
    assert Tally(tmp_path, Recordings, seed=0, resamples=200).comparisons(rows, ["scratch"]) == first


def test_seeds_that_only_one_side_has_are_not_compared(tally):
    counted, rows = tally
    assert counted.comparisons([rows[0], rows[3]], ["scratch"]) == []


class Many:
    """Twenty-four utterances of four words."""

    ids = tuple(f"u{i}" for i in range(24))
    texts = ("A B C D",) * 24
    speakers = ("ann", "bob", "eve") * 8


def test_every_amount_of_labels_and_decoder_is_by_itself_and_draws_are_those_asked_for(tmp_path):
    """Three seeds of everything; an utterance has so many errors as its first words are an X."""
    wrong, rows = {}, []
    for number, (labelled, encoder, decoder, seed) in enumerate(itertools.product(
            ("10min", "1h"), ("mine", "scratch"), ("greedy", "beam+4gram"), (0, 1, 2))):
        found = np.random.default_rng(number).integers(0, 3 if encoder == "mine" else 4, 24)
        wrong.setdefault((labelled, encoder, decoder), []).append(found)
        cell = f"{labelled}-{encoder}-seed{seed}"
        (tmp_path / cell / "decoded").mkdir(parents=True, exist_ok=True)
        (tmp_path / cell / "decoded" / hypotheses_file(decoder)).write_text("".join(json.dumps(
            {"id": i, "text": "X " * n + "A B C D"[2 * n:], "score": 0.0, "acoustic": 0.0}) + "\n"
            for i, n in zip(Many.ids, found.tolist())))
        rows.append({"cell": cell, "encoder": encoder, "labelled": labelled, "decoder": decoder, "seed": seed})
    counted = Tally(tmp_path, Many, seed=3, resamples=300, rates=("wer",))
    words = np.full(24, 12)
    for summary in counted.summaries(rows):
        of_seeds = wrong[summary["labelled"], summary["encoder"], summary["decoder"]]
        rates = [100 * one.sum() / 96 for one in of_seeds]
        assert (summary["wer"], summary["wer_sd"]) == (round(sum(rates) / 3, 3), round(statistics.stdev(rates), 3))
        assert summary["wer_interval"] == bootstrap_interval(sum(of_seeds), words, seed=3, resamples=300).rounded
    compared, p_values = counted.comparisons(rows, ["scratch"]), {}
    assert [(c["labelled"], c["decoder"], c["encoder"]) for c in compared] == [
        (labelled, decoder, "mine") for labelled in ("10min", "1h") for decoder in ("greedy", "beam+4gram")]
    for c in compared:
        mine, scratch = (sum(wrong[c["labelled"], encoder, c["decoder"]]) for encoder in ("mine", "scratch"))
        expected, speakers = (paired_difference(mine, scratch, words, seed=3, groups=groups)
                              for groups in (None, Many.speakers))
        assert (c["difference"], c["interval"]) == (round(expected.points, 3), expected.interval.rounded)
        assert c["by_speaker"]["interval"] == speakers.interval.rounded
        p_values.setdefault(c["decoder"], []).append(expected.p_value)
    adjusted = {decoder: holm(values) for decoder, values in p_values.items()}  # two of each decoder
    assert [c["p_holm"] for c in compared] == [round(adjusted[d][n], 5) for n in (0, 1) for d in p_values]
    compared[0]["per_seed"].clear()  # what is given is the caller's
    assert len(counted.comparisons(rows, ["scratch"])[0]["per_seed"]) == 3


def test_characters_are_compared_without_spaces_where_they_are_what_is_counted(tally, tmp_path):
    """Of 16 characters scratch has 8 and 4 wrong; where a space stands matters not."""
    (tmp_path / "1h-mine-seed7/decoded/greedy.jsonl").write_text("".join(
        json.dumps({"id": i, "text": t, "score": 0.0, "acoustic": 0.0}) + "\n"
        for i, t in zip(Recordings.ids, ("AABBCC DD", "EEF FG GXX"))))
    counted = Tally(tmp_path, Recordings, seed=0, resamples=200, unit="character", rates=("cer",))
    scratch, mine, _ = counted.summaries(tally[1])
    assert scratch["cer"] == scratch["wer"] == 37.5
    assert mine["cer"] == pytest.approx(100 * (2 + 2) / 32)
    assert [(c["encoder"], c["rate"], c["difference"]) for c in counted.comparisons(tally[1], ["scratch"])] == [
        ("mine", "cer", -25.0), ("other", "cer", -25.0)]


def test_the_rate_to_be_read_first_is_compared_first(tally, tmp_path):
    counted = Tally(tmp_path, Recordings, seed=0, resamples=200, rates=("cer", "wer"))
    assert [c["rate"] for c in counted.comparisons(tally[1], ["scratch"])] == ["cer", "wer"] * 2


def test_holm_is_taken_over_the_comparisons_of_one_rate_and_decoder():
    """.01, .04 of one family: .02, .04; one alone stays; speakers are a family of their own."""
    values = [("wer", "greedy", 0.01, 0.5), ("cer", "greedy", 0.03, 0.5), ("wer", "greedy", 0.04, None)]
    found = [{"rate": rate, "decoder": decoder, "p_value": p} | ({} if by is None else {"by_speaker": {"p_value": by}})
             for rate, decoder, p, by in values]
    add_holm(found)
    assert [c["p_holm"] for c in found] == [0.02, 0.03, 0.04]
    assert [c["by_speaker"]["p_holm"] for c in found[:2]] == [0.5, 0.5]


def test_holm_is_taken_over_p_values_before_they_are_rounded():
    """1 / 4096 = .000244 is .00024 in the file; four times as much is .00098, and was .00096 of the rounded."""
    found = [{"rate": "wer", "decoder": "greedy", "p_value": p} for p in (1 / 4096, 0.5, 0.6, 0.7)]
    add_holm(found)
    assert (found[0]["p_value"], found[0]["p_holm"]) == (0.00024, 0.00098)


def shown(results):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(*tables(results))
    return capture.get().splitlines()


LONG = {"labelled": "10min", "encoder": "hubert-frozen", "decoder": "beam+4gram"}
RATES = {"wer": 101.3, "wer_interval": [100.1, 102.6], "cer": 88.76, "cer_interval": [80.1, 89.9]}
COMPARED = {**LONG, "against": "scratch", "rate": "wer", "difference": -12.34, "interval": [-13.5, -11.1], "seeds": [0],
            "p_value": 0.0001, "p_holm": 0.0004, "per_seed": [{"seed": 0, "difference": -12.34}]}


def test_one_seed_is_shown_by_its_rows_with_differences_below():
    row = {**LONG, **RATES, "seed": 0, "words": 5010, "errors": 4917}
    summary = {**LONG, **RATES, "seeds": [0], "wer_sd": None, "cer_sd": None}
    text = shown({"rows": [row], "summaries": [summary], "comparisons": [COMPARED]})
    assert any("4917 " in line and "101.3 [100.1, 102.6]" in line for line in text)
    assert any("-12.3 [-13.5, -11.1]" in line and "0.0004" in line for line in text)
    assert not any("seed" in line for line in text)
    assert max(map(len, text)) <= 100


def heads(lines):
    return next(line for line in lines if "decoder" in line).replace("┃", " ").split()


@pytest.mark.parametrize(("given", "rates", "counted"), [
    ({}, ["wer", "cer"], "words"), ({"rates": ["cer", "wer"], "unit": "word"}, ["cer", "wer"], "words"),
    ({"rates": ["cer"], "unit": "character"}, ["cer"], "characters")])
def test_the_table_shows_the_rate_of_what_is_counted(given, rates, counted):
    """A bug once found: of scripts without spaces the first column was the share of wrong phrases."""
    row = {**LONG, **RATES, "seed": 0, "words": 5010, "errors": 4917}
    summary = {**LONG, **RATES, "seeds": [0], "wer_sd": None, "cer_sd": None}
    text = shown({"rows": [row], "summaries": [summary], "comparisons": [], **given})
    assert heads(text) == ["labelled", "encoder", "decoder", *rates, "errors"]
    assert f"of 5010 {counted} [95% over test utterances]" in " ".join(text)
    several = {**summary, "seeds": [0, 1], "wer_sd": 0.5, "cer_sd": 0.5}
    text = shown({"rows": [], "summaries": [several], "comparisons": [], **given})
    assert heads(text) == ["labelled", "encoder", "decoder", *map(str.upper, rates)]


def test_several_seeds_are_shown_as_means_within_a_hundred_columns():
    summary = {**LONG, **RATES, "seeds": [0, 1, 2], "wer_sd": 0.52, "cer_sd": 1.1}
    seeds = {"seeds": [0, 1, 2], "per_seed": [{"seed": s, "difference": d} for s, d in enumerate((-12.9, -11, -13.2))]}
    text = shown({"rows": [], "summaries": [summary], "comparisons": [
        {**COMPARED, **seeds}, {**COMPARED, **seeds, "against": "wavlm", "p_holm": 0.04}]})
    assert any("101.3 (0.5) [100.1, 102.6]" in line and "88.8 (1.1) [80.1, 89.9]" in line for line in text)
    lines = [line for line in text if "-13.2 to -11.0" in line]
    assert ["0.040" in line for line in lines] == [False, True]
    assert ["difference from scratch" in " ".join(text), "difference from wavlm" in " ".join(text)] == [True, True]
    assert max(map(len, text)) <= 100
