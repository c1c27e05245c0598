"""What a teacher reads: a stream of frames, one row for each 50 Hz frame of the encoder, utterance after utterance."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upstream.device import named_device, sent
from upstream.errors import UsageError
from upstream.features.mfcc import MFCC_DIM, mfcc
from upstream.features.streaming import Lengths, Read, ahead, checked, in_order, plan_batches, read_ahead
from upstream.frames import CONV_GRID, SAMPLE_RATE, STACKED_GRID
from upstream.model.config import MEL_BINS
from upstream.model.fbank import log_mel
from upstream.places import places

if TYPE_CHECKING:
    from upstream.model.encoder import Encoder


LayerPrecision = Literal["float32", "bfloat16"]


class Source(Protocol):
    """Frames that can be clustered. `device` is where they are made, and where k-means runs."""

    device: torch.device

    def describe(self) -> dict[str, Any]:
        """What the frames are, as JSON values: `name`, `dim`, `rate` (Hz) and whatever else tells them apart."""
        ...

    def stream(self, manifest: Lengths, indices: Iterable[int], read: Read,
               after: int = 0) -> Iterator[tuple[int, Any]]:
        """(index, (T, dim) float32) of utterances of the manifest, in the order of `indices` (or a mask over all).

        T = CONV_GRID.frames(length): 0 for an utterance that is too short for a frame. `read(index)` gives a waveform
        (length,) float32; it is called from another thread, a little ahead. So many of the first as `after` says are
        not given; the frames of the others are to the last bit what they are with them.
        """
        ...


class MfccSource:
    """39 MFCCs. Of the windows at 100 Hz those with even numbers, whose centres are those of the encoder's frames."""

    device = torch.device("cpu")

    def describe(self) -> dict[str, Any]:
        return {"name": "mfcc", "dim": MFCC_DIM, "rate": CONV_GRID.rate}

    def stream(self, manifest: Lengths, indices: Iterable[int], read: Read,
               after: int = 0) -> Iterator[tuple[int, Tensor]]:
        for index, wave in read_ahead(manifest, indices, read, after):
            yield index, mfcc(torch.from_numpy(wave))[::2]


class FbankSource:
    """80 log-mel energies, of the same windows; stacked, those of both windows of a frame (`STACKED_GRID`): 160."""

    device = torch.device("cpu")

    def __init__(self, stacked: bool = False) -> None:
        self._stacked = stacked

    def describe(self) -> dict[str, Any]:
        if self._stacked:
            return {"name": "fbank", "dim": 2 * MEL_BINS, "rate": CONV_GRID.rate, "stacked": 2}
        return {"name": "fbank", "dim": MEL_BINS, "rate": CONV_GRID.rate}

    def stream(self, manifest: Lengths, indices: Iterable[int], read: Read,
               after: int = 0) -> Iterator[tuple[int, Tensor]]:
        for index, wave in read_ahead(manifest, indices, read, after):
            waveform = torch.from_numpy(wave)[None]
            if not self._stacked:
                yield index, log_mel(waveform)[0, ::2]
                continue
            frames = STACKED_GRID.frames(len(wave))
            mels = log_mel(F.pad(waveform, (0, STACKED_GRID.padding)))[0, : 2 * frames]
            yield index, mels.reshape(frames, 2 * MEL_BINS)


def _numbers(layer: int | Sequence[int]) -> tuple[int, ...]:
    """The numbers of layers that are meant. Raises UsageError where there is none, or what is none."""
    try:
        found = (int(layer),) if isinstance(layer, int | np.integer) else tuple(map(operator.index, layer))
    except TypeError as error:
        raise UsageError(f"layer={layer!r:.60}: expected the number of a layer, or a list of them") from error
    if not found:
        raise UsageError(f"layer={layer!r}: give one number at least")
    return found


class LayerSource:
    """Hidden states of an encoder: what the teachers of later rounds cluster.

    Utterances of similar length share a batch. The encoder gives an utterance the same output in any batch, up to the
    rounding of float32. Recordings of more than two minutes go through alone and in pieces, with the same output again
    (`long_recordings`).
    """

    def __init__(self, encoder: Encoder, layer: int | Sequence[int], device: torch.device | str, *,
                 precision: LayerPrecision = "float32", batch_seconds: float = 80.0,
                 window_seconds: float = 0.0) -> None:
        """
        Args:
            encoder: on `device` already or moved there.
            layer: 0 is the input of the first block, k the raw output of block k. Of several layers the stream gives
                {layer: (T, D)}, from one forward pass.
            precision: `bfloat16` runs the encoder under autocast; the stream is float32 all the same.
            batch_seconds: of audio, padding included.
            window_seconds: cut the Transformer, too, into windows for recordings of more than two minutes, where
                attention over all of them would take too long; frames then differ (`long_recordings`). 0 does not.

        Raises:
            UsageError: no encoder, such as the name of one; no layer, or one that it does not have; another precision;
                a device that is not there; seconds that are none.
        """
        if not isinstance(encoder, torch.nn.Module):
            raise UsageError(f"encoder={encoder!r:.60}: expected an Encoder; load_encoder gives that of any checkpoint")
        self.device = named_device(device)
        self._single = isinstance(layer, int | np.integer)  # a numpy integer, too
        self.layers = _numbers(layer)
        for number in self.layers:
            if not 0 <= number <= encoder.config.layers:
                raise UsageError(f"layer={number}: this encoder has layers 0 to {encoder.config.layers}")
        if precision not in get_args(LayerPrecision):
            raise UsageError(f"precision={precision!r}: expected {' or '.join(get_args(LayerPrecision))}")
        seconds = (batch_seconds, window_seconds)
        numbers = all(isinstance(value, int | float | np.number) and np.isfinite(value) for value in seconds)
        if not numbers or batch_seconds <= 0 or window_seconds < 0:
            raise UsageError(f"batch_seconds={batch_seconds} must be above 0 and window_seconds={window_seconds} at "
                             "least 0, both finite")
        self._encoder = encoder.to(self.device)
        self._precision = precision
        self._window_seconds = window_seconds
        self._batch_samples = int(batch_seconds * SAMPLE_RATE)

    def describe(self) -> dict[str, Any]:
        from upstream.model.saving import encoder_hash

        described = {"name": "layer", "layer": self.layers[0] if self._single else list(self.layers),
                     "encoder": encoder_hash(self._encoder), "normalize": self._encoder.config.normalize,
                     "precision": self._precision, "dim": self._encoder.config.width, "rate": CONV_GRID.rate}
        return described | ({"window_seconds": self._window_seconds} if self._window_seconds else {})

    def stream(self, manifest: Lengths, indices: Iterable[int], read: Read,
               after: int = 0) -> Iterator[tuple[int, Any]]:
        """As `Source.stream`; on the encoder's device. {layer: frames} if made for several layers. Raises InputError
        for an utterance that is named twice."""
        training = self._encoder.training
        self._encoder.eval()
        try:
            chosen = places(indices, len(manifest.lengths), once=True)
            wanted = set(chosen[after:].tolist())  # their batches are planned among all, and go through whole
            batches = [batch for batch in plan_batches(chosen, manifest.lengths, self._batch_samples)
                       if not wanted.isdisjoint(batch.tolist())]
            found = ahead(lambda batch: [checked(manifest, int(i), read) for i in batch], batches)
            frames = (self._frames(waves) for waves in found)
            yield from in_order(chosen[after:], ({i: x for i, x in part.items() if i in wanted} for part in frames))
        finally:
            self._encoder.train(training)

    def _frames(self, waves: list[tuple[int, np.ndarray]]) -> dict[int, Any]:
        """{index: frames} of one batch."""
        long = [(i, w) for i, w in waves if CONV_GRID.frames(len(w))]
        found = {i: self._chosen([torch.empty(0, self._encoder.config.width, device=self.device)] * len(self.layers))
                 for i, w in waves if not CONV_GRID.frames(len(w))}
        if long:
            counts, states = self._encode([w for _, w in long])
            found |= {i: self._chosen([self._at_label_rate(state[row, :counts[row]], len(wave)) for state in states])
                      for row, (i, wave) in enumerate(long)}
        return found

    def _at_label_rate(self, frames: Tensor, samples: int) -> Tensor:
        """(T, D) at 50 Hz, which all labels have: a frame of 40 ms stands for both of 20 ms that it covers."""
        if self._encoder.config.stride_ms == 20:
            return frames
        return frames.repeat_interleave(2, dim=0)[:CONV_GRID.frames(samples)]

    def _chosen(self, states: list[Tensor]) -> Any:
        return states[0] if self._single else dict(zip(self.layers, states))

    @torch.no_grad()  # not inference_mode, whose tensors a probe could not learn from
    def _encode(self, waves: list[np.ndarray]) -> tuple[list[int], list[Tensor]]:
        """Frame counts, and for each layer (B, T, D) float32."""
        from upstream.features.long_recordings import encode_long, is_long
        from upstream.model.frontend import standardise

        if len(waves) == 1 and is_long(len(waves[0])):
            whole = torch.from_numpy(waves[0]).to(self.device)
            whole = standardise(whole) if self._encoder.config.normalize else whole
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
                states = encode_long(self._encoder, whole, self.layers, self._window_seconds)
            return [len(states[0])], [state.float()[None] for state in states]
        lengths = torch.tensor([len(w) for w in waves])
        batch = torch.zeros(len(waves), int(lengths.max()))
        for row, wave in zip(batch, waves):
            row[: len(wave)] = standardise(torch.from_numpy(wave)) if self._encoder.config.normalize \
                else torch.from_numpy(wave)
        low = self._precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            out = self._encoder(sent(batch, self.device), lengths, layers=True, stop_at=max(self.layers))
        return out.lengths.tolist(), [out.layers[k].float() for k in self.layers]
