"""Recognisers with other heads than the linear one: trained, stopped, saved, read, emitted from and refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tones import write_tones

from downstream.align import align
from downstream.emissions import Emissions
from downstream.finetune import build_recogniser, finetune
from downstream.finetune_recipe import FinetuneRecipe, SpecMaskRecipe
from downstream.finetune_task import RecogniserTask
from downstream.heads.ctc import Recogniser
from downstream.heads.recipe import HeadRecipe
from downstream.recogniser import compute_emissions, load_recogniser, recogniser_hash, save_recogniser
from downstream.recogniser_formats import import_recogniser
from downstream.text.vocabulary import Vocabulary
from downstream.transcribe import Settings, transcribe
from tools.main import run
from upstream.audio import AudioCache, Manifest
from upstream.errors import FormatError, UsageError
from upstream.model import Encoder, EncoderConfig, encoder_hash, load_encoder, save_encoder
from upstream.training.loop import TrainingRecipe
from upstream.training.optimiser import OptimiserRecipe

SHAPE = EncoderConfig(frontend="fbank", width=32, layers=2, heads=2, ffn=64, pre_norm=True, positional_kernel=15,
                      positional_groups=2, dropout=0.1, attention_dropout=0, input_dropout=0, layerdrop=0)
CONV = dataclasses.replace(SHAPE, frontend="conv", conv_dim=16)
LIGHT = dataclasses.replace(SHAPE, frontend="light", conv_dim=16, stride_ms=40)
TRAINING = TrainingRecipe(updates=6, batch_seconds=4, micro_batch_seconds=4, precision="float32", log_every=2,
                          validate_every=3, save_every=3, optimiser=OptimiserRecipe(peak_rate=1e-3, warmup_updates=1))
SUPERB = HeadRecipe(kind="bilstm", layers="mix", width=24, projection=20)
HEADS = [HeadRecipe(layers="mix"), HeadRecipe(layers=1), SUPERB, HeadRecipe(kind="bilstm", width=8),
         HeadRecipe(kind="bilstm", layers=[0, 1], layer_norm=True, depth=1, width=8)]
CPU = torch.device("cpu")
VOCABULARY = Vocabulary.characters()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = write_tones(tmp_path_factory.mktemp("tones"), [2] * 12, dev=3)
    save_encoder(Encoder(SHAPE).initialise(0), folder / "encoder", extra={})
    return folder


def recipe(corpus, head, **changes):
    given = {"encoder": str(corpus / "encoder"), "frozen": True, "training": TRAINING, **changes}
    return FinetuneRecipe(data=str(corpus / "train.arrow"), dev=str(corpus / "dev.arrow"), head=head,
                          mask=SpecMaskRecipe(0, 5, 0, 8), **given)


def task(corpus, found):
    return RecogniserTask(build_recogniser(found, VOCABULARY), VOCABULARY, Manifest.load(corpus / "train.arrow"), None,
                          found, CPU)


@pytest.fixture(scope="module")
def trained(corpus):
    optimiser = OptimiserRecipe(peak_rate=2e-2, warmup_updates=5, weight_decay=0.0)
    training = dataclasses.replace(TRAINING, updates=200, validate_every=200, save_every=200, optimiser=optimiser)
    said, head = [], HeadRecipe("bilstm", "mix", layer_norm=True, projection=32, width=32, depth=1, dropout=0.0)
    final = finetune(recipe(corpus, head, training=training), corpus / "asr", said.append)
    return corpus / "asr", final, said


def random_recogniser(shape, head, seed=0):
    model = Recogniser(Encoder(shape).initialise(seed), len(VOCABULARY.symbols), 0.3, head)
    model.initialise_head(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        if model.mix.weights is not None:
            model.mix.weights.normal_(generator=torch.Generator().manual_seed(seed))
    return model.eval()


def noise(count, samples, seed=0):
    return 0.1 * torch.randn(count, samples, generator=torch.Generator().manual_seed(seed))


def test_the_linear_head_has_the_weights_and_the_bits_that_it_always_had():
    model = random_recogniser(SHAPE, None)
    plain = torch.nn.Linear(32, len(VOCABULARY.symbols))
    torch.nn.init.xavier_uniform_(plain.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(plain.bias)
    assert [name for name in model.state_dict() if not name.startswith("encoder.")] == ["head.weight", "head.bias"]
    with torch.no_grad():
        wanted = plain(model.encoder(noise(2, 9000), torch.tensor([9000, 7000])).last).log_softmax(-1)
        assert torch.equal(model(noise(2, 9000), torch.tensor([9000, 7000]))[0], wanted)


@pytest.mark.parametrize("shape", [CONV, LIGHT], ids=lambda shape: shape.frontend)
@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"{head.kind}-{head.layers}")
@settings(max_examples=6)
@given(st.lists(st.integers(1200, 12_000), min_size=2, max_size=3), st.integers(0, 2000))
def test_padding_does_not_change_an_utterance(shape, head, lengths, surplus):
    model = random_recogniser(shape, head)
    waveforms = noise(len(lengths), max(lengths) + surplus)  # noise past the lengths too
    with torch.no_grad():
        found, frames = model(waveforms, torch.tensor(lengths))
        for row, (samples, count) in enumerate(zip(lengths, frames.tolist())):
            alone, (own,) = model(waveforms[row:row + 1, :samples], None)
            assert own == count
            torch.testing.assert_close(found[row, :count], alone[0], rtol=1e-5, atol=1e-5)


def test_a_frozen_encoder_is_heard_as_it_is_without_gradients_or_the_blocks_that_nobody_hears(corpus):
    found = task(corpus, recipe(corpus, HeadRecipe(kind="bilstm", layers=[0, 1], width=8)))
    found.groups()
    ran = []
    for block in found.model.encoder.encoder.layers:
        block.register_forward_hook(lambda block, _, output: ran.append((block.training, output.requires_grad)))
    (batch,) = next(found.updates(1))
    found.model.train()
    found.loss(batch).total.backward()
    assert ran == [(False, False)]  # one block of two
    assert all(p.grad is None for p in found.model.encoder.parameters())
    assert all(p.grad is not None and p.grad.any() for p in found.model.over_encoder().values())


def test_all_of_a_head_has_its_rate_and_learns_while_the_encoder_waits(corpus):
    found = task(corpus, recipe(corpus, SUPERB, frozen=False, freeze_updates=2, head_scale=3.0, encoder_scale=0.5))
    head, encoder = found.groups()
    assert (head.scale, encoder.scale, encoder.from_update) == (3.0, 0.5, 3)
    assert {id(p) for p in head.parameters} == {id(p) for p in found.model.over_encoder().values()}
    assert {id(p) for p in (*head.parameters, *encoder.parameters)} <= {id(p) for p in found.model.parameters()}
    batches = found.updates(1)
    for update in (1, 2, 3):
        (batch,) = next(batches)
        found.model.train()
        found.model.zero_grad()
        found.loss(batch).total.backward()
        assert found.model.mix.weights.grad.any()
        blocks = found.model.encoder.encoder.layers[0].parameters()
        assert all(p.grad is not None for p in blocks) is (update == 3), update


@pytest.mark.parametrize("head", [SUPERB, HeadRecipe(layers=[0, 2], layer_norm=True)], ids=["bilstm", "linear"])
def test_a_training_that_was_stopped_goes_on_bit_for_bit(corpus, tmp_path, monkeypatch, head):
    found = recipe(corpus, head, frozen=False, freeze_updates=1)
    whole = finetune(found, tmp_path / "whole", lambda line: None)
    loss = RecogniserTask.loss

    def stopped(self, batch):
        if batch.update == 5:
            raise KeyboardInterrupt
        return loss(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(RecogniserTask, "loss", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune(found, tmp_path / "parts", lambda line: None)
    assert finetune(found, tmp_path / "parts", lambda line: None)["hash"] == whole["hash"]
    for name in ("head.safetensors", "model.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_it_learns_from_a_frozen_encoder_and_the_shares_of_the_layers_are_told(trained):
    folder, final, said = trained
    assert final["cer"] < 60
    shares = json.loads((folder / "hubertkit.json").read_text())["layer_weights"]
    weights = load_file(folder / "head.safetensors")["mix.weights"]
    assert list(shares) == ["0", "1", "2"]
    assert list(shares.values()) == pytest.approx(weights.softmax(0).tolist(), abs=1e-4)
    assert max(shares.values()) > 0.34  # it has learnt
    assert any("shares of the layers: 0 0." in line for line in said)
    assert encoder_hash(folder) == encoder_hash(load_encoder(folder.parent / "encoder"))


@pytest.mark.parametrize("shape", [SHAPE, CONV], ids=lambda shape: shape.frontend)
@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"{head.kind}-{head.layers}")
def test_a_saved_recogniser_comes_back_and_says_that_transformers_does_not_load_it(tmp_path, shape, head):
    model = random_recogniser(shape, head)
    vocabulary = Vocabulary(("|", "A", "<pad>", "B", *(chr(200 + k) for k in range(len(VOCABULARY.symbols) - 4))), 2)
    save_recogniser(model, vocabulary, tmp_path, {"from": "here"})
    again, symbols = load_recogniser(tmp_path)
    assert symbols == vocabulary
    with torch.no_grad():
        assert torch.equal(again(noise(1, 9000), None)[0], model(noise(1, 9000), None)[0])
    assert recogniser_hash(again) == recogniser_hash(model)
    described = json.loads((tmp_path / "hubertkit.json").read_text())
    assert not described["transformers_loads_it"]
    assert f"kind={head.kind}" in described["transformers_lacks"][-1]
    assert len(described["transformers_lacks"]) == (1 if shape is CONV else 2)
    assert ("layer_weights" in described) is (len(model.mix.layers) > 1)
    other, names = import_recogniser(tmp_path)
    assert (recogniser_hash(other), names) == (recogniser_hash(model), vocabulary)
    assert encoder_hash(tmp_path) == encoder_hash(model.encoder)
    assert not (tmp_path / "tokenizer_config.json").exists()


@pytest.mark.parametrize("change", [{"layer_norm": True}, {"layers": [0, 1, 2]}])
def test_the_hash_tells_heads_of_the_same_weights_apart(change):
    head = HeadRecipe(layers="mix")
    assert recogniser_hash(random_recogniser(SHAPE, head)) != recogniser_hash(
        random_recogniser(SHAPE, dataclasses.replace(head, **change)))


def test_emissions_of_short_and_long_recordings_are_the_models(trained, corpus, tmp_path, monkeypatch):
    dev = Manifest.load(corpus / "dev.arrow")
    compute_emissions(trained[0], dev, tmp_path / "one")
    monkeypatch.setattr("upstream.features.long_recordings.LONG_SECONDS", 0.1)
    monkeypatch.setattr("downstream.recogniser.STRETCH_SECONDS", 0.1)
    compute_emissions(trained[0], dev, tmp_path / "long")
    one, long = (Emissions.load(tmp_path / name) for name in ("one", "long"))
    model, _ = load_recogniser(trained[0])
    assert one.meta["recogniser_hash"] == trained[1]["hash"]
    for i, utterance in enumerate(dev.ids):
        with torch.no_grad():
            alone = model(torch.from_numpy(AudioCache(dev).wave(i))[None], None)[0][0].numpy()
        for found in (one, long):
            assert np.abs(found.logprobs(utterance) - alone).max() < 0.02  # stored as float16


def test_recordings_are_transcribed_in_windows_and_aligned(trained, corpus):
    model, vocabulary = load_recogniser(trained[0])
    dev = Manifest.load(corpus / "dev.arrow")
    whole, parted = (dict(transcribe(trained[0], [corpus / f"{dev.ids[0]}.wav"], settings)) for settings in (
        Settings(), Settings(window_seconds=0.5, overlap_seconds=0.2)))
    assert [t.text for t in whole.values()] != [""]
    assert [t.text for t in parted.values()] != [""]
    aligned = dict(align(model, vocabulary, dev, CPU))
    for i, text in enumerate(dev.texts):
        assert [word.label for word in aligned[i].words] == text.split()


def test_its_encoder_is_one_for_the_next_recogniser(trained, corpus, tmp_path):
    found = recipe(corpus, HeadRecipe(), encoder=str(trained[0]))
    model = build_recogniser(found, VOCABULARY)
    assert encoder_hash(model.encoder) == encoder_hash(trained[0])
    assert model.bilstm is None


@pytest.mark.parametrize("to", ["huggingface", "fairseq", "torchaudio"])
def test_no_other_format_holds_it_and_convert_says_so_in_a_line(tmp_path, capsys, to):
    save_recogniser(random_recogniser(CONV, SUPERB), VOCABULARY, tmp_path / "asr", {})
    target = tmp_path / ("folder" if to == "huggingface" else "model.pt")
    assert run(["convert", str(tmp_path / "asr"), str(target), "--to", to]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "kind=bilstm, layers=mix" in line
    assert f"{to} has a linear one on the encoder's output only, so nothing was written" in line
    assert [path.name for path in tmp_path.iterdir()] == ["asr"]


@pytest.mark.parametrize(("values", "message"), [
    ({"kind": "bilstm", "layers": "mix", "width": 23}, "a head with weight"),
    ({"kind": "bilstm", "layers": [0, 9], "width": 24}, "layers 0 to 2"), ({"kind": "bilstm", "heads": 2}, "heads"),
    ({"kind": "bilstm", "layers": "mix", "width": 24}, "weight_ih_l0' has shape"),
    ({"kind": "bilstm", "layers": "mix", "width": 24, "projection": 20, "depth": 3}, "no tensor 'bilstm.forwards.2"),
    ("bilstm", "must be a mapping")])
def test_settings_that_do_not_fit_the_weights_are_named(tmp_path, values, message):
    save_recogniser(random_recogniser(SHAPE, SUPERB), VOCABULARY, tmp_path, {})
    described = json.loads((tmp_path / "hubertkit.json").read_text())
    (tmp_path / "hubertkit.json").write_text(json.dumps(described | {"head_settings": values}))
    with pytest.raises(FormatError, match=message) as error:
        load_recogniser(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_head_that_lost_a_tensor_is_named(tmp_path):
    save_recogniser(random_recogniser(SHAPE, SUPERB), VOCABULARY, tmp_path, {})
    tensors = load_file(tmp_path / "head.safetensors")
    del tensors["mix.weights"]
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(FormatError, match=r"head\.safetensors: no tensor 'mix\.weights'"):
        load_recogniser(tmp_path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"encoder": "scratch", "architecture": SHAPE}, "with an encoder from scratch: blocks past 1"),
    ({"fresh_layers": 1}, "with fresh_layers=1: blocks past 1")])
def test_random_blocks_that_would_never_run_are_refused(corpus, tmp_path, changes, message):
    found = recipe(corpus, HeadRecipe(layers=[0, 1]), frozen=False, **changes)
    with pytest.raises(UsageError, match=message):
        finetune(found, tmp_path / "asr", lambda line: None)
    assert not (tmp_path / "asr").exists()


@pytest.mark.parametrize("changes", [{}, {"encoder": "scratch", "architecture": SHAPE, "frozen": False}])
def test_a_layer_that_is_not_there_is_refused_before_anything_is_made(corpus, tmp_path, changes):
    with pytest.raises(UsageError, match=r"head\.layers=5: this encoder has layers 0 to 2"):
        finetune(recipe(corpus, HeadRecipe(layers=5), **changes), tmp_path / "asr", lambda line: None)
    assert not (tmp_path / "asr").exists()


def test_transformers_reads_the_encoder_of_a_folder_whose_head_it_does_not_have(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = random_recogniser(dataclasses.replace(CONV, conv_norm="layer"), SUPERB)
    save_recogniser(model, VOCABULARY, tmp_path, {})
    theirs, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(noise(1, 9000)).last_hidden_state,
                                   model.encoder(noise(1, 9000)).last, rtol=1e-4, atol=1e-4)
