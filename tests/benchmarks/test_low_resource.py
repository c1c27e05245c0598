"""Encoders from elsewhere and several seeds in a low-resource comparison: what may be asked, and what a run leaves."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from small_comparison import RECIPE, SHAPE, recipe

from benchmarks.low_resource import Grid, _cell, _heard_before, stage_seconds
from benchmarks.low_resource import run as compare_encoders
from benchmarks.low_resource_checks import Planned
from benchmarks.low_resource_recipe import SHIPPED, BeamSearchRecipe, Cell, LowResourceRecipe, micro_batches
from benchmarks.low_resource_scratch import scratch_encoder, told_shape
from benchmarks.low_resource_splits import Splits
from benchmarks.report.making import report
from benchmarks.report.markdown import markdown
from benchmarks.report.reading import read_all
from benchmarks.results import read_results
from tools.main import run
from upstream.audio.manifest import Manifest, Utterance
from upstream.disk import read_json
from upstream.errors import InputError, Interrupted, RecipeError
from upstream.model import Encoder, EncoderConfig, save_encoder
from upstream.recipe import load_recipe

BEGUN = re.compile(r"\S+/recogniser: (started|stale|interrupted)")


def test_cells_may_name_encoders_and_are_run_with_each_seed_in_turn(tmp_path, encoders):
    found = recipe(tmp_path, encoders, "labelled.1h.split=labelled", "cells=['3min: scratch', '1h: frozen']")
    assert found.trainings == [(Cell("3min", "scratch"), 0), (Cell("1h", "frozen"), 0), (Cell("3min", "scratch"), 5),
                               (Cell("1h", "frozen"), 5)]
    assert list(found.encoders_wanted) == ["frozen"]
    assert found.rounds_wanted == 0


def test_the_folder_of_the_recipes_own_seed_is_that_of_a_run_with_one():
    found = load_recipe(LowResourceRecipe, "librispeech-mini", ["seed=3"], SHIPPED)
    assert [found.folder(*training) for training in found.trainings[:2]] == ["all-scratch", "all-round2"]
    more = replace(found, seeds=(4, 3))
    assert [more.folder(*more.trainings[place]) for place in (0, 1, 9)] == [
        "all-scratch-seed4", "all-round2-seed4", "all-scratch"]


def test_a_fine_tuning_is_changed_by_its_labels_and_then_by_its_encoder(tmp_path, encoders):
    words = ["labelled.3min.finetune={frozen: false, head_dropout: 0.2}", "encoders.other.finetune.head_dropout=0.3"]
    found = recipe(tmp_path, encoders, *words)
    asked = [found.finetuning("3min", name) for name in ("scratch", "frozen", "other")]
    assert [(one.frozen, one.head_dropout) for one in asked] == [(False, 0.2), (True, 0.2), (False, 0.3)]


def test_a_word_for_all_fine_tunings_counts_in_those_of_encoders(tmp_path, encoders):
    """As in those of amounts of labels that the file gave a value of their own."""
    (tmp_path / "more.yaml").write_text(RECIPE.replace("{frozen: true}", "{frozen: true, training: {updates: 9}}"))
    found = load_recipe(LowResourceRecipe, tmp_path / "more.yaml", ["finetune.training.updates=7"], SHIPPED)
    assert found.finetuning("3min", "frozen").training.updates == 7
    own = ["finetune.training.updates=7", "encoders.frozen.finetune.training.updates=8"]
    found = load_recipe(LowResourceRecipe, tmp_path / "more.yaml", own, SHIPPED)
    assert found.finetuning("3min", "frozen").training.updates == 8


@pytest.mark.parametrize(("word", "says"), [
    ("encoders.scratch.encoder=DIR", "encoders: 'scratch' means something else in a cell"),
    ("encoders={round1: {encoder: DIR}}", "encoders: 'round1' means something else"),
    ("encoders={round 1: {encoder: DIR}}", "encoders: 'round 1' names a folder"),
    ("encoders={../evil: {encoder: DIR}}", "encoders: '../evil' names a folder"),
    ("encoders.third.finetune.frozen=true", "encoders.third.encoder=: must be given"),
    ("encoders.other.encoder=scratch", "encoders.other.encoder=scratch: must be given"),
    ("encoders.other.finetune.seed=7", "encoders.other.finetune.seed: the comparison sets it itself"),
    ("cells=['3min: wavlm']", "'3min: wavlm' is none; expected LABELLED: ENCODER, LABELLED one of 3min, ENCODER one of "
                              "scratch, round 1, frozen, other"),
    ("cells=['3min: other', '3min:other']", "'3min: other' is there more than once"),
    ("seeds=[1, 2, 1]", "seeds: 1 is there more than once"),
    ("baseline=wavlm", "baseline=wavlm: no cell has it; give one of scratch, frozen, other"),
])
def test_what_means_nothing_is_refused(tmp_path, encoders, word, says):
    with pytest.raises(RecipeError, match=re.escape(says)):
        recipe(tmp_path, encoders, word)


def test_two_fine_tunings_in_one_folder_are_refused(tmp_path, encoders):
    words = ["encoders={frozen-seed5: {encoder: DIR}}", "cells=['3min: frozen', '3min: frozen-seed5']"]
    with pytest.raises(RecipeError, match=r"`3min: frozen-seed5` and `3min: frozen` would share the folder 3min-froz"):
        recipe(tmp_path, encoders, *words)


def test_ranks_share_what_is_trained_and_nothing_else(tmp_path, encoders):
    """Without a round, that the default pretraining's micro-batches could be shared plays no part."""
    words = ["encoders.other.finetune.training.batch_seconds=8"]
    assert micro_batches(recipe(tmp_path, encoders, *words)) == [1, 1, 4]


SMALL, WIDE = EncoderConfig(width=384, heads=6, dropout=0.3), EncoderConfig(width=512, heads=8)


@pytest.mark.parametrize(("outside", "own", "shape", "whose"), [
    ({"frozen": SMALL, "other": replace(SMALL, family="wav2vec2", dropout=0)}, {}, SMALL, "as frozen and other"),
    ({"frozen": SMALL, "other": WIDE}, {}, EncoderConfig(), "as HuBERT BASE: frozen and other have width=384"),
    ({"frozen": SMALL, "other": SMALL}, {"width": 24, "heads": 2, "positional_groups": 2},
     EncoderConfig(width=24, heads=2, positional_groups=2), "as pretrain.encoder says"),
    ({"frozen": replace(SMALL, feature_grad_mult=0.0)}, {}, replace(SMALL, feature_grad_mult=0.1), "as frozen"),
])
def test_scratch_is_of_the_shape_of_the_encoders_beside_it(tmp_path, encoders, outside, own, shape, whose):
    found = recipe(tmp_path, encoders, f"pretrain.encoder={json.dumps(own)}")
    assert scratch_encoder(found, "3min", [], outside) == shape
    assert whose in told_shape(found, "3min", outside)


@pytest.mark.parametrize(("words", "says", "code"), [
    (["encoders.other.encoder=nowhere"], "encoders.other: nowhere: no such file or folder", 2),
    (["encoders.other.encoder=splits"], "encoders.other: splits holds no encoder", 2),
    (["encoders.other.encoder=OUT/cells/3min-frozen/recogniser"], "this very comparison makes it", 2),
    (["encoders.frozen.finetune.fresh_layers=1"], "cell '3min: frozen': fresh_layers=1 with frozen=true", 2),
    (["encoders.other.finetune.fresh_layers=3"], "cell '3min: other': fresh_layers=3: this encoder has 2", 2),
    (["encoders.other.finetune.frozen=perhaps"], "encoders.other.finetune: frozen=perhaps: true or false is needed", 2),
    (["encoders.other.finetune.changes={width: 9}"], "encoders.other.finetune: changes.width: only dropouts", 2),
    (["encoders.other.finetune.symbol=data"], "encoders.other.finetune: unknown key symbol", 2),
    (["finetune.head.layers=1"], "cell '3min: scratch': head.layers=1 with an encoder from scratch", 2),
    (["encoders.other.finetune.head.layers=3"], "cell '3min: other': head.layers=3: this encoder has layers 0 to 2", 2),
    (["labelled.3min.split=small"], "cell '3min: scratch': small-u00: ", 1),
    (["lm.text=small-text"], "lm.text, cell '3min: scratch': the recogniser can spell 0%", 1),
    (["lm.text=other-text"], "lm.text, cell '3min: scratch': the language model has 0% of the", 1),
])
def test_what_cannot_be_is_said_before_the_first_cell(tmp_path, data, encoders, capsys, monkeypatch, words, says, code):
    monkeypatch.chdir(data)
    recipe(tmp_path, encoders)
    given = shutil.copytree(data, tmp_path / "data")
    small = [replace(u, id=f"small-{u.id}", text=(u.text or "").lower()) for u in Manifest.load(data / "train.arrow")]
    for name, text in (("small-text", "abc cab\nbca abc\n"), ("other-text", "SOME WORDS\nWORDS\n")):
        (given / name).write_text(text * 9)
    whole = [*Manifest.load(data / "manifest.arrow"), *small]
    Manifest.of(whole, "tones").save(given / "manifest.arrow")
    (given / "splits/small.txt").write_text("\n".join(u.id for u in small[:6]))
    out = tmp_path / "out"
    words = [word.replace("OUT", str(out)) for word in words]
    assert run(["bench", "low-resource", str(tmp_path / "mine.yaml"), *words, "--ranks", "1", "--data", str(given),
                "--out", str(out)]) == code
    assert says in capsys.readouterr().err
    assert not (out / "cells").exists()


@pytest.mark.parametrize("left_out", [0, 3])
def test_a_row_says_how_many_utterances_its_encoder_could_not_learn_from(tmp_path, encoders, monkeypatch, left_out):
    """Of frames of 40 ms some transcripts do not fit: beside 20 ms, nothing in the results told of the fewer labels."""
    monkeypatch.setattr("benchmarks.low_resource.recogniser_stage", lambda *_: {"hash": "x", "left_out": left_out})
    monkeypatch.setattr("benchmarks.low_resource.decoded", lambda *_: [{"decoder": "greedy", "wer": 9.0, "cer": 3.0}])
    grid = Grid(recipe(tmp_path, encoders), Splits({}, tmp_path), Planned(), None, tmp_path)
    row, = _cell(grid, Cell("3min", "other"), 0, str)
    assert row.get("left_out", 0) == left_out


def test_encoders_are_compared_over_seeds_without_a_pretraining(done):
    _, out, lines = done
    results = read_results(out / "results.json")
    assert [line for line in lines if line.startswith("cell")] == [
        f"cell {n} of 6: 3min: {encoder}, seed {seed}" for n, (seed, encoder) in enumerate(
            ((s, e) for s in (0, 5) for e in ("scratch", "frozen", "other")), 1)]
    assert "3min: scratch is of 2 layers of 32 (fbank), as frozen and other" in lines
    assert not (out / "pretrain").exists()
    assert {(row["encoder"], row["seed"], row["cell"]) for row in results["rows"]} == {
        (e, s, f"3min-{e}{end}") for e in ("scratch", "frozen", "other") for s, end in ((0, ""), (5, "-seed5"))}
    assert len({row["recogniser"] for row in results["rows"]}) == 6
    assert [(s["encoder"], s["decoder"], s["seeds"]) for s in results["summaries"]] == [
        (e, d, [0, 5]) for e in ("scratch", "frozen", "other") for d in ("greedy", "beam+2gram")]
    assert {(c["encoder"], c["against"]) for c in results["comparisons"]} == {
        ("frozen", "scratch"), ("other", "scratch"), ("other", "frozen")}
    assert all(c["p_value"] <= c["p_holm"] and c["seeds"] == [0, 5] for c in results["comparisons"])
    assert [(e["name"], e["layers"], e["stride_ms"]) for e in results["encoders"]] == [
        ("frozen", 2, 20), ("other", 2, 20)]


@pytest.mark.parametrize(("speakers", "known"), [
    (("a", "b", "a", None), {"speakers_trained_on": 1}), (("a", "c", "c", None), {}), ((None, "b", "d", None), {}),
])
def test_speakers_of_the_test_set_that_were_trained_on_are_counted(tmp_path, encoders, speakers, known):
    """Of dev the fine-tuning warned; of the test set, whose rates are what is believed, nobody did."""
    def manifest(name, *those):
        return Manifest.of([Utterance(f"{name}-{n}", tmp_path / f"{name}.wav", 0, 16_000, 16_000, 1, speaker, "A")
                            for n, speaker in enumerate(those)], name)

    labelled, other, *test = speakers
    splits = Splits({"labelled": manifest("l", labelled), "train": manifest("t", "d"), "dev": manifest("d", other),
                     "test": manifest("x", *test)}, tmp_path)
    assert _heard_before(Grid(recipe(tmp_path, encoders), splits, Planned(), None, tmp_path)) == known


def test_a_frozen_encoder_is_what_it_was_and_another_is_not(done, encoders):
    _, out, _ = done
    from safetensors.torch import load_file

    given = {name: load_file(encoders / name / "model.safetensors") for name in ("one", "two")}
    for cell, source, same in (("3min-frozen", "one", True), ("3min-other", "two", False)):
        learnt = load_file(out / f"cells/{cell}/recogniser/model.safetensors")
        values = [(learnt[name], value) for name, value in given[source].items() if name in learnt]
        assert values
        assert all(bool((a == b).all()) for a, b in values) == same


def again(done, data, tmp_path, *changes):
    """The same comparison once more in a copy of its folder, changed: its results, and which cells were trained."""
    found, before, _ = done
    out, lines = shutil.copytree(before, tmp_path / "out"), []
    for change in changes:
        found = change(found)
    results = compare_encoders(found, data, out, "hubertkit bench", lines.append)
    return results, [line.partition("/")[0] for line in lines if BEGUN.match(line)]


def test_the_same_command_again_trains_nothing(done, data, tmp_path):
    results, trained = again(done, data, tmp_path)
    assert trained == []
    kept = read_json(done[1] / "results.json")
    for key in ("rows", "summaries", "comparisons", "encoders"):
        assert results[key] == kept[key]


def test_the_time_of_a_comparison_is_that_of_its_own_cells(done, data, tmp_path):
    """A bug once found: cells that an earlier recipe had left in the folder counted in the time of the report."""
    results, trained = again(done, data, tmp_path, lambda found: replace(found, cells=("3min: other",),
                                                                         baseline=None))
    assert trained == []
    taken = sum(stage_seconds(tmp_path / "out" / part)
                for part in ("splits", "lm", "cells/3min-other", "cells/3min-other-seed5"))
    assert results["seconds"] == pytest.approx(taken, abs=0.06)
    assert results["seconds"] < read_json(done[1] / "results.json")["seconds"]


@pytest.mark.parametrize(("words", "unit", "rates"), [
    ([], "word", ("wer", "cer")), (["decoding.unit=character"], "word", ("cer", "wer")),
    (["decoding.decoder=batched", "decoding.unspaced=true"], "character", ("cer",)),
    (["decoding.decoder=batched", "decoding.unspaced=true", "decoding.unit=character"], "character", ("cer",))])
def test_a_recipe_names_what_is_counted_and_which_rate_comes_first(tmp_path, encoders, words, unit, rates):
    found = recipe(tmp_path, encoders, *words).decoding
    assert (found.counted, found.rates) == (unit, rates)


@pytest.mark.processes
def test_a_seed_added_later_leaves_what_there_is(data, encoders, tmp_path):
    """A run of one seed, as all were once: its cells keep their folders."""
    one, lines = recipe(tmp_path, encoders, "seeds=[]", "cells=['3min: frozen', '3min: other']"), []
    first = compare_encoders(one, data, tmp_path / "out", "hubertkit bench", lines.append)
    assert [row["cell"] for row in first["rows"][::2]] == ["3min-frozen", "3min-other"]
    assert first["comparisons"] == []
    records = {p: p.read_bytes() for p in (tmp_path / "out/cells").rglob("stage.json")}
    both = compare_encoders(replace(one, seeds=(0, 5)), data, tmp_path / "out", "hubertkit bench", lines.append)
    assert {p: p.read_bytes() for p in records} == records
    assert both["rows"][:4] == first["rows"]
    assert [row["cell"] for row in both["rows"][4::2]] == ["3min-frozen-seed5", "3min-other-seed5"]


@pytest.mark.processes
def test_other_weights_of_an_encoder_make_its_cells_stale_and_no_others(done, data, encoders, tmp_path):
    changed = shutil.copytree(encoders, tmp_path / "encoders")
    save_encoder(Encoder(SHAPE).initialise(9), tmp_path / "new", {})
    shutil.rmtree(changed / "two")
    (tmp_path / "new").rename(changed / "two")
    _, trained = again(done, data, tmp_path, lambda found: replace(found, encoders={
        name: replace(other, encoder=other.encoder.replace(str(encoders), str(changed)))
        for name, other in found.encoders.items()}))
    assert trained == ["3min-other", "3min-other-seed5"]


@pytest.mark.processes
def test_a_run_killed_between_two_seeds_goes_on_there(done, data, tmp_path):
    found, whole, _ = done

    def killed(line):
        if line.startswith("cell 5"):
            raise Interrupted("killed")

    with pytest.raises(Interrupted):
        compare_encoders(found, data, tmp_path / "out", "hubertkit bench", killed)
    partial = read_json(tmp_path / "out/results.json")
    assert [(s["encoder"], s["seeds"]) for s in partial["summaries"][::2]] == [
        ("scratch", [0, 5]), ("frozen", [0]), ("other", [0])]
    assert {tuple(c["seeds"]) for c in partial["comparisons"]} == {(0,)}
    lines = []
    results = compare_encoders(found, data, tmp_path / "out", "hubertkit bench", lines.append)
    assert sum(bool(BEGUN.match(line)) for line in lines) == 2
    before = read_json(whole / "results.json")
    for key in ("summaries", "comparisons"):
        assert results[key] == before[key]


@pytest.mark.processes
def test_a_mean_is_never_of_two_encoders(data, encoders, tmp_path):
    """One that another program replaced between two seeds was in the mean with the first, under its hash."""
    source, found = shutil.copytree(encoders, tmp_path / "encoders") / "two", recipe(tmp_path, tmp_path / "encoders",
                                                                                    "cells=['3min: other']")
    lines = []

    def replaced(line):
        lines.append(line)
        if line.startswith("cell 2") and not (tmp_path / "before").exists():
            source.rename(tmp_path / "before")
            save_encoder(Encoder(SHAPE).initialise(9), source, {})

    with pytest.raises(InputError, match=rf"encoders.other: {re.escape(str(source))} has changed since the comparison"):
        compare_encoders(found, data, tmp_path / "out", "hubertkit bench", replaced)
    assert {row["seed"] for row in read_json(tmp_path / "out/results.json")["rows"]} == {0}
    lines.clear()
    results = compare_encoders(found, data, tmp_path / "out", "hubertkit bench", replaced)
    assert [line.partition("/")[0] for line in lines if BEGUN.match(line)] == ["3min-other"]  # of the first weights
    assert results["summaries"][0]["seeds"] == [0, 5]


def test_another_decoder_decodes_anew_and_trains_nothing(done, data, tmp_path):
    results, trained = again(done, data, tmp_path, lambda found: replace(found, decoding=replace(
        found.decoding, decoder="batched", tokens_per_frame=None)))
    assert trained == []
    assert {row["decoder"] for row in results["rows"]} == {"greedy", "batched+2gram"}
    assert {c["decoder"] for c in results["comparisons"]} == {"greedy", "batched+2gram"}
    made = read_json(tmp_path / "out/cells/3min-other/decoded/stage.json")
    assert made["settings"]["decoder"] == "batched"


def test_a_decoding_of_before_there_was_a_choice_is_not_stale(done):
    made = read_json(done[1] / "cells/3min-other/decoded/stage.json")
    assert not {"decoder", "unspaced", "unit", "counted"} & set(made["settings"])


def test_scripts_without_spaces_are_tuned_by_characters_and_searched_unspaced(done, data, tmp_path):
    """Bugs once found: the comparison was refused for a model without the words of the references, and told to take an
    option that it does not have; and its tables and comparisons were of whole phrases."""
    results, trained = again(done, data, tmp_path, lambda found: replace(found, decoding=replace(
        found.decoding, decoder="batched", tokens_per_frame=None, unspaced=True, unit="character")))
    assert trained == []
    made = read_json(tmp_path / "out/cells/3min-other/decoded/stage.json")
    assert (made["settings"]["unspaced"], made["settings"]["unit"]) == (True, "character")
    assert read_json(tmp_path / "out/cells/3min-other/decoded/tuning.json")["unit"] == "character"
    with pytest.raises(ValueError, match="unspaced is for decoder=batched, not beam"):
        BeamSearchRecipe(unspaced=True)
    assert (made["settings"]["counted"], results["unit"], results["rates"]) == ("character", "character", ["cer"])
    letters = sum(len((text or "").replace(" ", "")) for text in Manifest.load(data / "manifest.arrow").texts[9:])
    assert {(row["words"], row["characters"]) for row in results["rows"]} == {(letters, letters)}
    assert all(row["wer"] == row["cer"] for row in results["rows"])
    assert {c["rate"] for c in results["comparisons"]} == {"cer"}
    found = report(read_all([tmp_path / "out/results.json"]))
    assert found.lead[0].startswith("Lowest character error rate: ")
    assert "WER" not in markdown(found)
