"""Whatever an utterance is batched with, its frames stay the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upstream.errors import InputError, UsageError
from upstream.model import encoder as encoder_module
from upstream.model.padding import roomy_frames

FRONT_ENDS = [
    {"frontend": "conv", "conv_norm": "group"},
    {"frontend": "conv", "conv_norm": "layer", "conv_bias": True},
    {"frontend": "fbank", "fbank_norm": "utterance"},
    {"frontend": "fbank", "fbank_norm": "global"},
    {"frontend": "fbank", "fbank_norm": "none"},
    {"frontend": "fbank", "stride_ms": 40},
    {"frontend": "light"},
    {"frontend": "light", "stride_ms": 40, "fbank_norm": "global", "conv_bias": True},
]


@settings(deadline=None, max_examples=20)
@given(
    front=st.sampled_from(FRONT_ENDS),
    pre_norm=st.booleans(),
    positional_kernel=st.integers(1, 12),
    lengths=st.lists(st.integers(400, 4000), min_size=1, max_size=4),
    surplus=st.sampled_from([0, 1, 79, 160, 321, 2000]),
    seed=st.integers(0, 2**31),
)
def test_padding_does_not_change_an_utterance(tiny, front, pre_norm, positional_kernel, lengths, surplus, seed):
    encoder = tiny(seed=seed, pre_norm=pre_norm, positional_kernel=positional_kernel, **front)
    generator = torch.Generator().manual_seed(seed)
    waveforms = torch.randn(len(lengths), max(lengths) + surplus, generator=generator)  # noise past the lengths too
    with torch.no_grad():
        together = encoder(waveforms, torch.tensor(lengths), layers=True)
        for row, samples in enumerate(lengths):
            alone = encoder(waveforms[row : row + 1, :samples], layers=True)
            frames = encoder.config.grid.frames(samples)
            assert together.lengths[row] == frames == alone.last.shape[1]
            for whole, single in zip((together.last, *together.layers), (alone.last, *alone.layers)):
                torch.testing.assert_close(whole[row, :frames], single[0], atol=1e-4, rtol=0.0)
            torch.testing.assert_close(together.features[row, :frames], alone.features[0], atol=1e-4, rtol=1e-4)
            assert not together.features[row, frames:].any()


@pytest.mark.parametrize("front", FRONT_ENDS)
def test_padding_does_not_change_the_gradient(tiny, front):
    """Three utterances in one batch give the sum of their gradients one by one."""
    encoder = tiny(feature_grad_mult=1.0, **front)
    lengths = [4000, 1333, 2570]
    waveforms = torch.randn(3, 4000, generator=torch.Generator().manual_seed(5))

    def gradient(rows: list[int], samples: int) -> dict[str, torch.Tensor]:
        encoder.zero_grad()
        output = encoder(waveforms[rows, :samples], torch.tensor([lengths[row] for row in rows]))
        sum(output.last[i, :n].square().sum() for i, n in enumerate(output.lengths.tolist())).backward()
        return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}

    together = gradient([0, 1, 2], 4000)
    single = [gradient([row], samples) for row, samples in enumerate(lengths)]
    assert together
    for name, value in together.items():
        expected = sum(alone[name] for alone in single)
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(value, expected, atol=2e-4 * scale, rtol=0.0)


def test_a_batch_without_padding_needs_no_lengths(tiny):
    encoder = tiny()
    waveforms = torch.randn(2, 3000)
    with torch.no_grad():
        assert torch.equal(encoder(waveforms).last, encoder(waveforms, torch.tensor([3000, 3000])).last)


@pytest.mark.parametrize("frontend", ["conv", "fbank", "light"])
def test_399_samples_are_refused_and_400_give_a_frame(tiny, frontend):
    encoder = tiny(frontend=frontend)
    with torch.no_grad():
        assert encoder(torch.randn(1, 400)).last.shape == (1, 1, 24)
    with pytest.raises(InputError, match=r"row 1 .* at least 400 samples"):
        encoder(torch.randn(2, 1000), torch.tensor([1000, 399]))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"lengths": torch.tensor([1000])}, "lengths"),
        ({"lengths": torch.tensor([1000, 1001])}, "lengths"),
        ({"mask": torch.zeros(2, 9, dtype=torch.bool)}, "mask"),
        ({"stop_at": 4}, "stop_at"),
    ],
)
def test_arguments_that_do_not_fit_the_batch_are_refused(tiny, arguments, named):
    with pytest.raises(UsageError, match=named):
        tiny()(torch.randn(2, 1000), **arguments)


@given(frames=st.integers(1, 5000), width=st.sampled_from([64, 512, 513, 1024]),
       dtype=st.sampled_from([torch.bfloat16, torch.float32]), device=st.sampled_from(["cpu", "meta"]))
def test_room_is_an_eighth_at_most_and_only_for_small_models_in_low_precision_on_cpus(frames, width, dtype, device):
    room = roomy_frames(frames, width, torch.device(device), dtype)
    assert frames <= room <= frames * 9 / 8 + 1
    assert roomy_frames(room, width, torch.device(device), dtype) == room
    assert room == frames or (width <= 512 and dtype == torch.bfloat16 and device == "cpu")


def test_room_by_hand():
    small = (256, torch.device("cpu"), torch.bfloat16)
    rooms = [roomy_frames(frames, *small) for frames in (1, 15, 17, 256, 257, 288, 289)]
    assert rooms == [1, 15, 18, 256, 288, 288, 320]
    assert len({roomy_frames(frames, *small) for frames in range(257, 513)}) == 8


@pytest.mark.parametrize("front", FRONT_ENDS)
@pytest.mark.parametrize("rows", [1, 3])
def test_room_changes_no_frame_and_no_shape(tiny, monkeypatch, front, rows):
    """In float32, so that it can be seen; by itself it is only there in 16 bits."""
    encoder = tiny(feature_grad_mult=1.0, **front)
    grid = encoder.config.grid
    samples = grid.samples(19) - grid.padding + 3  # 19 frames: 20 with room
    lengths = torch.tensor([samples, samples - 700, 900][:rows])
    waveforms = torch.randn(rows, samples, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(rows, 19, generator=torch.Generator().manual_seed(2)) < 0.4

    def outputs() -> list[torch.Tensor]:
        encoder.zero_grad()
        found = encoder(waveforms, lengths, mask, layers=True)
        sum(found.last[i, :n].square().sum() for i, n in enumerate(found.lengths.tolist())).backward()
        assert found.last.shape[1] == found.features.shape[1] == found.layers[0].shape[1] == 19
        real = [whole[i, :n] for whole in (found.last, found.features, *found.layers)
                for i, n in enumerate(found.lengths.tolist())]
        return [*real, *(p.grad.clone() for p in encoder.parameters() if p.grad is not None)]

    plain, seen = outputs(), []
    monkeypatch.setattr(encoder_module, "roomy_frames", lambda frames, *_: seen.append(frames) or frames + 1)
    for found, expected in zip(outputs(), plain, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-4 * max(1.0, expected.abs().max().item()), rtol=0.0)
    assert seen == [19]


def test_crops_of_one_length_get_no_room(tiny, monkeypatch):
    monkeypatch.setattr(encoder_module, "roomy_frames", lambda *_: pytest.fail("asked for room"))
    assert tiny()(torch.randn(2, 3000)).last.shape[0] == 2


def test_utterances_of_many_lengths_share_the_shapes_of_their_products(tiny, monkeypatch):
    """Every new shape was compiled, which took a third of a small recogniser's training."""
    encoder, shapes = tiny(), set()
    forward = encoder.encoder.forward
    monkeypatch.setattr(encoder.encoder, "forward", lambda x, *a, **k: shapes.add(x.shape) or forward(x, *a, **k))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for samples in range(8400, 16400, 320):  # 26 to 50 frames
            encoder(torch.randn(1, samples))
            encoder(torch.randn(2, samples), torch.tensor([samples, samples - 400]))
    assert {frames for _, frames, _ in shapes} == {26, 28, 30, 32, 36, 40, 44, 48, 52}
