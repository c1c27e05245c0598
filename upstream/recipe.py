"""Load, check and override recipes: dataclasses are the schema, YAML files and `key=value` words fill them in.

A recipe is a name that ships with the package or a path to a YAML file. An unknown key or a value of the wrong type
stops with one line that names the key, the nearest key there is, and the file or word it came from.
"""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf, StringNode
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from upstream.disk import path_given
from upstream.errors import RecipeError, UsageError
from upstream.recipe_kinds import kind_at, wrong_kind

Schema = TypeVar("Schema")


@dataclass(frozen=True)
class Named:
    """What a recipe's file names and what the words after it name, as dotted keys: `rounds.0.training.updates`."""

    file: frozenset[str]
    words: frozenset[str]

    def below(self, key: str) -> Named:
        """What they name below a key, as it is called there."""
        return Named(*(frozenset(k.removeprefix(f"{key}.") for k in keys if k.startswith(f"{key}."))
                       for keys in (self.file, self.words)))

    def yielding(self, part: str, general: str, values: dict[str, Any]) -> dict[str, Any]:
        """What a part of a recipe says differently from the recipe itself, without what a word says of the recipe: that
        is meant for all parts, also for those that the file gave a value of their own. A word for the part counts.

        Args:
            part: key of the part, `rounds.0.training`.
            general: key of what it differs from, `training`.
            values: what the part says.
        """
        own = self.below(part)
        return _without(values, (own.file - own.words) & self.below(general).words)


def load_recipe(schema: type[Schema], source: str | Path, overrides: Sequence[str],
                shipped: str | Path) -> Schema:
    """Read a recipe, apply `key=value` overrides in order, and give it as an instance of `schema`.

    Args:
        schema: a dataclass; its defaults are the recipe's defaults. If it has a method `settled`, that is told which
            keys were `Named`, and gives the recipe that is meant.
        source: name of a recipe in the folder `shipped` (without `.yaml`), or a path to a YAML file.
        overrides: words such as `training.updates=100` or `clusters=[50,100]`.
        shipped: folder of the recipes that come with the package.

    Raises:
        UsageError: no such recipe (the ones there are are listed), it is no YAML mapping, or `overrides` is one word.
        RecipeError: an unknown key (the nearest is named), a value of the wrong type or out of range.
    """
    if isinstance(overrides, str):
        raise UsageError(f"overrides={overrides!r}: a single word; give a list of them")
    path = find_recipe(source, shipped)
    content = _read(path)

    def with_overrides(words: Sequence[str], where: str) -> Schema:
        recipe = _merge(OmegaConf.structured(schema), copy.deepcopy(content), str(path))
        for word in words:
            recipe = _override(recipe, word)
        made = _to_object(recipe, where)
        if not hasattr(made, "settled"):
            return made
        return made.settled(_named(content, words))

    try:
        return with_overrides(overrides, str(path))
    except RecipeValueError:
        with_overrides(overrides, _to_blame(overrides, lambda words: with_overrides(words, "")) or str(path))
        raise


def check_recipe(recipe: object, schema: type) -> None:
    """Raise UsageError for what is no recipe of a schema, such as the name of one."""
    if not isinstance(recipe, schema):
        raise UsageError(f"recipe={recipe!r:.60}: expected a {schema.__name__}, as load_recipe gives it: "
                         f"load_recipe({schema.__name__}, NAME, [\"key=value\", ...], SHIPPED)")


def named_keys(source: str | Path, overrides: Sequence[str], shipped: str | Path) -> Named:
    """What a recipe that `load_recipe` has read names. Raises as that."""
    return _named(_read(find_recipe(source, shipped)), overrides)


def refine(base: Schema, changes: dict[str, Any], where: str) -> Schema:
    """A copy of a recipe part with some of its values changed, checked like a recipe."""
    return _to_object(_merge(OmegaConf.structured(base), OmegaConf.create(changes), where), where)


def as_settings(recipe: Any) -> dict[str, Any]:
    """A recipe or a part of one as plain values: what goes into a stage's key and into JSON."""
    return asdict(recipe)


def find_recipe(source: str | Path, shipped: str | Path) -> Path:
    """The file of a recipe given by name or path. Raises UsageError with the nearest shipped names."""
    path, shipped = path_given(source, "source"), path_given(shipped, "shipped")
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if path.is_file():
            return path
        raise UsageError(f"{path}: no such recipe file")
    known = sorted(p.stem for p in shipped.glob("*.yaml"))
    if str(source) in known:
        return shipped / f"{source}.yaml"
    raise UsageError(f"no recipe called {source!r}{nearest(str(source), known)}; those that ship: {', '.join(known)}")


def _read(path: Path) -> DictConfig:
    try:
        content = OmegaConf.create(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        found = str(error).splitlines()[0] if isinstance(error, OmegaConfBaseException) else str(error)
        raise RecipeError(f"{path}: not a YAML recipe: {' '.join(found.split())}") from error
    if not isinstance(content, DictConfig):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values, this is a list")
    return content


def _named(content: DictConfig, words: Sequence[str]) -> Named:
    return Named(frozenset(_leaves(_plain(content), "")), frozenset(key for word in words for key in _named_by(word)))


class RecipeValueError(RecipeError):
    """A value, or values together, that a recipe's own checks refuse."""


def _to_blame(words: Sequence[str], load: Callable[[Sequence[str]], Any]) -> str | None:
    """The last word without which the words before it were a good recipe; None where not even the file is."""
    for count in range(len(words) - 1, -1, -1):
        try:
            load(words[:count])
        except RecipeError:
            continue
        return f"override {words[count]!r}"
    return None


def _override(recipe: Any, word: str) -> Any:
    """Apply one `key=value` word; a key may go into a list: `rounds.1.teacher.clusters=50`."""
    key, equals, value = word.partition("=") if isinstance(word, str) else ("", "", "")
    if not equals or not key:
        raise RecipeError(f"override {word!r}: expected key=value, for instance training.updates=1000")
    where = f"override {word!r}"
    _unlock(recipe)
    _check_items(recipe, key, where)
    try:
        kind = kind_at(OmegaConf.get_type(recipe), key)
        parsed = _literal(value) if _is_text(recipe, key) and value and not _means_more(value) else \
            OmegaConf.from_dotlist([f"value={value}"]).value
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: {' '.join(str(error).split())}") from error
    wrong = wrong_kind(kind, _plain(parsed), key)
    if wrong is not None and wrong.startswith(word):  # it names all of the word itself
        raise RecipeError(f"override {wrong}")
    _refuse(wrong, where)
    if any(part.isdecimal() for part in key.split(".")):
        return _checked(lambda: OmegaConf.update(recipe, key, parsed, merge=True) or recipe, recipe, where)
    for part in reversed(key.split(".")):  # merged as a file would be: `update` cannot add a part to a mapping of parts
        parsed = {part: parsed}
    return _merge(recipe, OmegaConf.create(parsed), where)


def _named_by(word: str) -> list[str]:
    """The keys that a `key=value` word, already found good, gives a value."""
    key, _, value = word.partition("=")
    try:
        return _leaves(_plain(OmegaConf.from_dotlist([f"value={value}"]))["value"], key)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError):  # text
        return [key]


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config) if OmegaConf.is_config(config) else config


def _leaves(values: Any, where: str) -> list[str]:
    """The dotted keys of values; a list of anything but mappings is one value."""
    if isinstance(values, dict):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list) and any(isinstance(value, dict) for value in values):
        items = [(str(place), value) for place, value in enumerate(values)]
    else:
        return [where]
    return [leaf for key, value in items for leaf in _leaves(value, f"{where}.{key}" if where else key)]


def _without(values: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Nested values without those of some dotted keys."""
    found = dict(values)
    for key in keys:
        head, _, rest = key.partition(".")
        if not rest:
            found.pop(head, None)
        elif isinstance(found.get(head), dict):
            found[head] = _without(found[head], [rest])
    return found


def _is_text(recipe: Any, key: str) -> bool:
    """Whether a key is of a value that is text, such as a path: as it is written, and no YAML."""
    node = recipe
    for part in key.split("."):
        if not OmegaConf.is_config(node) or node._is_none() or (OmegaConf.is_dict(node) and part not in node):
            return False
        node = node._get_node(int(part) if OmegaConf.is_list(node) else part)
    return isinstance(node, StringNode)


def _means_more(value: str) -> bool:
    """Whether a text is null, or has quotes around it as YAML wants them."""
    return value.lower() in ("null", "~") or (len(value) > 1 and value[0] == value[-1] and value[0] in "'\"")


def _literal(value: str) -> str:
    """A text of which OmegaConf reads nothing as the name of another value."""
    return re.sub(r"(?<!\\)\$\{", r"\\${", value)


def _check_items(recipe: Any, key: str, where: str) -> None:
    """Raise RecipeError where a key such as `rounds.7.init` goes beyond a list."""
    node, done = recipe, ""
    for part in key.split("."):
        if OmegaConf.is_list(node) and not (part.isdecimal() and len(part) < 10 and int(part) < len(node)):
            last = f"the last is {done}.{len(node) - 1}" if len(node) else "it is empty"
            raise RecipeError(f"{where}: there is no {done}.{part}; items are counted from 0, and {last}")
        if not OmegaConf.is_config(node) or node._is_none() or (OmegaConf.is_dict(node) and part not in node):
            return
        node = node._get_node(int(part) if OmegaConf.is_list(node) else part)
        done = f"{done}.{part}" if done else part


def _unlock(config: Any) -> None:
    """OmegaConf makes frozen dataclasses read-only at every depth; here they are still being put together."""
    OmegaConf.set_readonly(config, False)
    children = [config._get_node(k) for k in config] if OmegaConf.is_dict(config) else list(config._iter_ex(False))
    for child in children:
        if OmegaConf.is_config(child) and not child._is_none():
            _unlock(child)


def _merge(base: Any, change: Any, where: str) -> Any:
    """`base` with a change, both of which nobody may use afterwards: copies of them cost more than all the rest."""
    _refuse(wrong_kind(OmegaConf.get_type(base), _plain(change), ""), where)
    return _checked(lambda: OmegaConf.unsafe_merge(base, change), base, where)


def _refuse(wrong: str | None, where: str) -> None:
    if wrong is not None:
        raise RecipeError(f"{where}: {wrong}")


def _checked(change: Callable[[], Any], base: Any, where: str) -> Any:
    """Make a change, with OmegaConf's complaints in our words."""
    try:
        return change()
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key or error.key)
        raise RecipeError(f"{where}: unknown key {key}{_nearest_key(key, base)}") from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise RecipeError(f"{where}: {key}{str(error).splitlines()[0]}") from error
    except (TypeError, ValueError) as error:  # a number of many digits
        raise RecipeError(f"{where}: {error}") from error


def _to_object(recipe: Any, where: str) -> Any:
    try:
        missing = OmegaConf.missing_keys(recipe)
        if missing:
            raise RecipeError(f"{where}: {', '.join(sorted(missing))} must be given, as key=value or in the recipe")
        for key, value in _floats(OmegaConf.to_container(recipe, resolve=True), ""):
            if not math.isfinite(value):
                raise RecipeValueError(f"{where}: {key}={value}: must be a finite number")
        return OmegaConf.to_object(recipe)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{where}: {str(error).splitlines()[0]}") from error
    except ValueError as error:  # a __post_init__ that found a value out of range
        raise RecipeValueError(f"{where}: {error}") from error


def _floats(values: Any, where: str) -> Iterator[tuple[str, float]]:
    """Every number with a point, and its key as it is written in an override."""
    if isinstance(values, float):
        yield where, values
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield from _floats(value, f"{where}.{key}" if where else str(key))


def _nearest_key(key: str, base: Any) -> str:
    """The key most like a wrong one, whole where it does not stand beside it; keys beside it come first. Where there is
    none, who knows them all."""
    parent, _, word = re.sub(r"\[(\d+)\]", r".\1", key).rpartition(".")
    paths = _keys(base, "")
    beside = [path for path in paths if path.rpartition(".")[0] == parent]
    names = {path.rpartition(".")[2]: path for path in [*reversed(paths), *beside]}
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.4)
    if not close:
        return " (`hubertkit recipe NAME --all` shows every key that there is)"
    return f" (did you mean {close[0] if names[close[0]] in beside else names[close[0]]}?)"


def _keys(config: Any, where: str) -> list[str]:
    """Every key at any depth, as it is written in an override."""
    if OmegaConf.is_dict(config):
        items = [(str(key), config._get_node(key)) for key in config]
    elif OmegaConf.is_list(config) and not config._is_none():
        items = [(str(place), config._get_node(place)) for place in range(len(config))]
    else:
        return []
    found = [] if OmegaConf.is_list(config) else [f"{where}{key}" for key, _ in items]
    return found + [path for key, value in items if OmegaConf.is_config(value) and not value._is_none()
                    for path in _keys(value, f"{where}{key}.")]


def nearest(word: str, known: Sequence[str]) -> str:
    """Which word may have been meant, as a remark behind a wrong one; \"\" where none is like it."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f" (did you mean {close[0]}?)" if close else ""
