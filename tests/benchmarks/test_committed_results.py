"""What the repository says that it measured: results files fit the schema, and the demo's table is theirs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import read_results
from upstream.teacher.teacher import SAMPLE_WITHIN

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
AMOUNTS = {"all (4.1 h)": "all", "1 h": "1h", "10 min": "10min"}  # in the page's tables, and in the files
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


def cells(page, start):
    """The cells of the first table behind `start`, row by row, without its head."""
    table = page.partition(start)[2].partition("\n|")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")[2:]]


def as_written(value):
    """`.4` for 0.42, as the pages have it."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.1f}")


def beside(compared, difference):
    """`-.5 [-1.7, +.8]`: a difference with its interval."""
    low, high = compared["interval"]
    return f"{as_written(difference)} [{as_written(low)}, {'+' * (low < 0 < high)}{as_written(high)}]"


def rates_and_differences(name, labelled, encoder, searched, baselines):
    """What a row of a table says of a cell: rates of greedy decoding and of a search, and differences from others."""
    found = read_results(RESULTS / f"{name}.json")
    rows = {(r["labelled"], r["encoder"], r["decoder"]): r for r in found["rows"]}
    compared = {(c["labelled"], c["encoder"], c["decoder"], c["rate"], c["against"]): c for c in found["comparisons"]}

    def difference(decoder, rate, against):
        one = compared.get((labelled, encoder, decoder, rate, against))
        ours, theirs = (rows[labelled, which, decoder] for which in (encoder, against))
        wrong, all_ = ("errors", "words") if rate == "wer" else ("character_errors", "characters")
        counted = all_ in ours  # the file's difference is rounded already
        return "" if one is None else beside(one, 100 * (ours[wrong] - theirs[wrong]) / ours[all_] if counted else
                                             one["difference"])

    rates = [as_written(rows[labelled, encoder, decoder][rate])
             for decoder in ("greedy", searched) for rate in ("wer", "cer")]
    return rates, [difference(decoder, rate, against) for against in baselines
                   for decoder, rate in (("greedy", "cer"), (searched, "wer"))]


@pytest.mark.parametrize(("name", "searched", "baselines"), [
    ("librispeech-mini", "beam+4gram", ["scratch"]),
    ("librispeech-mini-light", "batched+4gram", ["scratch", "round 1"])])
def test_the_tables_of_comparisons_are_what_the_files_hold(name, searched, baselines):
    table = cells((RESULTS / "README.md").read_text(encoding="utf-8"), f"# {name}\n")
    assert len(table) == 9
    for amount, encoder, *written in table:
        rates, differences = rates_and_differences(name, AMOUNTS[amount], encoder, searched, baselines)
        assert written == rates + differences


@pytest.mark.parametrize(("start", "names", "encoders", "baselines"), [
    ("(`librispeech-mini-light-seed1.json`):\n", {"seed 0": "", "seed 1": "-seed1"}, ["round 1", "round 2"],
     ["scratch", "round 1"]),
    ("(`librispeech-mini-light-random.json`; one", {"k-means": "", "random projection": "-random"}, ["round 1"],
     ["scratch"])], ids=["seeds", "teachers"])
def test_the_tables_of_pretrainings_are_what_the_files_hold(start, names, encoders, baselines):
    table = cells((RESULTS / "README.md").read_text(encoding="utf-8"), start)
    assert [row[:2] for row in table] == [[name, encoder] for name in names for encoder in encoders]
    for name, encoder, *written in table:
        (_, *rates), differences = rates_and_differences(f"librispeech-mini-light{names[name]}", "1h", encoder,
                                                         "batched+4gram", baselines)
        assert written == rates + differences


def test_the_table_of_decoders_is_what_the_file_holds():
    names = {"`lexicon` (flashlight), all tokens, threshold 50": "flashlight", "`beam` (pyctcdecode)": "pyctcdecode",
             "`lexicon`, 8 tokens a frame, threshold 25": "flashlight, 8 tokens", "`batched`, as it comes": "batched",
             "`batched`, `beam_threshold=12`": "batched, threshold 12"}
    points = {(r["decoder"], r["beam"]): r for r in read_results(RESULTS / "decoding-cpu.json")["rows"]
              if r["threads"] == 1}
    table, name = cells((ROOT / "docs/decoding.md").read_text(encoding="utf-8"), "\n### Measured\n"), ""
    assert len(table) == 13
    for written, beam, rate, speed in table:
        name = names.get(written, name)
        point = points[name, int(beam)]
        low, high = point["wer_interval"]
        assert rate == f"{point['wer']:.2f} ({low:.2f} to {high:.2f})", (name, beam)
        assert speed == f"{point['audio_seconds_per_second']:,.0f}", (name, beam)


@pytest.mark.parametrize(("file", "start", "with_memory"), [
    ("speed-cpu", "`benchmarks/results/speed-cpu.json`:", True),
    ("speed-cpu-xeon", "which a training says when it", True),
    ("speed-cpu-amx", "`speed-cpu-amx-again.json`:", False)])
def test_the_tables_of_speed_are_what_the_files_hold(file, start, with_memory):
    files = [file, "speed-cpu-amx-again"][:1 if with_memory else 2]
    rows = [{(r["system"], r["precision"]): r for r in read_results(RESULTS / f"{name}.json")["rows"]}
            for name in files]
    table = cells((ROOT / "docs/performance.md").read_text(encoding="utf-8"), start)
    assert [row[0] for row in table] == ["hubertkit", "torchaudio", "transformers"]
    for system, *written in table:
        expected = []
        for precision in ("bf16", "float32"):
            each = [row[system, precision] for row in rows]
            expected += ["; ".join(f"{row[key]:.2f}" for row in each) for key in ("seconds", "share_of_peak")]
            expected += [f"{each[0]['peak_memory'] / 1e9:.1f} GB"] if with_memory else []
        assert written == expected
