"""A head hears the layers that it names, weighted, and no block past them is run."""

import dataclasses
import weakref

import pytest
import torch
import torch.nn.functional as F

from downstream.heads.layer_mix import LayerMix
from downstream.heads.recipe import HeadRecipe
from upstream.model import Encoder, EncoderConfig

SHAPE = EncoderConfig(frontend="fbank", width=16, layers=3, heads=2, ffn=32, positional_kernel=8, positional_groups=2,
                      dropout=0, attention_dropout=0, input_dropout=0, layerdrop=0)


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def encoder(request):
    return Encoder(dataclasses.replace(SHAPE, pre_norm=request.param)).initialise(0).eval()


def waves(*lengths):
    noise = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(0))
    return 0.1 * noise, torch.tensor(lengths)


def heard(mix, encoder, *given):
    with torch.no_grad():
        return mix.read(encoder, *given)


def test_worked_example_of_a_mixture():
    # softmax of (0, ln 2, ln 5) is 1/8, 2/8, 5/8: of 8, 4 and 1.6 that is 1 + 1 + 1, of 0, 8 and -8 it is 2 - 5.
    mix = LayerMix(HeadRecipe(layers="mix"), 2)
    mix.weights.data = torch.tensor([1.0, 2.0, 5.0]).log()
    states = [torch.tensor([[[8.0, 0.0]]]), torch.tensor([[[4.0, 8.0]]]), torch.tensor([[[1.6, -8.0]]])]
    assert mix(states)[0, 0].tolist() == pytest.approx([3.0, -3.0])
    assert mix.shares() == {"0": 0.125, "1": 0.25, "2": 0.625}


def test_worked_example_of_normalised_layers():
    # (8, 0) has mean 4 and deviation 4, (1, 3) mean 2 and deviation 1: (1, -1) and (-1, 1), three to one.
    mix = LayerMix(HeadRecipe(layers=[0, 1], layer_norm=True), 2)
    mix.weights.data = torch.tensor([3.0, 1.0]).log()
    assert mix([torch.tensor([8.0, 0.0]), torch.tensor([1.0, 3.0])]).tolist() == pytest.approx([0.5, -0.5], abs=1e-4)


def test_every_layer_counts_the_same_at_first():
    assert LayerMix(HeadRecipe(layers="mix"), 3).shares() == {"0": 0.25, "1": 0.25, "2": 0.25, "3": 0.25}
    assert LayerMix(HeadRecipe(layers=[3, 1]), 3).shares() == {"1": 0.5, "3": 0.5}
    assert LayerMix(HeadRecipe(layers=2), 3).shares() == {}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("layers", ["mix", [0, 2], [1, 3], 0, 2, 3, "last"])
def test_what_is_heard_is_the_sum_of_the_encoders_layers_and_the_last_its_output(encoder, layers, norm):
    mix = LayerMix(HeadRecipe(layers=layers, layer_norm=norm), 3)
    if mix.weights is not None:
        mix.weights.data = torch.arange(len(mix.layers)).float()
    with torch.no_grad():
        whole = encoder(*waves(9000, 7000), layers=True)
    states = torch.stack([*whole.layers[:3], whole.last])[list(mix.layers)]
    states = F.layer_norm(states, (16,)) if norm else states
    shares = torch.softmax(torch.arange(len(mix.layers)).float(), 0)
    found, lengths = heard(mix, encoder, *waves(9000, 7000))
    torch.testing.assert_close(found, torch.einsum("l,lbtd->btd", shares, states), rtol=1e-5, atol=1e-6)
    assert lengths.tolist() == whole.lengths.tolist()


def test_the_encoders_output_is_heard_bit_for_bit(encoder):
    with torch.no_grad():
        assert torch.equal(heard(LayerMix(HeadRecipe(), 3), encoder, *waves(9000, 7000))[0],
                           encoder(*waves(9000, 7000)).last)
    assert not list(LayerMix(HeadRecipe(), 3).parameters())


@pytest.mark.parametrize(("layers", "run"), [("mix", 3), ("last", 3), (3, 3), (0, 0), ([0, 2], 2), (1, 1)])
def test_blocks_past_the_deepest_layer_are_not_run(encoder, layers, run):
    ran, blocks = [], encoder.encoder.layers
    hooks = [block.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, block in enumerate(blocks)]
    mix = LayerMix(HeadRecipe(layers=layers), 3)
    heard(mix, encoder, *waves(9000))
    short = list(ran)
    ran.clear()
    with torch.no_grad():
        mix.read_long(encoder, waves(9000)[0][0])
    for hook in hooks:
        hook.remove()
    assert short == ran == list(range(run))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("layers", ["mix", [0, 2], 0, 2, "last"])
def test_a_long_recording_is_heard_as_a_short_one(encoder, layers, norm):
    mix = LayerMix(HeadRecipe(layers=layers, layer_norm=norm), 3)
    with torch.no_grad():
        long = mix.read_long(encoder, waves(9000)[0][0])
    torch.testing.assert_close(long, heard(mix, encoder, *waves(9000))[0][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_layers_in_bf16_are_added_up_in_float32(norm):
    """A share is a tensor without dimensions: its product with bf16 stayed in bf16, and so did its gradient's sum."""
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        mix = LayerMix(HeadRecipe(layers="mix", layer_norm=norm), 3).to(torch.promote_types(dtype, torch.float32))
        mix.weights.data = torch.arange(4).to(mix.weights.dtype)
        states = torch.randn(4, 2, 50, 16, generator=torch.Generator().manual_seed(0)).bfloat16().to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            mixed = mix(list(states))
            (mixed * torch.linspace(-1, 1, 16).to(mixed.dtype)).sum().backward()
        found.append((mixed, mix.weights.grad))
    (mixed, gradient), (exact, exact_gradient) = found
    assert mixed.dtype is torch.float32
    torch.testing.assert_close(mixed.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-4, atol=1e-4)


def test_layers_are_normalised_one_after_the_other(monkeypatch):
    """A bug once found: of 20 minutes of LARGE there were 6 GB of normalised layers beside the 6 GB that there are."""
    made, most, norm = [], [], F.layer_norm

    def watched(x, *rest):
        made.append(weakref.ref(found := norm(x, *rest)))
        most.append(sum(one() is not None for one in made))
        return found

    monkeypatch.setattr(F, "layer_norm", watched)
    with torch.no_grad():
        LayerMix(HeadRecipe(layers="mix", layer_norm=True), 9)([torch.ones(5, 4)] * 10)
    assert len(made) == 10
    assert max(most) == 1
