"""Recognisers of others come in, ours go out, and each gives the same log-probabilities on both sides."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from downstream.heads.ctc import Recogniser
from downstream.recogniser import load_recogniser, save_recogniser
from downstream.recogniser_formats import import_recogniser
from downstream.text.vocabulary import Vocabulary
from upstream.errors import FormatError, InputError, UsageError
from upstream.model import Encoder, EncoderConfig, encoder_hash, load_encoder, prepared, read_tensors, save_encoder
from upstream.model.converting import write_as
from upstream.model.formats.pickles import read_torch_file
from upstream.model.loading import read_checkpoint

CHECKPOINTS = Path(__file__).parents[1] / "oracles/hubert/checkpoints"
BASE, LARGE = CHECKPOINTS / "ctc_base.pt", CHECKPOINTS / "ctc_large_with_w2v_args.pt"
STARTED_FROM = {BASE: CHECKPOINTS / "pretrain_base_legacy_args.pt", LARGE: None}
SMALL = {"conv_dim": 16, "width": 24, "layers": 2, "heads": 4, "ffn": 32, "positional_kernel": 8,
         "positional_groups": 4}
STYLES = [{}, {"conv_norm": "layer", "conv_bias": True, "pre_norm": True, "normalize": True}]
WAVE = np.random.default_rng(0).normal(0.02, 0.1, 8000).astype(np.float32)


def _recogniser(vocabulary: Vocabulary, **settings) -> Recogniser:
    encoder = Encoder(EncoderConfig(**SMALL, **settings)).initialise(0)
    model = Recogniser(encoder, len(vocabulary.symbols)).eval()
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
        model.head.bias.normal_(generator=torch.Generator().manual_seed(2))
    return model


def _logprobs(model: Recogniser) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(prepared(WAVE, model.encoder.config))[None], None)[0]


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(("file", "style"), [(BASE, "base"), (LARGE, "large")])
def test_a_recogniser_of_fairseq_gives_fairseqs_logits(file, style):
    """Utterance 0 fills its row, so padding plays no part."""
    model, vocabulary = import_recogniser(file, STARTED_FROM[file])
    batch = np.load(CHECKPOINTS.parent / "inputs.npz")
    waves = torch.from_numpy(batch["source_normalized" if model.encoder.config.normalize else "source_raw"][:1])
    with torch.no_grad():
        logits = model.head(model.encoder(waves).last)
    wanted = torch.from_numpy(np.load(CHECKPOINTS / "outputs.npz")[f"ctc_{style}_logits"][:1])
    assert _difference(logits, wanted) < 1e-4
    assert vocabulary.symbols == ("<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGH")
    assert vocabulary.blank == 0


@pytest.mark.parametrize("file", [BASE, LARGE])
@pytest.mark.parametrize("to", ["huggingface", "fairseq", "torchaudio"])
def test_a_recogniser_of_fairseq_goes_anywhere(tmp_path, file, to):
    model, vocabulary = import_recogniser(file, STARTED_FROM[file])
    target = tmp_path / ("folder" if to == "huggingface" else "x.pt")
    write_as(read_checkpoint(file, STARTED_FROM[file]), target, to)
    again, symbols = import_recogniser(target)
    assert symbols == vocabulary
    assert torch.equal(_logprobs(again), _logprobs(model))
    if to == "huggingface":
        ours, symbols = load_recogniser(target)
        assert symbols == vocabulary
        assert torch.equal(_logprobs(ours), _logprobs(model))


@pytest.mark.parametrize("settings", STYLES)
@pytest.mark.parametrize("vocabulary", [Vocabulary.characters(), Vocabulary.transformers(), Vocabulary.of(["ÆØ Å"]),
                                        Vocabulary(("|", "A", "<pad>", "B"), 2)])
def test_transformers_loads_a_recogniser_and_gives_its_logits(tmp_path, caplog, settings, vocabulary):
    transformers = pytest.importorskip("transformers")
    model = _recogniser(vocabulary, **settings)
    save_recogniser(model, vocabulary, tmp_path, {"from": "scratch"})
    with caplog.at_level(logging.WARNING):
        theirs, info = transformers.AutoModelForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    inputs = processor(WAVE, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        logits = theirs.eval()(**inputs).logits
        ours = model.head(model.encoder(inputs["input_values"]).last)
    assert _difference(logits, ours) < 1e-4
    assert _difference(logits.log_softmax(-1), _logprobs(model)) < (1e-3 if settings else 1e-4)  # see docs/formats.md
    best = logits.argmax(-1)[0].tolist()
    assert len(set(best)) > 1
    assert processor.batch_decode([best])[0] == vocabulary.decode(vocabulary.collapse(best))
    assert theirs.config.pad_token_id == vocabulary.blank
    assert len(processor.tokenizer) == len(vocabulary.symbols)


@pytest.mark.parametrize("settings", [*STYLES, {"frontend": "fbank"}])
def test_a_saved_recogniser_comes_back_with_its_encoder_and_hash(tmp_path, settings):
    vocabulary = Vocabulary.characters()
    model = _recogniser(vocabulary, **settings)
    save_recogniser(model, vocabulary, tmp_path, {})
    again, symbols = load_recogniser(tmp_path)
    assert symbols == vocabulary
    assert torch.equal(_logprobs(again), _logprobs(model))
    assert encoder_hash(tmp_path) == encoder_hash(model.encoder) == encoder_hash(load_encoder(tmp_path))
    assert (tmp_path / "head.safetensors").is_file() is (settings.get("frontend") == "fbank")


@pytest.mark.parametrize(("symbols", "said"), [
    (("<s>", "<pad>", "</s>", "<unk>", "|", "A"), "the blank is '<s>', and '<pad>' would be"),
    (("-", "|", "A", "<pad>"), "the blank is '-', and '<pad>' would be"),
    (("_", "|", "A"), "the blank is '_', and none would be")])
@pytest.mark.parametrize("front", [{}, {"frontend": "fbank"}])
def test_a_blank_that_would_be_read_as_another_is_not_saved(tmp_path, symbols, said, front):
    """They were saved after the training, and read with another blank or never."""
    vocabulary = Vocabulary(symbols, 0)
    with pytest.raises(InputError, match=said):
        save_recogniser(_recogniser(vocabulary, **front), vocabulary, tmp_path / "asr", {})
    assert not (tmp_path / "asr").exists()


@pytest.mark.parametrize("symbols", [("<s>", "<pad>", "</s>", "<unk>", "|", "A"), ("-", "|", "A", "<pad>"),
                                     ("_", "|", "A")])
def test_the_blank_is_the_one_that_the_configuration_names(tmp_path, symbols):
    """pad_token_id was 0, and the blank 1 by its name in vocab.json, or none."""
    model = _recogniser(Vocabulary(symbols, 0))
    names = Vocabulary(("<pad>", *(f"x{i}" for i in range(len(symbols) - 2)), "|"), 0)
    save_recogniser(model, names, tmp_path, {})
    Vocabulary(symbols, 0).save(tmp_path / "vocab.json")  # as others write it
    again, vocabulary = load_recogniser(tmp_path)
    assert vocabulary.blank == 0
    assert vocabulary == import_recogniser(tmp_path)[1]
    assert torch.equal(_logprobs(again), _logprobs(model))


def test_recognisers_saved_with_a_separate_head_still_load(tmp_path):
    """Folders from before the head stood beside the encoder: bare names, and head.safetensors."""
    vocabulary = Vocabulary.characters()
    model = _recogniser(vocabulary)
    save_encoder(model.encoder, tmp_path, {"head": "ctc"}, dict(model.head.state_dict()))
    vocabulary.save(tmp_path / "vocab.json")
    assert not any(key.startswith("hubert.") for key in read_tensors(tmp_path / "model.safetensors"))
    again, symbols = load_recogniser(tmp_path)
    assert symbols == vocabulary
    assert torch.equal(_logprobs(again), _logprobs(model))


def test_fairseq_gets_rows_that_no_frame_chooses_and_ours_come_back(tmp_path):
    """29 symbols have no rows for <pad>, </s> and <unk>, which every dictionary of fairseq starts with."""
    vocabulary = Vocabulary(("|", "A", "<pad>", "B"), 2)
    model = _recogniser(vocabulary)
    save_recogniser(model, vocabulary, tmp_path / "ours", {})
    lost = write_as(read_checkpoint(tmp_path / "ours"), tmp_path / "x.pt", "fairseq")
    assert "3 were added with a bias of -10000" in lost[0]
    content = read_torch_file(tmp_path / "x.pt")
    assert content["task_state"]["target_dictionary"].symbols == ["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B"]
    head = content["model"]["w2v_encoder.proj.weight"], content["model"]["w2v_encoder.proj.bias"]
    with torch.no_grad():
        states = model.encoder(torch.from_numpy(WAVE)[None]).last
        theirs = (states @ head[0].T + head[1]).log_softmax(-1)
    assert torch.equal(theirs[..., 1:4].exp(), torch.zeros_like(theirs[..., 1:4]))
    assert _difference(theirs[..., [4, 5, 0, 6]], _logprobs(model)) < 1e-4
    again, symbols = import_recogniser(tmp_path / "x.pt")
    assert symbols == Vocabulary(("<pad>", "|", "A", "B"), 0)
    assert _difference(_logprobs(again)[..., [1, 2, 0, 3]], _logprobs(model)) < 1e-4


@pytest.mark.parametrize("names", [
    {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5},  # dumped from fairseq as it is
    {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5},
])
def test_the_blank_of_transformers_is_its_padding_whatever_it_is_called(tmp_path, names):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32,
             "conv_dim": [16] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
    theirs = transformers.HubertForCTC(transformers.HubertConfig(**sizes, vocab_size=6, pad_token_id=0)).eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(names))
    model, vocabulary = import_recogniser(tmp_path)
    assert vocabulary == Vocabulary(("<pad>", "<s>", "</s>", "<unk>", "|", "A"), 0)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(WAVE)[None]).logits
    assert _difference(_logprobs(model), logits.log_softmax(-1)) < 1e-4


def test_symbols_that_the_tokenizer_added_are_rows_too(tmp_path):
    """The usual way to fine-tune: a vocab.json without <s> and </s>, which the tokenizer adds behind it."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32,
             "conv_dim": [16] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
    (tmp_path / "own").mkdir()
    (tmp_path / "own/vocab.json").write_text(json.dumps({"a": 0, "b": 1, "|": 2, "[UNK]": 3, "[PAD]": 4}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "own/vocab.json"), unk_token="[UNK]",
                                                  pad_token="[PAD]")
    config = transformers.HubertConfig(**sizes, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    transformers.HubertForCTC(config).save_pretrained(tmp_path / "asr")
    tokenizer.save_pretrained(tmp_path / "asr")
    assert import_recogniser(tmp_path / "asr")[1] == Vocabulary(("a", "b", "|", "[UNK]", "[PAD]", "<s>", "</s>"), 4)
    transformers.HubertForCTC(transformers.HubertConfig(**sizes, vocab_size=5, pad_token_id=4)).save_pretrained(
        tmp_path / "asr")  # or there are no rows for them
    assert import_recogniser(tmp_path / "asr")[1] == Vocabulary(("a", "b", "|", "[UNK]", "[PAD]"), 4)


def test_symbols_that_nothing_tells_are_asked_for(tmp_path):
    content = read_torch_file(LARGE)
    torch.save({"cfg": content["cfg"], "model": content["model"]}, tmp_path / "x.pt")
    with pytest.raises(UsageError, match=r"nothing says what the 13 rows .* vocab\.json"):
        import_recogniser(tmp_path / "x.pt")
    named = import_recogniser(LARGE)[1]
    named.save(tmp_path / "vocab.json")
    assert import_recogniser(tmp_path / "x.pt", vocabulary=tmp_path / "vocab.json")[1] == named
    Vocabulary.characters().save(tmp_path / "vocab.json")
    with pytest.raises(FormatError, match=r"29 symbols; the head of .*x\.pt has 13 rows"):
        import_recogniser(tmp_path / "x.pt", vocabulary=tmp_path / "vocab.json")


@pytest.mark.parametrize("content", [{"<pad>": 0, "|": 1, "A": 2}, {"eng": {"<pad>": 0, "|": 1}}])
def test_a_vocabulary_that_does_not_fit_its_head_is_told_of(tmp_path, content):
    """It was left aside in silence, and then nothing was said to tell what the rows stand for."""
    write_as(read_checkpoint(LARGE), tmp_path / "theirs", "huggingface")
    for name in ("hubertkit.json", "added_tokens.json"):
        (tmp_path / "theirs" / name).unlink(missing_ok=True)
    (tmp_path / "theirs/vocab.json").write_text(json.dumps(content))
    found = read_checkpoint(tmp_path / "theirs")
    assert found.ctc.symbols is None
    assert "vocab.json does not name the 13 rows of the head, one symbol each, and was left aside" in found.notes


def test_an_encoder_is_no_recogniser(tmp_path):
    with pytest.raises(UsageError, match="without the head of a recogniser; fine-tune it first"):
        import_recogniser(CHECKPOINTS / "pretrain_large.pt")
    with pytest.raises(UsageError, match="needs no vocabulary"):
        import_recogniser(CHECKPOINTS / "pretrain_large.pt", vocabulary=tmp_path / "vocab.json")


@pytest.mark.parametrize(("symbols", "message"), [
    (["<s>", "<pad>", "</s>", "<unk>", *"ABCDEFGHI"], "needs the word separator"),
    (["<s>", "<pad>", "</s>", "<unk>", *"|AAAAAAAA"], "'A' stands there twice"),
    (["<s>", "<pad>", "</s>", "<unk>", "|"], "13 rows; its dictionary has 5 symbols"),
])
def test_dictionaries_that_make_no_vocabulary_are_refused(tmp_path, symbols, message):
    content = read_torch_file(LARGE)
    torch.save({"cfg": content["cfg"], "model": content["model"], "task_state": {"target_dictionary": symbols}},
               tmp_path / "x.pt")
    with pytest.raises(FormatError, match=rf"x\.pt: .*{message}"):
        import_recogniser(tmp_path / "x.pt")


def test_a_given_vocabulary_does_not_move_the_blank(tmp_path):
    """A `vocab.json` in the order of fairseq's dictionary, whose row 0 is the blank and is called <s>."""
    names = ("<s>", "<pad>", "</s>", "<unk>", "|", *"ABCDEFGH")
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    _, vocabulary = import_recogniser(BASE, STARTED_FROM[BASE], tmp_path / "vocab.json")
    assert (vocabulary.symbols[:3], vocabulary.blank) == (("<pad>", "<s>", "</s>"), 0)


def test_a_hyphen_stays_a_letter_whatever_the_blank_is_called(tmp_path):
    """`-` was taken for another blank and had the blank's old name, so that hyphens vanished from all texts."""
    save_recogniser(_recogniser(Vocabulary(("<pad>", "|", "-", "A"), 0)), Vocabulary(("<pad>", "|", "-", "A"), 0),
                    tmp_path, {})
    (tmp_path / "hubertkit.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps({"<blk>": 0, "|": 1, "-": 2, "A": 3}))
    _, vocabulary = import_recogniser(tmp_path)
    assert vocabulary.symbols == ("<pad>", "|", "-", "A")
    assert vocabulary.decode([3, 2, 3]) == "A-A"
