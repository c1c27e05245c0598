"""Sentences of a small English: a grammar over some 280 words, so that a small model can learn the task.

    sentences(1000, seed=1)                  -> 1000 different ones for training
    sentences(100, seed=1, part="test")      -> none of them is among the training sentences of any seed
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from upstream.errors import UsageError
from upstream.keyed import keyed, keyed_int

Part = Literal["train", "test"]
LEAST_WORDS, MOST_WORDS = 4, 10
TEST_SHARE = 5  # one sentence in so many belongs to the test part

PEOPLE = ["farmer", "teacher", "doctor", "sailor", "painter", "king", "queen", "child", "mother", "father", "sister",
          "brother", "friend", "neighbour", "soldier", "singer", "stranger", "captain"]
THINGS = ["dog", "cat", "horse", "bird", "fish", "sheep", "fox", "mouse", "house", "garden", "river", "mountain",
          "forest", "bridge", "road", "village", "city", "ship", "boat", "train", "window", "table", "basket", "letter",
          "picture", "story", "lamp", "clock", "stone", "tree", "apple", "market", "church", "field", "island"]
NAMES = ["Mary", "Peter", "Anna", "Thomas", "Helen", "George", "Julia", "Robert"]
ADJECTIVES = ["old", "young", "small", "large", "quiet", "happy", "angry", "tired", "clever", "strange", "empty",
              "heavy", "broken", "golden", "green", "yellow", "dusty", "gentle", "brave", "hungry", "ancient", "simple",
              "famous", "noble", "dark", "cold", "warm"]
TRANSITIVE = ["found", "carried", "followed", "watched", "opened", "painted", "visited", "remembered", "forgot",
              "wanted", "bought", "sold", "kept", "lost", "brought", "washed", "liked", "feared", "helped", "noticed",
              "reached", "described", "saved", "touched"]
INTRANSITIVE = ["slept", "waited", "laughed", "smiled", "walked", "travelled", "arrived", "danced", "listened",
                "worked", "rested", "stopped", "wandered", "jumped"]
BASE_FORMS = ["find", "carry", "follow", "watch", "open", "visit", "remember", "want", "buy", "sell", "keep", "help"]
ADVERBS = ["slowly", "quickly", "quietly", "suddenly", "gladly", "softly", "together", "again", "yesterday", "today"]
PREPOSITIONS = ["near", "behind", "under", "beside", "above", "across", "beyond", "with", "without", "towards", "in",
                "on", "at", "from"]
DETERMINERS = ["the", "the", "the", "a", "a", "every", "this", "that", "my", "your", "our", "his", "her", "another"]
PLURAL_DETERMINERS = ["the", "some", "two", "three", "four", "five", "six", "seven", "many", "several", "these"]
PRONOUNS = ["he", "she", "they", "we", "you", "it", "nobody", "everyone"]
OBJECTS = ["him", "her", "them", "us", "it", "nothing", "everything"]
NEGATIONS = ["didn't", "couldn't", "wouldn't"]
LINKS = ["and", "but", "while", "because", "before", "until"]
OPENINGS = ["then", "later", "sometimes", "perhaps", "outside"]
NOUNS = PEOPLE + THINGS
IRREGULAR_PLURALS = {"child": "children", "fish": "fish", "sheep": "sheep", "mouse": "mice", "city": "cities",
                     "fox": "foxes", "bridge": "bridges", "church": "churches", "story": "stories"}


def sentences(count: int, seed: int, part: Part = "train") -> list[str]:
    """Different sentences of 4 to 10 words in upper case, A-Z, apostrophe and single spaces.

    A sentence belongs to one part by a hash of its own words, so the parts share no sentence whatever the seeds.

    Raises:
        UsageError: `count` is negative or more than the grammar gives.
    """
    if not 0 <= count <= 1_000_000:
        raise UsageError(f"{count} sentences; 0 to 1,000,000 can be made")
    rng = keyed(seed, "sentences", part)
    found: dict[str, None] = {}  # a dict keeps the order
    while len(found) < count:
        sentence = " ".join(_sentence(rng)).upper()
        if LEAST_WORDS <= sentence.count(" ") + 1 <= MOST_WORDS and part_of(sentence) == part:
            found[sentence] = None
    return list(found)


def part_of(sentence: str) -> Part:
    """The part to which a sentence belongs."""
    return "test" if keyed_int(0, "part of a sentence", sentence) % TEST_SHARE == 0 else "train"


def vocabulary() -> list[str]:
    """Every word that may occur, in upper case, sorted."""
    words = {*NOUNS, *map(_plural, NOUNS), *NAMES, *(f"{owner}'s" for owner in PEOPLE + NAMES),
             *ADJECTIVES, *TRANSITIVE, *INTRANSITIVE, *BASE_FORMS, *ADVERBS, *PREPOSITIONS, *DETERMINERS, "an",
             *PLURAL_DETERMINERS, *PRONOUNS, *OBJECTS, *NEGATIONS, *LINKS, *OPENINGS}
    return sorted(word.upper() for word in words)


def _sentence(rng: np.random.Generator) -> list[str]:
    words = _clause(rng)
    form = rng.random()
    if form < 0.15:
        return [_one(rng, OPENINGS), *words]
    if form < 0.30:
        return [*words, _one(rng, LINKS), *_clause(rng)]
    return words


def _clause(rng: np.random.Generator) -> list[str]:
    subject = _subject(rng)
    form = rng.random()
    if form < 0.45:
        return [*subject, _one(rng, TRANSITIVE), *_object(rng)]
    if form < 0.60:
        return [*subject, _one(rng, TRANSITIVE), *_object(rng), *_place(rng)]
    if form < 0.75:
        return [*subject, _one(rng, NEGATIONS), _one(rng, BASE_FORMS), *_object(rng)]
    if form < 0.88:
        return [*subject, _one(rng, INTRANSITIVE), *_place(rng)]
    return [*subject, _one(rng, INTRANSITIVE), _one(rng, ADVERBS)]


def _subject(rng: np.random.Generator) -> list[str]:
    form = rng.random()
    if form < 0.2:
        return [_one(rng, PRONOUNS)]
    return [_one(rng, NAMES)] if form < 0.35 else _noun_phrase(rng)


def _object(rng: np.random.Generator) -> list[str]:
    return [_one(rng, OBJECTS)] if rng.random() < 0.15 else _noun_phrase(rng)


def _place(rng: np.random.Generator) -> list[str]:
    return [_one(rng, PREPOSITIONS), *_noun_phrase(rng)]


def _noun_phrase(rng: np.random.Generator) -> list[str]:
    form = rng.random()
    if form < 0.12:
        return [f"{_one(rng, NAMES)}'s", _one(rng, NOUNS)]
    if form < 0.20:
        return ["the", f"{_one(rng, PEOPLE)}'s", _one(rng, NOUNS)]
    described = [_one(rng, ADJECTIVES)] if rng.random() < 0.4 else []
    if form < 0.42:
        return [_one(rng, PLURAL_DETERMINERS), *described, _plural(_one(rng, NOUNS))]
    words = [*described, _one(rng, NOUNS)]
    determiner = _one(rng, DETERMINERS)
    return ["an" if determiner == "a" and words[0][0] in "aeio" else determiner, *words]


def _plural(noun: str) -> str:
    return IRREGULAR_PLURALS.get(noun, noun + "s")


def _one(rng: np.random.Generator, words: list[str]) -> str:
    return words[rng.integers(len(words))]
