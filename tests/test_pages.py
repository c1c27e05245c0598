"""The pages of documentation: their commands, options, recipe keys and links are there."""

import re
import shlex
from pathlib import Path
from urllib.parse import quote

import pytest

from benchmarks.low_resource_recipe import SHIPPED as COMPARISONS
from benchmarks.low_resource_recipe import LowResourceRecipe
from downstream.decode.recipe import SHIPPED as DECODINGS
from downstream.decode.recipe import DecodingRecipe
from downstream.decode.word_model import LEAST_COVERAGE
from downstream.finetune_recipe import SHIPPED as FINETUNINGS
from downstream.finetune_recipe import FinetuneRecipe
from downstream.heads.recipe import HeadRecipe
from downstream.selftrain_recipe import LOOP, FilterRecipe, SelftrainRecipe, TuningRecipe
from downstream.selftrain_recipe import SHIPPED as SELFTRAININGS
from downstream.text.symbols import RARE
from tools.main import build_command
from upstream.audio.corpora.probing import TOLERANCE_SECONDS
from upstream.audio.file_names import LONGEST_BYTES
from upstream.audio.segmenting import BELOW_LOUD_DB, RANGE_SHARE, Pieces
from upstream.pretrain_recipe import SHIPPED as PRETRAININGS
from upstream.pretrain_recipe import PretrainRecipe
from upstream.recipe import as_settings, load_recipe
from upstream.teacher.alignments import SILENCES
from upstream.teacher.gate import GateRules

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
         ROOT / "benchmarks/results/README.md"]
RECIPES = {"pretrain": (PretrainRecipe, PRETRAININGS, "hubert-tiny"),
           "finetune": (FinetuneRecipe, FINETUNINGS, "ctc-tiny"),
           "selftrain": (SelftrainRecipe, SELFTRAININGS, "selftrain-light"),
           "bench low-resource": (LowResourceRecipe, COMPARISONS, "librispeech-mini-light"),
           "decode": (DecodingRecipe, DECODINGS, "librispeech-4gram")}
FREE = ("changes", "student")  # mappings that name values of other parts
NO_KEYS = {"key=value", "strict=False"}  # a form, and an argument of torch's
OF_OTHERS = {"--signal", "--percent"}  # of sbatch and ncu
IN_BACKTICKS = re.compile(r"`([^`\n]+)`")
ON_A_LINE = re.compile(r"^\s*(?:\w+ .*\| )?(hubertkit .*)$", re.MULTILINE)
IN_A_BLOCK = re.compile(r"^(?:    |  )?(?:.*\| )?hubertkit (?=[a-z])")  # maybe behind a pipe
OPTION = re.compile(r"(?<![\w-])--[a-z0-9][\w-]*")
OVERRIDE = re.compile(r"[a-z][\w.]*=(?!=)\S+")


HEAD, PIECES, TUNING, FILTER = HeadRecipe(), Pieces(), TuningRecipe(), FilterRecipe()
DEFAULTS = {  # what pages say of values that nobody gives
    "finetuning": (
        f"if not given {HEAD.projection}, {HEAD.width}, {HEAD.depth}, {HEAD.dropout}.",
        f"`tuning.decodes`: {TUNING.decodes} pairs", f"`tuning.seconds`: on about {TUNING.seconds:g} s",
        f"| {LOOP['word']} words ({LOOP['character']} characters), {FILTER.loop_times} times |",
        f"`filter.confidence` is `{FILTER.confidence}` (if not given)", f"has {LEAST_COVERAGE:.0%}".replace("%", " %"),
        f"stand in fewer than {['no', 'one', 'two', 'three'][RARE]} transcripts"),
    "corpora": (
        f"longer than {PIECES.max_seconds:g} s (`--max-seconds`)",
        f"cut to {PIECES.edge_seconds:g} s (`--edge-seconds`)",
        f"pieces under {PIECES.min_seconds:g} s (`--min-seconds`", f"A pause is {BELOW_LOUD_DB:g} dB below",
        f"the lowest {RANGE_SHARE:.0%}".replace("%", " %"), f"up to {1000 * TOLERANCE_SECONDS:g} ms beyond the end",
        f"`gate.most_share` ({GateRules.most_share:g};", f"of more than {LONGEST_BYTES} bytes",
        f"id of {LONGEST_BYTES // len(quote('你')) + 1} Chinese characters", *(f"`{name}`" for name in SILENCES[1:]))}


def commands():
    """{words of a command: its options}."""
    def below(command, path=()):
        for name, inner in getattr(command, "commands", {}).items():
            yield from below(inner, (*path, name))
        if not hasattr(command, "commands"):
            yield " ".join(path), {word for one in command.params for word in (*one.opts, *one.secondary_opts)}

    return dict(below(build_command()))


KNOWN = commands()


def shown(page):
    """(name, rest) of every command line that a page shows with what follows its name."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in [*IN_BACKTICKS.findall(text), *ON_A_LINE.findall(text)]:
        line = line.split("  #")[0].partition("hubertkit ")[2] if "hubertkit " in line else ""
        words = line.split()
        for length in (3, 2, 1):
            name = " ".join(words[:length])
            if name in KNOWN:
                yield name, line.split(None, length)[-1] if len(words) > length else ""
                break


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_that_a_page_names_are_those_of_its_commands(page):
    for name, rest in shown(page):
        assert set(OPTION.findall(rest)) <= KNOWN[name] | {"--help"}, f"hubertkit {name} {rest}"
    alone = {option for words in IN_BACKTICKS.findall(page.read_text(encoding="utf-8"))
             if words.startswith("--") for option in OPTION.findall(words)}
    assert alone <= set().union(*KNOWN.values()) | OF_OTHERS | {"--help", "--version"}


def printed(page):
    """The words of every command of the page's blocks of code, fenced or indented."""
    text = page.read_text(encoding="utf-8")
    blocks = [*re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL),
              *re.findall(r"^    \S.*(?:\n      .*)*", text, re.MULTILINE)]
    for line in "\n".join(blocks).replace("\\\n", " ").split("\n"):
        if found := IN_A_BLOCK.match(line):
            yield shlex.split(line[found.end():], comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_a_page_prints_are_taken_as_they_are(page):
    for words in printed(page):
        command, left = build_command(), list(words)
        while getattr(command, "commands", None):
            assert left, words
            assert left[0] in command.commands, words
            command = command.commands[left.pop(0)]
        command.make_context(" ".join(words), left)  # raises for an option that there is not, or lacks


def keys(values, where=""):
    """Dotted keys at any depth, those of items of lists among them; a mapping that a recipe may fill ends with `.*`."""
    if values == {}:
        yield f"{where}.*"
    several = dict(enumerate(values)) if isinstance(values, list | tuple) else values
    for key, value in several.items() if isinstance(several, dict) else ():
        yield f"{where}.{key}"
        yield from keys(value, f"{where}.{key}")


@pytest.fixture(scope="module")
def known_keys():
    """Of all recipes, each behind a point."""
    found = set()
    for schema, shipped, usual in RECIPES.values():
        found |= set(keys(as_settings(load_recipe(schema, usual, [], shipped))))
    return found | {f".{name}.*" for name in FREE}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipes_of_a_pages_command_lines_can_be_loaded(page):
    for command, rest in shown(page):
        if command in RECIPES and rest:
            schema, shipped, usual = RECIPES[command]
            name, *words = shlex.split(rest)
            named = name if (shipped / f"{name}.yaml").is_file() else usual
            load_recipe(schema, named, list(filter(OVERRIDE.match, words)), shipped)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_that_a_page_gives_values_are_those_of_some_recipe(known_keys, page):
    for word in filter(OVERRIDE.fullmatch, IN_BACKTICKS.findall(page.read_text(encoding="utf-8"))):
        key = "." + word.partition("=")[0].replace("rounds.N.", "rounds.0.")
        parts = [key, *(f"{key[:place]}.*" for place, letter in enumerate(key) if letter == "." and place)]
        assert word in NO_KEYS or any(known.endswith(part) for known in known_keys for part in parts), word


def test_settings_that_tables_of_fine_tuning_name_are_keys(known_keys):
    prefix, text = "", (ROOT / "docs/finetuning.md").read_text(encoding="utf-8")
    for cell in re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE):
        if cell.endswith(".`"):  # the head of a table
            prefix = cell.strip("`")
            continue
        for name in (word.partition("=")[0] for word in IN_BACKTICKS.findall(cell)):
            recipe = any((shipped / f"{name}.yaml").is_file() for _, shipped, _ in RECIPES.values())
            assert recipe or any(known.endswith(f".{prefix}{name}") for known in known_keys), name


@pytest.mark.parametrize("page", DEFAULTS)
def test_defaults_that_a_page_names_are_those_of_the_code(page):
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8").lower()
    assert [said for said in DEFAULTS[page] if said.lower() not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target
