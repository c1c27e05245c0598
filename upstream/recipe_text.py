"""A recipe as text that shows every key there is: what it sets, what it leaves as it is, and what each key means.

What keys mean is said once, in comments beside the fields of the schemas; it is read from there. The text is a recipe:
keys that the recipe sets are YAML, all others are comments with their defaults, and may be uncommented.
"""

from __future__ import annotations

import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

WIDTH = 120  # of a line, comments included
_INDENT = "  "


class _Dumper(yaml.SafeDumper):
    """Texts that begin as numbers do have quotes: OmegaConf takes more of them for numbers than YAML 1.1, as `1e5`."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, "'" if re.match(r"[-+.\d_]", text) else None)


_Dumper.add_representer(str, _text)


def recipe_text(recipe: Any, named: frozenset[str]) -> str:
    """A recipe as YAML with all its keys.

    Args:
        recipe: an instance of a schema (`upstream.recipe.load_recipe`). Dotted keys in its `SETS_ITSELF`, if it has
            that, are left out: keys of its parts to which nobody else may give a value.
        named: dotted keys that it sets; all below them are set, too.
    """
    shown = _Shown(named, frozenset(getattr(recipe, "SETS_ITSELF", ())))
    return "\n".join(_lines(recipe, "", shown, WIDTH)) + "\n"


@dataclass(frozen=True)
class _Shown:
    """How keys are shown: as set, or not at all; all others as comments."""

    named: frozenset[str]
    left_out: frozenset[str]


def _lines(part: Any, where: str, shown: _Shown, room: int) -> Iterator[str]:
    """The lines of a dataclass, not indented, of at most so many columns."""
    meanings, kinds = meanings_of(part.__class__), get_type_hints(part.__class__)
    for field in fields(part):
        key = f"{where}.{field.name}" if where else field.name
        if key in shown.left_out:
            continue
        said = "; ".join(filter(None, (_choices(kinds[field.name]), meanings.get(field.name))))
        yield from _entry(field.name, getattr(part, field.name), key, said, shown, room)


def _entry(name: str, value: Any, key: str, meaning: str, shown: _Shown, room: int) -> Iterator[str]:
    """The lines of one key."""
    live = is_named(key, shown.named)
    inner = _items(value, key, shown, room - len(_INDENT))
    if inner is None:
        yield from _with_comment(f"{name}: {_flow(value)}", meaning, live, room)
        return
    meaning = meaning or (_purpose(value) if is_dataclass(value) else "")
    yield ""
    yield from _with_comment(f"{name}:", meaning, live, room)
    for line in inner[1:] if inner and not inner[0] else inner:  # no gap below the key itself
        yield f"{_INDENT}{line}" if line else line


def _items(value: Any, key: str, shown: _Shown, room: int) -> list[str] | None:
    """The lines below a key, where its value is a part, a list of parts or a mapping of names to parts; else None."""
    if is_dataclass(value):
        return list(_lines(value, key, shown, room))
    if isinstance(value, list | tuple) and value and all(map(is_dataclass, value)):
        return [line for place, part in enumerate(value)
                for line in _listed(list(_lines(part, f"{key}.{place}", shown, room - len(_INDENT))),
                                    is_named(key, shown.named))]
    if isinstance(value, Mapping) and value and all(map(is_dataclass, value.values())):
        return [line for name, part in value.items()
                for line in _entry(_flow(str(name)), part, f"{key}.{name}", "", shown, room)]
    return None


def _listed(lines: list[str], live: bool) -> list[str]:
    """The lines of a part as an item of a list; the dash stands alone, so that any of them may be a comment."""
    empty = all(line.lstrip().startswith("#") for line in lines if line)
    dash = "- {}" if live and empty else "-"
    return [dash if live else f"# {dash}", *(f"{_INDENT}{line}" if line else line for line in lines)]


def _with_comment(text: str, meaning: str, live: bool, room: int) -> Iterator[str]:
    """A key and its meaning: beside it where there is room, else above it."""
    mark = "" if live else "# "
    if not meaning:
        yield f"{mark}{text}"
    elif len(mark) + len(text) + len(meaning) + 4 <= room:
        yield f"{mark}{text}  # {meaning}"
    else:
        wrapped = textwrap.wrap(meaning, room - 2, break_long_words=False, break_on_hyphens=False)
        yield from (f"# {line}" for line in wrapped)
        yield f"{mark}{text}"


def is_named(key: str, named: frozenset[str]) -> bool:
    """Whether a recipe sets a key, one below it, or all of something that it is part of."""
    return any(key == name or name.startswith(f"{key}.") or key.startswith(f"{name}.") for name in named)


def _choices(kind: Any) -> str:
    """The values that a key of this type may have, where they can be counted."""
    if get_origin(kind) is Literal:
        return " | ".join(str(_plain(value)) for value in get_args(kind))
    return " | ".join(value.name for value in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ""


def _flow(value: Any) -> str:
    """A value on one line of YAML, as OmegaConf reads it."""
    dumped = yaml.dump(_plain(value), Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True,
                       sort_keys=False)
    return re.sub(r"(?<!\\)\$\{", r"\\${", dumped.removesuffix("\n...\n").strip())


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _purpose(part: Any) -> str:
    """The first sentence of a schema's docstring."""
    words = " ".join((inspect.getdoc(type(part)) or "").partition("\n\n")[0].split())
    return first_sentence(words)


def first_sentence(text: str) -> str:
    """The beginning of a text, without the stop that ends it; `et al. 2021` ends nothing."""
    return re.split(r"\. (?=[A-Z])", text)[0].rstrip(".")


@cache
def meanings_of(schema: type) -> dict[str, str]:
    """{field: what the comment beside or directly above it says} of a dataclass, from its source."""
    own = {field.name for field in fields(schema)}
    comments: dict[int, str] = {}
    names: dict[int, str] = {}
    alone: set[int] = set()
    source = textwrap.dedent(inspect.getsource(schema))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            comments[row] = token.string.lstrip("# ").strip()
            if not token.line[:column].strip():
                alone.add(row)
        elif token.type == tokenize.NAME and column == len(_INDENT) * 2 and token.string in own and row not in names:
            names[row] = token.string
    return {name: said for row, name in names.items() if (said := _said(row, comments, alone))}


def _said(row: int, comments: Mapping[int, str], alone: set[int]) -> str:
    """What is said of the field in a row: beside it, or in the comments that end right above it."""
    if row in comments:
        return comments[row]
    first = row
    while first - 1 in alone:
        first -= 1
    return " ".join(comments[line] for line in range(first, row))
