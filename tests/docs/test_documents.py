"""The documents: what they name is there."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import metaqap_fast
from documents import ROOT, anchors, blocks, called, command_lines, documents, hooks, inline, named, prose
from metaqap_fast.cli import main
from metaqap_fast.errors import Status
from metaqap_fast.input.kinds import KINDS
from metaqap_fast.scores.schema import COLUMNS
from metaqap_fast.summary import Summary

DOCUMENTS = documents()
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=named)
FOLDERS = ("bench", "docs", "examples", "kernels", "metaqap_fast", "tests", "train", ".ci")
# Options of other programs that the documents name.
OTHERS = {"--fps", "--array", "--block", "--export", "--force-reinstall", "--no-deps", "--rcfile", "--fix"}


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    found = hooks().links(path.read_text())
    for to, anchor in found:
        target = path.parent / to if to else path
        assert target.exists(), f"{to}: no such file"
        if anchor and target.suffix == ".md" and not anchor.startswith("#metaqap_fast"):
            assert anchor[1:] in anchors(target), f"{to}{anchor}: no such heading"


def test_links_are_found() -> None:
    text = "[a](b.md#c) ![d](e.jpg) [f](https://g.org) [h](#i)\n```\n[j](k)\n```\n"
    assert hooks().links(text) == [("b.md", "#c"), ("e.jpg", ""), ("", "#i")]


@each_document
def test_files_that_are_named_exist(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        return  # what is gone, is gone
    for text in inline(path):
        for word in text.split():
            name = word.split("::")[0].strip("()[],;:'\"")
            if re.fullmatch(rf"({'|'.join(map(re.escape, FOLDERS))})/[\w./-]+", name) and not re.search(
                r"\.\.\.|[A-Z]{4,}\.", name
            ):
                assert (ROOT / name).exists() or (path.parent / name).exists(), f"{name}: no such file"


def modules(text: str) -> Iterator[str]:
    yield from re.findall(r"python3? -m (metaqap_fast[\w.]*)", text)


@each_document
def test_modules_that_are_run_exist(path: Path) -> None:
    for module in modules(path.read_text()):
        place = ROOT.joinpath(*module.split("."))
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


def check(words: list[str]) -> None:
    """Whether options and arguments are those of a command, and values of options can be read."""
    command, context, given = called(words)
    if isinstance(command, click.Group) or "help" in given:
        return
    for parameter in command.params:
        value = given.get(parameter.name)
        values = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
        assert values or not parameter.required, f"{parameter.name} is missing"
        for one in values:
            if isinstance(one, str) and not isinstance(parameter.type, click.Path):
                parameter.type.convert(one, parameter, context)


@each_document
def test_command_lines_are_understood(path: Path) -> None:
    shell = [block.text for block in blocks(path) if block.language in ("", "sh", "bash", "yaml")]
    indented = re.findall(r"^    (?:[^\n]*\\\n *)*[^\n]*", prose(path), re.MULTILINE)
    for words in command_lines("\n".join([*shell, *indented])):
        if "..." not in words:
            check(words)


@each_document
def test_options_in_the_text_exist(path: Path) -> None:
    known, pending = set(), [main]
    while pending:
        command = pending.pop()
        known |= {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
        if isinstance(command, click.Group):
            pending += command.commands.values()
    for text in inline(path):
        if text.startswith("--"):
            assert text.split()[0].split("=")[0] in known | OTHERS | {"--help", "--version"}, text
        elif text.startswith("metaqap-fast "):
            for words in command_lines(text):
                called(words)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "jobs").iterdir()), ids=named)
def test_command_lines_of_the_examples_are_understood(path: Path) -> None:
    for words in command_lines(path.read_text()):
        called([word for word in words if not word.startswith("$(")])


@pytest.mark.parametrize(
    "line", ["score x --nosuch", "nosuch x", "score x --precision fp7", "score x --limit many", "select"]
)
def test_a_wrong_command_line_is_found(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        check(line.split())


# What variables of the documents' code are.
TYPES = {"scorer": metaqap_fast.Scorer, "table": metaqap_fast.ScoreTable, "row": metaqap_fast.Row}
FIELDS = {column.field for column in COLUMNS}


def check_names(tree: ast.AST) -> None:
    """Whether what is imported from this package, and asked of its objects, exists."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metaqap_fast"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name, wanted = node.value.id, node.attr
            if name == "metaqap_fast":
                assert wanted in metaqap_fast.__all__ or wanted == "ray", wanted
            elif name in TYPES:
                assert hasattr(TYPES[name], wanted) or (name == "table" and wanted in FIELDS), f"{name}.{wanted}"


@each_document
def test_python_code_is_python_of_this_package(path: Path) -> None:
    if path.name == "extending.md":
        return  # it is executed: tests/docs/test_pages_run.py
    for block in blocks(path):
        if block.language == "python":
            check_names(ast.parse(block.text, f"{named(path)}:{block.line}"))


def test_code_with_wrong_names_is_found() -> None:
    for code in ("from metaqap_fast import Nothing", "table.nothing", "metaqap_fast.nothing()"):
        with pytest.raises(AssertionError):
            check_names(ast.parse(code))


def first_cells(text: str, heading: str) -> list[str]:
    """The first column of the table behind a line."""
    rows = text[text.index(heading) :].split("\n")[2:]
    cells: list[str] = []
    for row in rows:
        if not row.startswith("|"):
            break
        cells += [cell.strip() for cell in row.split("|")[1].split(",")]
    return cells


def test_columns_and_statuses_are_those_of_the_program() -> None:
    scores = (ROOT / "docs" / "scores.md").read_text()
    told = {word for text in inline(ROOT / "docs" / "scores.md") for word in [text.strip(",")]}
    columns = first_cells(scores, "| column | type | meaning |")
    assert set(columns) <= {column.name for column in COLUMNS} | {"path_raw"}
    missing = {column.name for column in COLUMNS} - set(columns) - told
    assert not missing
    statuses = first_cells(scores, "| status | meaning |")
    assert statuses == [*sorted((s.name for s in Status), key=statuses.index)] and len(statuses) == len(Status)


def by_module() -> dict[str, set[str]]:
    """The tests of each module, or of several of one name."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        found.setdefault(file.stem, set()).update(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))
    return found


def test_tests_that_are_named_exist() -> None:
    """docs/reliability.md: each promise names the test that tries to break it."""
    functions = by_module()
    every = set().union(*functions.values())
    for text in inline(ROOT / "docs" / "reliability.md"):
        module, _, test = text.partition("::")
        if not re.fullmatch(r"(\.\.\._?)?(test_)?\w+(\.\.\.)?_?(\[\w+\])?", test or module) or not text.startswith(
            "test_"
        ):
            continue
        if not test and module in functions:
            continue
        names = functions.get(module, set()) if test else every
        pattern = re.escape((test or module).split("[")[0]).replace(r"\.\.\.", ".*")
        assert any(re.fullmatch(pattern, name) for name in names), text


def test_every_finding_about_gpus_has_a_test() -> None:
    """docs/gpu-checks.md: a test stands in the module that was named before it."""
    functions, found = by_module(), set[str]()
    for line in (ROOT / "docs" / "gpu-checks.md").read_text().split("\n"):
        if not line.startswith("| ") or line.startswith("| promise"):
            continue
        promise, _, findings, named = line.strip("| ").split(" | ")
        module, names = "", re.findall(r"`(?:(test_\w+)::)?(test_\w+)`", named)
        assert names and len(names) == named.count("`") / 2, promise
        for own, name in names:
            module = own or module
            assert name in functions[module], f"{promise}: {module} has no {name}"
        found |= set(findings.replace(",", " ").split())
    assert found == {f"{kind}{n + 1}" for kind, count in (("A", 17), ("B", 10), ("C", 9)) for n in range(count)}


def test_messages_of_the_troubleshooting_page_are_the_program_s() -> None:
    sources = [path.read_text() for path in (ROOT / "metaqap_fast").rglob("*.py")]
    page = ROOT / "docs" / "troubleshooting.md"
    messages = re.findall(r"^\| `([^`]+)` \|", page.read_text(), re.MULTILINE)
    assert len(messages) > 40
    for message in messages:
        for piece in re.split(r"…", message):
            piece = piece.strip(" :()'")
            assert not piece or any(piece in source for source in sources), f"{message}: {piece!r} is no message"


def test_the_summary_s_fields_are_those_of_the_program() -> None:
    """docs/jobs.md; what a run adds to them is in cli/progress.py."""
    told = first_cells((ROOT / "docs" / "jobs.md").read_text(), "| field | meaning |")
    assert set(told) == {*Summary().as_dict(), "exit_status", "interrupted", "error"}


def test_kinds_of_archives_and_tables_are_those_of_the_program() -> None:
    told = " ".join(inline(ROOT / "docs" / "sources.md"))
    for kind in KINDS:
        for extension in kind.extensions:
            assert extension.decode().lstrip(".") in told, extension


def test_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = first_cells((ROOT / "docs" / "quickstart.md").read_text(), "| extra | for |")
    assert {name.strip("`") for name in told} == set(extras) - {"bridges", "dev", "docs"}  # for working on it
