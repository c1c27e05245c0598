"""Files of torch.save from anywhere: tensors come out, nothing of a pickle is run."""

from __future__ import annotations

import math
import os
import pickle
import sys
import types
from argparse import Namespace
from collections import OrderedDict
from typing import Any

import pytest
import torch

from upstream.errors import FormatError, UsageError
from upstream.model import load_encoder
from upstream.model.formats.pickles import plain, read_torch_file


class Runs:
    """A pickle of this calls a function with arguments when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def dictionary():
    """A stand-in that pickles as fairseq's own class, as in the checkpoints that it wrote."""
    module = types.ModuleType("fairseq.data.dictionary")
    module.Dictionary = type("Dictionary", (), {"__module__": module.__name__})
    names = {"fairseq": types.ModuleType("fairseq"), "fairseq.data": types.ModuleType("fairseq.data"),
             module.__name__: module}
    sys.modules.update(names)
    yield module.Dictionary
    for name in names:
        del sys.modules[name]


def _checkpoint(**more: Any) -> dict[str, Any]:
    return {"args": None, "cfg": {"model": {}, "task": {}}, "model": OrderedDict(w=torch.ones(2)), **more}


@pytest.mark.parametrize("hidden", ["at the top", "in the configuration", "among the tensors", "in a dictionary"])
def test_a_pickle_that_runs_a_command_is_refused_and_nothing_ran(tmp_path, dictionary, hidden):
    witness = tmp_path / "ran"
    evil = Runs(os.system, f"touch {witness}")
    inside = dictionary()
    inside.symbols = ["<s>", evil]
    content = {"at the top": evil, "in the configuration": _checkpoint(cfg={"model": {"x": [evil]}}),
               "among the tensors": _checkpoint(model=OrderedDict(w=torch.ones(2), x=evil)),
               "in a dictionary": _checkpoint(task_state={"dictionaries": [inside]})}[hidden]
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(FormatError, match=r"evil\.pt: its pickle asks for posix\.system"):
        load_encoder(tmp_path / "evil.pt")
    assert not witness.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)  # the same file does run where pickles are trusted
    assert witness.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("function", "name"), [(eval, r"builtins\.eval"), (os.getenv, r"os\.getenv"),
                                                (Namespace.__init__, r"builtins\.getattr"),
                                                (pickle.loads, r"pickle\.loads")])
def test_whatever_else_a_pickle_names_is_named_in_the_message(tmp_path, function, name, legacy):
    torch.save(_checkpoint(extra=Runs(function, "1")), tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FormatError, match=name):
        read_torch_file(tmp_path / "x.pt")


def test_a_bare_pickle_is_refused(tmp_path):
    witness = tmp_path / "ran"
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Runs(os.system, f"touch {witness}")))
    with pytest.raises(FormatError, match=r"x\.pt"):
        load_encoder(tmp_path / "x.pt")
    assert not witness.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("sizes", [(1 << 20, 1 << 20), (1 << 40, 1 << 21), (100, 100)])
def test_a_small_file_whose_tensors_stand_for_terabytes_is_refused_by_size(tmp_path, sizes, legacy):
    """A copy of such a tensor asked for all of its memory, and the process was killed."""
    file = tmp_path / "x.pt"
    torch.save(_checkpoint(model=OrderedDict(w=torch.ones(2), big=torch.ones(1).expand(sizes))), file,
               _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FormatError, match=rf"x\.pt: model\.big stands for {math.prod(sizes) * 4:,} bytes"):
        load_encoder(file)


@pytest.mark.parametrize("big", [torch.sparse_coo_tensor(size=(1 << 20, 1 << 20)),
                                 [torch.ones(1).expand(1000)] * 9, torch.empty(1 << 40, device="meta"),
                                 torch.as_strided(torch.ones(4000), (3000, 1000), (1, 1))])
def test_other_tensors_that_repeat_what_is_stored_count_as_well(tmp_path, big):
    torch.save({"nested": [{"a": big}]}, tmp_path / "x.pt")
    with pytest.raises(FormatError, match=r"x\.pt: nested\.0\.a\S* stands for [\d,]+ bytes"):
        read_torch_file(tmp_path / "x.pt")


def test_tensors_that_share_or_repeat_a_little_are_read(tmp_path):
    weights = torch.arange(5000.0).view(50, 100)
    content = {"tied": [weights, weights, weights.T], "part": weights[3:9, ::7], "mask": torch.ones(1).expand(3, 100),
               "empty": torch.ones(1).expand(0, 1 << 20), "scalar": torch.tensor(2.0), "positions":
               torch.arange(512).expand(1, -1)}
    content["itself"] = content
    torch.save(content, tmp_path / "x.pt")
    found = read_torch_file(tmp_path / "x.pt")
    assert torch.equal(found["part"], weights[3:9, ::7])
    assert found["mask"].sum() == 300


def test_dictionaries_and_namespaces_come_out_as_what_they_hold(tmp_path, dictionary):
    symbols = dictionary()
    symbols.symbols = ["<s>", "a"]
    torch.save(_checkpoint(args=Namespace(width=3, inner=Namespace(x=None)), task_state={"d": symbols}),
               tmp_path / "x.pt")
    found = read_torch_file(tmp_path / "x.pt")
    assert found["task_state"]["d"].symbols == ["<s>", "a"]
    assert type(found["task_state"]["d"]).__module__ == "upstream.model.formats.pickles"
    assert plain(found["args"]) == {"width": 3, "inner": {"x": None}}
    assert torch.equal(found["model"]["w"], torch.ones(2))


def test_omegaconf_containers_come_out_as_plain_values(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    settings = {"model": {"layers": 2, "names": ["a", "b"], "rate": 0.5, "none": None}, "flag": True}
    torch.save({"cfg": omegaconf.OmegaConf.create(settings)}, tmp_path / "x.pt")
    assert plain(read_torch_file(tmp_path / "x.pt")["cfg"]) == settings


def test_values_that_json_has_no_words_for_become_text():
    assert plain({"a": float("inf"), 3: (1, torch.float32)}) == {"a": "inf", "3": [1, "torch.float32"]}


@pytest.mark.parametrize("content", [b"", b"no torch file", b"PK\x03\x04 cut"])
def test_what_is_no_torch_file_is_refused(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(FormatError, match=r"x\.pt: not a file of torch\.save, or cut short"):
        read_torch_file(tmp_path / "x.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, share):
    torch.save({"w": torch.rand(100)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(FormatError, match=r"x\.pt: not a file of torch\.save, or cut short"):
        read_torch_file(tmp_path / "x.pt")


def test_a_missing_file_is_a_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_torch_file(tmp_path / "x.pt")
