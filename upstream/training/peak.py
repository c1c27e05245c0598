"""How much of what the machine could do a training does: its arithmetic over the rate of a large matrix product."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from upstream import ranks

SIZES = {"cpu": 1024, "cuda": 8192}  # rows of the product: large enough for the full rate, milliseconds of work
REPEATS = 3
AGAIN_SECONDS = 60.0  # after which the rate is measured once more
SLOW = 0.8  # of the rate in float32, below which bfloat16 does not pay
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}


class Arithmetic:
    """Counts the operations of one forward pass, and relates them to the rate that this device was measured at: at the
    start and, since other programs may have had the machine then, once in a while; the best one counts.

    A backward pass makes two products for each one of the forward pass, so an update counts three times the forward
    pass, as in `benchmarks.speed`; recomputed activations are no work. Element-wise operations count nothing.
    """

    def __init__(self, device: torch.device, precision: str, compiled: bool = False, each: float = 0.0) -> None:
        """`each`: what another's `each` was. Where blocks are compiled the pass that is counted is not, and has other
        bits: a run that goes on must not count again."""
        self._device, self._precision, self._compiled = device, precision, compiled
        self._peak, self._measured = matmul_rate(device, precision), time.monotonic()
        self.each = each  # operations of an update for a second of audio; 0 until counted

    @contextlib.contextmanager
    def counting(self, audio_seconds: float) -> Iterator[None]:
        """Around a forward pass over so much audio: the first one is counted, others pass as they are."""
        if self.each or not audio_seconds > 0:
            yield
            return
        # Compiled code is not counted, and what is met for the first time under a counter is never compiled.
        plain = torch.compiler.set_stance("force_eager") if self._compiled else contextlib.nullcontext()
        with plain, _Counter() as counter:
            yield
        self.each = 3 * counter.operations / audio_seconds

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
        _wait(device)
        began = time.perf_counter()
        a @ a
        _wait(device)
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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class _Counter(TorchDispatchMode):
    """Adds up the operations of matrix products and convolutions, by torch's own formulae."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # which takes as long to import as a short command

        super().__init__()
        self.operations, self._formulae = 0, flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = self._formulae.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=out)
        elif str(func._overloadpacket) == "mkldnn._linear_pointwise":  # (..., I) by (O, I)
            self.operations += 2 * out.numel() * args[0].shape[-1]
        elif func._overloadpacket is torch.ops.aten.addmm_:  # (N, O) += (N, I) by (I, O); not in the registry either
            self.operations += 2 * args[1].numel() * args[2].shape[-1]
        elif func._overloadpacket is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:  # not in the registry
            batch, heads, frames, dim = args[0].shape
            self.operations += 4 * batch * heads * frames * args[1].shape[2] * dim
        return out
