"""LSTMs in both directions are torch's, utterance by utterance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.heads.bilstm import BiLstm
from downstream.heads.recipe import HeadRecipe


def bilstm(dim, **values):
    found = BiLstm(dim, HeadRecipe(kind="bilstm", **values))
    found.initialise(torch.Generator().manual_seed(0))
    return found.eval()


def torchs(ours, dim, width, depth):
    """torch.nn.LSTM with the same weights."""
    theirs = torch.nn.LSTM(ours.projection.out_features if ours.projection else dim, width, depth, batch_first=True,
                           bidirectional=True)
    weights = {}
    for k, pair in enumerate(zip(ours.forwards, ours.backwards)):
        for lstm, mark in zip(pair, ("", "_reverse")):
            weights |= {f"{name[:-1]}{k}{mark}": value for name, value in lstm.state_dict().items()}
    theirs.load_state_dict(weights)
    return theirs


@settings(max_examples=15)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 3), st.sampled_from([0, 5]),
       st.integers(1, 3), st.integers(1, 7))
def test_every_utterance_gets_what_torchs_lstm_gives_it_alone(lengths, surplus, projection, depth, width):
    """Whatever stands in the padding, and the sum of the gradients."""
    dim = 6
    ours = bilstm(dim, projection=projection, depth=depth, width=width)
    theirs = torchs(ours, dim, width, depth)
    x = torch.randn(len(lengths), max(lengths) + surplus, dim, generator=torch.Generator().manual_seed(1))
    found = ours(x, torch.tensor(lengths))
    heard = ours.projection(x) if ours.projection else x
    ours_total = theirs_total = 0
    for row, frames in enumerate(lengths):
        alone = theirs(heard[row:row + 1, :frames])[0][0]
        torch.testing.assert_close(found[row, :frames], alone, rtol=1e-5, atol=1e-5)
        ours_total, theirs_total = ours_total + found[row, :frames].square().sum(), theirs_total + alone.square().sum()
    lstms = [*ours.forwards, *ours.backwards]
    own = torch.autograd.grad(ours_total, [lstm.weight_hh_l0 for lstm in lstms], retain_graph=True)
    names = [f"weight_hh_l{k}{mark}" for mark in ("", "_reverse") for k in range(depth)]
    other = torch.autograd.grad(theirs_total, [getattr(theirs, name) for name in names])
    for a, b in zip(own, other):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_worked_example_of_one_cell_each_way():
    """Weights of zero and biases that open all gates half: c = 0.5 c' + 0.5 tanh(x), h = 0.5 tanh(c). The input x is
    (1, -1), and -9 behind its end."""
    ours = bilstm(1, width=1, depth=1)
    with torch.no_grad():
        for lstm in (*ours.forwards, *ours.backwards):
            for parameter in lstm.parameters():
                parameter.zero_()
            lstm.weight_ih_l0[2] = 1  # gates in the order input, forget, cell, output
        found = ours(torch.tensor([[[1.0], [-1.0], [-9.0]]]), torch.tensor([2]))[0, :2]
    t = torch.tanh
    one = t(torch.tensor(1.0))
    first, second = 0.5 * one, 0.25 * one - 0.5 * one
    torch.testing.assert_close(found[:, 0], torch.stack([0.5 * t(first), 0.5 * t(second)]))
    torch.testing.assert_close(found[:, 1], -torch.stack([0.5 * t(second), 0.5 * t(first)]))


def test_dropout_is_behind_every_layer_and_in_training_alone():
    ours = bilstm(4, width=8, depth=2, dropout=0.5)
    x, lengths = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([30, 20])
    assert torch.equal(ours(x, lengths), ours(x, lengths))
    ours.train()
    share = float((ours(x, lengths) == 0).float().mean())
    assert share == pytest.approx(0.5, abs=0.08)


def test_weights_are_drawn_from_the_generator_as_torch_draws_its_own():
    one, again = bilstm(6, projection=5, width=16), bilstm(6, projection=5, width=16)
    for (name, a), (_, b) in zip(one.named_parameters(), again.named_parameters()):
        assert torch.equal(a, b)
        bound = 1 / 6**0.5 if "projection" in name else 1 / 4
        assert 0.5 * bound < float(a.detach().abs().max()) <= bound, name


def test_it_is_computed_in_float32_whatever_the_training_is():
    ours = bilstm(6, projection=5, width=4)
    x = torch.randn(1, 9, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x, torch.tensor([9]))
    assert found.dtype == torch.float32
    assert torch.equal(found, ours(x.float(), torch.tensor([9])))
