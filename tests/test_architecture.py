"""The house is as docs/architecture.md draws it: every module is there, and imports point one way only."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("upstream", "downstream", "benchmarks", "tools")  # a later one may import the earlier ones
FLAT = ("benchmarks", "tools")  # whose modules are listed on one line, in no order
MODULE = re.compile(r"\b(\w+)\.py\b")
FOLDER = re.compile(r"\b(\w+)/ \(")


def closing(text, start):
    """Where the bracket ends that opened before `start`."""
    depth = 1
    while depth:
        depth += {"(": 1, ")": -1}.get(text[start], 0)
        start += 1
    return start


def listed(package):
    """The modules and folders at the top of a package, in the order of the page."""
    page = (ROOT / "docs/architecture.md").read_text()
    first, *lines = page.partition(f"\n    {package}/ ")[2].partition("\n\n")[0].split("\n")
    if package in FLAT:
        whole, folders = first, []
        while found := FOLDER.search(whole):  # a folder and its modules, in brackets that may hold others
            end = closing(whole, found.end())
            folders, whole = [*folders, found[1]], whole[:found.start()] + whole[end:]
        return MODULE.findall(whole) + folders
    found = []
    for line in lines:
        if re.match(r"    \w", line):  # the next package
            break
        if re.match(r"      (?!recipes)\w+/", line):
            found.append(line.split("/")[0].strip())
        elif re.match(r"      \w", line):
            found += MODULE.findall(re.split(r" {3,}", line.strip())[0])
    return found


def rooms(package):
    """What is there."""
    folder = ROOT / package
    files = {p.stem for p in folder.glob("*.py")} - {"__init__"}
    return files | {p.parent.name for p in folder.glob("*/__init__.py")}


def imports(path):
    """Modules of ours that a file imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if "." in node.module else [f"{node.module}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        yield from (name.split(".") for name in names if name.split(".")[0] in PACKAGES)


def complaints(path):
    """(line, text) of every error that a file raises, without what is put into it, and what stands in brackets or is
    a command."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            said = [part.value for part in ast.walk(node.exc)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            yield node.lineno, re.sub(r"\([^()]*\)|`[^`]*`|\([^()]*$", "", " ".join(said))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_is_on_the_page_and_no_other(package):
    found = listed(package)
    assert len(found) == len(set(found))
    assert set(found) == rooms(package)


def test_modules_of_the_report_are_on_the_page_and_import_earlier_ones():
    page = (ROOT / "docs/architecture.md").read_text()
    start = page.index("report/ (reading.py") + len("report/ (")
    found = MODULE.findall(page[start:closing(page, start)])
    modules = {p.stem: p for p in (ROOT / "benchmarks/report").glob("*.py") if p.stem != "__init__"}
    assert sorted(found) == sorted(modules)
    wrong = [f"{name} imports {rest[-1]}, which comes later" for name, path in modules.items()
             for first, *rest in imports(path) if (first, rest[0]) == ("benchmarks", "report") and rest[-1] in found
             and found.index(rest[-1]) > found.index(name)]
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_to_earlier_rooms(package):
    order, wrong = listed(package), []
    for path in (ROOT / package).rglob("*.py"):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        for other, *rest in imports(path):
            if PACKAGES.index(other) > PACKAGES.index(package):
                wrong.append(f"{path.name} imports {other}")
            elif other == package and package not in FLAT and {room, rest[0]} <= set(order) and (
                    order.index(rest[0]) > order.index(room)):
                wrong.append(f"{room} ({path.name}) imports {rest[0]}, which comes later")
    assert not wrong


@pytest.mark.parametrize("package", ["upstream", "downstream", "benchmarks"])
def test_errors_name_arguments_and_options_in_brackets_only(package):
    """Python programs were told of `--lm`, `--order` and `--encoder`, which they do not have. `--from` and `--until` of
    `upstream/course.py` are the command line's alone."""
    wrong = [f"{path.relative_to(ROOT)}:{line}: {text}" for path in sorted((ROOT / package).rglob("*.py"))
             for line, text in complaints(path) if re.search(r"(?<![\w-])--[a-z]", text) and path.name != "course.py"]
    assert not wrong
