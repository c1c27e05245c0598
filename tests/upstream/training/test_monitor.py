"""What is shown and logged: the progress line, Weights & Biases only where asked for, the share of the peak."""

import sys
import types

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from upstream.errors import UsageError
from upstream.model import Encoder, EncoderConfig
from upstream.training.monitor import Monitor, describe, progress_values, read_metrics
from upstream.training.peak import Arithmetic, matmul_rate
from upstream.training.precision import autocast

CPU = torch.device("cpu")


def test_a_progress_line_has_what_tells_a_healthy_run():
    """3.24 nats are 3.24 / ln 2 = 4.67 bits."""
    train = {"gradient_norm": 1.234, "loss": 3.24, "masked_accuracy": 0.201, "rate": 5e-4,
             "audio_seconds_per_second": 85.31, "waiting_share": 0.0, "share_of_peak": 0.62}
    valid = {"loss": 3.5, "unmasked_accuracy": 0.133, "code_perplexity": 63.4, "label_entropy": 4.4}
    assert describe(progress_values(train, valid)) == (
        "loss 3.240 nats (4.67 bits), masked 20.1%, unmasked 13.3%, 63 codes, gradient 1.23, rate 0.0005, "
        "85.31 audio s/s, 62% of peak")
    assert describe(progress_values({**train, "waiting_share": 0.25}, {})).endswith("waiting 25%, 62% of peak")


def test_numbers_of_other_tasks_are_shown_as_they_are():
    assert describe({"wer": 12.3456, "skipped": 3}) == "wer 12.35, skipped 3"


class StandIn(types.ModuleType):
    """Weights & Biases, as far as it is used."""

    def __init__(self):
        super().__init__("wandb")
        self.opened, self.logged, self.finished = [], [], 0

    def init(self, **settings):
        self.opened.append(settings)
        return self

    def log(self, numbers, step):
        self.logged.append((step, numbers))

    def finish(self):
        self.finished += 1


def test_weights_and_biases_gets_the_numbers_and_the_same_run_after_a_resume(tmp_path, monkeypatch):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    for update in (1, 2):
        monitor = Monitor(tmp_path, update - 1, "project")
        monitor.log(update, "train", {"loss": 3.0, "note": "words are left out"})
        monitor.close()
    first, second = stand_in.opened
    assert first["project"] == "project"
    assert first["id"] == second["id"]
    assert stand_in.logged == [(1, {"train/loss": 3.0}), (2, {"train/loss": 3.0})]
    assert stand_in.finished == 2
    assert len(read_metrics(tmp_path, "train")) == 2


def test_weights_and_biases_is_not_touched_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    Monitor(tmp_path, 0).close()
    with pytest.raises(UsageError, match=r"training\.wandb=mine: .* not installed"):
        Monitor(tmp_path / "other", 0, "mine")


def test_the_share_of_the_peak_is_three_forward_passes_over_the_measured_rate(monkeypatch):
    """A linear map of 8 rows from 16 to 32: 2 * 8 * 16 * 32 = 8192 operations, 24,576 with the backward pass. Over 2 s
    of audio that is 12,288 a second of audio; at 10 of them a second, 122,880 of a peak of 1,228,800 are a tenth."""
    monkeypatch.setattr("upstream.training.peak.matmul_rate", lambda device, precision: 1_228_800.0)
    arithmetic, layer, x = Arithmetic(CPU, "float32"), nn.Linear(16, 32), torch.randn(8, 16)
    assert arithmetic.share(10) == {}
    with arithmetic.counting(2.0, layer):
        counted = layer(x.requires_grad_())
        counted.sum().backward()
    assert torch.equal(counted, layer(x)), "counting changes nothing"
    with arithmetic.counting(2.0, layer):
        layer(torch.randn(99, 16)).sum().backward()  # only the first one counts
    assert arithmetic.share(10) == {"share_of_peak": 0.1}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_is_counted_as_two_products(monkeypatch, dropout):
    """2 heads of 3 x 5 frames, width 4: each product 2 * 2 * 15 * 15 * 4 operations a row of the batch."""
    from upstream.model.attention import attend

    monkeypatch.setattr("upstream.training.peak.matmul_rate", lambda device, precision: 1.0)
    arithmetic = Arithmetic(CPU, "float32")
    q, k, v = (torch.randn(1, 2, 15, 4, requires_grad=True) for _ in range(3))
    with arithmetic.counting(1.0, nn.Identity()):
        attend(q, k, v, None, dropout).sum().backward()
    assert arithmetic.share(1)["share_of_peak"] == 3 * 2 * (2 * 2 * 15 * 15 * 4)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_product_of_a_convolution_is_counted(monkeypatch, precision):
    """The third tap is added in place, which torch's registry does not know: a tenth of BASE was left out.

    12 rows of 3 channels, kernel 3, stride 2: two taps are a product of 6 rows, 6 and 2 columns, the third one of 5, 3
    and 2.
    """
    from upstream.model.convolution import convolve

    monkeypatch.setattr("upstream.training.peak.matmul_rate", lambda device, precision: 1.0)
    arithmetic, kind = Arithmetic(CPU, precision), torch.bfloat16 if precision == "bf16" else torch.float32
    waves, weight = torch.randn(12, 3, dtype=kind, requires_grad=True), torch.randn(2, 3, 3, requires_grad=True)
    with arithmetic.counting(1.0, nn.Identity()):
        convolve(waves, weight, 2).sum().backward()
    assert arithmetic.share(1)["share_of_peak"] == 3 * (2 * 6 * 6 * 2 + 2 * 5 * 3 * 2)


def test_lstms_are_counted_on_cpus(monkeypatch):
    """A bug once found: torch has a whole layer as one operation, which counted nothing. Of 3 by 20 frames each meets
    the 32 rows of 4 gates of 8 cells twice, for the 6 values that it hears and the 8 that are remembered."""
    monkeypatch.setattr("upstream.training.peak.matmul_rate", lambda device, precision: 1.0)
    arithmetic, lstm = Arithmetic(CPU, "float32"), nn.LSTM(6, 8, batch_first=True)
    with arithmetic.counting(1.0, lstm):
        lstm(torch.randn(3, 20, 6))[0].sum().backward()
    assert arithmetic.share(1)["share_of_peak"] == 3 * 2 * 60 * 32 * (6 + 8)


def test_lstms_are_counted_on_gpus(monkeypatch):
    """As on CPUs; the operation that cuDNN has for them, whose shapes torch knows without a GPU."""
    monkeypatch.setattr("upstream.training.peak.matmul_rate", lambda device, precision: 1.0)
    arithmetic, lstm = Arithmetic(CPU, "float32"), nn.LSTM(6, 8, batch_first=True, device="meta")
    weights, state = [p.detach() for p in lstm.parameters()], torch.zeros(1, 3, 8, device="meta")
    with arithmetic.counting(1.0, lstm):
        x = torch.zeros(3, 20, 6, device="meta")
        torch.ops.aten._cudnn_rnn(x, weights, 4, None, state, state, 2, 8, 0, 1, True, 0.0, True, False, [], None)
    assert arithmetic.share(1)["share_of_peak"] == 2 * 60 * 32 * (6 + 8)


@pytest.mark.parametrize(("frontend", "precision"), [("conv", "float32"), ("conv", "bf16"), ("fbank", "float32")])
def test_a_frozen_encoder_counts_no_backward_pass(monkeypatch, frontend, precision):
    """It counted three forward passes, too, so that 40 % of the peak were shown as 120 %."""
    monkeypatch.setattr("upstream.training.peak.matmul_rate", lambda device, precision: 1.0)
    config = EncoderConfig(frontend=frontend, conv_dim=16, width=32, layers=2, heads=2, ffn=64, layerdrop=0)
    encoder, head, wave = Encoder(config).initialise(0), nn.Linear(32, 5), torch.randn(1, 8000)
    model, arithmetic = nn.ModuleList([encoder, head]), Arithmetic(CPU, precision)

    def operations():
        with arithmetic.counting(1.0, model):
            with autocast(CPU, precision):
                loss = head(encoder(wave).last).float().square().mean()
            loss.backward()
        return arithmetic.each

    whole = operations()
    encoder.requires_grad_(False)
    assert operations() == 0  # found in this pass, counted in the next
    assert operations() == pytest.approx(whole / 3, rel=0.15)  # filterbanks have no backward pass either
    held = Arithmetic(CPU, precision, state=arithmetic.state)
    assert held.each == arithmetic.each
    encoder.requires_grad_(True)
    assert (operations(), operations()) == (0, whole)


def test_activations_computed_again_are_no_work(monkeypatch):
    monkeypatch.setattr("upstream.training.peak.matmul_rate", lambda device, precision: 1.0)
    counted = []
    for again in (False, True):
        arithmetic, layer = Arithmetic(CPU, "float32"), nn.Linear(16, 16)
        with arithmetic.counting(1.0, layer):
            x = torch.randn(8, 16, requires_grad=True)
            (checkpoint(layer, x, use_reentrant=False) if again else layer(x)).sum().backward()
        counted.append(arithmetic.each)
    assert counted == [3 * 2 * 8 * 16 * 16] * 2


def test_a_matrix_product_has_a_rate():
    assert matmul_rate(CPU, "float32") > 1e8
