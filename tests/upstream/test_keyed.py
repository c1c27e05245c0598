import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from upstream.keyed import keyed, keyed_int, keyed_torch

keys = st.lists(st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=8)), max_size=4)


@given(seed=st.integers(0, 2**31), purpose=st.text(max_size=8), key=keys)
def test_the_same_key_draws_the_same_numbers(seed, purpose, key):
    first, second = keyed(seed, purpose, *key), keyed(seed, purpose, *key)
    assert np.array_equal(first.integers(0, 2**60, 5), second.integers(0, 2**60, 5))
    assert 0 <= keyed_int(seed, purpose, *key) < 2**63


@given(a=keys, b=keys)
def test_different_keys_differ(a, b):
    typed = [[(type(x), x) for x in k] for k in (a, b)]
    assert (keyed_int(0, "p", *a) == keyed_int(0, "p", *b)) == (typed[0] == typed[1])


def test_an_integer_of_numpy_is_the_integer():
    """np.int64(3) counted as a word, and drew other numbers than 3."""
    assert keyed_int(np.int64(0), "crop", np.int32(17)) == keyed_int(0, "crop", 17)


def test_words_do_not_run_into_each_other():
    assert keyed_int(0, "ab", "c") != keyed_int(0, "a", "bc")
    assert keyed_int(0, "a", 1) != keyed_int(0, "a", "1")


def test_draws_are_uniform_over_keys():
    draws = np.array([keyed(0, "uniform", i).random() for i in range(4000)])
    # standard error of the mean of 4,000 uniform draws: .0046
    assert abs(draws.mean() - 0.5) < 4 * 0.0046
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / np.sqrt(4000)


def test_torch_generators_are_keyed_too():
    assert torch.equal(torch.rand(3, generator=keyed_torch(1, "x")), torch.rand(3, generator=keyed_torch(1, "x")))
    assert not torch.equal(torch.rand(3, generator=keyed_torch(1, "x")), torch.rand(3, generator=keyed_torch(2, "x")))


def test_the_value_of_a_key_never_changes():
    # Runs are repeatable across versions only if this number stays what it is.
    assert keyed_int(0, "crop", 17, "84-121123-0000") == 8315301444558458530
