"""Recipes as text with every key: what is set stays what it is, and every key says what it means."""

from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import ClassVar, Literal, get_args, get_type_hints

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tools.recipes import SCHEMAS, schema_of
from upstream.errors import RecipeError
from upstream.recipe import load_recipe, named_keys
from upstream.recipe_text import WIDTH, first_sentence, meanings_of, recipe_text

SHIPPED = [(command, path.stem) for command in SCHEMAS for path in sorted(schema_of(command)[1].glob("*.yaml"))]


class Colour(str, Enum):
    red = "red"
    green = "green"


@dataclass(frozen=True)
class Part:
    """What a part is. More of it, which nobody needs here."""

    size: int = 1  # in metres
    # One of two, of which the second is so much the better that whoever reads this far should take it, and think no
    # more of it.
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Whole:
    name: str = ""  # of it
    colour: Colour = Colour.red  # of its coat
    part: Part = field(default_factory=Part)
    parts: list[Part] = field(default_factory=lambda: [Part(2)])
    named: dict[str, Part] = field(default_factory=dict)  # parts by name
    free: dict[str, int] = field(default_factory=dict)  # anything


@dataclass
class Plain:
    text: str = ""
    number: int = 0
    share: float = 0.0


def test_set_keys_are_yaml_and_others_are_comments_by_hand():
    made = Whole("it", Colour.green, Part(3), [Part(), Part(4)], {"x": Part(5)})
    named = frozenset({"name", "part.size", "parts.1.size", "named.x.size"})
    assert recipe_text(made, named) == '''\
name: it  # of it
# colour: green  # red | green; of its coat

part:  # What a part is
  size: 3  # in metres
  # a | b; One of two, of which the second is so much the better that whoever reads this far should take it, and think
  # no more of it.
  # kind: a

parts:
  - {}
    # size: 1  # in metres
    # a | b; One of two, of which the second is so much the better that whoever reads this far should take it, and think
    # no more of it.
    # kind: a
  -
    size: 4  # in metres
    # a | b; One of two, of which the second is so much the better that whoever reads this far should take it, and think
    # no more of it.
    # kind: a

named:  # parts by name
  x:  # What a part is
    size: 5  # in metres
    # a | b; One of two, of which the second is so much the better that whoever reads this far should take it, and think
    # no more of it.
    # kind: a
# free: {}  # anything
'''


@dataclass(frozen=True)
class Outer:
    SETS_ITSELF: ClassVar[tuple[str, ...]] = ("whole.name", "whole.part")
    whole: Whole = field(default_factory=Whole)  # all of it


def test_keys_that_a_recipe_sets_itself_are_left_out():
    """Bug: `hubertkit recipe selftrain-demo --all` said of `finetune.data` that it must be given, and refused it."""
    text = recipe_text(Outer(), frozenset())
    assert "# colour: red" in text
    assert "name:" not in text
    assert "\n  # part:" not in text
    for command, name in (("selftrain", "selftrain-demo"), ("bench low-resource", "demo-quick")):
        schema, shipped = schema_of(command)
        recipe = load_recipe(schema, name, [], shipped)
        assert "\n  # data: " not in recipe_text(recipe, frozenset())
        for key in recipe.SETS_ITSELF:
            value = "{layers: 3}" if key.endswith("architecture") else "7"
            with pytest.raises(RecipeError, match=f"{key}: the "):
                load_recipe(schema, name, [f"{key}={value}"], shipped)


@pytest.mark.parametrize(("command", "name"), SHIPPED)
def test_a_shipped_recipe_is_the_same_when_its_text_is_read(command, name, tmp_path):
    schema, shipped = schema_of(command)
    recipe, named = load_recipe(schema, name, [], shipped), named_keys(name, [], shipped)
    text = recipe_text(recipe, named.file | named.words)
    (tmp_path / "again.yaml").write_text(text, encoding="utf-8")
    assert load_recipe(schema, tmp_path / "again.yaml", [], shipped) == recipe
    assert len(text.splitlines()) >= len(fields(schema))
    assert max(len(line) for line in text.splitlines() if "#" in line) <= WIDTH


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20), st.integers(), st.floats(-1e9, 1e9))
def test_any_value_is_read_as_it_was(tmp_path_factory, text, number, share):
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    made = Plain(text, number, share)
    path.write_text(recipe_text(made, frozenset({"text", "number", "share"})), encoding="utf-8")
    assert load_recipe(Plain, path, [], path.parent) == made


def schemas():
    """Every dataclass that a recipe of some command is made of."""
    found, left = [], [schema_of(command)[0] for command in SCHEMAS]
    while left:
        schema = left.pop()
        if schema not in found:
            found.append(schema)
            left += [part for kind in get_type_hints(schema).values() for part in parts_of(kind)]
    return found


def parts_of(kind):
    return [part for part in (kind, *get_args(kind), *(b for a in get_args(kind) for b in get_args(a)))
            if isinstance(part, type) and is_dataclass(part)]


@pytest.mark.parametrize("schema", schemas(), ids=lambda schema: schema.__name__)
def test_every_key_says_what_it_means(schema):
    kinds, said = get_type_hints(schema), meanings_of(schema)
    assert [f.name for f in fields(schema) if f.name not in said and not parts_of(kinds[f.name])] == []
    assert (schema.__doc__ or "").strip(), "a part is explained by its docstring"


def test_a_sentence_ends_at_a_stop_before_a_capital():
    assert first_sentence("As in Hsu et al. 2021, e.g. so. Then more.") == "As in Hsu et al. 2021, e.g. so"


def test_text_that_looks_like_something_else_stays_text(tmp_path):
    for text in ("null", "yes", "1e5", "${x}", "a: b", "#", "", " x "):
        (tmp_path / "x.yaml").write_text(recipe_text(Plain(text), frozenset({"text"})))
        assert load_recipe(Plain, tmp_path / "x.yaml", [], tmp_path).text == text
        assert yaml.safe_load((tmp_path / "x.yaml").read_text())
