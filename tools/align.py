"""`hubertkit align`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from downstream.align import Alignment, pronunciation, read_dictionary
from downstream.align import align as run_alignment
from downstream.alignment_files import FORMATS, write_ctm, write_textgrid
from downstream.recogniser import load_recogniser
from downstream.score.rates import of_phrases
from tools.outputs import check_folder
from upstream.audio.manifest import Manifest
from upstream.claims import claim, refuse_others, unclaim_missing
from upstream.device import best_device
from upstream.disk import disk_errors
from upstream.errors import InputError
from upstream.progress import progress, say
from upstream.teacher.alignments import file_stem

NAMED = 5  # utterances without an alignment that are named
Format = Enum("Format", {name: name for name in FORMATS}, type=str)  # type: ignore[misc]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(align)


def align(
    recogniser: Annotated[Path, typer.Argument(help="Folder of a recogniser, as `finetune` writes it.")],
    manifest: Annotated[Path, typer.Argument(help="Recordings with their transcripts.")],
    out: Annotated[Path, typer.Option(help="Folder for one file an utterance.")] = ...,  # type: ignore[assignment]
    dictionary: Annotated[Path | None, typer.Option(help="Pronunciations in the format of CMUdict or of the "
                                                         "Montreal Forced Aligner; without it words only.")] = None,
    format: Annotated[Format, typer.Option(help="TextGrid has words and phones; ctm phones, or words without a "
                                                "dictionary.")] = Format("TextGrid"),
    characters: Annotated[bool, typer.Option("--characters", help="Each character is a word: of scripts without spaces "
                                             "between words.")] = False,
) -> None:
    """Say when each word, and with a dictionary each phone, was said: alignments for `teacher quality`."""
    check_folder(out, [recogniser, manifest])
    pronounced = None if dictionary is None else read_dictionary(dictionary)
    recordings = Manifest.load(manifest)
    if not characters and of_phrases(text or "" for text in recordings.texts):
        say("the transcripts have no spaces between words, so whole phrases are aligned; --characters aligns each "
            "character")
    model, vocabulary = load_recogniser(recogniser)
    device = best_device()
    files = [f"{file_stem(name)}.{format.value}" for name in recordings.ids]
    refuse_others(out, files)
    without: list[str] = []
    unknown: dict[str, None] = {}
    scores: list[float] = []
    ids = recordings.ids  # which every look lists anew
    with disk_errors(out), progress("aligning", len(recordings)) as report:
        for done, (index, found) in enumerate(run_alignment(model.to(device), vocabulary, recordings, device,
                                                            pronounced, characters), 1):
            name = ids[index]
            report(done)
            if isinstance(found, str):
                without.append(f"{name}: {found}")
                continue
            if not scores:
                claim(out, files)
            _write(out / files[index], name, found, format.value, recordings.lengths[index] / 16_000)
            scores.append(found.score)
            if pronounced is not None:
                unknown |= dict.fromkeys(w.label for w in found.words
                                         if not pronunciation(pronounced, w.label))
        if without and scores:
            unclaim_missing(out, files)
    _report(out, without, list(unknown), scores)


def _write(path: Path, name: str, found: Alignment, format: str, seconds: float) -> None:
    tiers = {"words": found.words} | ({"phones": found.phones} if found.phones else {})
    if format == "TextGrid":
        write_textgrid(path, tiers, seconds)
    elif found.phones:
        write_ctm(path, name, found.phones, "phones")
    else:
        write_ctm(path, name, found.words, "words")


def _report(out: Path, without: list[str], unknown: list[str], scores: list[float]) -> None:
    for line in without[:NAMED]:
        say(f"warning: not aligned: {line}")
    if len(without) > NAMED:
        say(f"warning: {len(without) - NAMED} more utterances were not aligned")
    if unknown:
        say(f"warning: {len(unknown)} words are not in the dictionary and are aligned as one phone `spn`, first "
            f"{', '.join(unknown[:NAMED])}")
    if not scores:
        raise InputError(f"none of {len(without)} utterances could be aligned")
    print(f"{out}: {len(scores)} utterances aligned, {sum(scores) / len(scores):.2f} nats a frame")
