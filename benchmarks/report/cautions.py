"""What a reader must be told before believing a table, as far as the files show it: sentences with their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.report.comparing import LEVEL, SPEAKERS, adjusted
from benchmarks.report.document import counted, first_of
from benchmarks.report.low_resource import differences
from benchmarks.report.reading import LOW_RESOURCE, Results
from benchmarks.report.seeds import row_seed
from benchmarks.report.test_sets import named_test, names_hash
from downstream.score.rates import Unit

FEW_SPEAKERS = 10  # of fewer, intervals of 95 % hold the true value in less than 88 % of cases
FEW_WORDS = 10_000  # a WER of 10 % then has an interval of more than a point, were every word by itself
IMBALANCE = 3  # times as many deletions as insertions, or the other way round
_SHARE = 0.01  # of the reference words, that an imbalance is about at least
_NAMED = 5
_OF_A_ROUND = re.compile(r"round ?\d+")


def cautions(files: Sequence[Results]) -> list[str]:
    """Of all files, the gravest first; those of a file name it where there are several."""
    found = [*_between(files), *_one_pretraining(files)]
    for file in files:
        prefix = f"{file.name}: " if len(files) > 1 else ""
        found += [prefix + sentence for sentence in _of(file)]
    return found


def imbalanced(rows: Iterable[tuple[str, Mapping[str, Any]]], unit: Unit = "word") -> Iterator[str]:
    """Where one kind of error outweighs the other: `name` and a row with deletions, insertions and words, or of what
    errors are counted in."""
    more: dict[tuple[str, str], list[tuple[float, str, int, int]]] = {}
    for name, row in rows:
        if not {"deletions", "insertions", "words"} <= row.keys():
            continue
        for many, few in (("deletions", "insertions"), ("insertions", "deletions")):
            if row[many] > IMBALANCE * row[few] and row[many] > _SHARE * row["words"]:
                more.setdefault((many, few), []).append((row[many] / max(1, row[few]), name, row[many], row[few]))
    meaning = {"deletions": f"{unit}s are left out; a higher word score or more labels may help",
               "insertions": f"{unit}s are made up; a lower word score may help"}
    for (many, few), found in more.items():
        _, name, most, least = max(found)
        yield (f"{many.capitalize()} outnumber {few} more than {IMBALANCE} times in {counted(len(found), 'row')} "
               f"(most: {name}, {most:,} to {least:,}): {meaning[many]}.")


def few_speakers(speakers: int) -> Iterator[str]:
    """What is to be said of a test set with so many."""
    if speakers == 1:
        yield "The test set has a single speaker: nothing is known of how others would be recognised."
    elif speakers < FEW_SPEAKERS:
        yield (f"The test set has {speakers} speakers: intervals are too narrow, and a p-value by speakers is at least "
               f"{2.0 ** (1 - speakers):.2g}.")


def few_words(words: int, unit: Unit = "word") -> Iterator[str]:
    """What is to be said of a test set with so many, or with so many characters."""
    if words < FEW_WORDS:
        yield f"The test set is small: {counted(words, f'reference {unit}')}."


def _between(files: Sequence[Results]) -> Iterator[str]:
    """What differs between files."""
    if len(files) < 2:
        return
    words = any("words" in named_test(file) for file in files)
    if words and not all(names_hash(file) for file in files):
        yield ("Not all files name the hash of their test set; that it is the same in all is taken from equal numbers "
               "of reference words and characters.")
    for what, key in (("Versions", "versions"), ("Machines", "machine")):
        if differing := _differing([file.content.get(key) for file in files]):
            yield f"{what} differ between the files: {first_of(differing, _NAMED)}."
    if differing := _differing([file.content.get("recipe") for file in files]):
        yield f"Recipes differ between the files: {first_of(differing, _NAMED)}."


def _one_pretraining(files: Sequence[Results]) -> Iterator[str]:
    """Seeds of fine-tunings do not tell how much another pretraining would give: with two seeds that were measured, the
    second round was surely better than the first, and no better (benchmarks/results/README.md)."""
    pretrained = [file for file in files if file.benchmark == LOW_RESOURCE and any(
        _OF_A_ROUND.fullmatch(str(row.get("encoder"))) for row in file.rows)]
    recipes = [file.content.get("recipe") for file in pretrained]
    if pretrained and len({recipe.get("seed") if isinstance(recipe, dict) else None for recipe in recipes}) == 1:
        yield ("The encoders of rounds are of one pretraining: with another seed of it rounds may differ from scratch, "
               "and from each other, by more or by less, whatever intervals and seeds of fine-tunings say.")


def _of(file: Results) -> Iterator[str]:
    content, rows = file.content, file.rows
    recipe: dict[str, Any] = found if isinstance(found := content.get("recipe"), dict) else {}
    if (recipe.get("test") is not None and recipe["test"] == recipe.get("dev")) or _same_sets(content):
        yield "Weights were tuned on the test set itself: the error rates are too good."
    cells = recipe.get("cells")
    if isinstance(cells, list):
        seeds = recipe.get("seeds")
        planned = len(cells) * max(1, len(seeds) if isinstance(seeds, list) else 1)
        done = len({(row.get("labelled"), row.get("encoder"), row.get("seed")) for row in rows})
        if done < planned:
            yield f"The comparison is not finished: {done} of {planned} trainings of its recipe are there."
    yield from _seeds(file)
    yield from _size(file)
    judged = content.get("judged_on")
    if isinstance(judged, dict) and isinstance(judged.get("speakers"), int) and judged["speakers"] < FEW_SPEAKERS:
        yield f"Judged on {counted(judged['speakers'], 'speaker')}: with others, close numbers may change places."
    yield from _left_out(rows)
    yield from _edges(rows)
    yield from imbalanced(((_row_name(row), row) for row in rows), file.unit)
    yield from _comparisons(file)


def _seeds(file: Results) -> Iterator[str]:
    if file.benchmark != LOW_RESOURCE:
        return
    seeds: dict[tuple[Any, ...], set[Any]] = {}
    for row in file.rows:
        seeds.setdefault((row["labelled"], row["encoder"], row["decoder"]), set()).add(row_seed(row, file))
    least = min(map(len, seeds.values()))
    if least == 1:
        which = "One seed" if all(len(s) == 1 for s in seeds.values()) else "One seed in some cells"
        yield (f"{which}: intervals say how other test utterances would vary, not how another training would, and "
               "seeds may vary by more.")
    elif least < 3:
        yield f"{least} seeds: their standard deviation is hardly known."


def _size(file: Results) -> Iterator[str]:
    test = named_test(file)
    if isinstance(known := test.get("speakers_trained_on"), int):
        yield (f"{counted(known, 'speaker')} of the test set {'is' if known == 1 else 'are'} in the training data as "
               "well: those who were never heard will be recognised worse.")
    if isinstance(test.get("words"), int):
        yield from few_words(test["words"], file.unit)
        if isinstance(test.get("speakers"), int):
            yield from few_speakers(test["speakers"])
        else:
            yield ("The file does not say how many speakers the test set has; utterances of one speaker are alike, so "
                   "intervals drawn from utterances are too narrow where speakers are few.")


def _left_out(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    counts = {f"{row.get('cell')}": row["left_out"] for row in rows if row.get("left_out")}
    if counts:
        cells = [f"{cell} ({count:,})" for cell, count in counts.items()]
        yield ("Utterances with more symbols than frames were left out of the fine-tuning of "
               f"{first_of(cells, _NAMED)}: not all encoders learnt from the same data.")


def _edges(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    edges = [f"{_row_name(row)} ({', '.join(map(str, row['on_edge']))})" for row in rows if row.get("on_edge")]
    if edges:
        yield (f"Tuned weights lie on the edge of what was tried in {first_of(edges, _NAMED)}: better ones may lie "
               "beyond.")


def _comparisons(file: Results) -> Iterator[str]:
    found = file.content.get("comparisons")
    if file.benchmark != LOW_RESOURCE or not isinstance(found, list):
        return
    found = [one for one in found if isinstance(one, dict) and one.get("p_value") is not None]
    if len(found) > 1 and not all(one.get("p_holm") is not None for one in found):
        yield (f"The file's {len(found)} p-values are each of a single comparison: of 20 such between equal systems "
               "one is below 0.05 by chance. The p-values in brackets are adjusted here, by Holm's procedure.")
    speakers = [p for p in adjusted(differences([file]), SPEAKERS) if p is not None]
    if len(speakers) > 1 and min(speakers) > LEVEL:
        yield (f"By speakers none of {len(speakers)} p-values is below {LEVEL} once adjusted (the smallest is "
               f"{min(speakers):.2g}), whatever single intervals exclude: fewer comparisons or more speakers would "
               "tell.")
    if found and not all(isinstance(one.get("by_speaker"), dict) for one in found):
        yield ("Comparisons are by utterances only; drawing whole speakers says how it would be with other speakers, "
               "and may be less sure.")


def _same_sets(content: Mapping[str, Any]) -> bool:
    test, dev = content.get("test"), content.get("dev")
    return isinstance(test, dict) and isinstance(dev, dict) and any(
        test.get(key) is not None and test.get(key) == dev.get(key) for key in ("emissions", "manifest"))


def _row_name(row: Mapping[str, Any]) -> str:
    """What a row is called in a sentence."""
    names = [row[key] for key in ("cell", "decoder") if key in row] or [row.get("system", "a row")]
    names += [f"beam {row['beam']}"] if "cell" not in row and row.get("beam") is not None else []
    names += [f"seed {row['seed']}"] if "seed" in row else []
    return ", ".join(map(str, names))


def _differing(found: Sequence[Any], name: str = "") -> list[str]:
    """The keys at which values differ, `a.b` inside of others."""
    if all(one == found[0] for one in found):
        return []
    if not all(isinstance(one, dict) for one in found):
        return [name or "some have none"]
    keys = dict.fromkeys(key for one in found for key in one)
    return [n for key in keys for n in _differing([one.get(key) for one in found], f"{name}.{key}".lstrip("."))]
