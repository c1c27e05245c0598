"""`hubertkit transcribe`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import soxr
import typer

from downstream.captions import FORMATS, Transcript
from downstream.decode.tuned import choice_of, tell_other_recogniser
from downstream.transcribe import Failed, Settings, Transcriber, named_recordings, recordings, wave_of
from downstream.transcribe import transcribe as run_transcription
from tools.decoder_options import (
    Beam,
    Decoder,
    Device,
    Hotwords,
    LexiconFile,
    Lm,
    LmWeight,
    Tokens,
    Tuned,
    Unspaced,
    WordScore,
)
from tools.outputs import check_folder
from upstream.audio.containers import open_content
from upstream.audio.corpora.probing import true_samples
from upstream.audio.file_names import fitting
from upstream.claims import claim, refuse_others, unclaim_missing
from upstream.disk import writing
from upstream.errors import InputError, UsageError
from upstream.frames import SAMPLE_RATE
from upstream.progress import say

STDIN = Path("-")
_BLOCK_BYTES = 1 << 16

Format = Enum("Format", {name: name for name in FORMATS}, type=str)  # type: ignore[misc]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(transcribe)


def transcribe(
    recogniser: Annotated[Path, typer.Argument(help="Folder of a recogniser, as `finetune` writes it.")],
    files: Annotated[list[Path], typer.Argument(help="Recordings of any length, folders of them, or - for stdin.")],
    decoder: Decoder = None,
    lm: Lm = None,
    lm_weight: LmWeight = None,
    word_score: WordScore = None,
    tuned: Tuned = None,
    beam: Beam = None,
    tokens: Tokens = None,
    lexicon: LexiconFile = None,
    hotwords: Hotwords = None,
    device: Device = None,
    unspaced: Unspaced = False,
    format: Annotated[Format | None, typer.Option(help="What to write; txt by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for one file a recording, instead of stdout; those of "
                                                  "a folder lie there as they do in it.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Print words as they come, on one line.")] = False,
    pcm: Annotated[int | None, typer.Option(min=1000, help="Stdin is raw 16-bit mono at this rate (Hz).")] = None,
    window: Annotated[float, typer.Option(help="Seconds that the encoder sees at a time.")] = Settings.window_seconds,
    overlap: Annotated[float, typer.Option(help="Seconds that windows overlap.")] = Settings.overlap_seconds,
    pause: Annotated[float | None, typer.Option(min=0.0, help=(
        "Seconds without a symbol at which a recording is parted, each part heard and decoded by itself; 0: never. By "
        "default what is longer than the pauses in the utterances that the recogniser learnt from."))] = None,
) -> None:
    """Write what is said in recordings."""
    chosen = _format(format, as_json)
    choice = choice_of(decoder=decoder, lm=lm, lm_weight=lm_weight, word_score=word_score, tuned=tuned, beam=beam,
                       tokens=tokens, lexicon=lexicon, hotwords=hotwords, device=device, unspaced=unspaced)
    settings = Settings(choice, window, overlap, pause)
    _check(files, chosen, out, streaming, pcm)
    if out is not None:
        check_folder(out, [recogniser])
    bad: list[Path] = []

    def failed(path: Path, error: InputError) -> None:
        bad.append(path)
        say(f"hubertkit: {error}")

    def loaded(transcriber: Transcriber) -> Transcriber:
        tell_other_recogniser(tuned, transcriber.recogniser_hash)
        return transcriber

    if streaming:
        _stream(loaded(Transcriber(recogniser, settings)), files, pcm, failed)
    elif STDIN in files:
        targets = {} if out is None else {STDIN: out / f"stdin.{chosen}"}
        made = _from_stdin(lambda: loaded(Transcriber(recogniser, settings)), pcm)
        _write_all(made, chosen, out, targets, alone=True)
    else:
        targets = {} if out is None else _targets(files, out, chosen)
        made = run_transcription(recogniser, files, settings, failed=failed, loaded=loaded)
        _write_all(made, chosen, out, targets, alone=len(files) == 1 and not files[0].is_dir())
    if bad:
        raise typer.Exit(1)


def _format(given: Format | None, as_json: bool) -> str:  # type: ignore[valid-type]
    """What to write. Raises UsageError where --json contradicts --format."""
    name: str | None = None if given is None else given.value  # type: ignore[attr-defined]
    if as_json and name not in (None, "json"):
        raise UsageError(f"--format {name} and --json: give one of them")
    return "json" if as_json else name or "txt"


def _check(files: list[Path], chosen: str, out: Path | None, streaming: bool, pcm: int | None) -> None:
    several = len(files) > 1 or files[0].is_dir()
    if STDIN in files and several:
        raise UsageError("-: standard input is transcribed alone; leave the other files out")
    if pcm is not None and STDIN not in files:
        raise UsageError("--pcm says what standard input is; give - in the place of files")
    if streaming and (chosen != "txt" or out is not None):
        raise UsageError("--streaming prints text as it comes; leave --format and --out out")
    if several and chosen in ("srt", "vtt") and out is None:
        raise UsageError(f"--format {chosen} of several recordings needs --out FOLDER, one file each")


def _targets(files: list[Path], out: Path, chosen: str) -> dict[Path, Path]:
    """{recording: file to write}. Raises UsageError where two recordings would be written to the same file."""
    found: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    for path, name in named_recordings(files):
        target = out / name.with_name(f"{fitting(name.name)}.{chosen}")  # a.wav and a.flac stay apart
        owner = owners.setdefault(target, path)
        if owner != path:
            raise UsageError(f"{owner} and {path}: both would be written to {target}; give the folder that holds "
                             "both, or transcribe them apart")
        found.setdefault(path, target)
    return found


def _write_all(made: Iterable[tuple[Path, Transcript]], chosen: str, out: Path | None, targets: dict[Path, Path],
               alone: bool) -> None:
    """Write transcripts as they are made: to stdout, or to their files in a folder.

    Args:
        made: recordings and their transcripts, made as they are asked for; those that fail are left out.
        targets: {recording: file to write}.

    Raises:
        InputError: a file of somebody else is in the place of one, before anything is made.
    """
    names = [] if out is None else [str(target.relative_to(out)) for target in targets.values()]
    if out is not None:
        refuse_others(out, names)
    for number, (path, transcript) in enumerate(made):
        if out is not None and not number:  # not before: no folder is made for what cannot be transcribed
            claim(out, names)
        _write(transcript, chosen, targets.get(path), alone)
    if out is not None and out.is_dir():
        unclaim_missing(out, names)


def _write(transcript: Transcript, chosen: str, path: Path | None, alone: bool) -> None:
    """To a file, or without a path to stdout."""
    if not transcript.words:
        say(f"{transcript.name}: no words found in {transcript.seconds:.1f} s")
    text = FORMATS[chosen](transcript)
    if path is not None:
        with writing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        print(text if alone or chosen != "txt" else f"{transcript.name}\t{text}", end="", flush=True)


def _stream(transcriber: Transcriber, files: list[Path], pcm: int | None, failed: Failed) -> None:
    for path in files if files == [STDIN] else recordings(files):
        try:
            if path == STDIN:
                blocks: Iterable[np.ndarray] = _heard(transcriber, _pcm_blocks(pcm) if pcm else [_stdin_wave()])
            else:
                blocks = [wave_of(path)]
                transcriber.check(path, len(blocks[0]))
            for number, word in enumerate(transcriber.words(blocks)):
                print(f"{' ' * (word.spaced and number > 0)}{word.word}", end="", flush=True)
        except InputError as error:
            failed(path, error)
            continue
        print(flush=True)
    transcriber.tell_unfinished()


def _heard(transcriber: Transcriber, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The blocks. Raises InputError behind the last one if they were too short for a frame together."""
    samples = 0
    for block in blocks:
        samples += len(block)
        yield block
    transcriber.check("stdin", samples)


def _from_stdin(load: Callable[[], Transcriber], pcm: int | None) -> Iterator[tuple[Path, Transcript]]:
    """The one transcript of standard input, once it is asked for."""
    transcriber = load()
    wave = np.concatenate([*_pcm_blocks(pcm)]) if pcm else _stdin_wave()
    transcriber.check("stdin", len(wave))
    words = tuple(transcriber.words([wave]))
    transcriber.tell_unfinished()
    yield STDIN, Transcript("stdin", words, len(wave) / SAMPLE_RATE, "stdin")


def _stdin_wave() -> np.ndarray:
    """Standard input as a file of audio: (S,) float32 at 16 kHz. Raises InputError where it is none."""
    content = b"" if sys.stdin is None else sys.stdin.buffer.read()
    if not content:
        raise InputError("stdin: empty; pipe a recording in")
    try:
        with open_content(content) as file:
            rate, there = file.samplerate, true_samples(file, content, 0, len(content))
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise InputError("stdin: no audio file (wav, flac, ogg, mp3); raw samples need --pcm RATE") from error
    if isinstance(there, str):
        raise InputError(f"stdin: {there}; mend the recording")
    if not np.isfinite(samples).all():
        raise InputError("stdin: the recording holds NaN or infinity")
    wave = samples.mean(axis=1, dtype=np.float32)
    return np.clip(wave if rate == SAMPLE_RATE else soxr.resample(wave, rate, SAMPLE_RATE), -1.0, 1.0)


def _pcm_blocks(rate: int) -> Iterator[np.ndarray]:
    """Raw samples of standard input as they come: (S,) float32 at 16 kHz."""
    resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    odd = b""
    source: Any = io.BytesIO() if sys.stdin is None else sys.stdin.buffer
    while content := source.read1(_BLOCK_BYTES):  # what is there, without waiting for more
        content = odd + content
        odd = content[len(content) // 2 * 2:]
        block = np.frombuffer(content[:len(content) // 2 * 2], "<i2").astype(np.float32) / 32768
        yield block if resampler is None else resampler.resample_chunk(block)
    yield np.zeros(0, np.float32) if resampler is None else resampler.resample_chunk(np.zeros(0, np.float32), last=True)
