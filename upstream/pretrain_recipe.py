"""What a pretraining recipe may say. `upstream/recipes/*.yaml` fill it in; `key=value` words override it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from upstream.errors import RecipeError
from upstream.model.config import EncoderConfig
from upstream.model.masking import SpanMask
from upstream.recipe import refine
from upstream.training.loop import TrainingRecipe

SHIPPED = Path(__file__).with_name("recipes")


@dataclass(frozen=True)
class TeacherRecipe:
    """What is clustered, into how many classes."""

    features: Literal["mfcc", "fbank", "layer"] = "mfcc"  # `layer`: of the encoder of the round before
    layer: int = 6  # 1 is the output of the first block
    clusters: int = 100
    sample_frames: int = 1_000_000  # frames that k-means is fitted on, at most
    iterations: int = 30
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.clusters < 2 or self.sample_frames < self.clusters:
            raise ValueError(f"teacher: clusters={self.clusters} must be at least 2, and sample_frames="
                             f"{self.sample_frames} at least as many")


@dataclass(frozen=True)
class ObjectiveRecipe:
    """The masked-prediction loss (HuBERT paper, section II-B)."""

    head: Literal["cosine", "linear"] = "cosine"  # `linear`: plain linear layer and cross-entropy, as MelHuBERT
    final_dim: int = 256
    temperature: float = 0.1
    predict_at: tuple[int, ...] = ()  # layers that predict; () is the last one alone
    unmasked_weight: float = 0.0
    feature_penalty: float = 10.0  # times the mean square of the conv features; nothing for filterbanks


@dataclass(frozen=True)
class ProbeRecipe:
    """PNMI at every validation, for recordings that have alignments."""

    manifest: str | None = None  # aligned utterances; the training data if not given
    alignments: str | None = None  # folder of TextGrid or CTM files, named for the utterances
    layers: tuple[int, ...] = ()  # () is: the middle one and the last
    clusters: int = 100
    seconds: float = 1200.0  # of audio, at most


@dataclass(frozen=True)
class RoundRecipe:
    """One round: its teacher, and what differs from the recipe's encoder, training, mask and objective."""

    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    encoder: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    mask: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PretrainRecipe:
    """A whole pretraining: what to hear, what to train, and the rounds."""

    data: str = ""  # a manifest, or a folder of audio; must be given
    seed: int = 0
    valid_share: float = 0.05  # of the audio, held out by speaker; 0 trains on everything
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    mask: SpanMask = field(default_factory=SpanMask)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    probe: ProbeRecipe = field(default_factory=ProbeRecipe)
    rounds: list[RoundRecipe] = field(default_factory=lambda: [RoundRecipe()])

    def __post_init__(self) -> None:
        if not 0 <= self.valid_share < 1:
            raise ValueError(f"valid_share={self.valid_share}, must lie in [0, 1)")
        if not self.rounds:
            raise ValueError("rounds: at least one is needed")
        if self.rounds[0].teacher.features == "layer":
            raise ValueError("rounds.0.teacher.features=layer: the first round has no encoder to read from; use mfcc")


@dataclass(frozen=True)
class Round:
    """A round with its changes applied."""

    number: int
    teacher: TeacherRecipe
    encoder: EncoderConfig
    objective: ObjectiveRecipe
    mask: SpanMask
    training: TrainingRecipe


def rounds_of(recipe: PretrainRecipe) -> list[Round]:
    """The rounds, each checked before anything runs. Raises RecipeError naming the round and the key."""
    found = []
    for number, r in enumerate(recipe.rounds, 1):
        where = f"round {number}"
        found.append(Round(number, r.teacher, refine(recipe.encoder, r.encoder, f"{where}, encoder"),
                           refine(recipe.objective, r.objective, f"{where}, objective"),
                           refine(recipe.mask, r.mask, f"{where}, mask"),
                           refine(recipe.training, r.training, f"{where}, training")))
        _check_layers(recipe, found)
    return found


def _check_layers(recipe: PretrainRecipe, rounds: list[Round]) -> None:
    """Layers that the newest round names must exist: found out now, not after a round of training."""
    now, where = rounds[-1], f"round {rounds[-1].number}"
    asked = {f"{where}: objective.predict_at": (1, now.objective.predict_at, now.encoder.layers),
             f"{where}: probe.layers": (0, recipe.probe.layers, now.encoder.layers)}
    if now.teacher.features == "layer":
        asked[f"{where}: teacher.layer"] = (1, (now.teacher.layer,), rounds[-2].encoder.layers)
    for name, (first, layers, last) in asked.items():
        wrong = [layer for layer in layers if not first <= layer <= last]
        if wrong:
            raise RecipeError(f"{name}={wrong[0]}: the encoder that it reads has layers {first} to {last}")
