"""Notice that another machine of a job is gone when nobody says so.

A process that dies closes its connections, for its machine is still there to do it. One that loses power or its
network closes none: a collective would wait for it for ever, and so would a rank that computes alone or on a GPU. So
every rank keeps one silent connection to the first, which the kernels of both machines probe, however busy the
processes are. Where it breaks, the rank ends; the first one, when it ends, breaks all others'.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from upstream.telling import tell

PROBE_AFTER_SECONDS, PROBE_EVERY_SECONDS, PROBES = 15, 5, 6  # 45 seconds without an answer: gone
LAST_WORDS_SECONDS = 10.0  # for a rank to notice by itself and say it in its own way
MEETING_SECONDS, GREETING_SECONDS = 30.0, 5.0
_TAKEN = b"+"  # what the first rank answers to a greeting
_LEFT = b"."  # what a rank sends that leaves in order
_GREETING_BYTES = 16

Tell = Callable[[Any], Any]  # gives every rank what the first rank passed in


class RankWatch:
    """The silent connections of this rank: to all others on the first one, to the first one elsewhere."""

    def __init__(self, connections: list[socket.socket]) -> None:
        """Watch connections that are open; a thread ends the process when one breaks before `close`."""
        self._connections = connections
        self._left = threading.Event()
        for connection in connections:
            _probe(connection)
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self, failed: bool = False) -> None:
        """Leave: the other ranks are told, unless this one has failed and so is lost to them."""
        self._left.set()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                if not failed:
                    connection.sendall(_LEFT)
                connection.shutdown(socket.SHUT_RDWR)

    def _watch(self) -> None:
        if not _breaks(self._connections) or self._left.is_set():
            return
        for connection in self._connections:  # the other ranks learn it now, and not when this one has ended
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if not self._left.wait(LAST_WORDS_SECONDS):
            tell("hubertkit: another process of this job has died or its machine does not answer, so this one ends "
                 "too; run the command again, it goes on from the last checkpoint")
            os._exit(1)


def watch(rank: int, count: int, host: str, tell: Tell) -> RankWatch | None:
    """Connect every rank with the first one; all ranks call this. None where this rank could not, which is said.

    Args:
        host: where all reach the first rank.
        tell: a broadcast from the first rank.
    """
    if rank:
        port, greeting = tell(None)
        try:
            connection = socket.create_connection((host, port), MEETING_SECONDS)
            connection.sendall(greeting)
        except OSError as error:
            _unwatched(f"rank {rank} does not reach {host}, port {port} ({error})")
            return None
        if _read(connection, len(_TAKEN)) != _TAKEN:
            connection.close()
            _unwatched(f"rank {rank} had no answer from {host}, port {port}")
            return None
        connection.settimeout(None)
        return RankWatch([connection])
    greeting = secrets.token_bytes(_GREETING_BYTES)
    with _listening(count) as listener:
        tell((listener.getsockname()[1], greeting))
        connections = _accept(listener, greeting, count - 1)
    if len(connections) < count - 1:
        _unwatched(f"{count - 1 - len(connections)} of {count} ranks do not reach the first one")
    return RankWatch(connections) if connections else None


def _unwatched(reason: str) -> None:
    tell(f"hubertkit: {reason}; should its machine go dark, nobody will notice")


def _listening(count: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=count)
    return socket.create_server(("", 0), backlog=count)


def _accept(listener: socket.socket, greeting: bytes, wanted: int) -> list[socket.socket]:
    """The connections that greet in the right way, of as many ranks as come in time."""
    until, found = time.monotonic() + MEETING_SECONDS, list[socket.socket]()
    while len(found) < wanted and (left := until - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            break
        connection.settimeout(min(GREETING_SECONDS, left))
        if hmac.compare_digest(_read(connection, len(greeting)), greeting):
            with contextlib.suppress(OSError):  # a rank that does not wait any longer: its connection breaks, too
                connection.sendall(_TAKEN)
            connection.settimeout(None)
            found.append(connection)
        else:
            connection.close()
    return found


def _read(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer where the connection ends, breaks or says nothing in its time."""
    said = b""
    with contextlib.suppress(OSError):
        while len(said) < count and (more := connection.recv(count - len(said))):
            said += more
    return said


def _probe(connection: socket.socket) -> None:
    """Let the kernel ask the other machine whether it is there, as far as this system can be told how often."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for names, value in ((("TCP_KEEPIDLE", "TCP_KEEPALIVE"), PROBE_AFTER_SECONDS),
                         (("TCP_KEEPINTVL",), PROBE_EVERY_SECONDS), (("TCP_KEEPCNT",), PROBES)):
        option = next((getattr(socket, name) for name in names if hasattr(socket, name)), None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _breaks(connections: list[socket.socket]) -> bool:
    """Wait; True once one ends without a word of leaving, False once all have left."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                if _read(key.fileobj, len(_LEFT)) != _LEFT:  # type: ignore[arg-type]
                    return True
                selector.unregister(key.fileobj)
    return False
