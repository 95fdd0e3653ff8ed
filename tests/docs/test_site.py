"""The site: it is built without a warning, needs no network, and works in a browser."""

from __future__ import annotations

import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import pytest

from browser import MISSING, as_on, browser
from documents import ROOT
from metaqap_fast.cli import main

NEEDED = ("mkdocs", "material", "mkdocstrings", "pymdownx")
LACKING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        bool(LACKING), reason=f"SKIPPED: the site is not built, {LACKING} missing: pip install '.[docs]'"
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # of the theme, about a version that is not used here
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    return folder


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    """Links lead out; what a page is made of does not."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text()
        parts = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"'\s>]+)", text)
        parts += re.findall(
            r"<link\b[^>]*\brel=[\"']?(?:stylesheet|icon|preconnect)[^>]*\bhref=[\"']?([^\"'\s>]+)", text
        )
        assert not [part for part in parts if re.match(r"(https?:)?//", part)], page


def commands(group: click.Group, path: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        yield f"{path}{name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


def test_every_command_and_every_public_name_is_there(site: Path) -> None:
    import metaqap_fast

    page = (site / "commands.html").read_text()
    for name in commands(main):
        assert f'id="{name.replace(" ", "-")}"' in page, name
    assert "--retry-failed" in page and "--baselines" in page
    names = (site / "api.html").read_text()
    for name in metaqap_fast.__all__:
        if name != "__version__":
            assert f'id="metaqap_fast.{name}"' in names, name


SHOWN = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
FITS = "return document.documentElement.scrollWidth <= window.innerWidth"
FOUND = "return document.querySelectorAll('.md-search-result__item').length"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.skipif(bool(MISSING), reason=f"SKIPPED: the site is not looked at: {MISSING}")
def test_in_a_browser(site: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server,
        browser() as driver,
    ):
        soon = WebDriverWait(driver, 20)  # what slides in has come to rest
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        for page, title in {
            "index": "metaqap-fast", "quickstart": "Quickstart", "api": "Python", "commands": "Commands",
            "images": "Formats and images", "notebook": "Notebook", "models/default": "Model card",
        }.items():  # fmt: skip
            driver.get(f"{root}/{page}.html")
            assert title in driver.title, driver.title
            soon.until(lambda driver: driver.execute_script(SHOWN), f"{page} has a picture that does not load")
            for width in (1200, 390):
                as_on(driver, width)
                soon.until(lambda driver: driver.execute_script(FITS), f"{page} is wider than {width} pixels")
        driver.get(f"{root}/index.html?q=retry-failed")  # Material searches for ?q=
        soon.until(lambda driver: driver.execute_script(FOUND), "the search finds nothing")
        errors = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        server.shutdown()
    assert not errors
