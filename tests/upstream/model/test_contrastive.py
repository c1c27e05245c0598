"""The contrastive loss and its quantiser: by hand, what negatives are drawn, and how noise and temperature behave."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import InputError, RecipeError, UsageError
from upstream.keyed import keyed
from upstream.model.contrastive import ContrastivePrediction, draw_negatives
from upstream.model.quantiser import GumbelQuantiser, GumbelSchedule

WAVES = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))  # 9 frames
MASK = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 0, 0], [0, 1, 1, 1, 0, 0, 0, 1, 0]], dtype=torch.bool)
SMALL = {"groups": 2, "entries": 6, "code_dim": 8, "final_dim": 8, "feature_dropout": 0.0}


def negatives_of(mask, number=5, seed=0):
    counts = mask.sum(1).tolist()
    return torch.from_numpy(draw_negatives([keyed(seed, "negatives", row) for row in range(len(mask))], counts, number))


def test_logits_and_their_cross_entropy_by_hand(tiny):
    """Three masked frames, two negatives each, temperature 1 / 2.

    Projected states (1, 0), (0, 2), (3, 4); projected codes (2, 0), (2, 0), (0, 5), of codes 0, 0, 1. Cosines with
    the three codes are 1, 1, 0 for the first state, 0, 0, 1 for the second and 0.6, 0.6, 0.8 for the third.
    The first frame has negatives 1 (the same code: out) and 2: logits 2, -inf, 0; loss ln(1 + e^-2) = 0.126928.
    The second has 2 twice: logits 0, 2, 2; loss ln(1 + 2 e^2) = 2.758624.
    The third has 0 and 1: logits 1.6, 1.2, 1.2; loss ln(1 + 2 e^-0.4) = 0.850424.
    """
    model = ContrastivePrediction(tiny(), **SMALL, temperature=0.5)
    states = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    vectors = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 5.0]])
    codes = torch.tensor([[0], [0], [1]])
    logits = model._logits(states, vectors, codes, torch.tensor([[1, 2], [2, 2], [0, 1]]))
    expected = torch.tensor([[2.0, -torch.inf, 0.0], [0.0, 2.0, 2.0], [1.6, 1.2, 1.2]])
    torch.testing.assert_close(logits, expected)
    losses = F.cross_entropy(logits, torch.zeros(3, dtype=torch.int64), reduction="none").tolist()
    by_hand = [math.log(1 + math.exp(-2)), math.log(1 + 2 * math.exp(2)), math.log(1 + 2 * math.exp(-0.4))]
    assert by_hand == pytest.approx([0.126928, 2.758624, 0.850424], abs=1e-6)
    assert losses == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize(("cells", "exact"), [(1 << 24, True), (200, False), (1, False)])
def test_cosines_some_at_a_time_are_those_of_all_at_once(tiny, monkeypatch, cells, exact):
    """All N x N of a micro-batch were kept, and in the backward pass several times. Up to 4096 frames to the bit."""
    monkeypatch.setattr("upstream.model.contrastive.CELLS", cells)
    model = ContrastivePrediction(tiny(), **SMALL)
    generator = torch.Generator().manual_seed(0)
    negatives = torch.from_numpy(draw_negatives([keyed(0, "x", row) for row in range(3)], [9, 17, 7], 6))
    codes = torch.randint(3, (33, 2), generator=generator)
    given = [torch.randn(33, 8, generator=generator).requires_grad_() for _ in range(2)]
    weights = torch.rand(33, 7, generator=generator)

    def gradients(logits):
        return torch.autograd.grad((logits.masked_fill(logits == -torch.inf, 0) * weights).sum(), given)

    one, other = (F.normalize(tensor, dim=-1, eps=1e-8) for tensor in given)
    cosines = one @ other.t()
    chosen = cosines.gather(1, negatives).masked_fill((codes[negatives] == codes[:, None]).all(-1), -torch.inf)
    expected = torch.cat([cosines.diagonal()[:, None], chosen], dim=1) / model.temperature
    found = model._logits(*given, codes, negatives)
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-6, "atol": 1e-6}
    assert bool((expected == -torch.inf).any())
    torch.testing.assert_close(found, expected, **tolerance)
    torch.testing.assert_close(gradients(found), gradients(expected), **tolerance)


def test_a_product_quantiser_by_hand():
    """Two groups of two entries. Logits (1, 3 | 2, 0) choose entries 1 and 0, (0, 1 | 0, 4) choose 1 and 1.

    Group 0 uses one entry, so its perplexity is 1; group 1 uses both alike, so its perplexity is 2.
    """
    quantiser = GumbelQuantiser(4, groups=2, entries=2, code_dim=6).eval()
    with torch.no_grad():
        quantiser.weight_proj.weight.copy_(torch.eye(4))
        quantiser.weight_proj.bias.zero_()
        quantiser.codevectors.copy_(torch.arange(12.0).view(1, 4, 3))
    found = quantiser(torch.tensor([[1.0, 3, 2, 0], [0, 1, 0, 4]]), 1.0)
    assert found.codes.tolist() == [[1, 0], [1, 1]]
    assert found.vectors.tolist() == [[3, 4, 5, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    assert found.perplexity.item() == found.code_perplexity.item() == pytest.approx(3)


def test_an_entry_that_nothing_chooses_leaves_a_gradient():
    """All frames of silence are alike; where a probability of softmax is 0, the entropy's gradient was no number."""
    quantiser = GumbelQuantiser(4, groups=1, entries=2, code_dim=2).train()
    with torch.no_grad():
        quantiser.weight_proj.weight.fill_(1)
        quantiser.weight_proj.bias.copy_(torch.tensor([200.0, 0.0]))
    found = quantiser(torch.zeros(5, 4), 1.0)
    assert found.perplexity.item() == pytest.approx(1)
    found.perplexity.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in quantiser.weight_proj.parameters())


def test_total_weighs_its_parts(tiny):
    model = ContrastivePrediction(tiny(), **SMALL, diversity_weight=0.3, feature_penalty=5.0).initialise(1).eval()
    loss = model(WAVES, None, MASK, negatives_of(MASK))
    assert loss.count == 8
    assert loss.feature_penalty.item() == pytest.approx(model.encoder(WAVES).features.square().mean().item(), rel=1e-5)
    expected = loss.contrastive + 0.3 * loss.diversity + 5 * loss.feature_penalty
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.diversity.item() == pytest.approx((12 - loss.code_perplexity.item()) / 12, rel=1e-5)


def test_padded_utterances_count_for_what_they_have(tiny):
    """A padded batch gives the frame-weighted mean of its utterances alone."""
    model = ContrastivePrediction(tiny(), **SMALL, diversity_weight=0.0, feature_penalty=0.0).initialise(1).eval()
    mask = MASK.clone()
    mask[1, 5:] = False
    negatives = negatives_of(mask)
    together = model(WAVES, torch.tensor([3000, 1700]), mask, negatives)
    first = model(WAVES[:1], None, mask[:1], negatives[:4])
    second = model(WAVES[1:, :1700], None, mask[1:, :5], negatives[4:] - 4)
    assert (first.count, second.count) == (4, 3)
    joined = (4 * first.contrastive + 3 * second.contrastive) / 7
    assert together.contrastive.item() == pytest.approx(joined.item(), rel=1e-5)
    assert together.correct == first.correct + second.correct
    mask[1, 5:] = True  # masked padding is no frame
    assert model(WAVES, torch.tensor([3000, 1700]), mask, negatives).contrastive.item() == together.contrastive.item()


def test_filterbanks_are_quantised_after_the_layer_norm(tiny):
    model = ContrastivePrediction(tiny(frontend="fbank"), **SMALL).initialise(1).eval()
    read = []
    model.quantizer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    loss = model(WAVES, None, MASK, negatives_of(MASK))
    output = model.encoder(WAVES)
    torch.testing.assert_close(read[0], model.encoder.feature_projection.layer_norm(output.features[MASK]))
    assert read[0].shape == (8, 160)
    assert loss.feature_penalty == 0


def test_one_code_for_everything_is_never_correct(tiny):
    model = ContrastivePrediction(tiny(), **SMALL).initialise(1).eval()
    with torch.no_grad():
        model.quantizer.weight_proj.weight.zero_()
    loss = model(WAVES, None, MASK, negatives_of(MASK))
    assert loss.correct == 0
    assert loss.contrastive == 0
    assert loss.code_perplexity.item() == pytest.approx(2)


def test_noise_comes_from_the_default_generator_and_only_in_training(tiny):
    model = ContrastivePrediction(tiny(), **SMALL).initialise(1)

    def total(seed):
        torch.manual_seed(seed)
        return model(WAVES, None, MASK, negatives_of(MASK)).total.item()

    model.train()
    assert total(0) == total(0) != total(1)
    model.eval()
    assert total(0) == total(1)


def test_the_choice_is_hard_and_its_gradient_soft():
    quantiser = GumbelQuantiser(4, groups=1, entries=3, code_dim=2).train()
    quantiser.initialise(0, "")
    frames = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    found = quantiser(frames, 1.5)
    torch.testing.assert_close(found.vectors, quantiser.codevectors[0][found.codes[:, 0]])
    gradient = torch.autograd.grad(found.vectors.sum(), quantiser.weight_proj.bias)[0]
    torch.manual_seed(2)
    soft = F.gumbel_softmax(quantiser.weight_proj(frames).view(5, 1, 3), tau=1.5)
    expected = torch.autograd.grad((soft[:, 0] @ quantiser.codevectors[0]).sum(), quantiser.weight_proj.bias)[0]
    torch.testing.assert_close(gradient, expected)


def test_a_few_updates_lower_the_loss(tiny):
    torch.manual_seed(0)
    model = ContrastivePrediction(tiny(pre_norm=True), **SMALL, feature_penalty=0).initialise(0).train()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = model(WAVES, None, MASK, negatives_of(MASK), 1.0)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        losses.append(loss.total.item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@given(st.lists(st.integers(2, 30), min_size=1, max_size=4), st.integers(1, 20), st.integers(0, 2**31))
def test_negatives_are_other_frames_of_the_same_row(counts, number, seed):
    negatives = draw_negatives([keyed(seed, "n", row) for row in range(len(counts))], counts, number)
    assert negatives.shape == (sum(counts), number)
    row = np.repeat(np.arange(len(counts)), counts)
    assert (row[negatives] == row[:, None]).all()
    assert (negatives != np.arange(sum(counts))[:, None]).all()
    alone = draw_negatives([keyed(seed, "n", len(counts) - 1)], counts[-1:], number)
    assert np.array_equal(alone + sum(counts[:-1]), negatives[-counts[-1]:])


def test_every_other_frame_is_drawn_alike():
    negatives = draw_negatives([keyed(0, "n")], [6], 6000)
    shares = np.stack([np.bincount(row, minlength=6) for row in negatives]) / 6000
    others = ~np.eye(6, dtype=bool)
    assert (shares[~others] == 0).all()
    assert np.abs(shares[others] - 0.2).max() < 4.5 * (0.2 * 0.8 / 6000) ** 0.5


def test_the_temperature_falls_by_a_factor_every_update_down_to_its_end():
    schedule = GumbelSchedule(start=2.0, end=0.5, decay=0.5)
    assert [schedule.at(update) for update in (1, 2, 3, 4, 100)] == [2.0, 1.0, 0.5, 0.5, 0.5]
    assert GumbelSchedule().at(100_001) == pytest.approx(2 * 0.999995**100_000)


def test_initial_weights_are_fairseqs_and_depend_on_the_seed_and_the_name_only(tiny):
    model = ContrastivePrediction(tiny(), **{**SMALL, "entries": 400}).initialise(5)
    weight = model.quantizer.weight_proj.weight.detach()
    assert weight.mean().item() == pytest.approx(0, abs=5 / weight.numel() ** 0.5)
    assert weight.std().item() == pytest.approx(1, abs=5 / (2 * weight.numel()) ** 0.5)
    assert not model.quantizer.weight_proj.bias.any()
    assert 0 <= model.quantizer.codevectors.min() < 0.01 < 0.99 < model.quantizer.codevectors.max() <= 1
    again = ContrastivePrediction(tiny(), **{**SMALL, "entries": 400}).initialise(5)
    other = ContrastivePrediction(tiny(), **{**SMALL, "entries": 400}).initialise(6)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(weight, other.quantizer.weight_proj.weight)
    assert torch.equal(model.encoder.state_dict()["masked_spec_embed"], tiny(seed=5).state_dict()["masked_spec_embed"])


def test_a_row_with_one_masked_frame_is_refused():
    with pytest.raises(InputError, match="no negatives"):
        draw_negatives([keyed(0, "n"), keyed(1, "n")], [4, 1], 3)


def test_a_batch_with_nothing_masked_is_refused(tiny):
    with pytest.raises(InputError, match="nothing to predict"):
        ContrastivePrediction(tiny(), **SMALL)(WAVES, None, torch.zeros_like(MASK), torch.zeros(0, 3, dtype=torch.long))


@pytest.mark.parametrize("negatives", [torch.zeros(7, 3), torch.zeros(8, 0), torch.zeros(8), torch.full((8, 3), 8)])
def test_negatives_that_do_not_fit_are_refused(tiny, negatives):
    with pytest.raises(UsageError, match="negatives"):
        ContrastivePrediction(tiny(), **SMALL)(WAVES, None, MASK, negatives.long())


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"groups": 0}, "groups"), ({"entries": 1}, "entries"), ({"code_dim": 9}, "code_dim"), ({"final_dim": 0}, "final"),
     ({"temperature": 0.0}, "temperature"), ({"diversity_weight": -0.1}, "diversity_weight"),
     ({"feature_dropout": 1.0}, "feature_dropout")],
)
def test_settings_out_of_range_are_refused(tiny, settings, named):
    with pytest.raises(RecipeError, match=named):
        ContrastivePrediction(tiny(), **{**SMALL, **settings})


@pytest.mark.parametrize("values", [(0.5, 1.0, 0.9), (1.0, 0.0, 0.9), (1.0, 0.5, 0.0), (1.0, 0.5, 1.1)])
def test_a_schedule_that_cannot_be_is_refused(values):
    with pytest.raises(RecipeError, match="gumbel"):
        GumbelSchedule(*values)


def test_no_feature_is_dropped_in_evaluation(tiny):
    model = ContrastivePrediction(tiny(), **{**SMALL, "feature_dropout": 0.5}).initialise(1)

    def total(seed):
        torch.manual_seed(seed)
        return model(WAVES, None, MASK, negatives_of(MASK)).contrastive.item()

    model.eval()
    assert total(0) == total(1)
