"""Discrete units of waveforms in memory, for programs that keep a teacher and its encoders loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from upstream.device import named_device
from upstream.disk import path_given
from upstream.errors import InputError, UsageError
from upstream.features.waveform import frames_of
from upstream.model import Encoder, load_encoder
from upstream.teacher.matching import matching_source
from upstream.teacher.teacher import Teacher


class Labeller:
    """A teacher together with the encoders that it reads.

        Labeller("run/round2/teacher", ["run/round1/encoder"]).labels(wave)   # what `hubertkit units` writes

    Attributes:
        teacher: the teacher; `teacher.classes` has the number of classes of each stream.
    """

    def __init__(self, teacher: Teacher | str | Path, encoders: Sequence[Encoder | str | Path] = (),
                 device: torch.device | str | None = None) -> None:
        """
        Args:
            teacher: or its folder.
            encoders: that the teacher was fitted on, or whatever `load_encoder` takes; none for MFCCs and filterbanks.
            device: None is the GPU, where there is one.

        Raises:
            UsageError: an encoder is needed or is not; no list of them; no such folder.
            InputError: the teacher was fitted on another encoder.
        """
        self.teacher = teacher if isinstance(teacher, Teacher) else Teacher.load(path_given(teacher, "teacher"))
        if isinstance(encoders, str | Path | Encoder):
            what = "an Encoder" if isinstance(encoders, Encoder) else repr(str(encoders))
            raise UsageError(f"encoders={what}: a single one; give a list of them")
        where = named_device(device)
        loaded = [found if isinstance(found, Encoder) else load_encoder(found, where) for found in encoders]
        self._source = matching_source(self.teacher, loaded, device=where)
        self._quantiser = self.teacher.quantiser.to(self._source.device)

    def labels(self, wave: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of each stream (T,) int64, at 50 Hz, of a waveform (S,) float32 at 16 kHz.

        Raises:
            InputError: no waveform (`frames_of`), or frames that are not finite.
        """
        with torch.inference_mode():
            frames = frames_of(self._source, wave)
            if not bool(torch.isfinite(frames).all()):
                raise InputError("frames that are not finite: the encoder is broken")
            return tuple(labels.cpu().numpy() for labels in self._quantiser.labels(frames))
