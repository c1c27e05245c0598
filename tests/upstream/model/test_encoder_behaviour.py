"""What the parts of the encoder do: layers on request, gradient scaling, layerdrop, weight norm, attention."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from upstream.errors import UsageError
from upstream.model import Encoder
from upstream.model.attention import attend
from upstream.model.transformer import Block, PositionalConvolution

WAVES = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_stopping_early_gives_the_raw_output_of_that_layer(tiny, pre_norm):
    encoder = tiny(pre_norm=pre_norm)
    with torch.no_grad():
        whole = encoder(WAVES, layers=True)
        for k in range(4):
            part = encoder(WAVES, layers=True, stop_at=k)
            assert len(part.layers) == k + 1
            assert torch.equal(part.last, whole.layers[k])
    same = torch.equal(whole.last, whole.layers[3])
    assert same is not pre_norm  # the final norm of a pre-norm model comes after the last block


@pytest.mark.parametrize("frontend", ["conv", "fbank", "light"])
def test_waveforms_in_double_precision_are_computed_in_single(tiny, frontend):
    """What numpy and soundfile give ended deep in torch: `expected m1 and m2 to have the same dtype`."""
    encoder = tiny(frontend=frontend)
    with torch.no_grad():
        assert torch.equal(encoder(WAVES.double()).last, encoder(WAVES).last)
        if frontend == "conv":
            assert encoder.double()(WAVES.double()).last.dtype is torch.float64


def test_lengths_may_be_a_list(tiny):
    with torch.no_grad():
        found, expected = (tiny()(WAVES, lengths) for lengths in ([3000, 2000], torch.tensor([3000, 2000])))
    assert torch.equal(found.lengths, expected.lengths)
    assert torch.equal(found.last[0], expected.last[0])


@pytest.mark.parametrize(("waveforms", "lengths", "says"), [
    (torch.zeros(1, 3000, dtype=torch.int16), None, "expected float32"), (torch.zeros(0, 3000), None, "one row"),
    (WAVES, [3000], "do not fit"), (WAVES, [1.0, 0.5], "samples of each row")])
def test_waveforms_and_lengths_that_are_none_are_named(tiny, waveforms, lengths, says):
    """16-bit samples went through filterbanks as sound that was 32767 times too loud."""
    for frontend in ("conv", "fbank"):
        with pytest.raises(UsageError, match=says):
            tiny(frontend=frontend)(waveforms, lengths)


def test_layers_are_given_only_on_request(tiny):
    with torch.no_grad():
        assert tiny()(WAVES).layers == ()
        assert len(tiny()(WAVES, layers=True).layers) == 4


def _front_end_gradient(encoder: Encoder) -> list[torch.Tensor | None]:
    encoder(WAVES).last.square().sum().backward()
    return [parameter.grad for parameter in encoder.feature_extractor.parameters()]


def test_feature_grad_mult_scales_the_front_end_gradient_only(tiny):
    full, tenth = tiny(feature_grad_mult=1.0), tiny(feature_grad_mult=0.1)
    for whole, part in zip(_front_end_gradient(full), _front_end_gradient(tenth)):
        torch.testing.assert_close(part, whole * 0.1)
    assert torch.equal(full.masked_spec_embed.data, tenth.masked_spec_embed.data)
    torch.testing.assert_close(
        tenth.feature_projection.projection.weight.grad, full.feature_projection.projection.weight.grad
    )


def test_a_feature_grad_mult_of_zero_freezes_the_front_end(tiny):
    assert set(_front_end_gradient(tiny(feature_grad_mult=0.0))) == {None}


@pytest.mark.parametrize("settings", [{}, {"pre_norm": True}, {"frontend": "fbank"}, {"conv_norm": "layer"}])
def test_every_parameter_gets_a_finite_gradient(tiny, settings):
    encoder = tiny(**settings).train()
    output = encoder(WAVES, mask=torch.rand(2, 9) < 0.5)
    (output.last * torch.randn(output.last.shape)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert name.endswith("k_proj.bias") or parameter.grad.abs().max() > 0, name


def test_layerdrop_skips_blocks_in_training_only_and_follows_the_default_generator(tiny):
    encoder = tiny(layerdrop=0.5)
    with torch.no_grad():
        still = encoder(WAVES, layers=True).layers
        assert all(not torch.equal(a, b) for a, b in pairwise(still))
        encoder.train()
        patterns = []
        for seed in (1, 1, 2, 3, 4, 5):
            torch.manual_seed(seed)
            states = encoder(WAVES, layers=True).layers
            patterns.append(tuple(torch.equal(a, b) for a, b in pairwise(states)))
    assert patterns[0] == patterns[1]
    assert len(set(patterns)) > 1


def test_dropout_follows_the_default_generator(tiny):
    encoder = tiny(dropout=0.2, attention_dropout=0.2, input_dropout=0.2).train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(encoder(WAVES).last)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_a_mask_hides_the_waveform_under_it(tiny):
    """With every frame masked, nothing of the input is left."""
    encoder = tiny()
    mask = torch.ones(2, 9, dtype=torch.bool)
    with torch.no_grad():
        first, second = encoder(WAVES, mask=mask).last, encoder(torch.randn(2, 3000), mask=mask).last
    assert torch.equal(first, second)


@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (4, 2), (7, 4), (16, 8)])
def test_positional_convolution_equals_torch_weight_norm(kernel, groups):
    torch.manual_seed(0)
    ours = PositionalConvolution(16, kernel, groups)
    conv = torch.nn.Conv1d(16, 16, kernel, padding=kernel // 2, groups=groups)
    theirs = torch.nn.utils.parametrizations.weight_norm(conv, dim=2)
    with torch.no_grad():
        theirs.parametrizations.weight.original0.copy_(ours.weight_g.uniform_())
        theirs.parametrizations.weight.original1.copy_(ours.weight_v)
        theirs.bias.copy_(ours.bias.uniform_())
        x = torch.randn(3, 11, 16)
        torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2))[..., :11].transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [16, 32, 64, 128])
@pytest.mark.parametrize(("kernel", "groups"), [(16, 4), (15, 4), (128, 16), (32, 2)])
@pytest.mark.parametrize("by_autocast", [True, False])
def test_positional_convolution_in_bf16_is_near_that_in_float32(width, kernel, groups, by_autocast):
    """On a processor with AMX, groups of 4 and 8 channels gave numbers that had nothing to do with it."""
    torch.manual_seed(0)
    conv, x = PositionalConvolution(width, kernel, groups), torch.randn(2, 50, width)
    with torch.no_grad():
        expected = conv(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=by_autocast):
            found = conv(x) if by_autocast else conv.bfloat16()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert float((found.float() - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_equals_its_formula(dtype, padded):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 13, 8).to(dtype)
    bias = torch.zeros(2, 1, 1, 13, dtype=dtype)
    if padded:
        bias[1, ..., 9:] = float("-inf")
    logits = q.double() @ k.double().transpose(-1, -2) + bias.double()
    expected = torch.softmax(logits, -1) @ v.double()
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    found = attend(q, k, v, bias if padded else None, 0.0)
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=0.0)


def test_bfloat16_training_follows_float32(tiny):
    """Autocast changes the gradient of the whole model by a few percent at most."""
    encoder = tiny(pre_norm=True, frontend="conv").train()
    target = torch.randn(2, 9, 24)

    def gradient(enabled: bool) -> torch.Tensor:
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = F.mse_loss(encoder(WAVES).last.float(), target)
        loss.backward()
        return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])

    exact, rounded = gradient(False), gradient(True)
    assert F.cosine_similarity(exact, rounded, dim=0) > 0.99
    assert 0.9 < rounded.norm() / exact.norm() < 1.1


def test_global_fbank_statistics_are_applied(tiny):
    encoder = tiny(frontend="fbank", fbank_norm="global")
    plain = tiny(frontend="fbank", fbank_norm="none")
    encoder.feature_extractor.mean.fill_(2.0)
    encoder.feature_extractor.std.fill_(4.0)
    with torch.no_grad():
        torch.testing.assert_close(encoder(WAVES).features, (plain(WAVES).features - 2) / 4)


def test_utterance_fbank_has_zero_mean_and_unit_variance_in_each_bin(tiny):
    with torch.no_grad():
        features = tiny(frontend="fbank")(WAVES).features.reshape(2, 18, 80)  # 100 Hz again
    torch.testing.assert_close(features.mean(1), torch.zeros(2, 80), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(features.var(1, correction=0), torch.ones(2, 80), atol=1e-3, rtol=0.0)


def test_a_channel_mask_silences_channels_for_the_whole_utterance(tiny):
    """With all channels of one row zero, and all frames in place, that row no longer depends on its input."""
    encoder = tiny()
    channels = torch.zeros(2, 24, dtype=torch.bool)
    channels[0] = True
    other = torch.randn(2, 3000)
    with torch.no_grad():
        first, second = encoder(WAVES, channel_mask=channels).last, encoder(other, channel_mask=channels).last
        plain = encoder(WAVES).last
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], plain[0])
    torch.testing.assert_close(first[1], plain[1])


def test_layerdrop_never_skips_in_evaluation_and_its_share_in_training(tiny):
    encoder = tiny(layerdrop=0.1)

    def skipped():
        with torch.no_grad():
            states = encoder(WAVES, layers=True).layers
        return [torch.equal(a, b) for a, b in pairwise(states)]

    assert not any(any(skipped()) for _ in range(40))
    encoder.train()
    torch.manual_seed(0)
    assert 0.02 < sum(sum(skipped()) for _ in range(100)) / 300 < 0.25


@pytest.mark.parametrize(("dtype", "dropout"), [(torch.float32, 0.1), (torch.bfloat16, 0.0), (torch.bfloat16, 0.1)])
def test_a_bias_that_is_learned_gets_its_gradient(dtype, dropout):
    """WavLM's positions: the faster ways over the CPU know of none."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 13, 8).to(dtype)
    bias = torch.zeros(2, 4, 13, 13, dtype=dtype, requires_grad=True)
    attend(q.requires_grad_(), k, v, bias, dropout).square().sum().backward()
    assert bias.grad is not None
    assert bias.grad.abs().max() > 0


@pytest.mark.parametrize("pre_norm", [False, True])
def test_what_attention_gives_goes_through_dropout(tiny, pre_norm):
    """With all of it dropped, a block is its feed-forward alone."""
    block = tiny(pre_norm=pre_norm).encoder.layers[0]
    assert isinstance(block, Block)
    x = torch.randn(2, 9, 24)
    dropout, block.dropout = block.dropout, torch.nn.Threshold(torch.inf, 0.0)  # zeros everything
    try:
        with torch.no_grad():
            found = block(x, None, None)
            rest = x if pre_norm else block.layer_norm(x)
            inner = block.final_layer_norm(rest) if pre_norm else rest
            expected = rest + block.feed_forward(inner)
            expected = expected if pre_norm else block.final_layer_norm(expected)
    finally:
        block.dropout = dropout
    torch.testing.assert_close(found, expected)


def test_each_dropout_is_the_one_of_its_place(tiny):
    encoder = tiny(dropout=0.1, attention_dropout=0.2, activation_dropout=0.3, input_dropout=0.4)
    block = encoder.encoder.layers[1]
    assert encoder.feature_projection.dropout.p == 0.4
    assert (encoder.encoder.dropout.p, block.dropout.p) == (0.1, 0.1)
    assert (block.attention.dropout, block.feed_forward.intermediate_dropout.p) == (0.2, 0.3)
    assert block.feed_forward.output_dropout.p == 0.1
