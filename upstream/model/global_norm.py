"""Mean and standard deviation of each mel bin over the recordings of a training, for `fbank_norm: global`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from upstream.keyed import keyed
from upstream.model.config import MEL_BINS
from upstream.model.encoder import Encoder
from upstream.model.fbank import log_mel
from upstream.model.frontend import prepared
from upstream.model.mel_frontends import FbankFrontend, LightFrontend

UTTERANCES = 500  # heard at most: an hour or so, far more than 80 means need
LEAST_STD = 1e-3  # of a log-mel bin in which nothing ever happens


@torch.no_grad()
def measure_global_norm(encoder: Encoder, wave: Callable[[int], np.ndarray], indices: np.ndarray, seed: int) -> None:
    """Set the statistics of an encoder with `fbank_norm: global` to those of its recordings; of others, nothing.

    Args:
        wave: gives the (S,) float32 samples of an index at 16 kHz.
        indices: of the recordings to learn from, of which a keyed part is heard.
        seed: of the run.
    """
    frontend = encoder.feature_extractor
    mels = frontend.mels if isinstance(frontend, LightFrontend) else frontend
    if not isinstance(mels, FbankFrontend) or mels.norm != "global":
        return
    count, sums, squares = 0, torch.zeros(MEL_BINS, dtype=torch.float64), torch.zeros(MEL_BINS, dtype=torch.float64)
    for index in np.sort(keyed(seed, "global norm").permutation(indices)[:UTTERANCES]):
        waveform = F.pad(torch.from_numpy(prepared(wave(int(index)), encoder.config))[None], (0, mels.grid.padding))
        frames = log_mel(waveform)[0].double()
        count, sums, squares = count + len(frames), sums + frames.sum(0), squares + frames.square().sum(0)
    mean = sums / max(1, count)
    deviation = (squares / max(1, count) - mean.square()).clamp(min=0).sqrt()
    mels.mean.copy_(mean)
    mels.std.copy_(deviation.clamp(min=LEAST_STD))
