"""The options that choose a decoder, as `decode` and `transcribe` have them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from downstream.decode.beam import BeamDecoder
from downstream.decode.choice import HOTWORD_NATS, Name

Decoder = Annotated[Name | None, typer.Option(
    help="greedy: the likeliest symbols. beam: pyctcdecode with KenLM, any word. lexicon: flashlight with KenLM, only "
         "words of the lexicon or else of the language model. batched: our own, the same words, many utterances at "
         "once, also on a GPU. By default greedy, and batched with --lm, --beam or --hotwords.")]
Lm = Annotated[Path | None, typer.Option(help="ARPA file (.arpa, .arpa.gz); batched takes packed .ngrams too, lexicon "
                                              "with --lexicon a KenLM binary. Without --decoder: batched.")]
LexiconFile = Annotated[Path | None, typer.Option(
    "--lexicon", help="Words that may be found, for lexicon and batched: lines WORD<tab>W O R D |, a word may have "
                      "several; or words alone, one a line. Those of the language model by default.")]
Beam = Annotated[int | None, typer.Option(min=1, help="Hypotheses kept after each frame, 50 by default. Without "
                                                      "--decoder and --lm: a search without a language model.")]
Tokens = Annotated[int | None, typer.Option(min=1, help="Symbols tried in a frame at most; few are faster, and lose "
                                                        "words that the recogniser is unsure of. All likely ones by "
                                                        "default.")]
Hotwords = Annotated[str | None, typer.Option(
    help="Words to expect, for beam and batched: WORD,WORD=BONUS,... or a file of such lines. The bonus is in nats, "
         f"by default {HOTWORD_NATS:g} of batched and {BeamDecoder.hotword_weight:g} of beam, which has one for all.")]
Device = Annotated[str | None, typer.Option(help="For batched: cpu or cuda, by torch; by default the CPU by numpy.")]
Unspaced = Annotated[bool, typer.Option("--unspaced", help="For batched: words need no separator between them. For "
                                        "recognisers of scripts without spaces, which write none.")]

LmWeight = Annotated[float | None, typer.Option(help="Of natural logarithms (flashlight's are 2.3 times as high); "
                                                     f"needs --lm. {BeamDecoder.lm_weight:g} by default.")]
WordScore = Annotated[float | None, typer.Option(help="Added for each word, in nats; needs --lm. "
                                                      f"{BeamDecoder.word_score:g} by default.")]
Tuned = Annotated[Path | None, typer.Option(help="Take what `hubertkit tune` found: both weights and, unless they are "
                                                 "given, decoder, beam, tokens and --unspaced.")]
