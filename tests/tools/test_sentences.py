"""The sentences that demonstrations say."""

import pytest

from tools.sentences import part_of, sentences, vocabulary
from upstream.errors import UsageError


def test_sentences_are_different_short_and_made_of_known_words():
    found = sentences(500, seed=1)
    assert len(set(found)) == 500
    known = set(vocabulary())
    assert all(4 <= len(s.split(" ")) <= 10 for s in found)
    assert {word for s in found for word in s.split(" ")} <= known


def test_the_vocabulary_is_small_and_wholly_used():
    words = vocabulary()
    assert 150 <= len(words) <= 300
    assert {word for s in sentences(8000, seed=2) for word in s.split()} == set(words)


def test_train_and_test_share_no_sentence_whatever_the_seeds():
    train = {s for seed in range(3) for s in sentences(1000, seed)}
    test = {s for seed in range(3) for s in sentences(300, seed, part="test")}
    assert not train & test
    assert {part_of(s) for s in test} == {"test"}


def test_the_same_seed_gives_the_same_sentences_and_more_of_them_begin_alike():
    assert sentences(50, seed=4) == sentences(80, seed=4)[:50]
    assert sentences(50, seed=4) != sentences(50, seed=5)


def test_a_precedes_consonants_and_an_precedes_vowels():
    pairs = [pair for s in sentences(3000, seed=6) for pair in zip(s.split(), s.split()[1:])]
    articles = [(a, b) for a, b in pairs if a in ("A", "AN")]
    assert len(articles) > 100
    assert all((a == "AN") == (b[0] in "AEIO") for a, b in articles)


def test_an_impossible_count_is_refused():
    with pytest.raises(UsageError, match="-1 sentences"):
        sentences(-1, seed=0)
