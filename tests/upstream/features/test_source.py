"""Sources give one row for each encoder frame, in order, whatever the batches."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import InputError, UsageError
from upstream.features import log_mel, mfcc
from upstream.features.source import FbankSource, LayerSource, MfccSource
from upstream.features.streaming import in_order, plan_batches
from upstream.frames import CONV_GRID
from upstream.model import Encoder, EncoderConfig
from upstream.model.frontend import standardise

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = (16_000, 399, 5000, 400, 12_345, 719, 720, 30_000)
SMALL = {"conv_dim": 16, "width": 32, "layers": 3, "heads": 2, "ffn": 64, "positional_kernel": 16,
         "positional_groups": 4}


@pytest.fixture(scope="module")
def encoder():
    return Encoder(EncoderConfig(**SMALL)).initialise(0).eval()


def streamed(source, recordings, indices=None):
    indices = range(len(recordings)) if indices is None else indices
    return list(source.stream(recordings, indices, recordings.read))


@pytest.mark.parametrize(("source", "features"), [
    (MfccSource(), mfcc), (FbankSource(), lambda w: log_mel(w[None])[0])])
def test_filterbank_sources_give_every_second_window(recordings, source, features):
    made = recordings(LENGTHS)
    for index, frames in streamed(source, made):
        assert frames.shape == (CONV_GRID.frames(LENGTHS[index]), source.describe()["dim"])
        assert torch.equal(frames, features(torch.from_numpy(made.waves[index]))[::2])


def test_sources_keep_the_order_that_was_asked_for(recordings, encoder):
    made = recordings(LENGTHS)
    wanted = [5, 0, 7, 1, 2]
    for source in (MfccSource(), FbankSource(), LayerSource(encoder, 1, "cpu", batch_seconds=0.5)):
        assert [i for i, _ in streamed(source, made, wanted)] == wanted


def test_a_layer_is_what_the_encoder_gives_for_the_utterance_alone(recordings, encoder):
    made = recordings(LENGTHS)
    for index, frames in streamed(LayerSource(encoder, 2, "cpu"), made):
        assert frames.dtype == torch.float32
        assert frames.shape == (CONV_GRID.frames(LENGTHS[index]), 32)
        if len(frames):
            with torch.no_grad():
                alone = encoder(torch.from_numpy(made.waves[index])[None], layers=True).layers[2][0]
            torch.testing.assert_close(frames, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("frontend", ["fbank", "light"])
def test_a_frame_of_40_ms_is_given_for_both_frames_that_it_covers(recordings, frontend):
    made = recordings(LENGTHS)
    wide = Encoder(EncoderConfig(**SMALL, frontend=frontend, stride_ms=40)).initialise(0).eval()
    for index, frames in streamed(LayerSource(wide, 2, "cpu"), made):
        assert frames.shape == (CONV_GRID.frames(LENGTHS[index]), 32)
        if len(frames):
            with torch.no_grad():
                alone = wide(torch.from_numpy(made.waves[index])[None], layers=True).layers[2][0]
            for t in range(len(frames)):
                torch.testing.assert_close(frames[t], alone[t // 2], atol=1e-4, rtol=0)


def test_several_layers_come_from_one_pass(recordings, encoder):
    made = recordings(LENGTHS)
    single = {k: dict(streamed(LayerSource(encoder, k, "cpu"), made)) for k in (0, 3)}
    passes = []
    hook = encoder.register_forward_hook(lambda *_: passes.append(1))
    for index, frames in streamed(LayerSource(encoder, (3, 0), "cpu"), made):
        assert list(frames) == [3, 0]
        for k in (0, 3):
            torch.testing.assert_close(frames[k], single[k][index], atol=1e-5, rtol=0)
    hook.remove()
    assert len(passes) == 1


def test_the_size_of_batches_changes_a_layer_by_rounding_only(recordings, encoder):
    made = recordings(LENGTHS)
    large, small = (dict(streamed(LayerSource(encoder, 3, "cpu", batch_seconds=s), made)) for s in (100, 0.1))
    for index in range(len(LENGTHS)):
        torch.testing.assert_close(large[index], small[index], atol=1e-4, rtol=0)


def test_an_encoder_that_wants_standardised_waveforms_gets_them(recordings):
    encoder = Encoder(EncoderConfig(**SMALL, normalize=True)).initialise(0).eval()
    made = recordings([8000, 16_000])
    for index, frames in streamed(LayerSource(encoder, 1, "cpu"), made):
        with torch.no_grad():
            alone = encoder(standardise(torch.from_numpy(made.waves[index]))[None], layers=True).layers[1][0]
        torch.testing.assert_close(frames, alone, atol=1e-4, rtol=0)


def test_bfloat16_is_near_float32_and_comes_as_float32(recordings, encoder):
    made = recordings([16_000])
    (_, exact), (_, rough) = (streamed(LayerSource(encoder, 3, "cpu", precision=p), made)[0]
                              for p in ("float32", "bfloat16"))
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(rough, exact, atol=0.2, rtol=0.05)


def test_reading_layers_leaves_the_encoder_in_its_mode(recordings, encoder):
    encoder.train()
    first = streamed(LayerSource(encoder, 1, "cpu"), recordings([4000]))[0][1]
    assert encoder.training
    encoder.eval()
    assert torch.equal(first, streamed(LayerSource(encoder, 1, "cpu"), recordings([4000]))[0][1])  # no dropout


@pytest.mark.parametrize("kind", ["mfcc", "fbank", "layer"])
def test_sources_take_a_mask_over_all_utterances(recordings, encoder, kind):
    """A mask was read as the utterances 0 and 1."""
    made = recordings(LENGTHS)
    source = {"mfcc": MfccSource(), "fbank": FbankSource(), "layer": LayerSource(encoder, 1, "cpu")}[kind]
    mask = np.isin(np.arange(len(made)), [2, 5])
    assert [i for i, _ in streamed(source, made, mask)] == [2, 5]


def test_layers_of_an_utterance_that_is_named_twice_are_refused(recordings, encoder):
    """[3, 1, 3, 0, 2] gave 3 and 1 and ended, without a word."""
    with pytest.raises(InputError, match="named twice"):
        streamed(LayerSource(encoder, 1, "cpu"), recordings(LENGTHS), [3, 1, 3, 0, 2])


def test_a_probe_learns_from_layers(recordings, encoder):
    """Tensors of inference mode cannot be saved for the backward pass of what reads them."""
    [(_, frames)] = streamed(LayerSource(encoder, 1, "cpu"), recordings([8000]))
    probe = torch.nn.Linear(32, 2)
    probe(frames).sum().backward()
    assert probe.weight.grad is not None


def test_numbers_of_layers_may_be_numpys(recordings, encoder):
    """`TypeError: 'numpy.int64' object is not iterable`, and JSON cannot hold them."""
    one, several = LayerSource(encoder, np.int64(1), "cpu"), LayerSource(encoder, np.array([1, 3]), "cpu")
    assert json.dumps(one.describe()) == json.dumps(LayerSource(encoder, 1, "cpu").describe())
    assert json.loads(json.dumps(several.describe()))["layer"] == [1, 3]


def test_another_precision_of_layers_is_refused(encoder):
    """`bf16`, as recipes say, computed in float32."""
    with pytest.raises(UsageError, match="precision='bf16': expected float32 or bfloat16"):
        LayerSource(encoder, 1, "cpu", precision="bf16")


def test_a_layer_that_is_not_there_is_refused(encoder):
    with pytest.raises(UsageError, match="layer=4: this encoder has layers 0 to 3"):
        LayerSource(encoder, 4, "cpu")


def test_descriptions_tell_encoders_and_layers_apart(encoder):
    other = Encoder(EncoderConfig(**SMALL)).initialise(1)
    descriptions = [LayerSource(e, k, "cpu").describe() for e, k in ((encoder, 1), (encoder, 2), (other, 1))]
    assert descriptions[0]["dim"] == 32
    assert descriptions[0]["rate"] == 50.0
    assert len({str(d) for d in descriptions}) == 3


def test_a_waveform_of_another_length_is_refused(recordings):
    made = recordings([8000, 9000])
    with pytest.raises(InputError, match="utterance 1: 8999 samples, the manifest says 9000"):
        list(MfccSource().stream(made, [0, 1], lambda i: made.waves[i][:8999]))


def test_a_failure_to_read_reaches_the_caller(recordings):
    def read(index):
        raise InputError("broken.flac")

    with pytest.raises(InputError, match=r"broken\.flac"):
        list(MfccSource().stream(recordings([8000]), [0], read))


@given(lengths=st.lists(st.integers(0, 5000), max_size=40), samples=st.integers(1, 20_000), data=st.data())
def test_batches_hold_each_utterance_once_and_no_more_than_they_may(lengths, samples, data):
    lengths = np.array(lengths, np.int64)
    indices = np.array(data.draw(st.permutations(range(len(lengths)))), np.int64)
    batches = plan_batches(indices, lengths, samples)
    assert sorted(int(i) for b in batches for i in b) == sorted(indices.tolist())
    for batch in batches:
        assert len(batch) == 1 or lengths[batch].max() * len(batch) <= samples
    in_turn = [i for i, _ in in_order(indices, ({int(i): None for i in b} for b in batches))]
    assert in_turn == indices.tolist()


@pytest.mark.parametrize(("layer", "says"), [
    ([], r"layer=\[\]: give one number at least"), ((), r"layer=\(\): give one"),
    (None, "layer=None: expected the number"),
    ("12", "layer='12': expected the number of a layer, or a list of them"), (1.5, r"layer=1\.5: expected"),
    (["1"], r"layer=\['1'\]: expected")])
def test_layers_are_numbers_one_at_least(encoder, layer, says):
    """No layer failed at the first frame; `"12"` gave layers 1 and 2."""
    with pytest.raises(UsageError, match=f"^{says}"):
        LayerSource(encoder, layer, "cpu")


def test_layers_may_be_any_whole_numbers(encoder):
    for layers in ([1, 2], np.array([1, 2]), torch.tensor([1, 2]), range(1, 3)):
        assert LayerSource(encoder, layers, "cpu").layers == (1, 2)


@pytest.mark.parametrize("given", [
    {"batch_seconds": 0}, {"batch_seconds": -1}, {"batch_seconds": float("nan")}, {"batch_seconds": float("inf")},
    {"window_seconds": -1.0}, {"window_seconds": float("nan")},
    {"batch_seconds": "80"}, {"window_seconds": None}])
def test_seconds_of_batches_and_windows_are_above_nothing(encoder, given):
    """A window of less than nothing was taken, and failed at the first long recording."""
    with pytest.raises(UsageError, match=r"^batch_seconds=.* must be above 0 and window_seconds=.* at least 0"):
        LayerSource(encoder, 1, "cpu", **given)


def test_the_name_of_an_encoder_is_none():
    with pytest.raises(UsageError, match=r"^encoder='run/encoder': expected an Encoder; load_encoder gives that"):
        LayerSource("run/encoder", 1, "cpu")
