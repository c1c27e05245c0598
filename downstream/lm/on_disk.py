"""The same models as `kneser_ney.estimate`, byte for byte, from texts larger than the memory.

As in Heafield et al. 2013, only the n-grams of the highest order are counted. Sorted in suffix order (compared from
their last word backwards) they give the counts of all orders in one pass. Then, order by order:

    suffix order -> prefix order     contexts lie together: (a - D) / sum a and gamma of each
    prefix order -> suffix order     p(w | c) = (a - D) / sum a + gamma(c) p(w | c'), as the order below lies alongside
    suffix order -> prefix order     the order of the file

N-grams of order k have two numbers: `row`, their place in suffix order, and their place in the file.
"""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from downstream.lm.arpa import Block, write_blocks
from downstream.lm.counts import Order
from downstream.lm.kneser_ney import (
    Discounts,
    Options,
    Statistics,
    all_discounts,
    allowed_words,
    check_options,
    check_order,
    discounted,
    kept_ngrams,
    log10_or_99,
    thresholds_of,
    unigrams,
)
from downstream.lm.packing import first_words, pack, unpack, width_of
from downstream.lm.reading import BOS, UNK, Progress, Text, read_text_to_file
from downstream.lm.sorting import Sorter
from downstream.lm.suffix_pass import Level, levels_of
from upstream.disk import disk_errors

_LEAST = 24_000_000  # bytes to work in, whatever is asked for
_RESERVE = 40_000_000  # bytes for what is not counted: Arrow's pool, buffers of files
_ROWS = 50_000  # of an ARPA file, formatted at a time


def estimate_to_file(texts: Sequence[Path], order: int, out: Path, memory: int, *, temporary: Path | None = None,
                     options: Options | None = None, progress: Progress | None = None,
                     normalise: Callable[[str], str] | None = None,
                     say: Callable[[str], None] = print) -> tuple[Statistics, ...]:
    """Estimate a model and write it as an ARPA file, within a limit of memory.

    The words themselves are held in memory; n-grams lie in temporary files, some 60 bytes for each different n-gram of
    any order, which are removed whatever happens.

    Args:
        texts, order, options, normalise: as in `kneser_ney.estimate`.
        out: the ARPA file, gzipped if its name ends in `.gz`.
        memory: bytes that this process may take, what it takes already included.
        temporary: an existing folder for the temporary files; None for that of `out`.
        progress: told how much is done, of how much.
        say: told in a line where so little memory is not enough; then the least possible is taken.

    Raises:
        UsageError, InputError: as `kneser_ney.estimate`.
        HubertkitError: the disk is full or cannot be written.
    """
    options = options or Options()
    check_options(options, order)
    report = progress or (lambda done, total: None)
    steps = 2 * order + 2
    place = temporary or Path(out).parent
    with disk_errors(place):
        if temporary is None:
            place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{Path(out).name}.", suffix=".tmp", dir=place) as name:
            folder = Path(name)
            with open(folder / "tokens", "wb") as file:
                words, longest = read_text_to_file(texts, file, options.skip_symbols, normalise,
                                                   lambda done, total: report(done / total, steps))
            check_order(order, longest, options)
            job = _Job(folder, order, words, width_of(len(words)), _budget(memory, say))
            counted = _counted(job, thresholds_of(options, order), options,
                               lambda done: report(1 + order * done, steps))
            discounts, reasons = all_discounts(counted.counts_of_counts, counted.seen, options.fallback)
            alone, gamma = discounted(np.zeros(len(words), np.int64), 1, counted.unigrams, counted.kept, discounts[0])
            probabilities = unigrams(alone, float(gamma[0]), counted.kept, options)
            for k in range(2, order + 1):
                _interpolated(job, k, discounts[k - 1], probabilities)
                report(order + k - 1, steps)
            write_blocks(out, words, counted.sizes, _sections(job, counted, probabilities),
                         lambda done, total: report(2 * order + 2 * done / total, steps))
    return tuple(Statistics(size, seen, tuple(n.tolist()), d, reason) for size, seen, n, d, reason in zip(
        counted.sizes, counted.seen, counted.counts_of_counts, discounts, reasons))


@dataclass(frozen=True)
class _Job:
    """What all steps know: `width` is that of packed word ids, `memory` the bytes to work in."""

    folder: Path
    order: int
    words: list[str]
    width: int
    memory: int

    @property
    def rows(self) -> int:
        """n-grams worked on at a time: some 64 bytes for each word of each."""
        return max(1, self.memory // 4 // (64 * (self.order + 1)))

    def sorter(self, name: str, combine: Callable[[np.ndarray], np.ndarray] | None = None) -> Sorter:
        """No more than two at a time, so each may have three eighths."""
        return Sorter(self.folder / name, self.memory * 3 // 8, combine)

    def pieces(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Blocks cut to the rows worked on at a time."""
        for block in blocks:
            for first in range(0, len(block), self.rows):
                yield block[first:first + self.rows]

    def read(self, name: str, dtype: np.dtype | type, rows: int | None = None) -> Iterator[np.ndarray]:
        """A file, some rows at a time; one that was never written is empty."""
        path = self.folder / name
        if path.exists():
            with open(path, "rb") as file:
                while len(found := np.fromfile(file, dtype, rows or self.rows)):
                    yield found

    def append(self, name: str, records: np.ndarray) -> None:
        """To a file."""
        with open(self.folder / name, "ab") as file:
            file.write(np.ascontiguousarray(records).view(np.uint8).data)

    def remove(self, name: str) -> None:
        """A file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)


def _budget(memory: int, say: Callable[[str], None]) -> int:
    """Bytes to work in: what is left of the limit now that the words have been read."""
    taken = resident() + _RESERVE
    if memory - taken < _LEAST:
        say(f"{memory / 1e6:.0f} MB of memory are too little: the program and the words of the text take "
            f"{taken / 1e6:.0f} MB; going on with {(taken + _LEAST) / 1e6:.0f} MB")
    return max(_LEAST, memory - taken)


def resident() -> int:
    """Bytes of memory that this process takes now; the most it ever took where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class _Counted:
    """Of the unigrams the adjusted counts and which of them stay; of each order how many stay, how many there are."""

    unigrams: np.ndarray
    kept: np.ndarray
    sizes: list[int]
    seen: list[int]
    counts_of_counts: list[np.ndarray]


def _counted(job: _Job, thresholds: list[int], options: Options, report: Callable[[float], None]) -> _Counted:
    """Files in suffix order: `counts` (n-gram, adjusted count, whether it stays) and `lower` (row of its suffix)."""
    levels = levels_of(_by_suffix(job, lambda done: report(done / 2)), job.order, job.width)
    allowed = allowed_words(job.words, options.vocab)
    size = len(job.words)
    occurrences, adjusted = np.zeros(size, np.int64), np.zeros(size, np.int64)
    counts_of_counts = np.zeros((job.order, 6), np.int64)
    sizes, seen = [0] * job.order, [0] * job.order
    for level in levels:
        counts_of_counts[level.order - 1] += np.bincount(np.minimum(level.counted, 5), minlength=6)
        if level.order == 1:
            ids = level.ids[:, 0]
            occurrences[ids], adjusted[ids] = level.raw, level.adjusted
            continue
        kept = allowed[level.ids].all(1) & (level.raw > (thresholds[level.order - 1] or -1))
        sizes[level.order - 1] += int(kept.sum())
        seen[level.order - 1] += len(kept)
        _append_level(job, level, kept)
    counts_of_counts[0, 0] += size - counts_of_counts[0].sum()  # <unk>, <s>, and </s> where no line ends
    first = Order(np.zeros(size, np.int64), np.zeros(size, np.int64), np.arange(size), occurrences,
                  np.arange(size) == BOS)
    kept = kept_ngrams(Text(job.words, np.empty(0, np.int32)), [first], thresholds[:1], options.vocab)[0]
    adjusted[[UNK, BOS]] = 0
    sizes[0], seen[0] = int(kept.sum()), size
    report(1)
    return _Counted(adjusted, kept, sizes, seen, list(counts_of_counts[:, :5]))


def _append_level(job: _Job, level: Level, kept: np.ndarray) -> None:
    records = np.empty(len(kept), _counts_dtype(job, level.order))
    records["key"], records["count"], records["kept"] = pack(level.ids, job.width), level.adjusted, kept
    job.append(f"counts{level.order}", records)
    job.append(f"lower{level.order}", level.lower)


def _counts_dtype(job: _Job, order: int) -> np.dtype:
    return np.dtype([("key", f"S{order * job.width}"), ("count", np.int64), ("kept", bool)])


def _by_suffix(job: _Job, report: Callable[[float], None]) -> Iterator[np.ndarray]:
    """All different n-grams of the highest order, last word first, with their occurrences; sorted."""
    sorter = job.sorter("ngrams", _summed)
    before = np.full(job.order - 1, BOS, np.int32)
    total, done = (job.folder / "tokens").stat().st_size // 4, 0
    for chunk in job.read("tokens", np.int32):
        tokens = np.concatenate([before, chunk])
        columns = [chunk]
        for back in range(1, job.order):
            earlier = tokens[job.order - 1 - back:len(tokens) - back]
            columns.append(np.where(columns[-1] == BOS, BOS, earlier))  # as many <s> before a sentence as it takes
        ids = np.stack(columns, 1)[chunk != BOS]
        records = np.empty(len(ids), [("key", f"S{job.order * job.width}"), ("count", np.int64)])
        records["key"], records["count"] = pack(ids, job.width), 1
        if len(records):
            sorter.add(records)
        before = tokens[len(tokens) - len(before):]
        done += len(chunk)
        report(done / total)
    job.remove("tokens")
    return job.pieces(sorter.blocks())


def _summed(records: np.ndarray) -> np.ndarray:
    """One record for each n-gram."""
    new = np.append(True, records["key"][1:] != records["key"][:-1])
    found = records[new]
    found["count"] = np.add.reduceat(records["count"], np.flatnonzero(new))
    return found


def _interpolated(job: _Job, order: int, discounts: Discounts, unigram_probabilities: np.ndarray) -> None:
    """Files in the order of the ARPA: `grams`, `logprobs` of those that stay, and `contexts` of the order below.

    `probabilities` of all n-grams stay behind in suffix order, for the order above.
    """
    by_row = job.sorter(f"parts{order}")
    for records in _discounted(job, order, discounts):
        by_row.add(records)
    below = partial(_looked_up, job.folder / f"probabilities{order - 1}", limit=job.rows)
    lowers = job.read(f"lower{order}", np.int64)
    waiting = np.empty(0, np.int64)
    by_place = job.sorter(f"places{order}")
    for records in job.pieces(by_row.blocks()):
        while len(waiting) < len(records):
            waiting = np.concatenate([waiting, next(lowers)])
        lower, waiting = waiting[:len(records)], waiting[len(records):]
        p = records["alone"] + records["gamma"] * (unigram_probabilities[lower] if order == 2 else below(lower))
        if order < job.order:
            job.append(f"probabilities{order}", p)
        stays = records["place"] >= 0
        found = np.empty(int(stays.sum()), [("key", np.int64), ("logprob", np.float32)])
        found["key"], found["logprob"] = records["place"][stays], log10_or_99(p[stays])
        by_place.add(found)
    for records in job.pieces(by_place.blocks()):
        job.append(f"logprobs{order}", records["logprob"])
    for name in (f"lower{order}", f"probabilities{order - 1}"):
        job.remove(name)


def _discounted(job: _Job, order: int, discounts: Discounts) -> Iterator[np.ndarray]:
    """The two parts of each n-gram's probability, its row as the key, and its place in the file, -1 if it goes.

    Files `grams` and `contexts` are written on the way.
    """
    places = 0
    for records in _whole_contexts(job, order):
        contexts = first_words(records["key"], order - 1, job.width)
        new = np.append(True, contexts[1:] != contexts[:-1])
        prefix = np.cumsum(new) - 1
        kept = records["kept"]
        alone, gamma = discounted(prefix, int(prefix[-1]) + 1, records["count"], kept, discounts)
        found = np.empty(len(records), [("key", np.int64), ("alone", float), ("gamma", float), ("place", np.int64)])
        found["key"], found["alone"], found["gamma"] = records["row"], alone, gamma[prefix]
        found["place"] = np.where(kept, places + np.cumsum(kept) - 1, -1)
        places += int(kept.sum())
        about = np.empty(len(gamma), _contexts_dtype(job, order - 1))
        about["key"], about["gamma"] = contexts[new], gamma
        job.append(f"contexts{order - 1}", about)
        job.append(f"grams{order}", records["key"][kept])
        yield found


def _whole_contexts(job: _Job, order: int) -> Iterator[np.ndarray]:
    """n-grams in prefix order, cut between contexts only, so that sums are made of the same terms in the same order."""
    sorter = job.sorter(f"prefixes{order}")
    done = 0
    for counts in job.read(f"counts{order}", _counts_dtype(job, order)):
        records = np.empty(len(counts), [*_counts_dtype(job, order).descr, ("row", np.int64)])
        for field in ("key", "count", "kept"):
            records[field] = counts[field]
        records["row"] = np.arange(done, done + len(counts))
        done += len(counts)
        sorter.add(records)
    job.remove(f"counts{order}")
    held: list[np.ndarray] = []  # the last context, of which more may come
    for records in job.pieces(sorter.blocks()):
        contexts = first_words(records["key"], order - 1, job.width)
        begins = np.flatnonzero(contexts[1:] != contexts[:-1]) + 1
        if held and first_words(held[-1]["key"][-1:], order - 1, job.width)[0] != contexts[0]:
            yield np.concatenate(held)
            held = []
        if len(begins):
            yield np.concatenate([*held, records[:begins[-1]]])
            held = []
        held.append(records[begins[-1] if len(begins) else 0:])
    if held:
        yield np.concatenate(held)


def _looked_up(path: Path, rows: np.ndarray, limit: int) -> np.ndarray:
    """Numbers of a file of float64 at rows that do not fall, at most about `limit` rows read at a time."""
    found = np.empty(len(rows))
    done = 0
    while done < len(rows):
        first = int(rows[done])
        until = int(np.searchsorted(rows, first + limit))
        values = np.fromfile(path, float, int(rows[until - 1]) - first + 1, offset=8 * first)
        found[done:until] = values[rows[done:until] - first]
        done = until
    return found


def _contexts_dtype(job: _Job, order: int) -> np.dtype:
    return np.dtype([("key", f"S{order * job.width}"), ("gamma", float)])


def _sections(job: _Job, counted: _Counted, probabilities: np.ndarray) -> Iterator[Iterator[Block]]:
    """The orders of the ARPA file, each some n-grams at a time."""
    ids = np.flatnonzero(counted.kept)
    weights = np.ones(len(job.words))
    for about in job.read("contexts1", _contexts_dtype(job, 1)):
        weights[unpack(about["key"], job.width)[:, 0]] = about["gamma"]
    backoffs = log10_or_99(weights[ids]) if job.order > 1 else None
    yield iter([Block(ids[:, None], log10_or_99(probabilities[ids]), backoffs)])
    for order in range(2, job.order + 1):
        yield _section(job, order)


def _section(job: _Job, order: int) -> Iterator[Block]:
    rows = min(job.rows, _ROWS)
    contexts = job.read(f"contexts{order}", _contexts_dtype(job, order), rows)
    about = np.empty(0, _contexts_dtype(job, order))
    logprobs = job.read(f"logprobs{order}", np.float32, rows)
    for keys, logprob in zip(job.read(f"grams{order}", f"S{order * job.width}", rows), logprobs, strict=True):  # type: ignore[arg-type]
        weights = np.ones(len(keys))
        while order < job.order:
            among = about[:np.searchsorted(about["key"], keys[-1], side="right")]
            at = np.searchsorted(keys, among["key"])
            same = keys[at] == among["key"]
            weights[at[same]] = among["gamma"][same]
            about = about[len(among):]
            if len(about) or (about := next(contexts, about)).size == 0:
                break
        yield Block(unpack(keys, job.width), logprob, log10_or_99(weights) if order < job.order else None)
