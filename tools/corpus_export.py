"""`hubertkit corpus export FORMAT MANIFEST --out DIR`: a manifest, and units, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tools.outputs import check_file
from upstream.audio.corpora.common_voice import export_common_voice
from upstream.audio.corpora.fairseq import (
    DICTIONARY,
    export_fairseq,
    letters_without_a_place,
    list_names,
    refuse_other_labels,
)
from upstream.audio.corpora.kaldi import FILES, export_kaldi, kaldi_ids, sorted_alike
from upstream.audio.corpora.libri_light import export_libri_light
from upstream.audio.corpora.nemo import export_nemo
from upstream.audio.corpora.parquet import export_parquet
from upstream.audio.corpora.tar_shards import export_tar
from upstream.audio.cutting import cut_audio, refuse_parts
from upstream.audio.file_names import fitting
from upstream.audio.manifest import Manifest
from upstream.claims import refuse_others
from upstream.errors import UsageError
from upstream.progress import say
from upstream.teacher.fairseq_labels import check_dictionaries, export_labels, label_names
from upstream.teacher.gate import check_coverage
from upstream.teacher.units import Units

app = typer.Typer(no_args_is_help=True)

ManifestFile = Annotated[Path, typer.Argument(metavar="MANIFEST", show_default=False)]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.", show_default=False)]
CutAudio = Annotated[bool, typer.Option("--cut-audio", help=(
    "Write each utterance as a file of its own (16 kHz, one channel, 16 bits) to DIR/audio or, of a list with a name, "
    "DIR/audio/NAME."))]


@app.command("fairseq")
def fairseq(manifest: ManifestFile, out: Folder,
            units: Annotated[Path | None, typer.Option(metavar="DIR", help="Units for NAME.km and dict.km.txt.",
                                                       show_default=False)] = None,
            name: Annotated[str, typer.Option(help="train, valid, ...")] = "train", cut: CutAudio = False) -> None:
    """NAME.tsv, with NAME.ltr, NAME.wrd and dict.ltr.txt where there are transcripts, and NAME.km of units."""
    _refuse_file(out)
    _check_name(name)
    loaded = Manifest.load(manifest)
    labels = Units.load(units) if units is not None else None
    names = label_names(labels, name) if labels is not None else []
    if labels is not None:
        check_coverage(labels, loaded)
        check_dictionaries(labels, out, name)
    refuse_others(out, [*list_names(name), *names])  # before hours of cutting
    refuse_other_labels(out, name, len(loaded), names)
    lacking = letters_without_a_place(loaded, out)
    if cut:
        loaded = cut_audio(loaded, out / "audio" / name)
    else:
        refuse_parts(loaded)
    written = export_labels(labels, loaded, out, name) if labels is not None else []
    _say_lost(loaded, "fairseq's lists")
    written += export_fairseq(loaded, out, name)
    if lacking:
        say(f"warning: {out / DICTIONARY} was there and lacks {' '.join(lacking)}, which fairseq will read as <unk>; "
            "to have it made anew, remove it and export first the list that is trained on")
    _print(written, loaded)


@app.command("kaldi")
def kaldi(manifest: ManifestFile, out: Folder, cut: CutAudio = False) -> None:
    """wav.scp, utt2spk, spk2utt and, where needed, segments and text."""
    _refuse_file(out)
    loaded = Manifest.load(manifest)
    refuse_others(out, FILES)
    ids = kaldi_ids(loaded)  # what it refuses, before hours of cutting
    if cut:
        loaded = cut_audio(loaded, out / "audio", ".wav")
    written = export_kaldi(loaded, out)
    if ids != loaded.ids:
        say("note: ids begin with the speaker, SPEAKER-ID, for Kaldi wants utterances and speakers sorted alike")
    if not sorted_alike(ids, loaded.speakers):
        say("warning: they still are not, as the name of a speaker begins that of another; Kaldi's "
            "validate_data_dir.sh will refuse utt2spk: rename such speakers")
    others = sum(u.audio.suffix.lower() != ".wav" for u in loaded)
    if others:
        say(f"note: {others:,} utterances are not in .wav files, the only ones that Kaldi's own programs read; "
            "--cut-audio writes such")
    several = sum(u.channels > 1 for u in loaded)
    if several:
        say(f"note: {several:,} utterances are in files with several channels, of which Kaldi's own programs take the "
            "first, or none where there are segments; hubertkit reads their mean, which --cut-audio writes")
    _print(written, loaded)


@app.command("nemo")
def nemo(manifest: ManifestFile, out: Folder,
         name: Annotated[str, typer.Option(help="Of the file, without .jsonl.")] = "manifest",
         cut: CutAudio = False) -> None:
    """NAME.jsonl."""
    _refuse_file(out)
    _check_name(name)
    loaded = Manifest.load(manifest)
    refuse_others(out, [f"{name}.jsonl"])
    if cut:
        loaded = cut_audio(loaded, out / "audio" / name)
    _print([export_nemo(loaded, out / f"{name}.jsonl")], loaded)


@app.command("common-voice")
def common_voice(manifest: ManifestFile, out: Folder,
                 name: Annotated[str, typer.Option(help="train, dev, test, ...")] = "train") -> None:
    """NAME.tsv, and clips/ with each utterance as FLAC."""
    _refuse_file(out)
    _check_name(name)
    loaded = Manifest.load(manifest)
    _print([export_common_voice(loaded, out, name)], loaded)


@app.command("parquet")
def parquet(manifest: ManifestFile,
            out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .parquet.", show_default=False)]
            ) -> None:
    """Hugging Face's Parquet, with each utterance inside as FLAC."""
    if out.suffix != ".parquet" or out.is_dir():
        raise UsageError(f"--out {out}: name a file in .parquet")
    check_file(out, [manifest])
    loaded = Manifest.load(manifest)
    if out.exists():
        check_file(out, dict.fromkeys(u.audio for u in loaded))
    _print([export_parquet(loaded, out)], loaded)


@app.command("tar")
def tar(manifest: ManifestFile, out: Folder,
        name: Annotated[str, typer.Option(help="Of the shards.")] = "train",
        shard_mb: Annotated[int, typer.Option(min=1, help="A shard ends after so many MB.")] = 1024) -> None:
    """Tar shards of WebDataset: KEY.flac, KEY.txt, KEY.json."""
    _refuse_file(out)
    _check_name(name)
    loaded = Manifest.load(manifest)
    _print(export_tar(loaded, out, name, shard_mb << 20), loaded)


@app.command("libri-light")
def libri_light(manifest: ManifestFile, out: Folder,
                rest: Annotated[Path | None, typer.Option("--9h", metavar="MANIFEST", show_default=False, help=(
                    "What makes the hour ten."))] = None) -> None:
    """1h/0 to 1h/5 of one manifest, and 9h of another."""
    _refuse_file(out)
    loaded = Manifest.load(manifest)
    _print(export_libri_light(loaded, out, Manifest.load(rest) if rest is not None else None), loaded)


def _refuse_file(out: Path) -> None:
    if out.is_file():
        raise UsageError(f"{out}: a file; --out names a folder")


def _check_name(name: str) -> None:
    """Raise UsageError unless files of this name lie in the folder that --out names, whoever reads them."""
    if name.strip() in ("", ".", "..") or any(c in name for c in "/\\") or not name.isprintable():
        raise UsageError(f"--name {name!r}: the name of a file in --out, without its ending and without folders")
    if fitting(name) != name:
        raise UsageError(f"--name {name[:20]}...: too long for the name of a file")


def _say_lost(manifest: Manifest, what: str) -> None:
    if any(speaker is not None for speaker in manifest.speakers):
        say(f"note: {what} have no place for speakers")


def _print(written: list[Path], manifest: Manifest) -> None:
    for path in written:
        print(path)
    print(f"{len(manifest):,} utterances, {manifest.seconds / 3600:.2f} h")
