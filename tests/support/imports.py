"""Who imports whom in the package: `python tests/support/imports.py` prints its rooms and arrows.

A room is a module or a folder directly under `metaqap_fast`; an arrow stands between two rooms of which one imports the
other, at the top of a file, inside a function or for the type checker alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "metaqap_fast"


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package under `root`, by its dotted name without the package's own."""
    found = {}
    for path in walk(root / PACKAGE):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def walk(folder: Path) -> Iterator[Path]:
    """Python files of a folder and of those that are linked into it."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            yield from walk(path)
        elif path.suffix == ".py":
            yield path


def imports(path: Path, known: set[str]) -> set[str]:
    """The package's modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != PACKAGE:
                continue
            inside = name.partition(".")[2]
            while inside and inside not in known:  # a name in a module
                inside = inside.rpartition(".")[0]
            found.add(inside)
    return found


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> modules that it imports; "" is the package itself."""
    paths = modules(root)
    return {name: imports(path, set(paths)) - {name} for name, path in paths.items()}


def room(module: str) -> str:
    """The room that a module stands in."""
    return module.split(".")[0]


def main() -> None:
    """Print rooms and arrows of the tree in the current folder."""
    found = graph(Path.cwd())
    apart = {"", "bench", "train", "kernels"}
    arrows = {(room(a), room(b)) for a, others in found.items() for b in others if room(a) != room(b)}
    arrows = {(a, b) for a, b in arrows if not {a, b} & apart}
    rooms = {room(name) for name in found} - apart
    print(f"{len(rooms)} rooms, {len(arrows)} arrows")
    for name in sorted(rooms):
        print(f"  {name} -> {', '.join(sorted(b for a, b in arrows if a == name))}")


if __name__ == "__main__":
    main()
