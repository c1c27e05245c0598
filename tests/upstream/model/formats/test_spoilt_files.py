"""Whatever is wrong in a file, the answer is one line that names it: never a traceback, never a model made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import same
from hypothesis import given, settings
from hypothesis import strategies as st

from upstream.errors import HubertkitError
from upstream.model import save_encoder
from upstream.model.converting import write_as
from upstream.model.formats.checkpoint import CtcHead
from upstream.model.formats.pickles import read_torch_file
from upstream.model.loading import read_checkpoint

ODD = st.one_of(st.none(), st.booleans(), st.integers(-3, 200), st.floats(-2, 2), st.sampled_from(["", "x", "layer"]),
                st.lists(st.integers(0, 9), max_size=8), st.dictionaries(st.sampled_from("ab"), st.none()))


@pytest.fixture(scope="module")
def written(tiny, tmp_path_factory) -> Path:
    """One encoder in every format: `ours`, `fairseq.pt`, `torchaudio.pt`."""
    folder = tmp_path_factory.mktemp("written")
    save_encoder(tiny(layers=1), folder / "ours", {})
    found = read_checkpoint(folder / "ours")
    write_as(found, folder / "fairseq.pt", "fairseq")
    write_as(found, folder / "torchaudio.pt", "torchaudio")
    return folder


def _read(source: Path, named: Path) -> dict[str, torch.Tensor] | None:
    try:
        return read_checkpoint(source).tensors
    except HubertkitError as error:
        said = str(error)
    assert str(named) in said
    assert "\n" not in said
    return None


def _read_or_refused(source: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Either the very weights, or an error of one line that names the source."""
    found = _read(source, source)
    if found is None:
        return
    wanted = {name: tensor for name, tensor in tensors.items() if name in found}
    assert same({name: found[name] for name in wanted if name != "masked_spec_embed"},
                {name: tensor for name, tensor in wanted.items() if name != "masked_spec_embed"})


@settings(max_examples=150)
@given(st.data())
def test_any_value_in_a_configuration_is_read_or_refused(written, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("spoilt")
    kind = data.draw(st.sampled_from(["huggingface", "preprocessor", "ours", "torchaudio", "fairseq"]))
    tensors = read_checkpoint(written / "ours").tensors
    if kind == "fairseq":
        content = read_torch_file(written / "fairseq.pt")
        group = content["cfg"][data.draw(st.sampled_from(["model", "task"]))]
        group[data.draw(st.sampled_from(sorted(group)))] = data.draw(ODD)
        torch.save({key: content[key] for key in ("cfg", "model")}, folder / "x.pt")
        return _read_or_refused(folder / "x.pt", tensors)
    if kind == "torchaudio":
        (folder / "x.pt").write_bytes((written / "torchaudio.pt").read_bytes())
        described = json.loads((written / "torchaudio.pt.json").read_text())
        place = data.draw(st.sampled_from([described, described["arguments"]]))
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(ODD)
        (folder / "x.pt.json").write_text(json.dumps(described))
        return _read_or_refused(folder / "x.pt", tensors)
    names = ["config.json", "preprocessor_config.json", "model.safetensors", *(["hubertkit.json"] * (kind == "ours"))]
    for name in names:
        (folder / name).write_bytes((written / "ours" / name).read_bytes())
    path = folder / {"huggingface": "config.json", "preprocessor": names[1], "ours": names[-1]}[kind]
    content = json.loads(path.read_text())
    place: Any = content["encoder"] if kind == "ours" and data.draw(st.booleans()) else content
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(ODD)
    path.write_text(json.dumps(content))
    return _read_or_refused(folder, tensors)


@given(st.data())
def test_bytes_that_have_changed_are_read_or_refused(written, tmp_path_factory, data):
    """A checkpoint carries no checksum of ours: changed bytes may be changed weights, but never a crash."""
    folder = tmp_path_factory.mktemp("spoilt")
    name = data.draw(st.sampled_from(["fairseq.pt", "torchaudio.pt"]))
    content = bytearray((written / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 3000)))] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content)
    (folder / "torchaudio.pt.json").write_bytes((written / "torchaudio.pt.json").read_bytes())
    _read(folder / name, folder)


@pytest.mark.parametrize("content", ["null", "[]", "3"])
def test_a_configuration_that_is_no_dictionary_is_refused_beside_a_head(tmp_path, tiny, content):
    """AttributeError: hubertkit.json describes the encoder, and only the head's blank is looked up in config.json."""
    encoder = tiny(layers=1)
    ctc = CtcHead(torch.zeros(3, encoder.config.width), torch.zeros(3), ("<pad>", "|", "A"), 0)
    save_encoder(encoder, tmp_path / "ours", {"head": "ctc"}, ctc=ctc)
    (tmp_path / "ours/config.json").write_text(content)
    assert _read(tmp_path / "ours", tmp_path / "ours/config.json") is None
