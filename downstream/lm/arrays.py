"""N-gram models as arrays for decoding: many words after many contexts scored at once, on the CPU or a GPU.

All n-grams shorter than the longest are nodes of a tree: node 0 is the empty n-gram, then come the unigrams, the
bigrams and so on. An n-gram has the key `node of its first words * V + last word`, by which a perfect hash finds its
slot, if it is there. A state is the node of the longest n-gram that ends the words so far and can still matter.

The back-off weights that lie between a state and the n-gram that is found are those of the state and its suffixes,
less those of the n-gram's own context and its suffixes: of both the sums are stored, the latter taken off the
probability. So a score is one sum of two numbers, whatever was backed off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from downstream.lm.array_file import holds_arrays, map_arrays, write_arrays
from downstream.lm.kneser_ney import NGramModel
from downstream.lm.loading import load_arpa
from downstream.lm.perfect_hash import build, slots_for, slots_of
from downstream.lm.reading import BOS, EOS, SPECIALS, UNK, Progress
from downstream.lm.tree import Tree, tree_of
from upstream.disk import file_hash
from upstream.errors import FormatError, HubertkitError

_VERSION = 4  # of the arrays' meaning


class Words:
    """The vocabulary of a model: `<unk>` 0, `<s>` 1, `</s>` 2, and the others."""

    def __init__(self, text: np.ndarray) -> None:
        """`text`: the bytes of all words, a newline after each."""
        self._text = text

    def __len__(self) -> int:
        return len(self.list)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def index(self, word: str) -> int:
        """Id of a word; that of `<unk>` where the model does not know it."""
        return self._ids.get(word, UNK)

    @cached_property
    def list(self) -> list[str]:
        """The words by id."""
        return self._text.tobytes().decode().split("\n")[:-1]

    @property
    def own(self) -> Sequence[str]:
        """Those that texts are made of: all but `<unk>`, `<s>` and `</s>`."""
        return self.list[len(SPECIALS):]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: id for id, word in enumerate(self.list)}


@dataclass(frozen=True, eq=False)
class NgramArrays:
    """A model in memory that processes share: forked ones, and those that are sent it, which map the file again.

    Attributes:
        path: the file it was loaded from.
        words: the vocabulary.
        order: words of the longest n-grams.
        vocabulary_size: V, `<unk>`, `<s>` and `</s>` included.
        begin, empty: the state after `<s>`, and that of no context.
        eos: id of `</s>`.
        arpa_sha256: of the ARPA file's bytes; empty where it was made of none.
        unigrams: (V,) float32, natural-log probabilities without a context. That of `<s>` has no meaning.
        seeds, keys: (groups,) and (slots,) int64, of the n-grams of order 2 and more; -1 in slots that none has.
        relative: (slots + V,) float64, natural-log probability less all back-off weights of the context; unigrams last.
        after: (slots + V,) int64, the state after an n-gram.
        link: (nodes,) int64, the longest suffix of a node that can matter.
        total: (nodes,) float64, back-off weights of a node and of all its suffixes, natural logarithms.
    """

    path: Path
    words: Words
    order: int
    vocabulary_size: int
    begin: int
    arpa_sha256: str
    unigrams: Tensor
    seeds: Tensor
    keys: Tensor
    relative: Tensor
    after: Tensor
    link: Tensor
    total: Tensor
    empty: int = 0
    eos: int = EOS

    @staticmethod
    def load(path: Path) -> NgramArrays:
        """Map a file that `pack` wrote into memory.

        Raises:
            UsageError: no such file.
            FormatError: another kind or version of file, or one that was cut short.
        """
        about, arrays = map_arrays(path)
        if about.get("kind") != "ngrams" or about.get("version") != _VERSION:
            raise FormatError(f"{path}: arrays of another kind, or of another version of the program; make them again "
                              "with `hubertkit lm pack`")
        tensors: dict[str, Any] = {name: torch.from_numpy(values) for name, values in arrays.items() if name != "words"}
        return NgramArrays(Path(path).absolute(), Words(arrays["words"]), about["order"], about["vocabulary_size"],
                           about["begin"], about["arpa_sha256"], **tensors)

    def to(self, device: torch.device | str) -> NgramArrays:
        """The same with its tensors on a device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)
                 if isinstance(getattr(self, f.name), Tensor)}
        return dataclasses.replace(self, **moved)

    def score(self, states: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Words after contexts, each row by itself. Also takes and then gives numpy arrays.

        Args:
            states: (n,) int64, `begin`, `empty`, or what this gave.
            words: (n,) int64 in [0, V).

        Returns:
            (n,) float32 natural-log probabilities, equal to KenLM's within 1e-5, and (n,) int64 states after the words.
        """
        if isinstance(states, np.ndarray):  # for small batches three times as fast as torch
            logprobs, after = _score(np, self._numpy, states, words)
            return logprobs.astype(np.float32), after
        logprobs, after = _score(torch, self, states, words)
        return logprobs.float(), after

    @cached_property
    def _numpy(self) -> NgramArrays:
        """The same arrays, not tensors."""
        tensors = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        arrays: dict[str, Any] = {name: t.numpy() for name, t in tensors.items() if isinstance(t, Tensor)}
        return dataclasses.replace(self, **arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (self.path, str(self.keys.device))


def _score(torch_or_numpy: Any, arrays: NgramArrays, states: Any, words: Any) -> tuple[Any, Any]:
    """As `score`, float64."""
    slots = len(arrays.keys)
    found = words + slots
    if arrays.order > 1:
        contexts = [states]
        while len(contexts) < arrays.order - 1:
            contexts.append(arrays.link.take(contexts[-1]))
        wanted = torch_or_numpy.stack(contexts)  # (order - 1, n), the longest context first
        wanted *= arrays.vocabulary_size
        wanted += words
        places = slots_of(wanted, arrays.seeds, slots)
        there = arrays.keys.take(places) == wanted
        for level in range(arrays.order - 2, -1, -1):
            found = torch_or_numpy.where(there[level], places[level], found)
    logprobs = arrays.total.take(states)
    logprobs += arrays.relative.take(found)
    return logprobs, arrays.after.take(found)


def pack(arpa: Path, out: Path, progress: Progress | None = None, say: Callable[[str], None] | None = None,
         digest: str | None = None) -> bool:
    """Write the arrays of an ARPA file, plain or gzipped, unless they are there already.

    Args:
        progress: told how much is done, of how much.
        say: told what is odd about the model.
        digest: sha256 of the ARPA file's bytes, where it is known already.

    Returns:
        Whether they had to be written: not where `out` holds the arrays of a file with the same bytes.

    Raises:
        UsageError, FormatError: as `load_arpa`.
        HubertkitError: the disk is full or cannot be written.
    """
    if digest is None:
        digest = file_hash(arpa) if Path(arpa).is_file() else ""
    if digest and packed_from(out, digest):
        return False
    write_model(load_arpa(arpa, progress, say), out, digest)
    return True


def packed_from(path: Path, digest: str) -> bool:
    """Whether a file holds the arrays of the ARPA file with this sha256, and this version reads them."""
    try:
        return NgramArrays.load(path).arpa_sha256 == digest
    except HubertkitError:  # not there, of an older version, or no arrays at all
        return False


def arpa_hash_of(path: Path) -> str | None:
    """sha256 of the ARPA file that arrays, of any version, were made of; None of a file that holds none."""
    try:
        return str(map_arrays(path)[0].get("arpa_sha256", ""))
    except HubertkitError:
        return None


def model_hash(path: Path) -> str | None:
    """sha256 of a language model's file, or of the ARPA file that arrays were made of; None where there is no file. A
    process reads a file once for it, as long as nobody changes the file."""
    if not Path(path).is_file():
        return None
    about = Path(path).stat()
    return (arpa_hash_of(path) if holds_arrays(path) else None) or _file_hash(
        Path(path).resolve(), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache
def _file_hash(path: Path, *state: int) -> str:
    return file_hash(path)


def write_model(model: NGramModel, out: Path, arpa_sha256: str = "") -> None:
    """Write the arrays of a model, straight from the estimator for instance. Raises HubertkitError on a full disk."""
    arrays = _arrays_of(model)
    about = {"kind": "ngrams", "version": _VERSION, "order": len(model.orders), "vocabulary_size": len(model.words),
             "begin": int(arrays["after"][len(arrays["keys"]) + BOS]), "arpa_sha256": arpa_sha256}
    text = "".join(f"{word}\n" for word in model.words).encode()
    write_arrays(out, about, {"words": np.frombuffer(text, np.uint8), **arrays})


def _arrays_of(model: NGramModel) -> dict[str, np.ndarray]:
    tree = tree_of(model)
    contexts, unigrams = tree.orders[-1].start, tree.orders[0]  # nodes below `contexts` are of all orders but the last
    relative, after = tree.logprob - tree.total[tree.prefix], _after(tree)
    seeds, slots = build(tree.keys[unigrams.stop:])
    keys = np.full(slots_for(len(slots)), -1)
    keys[slots] = tree.keys[unigrams.stop:]
    places = np.append(len(keys) + np.arange(tree.vocabulary), slots)  # of the unigrams, and of all others
    by_place, after_by_place = np.zeros(len(keys) + tree.vocabulary), np.zeros(len(keys) + tree.vocabulary, np.int64)
    by_place[places], after_by_place[places] = relative[1:], after[1:]
    return {"unigrams": tree.logprob[unigrams].astype(np.float32), "seeds": seeds, "keys": keys, "relative": by_place,
            "after": after_by_place, "link": after[tree.suffix[:contexts]], "total": tree.total[:contexts]}


def _after(tree: Tree) -> np.ndarray:
    """(nodes,) int64, the longest suffix of each node, or the node itself, that changes what comes after."""
    matters = (np.bincount(tree.prefix, minlength=len(tree.word)) > 0) | (tree.backoff != 0)
    found = np.arange(len(tree.word))
    for order in tree.orders:
        found[order] = np.where(matters[order], found[order], found[tree.suffix[order]])
    return found


def _loaded(path: Path, device: str) -> NgramArrays:
    return NgramArrays.load(path).to(device)
