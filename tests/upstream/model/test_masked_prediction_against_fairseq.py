"""The loss of a padded batch is that of fairseq's criterion: streams, weights, tied projections, labels of other rates.

Padding is fairseq's own here (its group norm sees it, and one frame of it passes for speech); what one utterance alone
gives is compared in `test_encoder_against_fairseq`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from upstream.frames import FrameGrid
from upstream.model import MaskedPrediction
from upstream.model.label_alignment import labels_of_frames

ORACLES = Path(__file__).parents[2] / "oracles" / "hubert"
LABELS = dict(np.load(ORACLES / "labels.npz"))
CASES = {style: json.loads((ORACLES / style / "criterion_cases.json").read_text()) for style in ("base", "large")}
DUPLICATES = "untied_duplicate_rows_5_9_and_20_21"
CLOSE = 1e-5  # relative



def compared(*leave_out: str) -> Any:
    """All cases as (`fairseq`, `case`)."""
    values = [pytest.param(style, case, id=f"{style}-{case['case']}") for style, cases in CASES.items()
              for case in cases if case["case"] not in leave_out]
    return pytest.mark.parametrize(("fairseq", "case"), values, indirect=["fairseq"])


@compared(DUPLICATES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_every_number_of_the_criterion_equals_fairseq(fairseq, case, training, monkeypatch):
    model, batch = prepared(fairseq, case, monkeypatch)
    loss = model.train(training)(*batch, measure=True, padding="fairseq")
    log, frames = case["log"], case["sample_size"]
    assert model.weight(loss.masked_count, loss.unmasked_count) == frames
    assert loss.total.item() * frames == pytest.approx(log["loss"], rel=CLOSE)
    penalty = case["penalty"] * frames * loss.feature_penalty.item()
    assert penalty == pytest.approx(log.get("loss_features_pen", 0.0), rel=CLOSE)
    parts = {"m": (loss.masked_losses, loss.masked_correct, loss.masked_count),
             "u": (loss.unmasked_losses, loss.unmasked_correct, loss.unmasked_count)}
    numbers = [name for name in log if name.startswith("count_")]  # skip_masked and skip_nomask leave some out
    assert numbers
    for name in numbers:
        _, part, stream = name.split("_")
        losses, correct, count = parts[part]
        assert count == log[name]
        assert correct[int(stream)].item() == log[f"correct_{part}_{stream}"]
        assert losses[int(stream)].item() * count == pytest.approx(log[f"loss_{part}_{stream}"], rel=CLOSE)


@compared(DUPLICATES)
def test_the_gradient_of_every_parameter_equals_fairseq(fairseq, case, monkeypatch):
    model, batch = prepared(fairseq, case, monkeypatch)
    loss = model.train()(*batch, padding="fairseq")
    (loss.total * case["sample_size"]).backward()  # fairseq sums over frames
    found = {name.removeprefix("encoder."): p.grad for name, p in model.named_parameters()}
    found["label_embs_concat"] = torch.cat([table.embeddings.grad for table in model.tables])
    found |= {f"final_proj.{kind}": found[f"projections.4.0.{kind}"] for kind in ("weight", "bias")}
    names = [name for name in case["grad_norm"] if not name.endswith("k_proj.bias")]  # rounding of a zero
    for name in names:
        expected, gradient = case["grad_norm"][name], found.get(name, found.get(fairseq.our_name(name)))
        assert (expected or 0.0) == pytest.approx(0.0 if gradient is None else gradient.norm().item(), rel=1e-4), name
    assert len(names) >= len(fairseq.weights) - 4


@pytest.mark.parametrize("name", ["untied", "tied", "untied_label_rate_100", "untied_short_labels_40"])
def test_the_logits_of_a_batch_equal_fairseq(fairseq, name, monkeypatch):
    """fairseq puts the true class first and removes it from its place further on; ours stay in class order."""
    expected = np.load(ORACLES / style(fairseq) / "logits.npz")
    if f"{name}_logit_m_0" not in expected.files:
        return  # the large model was run at one label rate only
    case = {"case": name, "weights": [1.0, 0.0], "penalty": 0.0}
    model, (waveforms, lengths, mask, labels) = prepared(fairseq, case, monkeypatch)
    with torch.no_grad():
        output = model.encoder(waveforms, lengths, mask, padding="fairseq")
        inside = torch.arange(mask.shape[1]) < output.lengths[:, None]
        for part, selected in (("m", mask & inside), ("u", ~mask & inside)):
            if f"{name}_logit_{part}_0" not in expected.files:
                continue
            logits = model._logits(output, 4, selected.flatten().nonzero()[:, 0])
            for stream, values in enumerate(logits):
                theirs = torch.from_numpy(expected[f"{name}_logit_{part}_{stream}"])
                true = labels[..., stream][selected].long()[:, None]
                torch.testing.assert_close(values.gather(1, true)[:, 0], theirs[:, 0], atol=5e-5, rtol=0.0)
                others = torch.ones_like(values, dtype=torch.bool).scatter(1, true, False)
                torch.testing.assert_close(values[others], theirs[:, 1:][others], atol=5e-5, rtol=0.0)


def test_equal_class_vectors_compete_here_and_do_not_in_fairseq(fairseq, monkeypatch):
    """Two equal rows in each table: fairseq drops the twin of the true class; its rule on our logits gives its loss."""
    [case] = [c for c in CASES[style(fairseq)] if c["case"] == DUPLICATES]
    model, batch = prepared(fairseq, case, monkeypatch)
    twins = ({5: 9, 9: 5}, {20: 21, 21: 20})
    with torch.no_grad():
        model.tables[0].embeddings[9] = model.tables[0].embeddings[5]
        model.tables[1].embeddings[20] = model.tables[1].embeddings[21]
        ours = model(*batch, padding="fairseq")
        waveforms, lengths, mask, labels = batch
        output = model.encoder(waveforms, lengths, mask, padding="fairseq")
        logits = model._logits(output, 4, mask.flatten().nonzero()[:, 0])
    for stream, values in enumerate(logits):
        true = labels[..., stream][mask].long()
        for frame, label in enumerate(true.tolist()):
            if label in twins[stream]:
                values[frame, twins[stream][label]] = -torch.inf
        theirs = F.cross_entropy(values, true, reduction="sum").item()
        assert theirs == pytest.approx(case["log"][f"loss_m_{stream}"], rel=CLOSE)
        assert ours.masked_losses[stream].item() * 60 > theirs * (1 + CLOSE)


def prepared(fairseq: Any, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[MaskedPrediction, Any]:
    """The model and batch (waveforms, lengths, mask, labels) of a case."""
    name, (masked_weight, unmasked_weight) = case["case"], case["weights"]
    settings = {"masked_weight": masked_weight, "unmasked_weight": unmasked_weight, "feature_penalty": case["penalty"]}
    if "feature_grad_mult" in name:
        config = dataclasses.replace(fairseq.config, feature_grad_mult=float(name.rpartition("_")[2]))
        fairseq = dataclasses.replace(fairseq, config=config)
    if name.startswith("tied"):
        shared = load_file(ORACLES / style(fairseq) / "tied_final_proj.safetensors")
        fairseq = dataclasses.replace(fairseq, weights=fairseq.weights | shared)
        settings["tied_projections"] = True
    model = fairseq.prediction(temperature=1.0 if "temp_1.0" in name else 0.1, **settings)

    kind = "100hz" if "rate_100" in name else "50hz_short" if "short" in name else "50hz"
    sources = {**fairseq.inputs, **LABELS}
    streams = [sources[f"target_{stream}_{kind}"] for stream in range(2)]
    index = labels_of_frames(49, [s.shape[1] for s in streams], 100.0 if kind == "100hz" else 50.0)
    labels = torch.from_numpy(np.stack([s[:, index] for s in streams], axis=-1))
    mask = torch.from_numpy(sources["mask_indices_T40" if kind == "50hz_short" else "mask_indices"])
    if len(index) < 49:
        whole = FrameGrid.frames  # frames beyond the labels are cut off, as fairseq does
        monkeypatch.setattr(FrameGrid, "frames", lambda grid, samples: min(whole(grid, samples), len(index)))
    rows = 1 if "single_utterance0" in name else 3
    return model, (fairseq.waveforms[:rows], fairseq.lengths[:rows], mask[:rows], labels[:rows])


def style(fairseq: Any) -> str:
    return "large" if fairseq.config.pre_norm else "base"
