"""From recordings of any length to text, with a fine-tuned recogniser and, if there is one, an n-gram model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from downstream.captions import SpokenWord, Transcript
from downstream.chunking import OVERLAP_SECONDS, WINDOW_SECONDS
from downstream.decode.alphabet import alphabet
from downstream.decode.choice import Choice
from downstream.decode.confidence import confidences, spellings_of
from downstream.decode.hypothesis import spaces_before
from downstream.phrases import phrases, usual_pause
from downstream.recogniser import heard_pause, load_recogniser, recogniser_hash
from upstream.audio.corpora.lines import path_id
from upstream.audio.corpora.probing import AUDIO_SUFFIXES
from upstream.audio.corpora.single import utterance_of_file
from upstream.audio.corpora.unread import left_out, unread_names, without_converted
from upstream.audio.corpora.walking import walk
from upstream.audio.reading import read
from upstream.device import best_device
from upstream.errors import InputError, UsageError
from upstream.features.waveform import checked_wave
from upstream.frames import SAMPLE_RATE
from upstream.model import prepared
from upstream.progress import say

Failed = Callable[[Path, InputError], None]


@dataclass(frozen=True)
class Settings:
    """How to decode: greedily without a language model or hotwords unless told otherwise, by beam search with one.

    At `pause_seconds` without a symbol a recording is parted (`downstream.phrases`); 0 leaves it whole, None is what
    suits the recogniser: longer than the pauses inside of the utterances that it learnt from.
    """

    decoder: Choice = field(default_factory=Choice)
    window_seconds: float = WINDOW_SECONDS
    overlap_seconds: float = OVERLAP_SECONDS
    pause_seconds: float | None = None


def transcribe(folder: Path, files: list[Path], settings: Settings,
               failed: Failed | None = None,
               loaded: Callable[[Transcriber], object] | None = None) -> Iterator[tuple[Path, Transcript]]:
    """What is said in each file, in the order given; of a folder in each recording below it, sorted by path. Ids are
    those that `import_folder` gives the files of the folder, or a file's own name.

    Args:
        folder: of a recogniser.
        files: recordings and folders of them.
        settings: of the search.
        failed: called with each file that is no audio, empty, or too short for a frame, which is left out then;
            without it the first is an error.
        loaded: called with the recogniser before the first file.

    Raises:
        UsageError: no recogniser in `folder`, a path that is not there, or a folder without recordings.
        InputError: a file that cannot be transcribed, without `failed`.
    """
    found = _told(files)  # a wrong path is told before the model is loaded
    transcriber = Transcriber(folder, settings)
    if loaded is not None:
        loaded(transcriber)
    for path, name in found:
        try:
            transcript = transcriber.transcript(wave_of(path), str(path), path_id(Path(), name))
        except InputError as error:
            if failed is None:
                raise
            failed(path, error)
            continue
        yield path, transcript
    transcriber.tell_unfinished()


def _check_settings(settings: object) -> None:
    """Raise UsageError for a decoder in place of settings, or a name in place of a decoder."""
    if not isinstance(settings, Settings):
        raise UsageError(f"settings={settings!r:.60}: expected Settings; a Choice of decoder goes into them: "
                         "Settings(choice)")
    for name in ("window_seconds", "overlap_seconds", "pause_seconds"):
        value = getattr(settings, name)
        if not isinstance(value, int | float | np.number) and (value is not None or name != "pause_seconds"):
            raise UsageError(f"{name}={value!r}: expected a number of seconds")
    if not isinstance(settings.decoder, Choice):
        raise UsageError(f"decoder={settings.decoder!r:.60}: expected a Choice, for instance Choice(lm=PATH)")


def wave_of(path: Path) -> np.ndarray:
    """(S,) float32 at 16 kHz of a file that was there when the paths were looked at. Raises InputError if it has gone
    since, or is no audio."""
    if not path.is_file():
        raise InputError(f"{path}: is not there any more; put it back and transcribe it again, or leave it out")
    return read(utterance_of_file(path))


def recordings(paths: Iterable[Path]) -> list[Path]:
    """The paths, folders replaced by the audio files below them. Those of formats that are not read are left out with a
    warning. Raises UsageError for a path that has no audio or is none."""
    return [path for path, _ in _told(paths)]


def named_recordings(paths: Iterable[Path]) -> list[tuple[Path, Path]]:
    """As `recordings`, each with a name for it: its path below the folder that was given, or the file's own name. What
    is left out is not told."""
    return _named(paths, [])


def _told(paths: Iterable[Path]) -> list[tuple[Path, Path]]:
    """As `named_recordings`, and what is left out is told."""
    unread: list[Path] = []
    found = _named(paths, unread)
    if unread:
        say(f"warning: left out are {left_out(unread)}")
    return found


def _named(paths: Iterable[Path], unread: list[Path]) -> list[tuple[Path, Path]]:
    if isinstance(paths, str | Path):
        raise UsageError(f"{paths}: a single path; give a list of them")
    found: list[tuple[Path, Path]] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(_below(path, unread))
            if not inside:
                told = f"; {left_out(unread)}" if unread else ""
                raise UsageError(f"{path}: no recordings in this folder ({', '.join(sorted(AUDIO_SUFFIXES))}){told}")
            found += [(audio, audio.relative_to(path)) for audio in inside]
        elif path.is_file():
            found.append((path, Path(path.name)))
        else:
            raise UsageError(f"{path}: no such file or folder")
    return found


def _below(folder: Path, unread: list[Path]) -> Iterator[Path]:
    """Audio files below a folder; to `unread` those of formats that are not read. Raises InputError for a folder that
    cannot be read."""
    def refuse(inside: Path, what: str) -> None:
        raise InputError(f"{inside}: {what}; make it readable, or name the files to transcribe")

    for inside, names in walk(folder, refuse):
        audio = without_converted([path for path in (inside / name for name in names)
                                   if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()])
        unread += [inside / name for name in unread_names(names, {path.stem for path in audio})]
        yield from audio


class Transcriber:
    """A loaded recogniser with its search, for one recording after another.

    Attributes:
        pause_seconds: at which recordings are parted; 0: they are not.
        phrases, unfinished: how many were decoded so far, and how many of them end inside a word.

    Raises:
        UsageError, FormatError, InputError: as `load_recogniser` and the decoder's `prepare`; UsageError where the
            settings are none.
    """

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        settings = Settings() if settings is None else settings
        _check_settings(settings)
        self._model, vocabulary = load_recogniser(folder)
        self._device = best_device()
        self._model.to(self._device)
        self._settings = settings
        self.pause_seconds = usual_pause(heard_pause(folder)) if settings.pause_seconds is None else \
            settings.pause_seconds
        self._grid = self._model.encoder.config.grid
        self._columns = alphabet(vocabulary.symbols, vocabulary.blank)
        self._blank = vocabulary.blank
        self._decoder = settings.decoder.make(vocabulary.symbols, vocabulary.blank)
        self._decoder.prepare()
        self._spelled = spellings_of(self._decoder)
        self.phrases = self.unfinished = 0

    def recogniser_hash(self) -> str:
        """As emissions name the recogniser that they are of."""
        return recogniser_hash(self._model)

    def check(self, name: object, samples: int) -> None:
        """Raise InputError for a recording too short for a frame."""
        if not samples:
            raise InputError(f"{name}: an empty recording; leave it out")
        if not self._grid.frames(samples):
            raise InputError(f"{name}: {samples} samples at 16 kHz, too short for a frame of "
                             f"{self._grid.least_samples}")

    def transcript(self, wave: np.ndarray, name: str = "recording", id: str | None = None) -> Transcript:
        """What is said in a waveform (S,) float32 at 16 kHz, of one channel and any length (`upstream.read_audio`).

        Args:
            name: of the file, for messages and CTM.
            id: by which scores know it; None is its name.

        Raises:
            InputError: no waveform, or one too short for a frame.
        """
        wave = checked_wave(wave)
        self.check(name, len(wave))
        return Transcript(name, tuple(self._words([wave])), len(wave) / SAMPLE_RATE, name if id is None else id)

    def words(self, blocks: Iterable[np.ndarray]) -> Iterator[SpokenWord]:
        """Words of a recording as its blocks (S,) float32 at 16 kHz come in; what was given never changes. Raises
        InputError for a block that is none, integers for instance.

        Words come once a window is complete and a pause, or the next word, is behind them; see `downstream.phrases`.
        """
        return self._words(map(checked_wave, blocks))

    def _words(self, blocks: Iterable[np.ndarray]) -> Iterator[SpokenWord]:
        """As `words`, of blocks that were checked."""
        chosen, rate = self._settings, self._grid.rate
        for first, rows, _ in phrases(self._encode, blocks, self._grid, self._columns, self._blank,
                                      chosen.window_seconds, chosen.overlap_seconds, self.pause_seconds):
            usable = self._columns.usable(rows)
            found = self._decoder.decode("", rows, rate)
            self.phrases, self.unfinished = self.phrases + 1, self.unfinished + found.unfinished
            sure = confidences(usable, found.words, self._columns, rate, self._spelled)
            for word, spaced, certain in zip(found.words, spaces_before(found), sure):
                yield SpokenWord(word.word, word.start_s + first / rate, word.end_s + first / rate, certain, spaced)

    def tell_unfinished(self) -> None:
        """Say how many phrases end inside a word, where any does: for the end of all recordings."""
        if self.unfinished:
            say(f"{self.unfinished} of {self.phrases} phrases end inside a word that the search did not finish; a "
                "wider beam, or a lexicon that fits, may help")

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        window = torch.from_numpy(prepared(wave, self._model.encoder.config))[None].to(self._device)
        with torch.inference_mode():
            logprobs, _ = self._model(window, None)
        found: np.ndarray = logprobs[0].cpu().numpy()
        return found
