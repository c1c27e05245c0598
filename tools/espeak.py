"""The espeak-ng speech engine, in a process of its own.

libespeak keeps state between sentences (phase, flutter, random numbers), so what it says depends on all it said before.
Here a small process loads it once and forks for each sentence: every sentence meets a fresh engine, and its samples are
a function of the request alone. `python -m tools.espeak` is that process; `speak` is what the rest of the code calls.

Requests are JSON lines on standard input. An answer is a JSON line, then its samples as 16-bit little-endian integers.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tools.child import module_command
from upstream.errors import HubertkitError, InputError

# From espeak-ng's speak_lib.h.
_SYNCHRONOUS, _PHONEME_EVENTS, _UTF8 = 2, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_END_OF_LIST, _PHONEME = 0, 7
_BUFFER_MS = 200


@dataclass(frozen=True)
class Request:
    """What to say and how.

    Attributes:
        text: words in lower case.
        voice: name of an espeak-ng voice and variant, such as `en-us+f2`.
        rate_wpm: words a minute, 80 to 450.
        pitch, pitch_range: 0 to 100; 50 is the voice's own.
        seed: of the engine's random numbers (breath, flutter).
    """

    text: str
    voice: str
    rate_wpm: int
    pitch: int
    pitch_range: int
    seed: int


@dataclass(frozen=True)
class Speech:
    """What the engine said.

    Attributes:
        samples: (n,) int16.
        rate: of the samples, in Hz.
        phones: (first sample, espeak's name of the phoneme) in order; names that begin with `_` are pauses.
    """

    samples: np.ndarray
    rate: int
    phones: list[tuple[int, str]]


def speak(requests: Iterable[Request]) -> Iterator[Speech]:
    """Say every request, in order; the engine works ahead of the caller.

    Raises:
        HubertkitError: espeakng-loader is not installed, or the engine does not start.
        InputError: there is no such voice.
    """
    try:
        import espeakng_loader  # noqa: F401 - the other process imports it; here only the message is better
    except ImportError as error:
        raise HubertkitError("speech synthesis needs espeak-ng, which is not installed; "
                             "run `pip install 'hubertkit[demo]'`") from error
    asked = list(requests)
    engine = subprocess.Popen(module_command("tools.espeak"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    # A thread of its own, because the engine does not read on while nobody reads its answers.
    writer = threading.Thread(target=_send, args=(engine, asked), daemon=True)
    writer.start()
    try:
        for request in asked:
            yield _receive(engine, request)
    finally:
        engine.kill()
        engine.communicate()
        writer.join()


def _send(engine: subprocess.Popen[bytes], requests: list[Request]) -> None:
    assert engine.stdin is not None
    try:
        for request in requests:
            engine.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            engine.stdin.flush()
    except (BrokenPipeError, ValueError):  # the reader gave up; it says why
        pass


def _receive(engine: subprocess.Popen[bytes], request: Request) -> Speech:
    assert engine.stdout is not None
    line = engine.stdout.readline()
    if not line:
        raise HubertkitError("the espeak-ng engine stopped; run `python -m tools.espeak` by hand to see why")
    answer = json.loads(line)
    if "error" in answer:
        raise InputError(f"espeak-ng cannot say {request.text!r} with the voice {request.voice}: {answer['error']}")
    samples = np.frombuffer(engine.stdout.read(2 * answer["samples"]), "<i2")
    return Speech(samples, answer["rate"], [(first, name) for first, name in answer["phones"]])


class _Name(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("pointer", ctypes.c_void_p), ("string", ctypes.c_char * 8)]  # noqa: RUF012


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _Name)]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class _Engine:
    """libespeak, initialised; good for one sentence."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = os.fspath(espeakng_loader.get_data_path()).encode()
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, data, _PHONEME_EVENTS)
        if self.rate <= 0:
            raise HubertkitError(f"espeak-ng finds no data in {data.decode()}; install espeakng-loader again")
        self._blocks: list[bytes] = []
        self._phones: list[tuple[int, str]] = []
        self._callback = _Callback(self._collect)  # kept, or it would be collected while C still calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, request: Request) -> tuple[dict[str, Any], bytes]:
        """The answer to a request: header and samples."""
        if self._library.espeak_SetVoiceByName(request.voice.encode()) != 0:
            return {"error": "there is no such voice"}, b""
        settings = ((_RATE, request.rate_wpm), (_PITCH, request.pitch), (_RANGE, request.pitch_range))
        for parameter, value in settings:
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(request.seed))
        text = request.text.encode()
        failed = self._library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, ctypes.c_uint(_UTF8),
                                            None, None)
        if failed or not self._blocks:
            return {"error": "the engine gave no sound"}, b""
        samples = b"".join(self._blocks)
        return {"samples": len(samples) // 2, "rate": self.rate, "phones": self._phones}, samples

    def _collect(self, wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            self._blocks.append(ctypes.string_at(wave, 2 * count))
        place = 0
        while events[place].type != _END_OF_LIST:
            if events[place].type == _PHONEME:
                # All eight bytes may be used, without a zero at the end.
                name = ctypes.string_at(ctypes.addressof(events[place].id), 8).split(b"\0")[0].decode(errors="replace")
                self._phones.append((events[place].sample, name))
            place += 1
        return 0


def main() -> None:
    """Answer requests until standard input ends, each in a fork of this process."""
    engine = _Engine()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _answer(engine, Request(**json.loads(line)))
        _, status = os.waitpid(child, 0)
        if status != 0:
            _write(json.dumps({"error": "the engine crashed"}).encode() + b"\n")


def _answer(engine: _Engine, request: Request) -> None:
    """Say a request and end this process without running anything else of its parent's."""
    status = 1
    try:
        header, samples = engine.say(request)
        _write(json.dumps(header).encode() + b"\n" + samples)
        status = 0
    finally:
        os._exit(status)


def _write(content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(1, view):]


if __name__ == "__main__":
    main()
