"""What a self-training recipe may say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from downstream.decode.choice import Name
from downstream.decode.recipe import DecodingRecipe
from downstream.decode.tune import Search
from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.score.rates import RATES, Unit, rates_of
from upstream.recipe import Named, refine

SHIPPED = Path(__file__).parent / "recipes" / "selftrain"
OF_THE_RUN = ("data", "dev", "encoder")  # of a fine-tuning
Measure = Literal["acoustic", "score", "normalised", "words"]
LOOP: dict[Unit, int] = {"word": 4, "character": 8}  # in a row; words of Mandarin have about two characters


@dataclass(frozen=True)
class FilterRecipe:
    """Which pseudo labels are learnt from. Empty ones never are; null, or 1 of `keep`, turns a filter off.

    Each filter looks at what those before it have left, in the order of the keys; `keep` comes last. Sources: Kahn et
    al. 2020 ("Self-training for end-to-end speech recognition") for confidence, `keep` and loops, Park et al. 2020
    ("Improved noisy student training for automatic speech recognition") for `normalised`, Chen et al. 2022 ("Improving
    noisy student training on non-target domain data", the "LM filter") for disagreement. Limits of speaking rate are
    the plain check for words that the audio has no time for.

    With `decoding.unspaced`, or greedy decoding and `tuning.unit=character`, every word here is a character, white
    space none: spaces part no words then.
    """

    least_words_a_second: float | None = None  # of a label
    most_words_a_second: float | None = None  # of a label
    loop_words: int | None = None  # a loop: so many words in a row (4 if not given; of characters 8) ...
    loop_times: int | None = 2  # ... that come more often than so many times
    most_disagreement: float | None = None  # percent: CER of greedy decoding against the label
    # How sure the teacher is of a label (`pseudo_labels.confidence` says of each measure what it is, and its unit).
    confidence: Measure = "acoustic"
    least_confidence: float | None = None  # in the measure's unit
    keep: float = 1.0  # share of the utterances, those of the highest confidence

    def __post_init__(self) -> None:
        low, high = self.least_words_a_second or 0.0, self.most_words_a_second
        if low < 0 or (high is not None and high <= low):
            raise ValueError(f"filter: least_words_a_second={low:g} must be at least 0, and below most_words_a_second="
                             f"{high}")
        if any(limit is not None and limit < 1 for limit in (self.loop_words, self.loop_times)):
            raise ValueError(f"filter: loop_words={self.loop_words} and loop_times={self.loop_times} must be at least "
                             "1; loop_times=null keeps loops")
        if self.most_disagreement is not None and self.most_disagreement < 0:
            raise ValueError(f"filter: most_disagreement={self.most_disagreement:g}, must be at least 0 (percent)")
        if not 0 < self.keep <= 1:
            raise ValueError(f"filter: keep={self.keep:g}, a share of the utterances, must lie above 0 and not above 1")

    def counting(self, unit: Unit) -> FilterRecipe:
        """These filters, nothing left open that depends on what texts are counted in."""
        return replace(self, loop_words=LOOP[unit] if self.loop_words is None else self.loop_words)


@dataclass(frozen=True)
class TuningRecipe:
    """How the weights of the language model are searched for, on dev; not at all where `decoding` gives both."""

    seconds: float = 300.0  # audio of dev that the search decodes each time, about
    decodes: int = 8  # pairs of weights that the search decodes with, at most
    # What the search counts errors in. A weak teacher's words are mostly wrong whatever the weights, and a student
    # learns characters; and where there are no spaces between words, they are all there is to count: by filters and
    # error rates as well with decoding.unspaced, or with decoding.decoder=greedy.
    unit: Literal["word", "character"] = "word"

    def __post_init__(self) -> None:
        if self.decodes < 3 or not self.seconds > 0:
            raise ValueError(f"tuning: decodes={self.decodes} must be at least 3, one for each start of the search, "
                             f"and seconds={self.seconds:g} above 0")

    def search(self) -> Search:
        """What is tried: teachers may be weak."""
        return Search.for_weak(self.decodes, self.seconds)


@dataclass(frozen=True)
class SelftrainRecipe:
    """A teacher writes what it hears in unlabelled audio, and students learn from that beside the labels."""

    SETS_ITSELF: ClassVar[tuple[str, ...]] = tuple(f"finetune.{name}" for name in OF_THE_RUN)  # none may be given

    labelled: str = ""  # manifest with transcripts; must be given
    unlabelled: str = ""  # manifest; its transcripts, if there are any, are never learnt from; must be given
    dev: str = ""  # manifest with transcripts, for validation and the language model's weights; must be given
    test: str | None = None  # manifest of the final score: none of it may be learnt from or tuned on
    recogniser: str | None = None  # the first teacher; not given: fine-tuned on the labels first
    encoder: str = SCRATCH  # that trainings start from: an encoder folder, or `scratch`
    # What a student starts from: the encoder, as the papers do, or the recogniser that taught it: its encoder and, with
    # `student.keep_head`, its head, which starts anew otherwise.
    start: Literal["encoder", "recogniser"] = "encoder"
    rounds: int = 1  # students, each the teacher of the next
    labelled_repeats: int = 1  # how often each labelled utterance stands in a student's data, each time drawn anew
    finetune: FinetuneRecipe = field(default_factory=FinetuneRecipe)
    student: dict[str, Any] = field(default_factory=dict)  # what of `finetune` is another for students
    decoding: DecodingRecipe = field(default_factory=lambda: DecodingRecipe(decoder=Name.batched))
    tuning: TuningRecipe = field(default_factory=TuningRecipe)
    filter: FilterRecipe = field(default_factory=FilterRecipe)

    def __post_init__(self) -> None:
        if min(self.rounds, self.labelled_repeats) < 1:
            raise ValueError(f"rounds={self.rounds} and labelled_repeats={self.labelled_repeats} must be at least 1")
        for name in OF_THE_RUN:
            if getattr(self.finetune, name) != getattr(FinetuneRecipe(), name):
                raise ValueError(f"finetune.{name}: the run sets it itself; give labelled, dev and encoder beside "
                                 "`finetune`")
            if name in self.student:
                raise ValueError(f"student.{name}: the run sets it itself; leave it out")
        if "symbols" in self.student:
            raise ValueError("student.symbols: a student writes what its teacher writes; give finetune.symbols")
        if self.decoding.lm is not None and (self.decoding.lm_weight is None) != (self.decoding.word_score is None):
            raise ValueError("decoding: give both lm_weight and word_score, or neither, and they are tuned on dev")

    def settled(self, named: Named) -> SelftrainRecipe:
        """What was meant: a word for `finetune` counts also for students, to which the file gave a value of their
        own."""
        return replace(self, student=named.yielding("student", "finetune", self.student))

    def teaching(self) -> FinetuneRecipe:
        """The fine-tuning of the first teacher."""
        return replace(self.finetune, data=self.labelled, dev=self.dev, encoder=self.encoder)

    def studying(self, data: str, before: str) -> FinetuneRecipe:
        """The fine-tuning of a student. Raises RecipeError naming a key that `student` cannot have.

        Args:
            data: its manifest.
            before: folder of its teacher.
        """
        changed = refine(self.finetune, self.student, "student")
        return replace(changed, data=data, dev=self.dev, encoder=self.encoder if self.start == "encoder" else before)

    @property
    def unit(self) -> Unit:
        """What filters and error rates count of texts: characters where words have no spaces between them. Of greedy
        decoding, which looks for no words, `tuning.unit` says it."""
        greedy = self.decoding.decoder == Name.greedy
        return "character" if self.decoding.unspaced or (greedy and self.tuning.unit == "character") else "word"

    @property
    def rates(self) -> tuple[str, ...]:
        """Of dev and labels, that which is to be read first before the other, where there are two."""
        weak = self.tuning.unit == "character" and self.unit == "word"  # words mostly wrong, but words
        return tuple(reversed(RATES)) if weak else rates_of(self.unit)

    @property
    def tunes(self) -> bool:
        """Whether the weights of a language model are to be found."""
        return self.decoding.lm is not None and None in self.decoding.weights()
