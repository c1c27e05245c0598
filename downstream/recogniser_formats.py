"""Recognisers of others: CTC models of fairseq, Hugging Face and torchaudio as ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from downstream.heads.ctc import Recogniser
from downstream.recogniser import recogniser_of
from downstream.text.vocabulary import Vocabulary
from upstream.errors import FormatError, InputError, UsageError
from upstream.model.formats import Checkpoint
from upstream.model.formats.huggingface import with_blank_named
from upstream.model.loading import read_checkpoint


def import_recogniser(source: str | Path, pretrained: Path | None = None, vocabulary: Path | None = None
                      ) -> tuple[Recogniser, Vocabulary]:
    """A fine-tuned CTC model and its symbols, in evaluation mode.

    Rows stay in the order of the file. The blank is row 0 in fairseq (its `<s>`) and torchaudio, the padding token in
    transformers; it is called `<pad>`, as transformers calls it.

    Args:
        source, pretrained: as `load_encoder`.
        vocabulary: a `vocab.json` that names the rows of a file that does not.

    Raises:
        UsageError: no such source, one without a CTC head, or one that names no symbols.
        FormatError: as `load_encoder`; or symbols that make no vocabulary.
    """
    found = with_vocabulary(read_checkpoint(source, pretrained), vocabulary)
    if found.ctc is None:
        raise UsageError(f"{source}: an encoder without the head of a recogniser; fine-tune it first "
                         f"(hubertkit finetune RECIPE encoder={source} ...)")
    if found.ctc.symbols is None:
        raise UsageError(f"{source}: nothing says what the {len(found.ctc.weight)} rows of its head stand for; give a "
                         "vocab.json")
    try:
        symbols = Vocabulary(found.ctc.symbols, found.ctc.blank)
    except InputError as error:
        raise FormatError(f"{source}: {error}") from error
    return recogniser_of(found.encoder(), found.ctc), symbols


def with_vocabulary(found: Checkpoint, path: Path | None) -> Checkpoint:
    """A checkpoint whose CTC head has the symbols of a `vocab.json`; its blank stays the row that it was.

    Raises:
        UsageError: there is no CTC head.
        FormatError: another number of symbols than rows.
    """
    if path is None:
        return found
    if found.ctc is None:
        raise UsageError(f"{found.source}: an encoder without the head of a recogniser needs no vocabulary")
    vocabulary = Vocabulary.load(path)
    if len(vocabulary.symbols) != len(found.ctc.weight):
        raise FormatError(f"{path}: {len(vocabulary.symbols)} symbols; the head of {found.source} has "
                          f"{len(found.ctc.weight)} rows")
    return replace(found, ctc=replace(found.ctc, symbols=with_blank_named(vocabulary.symbols, found.ctc.blank)))
