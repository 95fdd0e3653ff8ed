"""The README says what the program does: its picture, its code, its figures."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from PIL import Image

from documents import ROOT, blocks
from metaqap_fast.bench import picture
from metaqap_fast.scorer import Scorer

README = ROOT / "README.md"
NUMBER = re.compile(r"\d\.\d+")
AGAIN = "run: python -m metaqap_fast.bench.picture"


def told() -> str:
    """The picture's description."""
    found = re.search(r"!\[([^\]]*)\]\(docs/scores\.jpg\)", README.read_text())
    assert found
    return found[1]


def alike(one: str, other: str) -> bool:
    """The same words, and numbers that differ by rounding at most: bf16 differs by a few thousandths from fp32."""
    a, b = (list(map(float, NUMBER.findall(text))) for text in (one, other))
    same = [" ".join(NUMBER.sub("N", text).split()) for text in (one, other)]
    return same[0] == same[1] and all(abs(x - y) < 0.016 for x, y in zip(a, b, strict=True))


def test_the_picture_is_described_where_it_is_shown() -> None:
    image = Image.open(ROOT / picture.PICTURE)
    assert image.info["comment"].decode() == told(), AGAIN
    assert f"![{told()}](scores.jpg)" in (ROOT / "docs" / "index.md").read_text(), AGAIN
    assert (ROOT / picture.PICTURE).stat().st_size < 200_000 and image.width <= 1600


@pytest.mark.full
def test_the_picture_shows_what_the_model_says() -> None:
    with Scorer(device="cpu") as scorer:
        pairs = ((name, (ROOT / "examples" / name).read_bytes()) for name in picture.EXAMPLES)
        rows = sorted(scorer.score_stream(pairs), key=lambda row: picture.EXAMPLES.index(row.key.decode()))
    assert alike(picture.description(rows), told()), AGAIN


def test_numbers_are_compared_by_their_values() -> None:
    assert alike("a: 0.33, noise", "a: 0.34,  noise") and not alike("a: 0.33", "a: 0.36")
    assert not alike("a: 0.33, noise", "a: 0.33, blur")


@pytest.mark.full
def test_its_code_prints_what_it_shows() -> None:
    pytest.importorskip("pandas")
    code, shown = (block for block in blocks(README) if block.before in ("<!-- run -->", "<!-- shown -->"))
    done = subprocess.run([sys.executable, "-c", code.text], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert alike(done.stdout, shown.text), f"it prints\n{done.stdout}"


def test_its_figures_are_those_of_the_model_card() -> None:
    text = " ".join(README.read_text().split())
    card = (ROOT / "metaqap_fast/model/default/README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| all test images |"))
    plcc, _, srocc = (float(NUMBER.findall(cell.replace(" .", " 0."))[0]) for cell in row.split("|")[3:6])
    claimed = re.search(r"PLCC (\.\d{3}) and SROCC (\.\d{3}) on BIQ2021's official test split", text)
    assert claimed is not None
    for claim, figure in zip(claimed.groups(), (plcc, srocc), strict=True):  # .8765 may be rounded either way
        assert abs(float(claim) - figure) < 0.00051, claim
    (share,) = re.findall(r"the interval of one \(1\.96\) standard deviations holds the MOS of (\d+) %", card)
    assert f"{share} % of people's opinions lie within one reported standard deviation" in text


def test_a_stranger_finds_what_matters_at_the_top() -> None:
    top = "\n".join(README.read_text().splitlines()[:25])
    for word in ("docs/scores.jpg", "Apache-2.0", "hours", "--resume", "model card", "docs/quickstart.md"):
        assert word in top, word
    assert len(README.read_text().splitlines()) < 175
