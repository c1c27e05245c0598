"""Run a stage in its folder: skip what is done with the same key, resume what was interrupted, redo what is stale.

A run is a folder, a stage is a folder in it. `stage.json` appears first with state `running` and is written last with
state `done`, after a flush to disk. The key is a hash of the stage's settings, of its inputs' hashes and of its own
integer version, so a changed recipe value redoes exactly the stages that depend on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from upstream import course, ranks
from upstream.disk import TEMPORARY, content_hash, disk_errors, folder_bytes, read_json, remove, write_json
from upstream.errors import FormatError, HubertkitError, Interrupted, RankLost, UsageError
from upstream.locks import LOCK

# Of a stage, of no use once it is done.
SPARE = {"checkpoints", "tensorboard", "metrics.jsonl", "skipped.jsonl", "micro_batch.json"}
BEFORE = ".before"  # where a stage that is done anew has what it was, until it is done
CLEARING = "clearing"  # state of a stage that is being removed
Say = Callable[[str], None]
Work = Callable[[Path], dict[str, Any]]


def run_stage(folder: Path, kind: str, *, version: int, settings: dict[str, Any], inputs: dict[str, str], work: Work,
              say: Say = print, together: bool = False, leave: bool = True) -> dict[str, Any]:
    """Do a stage unless it is done, and give its result.

    Args:
        folder: the stage's own folder; `work` writes nowhere else.
        kind: what the stage makes, `encoder` for instance. A folder that holds another kind is not touched.
        version: of the stage's code, raised when its output would change.
        settings: what in the recipe the output depends on, as plain values.
        inputs: name -> content hash of everything else that it depends on.
        work: called with the folder; may find there what an interrupted call with the same key left. Returns a JSON
            object, in it `hash`: the content hash of the output, which is an input of later stages.
        say: told in a line whether the stage is skipped, resumed, or redone and why.
        together: several ranks all call `work` (training does; it writes on rank 0 only). Otherwise rank 0 works and
            the others wait.
        leave: False where the caller has to say or write more of the stage, and then leaves it (`course.leave`): a run
            that is to end with it ends here otherwise.

    Returns:
        What `work` returned, now or when the stage was done; on every rank what it returned on rank 0.

    Raises:
        UsageError: the folder belongs to a stage of another kind, holds files that are no stage's, or an unfinished
            training of another recipe that has come to a checkpoint.
        HubertkitError: the disk is full or cannot be written.
    """
    folder = Path(folder)

    def begin() -> tuple[dict[str, Any], bool]:
        return _begin(folder, _describe(folder, kind, version, settings, inputs), say)

    def rest(record: dict[str, Any], on_rank_0: Callable[[Callable[[], Any]], Any]) -> dict[str, Any]:
        began = time.monotonic()
        with disk_errors(folder):
            try:
                result = work(folder)
            except HubertkitError as error:
                if ranks.first() and not isinstance(error, Interrupted | RankLost):
                    _take_back(folder, say)
                raise
            return on_rank_0(lambda: _finish(folder, record, result, time.monotonic() - began, say))

    def whole() -> dict[str, Any]:
        record, done = begin()
        return record["result"] if done else rest(record, lambda finish: finish())

    if together:
        record, done = ranks.alone(begin)
        result = record["result"] if done else rest(record, ranks.alone)
    else:
        result = ranks.alone(whole)
    if leave:
        course.leave(folder)
    return result


def _begin(folder: Path, record: dict[str, Any], say: Say) -> tuple[dict[str, Any], bool]:
    """Look at what is in the folder and clear it if it is stale. Gives the stage's record, and whether it is done."""
    before, where = _found(folder, record["key"], say)
    if before is not None and before.get("kind") != record["kind"]:
        raise UsageError(f"{folder} holds the {before.get('kind')} of another run; give {record['kind']} a folder of "
                         "its own")
    state, why = _judged(before, record, folder if where == folder else None)
    followed = course.current()
    wish, anew = None, False
    if followed is not None:
        wish = followed.arrive(folder, state, why, before or {})
        anew = followed.anew(state, before or {})
    if course.looking():
        return {"result": {"hash": ""}, **(before or {})}, True  # what it gave, if ever it was done
    if before is not None and state == "done" and not anew:
        remove(folder / BEFORE)  # nothing but a record: a kill just before or behind what is put aside and back
        say(f"{stage_name(folder)}: done before, skipped")
        return before, True
    if before is not None and before["state"] == "running" and state == "stale" and (not wish or before.get("anew")):
        _refuse_checkpoints(folder, why)
    if wish:
        record["anew"] = wish  # once begun, the same command goes on with it
    record |= _taken_over(folder, before, state == "unfinished" and not anew,
                          f"stale ({why}), redone" if state == "stale" else "done anew, as asked", say)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if followed is not None and wish:
            write_json(followed.root / course.WISH, followed.note())
        write_json(folder / "stage.json", record)
    return record, False


def _found(folder: Path, key: str, say: Say) -> tuple[dict[str, Any] | None, Path]:
    """The record of what was done in a folder before, if anything, and where it lies. What another recipe has begun
    since, and stopped before it came to anything, does not count: it is taken back, or passed over by a look."""
    before = read_stage(folder)
    if before is None:
        _refuse_files(folder)
        return None, folder
    if before["key"] == key or before["state"] not in ("running", CLEARING):
        return before, folder
    if not course.looking():
        _take_back(folder, say)
        return read_stage(folder), folder
    aside = (folder / BEFORE / "stage.json").is_file() and not _checkpoints(folder)
    where = folder / BEFORE if aside else folder
    return read_stage(where), where


def _judged(before: dict[str, Any] | None, record: dict[str, Any], folder: Path | None) -> tuple[course.State, str]:
    """State of a stage that left the record `before`, and why it is stale; `folder` has its files, None if they lie
    aside."""
    state = course.stage_state(before, record)
    if before is None:
        return state, ""
    why = changes(before, record) if state == "stale" else ""
    if state == "done" and folder is not None and (lost := _lost(folder, before)):
        state, why = "stale", lost
    return state, "it was being cleared" if before["state"] == CLEARING else why


def _taken_over(folder: Path, before: dict[str, Any] | None, goes_on: bool, why: str, say: Say) -> dict[str, Any]:
    """What a record takes over of the one before it. Where the stage does not go on, which `why` says, the folder is
    cleared."""
    name = stage_name(folder)
    if before is None:
        say(f"{name}: started")
        return {}
    if goes_on:
        say(f"{name}: interrupted before, going on")
        return {"started": before["started"], "others": before.get("others", []), "worked": _worked(folder, before)}
    say(f"{name}: {why}")
    return {"others": _empty(folder, before)}


def _lost(folder: Path, record: dict[str, Any]) -> str:
    """What somebody removed of a done stage's files, in words; empty if nothing that others read."""
    gone = [name for name in record.get("files", ()) if name not in SPARE and not (folder / name).exists()]
    return f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} missing" if gone else ""


def _worked(folder: Path, record: dict[str, Any]) -> float:
    """Seconds that earlier calls worked on a stage that they did not finish: of each from when it began, which is when
    it wrote the record, to the last file that it wrote. A kill says nothing itself."""
    began = (folder / "stage.json").lstat().st_mtime
    own = [path for path in folder.iterdir() if path.name not in (LOCK, BEFORE, *record.get("others", []))]
    last = max(file.lstat().st_mtime for path in own for file in (path, *path.rglob("*")))
    return float(record.get("worked", 0.0)) + max(0.0, last - began)


def _finish(folder: Path, record: dict[str, Any], result: dict[str, Any], seconds: float, say: Say) -> dict[str, Any]:
    remove(folder / BEFORE)
    own = sorted({path.name for path in folder.iterdir()} - {LOCK, *record.get("others", [])})
    whole = record.pop("worked", 0.0) + seconds
    done = {**record, "state": "done", "seconds": round(whole, 3), "bytes": folder_bytes(folder), "files": own,
            "result": result}
    write_json(folder / "stage.json", done)
    now = f", {_duration(seconds)} of it now" if whole > seconds else ""
    say(f"{stage_name(folder)}: done in {_duration(whole)}{now}")
    return result


def read_stage(folder: Path) -> dict[str, Any] | None:
    """The stage record of a folder, or None where there is none. Raises FormatError if it cannot be read."""
    path = Path(folder) / "stage.json"
    if not path.is_file():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or not {"key", "state", "settings", "inputs", "version"} <= set(record):
        raise FormatError(f"{path}: not a stage record; move the folder away to do the stage again")
    return record


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Why a stage is stale, in words: the settings and inputs whose values differ."""
    found = []
    if before["version"] != now["version"]:
        found.append(f"the stage's version {before['version']} -> {now['version']}")
    for part in ("settings", "inputs"):
        old, new = flatten(before[part]), flatten(now[part])
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                found.append(f"{key} {_short(old.get(key))} -> {_short(new.get(key))}")
    return "; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")


def stage_name(folder: Path) -> str:
    """`round1/teacher` for `.../round1/teacher`."""
    return "/".join(Path(folder).parts[-2:])


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested plain values as {dotted name: leaf}."""
    if isinstance(values, dict):
        items: Any = values.items()
    elif isinstance(values, list | tuple):
        items = enumerate(values)
    else:
        return {prefix: values}
    return {k: v for key, value in items for k, v in flatten(value, f"{prefix}.{key}" if prefix else str(key)).items()}


def _empty(folder: Path, record: dict[str, Any]) -> list[str]:
    """Remove what an unfinished stage left, and put aside what one was that is done: the new one may be refused. Gives
    the names of what somebody else put there, which stays, as does the lock: a process that waits for another file of
    its name would not see it.

    The record says first that its stage is being cleared, and stays until that of the next takes its place: nothing
    that is left of a stage ever counts as a part of the next, and what is somebody else's is known at any time. What
    was done lies in the folder or aside, whenever this is interrupted, and its record aside from the beginning.
    """
    own, others, aside = record.get("files"), [], folder / BEFORE
    remove(aside)
    if record["state"] == "done":
        aside.mkdir()
        write_json(aside / "stage.json", record)
    write_json(folder / "stage.json", {**record, "state": CLEARING, "key": ""})
    for path in [path for path in folder.iterdir() if path.name not in (LOCK, BEFORE, "stage.json")]:
        if path.name in record.get("others", []) or (own is not None and path.name not in own):
            others.append(path.name)
            continue
        if record["state"] == "done" and path.name not in SPARE:
            path.rename(aside / path.name)
        else:
            remove(path)
    return sorted(others)


def _take_back(folder: Path, say: Say) -> None:
    """Make a stage again what it was before it was begun anew, if that was refused or given up before it came to
    anything: a training has a checkpoint then. Interrupted, it is gone on with."""
    aside, record = folder / BEFORE, read_stage(folder)
    if record is None or not (aside / "stage.json").is_file() or _checkpoints(folder):
        return
    if record["state"] != CLEARING or record.get("taking_back"):
        kept = {LOCK, BEFORE, "stage.json", *record.get("others", [])}
        if record.get("taking_back"):  # some are back already
            own = set(read_json(aside / "stage.json").get("files", [])) - SPARE
            kept |= {name for name in own if not (aside / name).exists()}
        write_json(folder / "stage.json", {**record, "state": CLEARING, "key": "", "taking_back": True})
        for path in [path for path in folder.iterdir() if path.name not in kept]:
            remove(path)
    for path in [path for path in aside.iterdir() if path.name != "stage.json"]:
        path.rename(folder / path.name)
    os.replace(aside / "stage.json", folder / "stage.json")
    aside.rmdir()
    say(f"{stage_name(folder)}: not done anew; what was there before stays")


def _checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a stage, in their order; a first one that was being written is none."""
    found = sorted((folder / "checkpoints").glob("*.safetensors"))
    return [path for path in found if path.with_suffix(".json").is_file()]


def _refuse_files(folder: Path) -> None:
    """Raise UsageError if a folder without a record holds anything: it would be cleared one day as the stage's own."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    others = sorted(name for name in names if name != LOCK and not TEMPORARY.fullmatch(name))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UsageError(f"{folder}: holds {others[0]}{more} already, which no run of ours wrote; give another folder "
                         "to write to, or move them away")


def _refuse_checkpoints(folder: Path, why: str) -> None:
    """Raise UsageError if an unfinished training of another recipe has come to a checkpoint: it may have taken days."""
    kept = _checkpoints(folder)
    if kept:
        otherwise = f"remove {folder} to begin it anew"
        if (folder / BEFORE / "stage.json").is_file():
            otherwise = f"remove {folder / 'checkpoints'} to have again what was done there before"
        raise UsageError(f"{folder}: unfinished, with a checkpoint of {kept[-1].stem}, and made for something else now "
                         f"({why}); go on with what it began with, give this a folder of its own, or "
                         f"{otherwise}")


def _describe(folder: Path, kind: str, version: int, settings: dict[str, Any],
              inputs: dict[str, str]) -> dict[str, Any]:
    settings = as_recorded(settings)
    key = content_hash({"kind": kind, "version": version, "settings": settings, "inputs": inputs})
    return {"stage": stage_name(folder), "kind": kind, "version": version, "key": key, "state": "running",
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "settings": settings, "inputs": inputs,
            "versions": versions()}


def as_recorded(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a stage as its record has them: as JSON reads them back, tuples as lists."""
    return dict(json.loads(json.dumps(settings, default=str)))


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("hubertkit", "torch", "torchaudio", "numpy", "faiss-gpu", "faiss-cpu", "pyctcdecode", "kenlm"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _short(value: Any) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= 16 else text[:8] + "…"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
