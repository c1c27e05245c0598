"""What kind of value each key of a recipe wants, by the type hints of its schema, and values that are of another."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import BooleanNode, EnumNode, FloatNode, IntegerNode
from omegaconf.errors import OmegaConfBaseException

from upstream.errors import some_of

# OmegaConf's, which say what YAML may have for a kind
_NODES: dict[Any, Any] = {int: IntegerNode, float: FloatNode, bool: BooleanNode}
_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_SHOWN = 60  # characters of a wrong value, at most


def wrong_kind(kind: Any, value: Any, key: str) -> str | None:
    """The first of some values that is of another kind than is wanted, and what is: in a line; None where there is
    none. Keys that a schema does not have are passed over.

    Args:
        kind: type hint: a schema, or of a key of one.
        value: plain values, as YAML has them.
        key: of the value, dotted; "" of a whole recipe.
    """
    return next(_wrong(kind, value, key), None)


def kind_at(schema: Any, key: str) -> Any:
    """The type hint of a dotted key: `rounds.0.teacher`. Any, where the schema has no such key. Raises ValueError for
    one that goes beyond a single value: `seed.x`."""
    kind: Any = schema
    done: list[str] = []
    for part in key.split("."):
        if _wanted(kind) is not None and not _has_inner(kind):
            raise ValueError(f"{'.'.join(done)}: {_wanted(kind)} is needed, which has no {part}")
        kind = _inner(kind, part)
        done.append(part)
    return kind


def _wrong(kind: Any, value: Any, key: str) -> Iterator[str]:
    """As `wrong_kind`, of all."""
    optional, kind = _without_none(kind)
    if kind is Any or _stands_for_another(value) or (value is None and optional):
        return
    if value is None:
        yield f"{key}: nothing stands there: give it a value, a section keys of its own, or leave it out"
    elif not _takes(kind, value):
        yield f"{key}={str(value)[:_SHOWN]}: {_wanted(kind)} is needed{_advice(kind, value)}"
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _wrong(_inner(kind, str(name)), inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _wrong(_inner(kind, str(place)), inner, f"{key}.{place}")


def _stands_for_another(value: Any) -> bool:
    """Whether it is one of OmegaConf's texts that mean something else: `${data}`, or `???` for what is missing."""
    return isinstance(value, str) and (value == "???" or "${" in value)


def _takes(kind: Any, value: Any) -> bool:
    """Whether a value is of a kind, whatever may be inside it."""
    if isinstance(value, Mapping):
        return is_dataclass(kind) or get_origin(kind) is dict
    if isinstance(value, list | tuple):
        return get_origin(kind) in (list, tuple)
    if _has_inner(kind) or isinstance(value, bytes):
        return False
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    try:
        if kind in _NODES:
            _NODES[kind](value)
        elif isinstance(kind, type) and issubclass(kind, Enum):
            EnumNode(kind, value)
    except OmegaConfBaseException:
        return False
    return True


def _wanted(kind: Any) -> str | None:
    """A kind in words; None where anything may stand."""
    kind = _without_none(kind)[1]
    if is_dataclass(kind):
        return "a section"
    if get_origin(kind) in (list, tuple):
        return "a list"
    if get_origin(kind) is dict:
        return "a mapping"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(choice.name for choice in kind)}"
    return _SCALARS.get(kind)


def _advice(kind: Any, value: Any) -> str:
    """How what is wanted is written, where that is more than its name says."""
    if is_dataclass(kind):
        return f", of keys and values: {some_of([field.name for field in fields(kind)])}"
    if get_origin(kind) is dict:
        return ", of keys and values: {KEY: VALUE}"
    if get_origin(kind) in (list, tuple):
        return ": [ ] around its values"
    whole = kind is int and isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return f": write {int(value)}" if whole else ""


def _has_inner(kind: Any) -> bool:
    return is_dataclass(_without_none(kind)[1]) or get_origin(_without_none(kind)[1]) in (list, tuple, dict)


def _inner(kind: Any, part: str) -> Any:
    """The kind of what is inside: a field, an item, or a value of a mapping. Any, where there is no such."""
    kind = _without_none(kind)[1]
    if is_dataclass(kind):
        return _hints(kind).get(part, Any)  # type: ignore[arg-type]
    found: Sequence[Any] = get_args(kind)
    return found[0] if get_origin(kind) in (list, tuple) else found[1] if get_origin(kind) is dict else Any


@cache
def _hints(schema: Any) -> dict[str, Any]:
    return get_type_hints(schema)


def _without_none(kind: Any) -> tuple[bool, Any]:
    """Whether a type hint lets None stand, and the rest of it."""
    if get_origin(kind) not in (Union, types.UnionType):
        return False, kind
    rest = [part for part in get_args(kind) if part is not type(None)]
    return len(rest) < len(get_args(kind)), rest[0] if len(rest) == 1 else Any
