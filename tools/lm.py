"""`hubertkit lm`: n-gram language models."""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from shutil import which
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from downstream.given_files import check_readable
from downstream.lm.arpa import ngram_counts, write_arpa
from downstream.lm.array_file import holds_arrays
from downstream.lm.arrays import pack as pack_arpa
from downstream.lm.character_model import CharacterShape, CharacterTraining, refuse_others, train_characters
from downstream.lm.interpolation import Pair
from downstream.lm.kenlm_file import memory_of
from downstream.lm.kneser_ney import FALLBACK, Options, Statistics, estimate
from downstream.lm.loading import load_arpa
from downstream.lm.on_disk import estimate_to_file
from downstream.lm.pruning import prune_to_bytes, prune_to_loss, prune_to_ngrams
from downstream.lm.reading import RESERVED, SPECIALS, unpacked
from downstream.lm.scoring import perplexity_of, score_words
from downstream.text.normalise import normalise as normalised
from downstream.text.vocabulary import composed
from tools.outputs import check_file, check_folder
from upstream.device import best_device
from upstream.errors import FormatError, InputError, UsageError
from upstream.progress import progress, say
from upstream.training.free_memory import free_bytes

_HEAD_BYTES = 1 << 16  # of an ARPA file, in which comments may come before \data\

app = typer.Typer(no_args_is_help=True)

Normalise = Annotated[bool, typer.Option("--normalise", help="First make every line upper case, A-Z and apostrophes.")]

Out = Annotated[Path, typer.Option(help="ARPA file to write; gzipped if its name ends in .gz.")]


@app.command()
def build(
    texts: Annotated[list[Path], typer.Argument(help="Plain or .gz text, one sentence a line, taken as it is "
                                                       "but for Unicode's form, NFC.")],
    order: Annotated[int, typer.Option(min=1, help="Words of the longest n-grams.")],
    out: Out,
    normalise: Normalise = False,
    prune: Annotated[str, typer.Option(help="Leave out n-grams seen at most so often, e.g. 0,0,1.")] = "0",
    discount_fallback: Annotated[bool, typer.Option("--discount-fallback", help="Take discounts of 0.5, 1 and 1.5 "
                                                    "where the text gives none.")] = False,
    fallback_discounts: Annotated[str | None, typer.Option(help="These instead, for n-grams counted once, twice and "
                                                                "more often, e.g. 0.4,0.7,0.9.")] = None,
    vocab: Annotated[Path | None, typer.Option(help="File of the words that the model may hold.")] = None,
    interpolate_unigrams: Annotated[bool, typer.Option(help="Spread unigram mass over all words, or give it all to "
                                                            "<unk>.")] = True,
    vocab_pad: Annotated[int, typer.Option(min=0, help="Take the vocabulary to be at least so large.")] = 0,
    skip_symbols: Annotated[bool, typer.Option("--skip-symbols", help="Treat <s>, </s>, <unk>, <UNK> in the "
                                                                      "text as spaces.")] = False,
    memory: Annotated[str | None, typer.Option(help="Take at most so much, e.g. 2G: n-grams are sorted in files. "
                                                    "Without it all is done in memory.")] = None,
    temporary: Annotated[Path | None, typer.Option(help="Folder for these files instead of that of --out.")] = None,
) -> None:
    """Estimate an interpolated modified Kneser-Ney model, as KenLM's lmplz does."""
    _check_out(out, [*texts, vocab])
    if temporary is not None and not temporary.is_dir():
        raise UsageError(f"--temporary {temporary}: no such folder")
    if temporary is not None and memory is None:
        raise UsageError("--temporary needs --memory: without a limit there are no temporary files")
    options = Options(prune=_thresholds(prune), interpolate_unigrams=interpolate_unigrams,
                      fallback=_fallback(fallback_discounts, discount_fallback),
                      vocab=_words(vocab, normalise), vocab_pad=vocab_pad, skip_symbols=skip_symbols)
    change = normalised if normalise else None
    if memory is not None:
        with progress("estimating", 1) as report:
            statistics = estimate_to_file(texts, order, out, _bytes(memory), temporary=temporary, options=options,
                                          progress=report, normalise=change, say=say)
    else:
        _warn_of_memory(texts)
        with progress("estimating", order + 1) as report:
            model = estimate(texts, order, options, report, change)
        with progress("writing", sum(map(len, model.orders))) as report:
            write_arpa(model, out, report)
        statistics = model.statistics
    for number, found in enumerate(statistics, 1):
        if found.fallback:
            say(f"order {number}: fallback discounts, as {found.fallback}")
    say(f"written: {out}")
    Console().print(_table(statistics))


BYTES_A_BYTE = 35  # of text, at orders 3 and 4: benchmarks/results/lm.json and smaller texts
GZIPPED = 3  # times smaller


def _warn_of_memory(texts: list[Path]) -> None:
    """Said before hours of reading that end for want of memory."""
    size = sum(path.stat().st_size * (GZIPPED if path.suffix == ".gz" else 1) for path in texts if path.is_file())
    needed, there = BYTES_A_BYTE * size, free_bytes(torch.device("cpu"), 1)
    if needed > there:
        say(f"warning: so much text takes some {needed / 1e9:.1f} GB of memory, and {there / 1e9:.1f} are free; "
            f"--memory {max(1, int(there / 2e9))}G sorts in files instead")


@app.command()
def prune(
    model: Annotated[Path, typer.Argument(help="ARPA file, may be gzipped.")],
    out: Out,
    ngrams: Annotated[int | None, typer.Option(help="Keep at most so many n-grams of all orders together.")] = None,
    megabytes: Annotated[float | None, typer.Option(help="Keep what a file of so many million bytes holds, not "
                                                         "gzipped.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out n-grams by each of which the perplexity grows by "
                                                         "less than this part of itself, e.g. 1e-8.")] = None,
) -> None:
    """Make a model smaller by relative entropy: the n-grams go that change it least."""
    if sum(wanted is not None for wanted in (ngrams, megabytes, threshold)) != 1:
        raise UsageError("give one of --ngrams, --megabytes and --threshold")
    if megabytes is not None and not 0 < megabytes < math.inf:
        raise UsageError(f"--megabytes {megabytes:g}: must be above 0 and finite")
    _check_out(out, [model])
    with progress("reading", 1) as report:
        whole = load_arpa(model, report, say)
    if ngrams is not None:
        pruned = prune_to_ngrams(whole, ngrams)
    elif megabytes is not None:
        pruned = prune_to_bytes(whole, int(megabytes * 1e6))
    else:
        pruned = prune_to_loss(whole, threshold or 0.0)
    with progress("writing", sum(map(len, pruned.orders))) as report:
        write_arpa(pruned, out, report)
    say(f"written: {out}")
    table = Table("order", "n-grams", "before")
    for number, grams in enumerate(whole.orders):
        kept = len(pruned.orders[number]) if number < len(pruned.orders) else 0
        table.add_row(str(number + 1), str(kept), str(len(grams)))
    Console().print(table)


@app.command()
def interpolate(
    first: Annotated[Path, typer.Argument(help="ARPA file, may be gzipped.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    dev: Annotated[Path, typer.Option(help="Plain or .gz text, one sentence a line, on which the weight is tuned.")],
    out: Out,
    normalise: Normalise = False,
) -> None:
    """Mix two models into one, weighted so that a text is likeliest; the words are those of both."""
    _check_out(out, [first, second, dev])
    sentences = _all_sentences([dev], normalise)
    with progress("reading", 2) as report:
        models = [load_arpa(path, lambda done, total, i=i: report(i + done / total, 2), say)  # type: ignore[misc]
                  for i, path in enumerate((first, second))]
    pair = Pair(*models)
    for path, words in zip((first, second), pair.only):
        if words:
            say(f"{words} words are in {path} alone; the other model gives them no probability")
    tuned = pair.tune(sentences)
    mixed = pair.mixed(tuned.weight)
    with progress("writing", sum(map(len, mixed.orders))) as report:
        write_arpa(mixed, out, report)
    say(f"written: {out}")
    table = Table("model", "weight", "perplexity without unknown words", "unknown words")
    weights = (f"{tuned.weight:.4f}", f"{1 - tuned.weight:.4f}", "")
    for row in zip((escape(str(first)), escape(str(second)), "mixed"), weights, tuned.perplexities, tuned.unknown):
        table.add_row(*row[:2], f"{row[2]:.2f}", str(row[3]))
    Console().print(table)


@app.command()
def pack(
    model: Annotated[Path, typer.Argument(help="ARPA file, may be gzipped.")],
    out: Annotated[Path, typer.Option(help="File to write, for instance lm.ngrams.")],
) -> None:
    """Write the arrays from which `batched` decodes; processes share them in memory."""
    check_file(out, [model])
    with progress("reading", 1) as report:
        new = pack_arpa(model, out, report, say)
    say(f"{'written' if new else 'as it was, of the same model'}: {out}")


@app.command()
def train(
    texts: Annotated[list[Path], typer.Argument(help="Plain or .gz text, one sentence a line.")],
    out: Annotated[Path, typer.Option(help="Folder of the model, for `hubertkit rescore`.")],
    normalise: Normalise = False,
    updates: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = CharacterTraining.updates,
    batch_characters: Annotated[int, typer.Option(min=1, help="In an update.")] = CharacterTraining.batch_characters,
    width: Annotated[int, typer.Option(min=1, help="Of the LSTM.")] = CharacterShape.width,
    layers: Annotated[int, typer.Option(min=1, help="Of the LSTM.")] = CharacterShape.layers,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
) -> None:
    """Train a small neural character model, with which n-best lists are ranked again."""
    _check_model_out(out, texts)
    sentences = [" ".join(line.split()) for line in _all_sentences(texts, normalise)]
    with progress("training", updates) as report:
        model, losses = train_characters(sentences, CharacterShape(width, layers), CharacterTraining(
            updates, batch_characters, seed=seed), best_device(), report)
    last = losses[-max(1, len(losses) // 20):]
    loss = sum(last) / len(last)
    model.save(out, {"texts": [str(path) for path in texts], "updates": updates, "batch_characters": batch_characters,
                     "seed": seed, "loss": loss})
    print(f"{out}: {len(model.characters)} characters, {loss:.3f} nats a character in the last {len(last)} updates")


@app.command()
def info(
    model: Annotated[Path, typer.Argument(help="ARPA file, may be gzipped.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check that an ARPA file is whole, count its n-grams, and measure the memory that KenLM takes to score with it."""
    with progress("counting", 1) as report:
        counts = ngram_counts(model, report, say)
    memory, refused = _memory(model)
    if as_json:
        print(json.dumps({"ngrams": counts, "bytes": model.stat().st_size, "memory_per_process": memory}))
        return
    table = Table("order", "n-grams")
    for number, count in enumerate(counts, 1):
        table.add_row(str(number), str(count))
    Console().print(table)
    if memory is not None:
        print(f"KenLM takes {memory / 1e6:.1f} MB in every process that scores with it"
              + ("" if which("build_binary") else "; with its program build_binary on the PATH, processes share it"))
    else:
        print(f"{refused}; the batched decoder takes this model, beam and lexicon do not")


@app.command()
def score(
    model: Annotated[Path, typer.Argument(help="ARPA file, may be gzipped, or KenLM binary, of order 2 or more.")],
    text: Annotated[Path, typer.Argument(help="Plain or .gz text, one sentence a line.")],
    normalise: Normalise = False,
    as_json: Annotated[bool, typer.Option("--json", help="The perplexities only, as JSON.")] = False,
) -> None:
    """Natural-log probability of each sentence, and the perplexity with and without unknown words."""
    sentences = _all_sentences([text], normalise)
    scored = []
    with progress("scoring", len(sentences)) as report:
        for done, sentence in enumerate(sentences, 1):
            scored.append(score_words(model, sentence))
            report(done)
    found = perplexity_of(scored)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    for sentence, words in zip(sentences, scored):
        print(f"{sum(word.logprob for word in words):.4f}\t{sentence}")
    print(f"perplexity {found.with_unknown:.2f}, without unknown words {found.without_unknown:.2f} "
          f"({found.tokens} tokens, {found.unknown} unknown)")


def _memory(model: Path) -> tuple[int | None, str]:
    """Bytes that KenLM takes for a model, or None and why it refuses it. Raises as `load_arpa` where all refuse it."""
    try:
        return memory_of(model), ""
    except FormatError as error:
        load_arpa(model)
        return None, str(error)


def _check_out(out: Path, inputs: Sequence[Path | None]) -> None:
    if out.is_dir():
        raise UsageError(f"{out}: a folder; --out names the ARPA file to write")
    check_file(out, inputs)
    if out.is_file() and out.stat().st_size and not _is_model(out):
        raise UsageError(f"{out}: is there already and no language model, so it is left as it is; give another --out")


def _is_model(path: Path) -> bool:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            return b"\\data\\" in file.read(_HEAD_BYTES) or holds_arrays(path)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return False


def _check_model_out(out: Path, inputs: Sequence[Path]) -> None:
    """Raise UsageError, before an hour's work, unless the folder of a model can be written."""
    check_folder(out, inputs, own="characters.json")
    refuse_others(out)


def _thresholds(prune: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in prune.split(","))
    except ValueError as error:
        raise UsageError(f"--prune {prune}: expected whole numbers with commas, for instance 0,0,1") from error


def _fallback(values: str | None, wanted: bool) -> tuple[float, float, float] | None:
    """As lmplz takes them: fewer than three are filled up with the last."""
    if values is None:
        return FALLBACK if wanted else None
    try:
        found = [float(word) for word in values.split(",")]
    except ValueError as error:
        raise UsageError(f"--fallback-discounts {values}: expected numbers with commas, e.g. 0.5,1,1.5") from error
    if len(found) > 3:
        raise UsageError(f"--fallback-discounts {values}: at most three, for counts of 1, 2, and 3 and more")
    one, two, three = (found + [found[-1]] * 2)[:3]
    return one, two, three


def _words(path: Path | None, normalise: bool) -> frozenset[str] | None:
    """The words of a file, normalised as the text is; the special ones, which every model holds, stay out."""
    if path is None:
        return None
    given = {word for line in _lines(path) for word in composed(line).split()} - {*RESERVED}
    found = frozenset(part for word in given for part in normalised(word).split()) if normalise else frozenset(given)
    if not found:
        raise InputError(f"{path}: no words for --vocab")
    return found


def _all_sentences(paths: Sequence[Path], normalise: bool) -> list[str]:
    """As `_sentences`, of several texts. Raises InputError where they hold none."""
    found = [line for path in paths for line in _sentences(path, normalise)]
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: no text; expected one sentence a line")
    return found


def _sentences(path: Path, normalise: bool) -> Iterator[str]:
    """Lines of a text.

    Raises:
        InputError: `<s>` or `</s>` in the text, or `<unk>` or `<UNK>`, of which normalising would make a word.
    """
    refused = {*RESERVED} if normalise else {*SPECIALS[1:]}
    for number, line in enumerate(_lines(path), 1):
        special = next((word for word in line.split() if word in refused), None) if "<" in line else None
        if special is not None:
            raise InputError(f"{path}, line {number}: {special} is a special word of language models; take it out of "
                             "the text")
        yield normalised(line) if normalise else composed(line)


def _lines(path: Path) -> Iterator[str]:
    """Lines of a plain or gzipped text, ended by newlines alone; a byte order mark at its beginning is left out."""
    check_readable(path)
    try:
        with open(path, "rb") as raw, unpacked(raw, path) as packed, \
                io.TextIOWrapper(packed, encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error


def _table(statistics: Sequence[Statistics]) -> Table:
    table = Table("order", "n-grams", "seen", "D1", "D2", "D3+")
    for number, s in enumerate(statistics, 1):
        table.add_row(str(number), str(s.kept), str(s.total), *(f"{d:.4f}" for d in s.discounts))
    return table


def _bytes(text: str) -> int:
    """`2G`, `500M`, `1.5G` or a number of bytes; decimal, so that what is asked for is never exceeded."""
    units = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    number = text.upper().removesuffix("B")
    unit = units.get(number[-1:], 1)
    try:
        found = int(float(number.rstrip("KMGT")) * unit)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--memory {text}: expected a size, for instance 2G or 500M") from error
    if found <= 0:
        raise UsageError(f"--memory {text}: must be above 0")
    return found
