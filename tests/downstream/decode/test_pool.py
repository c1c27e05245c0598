"""Many processes give what one gives, in order; errors and Ctrl-C come through, and no process is left behind."""

import gc
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from posteriors import FOLDER, read_slice
from small_arpa import write_arpa

from downstream.decode.batched import BatchedDecoder
from downstream.decode.beam import BeamDecoder
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.hypothesis import Hypothesis
from downstream.decode.pool import decode_all, decode_each
from downstream.emissions import Emissions, EmissionsWriter
from upstream.errors import HubertkitError, InputError, UsageError

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def emissions(tmp_path_factory):
    utterances, _, symbols = read_slice()
    folder = tmp_path_factory.mktemp("emissions")
    with EmissionsWriter(folder, symbols, 0, 50.0) as writer:
        for id, rows in utterances.items():
            writer.add(id, rows)
    return Emissions.load(folder)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_two_processes_give_what_one_gives_in_order(emissions, tmp_path, start):
    decoder = BeamDecoder(emissions.symbols, 0, write_arpa(tmp_path), 0.1, 0.0, beam=5)
    alone = decode_all(emissions, decoder, workers=1)
    assert [h.id for h in alone] == emissions.ids
    assert decode_all(emissions, decoder, workers=2, start=start) == alone
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_hypotheses_that_are_taken_one_by_one_are_not_kept(emissions, monkeypatch, workers):
    """All of a million utterances were in memory until the last one was there."""
    monkeypatch.setattr("downstream.decode.pool._WAITING", 1)
    seen, alive, places = [], [], []
    for place, hypothesis in decode_each(emissions, GreedyDecoder(emissions.symbols, 0), workers=workers):
        seen.append(weakref.ref(hypothesis))
        places.append(place)
        del hypothesis
        gc.collect()
        alive.append(sum(ref() is not None for ref in seen))
    assert sorted(places) == list(range(10))
    assert max(alive) <= workers


def test_ids_choose_and_order(emissions):
    ids = [emissions.ids[7], emissions.ids[2], emissions.ids[4]]
    assert [h.id for h in decode_all(emissions, GreedyDecoder(emissions.symbols, 0), ids, workers=2)] == ids
    assert decode_all(emissions, GreedyDecoder(emissions.symbols, 0), []) == []


def test_progress_counts_to_the_end(emissions):
    seen = []
    decode_all(emissions, GreedyDecoder(emissions.symbols, 0), workers=2, progress=lambda *done: seen.append(done))
    assert seen == [(i, 10) for i in range(1, 11)]


@dataclass(frozen=True)
class Failing:
    """Does on one utterance what it is told."""

    id: str
    what: str

    def prepare(self):
        pass

    def decode(self, id, logprobs, rate):
        if id == self.id and self.what == "raise":
            raise InputError(f"{id}: broken")
        if id == self.id and self.what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Hypothesis(id, "", 0.0, 0.0)


def test_an_error_in_a_process_comes_through(emissions):
    with pytest.raises(InputError, match=f"{emissions.ids[3]}: broken"):
        decode_all(emissions, Failing(emissions.ids[3], "raise"), workers=2)
    assert not multiprocessing.active_children()


def test_an_interruption_between_two_utterances_leaves_no_process(emissions):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_all(emissions, GreedyDecoder(emissions.symbols, 0), workers=2, progress=interrupt)
    assert not multiprocessing.active_children()


def test_processes_of_others_outlive_a_decoding(emissions):
    """Of two threads that decoded dev and test, the first to finish killed the workers of the second, and a process
    that the caller had started meanwhile ended with -9."""
    others = []

    def start_one(done, total):
        if not others:
            others.append(multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,)))
            others[0].start()

    decode_all(emissions, GreedyDecoder(emissions.symbols, 0), workers=2, progress=start_one)
    others[0].join(0.5)  # a signal takes a moment
    ended = others[0].exitcode
    others[0].kill()
    others[0].join()
    assert ended is None


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_killed_process_is_said_with_its_utterance_and_not_waited_for(emissions, start):
    with pytest.raises(HubertkitError, match=rf"killed \(they were at .*{emissions.ids[3]}"):
        decode_all(emissions, Failing(emissions.ids[3], "die"), workers=2, start=start)
    assert not multiprocessing.active_children()


def test_an_unknown_id_is_named_before_anything_starts(emissions):
    with pytest.raises(InputError, match=r"^nobody: no emissions"):
        decode_all(emissions, Failing("", ""), ["nobody"])


def test_no_workers_are_refused(emissions):
    with pytest.raises(UsageError, match="workers=0"):
        decode_all(emissions, Failing("", ""), workers=0)


def alike(one, other):
    assert [h.id for h in one] == [h.id for h in other]
    assert [h.text for h in one] == [h.text for h in other]
    np.testing.assert_allclose([h.score for h in one], [h.score for h in other], atol=1e-8)


@dataclass(frozen=True)
class Mapping(BatchedDecoder):
    """As `BatchedDecoder`; `unfinished` tells whether the process has mapped emissions and n-grams into memory."""

    def decode_batch(self, ids, logprobs, rate):
        found = super().decode_batch(ids, logprobs, rate)
        names = {Path(line.split()[-1]).name for line in Path("/proc/self/maps").read_text().splitlines()}
        return [replace(h, unfinished={"logprobs.npy", "words.ngrams"} <= names) for h in found]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux to look")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_groups_in_processes_that_share_memory_give_what_each_utterance_gets_alone(emissions, tmp_path, start):
    lm = shutil.copy(FOLDER / "words.arpa.gz", tmp_path)  # its arrays are written beside it
    decoder = Mapping(emissions.symbols, 0, Path(lm), lm_weight=0.5, beam=10, batch=3)
    seen = []
    found = decode_all(emissions, decoder, workers=2, start=start, progress=lambda *done: seen.append(done))
    alike(found, [decoder.decode(id, emissions.logprobs(id), emissions.rate) for id in emissions.ids])
    assert [h.id for h in found] == emissions.ids
    assert seen == [(i, 10) for i in range(1, 11)]
    assert all(h.unfinished for h in found)
    assert not multiprocessing.active_children()


@dataclass(frozen=True)
class Telling:
    """Texts tell which utterances were decoded together."""

    batch: int
    device: str | None = None

    def prepare(self):
        pass

    def decode(self, id, logprobs, rate):
        raise AssertionError("one by one")

    def decode_batch(self, ids, logprobs, rate):
        assert len(ids) == len(logprobs)
        return [Hypothesis(id, f"{os.getpid()} " + " ".join(ids), 0.0, 0.0) for id in ids]


@pytest.mark.parametrize(("batch", "workers", "sizes"), [
    (4, 1, [4, 4, 2]), (100, 1, [10]), (1, 2, [1] * 10), (100, 2, [2] * 5), (100, 3, [2] * 5)])
def test_groups_are_of_like_lengths_and_enough_for_all_processes(emissions, batch, workers, sizes):
    found = decode_all(emissions, Telling(batch), workers=workers)
    groups = {tuple(h.text.split()[1:]) for h in found}
    assert sorted(map(len, groups), reverse=True) == sizes
    assert all(h.id in h.text.split() for h in found)
    lengths = sorted(([emissions.frames(id) for id in group] for group in groups), reverse=True)
    assert list(itertools.chain.from_iterable(lengths)) == sorted(map(emissions.frames, emissions.ids), reverse=True)


def test_a_gpu_is_used_by_this_process_alone(emissions):
    found = decode_all(emissions, Telling(4, "cuda:0"))
    assert {int(h.text.split()[0]) for h in found} == {os.getpid()}
    with pytest.raises(UsageError, match="one process uses it alone"):
        decode_all(emissions, Telling(4, "cuda:0"), workers=2)
    others = {int(h.text.split()[0]) for h in decode_all(emissions, Telling(4, "cpu"), workers=2)}
    assert os.getpid() not in others


SLOW = """
import os, sys, time
from pathlib import Path
from downstream.decode.pool import decode_all
from downstream.emissions import Emissions

class Slow:
    def prepare(self): pass
    def decode(self, id, logprobs, rate):
        Path(sys.argv[2], str(os.getpid())).touch()
        time.sleep(60)

try:
    decode_all(Emissions.load(Path(sys.argv[1])), Slow(), workers=2)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_an_interrupted_or_killed_parent(emissions, tmp_path, how):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # A shell starts background jobs with SIGINT ignored, which children inherit: what is tested here is Ctrl-C.
    parent = subprocess.Popen([sys.executable, "-c", SLOW, emissions.folder, tmp_path], stderr=subprocess.PIPE,
                              text=True, env={**os.environ, "PYTHONPATH": path},
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    workers = [int(p.name) for p in tmp_path.iterdir()]
    parent.send_signal(how)
    _, errors = parent.communicate(timeout=20)
    assert parent.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    wait_until(lambda: not any(is_running(pid) for pid in workers))


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
