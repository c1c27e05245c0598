"""What the repository says that it measured: results files fit the schema, and the demo's table is theirs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import read_results
from upstream.teacher.teacher import SAMPLE_WITHIN

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SEEDS = (0, 1, 2)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_fit_the_schema_and_name_their_command(path):
    found = read_results(path)
    assert found["command"]
    assert "/tmp" not in found["command"]
    assert f"`{path.name}`" in (RESULTS / "README.md").read_text() or path.stem.startswith("demo-seed")


def test_the_page_says_which_results_no_command_writes():
    sources = "".join(p.read_text() for p in (RESULTS.parents[1] / "benchmarks").glob("*.py"))
    written = set(re.findall(r'(?:"benchmark": |BENCHMARK = )"([\w-]+)"', sources))
    by_hand = {p.name for p in RESULTS.glob("*.json") if read_results(p)["benchmark"] not in written}
    beginning = (RESULTS / "README.md").read_text().partition("\n| file |")[0]
    assert set(re.findall(r"`([\w-]+\.json)`", beginning)) == by_hand


def test_every_file_that_is_no_results_file_is_on_the_page():
    page = (RESULTS / "README.md").read_text()
    others = [p for p in RESULTS.rglob("*") if p.is_file() and p.suffix != ".json" and p.name != "README.md"]
    assert [str(p) for p in others if f"`{p.relative_to(RESULTS)}`" not in page] == []


def test_no_teacher_of_a_result_would_be_of_fewer_utterances_today():
    """All heard at most the 248.7 minutes of training speech of librispeech-mini; those of `bench teachers`, which
    draws hours of its own, are not bounded. The smallest sample of them is that of the curves."""
    samples = [size for path in RESULTS.glob("*.json") for size in samples_in(read_results(path))]
    assert len(samples) > 20
    for frames in (*samples, 50_000):
        assert SAMPLE_WITHIN * frames / 50 > 248.7 * 60


def samples_in(found: Any) -> Iterator[int]:
    """Every `sample_frames` in a results file."""
    if isinstance(found, dict):
        yield from (value for name, value in found.items() if name == "sample_frames")
        found = list(found.values())
    if isinstance(found, list):
        for part in found:
            yield from samples_in(part)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_demo_shows_what_it_is_for(seed):
    """Both rounds beat scratch, paired on the same utterances, and the second teacher beats the first."""
    found = read_results(RESULTS / f"demo-seed{seed}.json")
    against_scratch = {c["encoder"]: c for c in found["comparisons"] if (c["decoder"], c["rate"]) == ("greedy", "cer")}
    assert set(against_scratch) == {"round 1", "round 2"}
    for encoder, compared in against_scratch.items():
        assert compared["difference"] < 0
        assert compared["interval"][1] < 0, encoder
    first, second = (r["units"]["pnmi"] for r in found["rounds"])
    assert second > first


@pytest.mark.parametrize("seed", SEEDS)
def test_the_table_of_the_demo_is_what_the_files_hold(seed):
    found = read_results(RESULTS / f"demo-seed{seed}.json")
    table = (RESULTS / "README.md").read_text()
    lines = re.findall(rf"^\| {seed} \| (scratch|round \d) \| ([\d.]+) \| ([\d.]+) \|", table, re.MULTILINE)
    assert len(lines) == 3
    rates = {(r["encoder"], r["decoder"]): r for r in found["rows"]}
    for encoder, cer, wer in lines:
        assert float(cer) == round(rates[encoder, "greedy"]["cer"], 1)
        assert float(wer) == round(rates[encoder, "batched+3gram"]["wer"], 1)
