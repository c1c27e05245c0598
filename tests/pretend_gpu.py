"""A GPU for machines without one: tensors that say they are on `cuda:0` and are computed by the CPU.

What a GPU would refuse is refused: operations on tensors of two devices, `numpy()` of a tensor that is not on the CPU.
What would make the program wait for a GPU is written down (`Waits`): numbers asked for, shapes that depend on values,
copies that are not `non_blocking`. Speed, memory and CUDA's own kernels are not pretended.

Tensors are a wrapper subclass whose C++ side is an ordinary CPU tensor, for autograd has no queue for a device that is
not there; code written in Python sees the device by the properties and methods overridden here.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from upstream.training import gradient

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
ROOMS = ("upstream", "downstream", "benchmarks", "tools")
aten = torch.ops.aten
SHAPE_FROM_VALUES = {
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_consecutive.default,
    aten.unique_dim.default, aten.equal.default, aten.bincount.default, aten.repeat_interleave.Tensor,
}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index.Tensor}
KEPT_WHOLE = {aten.item.default, aten.is_nonzero.default}
CTC = {aten._ctc_loss.Tensor, aten._ctc_loss_backward.Tensor}  # their lengths are on the CPU
_AUTOCAST, _TO = torch.autocast, Tensor.to


class Waits(Counter[tuple[str, str]]):
    """(what, where) -> how often; `where` is the line of the program that asked."""

    def note(self, what: str) -> None:
        self[what, _line()] += 1


class MixedDevices(RuntimeError):
    """What CUDA says of tensors on two devices."""


class OnGPU(Tensor):
    """A tensor that says it is on `cuda:0`; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGPU:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=CPU, requires_grad=False)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnGPU({self.held})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def get_device(self) -> int:
        return 0

    def is_pinned(self, device: Any = None) -> bool:
        return False

    def to(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        if args and isinstance(args[0], Tensor):
            return self.to(args[0].device, args[0].dtype, *args[1:], **kwargs)
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        if device is None or device.type == "cuda":
            same = (dtype is None or dtype == self.dtype) and memory_format is None and not kwargs.get("copy")
            return self if same else _cast(self, dtype, memory_format)
        return _to_cpu(self, dtype, non_blocking)

    def cpu(self, memory_format: Any = None) -> Tensor:  # type: ignore[override]
        return self.to(CPU)

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return self

    def tolist(self) -> Any:
        _WAITS[-1].note("tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to "
                            "host memory first.")
        return self.detach().cpu().numpy()

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        return self.held.data_ptr()


_WAITS: list[Waits] = []


@contextlib.contextmanager
def pretended_gpu() -> Iterator[Waits]:
    """While this is open torch says that there is one GPU; what waited for it is written into what is given."""
    waits = Waits()
    _WAITS.append(waits)
    run = threading.Thread.run

    def run_with_gpu(thread: threading.Thread) -> None:
        with _Mode():
            run(thread)

    cuda = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "_lazy_init": lambda: None,
        "synchronize": lambda device=None: waits.note("synchronize"), "empty_cache": lambda: None,
        "set_device": lambda device: None, "mem_get_info": lambda device=None: (100 << 30, 139 << 30),
        "memory_reserved": lambda device=None: 0, "max_memory_reserved": lambda device=None: 1 << 30,
        "max_memory_allocated": lambda device=None: 1 << 30, "reset_peak_memory_stats": lambda device=None: None,
        "get_device_name": lambda device=None: "pretended", "get_device_capability": lambda device=None: (9, 0),
        "get_rng_state": lambda device=None: torch.get_rng_state(), "is_bf16_supported": lambda *a, **k: True,
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state), "manual_seed_all": lambda seed: None,
        "_exchange_device": lambda index: 0, "_maybe_exchange_device": lambda index: 0,
        "is_initialized": lambda: True, "is_current_stream_capturing": lambda: False,
    }
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # or parameters would stay what they were
    try:
        with contextlib.ExitStack() as stack:
            for name, function in cuda.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, function))
            stack.enter_context(mock.patch.object(torch, "autocast", _Autocast))
            for name in ("is_autocast_enabled", "get_autocast_dtype"):
                stack.enter_context(mock.patch.object(torch, name, _of_cpu(getattr(torch, name))))
            stack.enter_context(mock.patch.object(torch.nn.functional, "one_hot", _one_hot))
            stack.enter_context(mock.patch.object(torch.backends.cudnn, "is_acceptable", return_value=False))
            stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor, device=None: tensor))
            stack.enter_context(mock.patch.object(Tensor, "to", _to))
            stack.enter_context(mock.patch.object(Tensor, "cuda", lambda tensor, *a, **k: _to(tensor, CUDA)))
            for name in ("tensor", "as_tensor", "asarray"):
                stack.enter_context(mock.patch.object(torch, name, _made_on_cpu(getattr(torch, name))))
            stack.enter_context(mock.patch.object(threading.Thread, "run", run_with_gpu))
            stack.enter_context(mock.patch("upstream.training.compiling.has_compiler", return_value=False))
            stack.enter_context(mock.patch.dict("upstream.training.peak.SIZES", cuda=64))
            stack.enter_context(_Mode())
            yield waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)
        _WAITS.pop()


@contextlib.contextmanager
def waits_of_passes() -> Iterator[list[dict[tuple[str, str], int]]]:
    """A list that gets, for each micro-batch of a training, what waited in its forward and backward pass."""
    found: list[dict[tuple[str, str], int]] = []
    original = gradient._gradient

    def watched(*arguments: Any) -> Any:
        before = _WAITS[-1].copy()
        loss = original(*arguments)
        found.append(dict(_WAITS[-1] - before))
        return loss

    with mock.patch.object(gradient, "_gradient", watched):
        yield found


class _Mode(TorchDispatchMode):
    """Sees to what is made on the GPU out of nothing, or from tensors of the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Autocast(_AUTOCAST):
    """Autocast for the GPU is the CPU's: that is what computes."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def _one_hot(tensor: Tensor, num_classes: int) -> Tensor:
    """torch's own makes a table on the device that its C++ side thinks the tensor is on."""
    zeros = tensor.new_zeros((*tensor.shape, num_classes), dtype=torch.int64)
    return zeros.scatter_(-1, tensor[..., None], 1)


def _of_cpu(ask: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *device_type: ask(*("cpu" if kind == "cuda" else kind for kind in device_type))


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to` with a number for the GPU: torch would ask the driver for it."""
    def numbered(value: Any) -> Any:
        return CUDA if isinstance(value, (str, torch.device)) and torch.device(value).type == "cuda" else value

    if args and isinstance(args[0], OnGPU):
        args = (CUDA, args[0].dtype, *args[1:])
    return _TO(tensor, *map(numbered, args), **{name: numbered(value) for name, value in kwargs.items()})


def _made_on_cpu(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that makes tensors of numbers, which then go to the device that was asked for."""
    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if isinstance(data, OnGPU):
            return data if device is None else data.to(device)
        tensor = make(data, *args, **kwargs)
        return tensor if device is None else tensor.to(device)
    return made


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func._can_decompose() and func not in KEPT_WHOLE:  # in inference mode they arrive whole, autograd parts them
        with _Mode():
            parted = func.decompose(*args, **kwargs)
        if parted is not NotImplemented:
            return parted
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    ours = [x for x in tensors if isinstance(x, OnGPU)]
    wanted = kwargs.get("device")
    to_gpu = wanted is not None and (torch.device(wanted).type == "cuda" or _by_autograd(tensors))
    if not ours and not to_gpu:
        return func(*args, **kwargs)
    waits = _WAITS[-1]
    if func is aten._to_copy.default:
        return _copied(args[0], kwargs, to_gpu)
    if func is aten.copy_.default:
        return _copied_into(args[0], args[1], bool(args[2:] and args[2]) or bool(kwargs.get("non_blocking")))
    if func is aten._local_scalar_dense.default:
        waits.note("number")
        return func(args[0].held)
    others = [x for x in tensors if not isinstance(x, OnGPU) and x.dim() > 0]
    if func in SHAPE_FROM_VALUES:
        waits.note(str(func))
    if func in INDEXING:
        for index in args[1]:
            if index is None:
                continue
            if index.dtype in (torch.bool, torch.uint8):
                waits.note("boolean index")
            elif not isinstance(index, OnGPU):
                waits.note("index from the CPU")
                others = [x for x in others if x is not index]
    if func in CTC:
        others = [x for x in others if x.dim() > 1]
    if ours and others:
        raise MixedDevices(f"Expected all tensors to be on the same device, but {func} got cuda:0 and cpu "
                           f"(shapes {[tuple(x.shape) for x in others]}) at {_line()}")
    plain = {name: CPU if name == "device" else _held(value) for name, value in kwargs.items() if name != "pin_memory"}
    found = func(*tree_map(_held, args), **plain)
    if wanted is not None and not to_gpu:
        return found
    if torch.is_inference_mode_enabled():  # nothing keeps track of views, but what is changed in place stays itself
        if func._schema.is_mutable and "out" not in kwargs:
            return args[0]
        with torch.inference_mode(not ours or ours[0].is_inference()):  # a view is of inference where its base is
            return tree_map(_wrapped, found)
    return return_and_correct_aliasing(func, args, kwargs, tree_map(_wrapped, found))


def _by_autograd(tensors: list[Tensor]) -> bool:
    """Whether autograd itself asks for the CPU, on which it thinks that gradients are."""
    backwards = torch._C._current_graph_task_id() != -1  # type: ignore[attr-defined]
    return backwards and (not tensors or any(isinstance(x, OnGPU) for x in tensors))


def _copied(source: Tensor, kwargs: dict[str, Any], to_gpu: bool) -> Tensor:
    """`_to_copy`: to another device, dtype or layout."""
    plain = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory")}
    copy = aten._to_copy.default(_held(source), **plain)
    if isinstance(source, OnGPU) and kwargs.get("device") is not None and not to_gpu:
        _WAITS[-1].note("copy to the CPU")
        return copy
    if not isinstance(source, OnGPU):
        _note_if_blocking(bool(kwargs.get("non_blocking")))
    return OnGPU(copy)


def _copied_into(target: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
    if isinstance(source, OnGPU) and not isinstance(target, OnGPU):
        _WAITS[-1].note("copy to the CPU")
    elif isinstance(target, OnGPU) and not isinstance(source, OnGPU) and source.dim():
        _note_if_blocking(non_blocking)
    _held(target).copy_(_held(source))
    return target


def _note_if_blocking(non_blocking: bool) -> None:
    """A copy to the GPU waits for all that it was given to do before, unless it is asked not to. From memory that is
    not pinned as well: that is copied to some that is, first."""
    if not non_blocking:
        _WAITS[-1].note("copy that blocks")


def _cast(tensor: OnGPU, dtype: torch.dtype | None, memory_format: Any) -> Tensor:
    return torch.ops.aten.to.dtype(tensor, dtype or tensor.dtype, False, True, memory_format)


def _to_cpu(tensor: OnGPU, dtype: torch.dtype | None, non_blocking: bool) -> Tensor:
    return _ToCPU.apply(tensor, dtype)


class _ToCPU(torch.autograd.Function):
    """The C++ side takes the tensor for one on the CPU already, and would copy nothing."""

    @staticmethod
    def forward(ctx: Any, tensor: OnGPU, dtype: torch.dtype | None) -> Tensor:
        _WAITS[-1].note("copy to the CPU")
        return tensor.held.detach().to(dtype or tensor.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return OnGPU(gradient), None


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnGPU) else value


def _wrapped(value: Any) -> Any:
    return OnGPU(value) if isinstance(value, Tensor) and not isinstance(value, OnGPU) else value


def _line() -> str:
    """The innermost line of the program, without the tests and the libraries."""
    for frame in reversed(traceback.extract_stack()):
        with contextlib.suppress(ValueError):
            place = Path(frame.filename).relative_to(ROOT)
            if place.parts[0] in ROOMS:
                return f"{place}:{frame.lineno} {frame.line}"
    return "elsewhere"
