"""A small character language model of our own for n-best rescoring: an LSTM, trained on plain text in minutes.

    hubertkit lm train books.txt --out characters
    hubertkit rescore-tune dev.jsonl --references dev.arrow --model characters --out weights.json

A folder holds `characters.json` (symbols, sizes) and `model.safetensors`. Every text is read from a state of zeros
after a newline and ends with one, so the probabilities of all texts sum to 1. What is not among the characters of the
training text counts as one unknown character.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from upstream.disk import check_json, disk_errors, json_text, read_json, writing_together
from upstream.errors import FormatError, InputError
from upstream.headers import refuse_other_files, unfinished
from upstream.keyed import keyed, keyed_torch
from upstream.model.saving import tensors_hash

KIND = "character model"
FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
_END = 0  # the newline that parts texts; 1 is the unknown character
_FIRST = 2  # of the characters proper


@dataclass(frozen=True)
class CharacterShape:
    """Sizes of the network."""

    width: int = 256  # of the characters' vectors and of the LSTM
    layers: int = 2
    dropout: float = 0.1  # between layers, in training

    def __post_init__(self) -> None:
        if min(self.width, self.layers) < 1 or not 0 <= self.dropout < 1:
            raise InputError(f"{self}: width and layers are at least 1, dropout lies in [0, 1)")


@dataclass(frozen=True)
class CharacterTraining:
    """How it learns: Adam, the rate warmed up over a twentieth of the updates and then lowered along a cosine."""

    updates: int = 2000
    batch_characters: int = 8192
    peak_rate: float = 3e-3
    clip_norm: float = 1.0
    longest: int = 400  # characters of a sentence, and what comes next; what follows is not trained on
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.updates, self.batch_characters, self.longest) < 1 or min(self.peak_rate, self.clip_norm) <= 0:
            raise InputError(f"{self}: all must be above 0")


class CharacterModel(nn.Module):
    """Probabilities of texts, character by character.

    Args:
        characters: those it knows, without the newline.
    """

    def __init__(self, characters: Sequence[str], shape: CharacterShape) -> None:
        super().__init__()
        self.characters, self.shape = tuple(characters), shape
        self._ids = {character: _FIRST + i for i, character in enumerate(self.characters)}
        self.embedding = nn.Embedding(_FIRST + len(self.characters), shape.width)
        self.lstm = nn.LSTM(shape.width, shape.width, shape.layers, batch_first=True,
                            dropout=shape.dropout if shape.layers > 1 else 0.0)
        self.output = nn.Linear(shape.width, _FIRST + len(self.characters))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, symbols) float32 natural-log probabilities of what comes after each."""
        return F.log_softmax(self.output(self.lstm(self.embedding(ids))[0]).float(), dim=-1)

    def encode(self, text: str) -> list[int]:
        """Ids of a text's characters, without its ends."""
        return [self._ids.get(character, 1) for character in text]

    def losses(self, rows: Sequence[Sequence[int]], ends: Sequence[int] | None = None) -> Tensor:
        """(B,) negative natural-log probability of texts, each with its end, or with what comes next (`ends`)."""
        longest = max(map(len, rows)) + 1
        ids = torch.zeros((len(rows), longest), dtype=torch.int64)
        wanted = torch.full((len(rows), longest), -1)
        for place, row in enumerate(rows):
            ids[place, 1:len(row) + 1] = torch.tensor(row, dtype=torch.int64)
            wanted[place, :len(row) + 1] = torch.tensor([*row, _END if ends is None else ends[place]])
        device = self.output.weight.device
        logprobs = self(ids.to(device))
        return F.nll_loss(logprobs.transpose(1, 2), wanted.to(device), ignore_index=-1, reduction="none").sum(dim=1)

    def scores(self, texts: Sequence[str], batch_characters: int = 65_536) -> list[float]:
        """Natural-log probability of each text with its end; equal texts are computed once.

        Args:
            batch_characters: in a batch, padding included; padding changes nothing in what a text gets.
        """
        order = sorted(set(texts), key=lambda text: (len(text), text))
        found: dict[str, float] = {}
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                while order:
                    count = 1
                    while count < len(order) and (count + 1) * (len(order[count]) + 1) <= batch_characters:
                        count += 1
                    batch, order = order[:count], order[count:]
                    losses = self.losses([self.encode(text) for text in batch]).double()
                    found.update(zip(batch, (-losses).tolist(), strict=True))
        finally:
            self.train(training)
        return [found[text] for text in texts]

    def save(self, folder: Path, about: dict[str, Any] | None = None) -> None:
        """Write the folder; `characters.json` comes last, so a folder without it is not finished. A full disk leaves
        the model that was there. Raises UsageError for an `about` that JSON cannot hold."""
        folder = Path(folder)
        header: dict[str, Any] = {
            "format": f"hubertkit {KIND}", "version": FORMAT_VERSION, "characters": list(self.characters),
            "shape": asdict(self.shape), "about": dict(about or {})}
        check_json(header["about"], folder / "characters.json")
        paths = [folder / WEIGHTS, folder / "characters.json"]
        with disk_errors(folder), unfinished(folder), writing_together(paths) as (weights, described):
            save_file({name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}, weights)
            described.write_text(json_text(header), encoding="utf-8")

    @property
    def hash(self) -> str:
        """Of its weights: `upstream.model.saving.tensors_hash`."""
        return tensors_hash(self.state_dict())

    @staticmethod
    def load(folder: Path, device: torch.device | str = "cpu") -> CharacterModel:
        """Read a folder. Raises FormatError: no such model, another version, or weights that do not fit."""
        path = Path(folder) / "characters.json"
        if not path.is_file():
            raise FormatError(f"{folder}: no characters.json: no model of `hubertkit lm train`, or one not finished")
        header = read_json(path)
        if not isinstance(header, dict) or header.get("version") != FORMAT_VERSION:
            raise FormatError(f"{path}: not a character model of version {FORMAT_VERSION}; train it again")
        try:
            model = CharacterModel(header["characters"], CharacterShape(**header["shape"]))
            model.load_state_dict(load_file(Path(folder) / WEIGHTS))
        except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise FormatError(f"{folder}: weights that do not fit characters.json "
                              f"({' '.join(str(error).split())[:200]}); train it again") from error
        return model.to(device).eval()


def refuse_others(folder: Path) -> None:
    """Raise UsageError where a model would be written over files of somebody else: see `refuse_other_files`."""
    refuse_other_files(folder / "characters.json", KIND, lambda header: [WEIGHTS], [WEIGHTS])


def train_characters(sentences: Sequence[str], shape: CharacterShape | None = None,
                     training: CharacterTraining | None = None, device: torch.device | str = "cpu",
                     progress: Callable[..., None] | None = None) -> tuple[CharacterModel, list[float]]:
    """Train on sentences, each by itself.

    Args:
        sentences: normalised as the transcripts are; empty ones are left out.
        progress: told the updates done, how many there are, and the loss in a note.

    Returns:
        The model, and the loss of every update in nats a character.

    Raises:
        InputError: no sentence.
    """
    training = training or CharacterTraining()
    texts = [text[:training.longest + 1] for text in sentences if text]  # the last of so many is where one was cut
    if not texts:
        raise InputError("no sentence to train a language model on")
    cut = sum(len(text) > training.longest for text in texts)
    if 2 * cut > len(texts):
        raise InputError(f"{cut:,} of {len(texts):,} lines are longer than {training.longest} characters, so that "
                         "little would be learnt of where a sentence ends; give one sentence a line")
    characters = sorted(set().union(*texts))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_torch(training.seed, "character model").initial_seed())
        model = CharacterModel(characters, shape or CharacterShape()).to(device).train()
        optimiser = torch.optim.Adam(model.parameters(), training.peak_rate)
        losses = []
        for update, batch in enumerate(_batches(texts, training)):
            for group in optimiser.param_groups:
                group["lr"] = training.peak_rate * _rate(update, training.updates)
            rows = [model.encode(text) for text in batch]
            ends = [row[training.longest] if len(row) > training.longest else _END for row in rows]
            rows = [row[:training.longest] for row in rows]
            loss = model.losses(rows, ends).sum() / sum(len(row) + 1 for row in rows)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
            optimiser.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(update + 1, training.updates, note=f"{losses[-1]:.3f} nats a character")
    return model.eval(), losses


def _rate(update: int, updates: int) -> float:
    """Share of the peak rate."""
    warmup = max(1, updates // 20)
    if update < warmup:
        return (update + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(1, updates - warmup)))


def _batches(texts: Sequence[str], training: CharacterTraining) -> Iterator[list[str]]:
    """As many batches as updates. An epoch has every sentence once, those of about one length together."""
    lengths = np.asarray([min(len(text), training.longest) + 1 for text in texts])
    done = epoch = 0
    while True:
        rng = keyed(training.seed, "character epoch", epoch)
        order = np.argsort(lengths * rng.uniform(0.9, 1.1, len(lengths)))  # little padding, and other neighbours
        number = np.cumsum(lengths[order]) // training.batch_characters
        groups = np.split(order, np.flatnonzero(np.diff(number)) + 1)
        for place in rng.permutation(len(groups)):
            if done == training.updates:
                return
            yield [texts[i] for i in groups[place]]
            done += 1
        epoch += 1
