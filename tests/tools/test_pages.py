"""Every command that a page prints is one that there is: with its options, its recipe and the keys that it names; and
its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from tools.main import build_command
from tools.recipes import SCHEMAS, command_of, schema_of
from upstream.errors import UsageError
from upstream.recipe import load_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/results/README.md",
         *sorted((ROOT / "docs").glob("*.md"))]
LINE = re.compile(r"^(?:    |  )?(?:.*\| )?hubertkit (?=[a-z])", re.MULTILINE)  # of a block, maybe behind a pipe
OPTION = re.compile(r"(?<![\w-])--[a-z0-9][\w-]*")


def blocks(page):
    """The text of the page's blocks of code, fenced or indented, lines that were broken joined again."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    \S.*(?:\n      .*)*", page, re.MULTILINE)
    return "\n".join([*fenced, *indented]).replace("\\\n", " ")


def printed(page):
    """The words of every command of the page's blocks."""
    for line in blocks(page).split("\n"):
        if found := LINE.match(line):
            yield shlex.split(line[found.end():], comments=True)


def within(page):
    """Commands that stand in sentences, which may leave out what they do not speak of."""
    return [found.split() for found in re.findall(r"`hubertkit ([a-z][^`]*)`", page)]


def resolved(words):
    """The command that words begin with, and the words that are left; None for a group alone, or with a FORMAT."""
    command = build_command()
    for number, word in enumerate(words):
        if not getattr(command, "commands", None):
            return command, words[number:]
        if not word[0].islower():
            return None, []
        assert word in command.commands, f"hubertkit {' '.join(words)}: no such command"
        command = command.commands[word]
    return (None if getattr(command, "commands", None) else command), []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name if path.parent.name != "results" else "results")
def test_commands_of_a_page_are_taken(path):
    page = path.read_text(encoding="utf-8")
    for words in printed(page):
        command, left = resolved(words)
        assert command is not None, words
        command.make_context(" ".join(words), list(left))  # raises for an option that there is not, or lacks
        recipe_of(words)
    for words in within(page):
        command, left = resolved(words)
        known = [] if command is None else [o for p in command.params for o in (*p.opts, *p.secondary_opts)]
        assert set(OPTION.findall(" ".join(left))) <= set(known), words


def recipe_of(words):
    """Load the recipe that ships and that a command names, with its `key=value` words."""
    name = next((c for c in SCHEMAS if words[:len(c.split())] == c.split()), None)
    given = [] if name is None or name == "decode" else words[len(name.split()):]
    if not given or given[0].startswith("-") or "=" in given[0]:
        return
    try:
        if command_of(given[0]) != name:
            return
    except UsageError:  # a file of the reader's
        return
    schema, shipped = schema_of(name)
    load_recipe(schema, given[0], [word for word in given[1:] if re.match(r"[a-z][\w.]*=", word)], shipped)


def anchors(page):
    """Of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name if path.parent.name != "results" else "results")
def test_links_of_a_page_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text(encoding="utf-8")):
        place, _, anchor = target.partition("#")
        there = path.parent / place if place else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), target
