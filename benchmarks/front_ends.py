"""What the front ends cost and what they learn: conv, fbank and light, a frame every 20 or 40 ms.

    hubertkit bench front-ends --data TRAIN.arrow --aligned ALIGNED.arrow --alignments DIR --out DIR

Cost is an update of masked prediction on synthetic audio, at BASE's size and at that of `hubert-tiny`: forward,
backward and AdamW in bf16. What is learnt is the PNMI of every layer against phones after the same number of updates of
round 1, `hubert-tiny` with each front end. A training is a stage, so a measurement that was killed goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import refuse_other_results, write_results
from upstream.disk import read_json, write_json
from upstream.errors import UsageError
from upstream.keyed import keyed, keyed_torch
from upstream.locks import locked
from upstream.model import Encoder, EncoderConfig, MaskedPrediction, SpanMask
from upstream.model.masking import batch_masks
from upstream.pretrain import pretrain
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe
from upstream.progress import say
from upstream.recipe import load_recipe
from upstream.training.allocator import keep_memory
from upstream.training.monitor import read_metrics

FRONT_ENDS: dict[str, dict[str, Any]] = {
    "conv": {"frontend": "conv"},
    "light": {"frontend": "light"},
    "light-40ms": {"frontend": "light", "stride_ms": 40},
    "fbank": {"frontend": "fbank"},
    "fbank-40ms": {"frontend": "fbank", "stride_ms": 40},
}
SIZES = {"base": EncoderConfig(), "tiny": EncoderConfig(
    conv_dim=256, width=256, layers=6, heads=4, ffn=1024, pre_norm=True, positional_kernel=31, dropout=0,
    attention_dropout=0, input_dropout=0, layerdrop=0)}
BENCHMARK = "front-ends"
CLASSES = 100
REPEATS = 5


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rows: int = 4  # utterances in an update
    seconds: float = 8.0  # of each
    sizes: tuple[str, ...] = ("base", "tiny")
    updates: int = 1000  # of training for the PNMI
    seed: int = 0
    overrides: tuple[str, ...] = ()  # of the recipe that is trained
    trained: tuple[str, ...] = ()  # front ends; none named: all


def run(plan: Plan, data: Path, aligned: Path, alignments: Path, out: Path, command: str,
        say: Callable[[str], None] = say) -> dict[str, Any]:
    """Measure into `out`, and give the content of `out/results.json`.

    Rows of `what` `cost`: `model`, `front_end`, `seconds` (median of an update), `audio_seconds_per_second`,
    `parameters`, `share_of_conv` (its time over that of conv). Rows of `what` `pnmi`: `front_end`, `updates`,
    `audio_seconds_per_second` and `pnmi` of each layer, `best`.

    Raises:
        UsageError, InputError: the recordings cannot be used, or files of somebody else are in `out`.
    """
    refuse_other_results(out / "results.json", BENCHMARK)
    _refuse_other_costs(out / "cost.json")
    with locked(out):
        costs = _once(out / "cost.json", asdict(plan) | {"front_ends": FRONT_ENDS}, lambda: _costs(plan, say))
        results: dict[str, Any] = {"benchmark": BENCHMARK, "command": command, "rows": costs}
        for name in plan.trained or FRONT_ENDS:
            results["rows"].append(_learnt(plan, name, data, aligned, alignments, out / name, say))
            write_results(out / "results.json", results)  # what there is, after every training
    return results


def _refuse_other_costs(path: Path) -> None:
    found = read_json(path) if path.is_file() else {"plan": {}, "rows": []}
    if not isinstance(found, dict) or not {"plan", "rows"} <= found.keys():
        raise UsageError(f"{path}: is there already and no costs of front ends, so it is left as it is; give another "
                         "folder (--out), or move it away")


def _once(path: Path, plan: dict[str, Any], measure: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows that are in a file, if they were measured by the same plan; measured now otherwise."""
    plan = {k: list(v) if isinstance(v, tuple) else v for k, v in plan.items()}
    if path.is_file() and (known := read_json(path)).get("plan") == plan:
        return list(known["rows"])
    rows = measure()
    write_json(path, {"plan": plan, "rows": rows})
    return rows


def _costs(plan: Plan, say: Callable[[str], None]) -> list[dict[str, Any]]:
    keep_memory()
    rows: list[dict[str, Any]] = []
    for size in plan.sizes:
        first = 0.0
        for name, front in FRONT_ENDS.items():
            config = replace(SIZES[size], **front)
            seconds, parameters = update_seconds(config, plan)
            first = first or seconds
            rows.append({"what": "cost", "model": size, "front_end": name, "seconds": round(seconds, 4),
                         "audio_seconds_per_second": round(plan.rows * plan.seconds / seconds, 1),
                         "parameters": parameters, "share_of_conv": round(seconds / first, 3)})
            say(f"{size}, {name}: {seconds:.2f} s an update, {rows[-1]['audio_seconds_per_second']:.0f} audio s/s")
    return rows


def update_seconds(config: EncoderConfig, plan: Plan) -> tuple[float, int]:
    """Median seconds of an update, and the number of parameters."""
    model = MaskedPrediction(Encoder(config), (CLASSES,)).initialise(plan.seed).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    samples = int(plan.seconds * 16_000)
    frames = config.grid.frames(samples)
    waveforms = torch.randn(plan.rows, samples, generator=keyed_torch(plan.seed, "front ends"))
    span = SpanMask(0.8, 10 if config.stride_ms == 20 else 5)  # the same milliseconds
    rngs = [keyed(plan.seed, "front ends", row) for row in range(plan.rows)]
    mask = torch.from_numpy(batch_masks(rngs, [frames] * plan.rows, span))
    labels = torch.from_numpy(rngs[0].integers(0, CLASSES, (plan.rows, frames, 1)))
    taken = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(waveforms, None, mask, labels).total
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:])), sum(p.numel() for p in model.parameters())


def _learnt(plan: Plan, name: str, data: Path, aligned: Path, alignments: Path, folder: Path,
            say: Callable[[str], None]) -> dict[str, Any]:
    """Round 1 of `hubert-tiny` with a front end: PNMI of its layers at the end."""
    front = FRONT_ENDS[name]
    layers = list(range(1, SIZES["tiny"].layers + 1))
    words = [f"data={data}", f"seed={plan.seed}", f"probe.manifest={aligned}", f"probe.alignments={alignments}",
             f"probe.layers={layers}", f"training.updates={plan.updates}",
             f"training.validate_every={plan.updates}", f"training.optimiser.warmup_updates={plan.updates // 10}",
             "encoder.conv_dim=256", "encoder.feature_grad_mult=1", "objective.feature_penalty=0",
             *(f"encoder.{key}={value}" for key, value in front.items())]
    if front.get("stride_ms") == 40:
        words.append("mask.span=3")
    words += plan.overrides
    say(f"{name}: round 1, {plan.updates} updates")
    [result] = pretrain(load_recipe(PretrainRecipe, "hubert-tiny", words, SHIPPED), folder, say, until_round=1)
    pnmi = [result.encoder_result[f"pnmi_layer{layer}"] for layer in layers]
    speeds = [r["audio_seconds_per_second"] for r in read_metrics(result.encoder, "train")]
    return {"what": "pnmi", "model": "tiny", "front_end": name, "updates": plan.updates,
            "audio_seconds_per_second": round(float(np.median(speeds)), 1),
            "pnmi": [round(value, 4) for value in pnmi], "best": round(max(pnmi), 4)}
