"""The documents of the repository, and what stands in them: links, code blocks, command lines and what they call."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from metaqap_fast.cli import main

ROOT = Path(__file__).parents[2]


def documents() -> list[Path]:
    """Every Markdown file that is part of the repository, those that are not committed yet too."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def named(path: Path) -> str:
    """As tests are called after it."""
    return str(path.relative_to(ROOT))


def hooks() -> ModuleType:
    """What mkdocs is given to make the site."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code: its language, what else stands on its first line, its text and the line it is on."""

    language: str
    about: str
    text: str
    line: int
    before: str  # the line above it

    @property
    def title(self) -> str:
        """Of a block with `title="..."`."""
        found = re.search(r'title="([^"]*)"', self.about)
        return found[1] if found else ""


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a document."""
    lines = path.read_text().split("\n")
    start = None
    for number, line in enumerate(lines):
        mark = line.strip()
        if mark.startswith("```") and start is None:
            start = number
        elif mark == "```" and start is not None:
            language, _, about = lines[start].strip().removeprefix("```").partition(" ")
            before = lines[start - 1] if start else ""
            yield Block(language, about, "\n".join(lines[start + 1 : number]) + "\n", start + 1, before)
            start = None
    assert start is None, f"{path}: a block without an end"


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def inline(path: Path) -> Iterator[str]:
    """Code in the text of a document, each on one line."""
    for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", prose(path)):
        yield " ".join(match[1].split())


def anchors(path: Path) -> set[str]:
    """What a link to a place in a document may name, by the rules of code hosts."""
    found = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def command_lines(text: str) -> Iterator[list[str]]:
    """The arguments of each call of `metaqap-fast` in a text for a shell; what is piped or redirected is left out."""
    for line in text.replace("\\\n", " ").split("\n"):
        if "metaqap-fast " not in line:
            continue
        parts = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        parts.whitespace_split = True
        words: list[str] = []
        for part in [*parts, ";"]:
            if not set(part) <= set("|&;<>"):
                words.append(part)
                continue
            names = [word.rsplit("/", 1)[-1] for word in words]
            if "metaqap-fast" in names and "pip" not in names:
                yield words[names.index("metaqap-fast") + 1 :]
            words = []


def called(words: list[str]) -> tuple[click.Command, click.Context, dict[str, Any]]:
    """The command that a line calls, and what it is given: text for each option and argument.

    Raises:
        click.UsageError: there is no such command or option.
    """
    command: click.Command = main
    context = click.Context(command, info_name="metaqap-fast")
    while isinstance(command, click.Group) and words and not words[0].startswith("-") and not words[0].isupper():
        below = command.get_command(context, words[0])
        if below is None:
            raise click.UsageError(f"no command {words[0]}")
        command, words = below, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    given, _, _ = command.make_parser(context).parse_args(words)
    return command, context, given
