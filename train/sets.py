"""Many labelled sets in one table, each with its family, licence and recipe, and the part that it plays.

[[set]]
name = "stills"
family = "compression"
part = "validation"
data = "csv"
root = "stills/mos.csv"      # relative to the table
low = 1
high = 5
opinions = "scale"           # what MOS is, one of OPINIONS; this if it is left out
licence = "CC BY 4.0"
recipe = "one frame of each of 18 films, HEVC intra at four qualities, shown full-screen"

A csv may have two more columns: `content`, what an image shows, and `group`, a part of the set that is also measured
alone.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaqap_fast.errors import UsageError
from metaqap_fast.train.datasets import DataSet, load
from metaqap_fast.train.layouts import column
from metaqap_fast.train.twins import near_duplicates

FAMILIES = (
    "authentic photographs",
    "large photographs",
    "compression",
    "scaling",
    "synthetic distortions",
    "generated pictures",
    "documents and screens",
    "other",
)
PARTS = ("train", "validation", "untouched")
# Quality on a scale; the share of pairs that an image won; how beautiful it is; what a program made of it.
OPINIONS = ("scale", "pairs", "looks", "machine")
_TEXTS = ("name", "family", "part", "data", "root", "licence", "recipe")


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A labelled set and what a model card says of it.

    `part` is one of PARTS, `family` one of FAMILIES, `opinions` one of OPINIONS. `group` is a part of the set for
    each row, None where it has none.
    """

    name: str
    family: str
    part: str
    licence: str
    recipe: str
    data: DataSet
    opinions: str = "scale"
    group: list[str] | None = None


def read_sets(table: Path) -> list[NamedSet]:
    """The sets of a table, every one checked as `datasets.load` does.

    Raises:
        UsageError: an entry that is missing or unknown, a set without a licence or without the direction and ends of
            its scale, two sets of one name, or labels with a fault.
    """
    try:
        document = tomllib.loads(table.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{table}: {error}") from None
    entries = document.get("set")
    if not isinstance(entries, list) or not entries or set(document) != {"set"}:
        raise UsageError(f"{table}: holds [[set]] entries and nothing else")
    found = [_set(table, number, entry) for number, entry in enumerate(entries, 1)]
    names = [one.name for one in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{table}: two sets are called {twice.pop()!r}")
    return found


def _set(table: Path, number: int, entry: dict[str, Any]) -> NamedSet:
    where = f"{table}, set {number} ({entry.get('name', 'without a name')})"
    if unknown := set(entry) - {*_TEXTS, "low", "high", "opinions"}:
        raise UsageError(f"{where}: there is no entry {unknown.pop()!r}")
    for name in _TEXTS:
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise UsageError(f"{where}: {name} is missing" + _WHY.get(name, ""))
    opinions = entry.get("opinions", OPINIONS[0])
    for name, value, choices in (
        ("family", entry["family"], FAMILIES),
        ("part", entry["part"], PARTS),
        ("opinions", opinions, OPINIONS),
    ):
        if value not in choices:
            raise UsageError(f"{where}: {name} is {value!r}, not one of {', '.join(choices)}")
    ends = [entry.get(name) for name in ("low", "high")]
    if any(end is not None and not isinstance(end, (int, float)) for end in ends):
        raise UsageError(f"{where}: low and high are numbers: what the worst and the best image can be given")
    root = table.parent / entry["root"]
    try:
        data = load(entry["data"], root, *ends)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    group = column(root, "group") if entry["data"] == "csv" else None
    texts = {name: entry[name] for name in ("name", "family", "part", "licence", "recipe")}
    return NamedSet(**texts, data=data, opinions=opinions, group=group)


_WHY = {
    "licence": ": a set whose terms are not known is not used; write what its authors say, or that they say nothing",
    "recipe": ": how its images were made and rated, in a sentence",
}


def shared_content(sets: list[NamedSet]) -> list[str]:
    """Lines that name near-duplicate images in different parts: what a model learned must not judge it.

    Images are compared as `twins.near_duplicates` does, across all sets.
    """
    files = [(one, place) for one in sets for place in range(len(one.data.files))]
    pairs = near_duplicates([one.data.files[place] for one, place in files])
    found = []
    for a, b in pairs:
        (first, i), (second, j) = files[a], files[b]
        if first.part != second.part:
            found.append(
                f"{first.name} {first.data.keys[i]} ({first.part}) and {second.name} {second.data.keys[j]} "
                f"({second.part}) show the same"
            )
    return found
