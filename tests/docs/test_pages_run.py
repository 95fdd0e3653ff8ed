"""Pages with code that is executed: quickstart, extending, the notebook."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from documents import ROOT, Block, blocks, hooks
from extended import extend, rows

pytestmark = pytest.mark.full
EXAMPLES = ROOT / "examples"


def run(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def to_run(page: str) -> list[str]:
    return [block.text for block in blocks(ROOT / "docs" / page) if block.before == "<!-- run -->"]


def test_quickstart(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    shutil.copytree(EXAMPLES, tmp_path / "photos", ignore=shutil.ignore_patterns("bridges", "*.md"))
    first, second = to_run("quickstart.md")
    told = run(f"{first}\n{second}", tmp_path)  # one process: the libraries load once
    assert "<ScoreTable: 8 rows, 7 scored" in told and "not_an_image.jpg: unsupported, not an image" in told
    assert "coffee_blurred.jpg: 0.3" in told and "chelsea.jpg 0.8" in told
    assert (tmp_path / "scores.csv").read_text().count("\n") == 9


def test_a_database(tmp_path: Path, photo: Image.Image) -> None:
    (code,) = to_run("extending.md")
    photo.resize((64, 64)).save(tmp_path / "a.png")
    with sqlite3.connect(tmp_path / "photos.sqlite") as database:
        database.execute("CREATE TABLE photos (name TEXT, data BLOB)")
        data = (tmp_path / "a.png").read_bytes()
        database.executemany("INSERT INTO photos VALUES (?, ?)", [("a", data), ("b", b"nothing")])
    told = run(code, tmp_path).splitlines()
    assert told[0].startswith("a ok 0.") and told[1] == "b unsupported nan"


def farbfeld(image: Image.Image) -> bytes:
    rgba = np.asarray(image.convert("RGBA")).astype(">u2") * 257
    return b"farbfeld" + image.width.to_bytes(4, "big") + image.height.to_bytes(4, "big") + rgba.astype(">u2").tobytes()


def member(name: str, data: bytes) -> bytes:
    """As `ar` writes it."""
    return f"{name + '/':16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)


def applied(block: Block, package: Path) -> None:
    """The change of a table that the page shows."""
    file = package.parent / block.title
    lines = block.text.splitlines()
    old = "\n".join(line[1:] for line in lines if line[:1] != "+")
    new = "\n".join(line[1:] for line in lines if line[:1] != "-")
    text = file.read_text()
    assert text.count(old) == 1, f"{block.title}: the page shows lines that are not there:\n{old}"
    file.write_text(text.replace(old, new))


def test_what_the_page_adds(tmp_path: Path, photo: Image.Image, bundle: Path) -> None:
    page = list(blocks(ROOT / "docs" / "extending.md"))
    files = {b.title.removeprefix("metaqap_fast/"): b.text for b in page if b.language == "python" and b.title}
    changes = [block for block in page if block.language == "diff"]
    assert set(files) == {"input/ar.py", "formats/farbfeld.py", "decode/farbfeld.py"} and len(changes) == 6
    extend(tmp_path, files, {block.title.removeprefix("metaqap_fast/"): [] for block in changes})
    for block in changes:
        applied(block, tmp_path / "metaqap_fast")
    images = tmp_path / "images"
    images.mkdir()
    small = photo.resize((124, 84))
    small.save(images / "a.png")
    png, ff = (images / "a.png").read_bytes(), farbfeld(small)
    (images / "a.ff").write_bytes(ff)
    (images / "cut.ff").write_bytes(ff[:-1])
    (images / "huge.ff").write_bytes(b"farbfeld" + b"\x7f" * 8 + b"rest")
    packed = b"!<arch>\n" + member("x.png", png) + member("y.ff", ff) + member("notes.txt", b"text") + member("z", png)
    (images / "whole.ar").write_bytes(packed)
    (images / "cut.ar").write_bytes(packed[:-10] + b"`")
    (images / "other.ar").write_bytes(b"no archive")
    found = rows(tmp_path, bundle, images)
    same = found["a.png"]
    assert same[0] == "ok"
    for name in ("a.ff", "whole.ar/x.png", "whole.ar/y.ff", "whole.ar/z", "cut.ar/x.png"):
        assert found[name] == same, name
    assert found["cut.ff"][0] == "corrupt" and "truncated" in found["cut.ff"][2]
    assert found["huge.ff"][0] == "too_large"
    assert found["cut.ar/z"][0] == "unreadable" and "the archive ends within it" in found["cut.ar/z"][2]
    assert found["other.ar"][0] == "unreadable" and "no ar archive" in found["other.ar"][2]
    assert not [name for name in found if "notes" in name]


def test_the_notebook(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="SKIPPED: the notebook is not run: pip install '.[docs]'")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="SKIPPED: the notebook is not run: pip install '.[docs]'")
    document = nbformat.read(ROOT / "docs" / "notebook.ipynb", 4)
    kept = json.dumps(document)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    client = nbclient.NotebookClient(document, timeout=120, resources={"metadata": {"path": str(ROOT / "docs")}})
    client.execute(env=environment)
    text, pictures = hooks().notebook(document)
    assert len(pictures) == 2 and all(data.startswith(b"\xff\xd8") for data in pictures.values())
    assert "not_an_image.jpg: unsupported" in text and "Moved 3 images to rejects" in text
    for name in ("coffee_blurred.jpg", "astronaut_noisy.jpg", "coffee_jpeg_q8.jpg"):
        assert f"reject  {name}" in text
    # What is committed was run, too: the site shows it.
    stored, _ = hooks().notebook(json.loads(kept))
    assert "Moved 3 images to rejects" in stored
