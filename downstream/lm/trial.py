"""How long a model would take to estimate here, by the beginning of its text."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from downstream.lm.arpa import write_arpa
from downstream.lm.kneser_ney import FALLBACK, Options, estimate
from downstream.lm.reading import unpacked

TRIED = 2_000_000  # bytes of text


def estimation_seconds(text: Path, order: int, options: Options) -> float:
    """Seconds of reading, estimating and writing, those of the first `TRIED` bytes times what there is of them: a rough
    figure. A text that is shorter is done whole, and nothing of it stays.

    Raises as `estimate`, but not for counts that give no discounts: those of all the text may.
    """
    with TemporaryDirectory(prefix="hubertkit-") as folder:
        beginning = Path(folder) / "text"
        with open(text, "rb") as raw, unpacked(raw, text) as file:
            content = file.read(TRIED)
            read, whole = raw.tell(), text.stat().st_size
            if file.read(1):
                content = next((content[:end + 1] for end in map(content.rfind, (b"\n", b" ")) if end >= 0), content)
            else:
                read = whole
            beginning.write_bytes(content)
        began = time.perf_counter()
        model = estimate([beginning], order, replace(options, fallback=options.fallback or FALLBACK))
        write_arpa(model, Path(folder) / "lm.arpa")
        return (time.perf_counter() - began) * whole / max(1, read)
