"""What self-training needs, looked at before anything is made: its sets and that they are apart, symbols, files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from downstream.decode.alphabet import alphabet
from downstream.decode.choice import AnyDecoder
from downstream.decode.flashlight_search import words_of_model
from downstream.decode.greedy import GreedyDecoder
from downstream.decode.lexicon import LexiconDecoder
from downstream.decode.tune import findable
from downstream.decode.word_model import MODEL, check_coverage, check_language_model
from downstream.finetune import build_recogniser
from downstream.finetune_recipe import SCRATCH, FinetuneRecipe
from downstream.finetune_start import check_layers, check_start
from downstream.kept_head import check_head, check_kinds
from downstream.lm.arrays import model_hash
from downstream.pseudo_labels import LEAST_TEXTS, too_few_texts
from downstream.recogniser import load_recogniser, recogniser_hash
from downstream.score.rates import of_phrases
from downstream.score.shared import copied_audio, shared_audio, shared_ids
from downstream.selftrain_recipe import SelftrainRecipe
from downstream.text.lexicon import Lexicon
from downstream.text.vocabulary import Vocabulary, spelled_as
from upstream.audio.manifest import Manifest
from upstream.disk import file_hash, read_json
from upstream.errors import FormatError, InputError, RecipeError, UsageError
from upstream.model.config import EncoderConfig
from upstream.progress import say
from upstream.recipe import refine
from upstream.round_teacher import blamed_on
from upstream.run_stages import refuse_other_stages

RESULTS = "selftrain.json"
SELFTRAINING = "self-training"  # what the run is called
FORMAT = "hubertkit selftrain"


@dataclass(frozen=True)
class Sets:
    """What a run learns from and tunes on.

    Attributes:
        labelled: utterances with transcripts.
        unlabelled: without the labelled ones, and without transcripts, whatever the file has.
        references: its transcripts, where there are any: for a diagnosis that nothing learns from.
        dev: with transcripts.
        vocabulary: of the first teacher.
        teacher_hash: of a recogniser that was given; None where it is still to be trained.
        lm_hash, lexicon_hash: of the decoder's files; None without one.
    """

    labelled: Manifest
    unlabelled: Manifest
    references: dict[str, str]
    dev: Manifest
    vocabulary: Vocabulary
    teacher_hash: str | None
    lm_hash: str | None
    lexicon_hash: str | None

    @property
    def diagnosed(self) -> bool:
        """Whether there are transcripts to hold pseudo labels against."""
        return any(self.references.values())


def check_selftrain(recipe: SelftrainRecipe, out: Path, say: Callable[[str], None] = say) -> Sets:
    """Look at what a run needs before anything is made.

    Raises:
        UsageError: a set that is not given or not there, files of the decoder that are not, settings that cannot be,
            weights without the language model that they are of, a file of somebody else or another kind of run where
            the results go, something given that lies where the run writes.
        InputError: sets that share recordings, no transcripts, symbols that are not the teacher's, a language model or
            lexicon without the words of dev, or that the teacher could not write.
    """
    _refuse_other_results(out)
    refuse_other_stages(out, SELFTRAINING)
    _refuse_own_rounds(recipe, out)
    for name, what in (("labelled", "transcripts to learn from"), ("unlabelled", "recordings to label"),
                       ("dev", "transcripts to validate and tune on")):
        if not getattr(recipe, name):
            raise UsageError(f"no {what}: give {name}=MANIFEST")
    try:
        recipe.decoding.check_given()
    except RecipeError as error:
        raise RecipeError(f"decoding: {error}") from error
    for name in ("lm", "lexicon"):
        file = getattr(recipe.decoding, name)
        if file is not None and not Path(file).is_file():
            raise UsageError(f"decoding.{name}={file}: no such file")
    labelled = _with_transcripts(Manifest.load(recipe.labelled), recipe.labelled, say)
    dev, unlabelled = Manifest.load(recipe.dev), Manifest.load(recipe.unlabelled)
    _refuse_held_out(recipe, labelled, unlabelled, dev)
    unlabelled = _without(unlabelled, labelled, recipe, say)
    vocabulary, teacher_hash = _check_trainings(recipe, out)
    if not any((text or "").split() for text in dev.texts):
        raise InputError(f"dev={recipe.dev}: no transcript has a word, and error rates are measured in words")
    decoder = recipe.decoding.make(vocabulary.symbols, vocabulary.blank)
    if isinstance(decoder, LexiconDecoder) and isinstance(decoder.lexicon, Lexicon):
        _refuse_other_letters(decoder.lexicon.words, recipe, vocabulary)
    _check_words(recipe, decoder, vocabulary, dev)
    if recipe.unit == "word" and of_phrases(text or "" for text in dev.texts):
        say(f"warning: dev={recipe.dev}: words are counted, and those of the transcripts look like whole phrases; "
            "where there are no spaces between words, give tuning.unit=character and, unless decoding is greedy, "
            "decoding.unspaced=true")
    if recipe.filter.confidence == "normalised" and len(dev) < LEAST_TEXTS:
        raise InputError(too_few_texts(len(dev)))
    _warn_of_scratch(recipe, say)
    lm, lexicon = recipe.decoding.lm, recipe.decoding.lexicon
    return Sets(labelled, unlabelled.with_texts([None] * len(unlabelled)),
                {id: text for id, text in zip(unlabelled.ids, unlabelled.texts) if text is not None}, dev, vocabulary,
                teacher_hash, None if lm is None else model_hash(Path(lm)),
                None if lexicon is None else file_hash(Path(lexicon)))


def _check_trainings(recipe: SelftrainRecipe, out: Path) -> tuple[Vocabulary, str | None]:
    """The symbols of the first teacher, and its hash where it is given. What a training would find wrong is said now:
    the last one may begin in hours."""
    untrained = str(out / "round0" / "recogniser")
    student = recipe.studying(recipe.labelled, recipe.recogniser or untrained)
    _, _, learnt = check_start(student, out / "round1" / "recogniser")
    encoder = recipe.encoder if student.encoder == untrained else student.encoder  # of the same shape
    if encoder == SCRATCH:
        shape = (recipe.finetune if student.encoder == untrained else student).architecture
        check_layers(student, refine(shape, student.changes, "changes").layers)
    else:
        model = build_recogniser(replace(student, encoder=encoder, keep_head=False), learnt)
        check_layers(student, model.encoder.config.layers)
    vocabulary, teacher_hash = _check_first_teacher(recipe, student, learnt, out)
    if student.keep_head and student.encoder == untrained:
        check_kinds(recipe.finetune.head, student.head, "the first teacher")
    else:  # what a student may come to write
        check_head(student, learnt if student.symbols == "english" else Vocabulary.of(["".join(vocabulary.letters)]))
    return vocabulary, teacher_hash


def _check_first_teacher(recipe: SelftrainRecipe, student: FinetuneRecipe, learnt: Vocabulary,
                         out: Path) -> tuple[Vocabulary, str | None]:
    """As `_check_trainings`; `learnt` are the symbols that the labels teach a student."""
    if recipe.recogniser is None:
        _, _, vocabulary = check_start(recipe.teaching(), out / "round0" / "recogniser")
        check_head(recipe.teaching(), vocabulary)
        return vocabulary, None
    model, vocabulary = load_recogniser(Path(recipe.recogniser))
    if student.symbols == "english" and vocabulary.letters != learnt.letters:
        raise InputError(f"{recipe.recogniser}: writes {vocabulary.shown()}, and a student with finetune.symbols="
                         f"english {learnt.shown()}; give finetune.symbols=data, or another recogniser")
    if more := sorted(learnt.letters - vocabulary.letters):
        raise InputError(f"{recipe.labelled}: has the character {more[0]!r}, which {recipe.recogniser} never writes "
                         f"({vocabulary.shown()}); normalise the transcripts as its own were")
    return vocabulary, recogniser_hash(model)


def _check_words(recipe: SelftrainRecipe, decoder: AnyDecoder, vocabulary: Vocabulary, dev: Manifest) -> None:
    """What loading and tuning would find wrong with the words of a language model or lexicon once the first teacher is
    trained: words are all that it takes to know.

    Raises:
        UsageError, FormatError: a model whose words cannot be read.
        InputError: words that the teacher cannot write, or that are not those of dev.
    """
    if isinstance(decoder, GreedyDecoder) or decoder.lm is None:
        return
    letters = alphabet(vocabulary.symbols, vocabulary.blank)
    with blamed_on(f"decoding.lm={recipe.decoding.lm}"):
        if isinstance(decoder, LexiconDecoder) and decoder.lexicon is None:
            words_of_model(decoder.lm, letters)
        whose, words = findable(decoder)
        if whose == MODEL:
            check_language_model(words, letters)
    if recipe.tunes:
        texts = [spelled_as(text or "", letters.letters) for text in dev.texts]
        with blamed_on(f"decoding.{'lm' if whose == MODEL else 'lexicon'}, dev={recipe.dev}"):
            check_coverage(whose, words, texts, unit=recipe.tuning.unit)


def _warn_of_scratch(recipe: SelftrainRecipe, say: Callable[[str], None]) -> None:
    """Say that students of a given recogniser would start from nothing, where nobody has said of what shape: the word
    that names an encoder may be forgotten."""
    shape = recipe.studying("", "").architecture
    if recipe.recogniser is None or recipe.start == "recogniser" or recipe.encoder != SCRATCH:
        return
    if shape == EncoderConfig():
        say(f"warning: recogniser={recipe.recogniser} without encoder: students start from random weights of the "
            f"default shape ({shape.layers} layers of {shape.width}), with nothing of it but its labels; give "
            "encoder=DIR, what it was fine-tuned from or itself, or start=recogniser; or finetune.architecture, if "
            "that is meant")


def _with_transcripts(manifest: Manifest, name: str, say: Callable[[str], None]) -> Manifest:
    there = [text is not None for text in manifest.texts]
    if not any(manifest.texts):
        raise InputError(f"labelled={name}: no utterance has a transcript; is `text` filled in the manifest?")
    if all(there):
        return manifest
    say(f"{there.count(False)} of {len(there)} labelled utterances have no transcript and are left out")
    return manifest.select([place for place, has in enumerate(there) if has])


def _without(unlabelled: Manifest, labelled: Manifest, recipe: SelftrainRecipe,
             say: Callable[[str], None]) -> Manifest:
    """The unlabelled utterances that are not labelled too: these stay with their true transcripts."""
    if not len(unlabelled):
        raise InputError(f"unlabelled={recipe.unlabelled}: holds no utterances")
    same, others = shared_ids(unlabelled, labelled)
    if others:
        raise InputError(f"{others[0]} and {len(others) - 1} more ids are both in labelled={recipe.labelled} and in "
                         f"unlabelled={recipe.unlabelled}, for files that differ; give one set ids of its own "
                         "(hubertkit corpus import ... --prefix more-)")
    known = {*same, *shared_audio(unlabelled, labelled), *(copy for _, copy in copied_audio(labelled, unlabelled))}
    if len(known) == len(unlabelled):
        raise InputError(f"unlabelled={recipe.unlabelled}: all {len(unlabelled)} utterances are labelled; there is "
                         "nothing to label")
    if not known:
        return unlabelled
    say(f"{len(known)} of {len(unlabelled)} unlabelled utterances are labelled too, and keep their transcripts")
    return unlabelled.select([place for place, id in enumerate(unlabelled.ids) if id not in known])


def _refuse_held_out(recipe: SelftrainRecipe, labelled: Manifest, unlabelled: Manifest, dev: Manifest) -> None:
    """Raise InputError where dev or test could be learnt from, or test tuned on."""
    learnt = {f"labelled={recipe.labelled}": labelled, f"unlabelled={recipe.unlabelled}": unlabelled}
    _refuse_shared(f"dev={recipe.dev}", dev, learnt.items())
    if recipe.test is not None:
        _refuse_shared(f"test={recipe.test}", Manifest.load(recipe.test), [*learnt.items(), (f"dev={recipe.dev}", dev)])


def _refuse_shared(name: str, held: Manifest, others: Iterable[tuple[str, Manifest]]) -> None:
    for other_name, other in others:
        same, only_ids = shared_ids(held, other)
        both = sorted({*same, *shared_audio(held, other)})
        if both:
            raise InputError(f"{both[0]} and {len(both) - 1} more utterances of {name} are in {other_name} as well; a "
                             "score on what was learnt from or tuned on says nothing: take them out of one of the two")
        if only_ids:
            raise InputError(f"{only_ids[0]} and {len(only_ids) - 1} more ids are both in {name} and in {other_name}, "
                             "for files that differ; if these are other recordings, give them ids of their own "
                             "(hubertkit corpus import ... --prefix dev-)")
        if copies := copied_audio(held, other):
            one, copy = copies[0]
            raise InputError(f"{copy} and {len(copies) - 1} more utterances of {other_name} are copies of recordings "
                             f"of {name} ({copy} of {one}); a score on what was learnt from or tuned on says nothing: "
                             "take them out of one of the two")


def _refuse_other_letters(words: Iterable[str], recipe: SelftrainRecipe, vocabulary: Vocabulary) -> None:
    """Raise InputError where a lexicon spells words otherwise than by their characters, and a student could not learn
    these."""
    for word in words:
        if odd := sorted(set(spelled_as(word, vocabulary.letters)) - vocabulary.letters):
            raise InputError(f"decoding.lexicon={recipe.decoding.lexicon}: {word!r} has {odd[0]!r}, which no "
                             f"recogniser of this run writes ({vocabulary.shown()}), and a student learns the "
                             "characters of words; write it in these, or leave it out")


def _refuse_own_rounds(recipe: SelftrainRecipe, out: Path) -> None:
    """Raise UsageError where something that is given lies in a round that the run will write over, which a run of
    before left there."""
    given = {name: getattr(recipe, name) for name in ("labelled", "unlabelled", "dev", "test", "recogniser", "encoder")}
    given |= {f"decoding.{name}": getattr(recipe.decoding, name) for name in ("lm", "lexicon")}
    folders = {(out / f"round{number}").resolve() for number in range(1, recipe.rounds + 1)}
    for name, value in given.items():
        if value and value != SCRATCH and not folders.isdisjoint(Path(value).resolve().parents):
            raise UsageError(f"{name}={value}: lies in a round of {out}, which this run would write over; give another "
                             "folder (--out), or copy it first")


def _refuse_other_results(out: Path) -> None:
    """Raise UsageError where the results would be written over a file of somebody else."""
    path = out / RESULTS
    if not path.exists():
        return
    try:
        found = read_json(path) if path.is_file() else None
    except FormatError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UsageError(f"{path}: is there already and no run of ours wrote it, so it is left as it is; give another "
                         "folder to write to, or move it away")
