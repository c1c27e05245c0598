"""What the rounds of a run need of its recordings, looked at before the first: what a later one cannot train on would
be found only after those before it, which may take weeks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from upstream.audio.manifest import Manifest
from upstream.errors import InputError
from upstream.frames import CONV_GRID, frame_counts
from upstream.pretrain_crops import least_frames
from upstream.pretrain_recipe import ProbeRecipe, Round
from upstream.round_teacher import BEST, heard_by_sweep
from upstream.teacher.gate import check_coverage
from upstream.teacher.units import Units


def check_data(rounds: list[Round], probe: ProbeRecipe, manifest: Manifest, train: np.ndarray) -> None:
    """Raises InputError naming the first round that cannot train on these recordings: units made elsewhere that are of
    others, no recording that is long enough, or fewer frames than its teacher has clusters.

    Args:
        probe: alignments for a teacher that reads the best layer.
        train: indices of the recordings to train on.
    """
    for round_ in rounds:
        if round_.has_units_already:
            check_coverage(Units.load(Path(str(round_.teacher.units))), manifest)
        elif round_.has_teacher:
            _check_frames(round_, probe, manifest, train)
        least = least_frames(round_.encoder, round_.training, round_.mask)
        if not (frame_counts(manifest.lengths[train], round_.encoder.grid) >= least).any():
            raise InputError(f"no utterance has the {least} frames that training needs at least in round "
                             f"{round_.number}; lower training.least_seconds or mask.span, or bring longer recordings")


def _check_frames(round_: Round, probe: ProbeRecipe, manifest: Manifest, train: np.ndarray) -> None:
    """What k-means is fitted on must be at least as many frames as there are clusters."""
    teacher, most = round_.teacher, max(round_.teacher.numbers)
    if teacher.imported is None and teacher.kind != "random":
        _refuse_few(round_, most, manifest.lengths[train], "the recordings to train on have")
    if teacher.features == "layer" and teacher.layer == BEST:
        _refuse_few(round_, most, heard_by_sweep(manifest, train, probe).lengths,
                    f"what is heard for layer=best (probe.seconds={probe.seconds:g}) has")


def _refuse_few(round_: Round, clusters: int, lengths: np.ndarray, whose: str) -> None:
    frames = int(frame_counts(lengths, CONV_GRID).sum())
    if frames < clusters:
        raise InputError(f"rounds.{round_.number - 1}.teacher.clusters={round_.teacher.clusters}: {whose} {frames} "
                         "frames; give more audio, or ask for fewer clusters")
