"""`docs/python.md`: its code runs, in order, and gives what the commands give."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_rounds import TINY
from tones import write_tones

from tools import main
from upstream import Manifest

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
