"""The pretended GPU refuses what a real one refuses, computes what the CPU does, and says who waits for it."""

import numpy as np
import pytest
import torch
from pretend_gpu import CUDA, MixedDevices, pretended_gpu
from torch import nn
from torch.nn import functional as F


@pytest.fixture
def waits():
    with pretended_gpu() as waits:
        yield waits


def test_tensors_say_where_they_are(waits):
    x = torch.zeros(2, 3, device="cuda")
    assert x.device == CUDA
    assert x.is_cuda
    for made in (x + 1, x.t(), torch.zeros_like(x), x.new_ones(2), torch.arange(3, device=x.device), x.bfloat16(),
                 torch.tensor([1, 2], device="cuda"), torch.ones(2).cuda(), torch.ones(2).to("cuda"), x.detach(),
                 torch.ones(2).to(x), torch.ones(2).to("cuda", torch.float64)):
        assert made.device == CUDA
    assert x.cpu().device.type == "cpu"
    assert x.to("cpu", torch.int64).dtype == torch.int64
    assert nn.Linear(2, 2).to("cuda").weight.device == CUDA


def test_two_devices_in_one_operation_are_refused(waits):
    x = torch.ones(3, device="cuda")
    for work in (lambda: x + torch.ones(3), lambda: torch.cat([x, torch.ones(1)]), lambda: torch.ones(2, 3) @ x,
                 lambda: F.linear(x, torch.ones(2, 3)), lambda: x.index_select(0, torch.zeros(1, dtype=torch.int64))):
        with pytest.raises(MixedDevices, match="same device"):
            work()
    assert float(x.sum() + torch.tensor(2.0)) == 5  # a number may come from anywhere


def test_a_tensor_on_the_gpu_is_no_array(waits):
    x = torch.ones(3, device="cuda")
    for work in (x.numpy, lambda: np.asarray(x)):
        with pytest.raises(TypeError, match="cuda:0"):
            work()
    np.testing.assert_array_equal(x.cpu().numpy(), np.ones(3))


@pytest.mark.parametrize(("what", "work"), [
    ("number", lambda x: x.sum().item()), ("number", lambda x: bool((x > 0).any())), ("tolist", lambda x: x.tolist()),
    ("boolean index", lambda x: x[x > 0]), ("aten.nonzero.default", lambda x: x.nonzero()),
    ("copy to the CPU", lambda x: x.cpu()), ("copy that blocks", lambda x: torch.ones(2).to(x.device)),
    ("copy that blocks", lambda x: torch.tensor([1.0], device=x.device)),
    ("index from the CPU", lambda x: x[torch.tensor([0, 1])])])
def test_what_waits_for_the_gpu_is_written_down(what, work, waits):
    work(torch.ones(3, device="cuda"))
    assert {name for name, _ in waits} == {what}


def test_what_does_not_wait_is_not_written_down(waits):
    x = torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    y = torch.where(x > 0, x, 2 * x)[1:].masked_fill(x[1:] > 5, 0)
    (y.softmax(-1) @ y).mean()
    assert not waits


def step(device):
    """Weights after an update in bfloat16, whose forward pass has views, changes in place and attention."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 24)).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), 0.1, fused=True)
    x = torch.linspace(-1, 1, 2 * 5 * 8).view(2, 5, 8).to(device)
    with torch.autocast(device, torch.bfloat16):
        q, k, v = model(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(q, k, v).float().clone()
        y[:, 0].mul_(2)
        y.square().mean().backward()
    optimiser.step()
    with torch.inference_mode():
        return [p.cpu().clone() for p in model.parameters()]


def test_an_update_is_that_of_the_cpu(waits):
    for here, there in zip(step("cuda"), step("cpu"), strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=0)


def test_nothing_is_pretended_afterwards():
    before = torch.cuda.is_available(), torch.cuda.device_count(), torch.autocast, torch.tensor, torch.Tensor.to
    with pretended_gpu():
        assert torch.cuda.is_available()
    after = torch.cuda.is_available(), torch.cuda.device_count(), torch.autocast, torch.tensor, torch.Tensor.to
    assert after == before
