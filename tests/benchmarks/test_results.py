import errno
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from rich.console import Console

from benchmarks import kmeans, scale, speed
from benchmarks.low_resource import Grid, _report
from benchmarks.low_resource_checks import Planned, check_finetunings, pretrain_recipe
from benchmarks.low_resource_recipe import SHIPPED, Cell, LowResourceRecipe, parse_cell
from benchmarks.low_resource_scratch import scratch_encoder
from benchmarks.low_resource_table import columns
from benchmarks.over_seeds import Tally
from benchmarks.results import check, read_results, refuse_other_results, results_file, table, write_results
from downstream.score.rates import RATES
from tools import bench
from tools.demo import show
from tools.main import run
from upstream.audio import import_folder
from upstream.errors import FormatError, HubertkitError, InputError, RecipeError, UsageError
from upstream.model import Encoder, EncoderConfig, save_encoder
from upstream.pretrain import check_sources
from upstream.pretrain_recipe import rounds_of
from upstream.recipe import load_recipe

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results"
ROW = {"encoder": "round 2", "labelled": "1h", "decoder": "greedy", "wer": 50.0, "cer": 20.0, "words": 10, "errors": 5,
       "wer_interval": [40.0, 60.0], "cer_interval": [15.0, 25.0]}


def result(**changes):
    return {"benchmark": "low-resource", "command": "hubertkit bench", "rows": [{**ROW, **changes}]}


def test_results_carry_command_machine_versions_and_date(tmp_path):
    write_results(tmp_path / "results.json", result())
    found = read_results(tmp_path / "results.json")
    assert found["rows"] == [ROW]
    assert found["machine"]["cores"] >= 1
    assert {"python", "torch", "numpy"} <= set(found["versions"])


@pytest.mark.parametrize(("changes", "says"), [
    ({"encoder": "the best"}, r"rows\.0\.encoder"), ({"wer": -1}, r"rows\.0\.wer"), ({"words": 0}, r"rows\.0\.words"),
    ({"errors": 1.5}, r"rows\.0\.errors"), ({"wer_interval": [1]}, r"wer_interval"),
])
def test_a_result_that_does_not_fit_the_schema_is_not_written(tmp_path, changes, says):
    with pytest.raises(FormatError, match=says):
        write_results(tmp_path / "results.json", result(**changes))
    assert not (tmp_path / "results.json").exists()


def test_committed_results_fit_the_schema():
    folder = SHIPPED.parent / "results"
    for path in folder.glob("*.json"):
        check(json.loads(path.read_text()), path)
    assert folder.is_dir()


def test_cells_name_an_amount_and_an_encoder():
    recipe = load_recipe(LowResourceRecipe, "librispeech-mini", [], SHIPPED)
    assert parse_cell("1h: round 2", recipe) == Cell("1h", "round 2")
    assert parse_cell("all: scratch", recipe) == Cell("all", "scratch")
    assert [parse_cell(cell, recipe).round for cell in ("1h: round 2", "all: scratch")] == [2, 0]
    for bad in ("2h: scratch", "1h: round 3", "1h"):
        with pytest.raises(ValueError, match="LABELLED: ENCODER"):
            parse_cell(bad, recipe)


def test_the_most_telling_cells_come_first():
    recipe = load_recipe(LowResourceRecipe, "librispeech-mini", [], SHIPPED)
    assert set(recipe.cells[:4]) == {"all: scratch", "all: round 2", "1h: scratch", "1h: round 2"}
    assert len(recipe.cells) == 9


def test_a_test_utterance_in_training_is_refused(tmp_path, capsys):
    data = tmp_path / "data"
    (data / "splits").mkdir(parents=True)
    (data / "lm-text").mkdir()
    splits = {"train": "a b", "train-1h": "a", "train-10min": "a", "dev": "c", "test": "b d", "aligned": "e"}
    for name, ids in splits.items():
        (data / "splits" / f"{name}.txt").write_text(ids)
    code = run(["bench", "low-resource", "librispeech-mini", "--data", str(data), "--out", str(tmp_path / "out")])
    assert code == 1
    assert "split test shares 1 utterances with train, b among them" in capsys.readouterr().err


@pytest.fixture
def spoken(tmp_path):
    """A data folder of the demo's quick comparison: as much of it as is read before the first cell."""
    data = tmp_path / "data"
    for folder in ("splits", "lm-text", "train/alignments", "audio"):
        (data / folder).mkdir(parents=True)
    for number in range(4):
        soundfile.write(data / f"audio/u{number}.wav", np.zeros(8000), 16_000)
        (data / f"audio/u{number}.txt").write_text("SOME WORDS")
    import_folder(data / "audio").save(data / "manifest.arrow")
    for name, ids in {"unlabelled": "u0 u1", "labelled": "u0", "dev": "u2", "test": "u3"}.items():
        (data / f"splits/{name}.txt").write_text(ids)
    (data / "train/alignments/u0.ctm").write_text("u0 1 0 0.5 AA\n")
    return data


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_a_comparison_without_alignments_has_no_probe(name, spoken):
    """Its recipe may name layers for a probe, which a pretraining refuses where nothing is aligned."""
    chosen = load_recipe(LowResourceRecipe, name, ["alignments=null"], SHIPPED)
    splits = SimpleNamespace(file=lambda split: spoken / "manifest.arrow")
    pretraining = pretrain_recipe(chosen, spoken, splits)
    assert pretraining.probe.layers == ()
    check_sources(pretraining, rounds_of(pretraining), {})


@pytest.mark.parametrize(("words", "says", "code"), [
    (["alignments=nope"], "nope: no such folder; the recipe's alignments lie below the folder of data (--data)", 2),
    (["alignments=lm-text"], "no alignments here", 1),
    (["pretrain.rounds.1.teacher.imported=nope"], "rounds.1.teacher.imported=nope: no such file", 2),
    (["pretrain.training.wandb=mine"], "training.wandb=mine: the package wandb is not installed", 2),
    (["labelled.3min.finetune.training.wandb=mine"], "training.wandb=mine: the package wandb is not installed", 2),
    (["labelled.3min.split=binary"], "binary.txt: no text of UTF-8", 1),
    ([], "rounds.0.teacher.clusters=50: the recordings to train on have 24 frames", 1),
])
def test_what_a_later_cell_needs_is_looked_for_before_the_first(tmp_path, spoken, capsys, monkeypatch, words, says,
                                                                code):
    """A bug once found: scratch had been trained and decoded when the pretraining's alignments were missed."""
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    (spoken / "splits/binary.txt").write_bytes(b"u0 \xff")
    assert run(["bench", "low-resource", "demo-quick", *words, "--ranks", "1", "--data", str(spoken),
                "--out", str(tmp_path / "out")]) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out/cells").exists()


def test_comparisons_pair_pretrained_with_scratch_on_the_same_utterances(tmp_path):
    class Test:
        ids = ("u1", "u2")
        texts = ("A B", "C D")
        speakers = ("ann", "bob")

    texts = {"1h-scratch": {"u1": "X Y", "u2": "C X"}, "1h-round2": {"u1": "A B", "u2": "C X"}}
    rows = []
    for cell, said in texts.items():
        (tmp_path / cell / "decoded").mkdir(parents=True)
        lines = [json.dumps({"id": i, "text": t, "score": 0.0, "acoustic": 0.0}) for i, t in said.items()]
        (tmp_path / cell / "decoded/greedy.jsonl").write_text("\n".join(lines) + "\n")
        encoder = "scratch" if cell.endswith("scratch") else "round 2"
        rows.append({"cell": cell, "encoder": encoder, "labelled": "1h", "decoder": "greedy", "seed": 0})
    found = Tally(tmp_path, Test, seed=0, resamples=100).comparisons(rows, ["scratch"])
    assert [c["rate"] for c in found] == ["wer", "cer"]
    assert found[0]["difference"] == -50.0  # 1 of 4 words wrong against 3 of 4
    assert found[0]["interval"][0] <= -50.0 <= found[0]["interval"][1]
    assert found[0]["by_speaker"]["p_value"] == 1  # of two, on one of which both err alike


@pytest.mark.parametrize(("name", "columns"), [
    ("seams", bench.SEAM_COLUMNS), ("seams-light", bench.SEAM_COLUMNS), ("kmeans", bench.KMEANS_COLUMNS),
    ("ranks", bench.RANKS_COLUMNS), ("teachers", bench.TEACHER_COLUMNS), ("lm", bench.LM_COLUMNS),
    ("scale", bench.SCALE_COLUMNS), ("front-ends", bench.FRONT_END_COLUMNS), ("feeding", bench.FEEDING_COLUMNS)])
def test_in_80_columns_no_heading_and_no_number_is_cut_short(name, columns):
    """Of seams one saw `record…`, `longes…` and `differ…`; of other benchmarks half of a number."""
    rows = read_results(COMMITTED / f"{name}.json")["rows"]
    console = Console(width=80, file=io.StringIO())
    console.print(table(rows, columns))
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    if columns is bench.SEAM_COLUMNS:
        head = text.partition("┡")[0]
        assert all(word in head for column in columns for word in column.split("_"))


def test_under_the_table_of_seams_stands_what_its_rows_share():
    results = read_results(COMMITTED / "seams.json") | {"unit": "character"}
    assert bench.seams_caption(results) == "of 5,010 characters; the goal is a difference of at most 0.1"


def test_every_column_of_the_table_is_in_a_row():
    assert set(columns(RATES)) <= set(ROW)


@pytest.mark.parametrize(("word", "says"), [
    ("finetune.fresh_layers=4", "^cell 'all: round 2': fresh_layers=4: this encoder has 3 layers"),
    ("labelled.10min.finetune.changes={layerdrop: 2}", "^cell '10min: scratch': encoder: layerdrop=2"),
    ("finetune.changes={dropout: high}", "^cell 'all: scratch': finetune.changes: dropout=high: a number is needed"),
])
def test_a_fine_tuning_that_cannot_be_is_refused_before_the_first_cell(word, says):
    """A bug once found: each of these ended the comparison after hours, in the cell that it was about."""
    recipe = load_recipe(LowResourceRecipe, "librispeech-mini", [word], SHIPPED)
    with pytest.raises(HubertkitError, match=says):
        check_finetunings(recipe, rounds_of(recipe.pretrain))


SMALL = EncoderConfig(frontend="fbank", width=32, layers=2, heads=2, ffn=64, pre_norm=True, positional_kernel=15,
                      positional_groups=2, dropout=0.0, layerdrop=0.0)


def test_scratch_has_the_shape_of_the_encoder_that_it_stands_beside(tmp_path, spoken, capsys, monkeypatch):
    """Round 1 had the shape of `init` and scratch BASE's, and their difference was taken for what pretraining gives."""
    save_encoder(Encoder(SMALL).initialise(0), tmp_path / "other", {})
    (spoken / "lm-text/text").write_text("SOME WORDS\nWORDS\n" * 9)
    (tmp_path / "mine.yaml").write_text(f"""
corpus: manifest.arrow
unlabelled: unlabelled
labelled: {{3min: {{split: labelled}}}}
cells: ["3min: scratch", "3min: round 1"]
pretrain:
  mask: {{share: 0.5, span: 2}}
  training: {{least_seconds: 0.2}}
  rounds: [{{init: {tmp_path / "other"}, teacher: {{features: layer, layer: 1, clusters: 5}}}}]
lm: {{text: lm-text/text, order: 2, prune: [0], discount_fallback: true}}
""")
    trained = []

    def started(recipe, *_):
        trained.append(recipe)
        raise InputError("enough")

    monkeypatch.setattr("benchmarks.low_resource.recogniser_stage", started)
    assert run(["bench", "low-resource", str(tmp_path / "mine.yaml"), "--ranks", "1", "--data", str(spoken), "--out",
                str(tmp_path / "out")]) == 1
    assert "enough" in capsys.readouterr().err
    assert [(found.encoder, found.architecture) for found in trained] == [("scratch", SMALL)]


def low_resource(*words, cells=("1h: scratch", "1h: round 1", "1h: round 2"), **inits):
    """What scratch trains with an hour of labels, where the rounds start from encoders of these configurations; and
    the recipe's own encoder."""
    words = [*words, f"cells={json.dumps(cells)}"]
    recipe = load_recipe(LowResourceRecipe, "librispeech-mini", words, SHIPPED)
    return scratch_encoder(recipe, "1h", rounds_of(recipe.pretrain, inits)), recipe.pretrain.encoder


def test_scratch_is_what_it_was_where_the_first_round_is_of_the_recipes_encoder():
    """Or what was trained would be stale."""
    for words in ([], ["pretrain.rounds.1.encoder={dropout: 0.2}"]):
        scratch, own = low_resource(*words)
        assert scratch == own
    changed = "pretrain.rounds.1.encoder={ffn: 96}"
    scratch, own = low_resource(changed, cells=["1h: scratch", "1h: round 1", "all: round 2"])
    assert scratch == own
    assert low_resource(changed, cells=["1h: scratch", "1h: round 2", "all: round 1"])[0] == replace(own, ffn=96)


def test_a_front_end_that_does_not_learn_in_the_init_learns_from_scratch():
    own = low_resource()[1]
    scratch, _ = low_resource("pretrain.rounds.0.init=frozen", cells=["1h: scratch", "1h: round 1"],
                              frozen=replace(own, feature_grad_mult=0.0))
    assert scratch.feature_grad_mult == own.feature_grad_mult > 0


def test_scratch_beside_rounds_of_several_shapes_is_refused():
    with pytest.raises(RecipeError, match=r"^rounds 1 and 2 have encoders with ffn=768 and ffn=96, and scratch beside"):
        low_resource("pretrain.rounds.1.encoder={ffn: 96}")
    recipe = load_recipe(LowResourceRecipe, "librispeech-mini", ["pretrain.rounds.1.encoder={ffn: 96}"], SHIPPED)
    with pytest.raises(RecipeError, match=r"^cell 'all: scratch': rounds 1 and 2"):
        check_finetunings(recipe, rounds_of(recipe.pretrain))


def test_a_demo_without_alignments_shows_its_scores_all_the_same(capsys):
    """`hubertkit demo alignments=null` ended in a traceback: KeyError 'phone_purity'."""
    rounds = [{"round": n, "units": {"hash": "x"}, "teacher": {}, "encoder": {}} for n in (1, 2)]
    show({"rows": [ROW], "rounds": rounds, "comparisons": []}, Console(width=200))
    said = capsys.readouterr().out
    assert "50.0" in said
    assert "phone purity" not in said
    figures = [{"phone_purity": p, "cluster_purity": 0.2, "pnmi": 0.3} for p in (0.41, 0.52)]
    rounds[1]["units"] |= {**figures[0], "streams": figures}
    show({"rows": [ROW], "rounds": rounds, "comparisons": []}, Console(width=200))
    lines = [line for line in capsys.readouterr().out.splitlines() if "round 2, stream" in line]
    assert [("stream 1 of 2" in line, "0.410" in line) for line in lines] == [(True, True), (False, False)]


def test_a_demo_says_which_encoder_a_difference_is_from_and_which_seed_a_row_is_of(capsys):
    """`hubertkit demo baseline='round 1' seeds=[0,1]` gave all differences as from scratch, and rows that could not be
    told apart."""
    compared = [{"labelled": "1h", "encoder": "round 2", "decoder": "greedy", "rate": "wer", "against": base,
                 "difference": points, "interval": [-9.0, -1.0]} for base, points in (("scratch", -5), ("round 1", -3))]
    show({"rows": [{**ROW, "seed": 6}, {**ROW, "seed": 7}], "rounds": [], "comparisons": compared}, Console(width=200))
    said = capsys.readouterr().out
    assert [line.split("│")[1].strip() for line in said.splitlines() if "50.0" in line] == ["6", "7"]
    from_scratch, from_round_1 = said.split("difference from round 1 [95%]")
    assert "difference from scratch [95%]" in from_scratch
    assert ("-5.0 [-9.0, -1.0]" in from_scratch, "-3.0 [-9.0, -1.0]" in from_round_1) == (True, True)
    assert "means over seeds" in said


def test_a_whole_result_stays_until_that_of_a_changed_recipe_is_whole(tmp_path, monkeypatch):
    """Looking again at a finished comparison with a newer version left one cell of eight, for hours or for good."""
    monkeypatch.setattr("benchmarks.low_resource.write_results", lambda path, results: path.write_text(
        json.dumps(results)))
    recipe = load_recipe(LowResourceRecipe, "librispeech-mini", [], SHIPPED)
    for name in ("_set_row", "_heard_before"):
        monkeypatch.setattr(f"benchmarks.low_resource.{name}", lambda *_: {})
    tally = SimpleNamespace(summaries=lambda *_: [], comparisons=lambda *_: [])

    def report(found, cells):
        grid = Grid(found, None, Planned(), None, tmp_path)
        _report(grid, tally, [{"cell": str(cell)} for cell in range(cells)], [], cells, "command")
        names = ("results.json", "results.partial.json")
        return [len(json.loads((tmp_path / n).read_text())["rows"]) if (tmp_path / n).exists() else 0 for n in names]

    whole = len(recipe.cells)
    assert report(recipe, 1) == [1, 0]
    assert report(recipe, whole) == [whole, 0]
    assert report(recipe, 1) == [whole, 0]
    changed = replace(recipe, seed=7, cells=recipe.cells[:-1])
    assert report(changed, 2) == [whole, 2]
    assert report(changed, whole - 1) == [whole - 1, 0]
    assert json.loads((tmp_path / "results.json").read_text())["recipe"]["seed"] == 7


def test_each_cells_fine_tuning_is_looked_at_before_the_first(tmp_path, spoken, capsys):
    """`finetune.freeze_updates=600` ended the sixth cell of nine, after both rounds."""
    words = ["finetune.freeze_updates=100000", "--ranks", "1", "--data", str(spoken), "--out", str(tmp_path / "out")]
    assert run(["bench", "low-resource", "demo-quick", *words]) == 2
    assert "the encoder would never learn" in capsys.readouterr().err
    assert not (tmp_path / "out/cells").exists()


THERE = {"another benchmark": json.dumps({"format": 1, "benchmark": "other", "rows": []}), "a list": "[]",
         "no JSON": "mine", "no result": '{"benchmark": "low-resource"}'}


@pytest.mark.parametrize("content", THERE.values(), ids=THERE)
@pytest.mark.parametrize("name", ["results.json", "results.partial.json"])
def test_another_benchmark_s_results_are_not_replaced(tmp_path, spoken, capsys, content, name):
    """Those of days were replaced after the first cell, and a list ended in a traceback there."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    words = ["--ranks", "1", "--out", str(tmp_path / "out")]
    for command in (["bench", "low-resource", "demo-quick", "--data", str(spoken)], ["demo", "--quick"]):
        assert run([*command, *words]) == 2
        assert f"{name}: is there already and " in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == content


@pytest.mark.parametrize("command", [
    "speed", "feeding {0}/audio", "seams {0} {0}/manifest.arrow", "curves hubert-tiny", "scale", "kmeans", "ranks",
    "lm {0}/splits/test.txt", "teachers {1}", "front-ends {1}", "decoding --emissions {0} --lm {0}/splits/test.txt"])
def test_no_benchmark_replaces_results_that_are_not_its_own(tmp_path, spoken, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text(THERE["another benchmark"])
    manifest = f"{spoken}/manifest.arrow"
    given = f"--data {manifest} --aligned {manifest} --alignments {spoken}/train/alignments"
    words = command.format(spoken, given).split()
    out = tmp_path / "out" if words[0] in ("teachers", "front-ends", "decoding") else tmp_path / "out" / "results.json"
    assert run(["bench", *words, "--out", str(out)]) == 2
    assert "results.json: is there already and of the benchmark other" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]
    assert (tmp_path / "out" / "results.json").read_text() == THERE["another benchmark"]


def test_results_of_the_same_benchmark_may_be_replaced(tmp_path):
    write_results(tmp_path / "results.json", result())
    refuse_other_results(tmp_path / "results.json", "low-resource")
    refuse_other_results(tmp_path / "none.json", "low-resource")
    with pytest.raises(UsageError, match="of the benchmark low-resource"):
        refuse_other_results(tmp_path / "results.json", "speed")


@pytest.mark.parametrize("module", [kmeans, scale, speed])
def test_a_module_that_is_run_by_itself_replaces_no_other_results_either(tmp_path, monkeypatch, capsys, module):
    """`python -m benchmarks.speed --out FILE` wrote over whatever was there, after the work."""
    monkeypatch.setattr(module, "run", None)  # it is not reached
    for content, says in ((THERE["another benchmark"], "is there already and of the benchmark other"),
                          (None, "a folder; give the name of a file")):
        out = tmp_path / ("folder" if content is None else "results.json")
        out.mkdir() if content is None else out.write_text(content)
        monkeypatch.setattr(sys, "argv", ["module", "--out", str(out)])
        with pytest.raises(SystemExit) as end:
            module.main()
        said = capsys.readouterr().err
        assert (end.value.code, said.count("\n"), says in said) == (2, 1, True)
    assert (tmp_path / "results.json").read_text() == THERE["another benchmark"]


def test_what_goes_wrong_in_a_module_that_is_run_by_itself_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["module"])
    with pytest.raises(SystemExit) as end, results_file(tmp_path / "results.json", "speed"):
        raise OSError(errno.ENOSPC, "no space")
    said = capsys.readouterr().err
    assert (end.value.code, said) == (1, f"module: {tmp_path / 'results.json'}: the disk is full; free some space and "
                                         "run the same command again\n")
    with results_file(tmp_path / "results.json", "speed"):
        pass
