"""`hubertkit selftrain` as a user meets it: mistakes in one line, and a run of several ranks."""

import json
import os
import subprocess
import sys

import pytest
from tones import write_tones

from tools.main import run
from upstream.audio import Manifest

RECIPE = """
labelled_repeats: 2
decoding: {decoder: greedy}
finetune:
  mask: {time_share: 0, channel_share: 0}
  architecture: {frontend: fbank, width: 32, layers: 2, heads: 2, ffn: 64, pre_norm: true, positional_kernel: 15,
                 positional_groups: 2}
  training: {updates: 110, batch_seconds: 4, micro_batch_seconds: 2, precision: float32, validate_every: 110,
             save_every: 110, optimiser: {peak_rate: 4e-3, warmup_updates: 10, weight_decay: 0}}
student: {training: {updates: 6}}
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = write_tones(tmp_path_factory.mktemp("tones"), [2] * 13, dev=3)
    Manifest.load(folder / "train.arrow").select(range(4)).save(folder / "labelled.arrow")
    (folder / "small.yaml").write_text(RECIPE)
    return folder


def words(corpus, out, *more):
    return ["selftrain", str(corpus / "small.yaml"), f"labelled={corpus / 'labelled.arrow'}",
            f"unlabelled={corpus / 'train.arrow'}", f"dev={corpus / 'dev.arrow'}", *more, "--out", str(out)]


@pytest.mark.parametrize(("more", "says", "code"), [
    (["dev=nowhere.arrow"], "nowhere.arrow: no such manifest", 2), (["labeled=m"], "did you mean labelled?", 2),
    (["filter.keep=2"], "override 'filter.keep=2': filter: keep=2", 2), (["rounds=0"], "rounds=0", 2),
    (["finetune.data=m.arrow"], "finetune.data: the run sets it itself", 2),
    (["encoder=nowhere"], "nowhere", 2), (["recogniser=nowhere"], "nowhere", 2),
    (["decoding.decoder=batched", "decoding.lm=nowhere.arpa"], "decoding.lm=nowhere.arpa: no such file", 2),
    (["test=DEV"], "utterances of test=", 1), (["unlabelled=DEV"], "are in unlabelled=", 1),
    (["--ranks", "3"], "3 ranks cannot share 2 micro-batches evenly", 2)])
def test_a_mistake_is_one_line_and_makes_nothing(capsys, corpus, tmp_path, more, says, code):
    out = tmp_path / "out"
    given = [word.replace("DEV", str(corpus / "dev.arrow")) for word in more]
    assert run(words(corpus, out, *given)) == code
    error = capsys.readouterr().err.strip()
    assert says in error
    assert error.count("\n") == 0
    assert not out.exists()


def test_a_folder_of_something_else_is_not_filled(capsys, corpus, tmp_path):
    (tmp_path / "hubertkit.json").write_text("{}")
    assert run(words(corpus, tmp_path)) == 2
    assert "holds an encoder or recogniser" in capsys.readouterr().err


@pytest.mark.processes
def test_two_ranks_train_together_and_one_speaks(corpus, tmp_path):
    command = [sys.executable, "-m", "tools.main", *words(corpus, tmp_path / "out", "--ranks", "2")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True,
                          timeout=250)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("round 1:") == 1
    assert done.stderr.count("pseudo labels kept") == 1
    results = json.loads((tmp_path / "out/selftrain.json").read_text())
    assert len(results["rounds"]) == 2
    assert 0 < results["rounds"][1]["labels"]["kept"]["utterances"] <= 6
