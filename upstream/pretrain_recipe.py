"""What a pretraining recipe may say. `upstream/recipes/*.yaml` fill it in; `key=value` words override it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from upstream.audio.batches import crop_frames
from upstream.audio.caching import CacheRecipe
from upstream.audio.mixing import Mixing
from upstream.audio.speed import FASTEST, SLOWEST
from upstream.errors import RecipeError
from upstream.features.mfcc import MFCC_DIM
from upstream.frames import SAMPLE_RATE
from upstream.model.config import MEL_BINS, EncoderConfig
from upstream.model.masking import LIGHT_MASK, SpanMask
from upstream.model.quantiser import GumbelSchedule
from upstream.recipe import Named, as_settings, refine
from upstream.teacher.gate import GateRules
from upstream.training.loop import TrainingRecipe
from upstream.training.recipe import AUTO

SHIPPED = Path(__file__).with_name("recipes")
USUAL_LAYER = 6  # that a teacher reads, as BASE's second round does
MOST_CLASSES = 1 << 16  # of a stream: units are numbers of 16 bits


@dataclass(frozen=True)
class TeacherRecipe:
    """What is clustered, into how many classes, and how (`upstream.teacher.quantiser` says what the kinds are)."""

    features: Literal["mfcc", "fbank", "layer"] = "mfcc"  # `layer`: of an encoder, the one of the round before
    # layer: 6 if not given; 0 is the input of the first block, 1 its output; `best`: what a sweep picks; a list: a mix
    layer: Any = None
    rounds: tuple[int, ...] = ()  # layer: read the encoders of these rounds, side by side
    encoder: str | None = None  # layer: read this encoder, any that loads; a fine-tuned recogniser's is one
    clusters: Any = 100  # a number, or a list: one for each stream of labels
    sample_frames: int = 1_000_000  # frames that k-means is fitted on, at most
    # they are drawn from utterances with so many times as many frames, drawn first: all that is heard; 0: from all
    sample_within: float = 20.0
    iterations: int = 30  # of k-means, at most
    restarts: int = 1  # of k-means, of which the best counts
    kind: Literal["auto", "single", "ensemble", "product", "residual", "random"] = "auto"  # auto: single or ensemble
    pca: int = 0  # cluster so many principal components; 0: the frames themselves
    whiten: bool = False  # give components unit variance
    stacked: bool = False  # fbank: two frames side by side, what the filterbank front end reads
    cmn: bool = False  # take the mean over its utterance off each frame (`upstream.features.centred`)
    imported: str | None = None  # a folder of a teacher, or a file of centroids (.npy, scikit-learn's joblib)
    units: str | None = None  # a folder of units made elsewhere: phones, another model's labels; nothing is fitted

    def __post_init__(self) -> None:
        if not self.numbers or not all(type(k) is int and k >= 2 for k in self.numbers):
            raise ValueError(f"teacher: clusters={self.clusters} must be at least 2, or a list of such numbers")
        if self.sample_frames < max(self.numbers):
            raise ValueError(f"teacher: sample_frames={self.sample_frames} must be at least as many as clusters="
                             f"{self.clusters}")
        if self.sample_within != 0 and not self.sample_within >= 1:
            raise ValueError(f"teacher: sample_within={self.sample_within:g} must be at least 1, or 0 to draw from all "
                             "utterances")
        if max(self.numbers) > MOST_CLASSES:
            raise ValueError(f"teacher: clusters={self.clusters}: at most {MOST_CLASSES}, for units are numbers of 16 "
                             "bits")
        if min(self.iterations, self.restarts) < 1:
            raise ValueError(f"teacher: iterations={self.iterations} and restarts={self.restarts} must be at least 1")
        self._check_layer()
        if self.kind == "single" and len(self.numbers) > 1:
            raise ValueError(f"teacher: kind=single has one stream; clusters={self.clusters}")
        if self.pca < 0:
            raise ValueError(f"teacher: pca={self.pca}, must be at least 0")
        if self.kind == "random" and (self.pca or self.whiten):
            raise ValueError("teacher: kind=random draws its projection and fits nothing; leave out pca and whiten")
        if self.stacked and self.features != "fbank":
            raise ValueError(f"teacher: stacked=true is for features=fbank, not {self.features}")
        if self.imported is not None and (self.kind != "auto" or self.pca or self.whiten):
            raise ValueError("teacher: imported centroids are used as they are; leave out kind, pca and whiten")
        if self.units is not None:
            useless = [name for name, is_so in (("imported", self.imported is not None), ("kind", self.kind != "auto"),
                                                ("features", self.features == "layer"), ("cmn", self.cmn),
                                                ("pca", self.pca > 0), ("whiten", self.whiten)) if is_so]
            if useless:
                raise ValueError(f"teacher: units={self.units} are used as they are; leave out {', '.join(useless)}")

    def _check_layer(self) -> None:
        if self.layer is None and self.features == "layer":
            object.__setattr__(self, "layer", USUAL_LAYER)
        if self.layer not in (None, "best") and not (self.layers and all(type(k) is int for k in self.layers)
                                                     and len(set(self.layers)) == len(self.layers)):
            raise ValueError(f"teacher: layer={self.layer!r} must be a number or best, or a list of different numbers")
        if self.features != "layer":
            for name, nothing in (("rounds", "[]"), ("encoder", "null"), ("layer", "null")):
                if getattr(self, name) not in ((), None):
                    raise ValueError(f"teacher: {name}={getattr(self, name)} is for features=layer, not "
                                     f"{self.features}; give features=layer as well, or {name}={nothing}")
        if self.rounds and self.encoder is not None:
            raise ValueError(f"teacher: rounds={list(self.rounds)} and encoder={self.encoder}; give one of them")
        if len(set(self.rounds)) < len(self.rounds):
            raise ValueError(f"teacher: rounds={list(self.rounds)} names a round twice")
        if self.layer == "best" and len(self.rounds) > 1:
            raise ValueError("teacher: layer=best picks from one encoder; name the layers, or one round")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are read; none where a sweep is still to pick one, or other features are read."""
        if self.layer is None or self.layer == "best":
            return ()
        return tuple(self.layer) if isinstance(self.layer, list | tuple) else (self.layer,)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Clusters of each stream."""
        return tuple(self.clusters) if isinstance(self.clusters, list | tuple) else (self.clusters,)


@dataclass(frozen=True)
class ContrastiveRecipe:
    """What only wav2vec 2.0 has (Baevski et al. 2020, section 3); defaults are BASE's."""

    groups: int = 2  # codebooks
    entries: int = 320  # of each
    code_dim: int = 256  # dimensions of a quantised frame, all groups together
    negatives: int = 100  # other masked frames of the utterance, for each masked frame
    gumbel: GumbelSchedule = field(default_factory=GumbelSchedule)
    diversity_weight: float = 0.1  # of the loss that keeps all entries in use
    feature_dropout: float = 0.1  # on what the quantiser reads

    def __post_init__(self) -> None:
        if self.groups < 1 or self.entries < 2 or self.code_dim < 1 or self.code_dim % self.groups:
            raise ValueError(f"objective.contrastive: groups={self.groups} must be at least 1, entries={self.entries} "
                             f"at least 2, and code_dim={self.code_dim} a multiple of groups")
        if self.negatives < 1 or self.diversity_weight < 0 or not 0 <= self.feature_dropout < 1:
            raise ValueError(f"objective.contrastive: negatives={self.negatives} must be at least 1, diversity_weight="
                             f"{self.diversity_weight} at least 0, feature_dropout={self.feature_dropout} in [0, 1)")


@dataclass(frozen=True)
class ObjectiveRecipe:
    """What is learnt: `hubert`, the masked prediction of units (HuBERT paper, section II-B), or `wav2vec2`, telling
    quantised frames apart, which needs no teacher."""

    kind: Literal["hubert", "wav2vec2"] = "hubert"  # masked prediction of units, or telling quantised frames apart
    final_dim: int = 256  # dimensions in which predictions are compared with the embeddings of classes
    temperature: float = 0.1  # of the cosine similarities (fairseq's logit_temp)
    feature_penalty: float = 10.0  # times the mean square of the conv features; nothing for plain filterbanks
    # hubert
    head: Literal["cosine", "linear"] = "cosine"  # `linear`: plain linear layer and cross-entropy, as MelHuBERT
    predict_at: tuple[int, ...] = ()  # layers that predict; () is the last one alone
    masked_weight: float = 1.0  # of the loss on masked frames
    unmasked_weight: float = 0.0  # of the loss on frames that are heard; above 0 for short trainings of small encoders
    tied_projections: bool = False  # one projection for all streams of labels
    # wav2vec2
    contrastive: ContrastiveRecipe = field(default_factory=ContrastiveRecipe)

    def __post_init__(self) -> None:
        if self.final_dim < 1 or self.temperature <= 0 or self.feature_penalty < 0:
            raise ValueError(f"objective: final_dim={self.final_dim} must be at least 1, temperature="
                             f"{self.temperature} above 0, feature_penalty={self.feature_penalty} at least 0")
        if min(self.masked_weight, self.unmasked_weight) < 0 or self.masked_weight + self.unmasked_weight == 0:
            raise ValueError(f"objective: masked_weight={self.masked_weight} and unmasked_weight="
                             f"{self.unmasked_weight} must be at least 0, and one of them above it")
        if list(self.predict_at) != sorted(set(self.predict_at)):
            raise ValueError(f"objective.predict_at={list(self.predict_at)}: each layer once, from low to high")
        if self.tied_projections and self.head == "linear":
            raise ValueError("objective.tied_projections=true needs head=cosine: a linear head has no projections")
        unset = _OF_HUBERT if self.kind == "wav2vec2" else ("contrastive",)
        for name, default in _defaults(ObjectiveRecipe).items():
            if name in unset and getattr(self, name) != default:
                raise ValueError(f"objective.{name} plays no part in objective.kind={self.kind}; leave it out")


_OF_HUBERT = ("head", "predict_at", "masked_weight", "unmasked_weight", "tied_projections")


@dataclass(frozen=True)
class ProbeRecipe:
    """PNMI at every validation, for recordings that have alignments."""

    manifest: str | None = None  # aligned utterances; the training data if not given
    alignments: str | None = None  # folder of TextGrid or CTM files, named for the utterances
    layers: tuple[int, ...] = ()  # () is: the middle one and the last
    clusters: int = 100  # of the k-means that is judged
    seconds: float = 1200.0  # of audio, about: the last utterance may end beyond them

    def __post_init__(self) -> None:
        if self.clusters < 2 or not self.seconds > 0:
            raise ValueError(f"probe: clusters={self.clusters} must be at least 2, seconds={self.seconds} above 0")


@dataclass(frozen=True)
class RoundRecipe:
    """One round: its teacher, and what differs from the recipe's encoder, objective, mask, mixing and training.

    With `init` the round starts from the weights of another encoder, whatever `load_encoder` reads, and has its shape;
    of `encoder` only what matters in training (dropouts) may then say something else. Its teacher reads that encoder
    where there is no round before.
    """

    init: str | None = None  # start from the weights of this encoder, any that loads, and have its shape
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    encoder: dict[str, Any] = field(default_factory=dict)  # what differs from the recipe's `encoder` in this round
    objective: dict[str, Any] = field(default_factory=dict)  # likewise
    mask: dict[str, Any] = field(default_factory=dict)  # likewise
    mixing: dict[str, Any] = field(default_factory=dict)  # likewise
    training: dict[str, Any] = field(default_factory=dict)  # likewise


PARTS = ("encoder", "objective", "mask", "mixing", "training")  # of a recipe: may differ in each of its rounds


@dataclass(frozen=True)
class PretrainRecipe:
    """A whole pretraining: what to hear, what to train, and the rounds."""

    data: str = ""  # a manifest, or a folder of audio; must be given
    seed: int = 0  # of every draw: weights, crops, masks, clusters
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the GPU if there is one
    valid_share: float = 0.05  # of the audio, held out by speaker; 0 trains on everything
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    mask: SpanMask = field(default_factory=SpanMask)
    mixing: Mixing = field(default_factory=Mixing)
    speeds: list[float] = field(default_factory=lambda: [1.0])  # a micro-batch is heard at one of them, drawn anew
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    cache: CacheRecipe = field(default_factory=CacheRecipe)
    probe: ProbeRecipe = field(default_factory=ProbeRecipe)
    gate: GateRules = field(default_factory=GateRules)  # what labels must be like before they are trained on
    rounds: list[RoundRecipe] = field(default_factory=lambda: [RoundRecipe()])

    def __post_init__(self) -> None:
        if not 0 <= self.valid_share < 1:
            raise ValueError(f"valid_share={self.valid_share}, must lie in [0, 1)")
        if not self.speeds or not all(SLOWEST <= speed <= FASTEST for speed in self.speeds):
            raise ValueError(f"speeds={self.speeds}: give at least one, each from {SLOWEST:g} to {FASTEST:g}")
        if not self.rounds:
            raise ValueError("rounds: at least one is needed")
        first = self.rounds[0]
        if first.teacher.features == "layer" and first.init is None and first.teacher.encoder is None:
            raise ValueError("rounds.0.teacher.features=layer: the first round has no encoder to read from; use mfcc, "
                             "or name one with rounds.0.init or rounds.0.teacher.encoder")

    def settled(self, named: Named) -> PretrainRecipe:
        """What was meant: a word for all rounds counts in those too that the file gave a value of their own; and what
        was said of `encoder` was said of rounds with `init`, be it a default."""
        rounds = []
        for number, r in enumerate(self.rounds):
            parts: dict[str, Any] = {part: named.yielding(f"rounds.{number}.{part}", part, getattr(r, part))
                                     for part in PARTS}
            if r.init is not None:
                said = named.below("encoder")
                parts["encoder"] = {k: getattr(self.encoder, k) for k in said.file | said.words} | parts["encoder"]
            rounds.append(replace(r, **parts))
        return replace(self, rounds=rounds)


@dataclass(frozen=True)
class Round:
    """A round with its changes applied. `encoder` of one with `init` is right once `rounds_of` was told what it is."""

    number: int
    init: str | None
    teacher: TeacherRecipe
    encoder: EncoderConfig
    objective: ObjectiveRecipe
    mask: SpanMask
    mixing: Mixing
    training: TrainingRecipe
    speeds: tuple[float, ...] = (1.0,)

    @property
    def has_teacher(self) -> bool:
        """Whether there is something to predict that must be made first; `teacher` says nothing otherwise."""
        return self.objective.kind == "hubert"

    @property
    def has_units_already(self) -> bool:
        """Whether what it predicts was made elsewhere, so that no teacher need be."""
        return self.has_teacher and self.teacher.units is not None


def outside_encoders(recipe: PretrainRecipe) -> list[str]:
    """The encoders from elsewhere that rounds start from or teachers read, each once."""
    teachers = [r.teacher for r in recipe.rounds]
    named = [r.init for r in recipe.rounds] + [t.encoder for t in teachers if t.features == "layer"]
    return list(dict.fromkeys(source for source in named if source is not None))


def rounds_of(recipe: PretrainRecipe, outside: Mapping[str, EncoderConfig] | None = None) -> list[Round]:
    """The rounds, each checked before anything runs.

    Args:
        outside: what the `outside_encoders` are; without it, what depends on them is not checked.

    Raises:
        RecipeError: naming the round and the key.
    """
    found: list[Round] = []
    for number, r in enumerate(recipe.rounds, 1):
        where = f"round {number}"
        encoder = refine(recipe.encoder, r.encoder, f"{where}, encoder")
        if outside is not None and r.init is not None:
            encoder = _adapted(outside[r.init], encoder, set(r.encoder), f"{where}: init={r.init}")
        found.append(Round(number, r.init, r.teacher, encoder,
                           refine(recipe.objective, r.objective, f"{where}, objective"),
                           refine(recipe.mask, r.mask, f"{where}, mask"),
                           refine(recipe.mixing, r.mixing, f"{where}, mixing"),
                           refine(recipe.training, r.training, f"{where}, training"), tuple(recipe.speeds)))
        _check_training(found[-1], r.init is None or outside is not None)
        if found[-1].training.keep_best and not recipe.valid_share:
            raise RecipeError(f"{where}: training.keep_best=true: with valid_share=0 nothing says which weights are "
                              "the best; raise valid_share, or leave keep_best out")
        if not found[-1].has_teacher:
            _check_without_teacher(found[-1])
        _check_layers(recipe, found, outside)
        _check_dimensions(found, outside)
    return found


def _check_training(round_: Round, shape_known: bool) -> None:
    """Values of a round's training that do not go with each other, or with its encoder and its mask."""
    training, where = round_.training, f"round {round_.number}"
    auto = training.micro_batch_seconds == AUTO
    if (training.batch_seconds if auto else training.micro_batch_seconds) < training.crop_seconds:
        name = "batch_seconds" if auto else "micro_batch_seconds"
        raise RecipeError(f"{where}: training.{name}={getattr(training, name):g} cannot hold a crop of "
                          f"training.crop_seconds={training.crop_seconds:g}; lower the latter as well")
    if not shape_known:
        return
    if training.shard and round_.encoder.layerdrop > 0:
        raise RecipeError(f"{where}: training.shard=true with encoder.layerdrop={round_.encoder.layerdrop:g}: ranks "
                          "would drop different layers, and wait for each other for ever; set encoder.layerdrop=0")
    grid, least = round_.encoder.grid, round_.mask.least_frames  # recordings under that are left out (`CropReader`)
    if crop_frames(grid, training.crop_seconds) < least:
        needed = math.ceil(grid.samples(least) / SAMPLE_RATE * 1000) / 1000
        raise RecipeError(f"{where}: training.crop_seconds={training.crop_seconds:g}: mask.share={round_.mask.share:g} "
                          f"in spans of mask.span={round_.mask.span} may hide all of so short a crop; give at least "
                          f"{needed:g}, or shorten the spans")


def _adapted(shape: EncoderConfig, wanted: EncoderConfig, named: set[str], where: str) -> EncoderConfig:
    """The configuration of an encoder to start from, with the dropouts that the recipe asks for.

    What the recipe asks for is what the round names (once `settled`, also what file and words do), and what the
    recipe's encoder has other than its default.
    """
    plain = EncoderConfig()
    asked = {f.name: getattr(wanted, f.name) for f in fields(EncoderConfig)
             if f.name in named or getattr(wanted, f.name) != getattr(plain, f.name)}
    for name, value in asked.items():
        if name not in SWITCHES and value != getattr(shape, name):
            raise RecipeError(f"{where} is an encoder with {name}={getattr(shape, name)}, and encoder.{name}={value} "
                              "asks for another; leave it out")
    return replace(shape, **{name: value for name, value in asked.items() if name in SWITCHES})


# what of an encoder matters in training alone
SWITCHES = ("dropout", "attention_dropout", "activation_dropout", "input_dropout", "layerdrop", "feature_grad_mult")


def weights_of(round_: Round) -> dict[str, Any]:
    """What of a round, its training apart, the weights depend on: the settings of its encoder's stage.

    What plays no part is left out or at its default, and options that came later are left out at their defaults: what
    was trained before there were any is not stale.
    """
    encoder, objective = round_.encoder.effective(), as_settings(round_.objective)
    idle = ["feature_penalty"] if round_.encoder.frontend == "fbank" else []  # nothing there learns
    if round_.has_teacher and round_.objective.head == "linear":
        idle += ["final_dim", "temperature"]
    objective |= {name: _defaults(ObjectiveRecipe)[name] for name in idle}
    for name, default in _defaults(EncoderConfig).items():
        if name in _LATER_IN_ENCODER and encoder[name] == default:
            del encoder[name]
    if not round_.has_teacher:
        objective = {k: v for k, v in objective.items() if k not in _OF_HUBERT}
    else:
        del objective["kind"], objective["contrastive"]
        for name, default in (("masked_weight", 1.0), ("tied_projections", False)):
            # With a weight on unmasked frames, what the sum of both is divided by has changed as well.
            if objective[name] == default and not (name == "masked_weight" and objective["unmasked_weight"]):
                del objective[name]
    if encoder["fbank_norm"] == "global":
        encoder["fbank_norm"] = "global, measured"  # once it was a name for none
    if encoder["frontend"] == "light":
        encoder["frontend"] = LIGHT_MASK if round_.has_teacher else f"{LIGHT_MASK}, targets whole"
    settings: dict[str, Any] = {"encoder": encoder, "objective": objective, "mask": as_settings(round_.mask)}
    if round_.speeds != (1.0,):
        settings["speeds"] = list(round_.speeds)
    if round_.mixing.share:
        settings["mixing"] = {"share": round_.mixing.share, "noise_share": round_.mixing.noise_share}
    return settings


_LATER_IN_ENCODER = ("family", "stride_ms", "positional_depth", "relative_buckets", "relative_distance")


def _defaults(schema: type) -> dict[str, Any]:
    return {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(schema)}


def _check_without_teacher(round_: Round) -> None:
    where = f"round {round_.number}: objective.kind={round_.objective.kind}"
    if round_.number > 1:
        raise RecipeError(f"{where} learns without a teacher, so nothing of the round before would reach it; make it "
                          "the first round, or a run of its own")
    if round_.teacher != TeacherRecipe():
        raise RecipeError(f"{where} has no teacher; leave rounds.{round_.number - 1}.teacher out")


def _check_layers(recipe: PretrainRecipe, rounds: list[Round], outside: Mapping[str, EncoderConfig] | None) -> None:
    """Layers that the newest round names must exist: found out now, not after a round of training."""
    now, where = rounds[-1], f"round {rounds[-1].number}"
    asked: list[tuple[str, int, tuple[int, ...], EncoderConfig | None]] = []
    own = now.encoder if now.init is None or outside is not None else None
    asked.append((f"{where}: objective.predict_at", 1, now.objective.predict_at, own))
    asked.append((f"{where}: probe.layers", 0, recipe.probe.layers, own))
    if now.has_teacher and now.teacher.features == "layer":
        later = [n for n in now.teacher.rounds if not 1 <= n < now.number]
        if later:
            raise RecipeError(f"{where}: teacher.rounds={later[0]}: a teacher reads rounds before its own")
        for config in encoders_read_by(now, rounds, outside):
            asked.append((f"{where}: teacher.layer", 0, now.teacher.layers, config))
    for name, first, layers, config in asked:
        wrong = [layer for layer in layers if config is not None and not first <= layer <= config.layers]
        if wrong and config is not None:
            raise RecipeError(f"{name}={wrong[0]}: the encoder that it reads has layers {first} to {config.layers}")


def _check_dimensions(rounds: list[Round], outside: Mapping[str, EncoderConfig] | None) -> None:
    """The frames that the newest round's teacher reads must have the components and slices that it asks for."""
    now, teacher = rounds[-1], rounds[-1].teacher
    dim = dimensions_read(now, rounds, outside)
    if not now.has_teacher or dim is None:
        return
    where = f"round {now.number}: teacher"
    if teacher.pca > dim:
        raise RecipeError(f"{where}.pca={teacher.pca}: the frames that it reads have {dim} dimensions; give 1 to "
                          f"{dim}, or 0 for none")
    count, left = len(teacher.numbers), teacher.pca or dim
    if teacher.kind == "product" and left % count:
        raise RecipeError(f"{where}.kind=product with clusters={list(teacher.numbers)}: {left} dimensions do not "
                          f"divide into {count} equal slices; choose pca as a multiple of {count}, or another number "
                          "of codebooks")


def dimensions_read(now: Round, rounds: list[Round], outside: Mapping[str, EncoderConfig] | None) -> int | None:
    """Numbers of a frame that a round's teacher reads; None where an encoder that it reads is not known yet."""
    teacher = now.teacher
    if teacher.features != "layer":
        return MFCC_DIM if teacher.features == "mfcc" else MEL_BINS * (1 + teacher.stacked)
    widths = [None if config is None else config.width for config in encoders_read_by(now, rounds, outside)]
    known = [width for width in widths if width is not None]
    return sum(known) * max(1, len(teacher.layers)) if len(known) == len(widths) else None


def encoders_read_by(now: Round, rounds: list[Round],
                     outside: Mapping[str, EncoderConfig] | None) -> list[EncoderConfig | None]:
    """What the encoders are that a round's teacher reads; None where that is not known yet."""
    source = now.teacher.encoder or (now.init if now.number == 1 else None)
    if source is not None:
        return [None if outside is None else outside[source]]
    read = [rounds[n - 1] for n in now.teacher.rounds or (now.number - 1,)]
    return [r.encoder if r.init is None or outside is not None else None for r in read]
