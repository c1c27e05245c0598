"""Text files of a corpus, line by line, and ids where a corpus names files only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from upstream.audio.file_names import composed_name
from upstream.disk import disk_errors, writing
from upstream.errors import InputError, UsageError


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and content of each line, blanks included. Raises UsageError, InputError where it has no text."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                yield number, line.rstrip("\r\n")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable UTF-8 file ({error})") from error


def keyed_lines(path: Path) -> dict[str, str]:
    """Lines `KEY REST` as a dictionary in their order. Raises InputError naming the line of a key that comes twice."""
    found: dict[str, str] = {}
    for number, line in lines_of(path):
        if not line.strip():
            continue
        key, _, rest = line.strip().replace("\t", " ").partition(" ")
        if key in found:
            raise InputError(f"{path}, line {number}: {key} a second time; keys must be unique")
        found[key] = rest.strip()
    return found


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write lines atomically, and give the path."""
    with disk_errors(path), writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path


def path_id(root: Path, path: Path) -> str:
    """The path below `root` without the suffix, `/` written as `-` and spaces as `_`, in Unicode's NFC."""
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return composed_name("_".join("-".join(inside.with_suffix("").parts).split()))


def ids_of(root: Path, paths: Sequence[Path]) -> list[str]:
    """Ids of files: their stems if no two are alike (as in LibriSpeech), otherwise `path_id`."""
    stems = ["_".join(path.stem.split()) for path in paths]
    different = dict(zip(stems, paths))  # several utterances may lie in one file
    if all(different[stem] == path for stem, path in zip(stems, paths)):
        return stems
    return [path_id(root, path) for path in paths]


def span_ids(names: Sequence[str], starts_seconds: Sequence[float]) -> list[str]:
    """`NAME`, or `NAME-0012340` (milliseconds) where several utterances have the same name."""
    often = Counter(names)
    return [name if often[name] == 1 else f"{name}-{round(1000 * start):07d}"
            for name, start in zip(names, starts_seconds)]
