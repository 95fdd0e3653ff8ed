"""What scripts, workflows and forms name of this repository, and which of that is not there."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import click

from documents import ROOT, called

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

FOLDERS = r"\.ci|\.github|bench|docs|examples|kernels|metaqap_fast|tests|train"
FILE = re.compile(rf"(?<![\w./-])(?:\./|\{{project\}}/)?((?:{FOLDERS})/[\w./-]++)(?!\*)")
SCRIPT = re.compile(r"(python[\w.]*|\$python|bash|sh)? *\"?(?:\./|\{project\}/)?(\.ci/[\w.-]+)")
EXTRAS = re.compile(r"(?:['\"]\.|metaqap-fast|EXTRAS=)\[([a-z,]+)\]")
MARKS = re.compile(r"pytest[^\n]* -m (?:'([^']+)'|\"([^\"]+)\"|(\w+))")
MODULE = re.compile(r"python\S* -m (metaqap_fast[\w.]*)")
COMMAND = re.compile(r"(?<![\w/-])metaqap-fast ((?:[a-z][\w-]*|-[\w-]+)[^\n#`;|&]*)")


def faults(text: str) -> Iterator[str]:
    """Files, scripts, extras, marks, modules, commands and options that a text names and that do not exist."""
    for path in FILE.findall(text):
        if not (ROOT / path.rstrip(".")).exists():
            yield f"no file {path}"
    for by, path in SCRIPT.findall(text):
        if (ROOT / path).exists() and not by and not os.access(ROOT / path, os.X_OK):
            yield f"{path} cannot be run"
    for names in EXTRAS.findall(text):
        yield from (f"no extra {name}" for name in names.split(",") if name not in extras())
    for found in MARKS.findall(text):
        marks = set(re.findall(r"\w+", "".join(found))) - {"and", "or", "not"}
        yield from (f"no mark {mark}" for mark in sorted(marks - known_marks()))
    for module in MODULE.findall(text):
        place = ROOT.joinpath(*module.split("."))  # not imported: some take seconds
        if not (place.with_suffix(".py").exists() or (place / "__main__.py").exists()):
            yield f"no module {module}"
    for words in COMMAND.findall(text):
        try:
            called(words.split())
        except click.UsageError as error:
            yield error.message


def extras() -> set[str]:
    return set(PROJECT["project"]["optional-dependencies"])


def known_marks() -> set[str]:
    return {mark.split(":")[0] for mark in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}


def pythons() -> list[str]:
    """Those that the package is for, such as 3.11."""
    prefix = "Programming Language :: Python :: 3."
    return [each.rpartition(" ")[2] for each in PROJECT["project"]["classifiers"] if each.startswith(prefix)]
