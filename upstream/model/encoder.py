"""The encoder: waveforms in, a vector every 20 or 40 ms out, the same for an utterance whatever it is batched with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream.device import sent
from upstream.errors import InputError, UsageError
from upstream.model.config import EncoderConfig, check_config
from upstream.model.dropout import Dropout
from upstream.model.frontend import ConvFrontend, frame_counts, valid, working_dtype
from upstream.model.initialisation import initialise
from upstream.model.mel_frontends import FbankFrontend, LightFrontend
from upstream.model.padding import CUTS_CHUNKS, PADDINGS, Padding, fairseq_counts, roomy_frames
from upstream.model.products import Linear
from upstream.model.transformer import NORM_EPSILON, Transformer


@dataclass(frozen=True)
class EncoderOutput:
    """What `Encoder.forward` gives.

    Attributes:
        last: (B, T, D) output of the last block, after the final norm in pre-norm models; with `stop_at=k` the raw
            output of block k.
        lengths: (B,) int64 on the host: frames of each utterance. What lies past them means nothing.
        layers: the input of the first block, then the raw output of each block, each (B, T, D); empty unless asked for.
        features: (B, T, C) output of the front end before its layer norm, zero at padded frames (but see `padding`).
    """

    last: Tensor
    lengths: Tensor
    layers: tuple[Tensor, ...]
    features: Tensor


class Encoder(nn.Module):
    """HuBERT's encoder (Hsu et al. 2021, section III; fairseq `HubertModel` up to its heads), and its relatives':
    wav2vec 2.0, WavLM and data2vec-audio (`EncoderConfig.family`).

    Weights are undefined until `initialise` or a checkpoint fills them. Parameters have the names `transformers` gives
    them, the positional convolution's `weight_g` and `weight_v` excepted (`saving` renames those).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        check_config(config)
        self.config = config
        self.masked_spec_embed = nn.Parameter(torch.empty(config.width))
        self.feature_extractor = _FRONTENDS[config.frontend](config)
        self.feature_projection = _FeatureProjection(config)
        self.encoder = Transformer(config)

    def initialise(self, seed: int) -> Encoder:
        """Draw all weights as the reference does, from a generator for each parameter's name; returns itself."""
        initialise(self, seed)
        return self

    def save(self, folder: str | Path, **extra: Any) -> None:
        """Write a folder as `save_encoder` does, `extra` into its hubertkit.json; `load_encoder` reads it."""
        from upstream.model.saving import save_encoder  # which imports this module

        save_encoder(self, Path(folder), extra)

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
        layers: bool = False,
        stop_at: int | None = None,
        channel_mask: Tensor | None = None,
        padding: Padding = "exact",
        whole_features: bool = False,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            waveforms: (B, S) float32 at 16 kHz, in [-1, 1], or standardised for models with `config.normalize`.
                What lies past an utterance's length is ignored. float64 is computed in float32, but for weights in
                float64.
            lengths: (B,) int64 samples of each utterance, best on the host (from a GPU they must be fetched), or a
                list; None if all rows are S long.
            mask: (B, T) bool; true where the projected features give way to the learned mask vector. The light front
                end does not hear those frames either; convolutions on the waveform do, as the reference's: they read
                5 ms of the neighbours.
            layers: also give the input of the first block and the output of every block.
            stop_at: run this many blocks only (0 to all); for reading features from a middle layer.
            channel_mask: (B, D) bool; true where a channel of the projected features is zero for the whole utterance
                (fine-tuning's SpecAugment; fairseq mask_channel_prob).
            padding: how padded rows are treated (`upstream.model.padding`). With "fairseq", `lengths` of the output are
                fairseq's and `features` are not cleared at padded frames, which its penalty counts.
            whole_features: give `features` as they are without a mask, for objectives that guess what it hides; the
                light front end runs a second time for it.

        Raises:
            InputError: an utterance too short for one frame.
            UsageError: no utterance, waveforms of whole numbers; `lengths`, `mask`, `stop_at` or `padding` does not fit
                the batch or the model.
        """
        waveforms = self._checked_waveforms(waveforms)
        lengths = _checked_lengths(waveforms, lengths)
        counts = frame_counts(self.config.grid, lengths)
        self._check(counts, stop_at, padding)
        padded = bool((lengths != waveforms.shape[1]).any())
        if padded:
            waveforms = waveforms.masked_fill(~valid(lengths, waveforms.shape[1], waveforms.device), 0)
        room = 0  # frames behind those asked for, there for speed alone and cut off again
        if padding == "exact" and (padded or len(waveforms) == 1):  # unpadded rows are crops, most of one length
            waveforms, room = self._with_room(waveforms)
            padded = padded or room > 0
        frames = self.config.grid.frames(waveforms.shape[1])
        asked = frames - room  # T
        if mask is not None:
            _check_mask(mask, (len(waveforms), asked))
            mask = sent(F.pad(mask, (0, room)) if room else mask, waveforms.device)
        ends = lengths if padded and padding == "exact" else None
        if padding == "fairseq" and self.config.family in CUTS_CHUNKS:
            counts = fairseq_counts(lengths, waveforms.shape[1], frames)
        inside = valid(counts, frames, waveforms.device) if bool((counts != frames).any()) else None
        cleared = None if padding == "fairseq" else inside
        features = heard = self._features(waveforms, ends, mask, cleared)  # (B, T, C)
        if whole_features and mask is not None and isinstance(self.feature_extractor, LightFrontend):
            features = self._features(waveforms, ends, None, cleared)
        x = self.feature_projection(heard)
        if mask is not None:
            x = torch.where(mask[..., None], self.masked_spec_embed.to(x.dtype), x)
        if channel_mask is not None:
            x = x.masked_fill(sent(channel_mask, x.device)[:, None], 0)
        if inside is not None:
            x = x.masked_fill(~inside[..., None], 0)
        last, states = self.encoder(x, inside, stop_at, clear=padding == "exact")
        kept = tuple(state[:, :asked] for state in states) if layers else ()
        return EncoderOutput(last[:, :asked], counts, kept, features[:, :asked])

    def _features(self, waveforms: Tensor, ends: Tensor | None, mask: Tensor | None, inside: Tensor | None) -> Tensor:
        """What the front end gives (B, T, C), zero where `inside` (B, T) is false."""
        front = self.feature_extractor
        features = front(waveforms, ends, mask) if isinstance(front, LightFrontend) else front(waveforms, ends)
        return features if inside is None else features.masked_fill(~inside[..., None], 0)

    def _with_room(self, waveforms: Tensor) -> tuple[Tensor, int]:
        """More silence behind a batch where that is faster (`padding.roomy_frames`), and how many frames of it."""
        grid = self.config.grid
        frames = grid.frames(waveforms.shape[1])
        room = roomy_frames(frames, self.config.width, waveforms.device, working_dtype(waveforms)) - frames
        more = grid.samples(frames + room) - grid.padding - waveforms.shape[1]
        return (F.pad(waveforms, (0, more)), room) if room else (waveforms, 0)

    def _checked_waveforms(self, waveforms: Tensor) -> Tensor:
        if not isinstance(waveforms, Tensor):
            raise UsageError(f"waveforms of type {type(waveforms).__name__}: expected a tensor (batch, samples)")
        if waveforms.dim() != 2 or not len(waveforms):
            raise UsageError(f"waveforms of shape {tuple(waveforms.shape)}: expected (batch, samples) with one row "
                             "at least")
        if not waveforms.is_floating_point():
            raise UsageError(f"waveforms of {waveforms.dtype}: expected float32 in [-1, 1]; divide 16-bit samples by "
                             "32768")
        if waveforms.dtype is torch.float64 and self.masked_spec_embed.dtype is not torch.float64:
            return waveforms.float()
        return waveforms

    def _check(self, counts: Tensor, stop_at: int | None, padding: str) -> None:
        grid = self.config.grid
        if int(counts.min()) < 1:
            row = int(counts.argmin())
            raise InputError(f"row {row} of the batch is too short for a frame: at least {grid.least_samples} samples")
        if padding not in PADDINGS:
            raise UsageError(f"padding={padding!r}: expected one of {', '.join(PADDINGS)}")
        if stop_at is not None and not 0 <= stop_at <= self.config.layers:
            raise UsageError(f"stop_at={stop_at}: this encoder has layers 0 to {self.config.layers}")


def _checked_lengths(waveforms: Tensor, lengths: Tensor | Sequence[int] | None) -> Tensor:
    """(B,) on the host."""
    batch, samples = waveforms.shape
    if lengths is None:
        return torch.full((batch,), samples)
    found = torch.as_tensor(lengths).cpu()
    if found.is_floating_point() or found.shape != (batch,) or int(found.max()) > samples:
        raise UsageError(f"lengths {found.tolist()} do not fit waveforms of shape {tuple(waveforms.shape)}; give the "
                         "samples of each row")
    return found


def _check_mask(mask: Tensor, shape: tuple[int, int]) -> None:
    if tuple(mask.shape) != shape:
        raise UsageError(f"mask of shape {tuple(mask.shape)}: expected {shape}, one value for each frame")


_FRONTENDS: dict[str, Callable[[EncoderConfig], nn.Module]] = {
    "conv": ConvFrontend, "fbank": FbankFrontend, "light": LightFrontend}


class _FeatureProjection(nn.Module):
    """LayerNorm and a linear map from the front end's width to the Transformer's."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.feature_dim, eps=NORM_EPSILON)
        self.projection = Linear(config.feature_dim, config.width)
        self.dropout = Dropout(config.input_dropout)

    def forward(self, features: Tensor) -> Tensor:
        kind = self.layer_norm.weight.dtype
        if kind is not torch.float32:  # weights of another type; waveforms and filterbanks are in float32 all the same
            features = features.to(kind)
        return self.dropout(self.projection(self.layer_norm(features)))
