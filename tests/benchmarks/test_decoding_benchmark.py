"""The comparison of decoders on ten utterances: its rows are what was measured, and a killed run goes on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import decoding
from benchmarks.decoding import Plan, frontier, run, shown
from benchmarks.decoding_plot import plot_decoding
from benchmarks.decoding_systems import FAMILIES, REFERENCE, Family, Job, Models, measure, measured, on_device
from benchmarks.posteriors import Sets, import_posteriors
from benchmarks.results import check, read_results, table
from downstream.decode.choice import Name
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import Hypothesis, read_hypotheses, write_hypotheses
from downstream.decode.pool import decode_all
from downstream.decode.tune import Search
from downstream.score.compare import compare_trainings
from downstream.score.rates import score
from tools.main import run as command
from upstream.errors import FormatError, HubertkitError, InputError, UsageError

pytestmark = pytest.mark.processes

ORACLE = Path(__file__).parents[1] / "oracles" / "decoding"
LM = ORACLE / "words.arpa.gz"
FEW = Plan((Family("greedy", Name.greedy), Family(REFERENCE, Name.lexicon, (10, 30), 10, threshold=50.0),
            Family("pyctcdecode", Name.beam, (20,), 20), Family("batched", Name.batched, (4, 40), 20, None, 8)),
           repeats=2, search=Search(seconds=30.0, decodes=2, nbest=10))


@pytest.fixture
def posteriors(tmp_path):
    """Five utterances as dev and five as test, in the form of simulated posteriors."""
    about, stored = json.loads((ORACLE / "slice.json").read_text()), np.load(ORACLE / "slice.npz")
    parts = np.split(stored["logprobs"], np.cumsum(stored["lengths"])[:-1])
    folder = tmp_path / "posteriors"
    folder.mkdir()
    (folder / "symbols.json").write_text(json.dumps({k: about[k] for k in ("symbols", "blank", "frame_rate")}))
    for split, chosen in (("dev", range(0, 10, 2)), ("test", range(1, 10, 2))):
        np.savez(folder / f"{split}.npz", logprobs=np.concatenate([parts[i] for i in chosen]),
                 lengths=np.asarray([len(parts[i]) for i in chosen]))
        (folder / f"{split}.json").write_text(json.dumps([about["utterances"][i] for i in chosen]))
    return folder


@pytest.fixture
def emissions(posteriors, tmp_path):
    import_posteriors(posteriors, tmp_path / "emissions")
    return tmp_path / "emissions"


@pytest.fixture
def sets(emissions):
    return Sets.load(emissions)


@pytest.fixture
def jobs(monkeypatch):
    """Every measurement asked for, done in this process."""
    asked = []

    def here(job, name):
        asked.append((name, job.workers))
        return measure(job)

    monkeypatch.setattr(decoding, "measured", here)
    return asked


def quiet(line):
    """Nobody listens."""


def test_the_rows_are_what_the_decoders_find(sets, jobs, tmp_path):
    results = run(FEW, sets, LM, tmp_path / "out", "hubertkit bench decoding", quiet)
    rows = results["rows"]
    assert [(r["decoder"], r["beam"]) for r in rows] == [
        ("greedy", None), (REFERENCE, 10), (REFERENCE, 30), ("pyctcdecode", 20), ("batched", 4), ("batched", 40)]
    by_name = {(r["decoder"], r["beam"]): r for r in rows}
    test, arrays = sets.test, tmp_path / "out" / "lm.ngrams"
    texts = {}
    for family in FEW.families:
        for beam in family.beams:
            row = by_name[family.name, beam or None]
            decoder = family.make(test.emissions, Models(LM, arrays), beam, row["lm_weight"] or 0.0,
                                  row["word_score"] or 0.0)
            texts[family.name, beam] = {h.id: h.text for h in decode_all(test.emissions, decoder, workers=1)}
            assert row["wer"] == pytest.approx(score(test.texts, texts[family.name, beam]).wer, abs=1e-3)
            assert row["wer_interval"][0] <= row["wer"] <= row["wer_interval"][1]
            assert row["threads"] == 1
            assert row["audio_seconds_per_second"] > 0
            assert row["peak_memory"] >= row["memory_at_start"] > 0
            assert len(row["decoding_seconds"]) == 2
    assert by_name["greedy", None]["wer"] > 2 * by_name["batched", 40]["wer"]
    row = by_name["pyctcdecode", 20]  # the next wider beam is that of 30
    first, second = ([score(test.texts, texts[key]).per_utterance] for key in (("pyctcdecode", 20), (REFERENCE, 30)))
    found = compare_trainings(first, second, "wer", 0)
    assert (row["against"], row["difference"], row["difference_interval"]) == (
        f"{REFERENCE}, beam 30", found["difference"], found["interval"])
    assert by_name[REFERENCE, 10]["against"] is None
    assert read_results(tmp_path / "out" / "results.json")["rows"] == rows
    assert imread(tmp_path / "out" / "frontier.png").shape[0] > 400
    assert "batched" in str(shown(rows))


def test_a_killed_run_goes_on_without_measuring_again(sets, jobs, tmp_path, monkeypatch):
    plan = replace(FEW, families=FEW.families[:2])
    monkeypatch.setattr(decoding, "measured", _fails_at(2, decoding.measured))
    with pytest.raises(KeyboardInterrupt):
        run(plan, sets, LM, tmp_path / "out", "hubertkit", quiet)
    assert [r["decoder"] for r in read_results(tmp_path / "out" / "results.json")["rows"]] == ["greedy", REFERENCE]
    done = len(jobs)
    heard = []
    results = run(plan, sets, LM, tmp_path / "out", "hubertkit", heard.append)
    assert len(results["rows"]) == 3
    assert [name for name, _ in jobs[done:]] == [f"{REFERENCE}, beam 30"]
    assert sum("done before" in line for line in heard) == 3  # greedy, the tuning, beam 10
    results = run(replace(plan, repeats=1), sets, LM, tmp_path / "out", "hubertkit", heard.append)
    assert {len(r["decoding_seconds"]) for r in results["rows"]} == {1}
    assert len(jobs) == done + 1 + 3


@pytest.mark.parametrize(("name", "value"), [("VERSION", decoding.VERSION + 1), ("versions", lambda: {"numpy": "0"})])
def test_what_other_code_measured_is_measured_anew(sets, jobs, tmp_path, monkeypatch, name, value):
    plan = replace(FEW, families=FEW.families[:1], repeats=1)
    run(plan, sets, LM, tmp_path / "out", "hubertkit", quiet)
    heard = []
    run(plan, sets, LM, tmp_path / "out", "hubertkit", heard.append)
    assert len(jobs) == 1
    monkeypatch.setattr(decoding, name, value)
    run(plan, sets, LM, tmp_path / "out", "hubertkit", heard.append)
    assert len(jobs) == 2
    assert any("stale" in line and "version" in line for line in heard)


def _fails_at(number, plain):
    """A measurement that works so often and is interrupted then, once."""
    calls = []

    def call(job, name):
        calls.append(name)
        if len(calls) == number + 1:
            raise KeyboardInterrupt
        return plain(job, name)

    return call


def test_the_best_points_are_measured_over_all_cores_too(sets, jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "available_cores", lambda: 2)
    results = run(replace(FEW, families=FEW.families[:2], all_cores=True), sets, LM, tmp_path / "out", "c", quiet)
    single = [r for r in results["rows"] if r["threads"] == 1]
    several = [r for r in results["rows"] if r["threads"] == 2]
    assert [(r["decoder"], r["wer"]) for r in several] == [(r["decoder"], r["wer"]) for r in frontier(single)]
    assert {workers for _, workers in jobs} == {1, 2}


def test_a_point_is_measured_in_a_process_of_its_own(sets, tmp_path):
    test = sets.test.emissions
    job = Job(test.folder, GreedyDecoder(test.symbols, test.blank), 1, 2, tmp_path / "h.jsonl")
    found = measured(job, "greedy")
    assert len(found["seconds"]) == 2
    assert found["peak_memory"] >= found["memory_at_start"] > 1 << 20
    assert found["gpu_memory"] is None
    assert [h.text for h in read_hypotheses(job.hypotheses)] == [h.text for h in decode_all(test, job.decoder)]
    assert all(seconds > 0 for seconds in found["cpu_seconds"])


def test_a_process_that_fails_is_named(sets, tmp_path, monkeypatch):
    test = sets.test.emissions
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(HubertkitError, match="greedy: the process that measured it ended with the error above"):
        measured(Job(test.folder, GreedyDecoder(test.symbols, test.blank), 1, 2, tmp_path / "h.jsonl"), "greedy")


@pytest.mark.parametrize(("wide_seconds", "times_as_fast", "reached"), [(4.0, 0.5, False), (0.5, 4.0, True)])
def test_goals_are_judged_by_the_fastest_point_that_is_surely_good_enough(
        sets, tmp_path, monkeypatch, wide_seconds, times_as_fast, reached):
    """By hand: the peer takes 2 s and makes no error, nor does our wide beam; the narrow one finds nothing in .1 s."""
    monkeypatch.setattr(decoding, "GOALS", {10: 2.0})
    seconds = {"batched, beam 4": 0.1, "batched, beam 40": wide_seconds}

    def invented(job, name):
        write_hypotheses(job.hypotheses, [Hypothesis(id, "" if name == "batched, beam 4" else text, 0.0, 0.0)
                                          for id, text in sets.test.texts.items()])
        taken = [seconds.get(name, 2.0)]
        return {"seconds": taken, "cpu_seconds": taken, "load_seconds": 0.0, "peak_memory": 2, "memory_at_start": 1,
                "gpu_memory": None}

    monkeypatch.setattr(decoding, "measured", invented)
    plan = replace(FEW, families=(replace(FEW.families[1], beams=(10,)), FEW.families[-1]))
    [goal] = run(plan, sets, LM, tmp_path / "out", "c", quiet)["goals"]
    assert goal == {"against": f"{REFERENCE}, beam 10", "decoder": "batched", "beam": 40,
                    "times_as_fast": times_as_fast, "goal": 2.0, "reached": reached}


def test_the_frontier_leaves_out_what_is_slower_and_no_better():
    rows = [{"wer": w, "audio_seconds_per_second": s} for w, s in ((5, 100), (4, 50), (4.5, 40), (5, 90), (3, 1))]
    assert [(r["wer"], r["audio_seconds_per_second"]) for r in frontier(rows)] == [(5, 100), (4, 50), (3, 1)]


def test_the_families_are_those_of_the_published_comparison():
    beams = {f.name: f.beams for f in FAMILIES}
    assert {beams[REFERENCE], beams["flashlight, 8 tokens"]} == {(50, 100, 500)}
    assert beams["pyctcdecode"] == (25, 100)
    assert all(f.tuned_at in f.beams for f in FAMILIES)
    on_gpu = on_device(FAMILIES[-1], "cuda")
    assert (on_gpu.name, on_gpu.device, on_gpu.weights_of) == ("batched, cuda", "cuda", "batched")
    assert Plan(device="cuda").measured()[-1] == on_gpu


def test_torch_takes_the_weights_found_with_numpy(sets, jobs, tmp_path):
    plan = replace(FEW, families=(replace(FEW.families[-1], beams=(20,)),), device="cpu")
    by_numpy, by_torch = run(plan, sets, LM, tmp_path / "out", "c", quiet)["rows"]
    assert (by_torch["decoder"], by_torch["device"]) == ("batched, cpu", "cpu")
    assert by_torch["lm_weight"] == by_numpy["lm_weight"]
    assert by_torch["errors"] == by_numpy["errors"]
    assert len(list((tmp_path / "out" / "tuning").iterdir())) == 1


def test_a_plot_of_greedy_decoding_alone_is_one(tmp_path):
    row = {"decoder": "greedy", "beam": None, "wer": 40.0, "wer_interval": [39.0, 41.0], "threads": 1,
           "audio_seconds_per_second": 9e3}
    plot_decoding([row], tmp_path / "plot.png")
    assert imread(tmp_path / "plot.png").std() > 0


def test_digits_of_a_column_can_be_chosen():
    found = table([{"wer": 4.126, "wer_interval": [3.0, 5.0]}], ["wer"], digits={"wer": 2})
    assert list(found.columns[0].cells) == ["4.13 [3.00, 5.00]"]


def test_the_command_writes_table_plot_and_results(posteriors, jobs, tmp_path, capsys):
    assert command(["bench", "decoding", "--posteriors", str(posteriors), "--lm", str(LM), "--out",
                    str(tmp_path / "out"), "--quick"]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    check(found, tmp_path / "out" / "results.json")
    assert [r["decoder"] for r in found["rows"]] == [f.name for f in FAMILIES]
    out = capsys.readouterr().out
    assert "pyctcdecode" in out
    assert (tmp_path / "out" / "frontier.png").is_file()


def test_peers_that_are_not_installed_are_left_out(posteriors, jobs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.decoding_systems.find_spec", lambda name: None)
    assert command(["bench", "decoding", "--posteriors", str(posteriors), "--lm", str(LM), "--out",
                    str(tmp_path / "out"), "--quick"]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [r["decoder"] for r in found["rows"]] == ["greedy", "batched, threshold 12", "batched"]
    assert found["left_out"]["pyctcdecode"] == "pyctcdecode is not installed"
    assert "pyctcdecode is left out: pyctcdecode is not installed" in capsys.readouterr().err


def test_wrong_use_is_one_line(posteriors, emissions, tmp_path, capsys):
    base = ["bench", "decoding", "--lm", str(LM), "--out", str(tmp_path / "out")]
    for options, says in (
            ([], "give either --emissions or --posteriors"),
            (["--emissions", str(emissions), "--posteriors", str(posteriors)], "give either"),
            (["--emissions", str(tmp_path / "none")], "no such folder"),
            (["--posteriors", str(emissions)], "symbols.json: no such file"),
            (["--emissions", str(emissions), "--workers", "3"], "1 or all"),
            (["--emissions", str(emissions), "--device", "abacus"], "cannot be used"),
            (["--emissions", str(emissions), "--lm", str(tmp_path / "no.arpa")], "no such file"),
            (["--emissions", str(emissions), "--test-references", str(tmp_path / "no.txt")], "no such file")):
        assert command([*base, *options]) == 2
        error = capsys.readouterr().err.strip()
        assert says in error
        assert "Traceback" not in error


@pytest.mark.parametrize("name", ["lm.ngrams", "frontier.png", "emissions/dev.txt", "emissions/test/ids.arrow"])
def test_files_of_somebody_else_are_not_replaced(posteriors, tmp_path, capsys, name):
    """A model packed into the same folder was replaced by that of the comparison."""
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert command(["bench", "decoding", "--posteriors", str(posteriors), "--lm", str(LM), "--out",
                    str(tmp_path / "out"), "--quick"]) == 2
    assert f"{name}: is there already" in capsys.readouterr().err
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [mine]


def test_emissions_of_a_recogniser_are_not_replaced_by_simulated_ones(posteriors, emissions):
    header = emissions / "test" / "emissions.json"
    about = json.loads(header.read_text())
    header.write_text(json.dumps({**about, "meta": {"recogniser_hash": "x"}}))
    with pytest.raises(UsageError, match="test: holds emissions of a recogniser"):
        import_posteriors(posteriors, emissions)
    assert json.loads(header.read_text())["meta"] == {"recogniser_hash": "x"}


def test_sets_that_do_not_fit_are_refused(posteriors, emissions, tmp_path):
    (emissions / "test.txt").write_text("260-123286-0004 ONE\n")
    with pytest.raises(InputError, match=r"no reference in .*test.txt \(4 of 5"):
        Sets.load(emissions)
    (emissions / "test.txt").unlink()
    with pytest.raises(UsageError, match=r"test: no references; .*test.txt or test.arrow"):
        Sets.load(emissions)
    import_posteriors(posteriors, emissions)
    about = json.loads((emissions / "dev" / "emissions.json").read_text())
    about["symbols"][3:5] = "B", "A"
    (emissions / "dev" / "emissions.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="emissions of other symbols"):
        Sets.load(emissions)
    import_posteriors(posteriors, emissions)
    with pytest.raises(InputError, match="are the same emissions"):
        Sets.load(_same(emissions, tmp_path))
    stored = dict(np.load(posteriors / "dev.npz"))
    np.savez(posteriors / "dev.npz", logprobs=stored["logprobs"], lengths=stored["lengths"][:-1])
    with pytest.raises(FormatError, match=r"dev.npz: not a file of posteriors .*5 utterances, 4 lengths"):
        import_posteriors(posteriors, emissions)
    for name, content in (("dev.json", [{"id": "a"}]), ("symbols.json", {"symbols": ["_"], "blank": 0})):
        (posteriors / name).write_text(json.dumps(content))
        with pytest.raises(FormatError, match=rf"{name}: not a file of posteriors \(KeyError"):
            import_posteriors(posteriors, emissions)


def _same(emissions, tmp_path):
    folder = tmp_path / "same"
    folder.mkdir()
    for split in ("dev", "test"):
        (folder / split).symlink_to(emissions / "dev")
        (folder / f"{split}.txt").write_bytes((emissions / "dev.txt").read_bytes())
    return folder
