"""`hubertkit teacher gate`: the checks that units must pass before they are trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from upstream.audio.manifest import Manifest
from upstream.errors import UsageError
from upstream.teacher.gate import GateRules, check_same_teacher, check_units
from upstream.teacher.units import Units


def pass_gate(
    units: Annotated[Path, typer.Argument(help="Folder of units.")],
    manifest: Annotated[Path, typer.Argument(help="Recordings to train on.")],
    valid: Annotated[Path | None, typer.Option(metavar="DIR", help="Units to validate on, if in a folder of their "
                                                                   "own: must be of the same teacher.")] = None,
    most_share: Annotated[float, typer.Option(help="Of the frames that one class may have.")] = GateRules.most_share,
    overrule: Annotated[str, typer.Option(help="Checks to pass over: unused,share, and with --valid "
                                                      "teacher.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Counts match frames, every class occurs, none has nearly everything, one teacher, the right rate."""
    try:
        rules = GateRules(most_share, tuple(word.strip() for word in overrule.split(",") if word.strip()))
    except ValueError as error:
        raise UsageError(str(error)) from error
    stored, recordings = Units.load(units), Manifest.load(manifest)
    counts = check_units(stored, recordings, rules=rules)
    if valid is not None:
        check_same_teacher(stored, Units.load(valid), rules)
    rows = [{"stream": stream, "classes": len(c), "in_use": int((c > 0).sum()), "frames": int(c.sum()),
             "largest_class": int(c.argmax()), "largest_share": round(float(c.max() / max(1, c.sum())), 4)}
            for stream, c in enumerate(counts)]
    if as_json:
        print(json.dumps({"utterances": len(recordings), "streams": rows}))
        return
    for row in rows:
        print(f"stream {row['stream']}: {row['in_use']} of {row['classes']} classes in use, class "
              f"{row['largest_class']} has {row['largest_share']:.1%} of {row['frames']:,} frames")
    print(f"{units}: passed for {len(recordings):,} utterances")
