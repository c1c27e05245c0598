"""How much of what the machine could do a training does: its arithmetic over the rate of a large matrix product."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from upstream import ranks
from upstream.device import finish

SIZES = {"cpu": 1024, "cuda": 8192}  # rows of the product: large enough for the full rate, milliseconds of work
REPEATS = 3
AGAIN_SECONDS = 60.0  # after which the rate is measured once more
SLOW = 0.8  # of the rate in float32, below which bfloat16 does not pay
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}


class Arithmetic:
    """Counts the operations of one forward and backward pass, and relates them to the rate that this device was
    measured at: at the start and, since other programs may have had the machine then, once in a while; the best one
    counts.

    A backward pass makes two products for each one of the forward pass where everything learns, and none where a frozen
    encoder has no part in it. It counts twice the forward pass at most, as in `benchmarks.speed`: activations computed
    again are no work. Element-wise operations count nothing.
    """

    def __init__(self, device: torch.device, precision: str, compiled: bool = False,
                 state: Mapping[str, Any] | None = None) -> None:
        """`state`: what another's was. Where blocks are compiled the pass that is counted is not, and has other bits: a
        run that goes on must not count again."""
        self._device, self._precision, self._compiled = device, precision, compiled
        self._peak, self._measured = matmul_rate(device, precision), time.monotonic()
        self.each, self._learning = 0.0, 0  # operations for a second of audio; parameters that learnt when counted
        if state:
            self.each, self._learning = float(state["each"]), int(state["learning"])

    @property
    def state(self) -> dict[str, float]:
        """What a run that goes on needs."""
        return {"each": self.each, "learning": self._learning}

    @contextlib.contextmanager
    def counting(self, audio_seconds: float, model: nn.Module) -> Iterator[None]:
        """Around a forward and backward pass over so much audio: the first one is counted, and the one after other
        parameters begin to learn; others pass as they are."""
        if self.each or not audio_seconds > 0:
            yield
        else:
            # Compiled code is not counted, and what is met for the first time under a counter is never compiled.
            plain = torch.compiler.set_stance("force_eager") if self._compiled else contextlib.nullcontext()
            with plain, _Counter() as counter:
                yield
            self.each, self._learning = counter.total / audio_seconds, 0
        learning = sum(p.requires_grad for p in model.parameters())  # only now: what freezes does so in the pass
        if self._learning not in (0, learning):
            self.each = 0.0
        self._learning = learning

    def share(self, audio_seconds_per_second: float) -> dict[str, float]:
        """`share_of_peak` at a speed of all ranks together; empty where nothing was counted. Every rank must ask."""
        if self.each and time.monotonic() - self._measured > AGAIN_SECONDS:
            with contextlib.suppress(torch.OutOfMemoryError):  # of a training that needs nearly all there is
                self._peak = max(self._peak, matmul_rate(self._device, self._precision))
            self._measured = time.monotonic()
        peak = ranks.total(self._peak)
        return {"share_of_peak": round(self.each * audio_seconds_per_second / peak, 4)} if self.each else {}


def matmul_rate(device: torch.device, precision: str) -> float:
    """Operations a second of a large square matrix product, the best of a few; a multiply-add is two."""
    size = SIZES["cuda" if device.type == "cuda" else "cpu"]
    if device.type == "cpu" and precision == "fp16":
        size = 128  # CPUs do not multiply these: it takes seconds where it should take milliseconds
    a = torch.ones(size, size, device=device, dtype=DTYPES[precision])
    times = []
    for _ in range(REPEATS):
        finish(device)
        began = time.perf_counter()
        a @ a
        finish(device)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / max(min(times), 1e-9)


def advice(device: torch.device, precision: str) -> str | None:
    """What to say where a CPU has slow bfloat16 products, or none of its own; None where there is nothing to say."""
    if device.type != "cpu" or precision != "bf16":
        return None
    rates = {kind: max(matmul_rate(device, kind) for _ in range(2)) for kind in ("float32", "bf16")}
    share = rates["bf16"] / rates["float32"]
    if share > SLOW:
        return None
    return (f"this processor multiplies in bf16 at {share:.2g} times its rate in float32: training.precision=float32 "
            "may be faster here")


class _Counter(TorchDispatchMode):
    """Adds up the operations of matrix products and convolutions, by torch's own formulae, of both passes apart."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # which takes as long to import as a short command

        super().__init__()
        self._formulae = flop_registry
        self._forward = self._backward = 0

    @property
    def total(self) -> int:
        """Of both passes; the backward one has no more than two products for each one of the forward pass."""
        return self._forward + min(self._backward, 2 * self._forward)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operations = self._operations(func._overloadpacket, args, kwargs or {}, out)
        if torch._C._current_graph_task_id() == -1:
            self._forward += operations
        else:  # autograd is at work
            self._backward += operations
        return out

    def _operations(self, packet: Any, args: Any, kwargs: Any, out: Any) -> int:
        aten = torch.ops.aten
        if (formula := self._formulae.get(packet)) is not None:
            return int(formula(*args, **kwargs, out_val=out))
        if str(packet) == "mkldnn._linear_pointwise":  # (..., I) by (O, I)
            return int(2 * out.numel() * args[0].shape[-1])
        if packet is aten.addmm_:  # (N, O) += (N, I) by (I, O); not in the registry either
            return int(2 * args[1].numel() * args[2].shape[-1])
        if str(packet) in _LSTM:
            return _lstm(_LSTM[str(packet)], args)
        if packet is aten._scaled_dot_product_flash_attention_for_cpu:  # nor this, two products, and its four backward
            return _attention(2, *args[:2])
        if packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
            return _attention(4, *args[1:3])
        return 0


# Whole LSTMs that are one operation, not in the registry either: products for each weight, and where the weights stand.
_LSTM = {"aten._cudnn_rnn": (1, None), "aten._cudnn_rnn_backward": (2, None),
         "aten.mkldnn_rnn_layer": (1, slice(1, 5)), "aten.mkldnn_rnn_layer_backward": (2, slice(1, 5))}


def _lstm(kind: tuple[int, slice | None], args: Any) -> int:
    """Of a layer over (B, T, I) or (T, B, I): each frame meets every matrix of weights."""
    products, where = kind
    weights = args[1] if where is None else args[where]
    matrices = sum(weight.numel() for weight in weights if weight.dim() == 2)
    return products * 2 * args[0].shape[0] * args[0].shape[1] * matrices


def _attention(products: int, query: torch.Tensor, key: torch.Tensor) -> int:
    batch, heads, frames, dim = query.shape
    return products * 2 * batch * heads * frames * key.shape[2] * dim
