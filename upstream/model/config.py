"""What an encoder is made of: every size and switch of a HuBERT-like model, checked when it is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal

from upstream.errors import RecipeError, UsageError
from upstream.frames import CONV_GRID, STACKED_GRID, WIDE_GRID, FrameGrid

MEL_BINS = 80

_PROBABILITIES = ("dropout", "attention_dropout", "activation_dropout", "input_dropout", "layerdrop")
_SIZES = ("conv_dim", "width", "layers", "heads", "ffn", "positional_kernel", "positional_groups", "positional_depth")
_IDLE = {  # what plays no part with a front end
    "conv": ("fbank_norm",), "light": ("conv_norm",),
    "fbank": ("conv_dim", "conv_bias", "conv_norm", "feature_grad_mult"),
}
_FAMILIES = ("hubert", "wav2vec2", "wavlm", "data2vec")


@dataclass(frozen=True)
class EncoderConfig:
    """Shape and training-time switches of an encoder; the defaults are HuBERT BASE.

    fairseq's names of the same settings stand behind the fields where they differ.

    Raises:
        RecipeError: a size below 1, a probability outside [0, 1), a width that heads or groups do not divide, a body
            that is not its family's.
    """

    # Whose checkpoint files it is written as. HuBERT and wav2vec 2.0 have one body, the others settings of their own.
    family: Literal["hubert", "wav2vec2", "wavlm", "data2vec"] = "hubert"
    # conv: seven convolutions on the waveform; fbank: filterbanks; light: two small convolutions on filterbanks
    frontend: Literal["conv", "fbank", "light"] = "conv"
    stride_ms: Literal[20, 40] = 20  # from one frame to the next; conv has 20
    conv_dim: int = 512  # channels of every convolution of the front end
    conv_bias: bool = False  # whether the convolutions have biases
    conv_norm: Literal["group", "layer"] = "group"  # extractor_mode: default, layer_norm
    fbank_norm: Literal["utterance", "global", "none"] = "utterance"  # mean and variance of each mel bin
    normalize: bool = False  # the encoder expects waveforms of zero mean and unit variance (task.normalize)

    width: int = 768  # encoder_embed_dim
    layers: int = 12  # blocks of the Transformer
    heads: int = 12  # of attention; width is a multiple of it
    ffn: int = 3072  # encoder_ffn_embed_dim
    pre_norm: bool = False  # layer_norm_first
    positional_kernel: int = 128  # conv_pos, in frames
    positional_groups: int = 16  # conv_pos_groups
    positional_depth: int = 1  # pos_conv_depth; data2vec: 5 convolutions, each of positional_kernel (19) frames
    relative_buckets: int = 0  # num_buckets; wavlm: 320 learned biases of attention by offset, 0 is none
    relative_distance: int = 800  # max_distance, in frames: offsets from here on share a bucket

    dropout: float = 0.1  # after the positional convolution, attention and feed-forward
    attention_dropout: float = 0.1  # on the attention weights
    activation_dropout: float = 0.0  # between the two feed-forward matrices
    input_dropout: float = 0.1  # dropout_input, on the projected features
    layerdrop: float = 0.05  # chance that a block is skipped in training
    feature_grad_mult: float = 0.1  # scales the gradient that reaches the conv front end; 0 freezes it

    def __post_init__(self) -> None:
        _choice("family", self.family, _FAMILIES)
        _choice("frontend", self.frontend, ("conv", "fbank", "light"))
        if self.stride_ms not in ((20,) if self.frontend == "conv" else (20, 40)):
            raise RecipeError(f"encoder: stride_ms={self.stride_ms}, must be 20, or 40 with frontend fbank or light")
        _choice("conv_norm", self.conv_norm, ("group", "layer"))
        _choice("fbank_norm", self.fbank_norm, ("utterance", "global", "none"))
        for name in (*_SIZES, "relative_buckets", "relative_distance"):
            if not isinstance(getattr(self, name), Integral):
                raise RecipeError(f"encoder: {name}={getattr(self, name)!r}, must be a whole number")
        for name in (*_PROBABILITIES, "feature_grad_mult"):
            if not isinstance(getattr(self, name), Real):
                raise RecipeError(f"encoder: {name}={getattr(self, name)!r}, must be a number")
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise RecipeError(f"encoder: {name}={getattr(self, name)}, must be at least 1")
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"encoder: {name}={getattr(self, name)}, must lie in [0, 1)")
        for name in ("heads", "positional_groups"):
            if self.width % getattr(self, name):
                raise RecipeError(f"encoder: width={self.width} is not a multiple of {name}={getattr(self, name)}")
        if self.feature_grad_mult < 0:
            raise RecipeError(f"encoder: feature_grad_mult={self.feature_grad_mult}, must be at least 0")
        self._check_body()

    def _check_body(self) -> None:
        """What tells the families' bodies apart; transformers has no model for other combinations."""
        if (self.relative_buckets != 0) != (self.family == "wavlm"):
            raise RecipeError(f"encoder: relative_buckets={self.relative_buckets} with family={self.family!r}; wavlm "
                              "has some (320), the others have 0")
        if self.relative_buckets and not 4 <= self.relative_buckets < 4 * self.relative_distance:
            raise RecipeError(f"encoder: relative_buckets={self.relative_buckets}, must be at least 4 and below 4 * "
                              f"relative_distance={4 * self.relative_distance}")
        if (self.positional_depth > 1) != (self.family == "data2vec"):
            raise RecipeError(f"encoder: positional_depth={self.positional_depth} with family={self.family!r}; "
                              "data2vec has several convolutions (5), the others have 1")
        if self.family == "data2vec" and (self.pre_norm or self.conv_norm != "layer"):
            raise RecipeError("encoder: family='data2vec' has pre_norm=false and conv_norm='layer' only")

    @property
    def grid(self) -> FrameGrid:
        """How the front end cuts a waveform into frames: all with the same stride give the same number for a length."""
        if self.stride_ms == 40:
            return WIDE_GRID
        return CONV_GRID if self.frontend == "conv" else STACKED_GRID

    @property
    def feature_dim(self) -> int:
        """Numbers a frame leaves the front end with."""
        return MEL_BINS * self.grid.kernels[1] if self.frontend == "fbank" else self.conv_dim

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `from_dict` reads them back."""
        return asdict(self)

    def effective(self) -> dict[str, Any]:
        """`to_dict` with what plays no part at its default: the same for encoders that differ in nothing else."""
        idle = _IDLE[self.frontend] + (() if self.relative_buckets else ("relative_distance",))
        return self.to_dict() | {field.name: field.default for field in fields(self) if field.name in idle}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> EncoderConfig:
        """The inverse of `to_dict`; missing keys take their defaults.

        Raises:
            RecipeError: an unknown key or a bad value.
        """
        unknown = sorted(set(values) - {field.name for field in fields(EncoderConfig)})
        if unknown:
            raise RecipeError(f"encoder: unknown setting {unknown[0]!r}")
        return EncoderConfig(**values)


def check_config(config: object) -> None:
    """Raise UsageError for what is no configuration, such as the name or the encoder that has it."""
    if not isinstance(config, EncoderConfig):
        what = repr(config) if isinstance(config, str) else f"of type {type(config).__name__}"
        raise UsageError(f"config is {what}: expected an EncoderConfig, as `config` of an encoder is")


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RecipeError(f"encoder: {name}={value!r}, must be one of {', '.join(choices)}")
