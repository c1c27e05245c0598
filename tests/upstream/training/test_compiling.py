"""Blocks compiled give what they give as written, for any shape, and are compiled once for all."""

import copy
import shutil
from dataclasses import dataclass, field

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from upstream.errors import UsageError
from upstream.model import Encoder, EncoderConfig
from upstream.training import compiling
from upstream.training.compiling import compile_blocks, has_compiler, in_place
from upstream.training.gradient import accumulate
from upstream.training.loop import Loss
from upstream.training.peak import Arithmetic
from upstream.training.pool import Pool
from upstream.training.recipe import TrainingRecipe

pytestmark = pytest.mark.processes

CPU = torch.device("cpu")
SHAPE = {"width": 32, "layers": 3, "heads": 2, "ffn": 64, "conv_dim": 16}
STILL = {"dropout": 0, "attention_dropout": 0, "input_dropout": 0, "layerdrop": 0}


@pytest.fixture(autouse=True)
def forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def encoders(**changes):
    plain = Encoder(EncoderConfig(**SHAPE, **STILL, **changes)).initialise(0)
    return plain, copy.deepcopy(plain)


def gradients(encoder, samples, rows=2, lengths=None, precision=None):
    encoder.zero_grad()
    waveforms = torch.randn(rows, samples, generator=torch.Generator().manual_seed(samples))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        encoder(waveforms, None if lengths is None else torch.tensor(lengths)).last.float().square().sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("changes", [{}, {"pre_norm": True}])
def test_compiled_blocks_have_the_gradients_of_plain_ones_at_every_shape(changes):
    plain, compiled = encoders(**changes)
    in_place(compiled, backend="aot_eager")
    for samples, rows, lengths, precision in [(8000, 2, None, None), (12000, 3, None, None), (5000, 1, None, None),
                                              (9000, 2, (9000, 6000), None), (8000, 2, None, "bf16")]:
        expected = gradients(plain, samples, rows, lengths, precision)
        found = gradients(compiled, samples, rows, lengths, precision)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            # In bf16 a processor with AMX rounds some of what is compiled in another order.
            near = 1e-5 if precision is None else max(1e-5, 0.01 * float(expected[name].abs().max()))
            torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=near, msg=name)


def test_one_compilation_serves_all_blocks_and_all_shapes():
    _, compiled = encoders()
    counter = CompileCounterWithBackend("aot_eager")
    in_place(compiled, backend=counter)
    gradients(compiled, 8000)
    first = counter.frame_count
    for samples, rows in [(9000, 2), (12000, 3), (16000, 5)]:
        gradients(compiled, samples, rows)
    assert counter.frame_count == first <= 2  # the first block's input may need no gradient


def test_state_dicts_stay_as_they_are():
    plain, compiled = encoders()
    in_place(compiled, backend="aot_eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())


@pytest.mark.slow
def test_dropout_of_a_compiled_block_is_drawn_from_the_seed():
    encoder = Encoder(EncoderConfig(**SHAPE, layerdrop=0)).initialise(0).train()
    in_place(encoder, backend="aot_eager")
    waveforms = torch.randn(2, 8000)

    def drawn(seed):
        torch.manual_seed(seed)
        return encoder(waveforms).last

    gradients(encoder, 8000)
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_auto_leaves_a_cpu_alone_and_never_means_never():
    for wanted in ("auto", False):
        plain, _ = encoders()
        assert not compile_blocks(plain, TrainingRecipe(compile=wanted), CPU)
        assert plain.encoder.layers[0]._compiled_call_impl is None


def test_a_demand_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(compiling, "has_compiler", lambda device: False)
    with pytest.raises(UsageError, match=r"training\.compile=true: torch cannot compile here"):
        compile_blocks(encoders()[0], TrainingRecipe(compile=True), CPU)


def test_a_machine_without_a_compiler_is_told_by_trying(monkeypatch):
    def missing(function):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch, "compile", missing)
    assert not has_compiler(CPU)


@dataclass
class Batch:
    update: int
    number: int
    weight: float = 1.0
    seconds: float = 1.0
    ids: list = field(default_factory=list)


class Task:
    def __init__(self, model):
        self.model = model

    def loss(self, batch):
        waveforms = torch.randn(2 + batch.number, 8000 + 1600 * batch.update)
        return Loss(self.model(waveforms).last.square().mean(), {})


def test_what_was_counted_first_is_compiled_afterwards():
    """Counting the operations of the first forward pass kept torch from ever compiling a block."""
    _, encoder = encoders()
    counter = CompileCounterWithBackend("aot_eager")
    in_place(encoder, backend=counter)
    arithmetic, recipe = Arithmetic(CPU, "float32", compiled=True), TrainingRecipe(precision="float32")
    for update in range(1, 4):
        assert accumulate(Task(encoder), [Batch(update, n) for n in range(2)], recipe, 0, CPU, Pool({}),
                          arithmetic=arithmetic)
    assert arithmetic.each > 0
    assert 1 <= counter.frame_count <= 2


@pytest.mark.slow
def test_training_and_validation_padded_and_not_are_all_compiled():
    _, encoder = encoders()
    counter = CompileCounterWithBackend("aot_eager")
    in_place(encoder, backend=counter)
    for frozen in (False, True):
        encoder.requires_grad_(not frozen)
        for training in (True, False):
            encoder.train(training)
            for rows, lengths in ((2, None), (1, None), (2, torch.tensor([9000, 6000]))):
                encoder(torch.randn(rows, 9000), lengths)
    assert counter.frame_count > 8, "as many as torch allows unless told otherwise"


@pytest.mark.parametrize("other", ["shard", "checkpoint_activations"])
def test_blocks_that_are_computed_otherwise_are_not_compiled(other):
    with pytest.raises(ValueError, match=r"training\.compile=true goes with neither"):
        TrainingRecipe(compile=True, **{other: True})
    assert not compile_blocks(encoders()[0], TrainingRecipe(**{other: True}), torch.device("cuda"))


def test_a_value_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"training\.compile=sometimes, must be true, false or auto"):
        TrainingRecipe(compile="sometimes")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_real_compiler_agrees():
    plain, compiled = encoders()
    assert compile_blocks(compiled, TrainingRecipe(compile=True), CPU)
    for samples in (8000, 12000):
        expected, found = gradients(plain, samples), gradients(compiled, samples)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-3, msg=name)
