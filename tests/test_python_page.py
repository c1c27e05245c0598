"""`docs/python.md`: its code runs, in order, and gives what the commands give."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_rounds import TINY
from tones import write_tones

from downstream.decode.choice import Choice
from downstream.decode.hypothesis import read_hypotheses
from downstream.decode.pool import decode_all
from downstream.decode.tuned import choice_of, tell_other_recogniser
from downstream.emissions import Emissions, EmissionsWriter
from downstream.finetune import finetune
from downstream.finetune_recipe import SHIPPED as FINETUNE_SHIPPED
from downstream.finetune_recipe import FinetuneRecipe
from downstream.lm.kneser_ney import Options, estimate
from downstream.lm.scoring import score_words
from downstream.recogniser import load_recogniser
from downstream.selftrain import selftrain
from downstream.selftrain_recipe import SHIPPED as SELFTRAIN_SHIPPED
from downstream.selftrain_recipe import SelftrainRecipe
from downstream.transcribe import Settings, Transcriber
from tools import main
from upstream import Labeller, Manifest, read_audio
from upstream.audio import check, read
from upstream.audio.caching import DiskCache
from upstream.audio.corpora.common_voice import export_common_voice
from upstream.audio.corpora.fairseq import export_fairseq
from upstream.audio.corpora.folder import import_folder
from upstream.audio.corpora.kaldi import export_kaldi
from upstream.audio.corpora.nemo import export_nemo
from upstream.audio.corpora.parquet import export_parquet, import_parquet
from upstream.audio.corpora.tar_shards import export_tar
from upstream.errors import BusyError, HubertkitError, RecipeError, UsageError
from upstream.locks import locked
from upstream.pretrain import pretrain
from upstream.pretrain_recipe import SHIPPED as PRETRAINING_SHIPPED
from upstream.pretrain_recipe import PretrainRecipe
from upstream.recipe import load_recipe
from upstream.teacher.fairseq_labels import export_labels
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units

PAGE = Path(__file__).parents[1] / "docs/python.md"
SMALL = {  # what makes the page's recipes take a second
    '"hubert-tiny", ["data=recordings/"]': '"hubert-tiny", PRETRAINING',
    '"ctc-tiny", words': '"ctc-tiny", [*words, *FINETUNING]'}
PRETRAINING = ["data=recordings/", *TINY]
FINETUNING = ["training.updates=2", "training.batch_seconds=4", "training.micro_batch_seconds=4",
              "training.validate_every=2"]


def blocks() -> list[str]:
    """The page's code, with small recipes in place of its own."""
    text = PAGE.read_text(encoding="utf-8")
    for shown, small in SMALL.items():
        assert text.count(shown) == 1, shown
        text = text.replace(shown, small)
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run(*words: str) -> None:
    assert main.run(list(words)) == 0


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Every name that the page's code leaves, run in a folder with what the page takes for granted."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "recordings").mkdir()
    write_tones(folder / "recordings", [2] * 10, dev=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for part in ("train", "dev"):
            Manifest.load(f"recordings/{part}.arrow").save(f"{part}.arrow")
        tone, rate = soundfile.read("recordings/u00.wav")
        soundfile.write("talk.wav", np.stack([tone, tone], 1), rate)
        Path("text").write_text("ABC CAB\nABC ABC BCA\n" * 3)
        run("lm", "build", "text", "--order", "2", "--discount-fallback", "--out", "lm.arpa")
        run("pretrain", "hubert-tiny", "--out", "run", *PRETRAINING)
        found = {"PRETRAINING": PRETRAINING, "FINETUNING": FINETUNING}
        for block in blocks():
            exec(compile(block, str(PAGE), "exec"), found)
        yield found


def test_the_pages_code_runs_in_order(names):
    assert len(blocks()) == 10
    assert set(names["layers"]) == {1, 2}
    assert names["layers"][1].shape == (len(names["units"]), 32)
    assert names["output"].lengths.tolist()[0] == len(names["units"])
    assert names["head"].weight.grad.abs().sum() > 0
    assert len(names["rounds"]) == 2
    assert len(names["manifest"]) == 10
    assert names["best"].text == " ".join(word.word for word in names["best"].words)
    assert names["interval"].low <= names["found"].wer <= names["interval"].high
    assert (round(names["found"].wer, 2), round(names["paired"].points, 2)) == (16.67, -33.33)


def test_the_pages_units_are_those_of_the_command(names):
    run("units", "talk.wav", "--teacher", "run/round2/teacher", "--encoder", "run/round1/encoder", "--out", "units.km",
        "--format", "km")
    assert names["units"].tolist() == list(map(int, Path("units.km").read_text().split()))
    rebuilt = np.repeat(names["values"], names["frames"])
    assert rebuilt.tolist() == names["units"].tolist()


def test_the_pages_transcript_is_that_of_the_command(names, capsys):
    run("transcribe", "asr", "talk.wav", "--lm", "lm.arpa", "--lm-weight", "0.5", "--word-score", "0.5")
    assert capsys.readouterr().out.strip() == names["transcript"].text


def test_a_path_may_be_text_wherever_there_is_one(names, tmp_path):
    """A bug once found: `pretrain(recipe, "run")`, `load_recipe(..., str(SHIPPED))`, `choice_of(tuned="tuned.json")`
    and exports to "folder" ended with tracebacks, where `finetune(recipe, "asr")` did as it was told."""
    recipe = load_recipe(PretrainRecipe, "hubert-tiny", PRETRAINING, str(PRETRAINING_SHIPPED))
    assert [str(found.encoder) for found in pretrain(recipe, "run")] == ["run/round1/encoder", "run/round2/encoder"]
    Path("tuned.json").write_text('{"lm_weight": 0.5, "word_score": 0.25, "lm": "lm.arpa"}')
    assert choice_of(lm="lm.arpa", tuned="tuned.json") == choice_of(lm=Path("lm.arpa"), tuned=Path("tuned.json"))
    tell_other_recogniser("tuned.json", lambda: None)
    with pytest.raises(UsageError, match="no transcripts to learn from: give labelled=MANIFEST"):
        selftrain(SelftrainRecipe(), "self")
    manifest = Manifest.load("dev.arrow")
    for export in (export_common_voice, export_fairseq, export_kaldi, export_tar):
        export(manifest, str(tmp_path / export.__name__))
    export_nemo(manifest, str(tmp_path / "dev.json"))
    assert len(import_parquet(export_parquet(manifest, str(tmp_path / "dev.parquet")), str(tmp_path / "tars"))) == 2
    export_labels(Units.load("run/round1/units"), manifest, str(tmp_path / "labels"))
    assert DiskCache(manifest, str(tmp_path / "cache"), 1 << 20).get(0) is None
    assert (tmp_path / "labels" / "train.km").is_file()


@pytest.mark.parametrize(("call", "argument"), [
    (Manifest.load, "path"), (read_audio, "path"), (import_folder, "src"), (Teacher.load, "folder"),
    (Labeller, "teacher"), (Units.load, "folder"), (Emissions.load, "folder"), (load_recogniser, "folder"),
    (Transcriber, "folder"), (read_hypotheses, "path"), (Manifest.of([], "x").save, "path"),
    (lambda out: pretrain(PretrainRecipe(), out), "out"), (lambda out: finetune(FinetuneRecipe(), out), "out"),
    (lambda out: selftrain(SelftrainRecipe(), out), "out"), (lambda path: score_words(path, "A"), "path"),
    (lambda source: load_recipe(PretrainRecipe, source, [], PRETRAINING_SHIPPED), "source")])
@pytest.mark.parametrize("given", [None, 3])
def test_where_a_path_is_wanted_none_is_told_in_a_line(call, argument, given):
    """All were a TypeError of Python's: expected str, bytes or os.PathLike object, not NoneType."""
    with pytest.raises(UsageError, match=rf"^{argument}={given}: expected a path, as text or a Path$"):
        call(given)


@pytest.mark.parametrize(("run", "recipe"), [
    (pretrain, PretrainRecipe), (finetune, FinetuneRecipe), (selftrain, SelftrainRecipe)])
@pytest.mark.parametrize("given", ["hubert-tiny", None, SelftrainRecipe])
def test_the_name_of_a_recipe_is_no_recipe(tmp_path, run, recipe, given):
    """`pretrain("hubert-tiny", "run")` ended with `'str' object has no attribute 'rounds'`."""
    with pytest.raises(UsageError, match=rf"^recipe=.*: expected a {recipe.__name__}, as load_recipe gives it"):
        run(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", ["pretrain", "finetune", "selftrain"])
def test_a_second_process_in_a_folder_is_refused_from_python_too(names, start):
    """A bug once found: `finetune` and `selftrain` took no lock, which only their commands did, and two programs wrote
    over each other's checkpoints."""
    sets = ["labelled=train.arrow", "unlabelled=train.arrow", "dev=dev.arrow"]
    run, schema, name, words, shipped = {
        "pretrain": (pretrain, PretrainRecipe, "hubert-tiny", PRETRAINING, PRETRAINING_SHIPPED),
        "finetune": (finetune, FinetuneRecipe, "ctc-tiny", [*names["words"], *FINETUNING], FINETUNE_SHIPPED),
        "selftrain": (selftrain, SelftrainRecipe, "selftrain-light", sets, SELFTRAIN_SHIPPED)}[start]
    recipe = load_recipe(schema, name, words, shipped)
    with locked(Path("held")), pytest.raises(BusyError, match=r"^held: another process"):
        run(recipe, "held", **({"sets": object()} if start == "selftrain" else {}))  # which are not looked at before
    assert not Path("held").exists()


def test_a_single_word_of_a_recipe_and_rounds_that_are_none_are_refused(tmp_path):
    """`overrides="data=x"` was told of an override 'd'; `until_round=0` did nothing, -1 left out the last round."""
    with pytest.raises(UsageError, match=r"^overrides=.data=x.: a single word; give a list of them$"):
        load_recipe(PretrainRecipe, "hubert-tiny", "data=x", PRETRAINING_SHIPPED)
    with pytest.raises(RecipeError, match=r"^override 3: expected key=value"):
        load_recipe(PretrainRecipe, "hubert-tiny", [3], PRETRAINING_SHIPPED)
    for number in (0, -1, "1"):
        with pytest.raises(UsageError, match=f"^until_round={number!r}: must be at least 1"):
            pretrain(PretrainRecipe(), tmp_path / "out", until_round=number)


def test_a_transcriber_wants_settings_and_those_a_choice_of_decoder(names):
    with pytest.raises(UsageError, match=r"^settings=Choice\(.*: expected Settings; .*: Settings\(choice\)$"):
        Transcriber("asr", Choice())
    with pytest.raises(UsageError, match=r"^decoder='greedy': expected a Choice"):
        Transcriber("asr", Settings("greedy"))
    for name in ("window_seconds", "overlap_seconds", "pause_seconds"):
        with pytest.raises(UsageError, match=f"^{name}='8': expected a number of seconds$"):
            Transcriber("asr", Settings(**{name: "8"}))
    wave = read_audio("talk.wav")
    assert Transcriber("asr").transcript(wave) == Transcriber("asr", Settings()).transcript(wave)


@pytest.mark.parametrize(("call", "says"), [
    (lambda m: read("talk.wav"), r"^utterance='talk\.wav': expected an Utterance of a manifest; read_audio reads a"),
    (lambda m: check("dev.arrow"), r"^manifest='dev\.arrow': expected a Manifest; Manifest\.load reads one"),
    (lambda m: m["u08"], "^'u08': expected the number of an utterance; select"), (lambda m: m[1:], "^slice"),
    (lambda m: m.select(0), "^indices=0: expected a list"), (lambda m: m.only("u08"), "^ids='u08': a single one; give"),
    (lambda m: m.only([1]), "^ids: 1 is no text"),
    (lambda m: m.with_texts(["A"]), "^1 values of text for 2 utterances"),
    (lambda m: m.with_texts("AB"), "^2 values of text for 2 utterances; give a list"),
    (lambda m: m.with_texts([None, 3]), "^values of text: 3 is no text"),
    (lambda m: m.with_ids(["a"]), "^1 values of id"),
    (lambda m: m.with_ids([None, "a"]), "^the id None is no text, empty or holds a space"),
    (lambda m: m.with_ids(["a b", "c"]), "^the id 'a b' is no text"),
    (lambda m: Manifest.joined([], "x"), "^parts of type list: expected manifests, one at least"),
    (lambda m: Manifest.joined(["dev.arrow"], "x"), "^parts of type str: expected manifests"),
    (lambda m: Manifest.of(["talk.wav"], "x"), "^'talk.wav': expected an Utterance; import_folder"),
    (lambda m: Manifest.of([replace(m[0], id=3)], "x"), "its id is 3; expected text"),
    (lambda m: Manifest.of([replace(m[0], text=["A"])], "x"), "its text is .*; expected text"),
    (lambda m: Manifest.of([replace(m[0], start="0")], "x"), "^u08: its start is '0'; expected a whole number"),
    (lambda m: Units.load("run/round1/units").labels("u00", 1), "^stream 1: .* has 1, counted from 0"),
])
def test_what_a_manifest_cannot_do_is_told_in_a_line(names, call, says):
    """Some were tracebacks of pyarrow's; ids that were None or held a space were written, and no tool reads them."""
    with pytest.raises(HubertkitError, match=says):
        call(Manifest.load("dev.arrow"))


def test_decoding_wants_emissions_and_a_decoder_and_estimating_a_list_of_texts(names, tmp_path):
    symbols = ("_", "|", "A")
    with EmissionsWriter(tmp_path / "e", symbols, 0, 50.0) as writer:
        writer.add("a", np.zeros((0, 3), np.float32))
    emissions, decoder = Emissions.load(tmp_path / "e"), Choice().make(symbols, 0)
    for given, says in (
            ((tmp_path / "e", decoder), r"expected Emissions; Emissions\.load opens"),
            ((emissions, Choice()), r"expected a decoder; Choice\(\.\.\.\)\.make\(symbols, blank\) gives one"),
            ((emissions, "greedy"), "decoder='greedy': expected a decoder"),
            ((emissions, decoder, "a"), "ids='a': a single one; give a list")):
        with pytest.raises(UsageError, match=says):
            decode_all(*given)
    with pytest.raises(UsageError, match=r"^start='thread': processes start by fork or spawn$"):
        decode_all(emissions, decoder, start="thread")
    with pytest.raises(UsageError, match="workers='2': at least 1 process is needed"):
        decode_all(emissions, decoder, workers="2")
    for given, says in (
            (("text", 2), "^texts='text': a single file; give a list"),
            ((["text"], "2"), "^order '2': must be a whole"),
            ((["text"], 2, Options(prune=1)), "^prune 1: expected a list of thresholds")):
        with pytest.raises(UsageError, match=says):
            estimate(*given)
