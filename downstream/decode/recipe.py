"""Decoding recipes: a decoder with its files and published weights, by name.

    recipe = load_decoding("librispeech-4gram", ["lm=4-gram.arpa.gz", "lexicon=lexicon.txt", "labels=1h"])
    decoder = recipe.make(symbols, blank)

Weights that ship are as published: of KenLM's log10 scores, in which flashlight and fairseq leave them. Here they weigh
natural logarithms. Since ln P = 2.3026 log10 P, the same product needs the weight divided: 2.46 log10 P = 1.07 ln P.
Word scores are in nats in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from downstream.decode.choice import AnyDecoder, Choice, Name
from downstream.decode.lexicon import LexiconDecoder, natural_lm_weight
from upstream.errors import RecipeError
from upstream.recipe import load_recipe

SHIPPED = Path(__file__).parents[1] / "recipes" / "decoding"


@dataclass(frozen=True)
class PublishedWeights:
    """Of flashlight's search."""

    log10_lm_weight: float  # of KenLM's log10
    word_score: float  # nats


@dataclass(frozen=True)
class DecodingRecipe:
    """What to decode with. None is the decoder's own default."""

    decoder: Name = Name.lexicon  # greedy decoding, pyctcdecode, flashlight, or our own
    lm: str | None = None  # language model: an ARPA file; batched takes packed .ngrams, too, and lexicon a KenLM binary
    lexicon: str | None = None  # file of lines WORD<tab>W O R D |, or of words alone; the model's words if not given
    labels: str = ""  # transcribed speech that the recogniser learnt from: which published weights to take
    pretrained_on: str = ""  # speech that the encoder learnt from: likewise
    lm_weight: float | None = None  # of natural logarithms, in place of the published one
    word_score: float | None = None  # nats, in place of the published one
    beam: int = 50  # hypotheses kept after each frame
    beam_threshold: float | None = None  # nats
    tokens_per_frame: int | None = None  # symbols tried in a frame, at most; all likely ones if not given
    silence_score: float | None = None  # nats for each frame of a separator; of the lexicon decoder
    nbest: int = 1  # candidates that a hypothesis lists
    device: str | None = None  # of torch, for batched; numpy on the CPU if not given
    unspaced: bool = False  # words need no separator between them: of scripts without spaces; of the batched decoder
    published: dict[str, dict[str, PublishedWeights]] = field(default_factory=dict)  # by pretrained_on and labels

    def __post_init__(self) -> None:
        if self.silence_score is not None and self.decoder != Name.lexicon:
            raise ValueError(f"silence_score is for decoder=lexicon, not {self.decoder.value}; leave it out")
        if self.beam_threshold is not None and self.decoder not in (Name.lexicon, Name.batched):
            raise ValueError(f"beam_threshold is for decoder=lexicon and batched, not {self.decoder.value}; set it to "
                             "null")
        if self.unspaced and self.decoder != Name.batched:
            raise ValueError(f"unspaced is for decoder=batched, not {self.decoder.value}; leave it out")
        self.weights()

    def check_given(self) -> None:
        """Raise RecipeError where there are weights, and not the language model that they are of: a recipe that ships
        has everything else, and can be shown without it."""
        if self.lm is not None:
            return
        if self.published:
            raise RecipeError("lm=FILE must be given: the language model that the published weights are of")
        if self.lm_weight is not None or self.word_score is not None:
            raise RecipeError("lm_weight and word_score weigh a language model: give one with lm=FILE, or leave them "
                              "out")

    def weights(self) -> tuple[float | None, float | None]:
        """`lm_weight` of natural logarithms and `word_score`: those that are set, else the published ones.

        Raises:
            ValueError: none are published for these labels or this pretraining; those there are are named.
        """
        if not self.published or None not in (self.lm_weight, self.word_score):
            return self.lm_weight, self.word_score
        by_labels = self.published.get(self.pretrained_on)
        if by_labels is None:
            raise ValueError(f"pretrained_on={self.pretrained_on}: no weights published; there are those of "
                             f"{', '.join(self.published)}")
        if self.labels not in by_labels:
            raise ValueError(f"labels={self.labels}: no weights published; there are those of {', '.join(by_labels)}, "
                             "or set lm_weight and word_score")
        found = by_labels[self.labels]
        return (natural_lm_weight(found.log10_lm_weight) if self.lm_weight is None else self.lm_weight,
                found.word_score if self.word_score is None else self.word_score)

    def make(self, symbols: Sequence[str], blank: int,
             hotwords: tuple[tuple[str, float | None], ...] = ()) -> AnyDecoder:
        """The decoder for a recogniser's symbols, not yet prepared, with `Choice.hotwords`: words to expect belong to
        what is decoded.

        Raises:
            UsageError: settings that the decoder does not have, or a file that is not there.
            RecipeError: as `check_given`.
            InputError: symbols that cannot be decoded with, or a lexicon that they cannot spell.
        """
        self.check_given()
        lm_weight, word_score = (None, None) if self.lm is None else self.weights()
        searches = self.decoder != Name.greedy
        made = Choice(self.decoder, None if self.lm is None else Path(self.lm),
                      None if self.lexicon is None else Path(self.lexicon), lm_weight, word_score,
                      self.beam if searches else None, self.tokens_per_frame, self.nbest,
                      hotwords, self.device, self.unspaced).make(symbols, blank)
        if self.beam_threshold is not None:
            made = replace(made, beam_threshold=self.beam_threshold)  # type: ignore[call-arg,arg-type]
        if isinstance(made, LexiconDecoder) and self.silence_score is not None:
            made = replace(made, silence_score=self.silence_score)
        return made


def load_decoding(source: str | Path, overrides: Sequence[str] = ()) -> DecodingRecipe:
    """A recipe that ships, or a YAML file, with `key=value` overrides, to decode with. Raises as
    `upstream.recipe.load_recipe`, and RecipeError as `DecodingRecipe.check_given`."""
    found = load_recipe(DecodingRecipe, source, overrides, SHIPPED)
    found.check_given()
    return found
