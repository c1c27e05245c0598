"""`hubertkit corpus import FORMAT SRC --out FILE`: make a manifest of a corpus on disk."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from downstream.text.normalise import drops_accents, loses
from downstream.text.normalise import normalise as normalise_text
from tools.outputs import check_folder, check_manifest_file
from upstream.audio.corpora.common_voice import import_common_voice
from upstream.audio.corpora.fairseq import import_fairseq
from upstream.audio.corpora.folder import import_folder
from upstream.audio.corpora.kaldi import import_kaldi
from upstream.audio.corpora.libri_light import import_libri_light
from upstream.audio.corpora.librispeech import import_librispeech
from upstream.audio.corpora.nemo import import_nemo
from upstream.audio.corpora.parquet import import_parquet
from upstream.audio.corpora.probing import SKIP_BAD, Problem, Skip
from upstream.audio.corpora.tar_shards import import_tar
from upstream.audio.manifest import Manifest
from upstream.errors import UsageError
from upstream.locks import locked
from upstream.progress import say
from upstream.teacher.fairseq_labels import import_labels
from upstream.teacher.phone_units import import_phones
from upstream.teacher.units import refuse_others

LISTED = 20  # problems that are printed one by one
SHOWN = 40  # characters of a transcript
MANY_ACCENTS = 0.1  # of transcripts: English has fewer with accents

app = typer.Typer(no_args_is_help=True)

Source = Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the corpus.", show_default=False)]
Table = Annotated[Path, typer.Argument(metavar="SRC", help="The list.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Manifest to write: .arrow, or .parquet.",
                                   show_default=False)]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help=(
    "Leave out files whose headers cannot be read, and count them; `corpus check --out` finds what only decoding shows."
))]
Normalise = Annotated[bool, typer.Option("--normalise", help=(
    "Transcripts in upper case, A to Z and the apostrophe only: what recognisers are trained on."))]
Prefix = Annotated[str, typer.Option("--prefix", help=(
    "Put before every id, such as dev-: files of two sets may have the same names."))]
Root = Annotated[Path | None, typer.Option("--root", metavar="DIR", show_default=False,
                                           help="What relative paths are relative to, if the audio has moved.")]


class Amount(str, enum.Enum):
    """Libri-light's three."""

    ten_minutes = "10min"
    one_hour = "1h"
    ten_hours = "10h"


@app.command("librispeech")
def librispeech(src: Source, out: Out, skip_bad: SkipBad = False, normalise: Normalise = False,
                ids: Annotated[Path | None, typer.Option(metavar="LIST", help="Only these: a file with an id a line.",
                                                         show_default=False)] = None) -> None:
    """SPEAKER/CHAPTER/*.flac (or .opus, ...) with SPEAKER-CHAPTER.trans.txt beside them, below any subset folders."""
    wanted = _read_ids(ids) if ids is not None else None
    _make(lambda skip: import_librispeech(src, wanted, skip), [src, ids], out, skip_bad, normalise)


@app.command("libri-light")
def libri_light(src: Source, out: Out, part: Annotated[Amount, typer.Option(help="How much of it.")] = Amount.one_hour,
                fold: Annotated[int, typer.Option(help="Which of the six sets of 10min.")] = 0,
                skip_bad: SkipBad = False, normalise: Normalise = False) -> None:
    """librispeech_finetuning with 1h/0 to 1h/5 and 9h: 10 minutes, 1 hour or 10 hours."""
    _make(lambda skip: import_libri_light(src, part.value, fold, skip), [src], out, skip_bad, normalise)


@app.command("folder")
def folder(src: Source, out: Out, skip_bad: SkipBad = False, normalise: Normalise = False, prefix: Prefix = "",
           table: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help=(
               "Transcripts: .tsv or .csv with the columns path (or file), text and, if you like, speaker and id."
           ))] = None) -> None:
    """Any audio; transcripts in a .txt beside each recording, in one table, or none. Speakers come from a table only:
    without them, parts that are held out may share voices with the rest."""
    _make(lambda skip: import_folder(src, table, skip, SKIP_BAD), [src, table], out, skip_bad, normalise, prefix)


@app.command("fairseq")
def fairseq(src: Table, out: Out, root: Root = None, skip_bad: SkipBad = False, normalise: Normalise = False,
            prefix: Prefix = "") -> None:
    """A .tsv, with .wrd or .ltr beside it. Its labels: `corpus import km`."""
    _make(lambda skip: import_fairseq(src, root, skip), [src], out, skip_bad, normalise, prefix)


@app.command("kaldi")
def kaldi(src: Source, out: Out, root: Root = None, skip_bad: SkipBad = False, normalise: Normalise = False) -> None:
    """A data folder: wav.scp without commands, and segments, text, utt2spk where they are there."""
    _make(lambda skip: import_kaldi(src, root, skip), [src], out, skip_bad, normalise)


@app.command("common-voice")
def common_voice(src: Table, out: Out, skip_bad: SkipBad = False, normalise: Normalise = False) -> None:
    """A .tsv of Common Voice, with clips/ beside it."""
    _make(lambda skip: import_common_voice(src, skip), [src], out, skip_bad, normalise)


@app.command("nemo")
def nemo(src: Table, out: Out, skip_bad: SkipBad = False, normalise: Normalise = False, prefix: Prefix = "") -> None:
    """A JSONL manifest of NeMo."""
    _make(lambda skip: import_nemo(src, skip), [src], out, skip_bad, normalise, prefix)


@app.command("parquet")
def parquet(src: Annotated[Path, typer.Argument(metavar="SRC", help="A .parquet file, or a folder of them.",
                                                show_default=False)],
            out: Out, column: Annotated[str | None, typer.Option(help="Which holds the audio, if several do.")] = None,
            skip_bad: SkipBad = False, normalise: Normalise = False, prefix: Prefix = "") -> None:
    """Hugging Face's Parquet with the audio inside. Uncompressed audio is read in place, other goes into OUT-audio/."""
    extracted = out.with_name(f"{out.stem}-audio")
    _make(lambda skip: import_parquet(src, extracted, skip, column), [src], out, skip_bad, normalise, prefix)


@app.command("tar")
def tar(src: Annotated[Path, typer.Argument(metavar="SRC", help="A .tar file, or a folder of them.",
                                            show_default=False)],
        out: Out, skip_bad: SkipBad = False, normalise: Normalise = False, prefix: Prefix = "") -> None:
    """Tar shards of WebDataset (KEY.flac, KEY.txt, KEY.json), read in place."""
    _make(lambda skip: import_tar(src, skip), [src], out, skip_bad, normalise, prefix)


@app.command("km")
def km(labels: Annotated[list[Path], typer.Argument(metavar="LABELS...", help="One file for each stream.",
                                                    show_default=False)],
       manifest: Annotated[Path, typer.Option(help="Of the .tsv that was labelled.", show_default=False)],
       out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of units to write.", show_default=False)],
       rate: Annotated[int, typer.Option(help="Labels a second: 50, or 100 of MFCCs.")] = 50,
       dictionary: Annotated[list[Path] | None, typer.Option(help=(
           "dict.km.txt, for each stream; the one beside the labels if not given."))] = None) -> None:
    """fairseq's labels (a line of numbers for each line of the .tsv) as units."""
    check_folder(out, [*labels, manifest], own="units.json")
    refuse_others(out, len(labels))
    with locked(out):
        units = import_labels(labels, Manifest.load(manifest), out, rate, dictionary)
    print(f"{out}: units of {len(units):,} utterances, {', '.join(map(str, units.classes))} classes")


@app.command("phones")
def phones(alignments: Annotated[Path, typer.Argument(metavar="SRC", help="Of TextGrid or CTM files, or one CTM.",
                                                      show_default=False)],
           manifest: Annotated[Path, typer.Option(help="Of the recordings.", show_default=False)],
           out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of units to write.", show_default=False)]
           ) -> None:
    """Phone alignments as units: the best labels there are, for rounds.0.teacher.units=DIR."""
    check_folder(out, [alignments, manifest], own="units.json")
    refuse_others(out, 1)
    if not alignments.exists():
        raise UsageError(f"{alignments}: no such folder, nor a CTM file")
    with locked(out):
        units = import_phones(alignments, Manifest.load(manifest), out)
    print(f"{out}: units of {len(units):,} utterances, {units.classes[0]} phones")


def normalised(manifest: Manifest) -> Manifest:
    """The same recordings with normalised transcripts; one of which nothing is left counts as none, and is counted on
    stderr, as are those that lose letters or digits and, of many, accents."""
    found = Manifest.of((replace(u, text=normalise_text(u.text or "") or None) for u in manifest), manifest.source)
    before, after = (sum(text is not None for text in m.texts) for m in (manifest, found))
    if after < before:
        say(f"warning: {before - after:,} of {before:,} transcripts have nothing left after --normalise, which keeps A "
            "to Z and the apostrophe")
    partly = [i for i, (old, new) in enumerate(zip(manifest.texts, found.texts)) if old and new and loses(old)]
    if partly:
        id, old, new = (part[partly[0]] for part in (manifest.ids, manifest.texts, found.texts))
        say(f"warning: {len(partly):,} of {before:,} transcripts lose letters or digits to --normalise, first {id}: "
            f"{_short(old)} -> {_short(new)}; write numbers out, or import without it to keep other letters (finetune "
            "... symbols=data)")
    plain = sum(drops_accents(old or "") for old in manifest.texts)
    if plain > MANY_ACCENTS * before:
        say(f"warning: letters of {plain:,} of {before:,} transcripts lose accents to --normalise; in languages whose "
            "accents matter, import without it (finetune ... symbols=data)")
    return found


def _short(text: str | None) -> str:
    return repr(text if not text or len(text) <= SHOWN else f"{text[:SHOWN]}...")


def _make(importer: Callable[[Skip | None], Manifest], inputs: Sequence[Path | None], out: Path, skip_bad: bool,
          normalise: bool, prefix: str = "") -> None:
    """Import, write, and say what was written and what was left out."""
    check_manifest_file(out, inputs)
    skipped: list[Problem] = []
    if prefix.split() != [prefix] * bool(prefix):
        raise UsageError(f"--prefix {prefix!r}: ids hold no spaces; give one without, such as dev-")
    manifest = importer(skipped.append if skip_bad else None)
    if prefix:
        manifest = Manifest.of((replace(u, id=prefix + u.id) for u in manifest), manifest.source)
    manifest = normalised(manifest) if normalise else manifest
    manifest.save(out)
    if skipped:
        say(f"{len(skipped):,} left out:")
        for problem in skipped[:LISTED]:
            say(f"  {problem.path}: {problem.what}")
        if len(skipped) > LISTED:
            say(f"  and {len(skipped) - LISTED:,} more")
    speakers = len(set(manifest.speakers) - {None})
    print(f"{out}: {len(manifest):,} utterances, {manifest.seconds / 3600:.2f} h, "
          + (f"{speakers:,} speakers" if speakers else "speakers not known")
          + (f", {len(skipped):,} left out" if skipped else ""))


def _read_ids(path: Path) -> list[str]:
    try:
        ids = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the list of ids cannot be read ({error})") from error
    if not ids:
        raise UsageError(f"{path}: the list of ids is empty")
    return ids
