"""The CTC probability of a text equals the sum over every path that an exhaustive search lists."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_beam import SYMBOLS, every_text, random_logprobs

from downstream.decode.alphabet import alphabet
from downstream.decode.likelihood import text_logprobs

ONE = alphabet(("_", "|", "A"), 0)
TWO = np.log([[0.5, 0.1, 0.4], [0.6, 0.1, 0.3]])


def test_two_frames_by_hand():
    """Of blank, separator and A: A is read from A-, A|, -A, |A and AA: .4*.6 + .4*.1 + .5*.3 + .1*.3 + .4*.3 = .58."""
    assert text_logprobs(TWO, ["A", "", "AA", "A A", "B"], ONE) == [
        pytest.approx(math.log(0.58)), pytest.approx(math.log(0.6 * 0.7)), -math.inf, -math.inf, -math.inf]
    assert text_logprobs(TWO[:0], ["", "A"], ONE) == [0.0, -math.inf]


@given(frames=st.integers(0, 5), seed=st.integers(0, 10_000))
def test_it_is_the_sum_over_all_paths(frames, seed):
    logprobs = random_logprobs(frames, seed, symbols=4)
    expected = every_text(logprobs, "_|AB")
    found = text_logprobs(logprobs, list(expected), alphabet(SYMBOLS[:4], 0))
    assert found == pytest.approx(list(expected.values()), abs=1e-9)


def test_the_best_path_by_hand():
    """Of A: .4 * .6, A and then blank, is the likeliest of its paths."""
    assert text_logprobs(TWO, ["A"], ONE, best_path=True) == [pytest.approx(math.log(0.24))]


@given(frames=st.integers(1, 40), seed=st.integers(0, 10_000), text=st.text("ABE ", max_size=12))
def test_where_separators_are_impossible_it_is_torchs_loss(frames, seed, text):
    logprobs, word = random_logprobs(frames, seed), text.replace(" ", "")
    logprobs[:, 1] = -np.inf
    target = torch.tensor([[SYMBOLS.index(c) for c in word]], dtype=torch.int64)
    loss = torch.nn.functional.ctc_loss(torch.tensor(logprobs)[:, None], target, torch.tensor([frames]),
                                        torch.tensor([len(word)]), reduction="none")
    assert text_logprobs(logprobs, [word], alphabet(SYMBOLS, 0)) == pytest.approx([-float(loss[0])], abs=1e-9)


@given(seed=st.integers(0, 10_000), texts=st.lists(st.text("ABE ", max_size=8), max_size=5))
def test_texts_together_get_what_each_gets_alone(seed, texts):
    logprobs, columns = random_logprobs(9, seed), alphabet(SYMBOLS, 0)
    assert text_logprobs(logprobs, texts, columns) == [text_logprobs(logprobs, [t], columns)[0] for t in texts]
