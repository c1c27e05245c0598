"""The masked prediction loss: by hand, its selections, its weights, several layers and streams."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from upstream.errors import InputError, RecipeError, UsageError
from upstream.model import MaskedPrediction, perplexity
from upstream.model.masked_prediction import CosineTable

WAVES = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))  # 9 frames
MASK = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 0, 0], [0, 1, 1, 1, 0, 0, 0, 1, 0]], dtype=torch.bool)
LABELS = torch.randint(0, 5, (2, 9, 1), generator=torch.Generator().manual_seed(1))


def test_cosine_logits_and_their_cross_entropy_by_hand():
    """Two frames, three classes, temperature 1 / 2.

    Frame (3, 4) has cosines 3/5, 4/5 and -3/5 with classes (2, 0), (0, 1), (-1, 0): logits 1.2, 1.6, -1.2.
    Frame (0, -2) has cosines 0, -1, 0: logits 0, -2, 0.
    With labels 1 and 2 the loss is the mean of
    -1.6 + ln(e^1.2 + e^1.6 + e^-1.2) = 0.548774 and -0 + ln(1 + e^-2 + 1) = 0.758624.
    """
    table = CosineTable(3, 2, temperature=0.5)
    with torch.no_grad():
        table.embeddings.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        logits = table(torch.tensor([[3.0, 4.0], [0.0, -2.0]]))
    torch.testing.assert_close(logits, torch.tensor([[1.2, 1.6, -1.2], [0.0, -2.0, 0.0]]))
    first = -1.6 + math.log(math.exp(1.2) + math.exp(1.6) + math.exp(-1.2))
    second = math.log(2 + math.exp(-2))
    assert (first, second) == (pytest.approx(0.548774, abs=1e-6), pytest.approx(0.758624, abs=1e-6))
    loss = F.cross_entropy(logits, torch.tensor([1, 2]))
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-6)


def test_cosines_do_not_depend_on_lengths_and_zeros_have_none():
    """As torch's: a norm of 1e-6 is divided by, and only one below 1e-8 is not."""
    table = CosineTable(3, 2, temperature=0.5)
    frames = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    with torch.no_grad():
        torch.testing.assert_close(table(frames * 1e-6), table(frames))
        table.embeddings.mul_(1e-6)
        torch.testing.assert_close(table(frames * 1e-6), table(frames))
        assert not table(frames * 0).any()


def test_the_loss_is_the_cross_entropy_of_the_masked_frames_over_all_classes(tiny):
    model = MaskedPrediction(tiny(), (5,), 8, feature_penalty=0.0).initialise(3)
    loss = model(WAVES, None, MASK, LABELS)
    states = model.encoder(WAVES, mask=MASK).last[MASK]
    projected = model.projections["3"](states)
    logits = torch.cosine_similarity(projected[:, None], model.tables[0].embeddings[None], dim=-1) / 0.1
    expected = F.cross_entropy(logits, LABELS[..., 0][MASK])
    assert loss.masked_count == 8
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.masked_correct.tolist() == [(logits.argmax(-1) == LABELS[..., 0][MASK]).sum().item()]


def test_logits_keep_their_digits_under_autocast(tiny):
    """Cosines over a temperature of 0.1 in bfloat16 were off by a tenth of a nat."""
    model, chosen = MaskedPrediction(tiny(), (50,), 8).initialise(3), MASK.flatten().nonzero()[:, 0]
    with torch.no_grad():
        output = model.encoder(WAVES, mask=MASK)
        with torch.autocast("cpu", torch.bfloat16):
            [found] = model._logits(output, 3, chosen)
            frames = model.projections["3"](output.last.flatten(0, 1)[chosen]).float()
        expected = torch.cosine_similarity(frames[:, None], model.tables[0].embeddings[None], dim=-1) / 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_linear_head_is_a_plain_linear_map(tiny):
    model = MaskedPrediction(tiny(), (5,), head="linear", feature_penalty=0.0).initialise(3)
    states = model.encoder(WAVES, mask=MASK).last[MASK]
    expected = F.cross_entropy(model.tables[0](states), LABELS[..., 0][MASK])
    assert model(WAVES, None, MASK, LABELS).total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_streams_add_up(tiny):
    labels = torch.cat([LABELS, (LABELS * 7 + 3) % 11], dim=-1)
    model = MaskedPrediction(tiny(), (5, 11), 8).initialise(3)
    states = model.encoder(WAVES, mask=MASK).last[MASK]
    parts = model.projections["3"](states).split(8, dim=-1)
    expected = sum(F.cross_entropy(model.tables[i](part), labels[..., i][MASK]).item() for i, part in enumerate(parts))
    loss = model(WAVES, None, MASK, labels)
    assert loss.masked_loss.item() == pytest.approx(expected, rel=1e-5)
    assert loss.masked_correct.shape == (2,)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_several_predicting_layers_are_averaged(tiny, pre_norm):
    model = MaskedPrediction(tiny(pre_norm=pre_norm), (5,), 8, predict_at=(1, 3)).initialise(3)
    output = model.encoder(WAVES, mask=MASK, layers=True)
    losses = []
    for layer, states in ((1, output.layers[1]), (3, output.last)):
        logits = model.tables[0](model.projections[str(layer)](states[MASK]))
        losses.append(F.cross_entropy(logits, LABELS[..., 0][MASK]).item())
    assert model(WAVES, None, MASK, LABELS).masked_loss.item() == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_total_weighs_its_parts_as_fairseqs_criterion(tiny):
    """A mean over all frames that count: 8 masked ones with weight 0.5 and 10 unmasked ones with weight 0.25."""
    model = MaskedPrediction(tiny(), (5,), 8, masked_weight=0.5, unmasked_weight=0.25).initialise(3)
    loss = model(WAVES, None, MASK, LABELS)
    features = model.encoder(WAVES).features
    assert loss.feature_penalty.item() == pytest.approx(features.square().mean().item(), rel=1e-5)
    expected = (0.5 * 8 * loss.masked_loss + 0.25 * 10 * loss.unmasked_loss) / 18 + 10 * loss.feature_penalty
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (loss.masked_count, loss.unmasked_count) == (8, 10)


@pytest.mark.parametrize(("weights", "counted"), [((1, 0), 8), ((0, 1), 10), ((1, 0.5), 18)])
def test_the_weight_of_a_batch_counts_the_frames_that_teach(tiny, weights, counted):
    model = MaskedPrediction(tiny(), (5,), 8, masked_weight=weights[0], unmasked_weight=weights[1])
    assert model.weight(8, 10) == counted


@pytest.mark.parametrize("part", ["masked", "unmasked"])
def test_a_part_of_weight_zero_teaches_nothing(tiny, part):
    """With one weight at 0, the gradient is that of the other part's loss alone."""
    other = {"masked": "unmasked", "unmasked": "masked"}[part]
    model = MaskedPrediction(tiny(), (5,), 8, feature_penalty=0, **{f"{part}_weight": 0, f"{other}_weight": 1})
    model.initialise(3)
    loss = model(WAVES, None, MASK, LABELS, measure=True)
    assert loss.total.item() == pytest.approx(getattr(loss, f"{other}_loss").item(), rel=1e-6)
    assert getattr(loss, f"{part}_loss") > 0  # measured all the same
    loss.total.backward()
    gradient = model.tables[0].embeddings.grad
    states = model.encoder(WAVES, mask=MASK).last[MASK if other == "masked" else ~MASK]
    logits = model.tables[0](model.projections["3"](states))
    expected = F.cross_entropy(logits, LABELS[..., 0][MASK if other == "masked" else ~MASK])
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, model.tables[0].embeddings)[0])


def test_tied_projections_give_every_stream_the_same_vector(tiny):
    labels = torch.cat([LABELS, LABELS], dim=-1)
    model = MaskedPrediction(tiny(), (5, 5), 8, tied_projections=True).initialise(3)
    assert model.projections["3"][0].weight.shape == (8, 24)
    model.tables[1].load_state_dict(model.tables[0].state_dict())
    loss = model(WAVES, None, MASK, labels)
    assert loss.masked_losses[0] == loss.masked_losses[1]
    alone = MaskedPrediction(tiny(), (5,), 8).initialise(3)
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("tables.1")})
    assert loss.masked_losses[0].item() == pytest.approx(alone(WAVES, None, MASK, LABELS).masked_loss.item(), rel=1e-5)


@pytest.mark.parametrize("frontend", ["conv", "light"])
def test_a_front_end_that_learns_has_a_feature_penalty(tiny, frontend):
    loss = MaskedPrediction(tiny(frontend=frontend), (5,), 8).initialise(0)(WAVES, None, MASK, LABELS)
    assert loss.feature_penalty.item() > 0
    assert loss.total.item() == pytest.approx((loss.masked_loss + 10 * loss.feature_penalty).item())


def test_an_fbank_encoder_has_no_feature_penalty(tiny):
    loss = MaskedPrediction(tiny(frontend="fbank"), (5,), 8).initialise(0)(WAVES, None, MASK, LABELS)
    assert loss.feature_penalty.item() == 0
    assert loss.total.item() == pytest.approx(loss.masked_loss.item())


def test_padded_frames_count_for_nothing(tiny):
    """A batch of two utterances of unlike length gives the frame-weighted mean of the two alone."""
    model = MaskedPrediction(tiny(), (5,), 8, unmasked_weight=1.0).initialise(3)
    lengths = torch.tensor([3000, 1700])
    mask = MASK.clone()
    mask[1, 5:] = True  # frames the second utterance does not have
    labels = LABELS.clone()
    labels[1, 5:] = -1
    together = model(WAVES, lengths, mask, labels, measure=True)
    first = model(WAVES[:1], None, mask[:1], labels[:1], measure=True)
    second = model(WAVES[1:, :1700], None, mask[1:, :5], labels[1:, :5], measure=True)
    assert together.masked_count == first.masked_count + second.masked_count == 7
    assert together.unmasked_count == first.unmasked_count + second.unmasked_count == 7
    for name, count in (("masked_loss", "masked_count"), ("unmasked_loss", "unmasked_count")):
        joined = sum(getattr(part, name).item() * getattr(part, count) for part in (first, second)) / 7
        assert getattr(together, name).item() == pytest.approx(joined, rel=1e-4)
    squares = (first.feature_penalty * 9 + second.feature_penalty * 5) / 14
    assert together.feature_penalty.item() == pytest.approx(squares.item(), rel=1e-4)
    torch.testing.assert_close(together.usage[0], first.usage[0] + second.usage[0], atol=1e-3, rtol=1e-4)


def test_unmasked_frames_are_measured_only_on_request_and_teach_only_with_a_weight(tiny):
    model = MaskedPrediction(tiny(), (5,), 8).initialise(3)
    plain, measured = model(WAVES, None, MASK, LABELS), model(WAVES, None, MASK, LABELS, measure=True)
    assert plain.unmasked_count == 0
    assert measured.unmasked_count == 10
    assert measured.unmasked_loss > 0
    assert plain.usage == ()
    assert measured.usage[0].sum().item() == 8
    assert torch.equal(plain.total, measured.total)


def test_a_model_that_says_one_class_always_uses_one(tiny):
    """By its summed probabilities it would use them all."""
    model = MaskedPrediction(tiny(), (5,), head="linear").initialise(0)
    torch.nn.init.zeros_(model.tables[0].weight)
    model.tables[0].bias.data.copy_(torch.tensor([0.1, 0.0, 0.2, 0.1, 0.0]))
    assert model(WAVES, None, MASK, LABELS, measure=True).usage[0].tolist() == [0, 0, 8, 0, 0]


def test_perplexity_counts_classes_in_use():
    assert perplexity(torch.tensor([3.0, 3.0, 0.0, 3.0])) == pytest.approx(3)
    assert perplexity(torch.tensor([0.0, 9.0])) == pytest.approx(1)


def test_untrained_loss_is_near_chance(tiny):
    """Cosine logits of random vectors over random classes: close to ln K, as every log of HuBERT starts."""
    model = MaskedPrediction(tiny(), (100,), 64, feature_penalty=0.0).initialise(0)
    loss = model(WAVES, None, MASK, LABELS)
    assert loss.total.item() == pytest.approx(math.log(100), rel=0.2)


def test_a_few_updates_lower_the_loss(tiny):
    torch.manual_seed(0)
    model = MaskedPrediction(tiny(frontend="fbank", pre_norm=True), (5,), 8).initialise(0).train()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss = model(WAVES, None, MASK, LABELS)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        losses.append(loss.total.item())
    assert losses[-1] < 0.7 * losses[0]


def test_initial_weights_depend_on_the_seed_and_the_name_only(tiny):
    encoder = tiny(seed=5)
    small = MaskedPrediction(tiny(), (5,), 8).initialise(5)
    large = MaskedPrediction(tiny(), (5, 7), 8, predict_at=(2, 3)).initialise(5)
    other = MaskedPrediction(tiny(), (5,), 8).initialise(6)
    for name, value in encoder.state_dict().items():
        assert torch.equal(small.encoder.state_dict()[name], value), name
        assert torch.equal(large.encoder.state_dict()[name], value), name
    assert torch.equal(small.tables[0].embeddings, large.tables[0].embeddings)
    assert not torch.equal(small.tables[0].embeddings, other.tables[0].embeddings)


@pytest.mark.parametrize("labels", [LABELS - 1, LABELS + 1])
def test_labels_outside_the_classes_are_refused(tiny, labels):
    with pytest.raises(InputError, match=r"stream 0: labels .* 5 classes"):
        MaskedPrediction(tiny(), (5,), 8)(WAVES, None, torch.ones_like(MASK), labels)


def test_a_batch_with_nothing_unmasked_is_refused_where_only_that_teaches(tiny):
    with pytest.raises(InputError, match="nothing to predict"):
        MaskedPrediction(tiny(), (5,), 8, masked_weight=0, unmasked_weight=1)(
            WAVES, None, torch.ones_like(MASK), LABELS)


def test_a_batch_with_nothing_masked_is_refused(tiny):
    with pytest.raises(InputError, match="nothing to predict"):
        MaskedPrediction(tiny(), (5,), 8)(WAVES, None, torch.zeros_like(MASK), LABELS)


@pytest.mark.parametrize("labels", [LABELS[:, :8], LABELS[..., 0], LABELS.expand(2, 9, 2)])
def test_labels_of_the_wrong_shape_are_refused(tiny, labels):
    with pytest.raises(UsageError, match=r"expected \(2, 9, 1\)"):
        MaskedPrediction(tiny(), (5,), 8)(WAVES, None, MASK, labels)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"classes": ()}, "classes"),
        ({"classes": (5, 1)}, "classes"),
        ({"temperature": 0.0}, "temperature"),
        ({"predict_at": (0, 3)}, "predict_at"),
        ({"predict_at": (3, 2)}, "predict_at"),
        ({"predict_at": (4,)}, "predict_at"),
        ({"unmasked_weight": -1.0}, "unmasked_weight"),
        ({"masked_weight": 0.0}, "masked_weight"),
        ({"masked_weight": -1.0, "unmasked_weight": 2.0}, "masked_weight"),
        ({"feature_penalty": -1.0}, "feature_penalty"),
        ({"head": "mlp"}, "head"),
        ({"head": "linear", "tied_projections": True}, "tied_projections"),
    ],
)
def test_settings_out_of_range_are_refused(tiny, settings, named):
    with pytest.raises(RecipeError, match=named):
        MaskedPrediction(tiny(), **{"classes": (5,), "final_dim": 8, **settings})


@pytest.mark.parametrize(("pre_norm", "norms"), [(True, [1, 0]), (False, [0, 0])])
def test_only_middle_layers_that_have_passed_no_norm_get_one(tiny, pre_norm, norms):
    model = MaskedPrediction(tiny(pre_norm=pre_norm), (5,), 8, predict_at=(2, 3))
    assert [sum(isinstance(part, torch.nn.LayerNorm) for part in model.projections[k].modules())
            for k in ("2", "3")] == norms
