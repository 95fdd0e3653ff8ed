"""The page about a score file: what it says, and in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import browser
from metaqap_fast.cli import main
from metaqap_fast.decode import views
from metaqap_fast.errors import Status
from metaqap_fast.review.survey import Breakdown, Survey
from metaqap_fast.scores.table import ScoreTable
from rows import ATTRIBUTES, a_row

Scored = Callable[..., Path]
EVIL = "</script><img src=x onerror=alert(1)>.jpg"


def report(scores: Path, *arguments: object) -> str:
    result = CliRunner().invoke(main, ["report", str(scores), *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return scores.with_suffix(".html").read_text()


@pytest.fixture
def scores(scored: Scored) -> Path:
    """Thirty rows, of which two failed, one with a name that would act on a page."""
    names = {f"{'ab'[i % 2]}/{i:02}.jpg": i / 30 for i in range(27)}
    failed = [
        a_row(name, status=Status.corrupt, error=error)
        for name, error in ((b"a/x.jpg", "cut at 17"), (b"a/y.jpg", "cut at 4"))
    ]
    return scored({**names, EVIL.replace("/", "|"): 0.5}, more=failed)


def test_what_the_page_says(scores: Path) -> None:
    page = report(scores, "--no-pictures")
    assert "<strong>29</strong>" not in page
    assert "<strong>30</strong> images" in page
    assert "<strong>28</strong> scored" in page
    assert "<strong>2</strong> corrupt" in page
    assert "cut at #" in page
    assert page.count(">a/x.jpg<") == 2  # as an example, and in the table
    assert 'href="photos/b/01.jpg"' in page
    assert "<img src=x" not in page
    assert "&lt;|script&gt;&lt;img src=x onerror=alert(1)&gt;.jpg" in page
    assert not re.search(r"https?:", page)


def test_an_existing_page_stays(scores: Path) -> None:
    scores.with_suffix(".html").write_text("mine")
    result = CliRunner().invoke(main, ["report", str(scores)])
    assert result.exit_code == 2
    assert "exists" in result.output
    assert scores.with_suffix(".html").read_text() == "mine"


def test_a_page_never_takes_the_place_of_the_scores(scores: Path) -> None:
    before = scores.read_bytes()
    result = CliRunner().invoke(main, ["report", str(scores), "-o", str(scores), "--overwrite"])
    assert result.exit_code == 2 and "must end in .html or .htm" in result.output
    assert scores.read_bytes() == before
    capital = scores.with_name("PAGE.HTM")
    assert CliRunner().invoke(main, ["report", str(scores), "-o", str(capital), "--no-pictures"]).exit_code == 0
    assert capital.read_text().startswith("<!doctype html>")


@pytest.mark.full
def test_images_that_are_gone_are_said_to_be(scores: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(scores)])  # what stands there are texts
    assert "thumbnails missing; the page says why" in result.output
    assert "cannot be decoded now" in scores.with_suffix(".html").read_text()


def test_a_file_without_rows(tmp_path: Path) -> None:
    ScoreTable.from_rows([], {**ATTRIBUTES, "root": ""}).save(tmp_path / "scores.h5")
    assert "<strong>0</strong> images" in report(tmp_path / "scores.h5")


def test_a_breakdown_counts_by_label() -> None:
    rows = [a_row(b"%04d" % i, i / 1000) for i in range(1000)] + [a_row(b"x", status=Status.corrupt)]
    table, found = ScoreTable.from_rows(rows, ATTRIBUTES), Breakdown()
    for start in (0, 500):
        part = table[start : start + 501 - (start == 0)]
        found.take(["ab"[int(i >= 100)] for i in range(start, start + len(part))], part)
    a, b = found.lines()
    assert (a.label, a.count, a.failed, b.count, b.failed) == ("a", 100, 0, 901, 1)
    np.testing.assert_allclose((a.low, a.middle, a.high), (0.005, 0.05, 0.095), atol=0.005)
    assert [line.label for line in found.lines(1)] == ["b"]


def test_more_labels_than_fit_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaqap_fast.review.survey.LABELS", 3)
    table = ScoreTable.from_rows([a_row(b"%d/x" % (i % 10)) for i in range(100)], ATTRIBUTES)
    lines = Survey.of([table]).folders.lines()
    assert [(line.label, line.count) for line in lines] == [("0", 10), ("1", 10), ("2", 10), ("(others)", 70)]


@pytest.mark.full
def test_no_names_and_errors_make_it_large(tmp_path: Path) -> None:
    long = "/".join(["<'&>" * 50] * 18)
    rows = [
        a_row(f"{long}/{i:04}.jpg".encode(), i / 2500, status=Status(3 * (i % 2)), error=f"{i} {long}")
        for i in range(2500)
    ]
    ScoreTable.from_rows(rows, {**ATTRIBUTES, "root": "file:///nowhere"}).save(tmp_path / "scores.h5")
    assert len(report(tmp_path / "scores.h5", "--no-pictures").encode()) < 5e6


@pytest.mark.parametrize("size", [(100, 60), (64, 200), (30, 20), (900, 40), (64, 64)])
def test_views_are_joined_to_the_image(size: tuple[int, int]) -> None:
    target = views.target_size(*size, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (target[1], target[0], 3), dtype=np.uint8)
    joined = views.joined(views.cut(pixels, 64), *size)
    height, width = joined.shape[:2]
    assert width >= target[0] - 4
    assert height >= target[1] - 4
    top, left = (target[1] - height) // 2, (target[0] - width) // 2
    np.testing.assert_array_equal(joined, pixels[top : top + height, left : left + width])


@pytest.mark.full
@pytest.mark.skipif(bool(browser.MISSING), reason=browser.MISSING)
def test_in_a_browser(scored: Scored, tmp_path: Path, photos: dict[str, Image.Image]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    names = {**{f"{'ab'[i % 2]}/{i:02}.jpg": i / 30 for i in range(27)}, EVIL.replace("/", "|"): 0.5}
    scores = scored(names, more=[a_row(b"bad.jpg", status=Status.corrupt, error="cut")])
    for i, name in enumerate(names):
        list(photos.values())[i % 4].save(tmp_path / "photos" / name)
    report(scores)
    with browser.browser() as driver:
        browser.as_on(driver, 1200)
        driver.get(f"file://{tmp_path}/scores.html")
        pictures = driver.find_elements(By.CSS_SELECTOR, "figure img")
        driver.execute_script("for (const image of document.images) image.loading = 'eager'")
        loaded = "return Promise.all([...document.images].map(i => i.decode())).then(() => document.images.length)"
        assert driver.execute_script(loaded) == len(pictures) == 14 + 14 + 7 + 7
        count = driver.find_element(By.ID, "count")
        assert count.text == "29 of 29 shown"
        driver.find_element(By.ID, "text").send_keys("A/")
        assert count.text == "14 of 29 shown"
        driver.find_element(By.ID, "high").send_keys("0.1")
        assert count.text == "2 of 29 shown"
        shown = (
            "return [...document.querySelectorAll('#rows tbody tr:not([hidden]) td:first-child')].map(c => c.innerText)"
        )
        for keys, expected in (([Keys.ENTER], ["a/00.jpg", "a/02.jpg"]), ([Keys.ENTER], ["a/02.jpg", "a/00.jpg"])):
            driver.find_elements(By.CSS_SELECTOR, "#rows th button")[1].send_keys(*keys)  # by keyboard, sorted by score
            assert driver.execute_script(shown) == expected
        for width in (1200, 380):
            browser.as_on(driver, width, dark=width == 380)
            wide, there = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert wide <= there == width
            back = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert back == ("rgb(20, 23, 27)" if width == 380 else "rgb(255, 255, 255)")
        assert driver.get_log("browser") == []
