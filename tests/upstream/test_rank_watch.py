"""Ranks of several machines: one that dies or goes dark ends the others, whatever they do."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid

import pytest

from upstream.rank_watch import RankWatch, _accept, _breaks, _listening, _probe, watch

RANK = """
import os, sys, time
from upstream import rank_watch, ranks
rank_watch.LAST_WORDS_SECONDS = 1.0
ranks.join(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), on_cpu=True)
print("joined", flush=True)
if ranks.first():
    ranks.alone(lambda: time.sleep(float(sys.argv[1])))
else:
    time.sleep(float(sys.argv[1]))
    ranks.alone(None)
ranks.leave()
print("left", flush=True)
"""


def started(rank, count, port, seconds, host="127.0.0.1", interface="lo", before=()):
    names = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": host, "MASTER_PORT": str(port),
             "GLOO_SOCKET_IFNAME": interface, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*before, sys.executable, "-c", RANK, str(seconds)], env=os.environ | names, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def joined(processes):
    for process in processes:
        assert process.stdout.readline() == "joined\n"


@pytest.mark.processes
def test_ranks_that_leave_in_order_say_nothing():
    port = free_port()
    ranks = [started(r, 3, port, 0.5) for r in range(3)]
    for process in ranks:
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, "joined\nleft\n", "")


@pytest.mark.processes
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_those_that_compute_alone(killed):
    """A collective sees the closed connection; whoever computes by itself has none to look at."""
    port = free_port()
    ranks = [started(r, 3, port, 100) for r in range(3)]
    joined(ranks)
    ranks[killed].send_signal(signal.SIGKILL)
    for process in ranks:
        _, errors = process.communicate(timeout=20)
        if process is not ranks[killed]:
            assert process.returncode == 1
            assert "another process of this job has died or its machine does not answer" in errors


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and ip")
def test_a_machine_that_goes_dark_ends_the_others_within_a_minute():
    """Two network namespaces are two machines; the cable between them is cut, and no connection is closed."""
    here, there = (f"{n}{uuid.uuid4().hex[:6]}" for n in "ab")

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in (here, there):
            ip("netns", "add", name)
        ip("link", "add", here, "netns", here, "type", "veth", "peer", "name", there, "netns", there)
        for number, name in enumerate((here, there), 1):
            ip("-n", name, "addr", "add", f"10.219.7.{number}/24", "dev", name)
            for device in (name, "lo"):
                ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        subprocess.run(["ip", "netns", "del", here], capture_output=True)
        subprocess.run(["ip", "netns", "del", there], capture_output=True)
        pytest.skip(f"no network namespaces here: {error.stderr}")
    ranks = [started(r, 2, 29_611, 300, "10.219.7.1", name, ("ip", "netns", "exec", name))
             for r, name in enumerate((here, there))]
    try:
        joined(ranks)
        ip("-n", there, "link", "set", there, "down")
        began = time.monotonic()
        for process in ranks:
            _, errors = process.communicate(timeout=90)
            assert process.returncode == 1
            assert "its machine does not answer" in errors
        assert 30 < time.monotonic() - began < 60
    finally:
        for process in ranks:
            process.kill()
        for name in (here, there):
            ip("netns", "del", name)


def test_a_connection_breaks_only_without_a_word():
    ours, theirs = zip(*(socket.socketpair() for _ in range(2)))
    theirs[0].sendall(b".")
    theirs[1].sendall(b".")
    assert not _breaks(list(ours))
    ours, theirs = zip(*(socket.socketpair() for _ in range(2)))
    theirs[1].sendall(b".")
    theirs[0].close()
    assert _breaks(list(ours))
    for connection in (*ours, *theirs):
        connection.close()


def test_kernels_ask_for_45_seconds():
    with _listening(1) as listener, socket.create_connection(("localhost", listener.getsockname()[1])) as connection:
        _probe(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            idle, every, probes = (connection.getsockopt(socket.IPPROTO_TCP, o) for o in
                                   (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT))
            assert idle + every * probes == 45


def test_strangers_are_not_taken_for_ranks(monkeypatch):
    monkeypatch.setattr("upstream.rank_watch.MEETING_SECONDS", 5.0)
    monkeypatch.setattr("upstream.rank_watch.GREETING_SECONDS", 0.2)
    with _listening(4) as listener:
        place = ("localhost", listener.getsockname()[1])
        said = [b"an enemy........", b"short", b"", b"the right one..."]
        comers = [socket.create_connection(place) for _ in said]
        for comer, words in zip(comers, said):
            comer.sendall(words)
        comers[1].close()
        found = _accept(listener, b"the right one...", 1)
        assert [c.getpeername()[1] for c in found] == [comers[3].getsockname()[1]]
        for connection in (*comers, *found):
            connection.close()


def test_a_first_rank_that_nobody_reaches_says_so(monkeypatch, capsys):
    monkeypatch.setattr("upstream.rank_watch.MEETING_SECONDS", 0.1)
    assert watch(0, 3, "localhost", lambda told: told) is None
    assert "2 of 3 ranks do not reach the first one; should" in capsys.readouterr().err
    assert watch(1, 3, "localhost", lambda told: (1, b"x" * 16)) is None
    assert "rank 1 does not reach localhost, port 1 (" in capsys.readouterr().err


def test_whoever_has_left_is_not_ended(monkeypatch):
    """Ours reads the end of its own closed connection, too."""
    ended = []
    monkeypatch.setattr("upstream.rank_watch.os._exit", ended.append)
    monkeypatch.setattr("upstream.rank_watch.LAST_WORDS_SECONDS", 0.05)
    monkeypatch.setattr("upstream.rank_watch._probe", lambda connection: None)
    ours, theirs = socket.socketpair()
    watched = RankWatch([ours])
    watched.close()
    assert theirs.recv(9) == b"."
    lost, gone = socket.socketpair()
    RankWatch([lost])
    gone.close()
    for _ in range(100):
        if ended:
            break
        time.sleep(0.02)
    assert ended == [1]
