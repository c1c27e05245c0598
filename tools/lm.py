"""`hubertkit lm`: n-gram language models."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from downstream.lm.arpa import read_arpa, write_arpa
from downstream.lm.kneser_ney import FALLBACK, NGramModel, Options, estimate
from downstream.lm.scoring import perplexity, score_sentence
from upstream.errors import UsageError
from upstream.progress import progress, say

app = typer.Typer(no_args_is_help=True)


@app.command()
def build(
    texts: Annotated[list[Path], typer.Argument(help="Plain or .gz text, one sentence a line, taken as it is.")],
    order: Annotated[int, typer.Option(min=1, help="Longest n-gram.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="ARPA file; .arpa.gz is compressed.")] = ...,  # type: ignore[assignment]
    prune: Annotated[str, typer.Option(help="Leave out n-grams seen at most so often, e.g. 0,0,1.")] = "0",
    discount_fallback: Annotated[bool, typer.Option(help="Discounts .5 1 1.5 where the text gives none.")] = False,
    vocab: Annotated[Path | None, typer.Option(help="File of the words that the model may hold.")] = None,
    interpolate_unigrams: Annotated[bool, typer.Option(help="Spread unigram mass over all words.")] = True,
    vocab_pad: Annotated[int, typer.Option(min=0, help="Take the vocabulary to be at least so large.")] = 0,
    skip_symbols: Annotated[bool, typer.Option(help="Treat <s>, </s>, <unk> in the text as spaces.")] = False,
) -> None:
    """Estimate an interpolated modified Kneser-Ney model, as KenLM's lmplz does."""
    options = Options(prune=_thresholds(prune), fallback=FALLBACK if discount_fallback else None,
                      interpolate_unigrams=interpolate_unigrams, vocab=_words(vocab), vocab_pad=vocab_pad,
                      skip_symbols=skip_symbols)
    with progress("estimating", order) as report:
        model = estimate(texts, order, options, report)
    say(f"writing {out}")
    write_arpa(model, out)
    Console().print(_table(model))


@app.command()
def info(model: Annotated[Path, typer.Argument(help="ARPA file.")]) -> None:
    """N-grams of each order."""
    table = Table("order", "n-grams")
    for number, grams in enumerate(read_arpa(model), 1):
        table.add_row(str(number), str(len(grams)))
    Console().print(table)


@app.command()
def score(
    model: Annotated[Path, typer.Argument(help="ARPA file.")],
    text: Annotated[Path, typer.Argument(help="One sentence a line.")],
    as_json: Annotated[bool, typer.Option("--json", help="The perplexities only, as JSON.")] = False,
) -> None:
    """Natural-log probability of each sentence, and the perplexity with and without unknown words."""
    sentences = _read(text)
    found = perplexity(model, sentences)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    for sentence in sentences:
        print(f"{score_sentence(model, sentence):.4f}\t{sentence}")
    print(f"perplexity {found.with_unknown:.2f}, without unknown words {found.without_unknown:.2f} "
          f"({found.tokens} tokens, {found.unknown} unknown)")


def _thresholds(prune: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in prune.split(","))
    except ValueError as error:
        raise UsageError(f"--prune {prune}: expected whole numbers with commas, for instance 0,0,1") from error


def _words(path: Path | None) -> frozenset[str] | None:
    return None if path is None else frozenset(" ".join(_read(path)).split())


def _read(path: Path) -> list[str]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return content.decode("utf-8").splitlines()


def _table(model: NGramModel) -> Table:
    table = Table("order", "n-grams", "seen", "D1", "D2", "D3+")
    for number, s in enumerate(model.statistics, 1):
        table.add_row(str(number), str(s.kept), str(s.total), *(f"{d:.4f}" for d in s.discounts))
    return table
