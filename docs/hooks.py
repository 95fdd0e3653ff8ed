"""What MkDocs needs to make a site of this repository's documents; mkdocs.yml names this file.

The documents read well as files of a repository, and stay so. For the site, documents outside of docs/ become pages,
links to other files of the repository lead to copies of them, the commands' reference is made from click, and the
notebook becomes a page.
"""

from __future__ import annotations

import base64
import html
import inspect
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_CARDS = ROOT.glob("metaqap_fast/model/*/README.md")
CARDS = {f"models/{card.parent.name}.md": str(card.relative_to(ROOT)) for card in _CARDS}
# Pages that are not in docs/: their path in the site, and in the repository.
PAGES = {
    "architecture.md": "ARCHITECTURE.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "heads.md": "bench/results/heads/README.md",
    "kernel.md": "kernels/cpu/README.md",
    "security.md": "SECURITY.md",
    **CARDS,
}
NOTEBOOK = "notebook"  # its file and its page, without the endings
COMMANDS = "<!-- commands -->"  # where docs/commands.md gets the reference
FENCE = re.compile(r"^ *(```|~~~)")
LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")  # [text](path#anchor), an image too
FILES = "files"  # folder of the site for files of the repository that are no pages


def with_links(text: str, change: Callable[[str, str], str]) -> str:
    """Markdown with each link replaced by `change(path, anchor)`; code blocks stay as they are."""
    lines, inside = [], False
    for line in text.split("\n"):
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            line = LINK.sub(lambda match: change(match[1], match[2] or ""), line)
        lines.append(line)
    return "\n".join(lines)


def links(text: str) -> list[tuple[str, str]]:
    """The links of a document that do not leave the repository: (path, anchor), each empty or not."""
    found: list[tuple[str, str]] = []

    def note(path: str, anchor: str) -> str:
        if not re.match(r"[a-z]+:", path):
            found.append((path, anchor))
        return path + anchor

    with_links(text, note)
    return found


def source_of(page: str) -> str:
    """Where a page of the site stands in the repository."""
    return PAGES.get(page, f"docs/{page}")


def target_of(source: str, path: str) -> str:
    """Where a link in a document leads, as a path in the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path)) if path else source


def place_of(path: str, page: str = "") -> str:
    """Where a file of the repository is in the site, for a link on a page."""
    if path == f"docs/{NOTEBOOK}.ipynb" and page != f"{NOTEBOOK}.md":
        return f"{NOTEBOOK}.md"
    pages = {source: page for page, source in PAGES.items()}
    return pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"{FILES}/{path}")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the model cards into the navigation, and pages of docs/ that it does not name."""
    nav = {title: entries for section in config.nav or [] for title, entries in section.items()}
    nav["Models"][-1] = {"Model cards": sorted(CARDS)}
    named = {page for entries in nav.values() for entry in entries for page in entry.values() if isinstance(page, str)}
    nav["Use"] += sorted({path.name for path in (ROOT / "docs").glob("*.md")} - named)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of docs/, the notebook, and every file that a document links to."""
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File

    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    text, pictures = notebook(json.loads((ROOT / "docs" / f"{NOTEBOOK}.ipynb").read_text()))
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=text))
    for name, data in pictures.items():
        files.append(File.generated(config, name, content=data))
    linked = {
        target_of(source_of(page.src_uri), path)
        for page in files.documentation_pages()
        for path, _ in links(page.content_string)
    }
    for path in sorted(linked):
        place = place_of(path)
        if files.get_file_from_path(place) is None:
            if place.endswith(".md") or not (ROOT / path).is_file():
                raise PluginError(f"a document links to {path}: add it to PAGES in docs/hooks.py, or mend the link")
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the site has them, and the commands' reference."""
    place = page.file.src_uri

    def change(path: str, anchor: str) -> str:
        if not path or re.match(r"[a-z]+:", path):
            return path + anchor
        to = place_of(target_of(source_of(place), path), place)
        return posixpath.relpath(to, posixpath.dirname(place) or ".") + anchor

    text = with_links(markdown, change)
    if COMMANDS in text:
        from metaqap_fast.cli import main

        text = text.replace(COMMANDS, "\n".join(reference(main, "metaqap-fast")))
    return text


def reference(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[str]:
    """A command and those below it: usage, help, every option."""
    import click

    context = click.Context(command, info_name=name, parent=parent)
    if parent is not None:
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        yield f"\n{'##' if parent.parent is None else '###'} {context.command_path.removeprefix('metaqap-fast ')}\n"
        yield f"```\n{usage}\n```\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):  # click's mark of lines that stay as they are
            yield f"```\n{paragraph.lstrip(chr(8)).strip()}\n```\n"
        else:
            yield f"{as_text(paragraph)}\n"
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record and "--help" not in option.opts and parent is not None:
            yield f"- `{record[0]}`: {as_text(record[1])}"
    if isinstance(command, click.Group):
        for each, below in command.commands.items():  # in the order in which they are used
            yield from reference(below, each, context)


def as_text(words: str) -> str:
    """Plain text as Markdown, but for code between backquotes."""
    parts = words.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*_\[\]])", r"\\\1", html.escape(parts[i], quote=False))
    return "`".join(parts)


def notebook(document: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by the name of their file."""
    parts, pictures = [], {}
    for cell in document["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/jpeg" in data:
                name = f"{NOTEBOOK}-{len(pictures) + 1}.jpg"
                pictures[name] = base64.b64decode("".join(data["image/jpeg"]))
                parts.append(f"![]({name})")
            elif shown := "".join(output.get("text") or data.get("text/plain", "")).rstrip():
                parts.append(f"```text\n{shown}\n```")
    parts.append(f"This page is [a notebook]({NOTEBOOK}.ipynb), run by the tests.")
    return "\n\n".join(parts) + "\n", pictures
