"""examples/tour.sh prints what docs/tour.md shows. `python tests/system/test_tour.py` writes it there anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tour.md"
BLOCK = re.compile(r"(?<=<!-- tour -->\n```\n).*?(?=```\n<!-- end -->)", re.S)

# What another machine or day prints otherwise, and what stands for it here.
VARIES = (
    (r"^engine .*", "engine ..."),
    (r"^model .*", "model ..."),
    (r"\d+\.\d s, \d+\.\d images/s", "... s, ... images/s"),
    (r"undo-[\d-]+\.sh", "undo-DATE-TIME.sh"),
    (r"^  (created|decoder|device|engine|engine_version|program_version): .*", r"  \1: ..."),
    (r"(?<=\d\.\d{3})\d+", ""),  # digits in which paths of the kernel differ
)


def toured(folder: Path) -> str:
    """What the tour prints, in a folder that is called FOLDER in it."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C.UTF-8",
    }
    command = [ROOT / "examples" / "tour.sh", folder]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    text = re.sub(r"^[\d,]+ of [\d,]+ images, .*\n", "", run.stdout, flags=re.M)  # progress, on a slow machine
    return text.replace(str(folder), "FOLDER").strip()


def settled(text: str) -> list[str]:
    """Lines without what varies."""
    for pattern, instead in VARIES:
        text = re.sub(pattern, instead, text, flags=re.M)
    return text.splitlines()


@pytest.mark.full
def test_the_page_shows_what_the_tour_prints(tmp_path: Path) -> None:
    shown = BLOCK.search(PAGE.read_text())
    assert shown is not None
    found = toured(tmp_path / "tour")
    assert settled(found) == settled(shown[0]), "run `python tests/system/test_tour.py`, and look at what it changes"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        printed = toured(Path(made) / "tour")
    PAGE.write_text(BLOCK.sub(lambda _: printed + "\n", PAGE.read_text()))
