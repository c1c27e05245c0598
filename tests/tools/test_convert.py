"""`hubertkit convert` from the outside: what it writes, says and exits with."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import files_up_to

from downstream.text.vocabulary import Vocabulary
from tools.main import run
from upstream.disk import read_json
from upstream.model import Encoder, EncoderConfig, load_encoder, save_encoder
from upstream.model.formats.pickles import read_torch_file
from upstream.model.loading import read_checkpoint
from upstream.model.masked_prediction import MaskedPrediction
from upstream.teacher.quantiser import Quantiser
from upstream.teacher.teacher import Teacher

CHECKPOINTS = Path(__file__).parents[1] / "oracles/hubert/checkpoints"
PRETRAINED, CTC = CHECKPOINTS / "pretrain_large.pt", CHECKPOINTS / "ctc_base.pt"


def _convert(*words: Any) -> int:
    return run(["convert", *map(str, words)])


def test_a_checkpoint_goes_round_through_every_format(tmp_path, capsys):
    steps = [(PRETRAINED, tmp_path / "hf", "huggingface"), (tmp_path / "hf", tmp_path / "fairseq.pt", "fairseq"),
             (tmp_path / "fairseq.pt", tmp_path / "torchaudio.pt", "torchaudio"),
             (tmp_path / "torchaudio.pt", tmp_path / "end", "huggingface")]
    heads = ("final_proj", "label_embs")
    theirs = read_torch_file(PRETRAINED)["model"]
    parameters = sum(tensor.numel() for name, tensor in theirs.items() if not name.startswith(heads))
    for source, target, to in steps:
        assert _convert(source, target, "--to", to) == 0
        said = capsys.readouterr()
        assert said.out == f"{target}: {to}, an encoder of {parameters:,} parameters, with masked prediction\n"
        if to == "torchaudio":
            assert "not in torchaudio: all but the first of 2 streams of labels" in said.err
    start, end = load_encoder(PRETRAINED), load_encoder(tmp_path / "end")
    assert start.config == end.config
    assert all(torch.equal(tensor, end.state_dict()[name]) for name, tensor in start.state_dict().items())


@pytest.mark.parametrize(("family", "to", "kept"), [
    ("wav2vec2", "torchaudio", ""), ("hubert", "torchaudio", ", with masked prediction"),
    ("wav2vec2", "fairseq", ", with masked prediction"), ("wavlm", "huggingface", ", with masked prediction"),
])
def test_a_head_that_was_left_behind_is_not_said_to_be_written(tmp_path, capsys, family, to, kept):
    """A bug once found: torchaudio has no such head on wav2vec 2.0, as was said, and its file was said to have it."""
    config = EncoderConfig(family=family, conv_dim=8, width=16, layers=1, heads=2, ffn=8, positional_kernel=8,
                           positional_groups=4, relative_buckets=8 if family == "wavlm" else 0)
    model = MaskedPrediction(Encoder(config), (5,), final_dim=4).initialise(0)
    head = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    save_encoder(model.encoder, tmp_path / "ours", {"objective": {}}, head=head)
    target = tmp_path / ("there" if to == "huggingface" else "there.pt")
    assert _convert(tmp_path / "ours", target, "--to", to) == 0
    said = capsys.readouterr()
    parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert said.out == f"{target}: {to}, an encoder of {parameters:,} parameters{kept}\n"
    assert ("not in torchaudio: the heads of masked prediction" in said.err) == (not kept)


def test_special_rows_are_dropped_on_request(tmp_path):
    assert _convert(PRETRAINED, tmp_path / "a", "--to", "huggingface", "--special-rows", "drop") == 0
    assert [len(table) for table in read_checkpoint(tmp_path / "a").prediction.tables] == [25, 40]


def test_a_recogniser_takes_the_architecture_of_what_it_started_from(tmp_path, capsys):
    assert _convert(CTC, tmp_path / "a", "--to", "huggingface") == 1
    said = capsys.readouterr().err  # of any command that reads it, and this alone has the option
    assert "(pretrained=FILE; `hubertkit convert --pretrained FILE`), or have that lie beside it as" in said
    assert not (tmp_path / "a").exists()
    before = CHECKPOINTS / "pretrain_base_legacy_args.pt"
    assert _convert(CTC, tmp_path / "a", "--to", "huggingface", "--pretrained", before) == 0
    assert capsys.readouterr().out.endswith("with a CTC head\n")
    assert Vocabulary.load(tmp_path / "a/vocab.json").symbols[4:] == ("|", *"ABCDEFGH")


def test_a_vocabulary_names_the_rows_of_a_head(tmp_path, capsys):
    before = CHECKPOINTS / "pretrain_base_legacy_args.pt"
    assert _convert(CTC, tmp_path / "x.pt", "--to", "torchaudio", "--pretrained", before) == 0
    (tmp_path / "x.pt.json").write_text((tmp_path / "x.pt.json").read_text().replace('"symbols"', '"letters"'))
    assert _convert(tmp_path / "x.pt", tmp_path / "a", "--to", "huggingface") == 0
    said = capsys.readouterr().err
    assert "note: torchaudio keeps no mask vector" in said
    assert "not in huggingface: a vocab.json" in said
    Vocabulary(("<pad>", *"abc", "|", *"ABCDEFGH")).save(tmp_path / "vocab.json")
    assert _convert(tmp_path / "x.pt", tmp_path / "b", "--to", "huggingface", "--vocabulary",
                    tmp_path / "vocab.json") == 0
    assert Vocabulary.load(tmp_path / "b/vocab.json").symbols[1:4] == ("a", "b", "c")


def test_what_hubertkit_alone_has_is_refused_as_a_wrong_use(tmp_path, capsys):
    config = EncoderConfig(frontend="fbank", width=24, layers=1, heads=4, ffn=8, positional_kernel=8,
                           positional_groups=4)
    save_encoder(Encoder(config).initialise(0), tmp_path / "ours", {})
    assert _convert(tmp_path / "ours", tmp_path / "a", "--to", "huggingface") == 2
    assert capsys.readouterr().err == (f"hubertkit: {tmp_path / 'ours'}: the fbank front end is hubertkit's own; "
                                       "huggingface has convolutions only, so nothing was written\n")


@pytest.mark.parametrize(("source", "code", "message"), [
    ("nowhere.pt", 2, "no such file or folder. Known are"),
    ("cut.pt", 1, "cut.pt: not a file of torch.save, or cut short"),
    ("evil.pt", 1, "evil.pt: its pickle asks for posix.system"),
    ("empty", 2, "hubertkit.json is missing, and there is no config.json"),
])
def test_bad_sources_are_one_line_and_an_exit_code(tmp_path, capsys, source, code, message):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (tmp_path / "cut.pt").write_bytes(PRETRAINED.read_bytes()[:100_000])
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "empty").mkdir()
    assert _convert(tmp_path / source, tmp_path / "a", "--to", "huggingface") == code
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not said.out
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "a").exists()


def test_an_unknown_format_is_a_wrong_use(tmp_path):
    assert _convert(PRETRAINED, tmp_path / "a", "--to", "onnx") == 2


def test_the_teacher_and_the_statistics_of_units_travel_along(tmp_path, capsys):
    teacher = Teacher(Quantiser((torch.randn(3, 39),)), {"name": "mfcc", "dim": 39, "rate": 50.0}, 1.0, {})
    encoder = Encoder(EncoderConfig(conv_dim=16, width=32, layers=1, heads=2, ffn=32)).initialise(0)
    encoder.save(tmp_path / "ours", unit_statistics={"classes": [3], "histogram": [[5, 4, 3]]})
    teacher.save(tmp_path / "ours" / "teacher")
    assert _convert(tmp_path / "ours", tmp_path / "hf", "--to", "huggingface") == 0
    assert Teacher.load(tmp_path / "hf" / "teacher").hash == teacher.hash
    assert read_json(tmp_path / "hf" / "hubertkit.json")["unit_statistics"]["histogram"] == [[5, 4, 3]]
    capsys.readouterr()
    assert _convert(tmp_path / "hf", tmp_path / "f.pt", "--to", "fairseq") == 0
    assert "not in fairseq: the teacher of its units" in capsys.readouterr().err


@pytest.mark.parametrize(("to", "name"), [("huggingface", "a"), ("fairseq", "a.pt"), ("torchaudio", "a.pt")])
def test_a_full_disk_in_a_conversion_is_one_line(tmp_path, capsys, to, name):
    """A traceback, and then "already there"; and of Python 3.12.1 a crash, when it collected what was not written."""
    with files_up_to(20_000):
        assert _convert(PRETRAINED, tmp_path / name, "--to", to) == 1
    assert "the file is larger than is allowed here" in capsys.readouterr().err
    gc.collect()
    assert not list(tmp_path.iterdir())
    assert _convert(PRETRAINED, tmp_path / name, "--to", to) == 0


@pytest.mark.parametrize("empty", [False, True])
def test_an_interrupted_conversion_can_be_given_again(tmp_path, monkeypatch, empty):
    def killed(checkpoint, folder):
        (folder / "more").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # nobody clears up behind a killed process
        raise KeyboardInterrupt

    if empty:
        (tmp_path / "a").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("upstream.model.converting.save_checkpoint", killed)
        _convert(PRETRAINED, tmp_path / "a", "--to", "huggingface")
    monkeypatch.undo()
    assert _convert(PRETRAINED, tmp_path / "a", "--to", "huggingface") == 0
    assert read_checkpoint(tmp_path / "a").prediction is not None
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert {".lock", ".writing", "more"}.isdisjoint(p.name for p in (tmp_path / "a").iterdir())
