"""What a source is, is recognised; what it is not, is said with what would do."""

from __future__ import annotations

import pytest
import torch
from conversions import WAVES, same_model
from hypothesis import given
from hypothesis import strategies as st

from upstream.errors import FormatError, UsageError
from upstream.model import MaskedPrediction, load_encoder, save_encoder
from upstream.model.converting import write_as
from upstream.model.loading import read_checkpoint


def test_dtype_and_device_are_what_was_asked_for(tiny, tmp_path):
    save_encoder(tiny(), tmp_path, {})
    half = load_encoder(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    whole = load_encoder(str(tmp_path))
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in whole.parameters())
    assert not whole.training


@pytest.mark.parametrize("settings", [{}, {"frontend": "fbank"}, {"frontend": "light", "stride_ms": 40}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_type_hear_the_same_waveforms(tiny, tmp_path, settings, dtype):
    """It ended in torch's complaint about mixed types."""
    save_encoder(tiny(**settings).initialise(0), tmp_path, {})
    wave = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = (load_encoder(tmp_path, dtype=d)(wave, torch.tensor([8000, 5000])).last
                           for d in (dtype, torch.float32))
    assert found.dtype is dtype
    assert float((found.float() - expected).norm() / expected.norm()) < (0.05 if dtype is torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("source", ["nowhere", "no/such/folder", "NOT_A_BUNDLE", "x.pt"])
def test_a_source_that_is_not_there_says_what_would_do(source):
    with pytest.raises(UsageError, match=r"no such file or folder\. Known are .* fairseq .* torchaudio"):
        load_encoder(source)


def test_weights_without_their_folder_are_refused(tiny, tmp_path):
    save_encoder(tiny(), tmp_path, {})
    with pytest.raises(UsageError, match="give the folder that holds it"):
        load_encoder(tmp_path / "model.safetensors")


@pytest.mark.parametrize("content", [[1, 2], {"weights": torch.ones(2)}, {"model": torch.ones(2)}, torch.ones(3)])
def test_a_torch_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(FormatError, match=r"x\.pt: neither a checkpoint of fairseq .* torchaudio"):
        load_encoder(tmp_path / "x.pt")


@given(st.data())
def test_any_round_trip_keeps_everything(tiny, tmp_path_factory, data):
    """Through all three formats in any order; torchaudio holds one stream, fairseq widths that differ."""
    folder, layer = tmp_path_factory.mktemp("trip"), data.draw(st.booleans())
    encoder = tiny(seed=data.draw(st.integers(0, 9)), layers=data.draw(st.integers(1, 2)), pre_norm=data.draw(
        st.booleans()), heads=data.draw(st.sampled_from([1, 2, 4])), conv_bias=data.draw(st.booleans()),
        conv_norm="layer" if layer else "group", normalize=layer, dropout=data.draw(st.sampled_from([0.0, 0.25])),
        feature_grad_mult=data.draw(st.sampled_from([0.1, 1.0])))
    model = MaskedPrediction(encoder, (data.draw(st.integers(2, 9)),), 8).initialise(1)
    head = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    save_encoder(encoder, folder / "start", {}, head)
    start = found = read_checkpoint(folder / "start")
    for step, to in enumerate(data.draw(st.permutations(["huggingface", "fairseq", "torchaudio"]))):
        target = folder / (f"{step}" if to == "huggingface" else f"{step}.pt")
        write_as(found, target, to)
        found = read_checkpoint(target)
        assert same_model(found, start), to


def test_a_target_that_is_there_is_not_overwritten(tiny, tmp_path):
    save_encoder(tiny(), tmp_path / "ours", {})
    found = read_checkpoint(tmp_path / "ours")
    with pytest.raises(UsageError, match="already there"):
        write_as(found, tmp_path / "ours", "huggingface")
    (tmp_path / "x.pt").write_text("mine")
    with pytest.raises(UsageError, match="already there"):
        write_as(found, tmp_path / "x.pt", "fairseq")
    assert (tmp_path / "x.pt").read_text() == "mine"
    with pytest.raises(UsageError, match=r"ends in \.pt"):
        write_as(found, tmp_path / "x", "torchaudio")


@pytest.mark.parametrize("to", ["huggingface", "fairseq", "torchaudio"])
def test_filterbanks_are_refused_and_nothing_is_written(tiny, tmp_path, to):
    save_encoder(tiny(frontend="fbank"), tmp_path / "ours", {})
    found = read_checkpoint(tmp_path / "ours")
    with pytest.raises(UsageError, match=f"fbank front end is hubertkit's own; {to} has convolutions only"):
        write_as(found, tmp_path / "x.pt", to)
    assert not (tmp_path / "x.pt").exists()
    with torch.no_grad():
        assert torch.equal(found.encoder()(WAVES).last, load_encoder(tmp_path / "ours")(WAVES).last)
