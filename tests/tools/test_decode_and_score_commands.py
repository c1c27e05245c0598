"""The commands `decode`, `tune` and `score` on ten utterances: what they print and write, and what they refuse."""

import gzip
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from downstream.decode.hypothesis import read_hypotheses
from downstream.decode.tuned import choice_of, noted_model, same_model
from downstream.emissions import Emissions, EmissionsWriter
from downstream.lm.arrays import model_hash, pack
from downstream.score.references import read_references
from tools import decode, main, score
from upstream.audio.manifest import Manifest, Utterance
from upstream.disk import file_hash
from upstream.errors import FormatError, InputError, UsageError

sys.path.append(str(Path(__file__).parents[1] / "downstream" / "decode"))
from posteriors import read_slice

LM = Path(__file__).parents[1] / "oracles" / "decoding" / "words.arpa.gz"
RECOGNISER = 64 * "a"  # its hash, as the emissions name it


@pytest.fixture(scope="module")
def app():
    application = typer.Typer(pretty_exceptions_enable=False)
    decode.register(application)
    score.register(application)
    return application


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Emissions, their manifest and plain references, and hypotheses by greedy decoding."""
    folder = tmp_path_factory.mktemp("data")
    utterances, references, symbols = read_slice()
    manifest = Manifest.of([Utterance(id, folder / f"{id}.wav", 0, 16000, 16000, 1, id.split("-")[0], text)
                            for id, text in references.items()], "a test")
    for id in references:
        (folder / f"{id}.wav").touch()
    manifest.save(folder / "dev.arrow")
    with EmissionsWriter(folder / "dev", symbols, 0, 50.0, {"manifest_hash": manifest.hash,
                                                            "recogniser_hash": RECOGNISER}) as writer:
        for id, rows in utterances.items():
            writer.add(id, rows)
    (folder / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\x00\x01")
    (folder / "dev.txt").write_text("".join(f"{id}\t{text}\n" for id, text in references.items()))
    return folder


def run(app, *arguments):
    """Standard output of a command that must succeed; its errors come through."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_greedy_decoding_and_its_score(app, data, tmp_path):
    hyps = tmp_path / "greedy.jsonl"
    assert "10 hypotheses" in run(app, "decode", data / "dev", "--out", hyps)
    found = json.loads(run(app, "score", hyps, "--references", data / "dev.arrow", "--json"))
    assert (found["errors"], found["words"], found["character_errors"]) == (40, 90, 51)
    assert found["wer"] == pytest.approx(100 * 40 / 90)
    assert found["wer_interval"][0] < found["wer"] < found["wer_interval"][1]
    plain = json.loads(run(app, "score", hyps, "--references", data / "dev.txt", "--json"))
    assert plain == found


def test_an_utterance_that_ends_inside_a_word_is_told_of(app, tmp_path, capsys):
    """The default decoder never was heard to say so."""
    with EmissionsWriter(tmp_path / "e", ("-", "|", "A", "B"), 0, 50.0) as writer:
        for id, columns in (("cut", [0, 2, 0]), ("whole", [2, 3, 1])):
            rows = np.full((3, 4), 1e-9)
            rows[range(3), columns] = 1
            writer.add(id, np.log(rows / rows.sum(axis=1, keepdims=True)))
    (tmp_path / "words").write_text("AB\nBB\n")
    assert main.run(["decode", str(tmp_path / "e"), "--out", str(tmp_path / "h.jsonl"), "--decoder", "batched",
                     "--lexicon", str(tmp_path / "words"), "--workers", "1"]) == 0
    assert "1 of 2 utterances, cut for instance, end inside a word" in capsys.readouterr().err
    assert [(h.text, h.unfinished) for h in read_hypotheses(tmp_path / "h.jsonl")] == [("", True), ("AB", False)]


def test_tuned_beam_search_beats_greedy_decoding(app, data, tmp_path):
    greedy, beam, tuned = (tmp_path / name for name in ("greedy.jsonl", "beam.jsonl", "tune.json"))
    run(app, "decode", data / "dev", "--out", greedy)
    said = run(app, "tune", data / "dev", "--references", data / "dev.arrow", "--lm", LM, "--out", tuned, "--beam", 20)
    weights = json.loads(tuned.read_text())
    assert f"lm_weight {weights['lm_weight']:g}" in said
    assert weights["manifest_hash"] == Manifest.load(data / "dev.arrow").hash
    run(app, "decode", data / "dev", "--out", beam, "--lm", LM, "--tuned", tuned, "--beam", 20, "--nbest", 3)
    assert all(1 <= len(h.nbest) <= 3 and h.words for h in read_hypotheses(beam))
    found = json.loads(run(app, "score", beam, "--references", data / "dev.arrow", "--against", greedy, "--json"))
    assert found["errors"] < 20
    assert found["difference"]["wer"] == pytest.approx(found["wer"] - found["against"]["wer"])
    assert found["difference"]["wer_interval"][1] < 0
    assert found["difference"]["wer_p_value"] < 0.01
    table = run(app, "score", beam, "--references", data / "dev.arrow", "--against", greedy, "--by", "speaker")
    assert f"{found['wer']:.2f}" in table
    assert "randomisation test by speaker" in table


def test_references_without_spaces_are_scored_and_tuned_by_characters(app, data, tmp_path, capsys):
    """Their WER was several hundred and inserted spaces were character errors; nothing said what to do."""
    hyps, unspaced, tuned = tmp_path / "greedy.jsonl", tmp_path / "unspaced.txt", tmp_path / "tuned.json"
    lines = [line.split("\t") for line in (data / "dev.txt").read_text().splitlines()]
    unspaced.write_text("".join(f"{id}\t{text.replace(' ', '')}\n" for id, text in lines))
    run(app, "decode", data / "dev", "--out", hyps)
    found, same = (json.loads(run(app, "score", hyps, "--references", file, "--characters", "--json"))
                   for file in (unspaced, data / "dev.txt"))
    assert found == same
    assert found["unit"] == "character"
    assert found["wer"] == found["cer"] < 20
    assert (found["words"], found["errors"]) == (found["characters"], found["character_errors"])
    assert "CER %" in (table := run(app, "score", hyps, "--references", unspaced, "--characters", "--against", hyps))
    assert "WER" not in table
    assert main.run(["score", str(hyps), "--references", str(unspaced), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["wer"] > 500
    assert shown.err.count("count characters") == 1
    said = run(app, "tune", data / "dev", "--references", unspaced, "--lm", LM, "--out", tuned, "--beam", 20,
               "--decodes", 2, "--characters")
    assert "CER" in said
    weights = json.loads(tuned.read_text())
    assert (weights["unit"], weights["coverage"]) == ("character", 1.0)
    assert weights["wer"] < found["cer"]
    run(app, "decode", data / "dev", "--out", hyps, "--lm", LM, "--tuned", tuned)


@pytest.fixture
def lm(tmp_path):
    """A language model beside which arrays may be written."""
    return shutil.copy(LM, tmp_path)


def test_the_model_that_weights_were_tuned_with_is_known_from_anywhere(tmp_path, monkeypatch):
    """From another folder the same file was called another, and another of its name the same."""
    (tmp_path / "sub").mkdir()
    for place in (tmp_path, tmp_path / "sub"):
        (place / "lm.arpa").touch()
    monkeypatch.chdir(tmp_path)
    noted, tuned = noted_model("lm.arpa", Path("sub/tuned.json")), Path("sub/tuned.json")
    assert noted == "../lm.arpa"
    assert same_model(noted, "lm.arpa", tuned)
    assert same_model(noted, str(tmp_path / "lm.arpa"), tuned)
    assert not same_model(noted, "sub/lm.arpa", tuned)
    monkeypatch.chdir(tmp_path / "sub")
    assert same_model(noted, "../lm.arpa", Path("tuned.json"))
    assert not same_model(noted, "lm.arpa", Path("tuned.json"))
    assert noted_model("owner/name", Path("x.json")) == "owner/name"
    assert same_model("owner/name", "owner/name", Path("x.json"))
    assert not same_model("owner/name", "owner/other", Path("x.json"))


@pytest.mark.parametrize("name", ["lexicon", "batched"])
def test_what_tuning_found_chooses_the_decoder(app, data, lm, tmp_path, name, capsys):
    hyps, tuned, words = tmp_path / "hyps.jsonl", tmp_path / "tune.json", tmp_path / "words.txt"
    references = (data / "dev.txt").read_text()
    words.write_text("\n".join(sorted({w for line in references.splitlines() for w in line.split("\t")[1].split()})))
    said = run(app, "tune", data / "dev", "--references", data / "dev.arrow", "--lm", lm, "--out", tuned, "--decoder",
               name, "--beam", 20, "--beams", "5,20", "--lexicon", words, "--decodes", 3)
    assert said.count("\nbeam ") + said.startswith("beam ") == 2
    found = json.loads(tuned.read_text())
    assert (found["decoder"], found["beam"] in (5, 20), found["lexicon"]) == (name, True, str(words))
    assert found["wer_interval"][0] <= found["wer"] <= found["wer_interval"][1]
    assert tuned.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    run(app, "decode", data / "dev", "--out", hyps, "--lm", lm, "--tuned", tuned, "--lexicon", words)
    rate = json.loads(run(app, "score", hyps, "--references", data / "dev.txt", "--json"))["wer"]
    assert rate == pytest.approx(found["wer"])
    capsys.readouterr()
    run(app, "decode", data / "dev", "--out", hyps, "--lm", lm, "--tuned", tuned, "--decoder", "beam", "--nbest", 2)
    assert all(h.nbest for h in read_hypotheses(hyps))
    capsys.readouterr()
    assert choice_of(lm=lm, tuned=tuned, lexicon=words).chosen == name
    assert capsys.readouterr().err == ""
    assert choice_of(lm=lm, tuned=tuned).chosen == name
    assert "without one (--lexicon) the words are those of the language" in " ".join(capsys.readouterr().err.split())


def test_hypotheses_say_what_made_them(app, data, lm, tmp_path, capsys):
    """Nothing said which decoder, weights, language model or recogniser a file of hypotheses is of."""
    hyps, beside, words = tmp_path / "hyps.jsonl", tmp_path / "hyps.jsonl.json", tmp_path / "words.txt"
    words.write_text("THE\nAND\n")
    run(app, "decode", data / "dev", "--out", hyps, "--lm", lm, "--lexicon", words, "--lm-weight", 0.3, "--beam", 7)
    found, stored = json.loads(beside.read_text()), Emissions.load(data / "dev")
    assert (found["decoder"], found["settings"]["lm_weight"], found["settings"]["beam"]) == ("batched", 0.3, 7)
    assert found["lm"] == {"file": str(lm), "sha256": file_hash(Path(lm))}
    assert found["lexicon"] == {"file": str(words), "sha256": file_hash(words)}
    assert (found["emissions_hash"], found["manifest_hash"]) == (stored.hash, stored.manifest_hash)
    assert found["recogniser_hash"] == RECOGNISER
    assert found["hypotheses_hash"] == file_hash(hyps)
    assert found["command"].startswith("hubertkit ")
    assert "numpy" in found["versions"]
    scored = ("score", hyps, "--references", data / "dev.txt", "--json")
    assert json.loads(run(app, *scored, "--against", hyps))["against"]["provenance"] == found
    assert json.loads(run(app, *scored))["provenance"] == found
    arrays = tmp_path / "words.ngrams"
    run(app, "decode", data / "dev", "--out", hyps, "--lm", arrays)
    assert json.loads(beside.read_text())["lm"] == {"file": str(arrays), "sha256": file_hash(Path(lm))}
    run(app, "decode", data / "dev", "--out", hyps)
    found = json.loads(beside.read_text())
    assert (found["decoder"], found["lm"], found["lexicon"]) == ("greedy", None, None)
    hyps.write_text(hyps.read_text() + "\n")
    capsys.readouterr()
    assert main.run([str(word) for word in scored]) == 0
    shown = capsys.readouterr()
    assert "provenance" not in json.loads(shown.out)
    assert "hyps.jsonl.json: is not of hyps.jsonl as it is now" in shown.err


def test_a_language_model_is_read_once_for_its_hash(app, data, lm, tmp_path, monkeypatch):
    """Of 3 GB each reading takes seconds: `decode` read it for what it notes, and again for its arrays."""
    read = []
    for module in ("downstream.lm.arrays", "downstream.decode.batched"):
        monkeypatch.setattr(f"{module}.file_hash", lambda path: read.append(Path(path)) or file_hash(path),
                            raising=False)
    run(app, "decode", data / "dev", "--out", tmp_path / "hyps.jsonl", "--lm", lm, "--workers", 1)
    assert read == [Path(lm)]


def test_hypotheses_of_a_recipe_say_what_made_them(app, data, lm, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("THE\nAND\n")
    run(app, "decode", data / "dev", "--out", tmp_path / "h.jsonl", "--recipe", "librispeech-4gram", "--set",
        f"lm={lm}", "--set", "labels=960h", "--set", "beam=20", "--set", f"lexicon={words}")
    found = json.loads((tmp_path / "h.jsonl.json").read_text())
    assert (found["decoder"], found["settings"]["beam"], found["settings"]["beam_threshold"]) == ("lexicon", 20, 100)
    assert (found["lm"]["sha256"], found["lexicon"]["sha256"]) == (file_hash(Path(lm)), file_hash(words))


def test_a_file_of_others_beside_hypotheses_stays(app, data, tmp_path):
    beside = tmp_path / "h.jsonl.json"
    beside.write_text("mine")
    with pytest.raises(UsageError, match=r"h\.jsonl\.json: is there already, and says nothing of hypotheses"):
        run(app, "decode", data / "dev", "--out", tmp_path / "h.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == [beside.name]


def test_hotwords_are_heard_by_both_searches_that_have_them(app, data, tmp_path):
    greedy, hyps = tmp_path / "greedy.jsonl", tmp_path / "hyps.jsonl"
    run(app, "decode", data / "dev", "--out", greedy)
    references = read_references(data / "dev.txt").texts
    missed = next(word for h in read_hypotheses(greedy) for word in references[h.id].split()
                  if len(word) > 3 and word not in h.text.split())
    for name, hot in (("beam", missed), ("batched", f"{missed}=15")):
        run(app, "decode", data / "dev", "--out", hyps, "--decoder", name, "--hotwords", hot)
        assert any(missed in h.text.split() for h in read_hypotheses(hyps))


def test_a_recipe_decodes_as_the_options_that_it_stands_for(app, data, tmp_path):
    by_recipe, by_options = tmp_path / "recipe.jsonl", tmp_path / "options.jsonl"
    run(app, "decode", data / "dev", "--out", by_recipe, "--recipe", "librispeech-4gram", "--set", f"lm={LM}",
        "--set", "labels=960h", "--set", "beam=20", "--set", "beam_threshold=50")  # 50 is the decoder's own
    run(app, "decode", data / "dev", "--out", by_options, "--decoder", "lexicon", "--lm", LM, "--beam", 20,
        "--lm-weight", 1.74 / 2.302585093, "--word-score", 0.52)
    assert [h.text for h in read_hypotheses(by_recipe)] == [h.text for h in read_hypotheses(by_options)]
    assert any(h.text for h in read_hypotheses(by_recipe))


@pytest.mark.parametrize(("arguments", "error", "words"), [
    (["decode", "dev", "--out", "h.jsonl", "--set", "beam=5"], UsageError, "name one with --recipe"),
    (["decode", "dev", "--out", "h.jsonl", "--recipe", "librispeech-4gram", "--beam", "5"], UsageError,
     "--beam beside --recipe"),
    (["decode", "dev", "--out", "h.jsonl", "--lm-weight", "1"], UsageError, r"give one as lm \(--lm\)"),
    (["decode", "dev", "--out", "h.jsonl", "--nbest", "2"], UsageError, "nbest has no effect on the greedy"),
    (["decode", "dev", "--out", "h.jsonl", "--lexicon", "dev.txt"], UsageError,
     r"take lexicon or batched \(--decoder\)"),
    (["decode", "dev", "--out", "h.jsonl", "--decoder", "lexicon", "--lexicon", "dev.txt"], FormatError,
     "dev.txt, line 1: "),
    (["decode", "dev", "--out", "h.jsonl", "--decoder", "batched", "--lm", "lm.bin"], FormatError, "lm.bin"),
    (["decode", "dev", "--out", "h.jsonl", "--hotwords", "a"], UsageError, "'a' cannot be spelled"),
    (["tune", "dev", "--references", "dev.txt", "--lm", str(LM), "--out", "t.json", "--decoder", "greedy"], UsageError,
     "has no weights to tune"),
    (["tune", "dev", "--references", "dev.txt", "--lm", str(LM), "--out", "t.json", "--seconds", "0"], UsageError,
     "--seconds 0: must be above 0"),
    (["tune", "dev", "--references", "dev.txt", "--lm", str(LM), "--out", "t.json", "--seconds", "nan"], UsageError,
     "--seconds nan: must be above 0"),
    (["tune", "dev", "--references", "dev.txt", "--lm", str(LM), "--out", "t.json", "--beams", "5,3000000000"],
     UsageError, "--beams 3000000000: at most"),
    (["decode", "dev", "--out", "h.jsonl", "--device", "meta", "--decoder", "batched"], UsageError,
     "device 'meta' cannot be used"),
    (["decode", "dev", "--out", "h.jsonl", "--hotwords", "FOO=1e300"], UsageError, "'FOO=1e300': expected"),
    (["decode", "dev", "--out", "h.jsonl", "--decoder", "lexicon", "--lm", str(LM), "--beam", "3000000000"],
     UsageError, "^beam 3000000000: at most"),
    (["decode", "dev", "--out", "h.jsonl", "--decoder", "lexicon", "--lm", str(LM), "--tokens", "3000000000"],
     UsageError, r"^tokens_per_frame \(--tokens\) 3000000000: at most"),
    (["tune", "dev", "--references", "dev.txt", "--lm", str(LM), "--out", "t.json", "--beams", "5,x"], UsageError,
     "--beams 5,x: expected whole numbers"),
    (["tune", "dev", "--references", "dev.txt", "--lm", str(LM), "--out", "t.png"], UsageError, "of the picture"),
    (["decode", "nowhere", "--out", "h.jsonl"], UsageError, "nowhere: no such folder"),
    (["decode", "dev", "--out", "h.jsonl", "--lm", "none.arpa"], UsageError, "none.arpa: no such file"),
    (["decode", "dev", "--out", "h.jsonl", "--lm", str(LM), "--tuned", "dev.txt"], UsageError, "not what"),
    (["tune", "dev", "--references", "dev.arrow", "--lm", str(LM), "--out", "t.json", "--final", "dev.arrow"],
     InputError, "tune on another set"),
    (["tune", "dev", "--references", "dev.arrow", "--lm", str(LM), "--out", "t.json", "--final", "dev.txt"],
     UsageError, "--final needs a manifest"),
    (["score", "none.jsonl", "--references", "dev.txt"], UsageError, "none.jsonl: no such file"),
    (["score", "dev.txt", "--references", "dev.txt"], FormatError, "line 1: not a hypothesis"),
])
def test_what_cannot_work_is_refused(app, data, arguments, error, words, monkeypatch):
    monkeypatch.chdir(data)
    with pytest.raises(error, match=words):
        run(app, *arguments)
    assert not (data / "h.jsonl").exists()
    assert not (data / "t.json").exists()


@pytest.mark.parametrize(("ids", "says"), [
    ("same", "dev: 4 of 10 utterances, {first} the first, are of the set that the final score is made on"),
    ("others", "dev: 4 of 10 utterances, {first} the first, are of the set that the final score is made on"),
    ("others elsewhere", None)])
def test_tuning_on_a_part_of_the_final_set_is_refused(app, data, tmp_path, monkeypatch, ids, says):
    """Only the identical manifest was. Here four utterances of ten are shared, by their ids or by their audio alone."""
    monkeypatch.chdir(data)
    rows = list(Manifest.load(data / "dev.arrow"))[3:7]
    first = rows[0].id
    if ids != "same":
        rows = [replace(row, id=f"test-{row.id}", start=50) for row in rows]
    if ids == "others elsewhere":
        rows = [replace(row, start=row.samples) for row in rows]
    Manifest.of(rows, "a part").save(tmp_path / "test.arrow")
    arguments = ("tune", "dev", "--references", "dev.arrow", "--lm", LM, "--out", tmp_path / "t.json", "--decodes", "2",
                 "--workers", "1", "--final", tmp_path / "test.arrow")
    if says is None:
        run(app, *arguments)
        return
    with pytest.raises(InputError, match=says.format(first=first)):
        run(app, *arguments)
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize("way", ["copy", "symlink", "other spelling", "of text"])
def test_tuning_on_recordings_of_the_final_set_by_another_name_is_refused(app, data, tmp_path, capsys, way):
    """A copy was tuned on, and scored as unseen."""
    rows = list(Manifest.load(data / "dev.arrow"))
    (tmp_path / "test").mkdir()
    for number, row in enumerate(rows):
        (tmp_path / row.audio.name).write_bytes(b"%d" % number * 9)
    Manifest.of([replace(row, audio=tmp_path / row.audio.name) for row in rows], "").save(tmp_path / "dev.arrow")
    (tmp_path / "dev.txt").write_bytes((data / "dev.txt").read_bytes())
    given, audio = tmp_path / rows[3].audio.name, tmp_path / "test/0.wav"
    if way == "other spelling":
        audio = tmp_path / "test/.." / given.name
    elif way == "symlink":
        audio.symlink_to(given)
    else:
        audio.write_bytes(given.read_bytes())
    Manifest.of([replace(rows[3], id="0", audio=audio)], "").save(tmp_path / "test.arrow")
    name = "dev.txt" if way == "of text" else "dev.arrow"
    words = ("tune", data / "dev", "--references", tmp_path / name, "--lm", LM, "--out", tmp_path / "t.json",
             "--decodes", "2", "--workers", "1", "--final", tmp_path / "test.arrow")
    if way == "of text":
        assert "known by their ids alone" in CliRunner().invoke(app, [str(word) for word in words]).stderr
        return
    with pytest.raises(InputError, match=f"1 of 10 utterances, {rows[3].id} the first, are of the set that the final"):
        run(app, *words)


def test_hypotheses_and_references_may_come_from_pipes(app, data, tmp_path):
    """They were told of as missing."""
    hyps = tmp_path / "greedy.jsonl"
    run(app, "decode", data / "dev", "--out", hyps)
    processes = [subprocess.Popen(["cat", path], stdout=subprocess.PIPE) for path in (hyps, data / "dev.txt")]
    piped = [f"/dev/fd/{process.stdout.fileno()}" for process in processes]
    found, wanted = (json.loads(run(app, "score", one, "--references", other, "--json"))
                     for one, other in (piped, (hyps, data / "dev.txt")))
    assert wanted.pop("provenance")["decoder"] == "greedy"  # which stands beside a file, not in it
    assert {**found, "hypotheses": str(hyps)} == wanted
    for process in processes:
        process.communicate()


def test_few_speakers_are_told_of_and_one_is_refused(app, data, tmp_path, capsys):
    hyps = tmp_path / "greedy.jsonl"
    run(app, "decode", data / "dev", "--out", hyps)
    capsys.readouterr()
    assert main.run(["score", str(hyps), "--references", str(data / "dev.arrow"), "--by", "speaker", "--json"]) == 0
    speakers = len(set(Manifest.load(data / "dev.arrow").speakers))
    assert 1 < speakers < 10
    assert capsys.readouterr().err.startswith(f"{speakers} speakers are few to draw from")
    id = Manifest.load(data / "dev.arrow").ids[0]
    alone = tmp_path / "alone.jsonl"
    alone.write_text(next(line for line in hyps.read_text().splitlines(True) if f'"{id}"' in line))
    Manifest.load(data / "dev.arrow").select([0]).save(tmp_path / "alone.arrow")
    with pytest.raises(InputError, match=r"leave out groups, --by speaker"):
        run(app, "score", alone, "--references", tmp_path / "alone.arrow", "--by", "speaker")


def test_a_single_utterance_has_a_rate_and_no_interval(app, tmp_path):
    hyps, refs = tmp_path / "one[lm].jsonl", tmp_path / "refs.txt"
    hyps.write_text('{"id": "a", "text": "THE CAT"}\n')
    refs.write_text("a THE DOG\n")
    found = json.loads(run(app, "score", hyps, "--references", refs, "--against", hyps, "--json"))
    assert (found["wer"], found["wer_interval"], found["difference"]["wer_interval"]) == (50, None, None)
    assert found["difference"]["wer_p_value"] == 1
    table = run(app, "score", hyps, "--references", refs)
    assert "no intervals; wrong: sentences with an error" in table
    assert "one[lm].jsonl" in table  # brackets are no colours


def test_few_utterances_are_told_as_few_speakers_are(tmp_path, capsys):
    hyps, refs = tmp_path / "h.jsonl", tmp_path / "refs.txt"
    hyps.write_text("".join(f'{{"id": "{i}", "text": "THE CAT"}}\n' for i in range(3)))
    refs.write_text("".join(f"{i} THE CAT\n" for i in range(3)))
    assert main.run(["score", str(hyps), "--references", str(refs), "--json"]) == 0
    assert capsys.readouterr().err.startswith("3 utterances are few to draw from")


def test_a_single_utterance_has_no_interval_in_a_tuning(tmp_path, capsys):
    with EmissionsWriter(tmp_path / "dev", ("<pad>", "|", "A", "B"), 0, 50.0) as writer:
        writer.add("a", np.log(np.array([[0.1, 0.1, 0.7, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])))
    (tmp_path / "refs.txt").write_text("a A B\n")
    (tmp_path / "text.txt").write_text("A B\nB A\nA A\n" * 4)
    assert main.run(["lm", "build", str(tmp_path / "text.txt"), "--order", "2", "--discount-fallback", "--out",
                     str(tmp_path / "lm.arpa")]) == 0
    assert main.run(["tune", str(tmp_path / "dev"), "--references", str(tmp_path / "refs.txt"), "--lm",
                     str(tmp_path / "lm.arpa"), "--out", str(tmp_path / "tuned.json")]) == 0
    assert "WER 0.00 (-) on 1 of 1 utterances" in capsys.readouterr().out
    assert json.loads((tmp_path / "tuned.json").read_text())["wer_interval"] is None


def test_a_frame_without_any_possible_symbol_can_be_written(app, tmp_path):
    symbols = ("<pad>", "|", "<unk>", "A")
    with EmissionsWriter(tmp_path / "dev", symbols, 0, 50.0) as writer, np.errstate(divide="ignore"):
        writer.add("a", np.log(np.array([[0, 0, 0, 1.0], [0, 0, 1.0, 0]])))  # sure of <unk>
    for name in ("greedy", "beam", "batched"):
        run(app, "decode", tmp_path / "dev", "--out", tmp_path / "hyps.jsonl", "--decoder", name)
        (found,) = read_hypotheses(tmp_path / "hyps.jsonl")
        assert (found.text, found.score < -30) == ("A", True)


def test_weights_of_rescore_tune_are_not_those_of_a_decoder(tmp_path):
    """Found in review: they were taken, and the neural model's weight given to the n-gram model."""
    tuned = tmp_path / "tuned.json"
    tuned.write_text(json.dumps({"lm_weight": 1, "word_score": 0, "ngram_weight": 0.5, "model": "gpt2", "ids": []}))
    with pytest.raises(UsageError, match=r"tuned\.json: not what `hubertkit tune` writes, but the weights of a"):
        choice_of(lm=tmp_path / "lm.arpa", tuned=tuned)


def test_weights_tuned_for_another_recogniser_are_told(app, data, lm, tmp_path, capsys):
    """And with another model under the name of the one before: it was known by its name alone."""
    tuned, hyps, other = tmp_path / "tuned.json", tmp_path / "hyps.jsonl", tmp_path / "other"
    run(app, "tune", data / "dev", "--references", data / "dev.arrow", "--lm", lm, "--out", tuned, "--beam", 5,
        "--decodes", 2, "--seconds", 10)
    noted = json.loads(tuned.read_text())
    assert (noted["recogniser_hash"], noted["lm_sha256"]) == (RECOGNISER, file_hash(Path(lm)))
    with_lm = ("--lm", str(lm), "--tuned", str(tuned))
    stored = Emissions.load(data / "dev")
    with EmissionsWriter(other, stored.symbols, 0, 50.0, {"recogniser_hash": 64 * "b"}) as writer:
        writer.add(stored.ids[0], stored.logprobs(stored.ids[0]))
    decoding = ["decode", "--out", str(hyps), *with_lm]
    apart = ["errors", "--references", str(data / "dev.txt"), "--json", *with_lm]
    for words in (decoding, apart):
        capsys.readouterr()
        assert main.run([*words, str(data / "dev")]) == 0
        assert "tuned" not in capsys.readouterr().err
        assert main.run([*words, str(other)]) == 0
        said = capsys.readouterr().err
        assert f"{tuned}: tuned for the recogniser aaaaaaaaaaaa; its weights may not suit bbbbbbbbbbbb" in said
    found = json.loads(Path(f"{hyps}.json").read_text())["tuned"]
    assert found == {"file": str(tuned), "sha256": file_hash(tuned)}
    run(app, "decode", data / "dev", "--out", hyps, "--lm", lm, "--beam", 5)
    assert choice_of(lm=tmp_path / "words.ngrams", tuned=tuned).chosen == "batched"
    moved = shutil.copy(lm, tmp_path / "moved.arpa.gz")
    assert choice_of(lm=moved, tuned=tuned).chosen == "batched"
    assert capsys.readouterr().err == ""
    Path(lm).write_bytes(gzip.compress(gzip.decompress(Path(lm).read_bytes()) + b"\n"))
    choice_of(lm=lm, tuned=tuned)
    said = " ".join(capsys.readouterr().err.split())
    assert "words.arpa.gz has changed since; its weights may not suit it" in said


def test_weights_tuned_with_another_language_model_are_told_of(tmp_path, capsys):
    tuned = tmp_path / "tuned.json"
    tuned.write_text(json.dumps({"lm_weight": 1, "word_score": 0, "lm": str(tmp_path / "lm.arpa.gz")}))
    for same in ("lm.arpa.gz", "lm.arpa", "lm.ngrams"):
        choice_of(lm=tmp_path / same, tuned=tuned)
    assert capsys.readouterr().err == ""
    choice_of(lm=tmp_path / "other.arpa", tuned=tuned)
    said = capsys.readouterr().err
    assert "lm.arpa.gz; its weights may not suit" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("first", "then"), [("lm.arpa", "lm.ngrams"), ("lm.arpa.gz", "lm.ngrams"),
                                             ("lm.ngrams", "lm.arpa"), ("lm.ngrams", "lm.arpa.gz")])
def test_arrays_of_another_model_than_weights_were_tuned_with_are_told_of(tmp_path, capsys, first, then):
    """An ARPA file and arrays of its name were taken for one model, whatever the arrays were made of."""
    arrays, tuned, text = tmp_path / "lm.ngrams", tmp_path / "tuned.json", gzip.decompress(LM.read_bytes())
    arpa = tmp_path / (then if first == "lm.ngrams" else first)
    arpa.write_bytes(LM.read_bytes() if arpa.suffix == ".gz" else text)
    pack(arpa, arrays)
    tuned.write_text(json.dumps({"lm_weight": 1, "word_score": 0, "lm": first,
                                 "lm_sha256": model_hash(tmp_path / first)}))
    choice_of(lm=tmp_path / then, tuned=tuned)
    assert capsys.readouterr().err == ""
    arpa.write_bytes(gzip.compress(text + b"\n") if arpa.suffix == ".gz" else text + b"\n")
    if then == "lm.ngrams":
        pack(arpa, arrays)
    choice_of(lm=tmp_path / then, tuned=tuned)
    said = capsys.readouterr().err
    assert f"{then} has changed since; its weights may not suit it" in said
    assert said.count("\n") == 1
