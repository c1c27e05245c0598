"""The stages of a self-training: their names, and which are made of which.

    round0/recogniser     the first teacher, unless one is given
    round0/dev-emissions  of dev, by it
    round0/tuned          weights of the language model, and error rates on dev
    round1/emissions      of the unlabelled recordings, by that teacher
    round1/hypotheses     what it heard
    round1/data           what the filters leave of that, beside the labels
    round1/diagnosis      error rates of that, where there are transcripts
    round1/recogniser     the student, and the next teacher
    ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from downstream.selftrain_recipe import SelftrainRecipe
from downstream.selftrain_start import Sets

LOOKED_AT = ("dev-emissions", "tuned")  # of every recogniser
KINDS = ("recogniser", *LOOKED_AT, "emissions", "hypotheses", "data", "diagnosis")


def stage_names(recipe: SelftrainRecipe, sets: Sets) -> list[str]:
    """The stages of a run in the order in which they are done, named by their folders."""
    first = [*["recogniser"] * (recipe.recogniser is None), *LOOKED_AT]
    others = ["emissions", "hypotheses", "data", *["diagnosis"] * sets.diagnosed, "recogniser", *LOOKED_AT]
    return [f"round0/{kind}" for kind in first] + [
        f"round{number}/{kind}" for number in range(1, recipe.rounds + 1) for kind in others]


def stages_read(recipe: SelftrainRecipe, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of each stage, by its inputs' names, the stages of the run that these come from. `decoding` are the weights that
    were tuned, which stand among a stage's settings."""
    normalised = recipe.filter.confidence == "normalised"
    kept = recipe.start == "recogniser" and recipe.studying("", "").keep_head
    found: dict[str, dict[str, str]] = {}
    for number in range(recipe.rounds + 1):
        own, before = f"round{number}", f"round{number - 1}"
        inputs = {
            "dev-emissions": {"recogniser": f"{own}/recogniser"}, "tuned": {"emissions": f"{own}/dev-emissions"},
            "emissions": {"recogniser": f"{before}/recogniser"},
            "hypotheses": {"emissions": f"{own}/emissions"} | ({"decoding": f"{before}/tuned"} if recipe.tunes else {}),
            "data": {"hypotheses": f"{own}/hypotheses"} | ({"dev": f"{before}/tuned"} if normalised else {}),
            "diagnosis": {"labels": f"{own}/data"},
            "recogniser": {"data": f"{own}/data"} | ({"head": f"{before}/recogniser"} if kept else {})}
        found |= {f"{own}/{kind}": {name: source for name, source in read.items() if source in names}
                  for kind, read in inputs.items() if f"{own}/{kind}" in names}
    return {name: read for name, read in found.items() if read}


def stages_before(name: str, reads: Mapping[str, Mapping[str, str]]) -> set[str]:
    """The stages that one is made of, and those that these are made of."""
    near = set(reads.get(name, {}).values())
    return near.union(*(stages_before(other, reads) for other in near))


def stages_needed(names: Sequence[str]) -> frozenset[str]:
    """Those that all after them are made of: labels that are learnt from, and recognisers."""
    return frozenset(name for name in names if name.endswith(("/data", "/recogniser")))
