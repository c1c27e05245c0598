"""What a pretraining that goes well looks like: reference curves that ship with the package, and the paper's batches.

The files in `curves/` are copies of `benchmarks/results/curves/`; each holds the command that makes it.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from upstream.disk import read_json

FOLDER = Path(__file__).with_name("curves")
# Audio of an update: GPUs times seconds a GPU (HuBERT paper, section IV-C, and fairseq examples/hubert/config/pretrain;
# wav2vec 2.0 paper, section 4.2: 1.4 and 1.2 million samples).
PAPER_MINUTES = {"hubert": {"BASE": 32 * 87.5 / 60, "LARGE": 128 * 56.25 / 60, "X-LARGE": 256 * 22.5 / 60},
                 "wav2vec2": {"BASE": 64 * 87.5 / 60, "LARGE": 128 * 75 / 60}}


@dataclass(frozen=True)
class Reference:
    """Round 1 of a shipped recipe on synthesised speech.

    Attributes:
        name: of the recipe.
        label_entropy: what the loss would be of one who knows how common labels are and no more, nats.
        batch_seconds: audio of an update.
        updates, losses: in order; losses are nats a masked frame.
    """

    name: str
    label_entropy: float
    batch_seconds: float
    updates: tuple[int, ...]
    losses: tuple[float, ...]

    def at(self, update: int) -> tuple[int, float]:
        """The last update up to this one (or the first) whose loss is known, and that loss."""
        place = max(0, bisect.bisect_right(self.updates, update) - 1)
        return self.updates[place], self.losses[place]


def reference_for(frontend: str | None, width: int | None, layers: int | None) -> Reference | None:
    """The curve of an encoder of this shape, if there is one; None for what is not known."""
    return _by_shape().get((frontend, width, layers))


@cache
def _by_shape() -> dict[tuple[str | None, int | None, int | None], Reference]:
    found: dict[tuple[str | None, int | None, int | None], Reference] = {}
    for path in sorted(FOLDER.glob("*.json")):
        content = read_json(path)
        shape, rows = content["shape"], content["rows"]
        found[shape["frontend"], shape["width"], shape["layers"]] = Reference(
            content["curve"], content["label_entropy"], content["batch_seconds"],
            tuple(r["update"] for r in rows), tuple(r["loss"] for r in rows))
    return found


def beside_the_paper(batch_seconds: float, objective: str = "hubert") -> str:
    """`0.5 min of audio an update (the paper's BASE: 46.7, LARGE: 120, X-LARGE: 96)`: of the paper of an objective."""
    paper = ", ".join(f"{name}: {minutes:.3g}" for name, minutes in PAPER_MINUTES[objective].items())
    return f"{batch_seconds / 60:.3g} min of audio an update (the paper's {paper})"
