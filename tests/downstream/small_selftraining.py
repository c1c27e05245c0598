"""Self-training that takes seconds: three letters that are three pitches, a language model of their words, a recipe."""

import dataclasses
from pathlib import Path

from test_finetune import SHAPE, TRAINING
from tones import write_tones

from downstream.decode.choice import Name
from downstream.decode.recipe import DecodingRecipe
from downstream.finetune_recipe import FinetuneRecipe, SpecMaskRecipe
from downstream.lm.arpa import write_arpa
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from downstream.selftrain import selftrain
from downstream.selftrain_recipe import FilterRecipe, SelftrainRecipe, TuningRecipe
from upstream.audio import Manifest
from upstream.training.optimiser import OptimiserRecipe

LEARNING = dataclasses.replace(TRAINING, updates=110, validate_every=110, save_every=110,
                               optimiser=OptimiserRecipe(peak_rate=4e-3, warmup_updates=10, weight_decay=0.0))
STUDENT = {"training": {"updates": 4, "validate_every": 4, "save_every": 2}}
STAGES = ["round0/recogniser", "round0/dev-emissions", "round0/tuned", "round1/emissions", "round1/hypotheses",
          "round1/data", "round1/diagnosis", "round1/recogniser", "round1/dev-emissions", "round1/tuned"]


def write_corpus(folder: Path) -> Path:
    """`train.arrow` of ten utterances, `labelled.arrow` of the first four, `dev.arrow` of three others, `text.txt` and
    its model `lm.arpa`; gives the folder."""
    write_tones(folder, [2] * 13, dev=3)
    Manifest.load(folder / "train.arrow").select(range(4)).save(folder / "labelled.arrow")
    words = [f"{a}{b}{c}" for a in "ABC" for b in "ABC" for c in "ABC"]
    (folder / "text.txt").write_text("\n".join(f"{a} {b}" for a, b in zip(words, words[5:] + words[:5])) + "\n")
    write_arpa(estimate([folder / "text.txt"], 2, Options(fallback=FALLBACK)), folder / "lm.arpa")
    return folder


def recipe(corpus, **changes):
    values = {"labelled": str(corpus / "labelled.arrow"), "unlabelled": str(corpus / "train.arrow"),
              "dev": str(corpus / "dev.arrow"), "student": STUDENT, "labelled_repeats": 2,
              "finetune": FinetuneRecipe(architecture=SHAPE, mask=SpecMaskRecipe(0, 5, 0, 8), training=LEARNING),
              "decoding": DecodingRecipe(decoder=Name.batched, lm=str(corpus / "lm.arpa"), beam=10),
              "tuning": TuningRecipe(decodes=3), "filter": FilterRecipe(keep=0.5)}
    return SelftrainRecipe(**values | changes)


def quiet(line):
    pass


def said_by(found, out):
    said = []
    results = selftrain(found, out, said.append)
    return results, said


def redone(said):
    """The stages that were not skipped."""
    return [line.split(":")[0] for line in said if ": done in " in line]
