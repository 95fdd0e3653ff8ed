"""Whether a tag can be released, and what to say of it: `python .ci/release.py v0.2.0` prints its part of CHANGELOG.md.

The package, CITATION.cff and CHANGELOG.md must name its version, and nothing may be left under Unreleased.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def notes(root: Path, tag: str) -> str:
    """The part of CHANGELOG.md about a tag.

    Raises:
        ValueError: a file that names another version, or says nothing of this one.
    """
    version = tag.removeprefix("v")
    if tag == version:
        raise ValueError(f"{tag}: the tag of a release is a v and a version, such as v0.2.0")
    named = {
        "metaqap_fast/__init__.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$",
    }
    for name, pattern in named.items():
        found = re.search(pattern, (root / name).read_text(), re.M)
        if found is None or found[1] != version:
            raise ValueError(f"{name}: the version is {found[1] if found else 'missing'}, that of the tag is {version}")
    before, _, rest = (root / "CHANGELOG.md").read_text().partition(f"## [{version}] - ")
    if re.search(r"^- ", before, re.M):
        raise ValueError(f"CHANGELOG.md: there are entries under Unreleased, which belong to {version}")
    return rest.partition("\n")[2].partition("\n## ")[0].strip()


if __name__ == "__main__":
    try:
        print(notes(Path(__file__).resolve().parents[1], *sys.argv[1:]))
    except ValueError as error:
        sys.exit(str(error))
