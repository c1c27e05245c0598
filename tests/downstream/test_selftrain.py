"""Self-training by rounds: what a student learns from, what is refused, and that a killed or changed run goes on."""

import dataclasses
import json
import shutil

import pytest
import soundfile
from small_selftraining import STAGES, STUDENT, recipe, redone, said_by

from downstream import finetune as finetuning
from downstream import selftrain as rounds
from downstream import selftrain_data
from downstream.decode import batched
from downstream.decode.choice import Name
from downstream.decode.hypothesis import read_hypotheses
from downstream.decode.recipe import DecodingRecipe
from downstream.decode.tuned import choice_of
from downstream.finetune_recipe import FinetuneRecipe
from downstream.lm.arpa import write_arpa
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from downstream.recogniser import load_recogniser, recogniser_hash, save_recogniser
from downstream.selftrain import decoding_settings, selftrain
from downstream.selftrain_data import training_set
from downstream.selftrain_outlook import outlook
from downstream.selftrain_recipe import SHIPPED, FilterRecipe, SelftrainRecipe, TuningRecipe
from downstream.selftrain_stages import stages_read
from downstream.selftrain_start import check_selftrain
from downstream.text.vocabulary import Vocabulary
from upstream.audio import Manifest, import_folder
from upstream.disk import file_hash
from upstream.errors import InputError, RecipeError, UsageError
from upstream.model.saving import encoder_hash
from upstream.recipe import as_settings, load_recipe
from upstream.stage import read_stage, run_stage
from upstream.training.monitor import read_metrics


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr("downstream.decode.pool.available_cores", lambda: 1)


@pytest.fixture
def corpus(selftrain_corpus):
    return selftrain_corpus


@pytest.fixture
def run(selftrain_run):
    return selftrain_run


def test_a_student_learns_from_the_labels_and_from_the_best_of_what_its_teacher_heard(run, corpus):
    folder, results = run
    labelled, whole = (Manifest.load(corpus / f"{name}.arrow") for name in ("labelled", "train"))
    learnt = Manifest.load(folder / "round1/data/train.arrow")
    heard = {h.id: h.text for h in read_hypotheses(folder / "round1/hypotheses/hypotheses.jsonl")}
    assert list(heard) == whole.ids[4:]
    texts = dict(zip(learnt.ids, learnt.texts))
    assert learnt.ids[:8] == [*labelled.ids, *(f"{id}~2" for id in labelled.ids)]
    assert learnt.texts[:8] == labelled.texts * 2
    chosen = learnt.ids[8:]
    assert chosen == [id for id in whole.ids if id in chosen]  # in their order
    assert {id: texts[id] for id in chosen} == {id: heard[id] for id in chosen}
    spoken = [id for id in heard if heard[id]]
    assert len(chosen) == -(-len(spoken) // 2) > 0
    row = results["rounds"][1]
    assert row["labels"]["kept"]["utterances"] == len(chosen)
    assert row["labels"]["hours"] == round(learnt.seconds / 3600, 4)
    assert sum(v["utterances"] for v in row["labels"]["dropped"].values()) == len(heard) - len(chosen)
    assert row["labels"]["teacher"] == results["rounds"][0]["recogniser"] != row["recogniser"]
    assert row["recogniser"] == recogniser_hash(load_recogniser(folder / "round1/recogniser")[0])


def test_the_results_say_what_was_measured_and_with_which_files(run, corpus):
    folder, results = run
    assert json.loads((folder / "selftrain.json").read_text()) == json.loads(json.dumps(results))
    assert results["lm"] == file_hash(corpus / "lm.arpa")
    beside = json.loads((folder / "round1/hypotheses/hypotheses.jsonl.json").read_text())
    assert beside["lm"]["sha256"] == results["lm"]
    tuned = results["rounds"][0]["dev"]
    assert beside["settings"]["lm_weight"] == tuned["lm_weight"]
    assert beside["settings"]["word_score"] == tuned["word_score"]
    assert tuned["decoded"]["words"] == tuned["greedy"]["words"] == 6
    assert 0 <= tuned["greedy"]["cer"] < 60
    weights = choice_of(lm=corpus / "lm.arpa", tuned=folder / "round0/tuned/tuning.json")  # of `decode`
    assert (weights.lm_weight, weights.word_score) == (tuned["lm_weight"], tuned["word_score"])
    rates = results["rounds"][1]["labels"]["diagnosis"]
    assert rates["all"]["utterances"] == 6
    assert rates["kept"]["utterances"] == results["rounds"][1]["labels"]["kept"]["utterances"]


def test_a_student_writes_what_its_teacher_writes(run):
    folder, _ = run
    symbols = {load_recogniser(folder / f"round{n}/recogniser")[1].symbols for n in (0, 1)}
    assert len(symbols) == 1
    learnt = Manifest.load(folder / "round1/data/train.arrow")
    assert Vocabulary(*symbols).letters.union(" ").issuperset("".join(learnt.texts))


def test_the_same_command_again_does_nothing(run, corpus):
    results, said = said_by(recipe(corpus), run[0])
    assert redone(said) == []
    assert results == run[1]


def test_transcripts_of_the_unlabelled_set_change_nothing_that_is_learnt(run, corpus, tmp_path):
    """Other texts, or none: a diagnosis tells them apart, and nothing else does."""
    shutil.copytree(run[0], tmp_path / "run")
    whole = Manifest.load(corpus / "train.arrow")
    rest = [None] * (len(whole) - 4)
    for texts, stages in (([text and "CAB" for text in rest], []), (["A LIE"] * len(rest), ["round1/diagnosis"])):
        whole.with_texts(whole.texts[:4] + texts).save(tmp_path / "train.arrow")
        results, said = said_by(recipe(corpus, unlabelled=str(tmp_path / "train.arrow")), tmp_path / "run")
        assert redone(said) == stages
        assert results["rounds"][1]["recogniser"] == run[1]["rounds"][1]["recogniser"]
        assert ("diagnosis" in results["rounds"][1]["labels"]) == bool(stages)
    assert results["unlabelled"] == run[1]["unlabelled"]
    assert results["rounds"][1]["labels"]["diagnosis"]["all"]["wer"] > 90


@pytest.mark.parametrize(("changes", "first"), [
    ({"filter": FilterRecipe(keep=0.9)}, "round1/data"), ({"labelled_repeats": 1}, "round1/data"),
    ({"decoding": {"beam": 5}}, "round0/tuned"),
    ({"tuning": TuningRecipe(decodes=3, unit="character")}, "round0/tuned"),
    ({"student": {"training": {**STUDENT["training"], "updates": 3}}}, "round1/recogniser")])
def test_what_changed_is_done_anew_and_what_is_before_it_is_not(run, corpus, tmp_path, changes, first):
    shutil.copytree(run[0], tmp_path / "run")
    if "decoding" in changes:
        changes = {"decoding": dataclasses.replace(recipe(corpus).decoding, **changes["decoding"])}
    _, said = said_by(recipe(corpus, **changes), tmp_path / "run")
    found = redone(said)
    assert found[0] == first
    behind = STAGES[STAGES.index(first):]
    assert set(found) <= set(behind)
    assert "round1/data" in found or first in ("round0/tuned", "round1/recogniser")
    assert any("stale" in line for line in said if line.startswith(first))


def test_a_run_killed_in_any_stage_goes_on_to_the_same_end(run, corpus, tmp_path, monkeypatch):
    """Each stage is killed once, when its work is done and it is about to say so."""
    out, killed = tmp_path / "run", []

    def dying(folder, *given, work, **named):
        def works(into):
            result = work(into)
            name = str(folder.relative_to(out))
            if name not in killed:
                killed.append(name)
                raise KeyboardInterrupt
            return result
        return run_stage(folder, *given, work=works, **named)

    for module in (rounds, selftrain_data, finetuning):
        monkeypatch.setattr(module, "run_stage", dying)
    for _ in STAGES:
        with pytest.raises(KeyboardInterrupt):
            selftrain(recipe(corpus), out, lambda line: None)
    results = selftrain(recipe(corpus), out, lambda line: None)
    assert killed == STAGES
    assert [{k: v for k, v in row.items() if k != "folder"} for row in results["rounds"]] == [
        {k: v for k, v in row.items() if k != "folder"} for row in run[1]["rounds"]]


def test_rounds_go_on_from_a_given_recogniser_and_from_one_another(run, corpus, tmp_path):
    """No language model, the teacher's own encoder to start from, and the score normalised on dev."""
    given = run[0] / "round0/recogniser"
    found = recipe(corpus, recogniser=str(given), start="recogniser", rounds=2,
                   decoding=DecodingRecipe(decoder=Name.greedy), filter=FilterRecipe(confidence="normalised"))
    results, said = said_by(found, tmp_path / "run")
    assert "round0/recogniser" not in redone(said)
    rows = results["rounds"]
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert rows[0]["recogniser"] == run[1]["rounds"][0]["recogniser"]
    assert [row["labels"]["teacher"] for row in rows[1:]] == [row["recogniser"] for row in rows[:2]]
    assert rows[0]["dev"]["greedy"] == rows[0]["dev"]["decoded"] == run[1]["rounds"][0]["dev"]["greedy"]
    assert set(rows[1]["labels"]["line"]) == {"slope", "offset", "spread"}
    inputs = [read_stage(tmp_path / f"run/round{n}/recogniser")["inputs"]["encoder"] for n in (1, 2)]
    assert inputs == [encoder_hash(load_recogniser(folder)[0].encoder)
                      for folder in (given, tmp_path / "run/round1/recogniser")]


def test_a_student_may_keep_the_head_of_its_teacher(run, corpus, tmp_path):
    """It begins where its teacher ended; with a fresh head what it hears is lost at first."""
    shutil.copytree(run[0], tmp_path / "run")
    changes, losses = {"start": "recogniser", "decoding": DecodingRecipe(decoder=Name.greedy)}, []
    for keep in (True, False):
        found = recipe(corpus, **changes, student=STUDENT | {"keep_head": keep})
        results, _ = said_by(found, tmp_path / "run")
        inputs = read_stage(tmp_path / "run/round1/recogniser")["inputs"]
        assert inputs.get("head") == (results["rounds"][0]["recogniser"] if keep else None)
        assert stages_read(found, STAGES)["round1/recogniser"] == {"data": "round1/data"} | (
            {"head": "round0/recogniser"} if keep else {})
        losses.append(read_metrics(tmp_path / "run/round1/recogniser", "train")[0]["loss"])
    assert losses[0] < losses[1] / 2


@pytest.mark.parametrize(("changes", "says"), [
    ({"start": "encoder"}, "an encoder from scratch has no head to keep"),
    ({"student": {"keep_head": True, "head": {"layers": "mix"}}}, "the head of the first teacher has head.layers=last"),
    ({"recogniser": "GIVEN", "student": {"keep_head": True, "head": {"layers": 1}}}, "recogniser has head.layers=last"),
    ({"finetune": FinetuneRecipe(keep_head=True)}, "an encoder from scratch has no head to keep")])
def test_a_head_that_cannot_be_kept_is_refused_before_its_teacher_is_trained(run, corpus, tmp_path, changes, says):
    if "recogniser" in changes:
        changes = changes | {"recogniser": str(run[0] / "round0/recogniser")}
    with pytest.raises(UsageError, match=says):
        check_selftrain(recipe(corpus, **{"start": "recogniser", "student": {"keep_head": True}} | changes),
                        tmp_path / "out")


def test_where_nothing_is_kept_one_line_says_why(run, corpus, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    with pytest.raises(InputError, match=r"none of 6 pseudo labels is kept \(.*6 low confidence\); loosen") as e:
        selftrain(recipe(corpus, filter=FilterRecipe(least_confidence=1.0)), tmp_path / "run", lambda line: None)
    assert "\n" not in str(e.value)
    kept = json.loads((tmp_path / "run/selftrain.json").read_text())["rounds"]
    assert [row["recogniser"] for row in kept] == [row["recogniser"] for row in run[1]["rounds"]]
    results, said = said_by(recipe(corpus), tmp_path / "run")  # what was there before stays
    assert "round1/recogniser" not in redone(said)
    assert results["rounds"] == [
        row | {"folder": row["folder"].replace(str(run[0]), str(tmp_path / "run"))} for row in run[1]["rounds"]]


def test_dev_and_test_are_never_learnt_from(corpus, tmp_path):
    """By their ids, or by the samples that they hold, whatever the ids are."""
    dev, train = (Manifest.load(corpus / f"{name}.arrow") for name in ("dev", "train"))
    renamed = dev.with_ids([f"other-{id}" for id in dev.ids])
    for number, part in enumerate((dev, renamed)):
        path = tmp_path / f"{number}.arrow"
        Manifest.joined([train, part], "test").save(path)
        for name in ("labelled", "unlabelled"):
            for held in ({}, {"dev": str(tmp_path / "few.arrow"), "test": str(corpus / "dev.arrow")}):
                train.select([9]).with_ids(["apart"]).save(tmp_path / "few.arrow")
                sets = recipe(corpus, **{name: str(path)}, **held)
                with pytest.raises(InputError, match=r"utterances of (dev|test)=.* are in "):
                    check_selftrain(sets, tmp_path / "out")
    with pytest.raises(InputError, match=r"utterances of test=.* are in dev="):
        check_selftrain(recipe(corpus, test=str(corpus / "dev.arrow")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_copies_of_recordings_of_dev_and_test_are_never_learnt_from(corpus, tmp_path):
    """A bug once found: in a folder of everything, under other ids, dev was labelled by its teacher."""
    (tmp_path / "all").mkdir()
    for place in (9, 10, 12):
        for ending in ("wav", "txt"):
            shutil.copy(corpus / f"u{place:02d}.{ending}", tmp_path / f"all/x{place}.{ending}")
    Manifest.joined([Manifest.load(corpus / "train.arrow").select(range(9)), import_folder(tmp_path / "all")],
                    "all").save(tmp_path / "all.arrow")
    for name in ("labelled", "unlabelled"):
        with pytest.raises(InputError, match=r"^x10 and 1 more utterances of \w+=.*all.arrow are copies of recordings "
                                             r"of dev=.* \(x10 of u10\); a score") as error:
            selftrain(recipe(corpus, **{name: str(tmp_path / "all.arrow")}), tmp_path / "out", lambda line: None)
        assert "\n" not in str(error.value)
    Manifest.load(corpus / "dev.arrow").select([1]).save(tmp_path / "dev.arrow")
    with pytest.raises(InputError, match=r"are copies of recordings of test="):
        check_selftrain(recipe(corpus, unlabelled=str(tmp_path / "all.arrow"), dev=str(tmp_path / "dev.arrow"),
                               test=str(corpus / "dev.arrow")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_copies_of_labelled_utterances_keep_their_transcripts(corpus, tmp_path):
    shutil.copy(corpus / "u02.wav", tmp_path / "x.wav")
    Manifest.joined([Manifest.load(corpus / "train.arrow"), import_folder(tmp_path)], "all").save(
        tmp_path / "all.arrow")
    said = []
    sets = check_selftrain(recipe(corpus, unlabelled=str(tmp_path / "all.arrow")), tmp_path / "out", said.append)
    assert sets.unlabelled.ids == Manifest.load(corpus / "train.arrow").ids[4:]
    assert said == ["5 of 11 unlabelled utterances are labelled too, and keep their transcripts"]


def test_other_recordings_of_the_same_ids_are_refused(corpus, tmp_path):
    train = Manifest.load(corpus / "train.arrow")
    soundfile.write(tmp_path / "x.wav", [0.1] * 9000, 16_000)
    other = Manifest.of([dataclasses.replace(train[0], audio=tmp_path / "x.wav", samples=9000)], "others")
    Manifest.joined([other, train.select([8, 9])], "others").save(tmp_path / "others.arrow")
    with pytest.raises(InputError, match=r"both in labelled=.* and in unlabelled=.*--prefix more-"):
        check_selftrain(recipe(corpus, unlabelled=str(tmp_path / "others.arrow")), tmp_path / "out")


def test_students_of_a_given_recogniser_that_start_from_nothing_are_a_warning(run, corpus, tmp_path):
    given = str(run[0] / "round0/recogniser")
    finetune = FinetuneRecipe(training=recipe(corpus).finetune.training)

    def warned(**changes):
        said = []
        check_selftrain(recipe(corpus, **{"recogniser": given, "finetune": finetune, **changes}), tmp_path / "out",
                        said.append)
        return [line for line in said if line.startswith("warning")]

    [line] = warned()
    assert line.startswith(f"warning: recogniser={given} without encoder: students start from random weights of the "
                           "default shape (12 layers of 768)")
    assert "encoder=DIR" in line
    assert "start=recogniser" in line
    assert warned(encoder=given) == warned(start="recogniser") == warned(recogniser=None) == []
    assert warned(finetune=recipe(corpus).finetune) == [], "of a shape that was given, which is meant then"
    assert warned(student={"architecture": {"layers": 3}}) == []


def test_labelled_utterances_are_taken_out_of_the_unlabelled_ones(corpus, tmp_path):
    said = []
    sets = check_selftrain(recipe(corpus), tmp_path / "out", said.append)
    train = Manifest.load(corpus / "train.arrow")
    assert sets.unlabelled.ids == train.ids[4:]
    assert sets.unlabelled.texts == [None] * 6
    assert said == ["4 of 10 unlabelled utterances are labelled too, and keep their transcripts"]
    train.select(range(4)).with_ids(list("abcd")).save(tmp_path / "renamed.arrow")
    assert check_selftrain(recipe(corpus, labelled=str(tmp_path / "renamed.arrow")), tmp_path / "out",
                           said.append).unlabelled.ids == train.ids[4:]
    with pytest.raises(InputError, match="all 4 utterances are labelled"):
        check_selftrain(recipe(corpus, unlabelled=str(corpus / "labelled.arrow")), tmp_path / "out")


def test_labelled_utterances_without_transcripts_are_labelled_by_the_teacher(corpus, tmp_path):
    labelled = Manifest.load(corpus / "labelled.arrow")
    labelled.with_texts([None, *labelled.texts[1:]]).save(tmp_path / "some.arrow")
    sets = check_selftrain(recipe(corpus, labelled=str(tmp_path / "some.arrow")), tmp_path / "out", lambda line: None)
    assert sets.labelled.ids == labelled.ids[1:]
    assert labelled.ids[0] in sets.unlabelled.ids
    labelled.with_texts([None] * 4).save(tmp_path / "some.arrow")
    with pytest.raises(InputError, match="no utterance has a transcript"):
        check_selftrain(recipe(corpus, labelled=str(tmp_path / "some.arrow")), tmp_path / "out")


def test_a_teacher_of_other_symbols_is_refused(run, corpus, tmp_path):
    model, vocabulary = load_recogniser(run[0] / "round0/recogniser")
    small = Vocabulary(tuple(s.lower() if len(s) == 1 else s for s in vocabulary.symbols))
    save_recogniser(model, small, tmp_path / "small", {})
    with pytest.raises(InputError, match=r"give finetune\.symbols=data"):
        check_selftrain(recipe(corpus, recogniser=str(tmp_path / "small")), tmp_path / "out")
    of_data = dataclasses.replace(recipe(corpus).finetune, symbols="data")
    with pytest.raises(InputError, match=r"has the character 'A', which .* never writes"):
        check_selftrain(recipe(corpus, recogniser=str(tmp_path / "small"), finetune=of_data), tmp_path / "out")


@pytest.mark.parametrize(("changes", "says"), [
    ({"labelled": ""}, "give labelled="), ({"unlabelled": ""}, "give unlabelled="), ({"dev": ""}, "give dev="),
    ({"decoding": DecodingRecipe(decoder=Name.batched, lm="nowhere.arpa")}, "decoding.lm=nowhere.arpa: no such file"),
    ({"decoding": DecodingRecipe(decoder=Name.greedy, lm=__file__)}, "no effect on the greedy decoder"),
    ({"recogniser": "nowhere"}, "nowhere"), ({"encoder": "nowhere"}, "nowhere"),
    ({"student": {"training": {"updtes": 3}}}, "did you mean updates")])
def test_what_cannot_be_is_said_before_anything_is_made(corpus, tmp_path, changes, says):
    with pytest.raises(UsageError, match=says):
        selftrain(recipe(corpus, **changes), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_a_file_of_somebody_else_is_left_as_it_is(corpus, tmp_path):
    (tmp_path / "selftrain.json").write_text("{}")
    with pytest.raises(UsageError, match="no run of ours wrote it"):
        check_selftrain(recipe(corpus), tmp_path)


@pytest.mark.parametrize("values", [
    {"rounds": 0}, {"labelled_repeats": 0}, {"finetune": FinetuneRecipe(data="m.arrow")},
    {"student": {"dev": "m.arrow"}}, {"student": {"symbols": "data"}},
    {"decoding": DecodingRecipe(decoder=Name.batched, lm="lm.arpa", lm_weight=1.0)}, {"tuning": {"decodes": 2}}])
def test_a_recipe_that_contradicts_itself_is_refused(values):
    with pytest.raises(ValueError, match=r"must be|sets it itself|finetune.symbols|give both"):
        SelftrainRecipe(**{k: TuningRecipe(**value) if k == "tuning" else value for k, value in values.items()})


def test_labels_whose_characters_are_worse_than_those_of_greedy_decoding_are_a_warning(run, corpus, tmp_path):
    """A model that overrules what was heard: of all words it likes one."""
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "text.txt").write_text("CCC CCC\n" * 50 + (corpus / "text.txt").read_text())
    write_arpa(estimate([tmp_path / "text.txt"], 2, Options(fallback=FALLBACK)), tmp_path / "lm.arpa")
    decoding = dataclasses.replace(recipe(corpus).decoding, lm=str(tmp_path / "lm.arpa"), lm_weight=30.0,
                                   word_score=0.0)
    results, said = said_by(recipe(corpus, decoding=decoding), tmp_path / "run")
    dev = results["rounds"][0]["dev"]
    assert dev["decoded"]["cer"] > dev["greedy"]["cer"]
    assert any(line.startswith("warning: round0: ") and "tuning.unit=character" in line for line in said)


def test_unspaced_decoding_is_part_of_the_key_where_it_is_asked_for(corpus):
    """What was labelled before there was the option is not stale."""
    found = recipe(corpus)
    assert "unspaced" not in decoding_settings(found)
    unspaced = dataclasses.replace(found, decoding=dataclasses.replace(found.decoding, unspaced=True))
    assert decoding_settings(unspaced)["unspaced"] is True


def test_filters_count_characters_where_decoding_is_unspaced(run, corpus, tmp_path):
    """And what words were counted of before is not stale: loop_words was 4 then, and not open."""
    shutil.copytree(run[0], tmp_path / "run")
    found = recipe(corpus)
    sets = check_selftrain(found, tmp_path / "run")
    settings = read_stage(tmp_path / "run/round1/data")["settings"]
    assert settings == {"filter": json.loads(json.dumps(as_settings(found.filter))) | {"loop_words": 4},
                        "labelled_repeats": 2}
    unspaced = dataclasses.replace(found, decoding=dataclasses.replace(found.decoding, unspaced=True),
                                   filter=FilterRecipe(most_words_a_second=0.1))
    heard = read_stage(tmp_path / "run/round1/hypotheses")["result"]["hash"]
    with pytest.raises(InputError, match="6 too many characters a second"):
        selftrain_data.data_stage(tmp_path / "run/round1", unspaced, sets, heard, tmp_path, "", lambda line: None)
    kept = dataclasses.replace(unspaced, filter=FilterRecipe())
    selftrain_data.data_stage(tmp_path / "run/round1", kept, sets, heard, tmp_path, "", lambda line: None)
    settings = read_stage(tmp_path / "run/round1/data")["settings"]
    assert (settings["unit"], settings["filter"]["loop_words"]) == ("character", 8)


def test_greedy_self_training_of_scripts_without_spaces_counts_characters(corpus, tmp_path):
    """Filters and rates were of phrases, whatever `tuning.unit` said; lines gave their WER beside the CER."""
    for name in ("labelled", "dev"):
        whole = Manifest.load(corpus / f"{name}.arrow")
        whole.with_texts(["你好世界" * 3] * len(whole)).save(tmp_path / f"{name}.arrow")
    phrases = recipe(corpus, labelled=str(tmp_path / "labelled.arrow"), dev=str(tmp_path / "dev.arrow"),
                     decoding=DecodingRecipe(decoder=Name.greedy), tuning=TuningRecipe(),
                     finetune=dataclasses.replace(recipe(corpus).finetune, symbols="data"))
    said: list[str] = []
    check_selftrain(phrases, tmp_path / "out", said.append)
    assert any(line.startswith("warning: dev=") and "look like whole phrases" in line for line in said)
    characters = dataclasses.replace(phrases, tuning=TuningRecipe(unit="character"))
    said.clear()
    check_selftrain(characters, tmp_path / "out", said.append)
    assert not any("phrases" in line for line in said)
    assert (phrases.unit, characters.unit) == ("word", "character")
    rates = selftrain_data.error_rates({"a": "你好 世界"}, {"a": "你好世"}, characters.unit)
    assert selftrain_data.told_rates(rates, characters) == "CER 25.0"


def test_rates_are_told_in_the_order_in_which_they_are_to_be_read(corpus):
    weak = recipe(corpus, tuning=TuningRecipe(unit="character"))
    unspaced = dataclasses.replace(weak, decoding=dataclasses.replace(weak.decoding, unspaced=True))
    assert [found.rates for found in (recipe(corpus), weak, unspaced)] == [("wer", "cer"), ("cer", "wer"), ("cer",)]


def test_given_weights_are_not_tuned(corpus):
    decoding = DecodingRecipe(decoder=Name.batched, lm="lm.arpa", lm_weight=1.0, word_score=0.5)
    assert recipe(corpus).tunes
    assert not recipe(corpus, decoding=decoding).tunes
    assert not recipe(corpus, decoding=DecodingRecipe(decoder=Name.greedy)).tunes


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_recipes_that_ship_are_valid(name):
    found = load_recipe(SelftrainRecipe, name, ["finetune.training.updates=7"], SHIPPED)
    assert found.teaching().training.updates == found.studying("m.arrow", "").training.updates == 7
    assert load_recipe(SelftrainRecipe, name, ["student.training.updates=7"], SHIPPED).teaching().training.updates != 7
    with pytest.raises(RecipeError, match="did you mean labelled"):
        load_recipe(SelftrainRecipe, name, ["labeled=m.arrow"], SHIPPED)


def test_a_training_set_without_repeats_is_the_plain_union(corpus):
    labelled, whole = (Manifest.load(corpus / f"{name}.arrow") for name in ("labelled", "train"))
    found = training_set(labelled, 1, whole, {whole.ids[9]: "B", whole.ids[5]: "A"})
    assert list(zip(found.ids, found.texts)) == [*zip(labelled.ids, labelled.texts), (whole.ids[5], "A"),
                                                 (whole.ids[9], "B")]


def test_a_copy_gets_an_id_that_nothing_else_has(corpus):
    """The labelled set may be the training set of an earlier run: that has copies."""
    labelled, whole = (Manifest.load(corpus / f"{name}.arrow") for name in ("labelled", "train"))
    odd = labelled.with_ids(["a", "a~2", "b", "c"])
    other = whole.select([8, 9]).with_ids(["b~2", "d"])
    found = training_set(odd, 3, other, {"d": "A"})
    assert found.ids == ["a", "a~2", "b", "c", "a~2~2", "a~2~2~2", "b~2~2", "c~2", "a~3", "a~2~3", "b~3", "c~3", "d"]
    assert found.texts == [*labelled.texts * 3, "A"]


@pytest.mark.parametrize("words", [{"decoding.lm_weight": "0.5"}, {"decoding.word_score": "1"}])
def test_weights_of_no_language_model_are_told_before_the_sets_are_read(tmp_path, words):
    """They are not told when the recipe is read, so that it can be shown without a model."""
    sets = dict.fromkeys(("labelled", "unlabelled", "dev"), "nowhere.arrow")
    given = [f"{key}={value}" for key, value in (sets | words).items()]
    with pytest.raises(RecipeError, match=r"^decoding: lm_weight and word_score weigh a language model: give one"):
        selftrain(load_recipe(SelftrainRecipe, "selftrain-demo", given, SHIPPED), tmp_path, lambda line: None)


@pytest.mark.parametrize("given", [{"recogniser": "round1/recogniser"}, {"encoder": "round1/recogniser"},
                                   {"labelled": "round1/data/train.arrow"}])
def test_what_an_earlier_run_left_is_not_learnt_from_while_it_is_written_over(run, corpus, tmp_path, given):
    """A student that was given as the teacher was replaced by its own student, and that by the next one."""
    shutil.copytree(run[0], tmp_path / "run")
    (name, where), = given.items()
    before = file_hash(tmp_path / "run" / where / "model.safetensors") if name != "labelled" else None
    for out in (tmp_path / "run", tmp_path / "run/round1/.."):
        with pytest.raises(UsageError, match=rf"^{name}=.*: lies in a round of .*give another folder"):
            selftrain(recipe(corpus, **{name: str(tmp_path / "run" / where)}), out, lambda line: None)
    assert before is None or file_hash(tmp_path / "run" / where / "model.safetensors") == before
    if name == "recogniser":
        check_selftrain(recipe(corpus, recogniser=str(tmp_path / "run" / where)), tmp_path / "other")
        check_selftrain(recipe(corpus, recogniser=str(tmp_path / "run/round0/recogniser")), tmp_path / "run")


@pytest.mark.parametrize(("changes", "says"), [
    ({"start": "recogniser", "student": {**STUDENT, "fresh_layers": 3}}, "fresh_layers=3: this encoder has 2 layers"),
    ({"start": "recogniser", "student": {**STUDENT, "freeze_updates": 4}}, "the encoder would never learn"),
    ({"student": {**STUDENT, "head": {"layers": 7}}}, "head.layers=7: this encoder has layers 0 to 2"),
    ({"encoder": "GIVEN", "student": {**STUDENT, "head": {"layers": 1}, "fresh_layers": 1}}, "blocks past 1 are not")])
def test_what_a_student_cannot_be_is_said_before_its_teacher_is_trained(run, corpus, tmp_path, changes, says):
    if "encoder" in changes:
        changes = changes | {"encoder": str(run[0] / "round0/recogniser")}
    with pytest.raises(UsageError, match=says):
        selftrain(recipe(corpus, **changes), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_a_dev_set_without_words_is_refused_before_anything_is_made(corpus, tmp_path):
    dev = Manifest.load(corpus / "dev.arrow")
    dev.with_texts(["", " ", ""]).save(tmp_path / "silent.arrow")
    with pytest.raises(InputError, match=r"dev=.*silent\.arrow: no transcript has a word"):
        selftrain(recipe(corpus, dev=str(tmp_path / "silent.arrow")), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "given", "says"), [
    ("ACA BAB\n", {}, r"^decoding\.lm, dev=.*: the language model has \d+% of the 6 words of the references, not '"),
    ("abc cab\n", {}, r"^decoding\.lm=.*: the recogniser can spell 0%.*its symbols are upper case"),
    ("abc cab\n", {"lm_weight": 1.0, "word_score": 0.0}, "its symbols are upper case"),
    ("ABC CAB\n", {"lexicon": "words.txt"}, r"^decoding\.lexicon, dev=.*: the lexicon has 0% of the 6 words"),
    ("ABC CAB\n", {"decoder": Name.lexicon}, r"^decoding\.lm, dev="),
    ("ABC CAB\n", {"decoder": Name.beam}, r"^decoding\.lm, dev=")])
def test_a_language_model_without_the_words_of_dev_is_refused_before_anything_is_made(corpus, tmp_path, text, given,
                                                                                      says):
    """A bug once found: its coverage was looked at when weights were tuned, after the first teacher was trained."""
    (tmp_path / "text.txt").write_text(text * 9)
    (tmp_path / "words.txt").write_text("ACACA\n")
    write_arpa(estimate([tmp_path / "text.txt"], 2, Options(fallback=FALLBACK)), tmp_path / "lm.arpa")
    values = {"decoder": Name.batched, "lm": str(tmp_path / "lm.arpa"), **given}
    if "lexicon" in values:
        values["lexicon"] = str(tmp_path / values["lexicon"])
    found = recipe(corpus, decoding=DecodingRecipe(**values))
    for asked in (selftrain, outlook):
        with pytest.raises(InputError, match=says):
            asked(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_given_weights_need_no_words_of_dev_and_characters_no_words(corpus, tmp_path):
    """As when weights are looked for, where coverage of words or of characters is what matters."""
    (tmp_path / "text.txt").write_text("ACABA CABAC\n" * 9)
    write_arpa(estimate([tmp_path / "text.txt"], 2, Options(fallback=FALLBACK)), tmp_path / "lm.arpa")
    decoding = DecodingRecipe(decoder=Name.batched, lm=str(tmp_path / "lm.arpa"))
    check_selftrain(recipe(corpus, decoding=decoding, tuning=TuningRecipe(unit="character")), tmp_path / "out")
    weighed = dataclasses.replace(decoding, lm_weight=1.0, word_score=0.0)
    check_selftrain(recipe(corpus, decoding=weighed), tmp_path / "out")


def test_a_dev_set_too_small_to_normalise_confidence_on_is_refused_before_anything_is_made(corpus, tmp_path):
    """A bug once found: that was said after the first teacher was trained."""
    Manifest.load(corpus / "dev.arrow").select([0, 1]).save(tmp_path / "dev.arrow")
    found = recipe(corpus, dev=str(tmp_path / "dev.arrow"), filter=FilterRecipe(confidence="normalised"))
    with pytest.raises(InputError, match="dev has 2 texts, of too few lengths for a line; give more of dev, or"):
        selftrain(found, tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_a_lexicon_whose_words_a_student_cannot_write_is_refused_before_anything_is_made(corpus, tmp_path):
    """Its spellings are in the teacher's symbols, but pseudo labels hold the words."""
    (tmp_path / "lexicon.txt").write_text("AB\tA B |\nA.\tA B C |\n")
    decoding = DecodingRecipe(decoder=Name.lexicon, lexicon=str(tmp_path / "lexicon.txt"))
    with pytest.raises(InputError, match=r"lexicon\.txt: 'A\.' has '\.', which no recogniser of this run writes"):
        selftrain(recipe(corpus, decoding=decoding), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()
    (tmp_path / "lexicon.txt").write_text("AB\tA B |\nA\tA B C |\n")
    check_selftrain(recipe(corpus, decoding=decoding), tmp_path / "out")


def test_a_corpus_that_was_moved_is_found_where_it_lies_now(run, corpus, tmp_path):
    """The manifest that a student learns from named where its audio had been, and was taken for done."""
    shutil.copytree(run[0], tmp_path / "run")
    shutil.copytree(corpus, tmp_path / "moved", ignore=shutil.ignore_patterns("run"))
    results, said = said_by(recipe(tmp_path / "moved"), tmp_path / "run")
    assert redone(said) == ["round1/data"]
    assert results["rounds"][1]["recogniser"] == run[1]["rounds"][1]["recogniser"]
    learnt = Manifest.load(tmp_path / "run/round1/data/train.arrow")
    assert {one.audio.resolve().parent for one in learnt} == {(tmp_path / "moved").resolve()}


def test_a_student_has_the_room_of_its_teachers_decoder(run, corpus, monkeypatch):
    """A bug once found: on a GPU the language model and graphs of the search stayed beside the training."""
    folder, _ = run
    vocabulary, kept, real = load_recogniser(folder / "round0/recogniser")[1], [], rounds.recogniser_stage
    recipe(corpus).decoding.make(vocabulary.symbols, vocabulary.blank).prepare()

    def watched(*given):
        kept.append(batched._graph.cache_info().currsize)
        return real(*given)

    monkeypatch.setattr(rounds, "recogniser_stage", watched)
    selftrain(recipe(corpus), folder, lambda line: None)
    assert kept[0] > 0
    assert kept[1:] == [0]
