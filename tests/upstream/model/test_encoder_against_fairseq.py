"""The encoder and its loss give fairseq's numbers: tiny models in both styles, run by fairseq itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from upstream.model import Encoder, MaskedPrediction, standardise

CLOSE = {"atol": 2e-5, "rtol": 0.0}


def test_every_layer_of_an_utterance_alone_equals_fairseq(fairseq):
    encoder = fairseq.encoder()
    for row, length in enumerate(fairseq.lengths.tolist()):
        with torch.no_grad():
            output = encoder(fairseq.waveforms[row : row + 1, :length], layers=True)
        for k in range(1, 5):
            expected = torch.from_numpy(fairseq.outputs[f"single{row}_layer{k}"])
            torch.testing.assert_close(output.layers[k][0], expected, **CLOSE)
        torch.testing.assert_close(output.last[0], torch.from_numpy(fairseq.outputs[f"single{row}_final"]), **CLOSE)


def test_a_padded_batch_equals_fairseq_on_each_utterance_alone(fairseq):
    with torch.no_grad():
        output = fairseq.encoder()(fairseq.waveforms, fairseq.lengths, layers=True)
    assert output.lengths.tolist() == [49, 38, 30]
    for row, frames in enumerate(output.lengths.tolist()):
        for k in range(1, 5):
            expected = torch.from_numpy(fairseq.outputs[f"single{row}_layer{k}"])
            torch.testing.assert_close(output.layers[k][row, :frames], expected, **CLOSE)


def test_masked_layers_equal_fairseq(fairseq):
    mask = torch.from_numpy(fairseq.inputs["mask_indices"])
    with torch.no_grad():
        output = fairseq.encoder()(fairseq.waveforms, fairseq.lengths, mask, layers=True)
    for k in range(1, 5):
        torch.testing.assert_close(output.layers[k][0], torch.from_numpy(fairseq.outputs[f"masked0_layer{k}"]), **CLOSE)
    torch.testing.assert_close(output.last[0], torch.from_numpy(fairseq.outputs["masked0_final"]), **CLOSE)


def test_the_front_end_equals_fairseq_before_its_layer_norm(fairseq):
    with torch.no_grad():
        output = fairseq.encoder()(fairseq.waveforms[:1])
    torch.testing.assert_close(output.features[0].t(), torch.from_numpy(fairseq.outputs["conv0"]), **CLOSE)


def test_standardising_a_waveform_equals_fairseq(fairseq):
    for row, length in enumerate(fairseq.lengths.tolist()):
        raw = torch.from_numpy(fairseq.inputs["source_raw"][row, :length])
        expected = torch.from_numpy(fairseq.inputs["source_normalized"][row, :length])
        torch.testing.assert_close(standardise(raw), expected, atol=1e-5, rtol=0.0)


def _single_utterance(fairseq):
    labels = np.stack([fairseq.inputs["target_0_50hz"][:1], fairseq.inputs["target_1_50hz"][:1]], axis=-1)
    mask = torch.from_numpy(fairseq.inputs["mask_indices"][:1])
    return fairseq.waveforms[:1], None, mask, torch.from_numpy(labels)


def test_loss_and_accuracy_equal_fairseq(fairseq):
    loss = fairseq.prediction()(*_single_utterance(fairseq), measure=True)
    log = fairseq.criterion["log"]
    masked, unmasked = log["count_m_0"], log["count_u_0"]
    assert (loss.masked_count, loss.unmasked_count) == (masked, unmasked)
    assert loss.masked_correct.tolist() == [log["correct_m_0"], log["correct_m_1"]]
    assert loss.unmasked_correct.tolist() == [log["correct_u_0"], log["correct_u_1"]]
    assert float(loss.masked_loss) * masked == pytest.approx(log["loss_m_0"] + log["loss_m_1"], rel=2e-6)
    assert float(loss.unmasked_loss) * unmasked == pytest.approx(log["loss_u_0"] + log["loss_u_1"], rel=2e-6)
    assert float(loss.feature_penalty) * 10 * masked == pytest.approx(log["loss_features_pen"], rel=2e-6)
    assert loss.total.item() * masked == pytest.approx(fairseq.criterion["loss"], rel=2e-6)


def test_the_gradient_of_every_parameter_equals_fairseq(fairseq):
    model = fairseq.prediction().train()
    loss = model(*_single_utterance(fairseq))
    (loss.total * loss.masked_count).backward()  # fairseq sums over frames
    found = {name.removeprefix("encoder."): p.grad.norm().item() for name, p in model.named_parameters()}
    found["label_embs_concat"] = torch.cat([table.embeddings.grad for table in model.tables]).norm().item()
    names = {"final_proj.weight": "projections.4.0.weight", "final_proj.bias": "projections.4.0.bias"}
    compared = 0
    for name, expected in fairseq.criterion["grad_norm"].items():
        if name.endswith("k_proj.bias"):  # zero in exact arithmetic: a constant added to all keys changes nothing
            continue
        ours = name if name == "label_embs_concat" else names.get(name) or fairseq.our_name(name)
        assert found[ours] == pytest.approx(expected, rel=2e-5), name
        compared += 1
    assert compared == len(fairseq.weights) - 4


def test_logits_equal_fairseq(fairseq):
    """fairseq puts the true class first and removes it from its place further on; ours stay in class order."""
    model = fairseq.prediction()
    waveforms, _, mask, labels = _single_utterance(fairseq)
    with torch.no_grad():
        output = model.encoder(waveforms, None, mask)
        logits = model._logits(output, 4, mask[0].nonzero()[:, 0])
    for stream, values in enumerate(logits):
        expected = torch.from_numpy(fairseq.outputs[f"single0_logit_m_{stream}"])
        true = labels[0, mask[0], stream].long()[:, None]
        torch.testing.assert_close(values.gather(1, true)[:, 0], expected[:, 0], atol=2e-5, rtol=0.0)
        others = torch.ones_like(values, dtype=torch.bool).scatter(1, true, False)
        torch.testing.assert_close(values[others], expected[:, 1:][others], atol=2e-5, rtol=0.0)


def test_initial_weights_are_distributed_as_fairseq(fairseq):
    model = MaskedPrediction(Encoder(fairseq.config), (29, 44), 24).initialise(7)
    drawn = dict(model.encoder.named_parameters())
    drawn["final_proj.weight"] = model.projections["4"][0].weight
    drawn["final_proj.bias"] = model.projections["4"][0].bias
    drawn["label_embs_concat"] = torch.cat([table.embeddings for table in model.tables])
    for name, expected in fairseq.init_statistics.items():
        values = drawn[name if name in drawn else fairseq.our_name(name)].detach()
        assert list(values.shape) == expected["shape"], name
        n = values.numel()
        spread = max(expected["std"], 1e-12)
        assert abs(values.mean().item() - expected["mean"]) <= 6 * spread / n**0.5, name
        if expected["std"] == 0:
            assert values.unique().tolist() == [expected["mean"]], name
        elif n >= 24:  # the standard deviation of n draws is itself uncertain by about 1 / sqrt(2 n); both are draws
            assert values.std().item() == pytest.approx(spread, rel=6 / n**0.5), name
        assert values.abs().max().item() <= 2.5 * max(abs(expected["min"]), abs(expected["max"])), name
