"""Devices that programs ask for: those that are there, and a line for others."""

import pytest
import torch

from upstream import LayerSource, load_encoder
from upstream.device import named_device
from upstream.errors import UsageError
from upstream.model import Encoder, EncoderConfig

SHAPE = EncoderConfig(frontend="fbank", width=32, layers=1, heads=2, ffn=64, positional_groups=2)


def test_a_device_is_the_one_that_is_named():
    assert named_device("cpu") == named_device(torch.device("cpu")) == torch.device("cpu")
    assert named_device(None) == named_device("auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_told_in_a_line(name, tmp_path):
    """Found in review: programs got a traceback of torch."""
    for call in (named_device, lambda device: load_encoder(tmp_path, device),
                 lambda device: LayerSource(Encoder(SHAPE), 1, device)):
        with pytest.raises(UsageError, match=r"device=cuda: torch .* finds no GPU here"):
            call(name)


def test_a_name_of_no_device_is_told():
    with pytest.raises(UsageError, match="device=gpu: no device of torch; give cpu, cuda"):
        named_device("gpu")
