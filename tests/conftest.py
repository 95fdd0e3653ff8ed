"""Photographs under a free licence, a miniature bundle, a folder of images, and the command line."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

from bundles import VIEW, write_bundle
from images import encode

# Before torch is imported: threads that wait for each other by spinning double the CPU time of a busy machine's tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# How long an example takes says something about the machine, not about the program.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# Without a GPU the kernels' tests run in Triton's interpreter, and Triton asks once, when it is first imported.
with pytest.MonkeyPatch.context() as _patch, suppress(ImportError):
    if not Path("/dev/nvidiactl").exists():
        _patch.setenv("TRITON_INTERPRET", "1")
    import triton  # noqa: F401


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A module's generator starts anew for each test: its numbers do not depend on which tests ran before."""
    module = getattr(item, "module", None)
    if hasattr(module, "RNG"):
        module.RNG = np.random.default_rng(zlib.crc32(item.name.encode()))


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled models go to a folder of the test session, not to the user's cache."""
    monkeypatch.setenv("METAQAP_FAST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """512x512 RGB; astronaut, public domain (NASA), from scikit-image."""
    from skimage import data

    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="session")
def photos() -> dict[str, Image.Image]:
    """Photographs that scikit-image ships, CC0 or public domain."""
    from skimage import data

    names = ("astronaut", "chelsea", "coffee", "rocket")
    return {name: Image.fromarray(getattr(data, name)()) for name in names}


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def folder(tmp_path: Path, photo: Image.Image) -> Path:
    """Ten small images in two levels of folders, a note that is no image, and three bad files."""
    root = tmp_path / "photos"
    (root / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        x, y = rng.integers(0, 400, 2)
        photo.crop((x, y, x + VIEW, y + VIEW)).save(root / f"{i}.png")
        photo.crop((y, x, y + VIEW + 40 * i, x + VIEW)).save(root / "b" / f"{i}.jpg")
    (root / "notes.txt").write_text("not an image")
    (root / "b" / "text.jpg").write_text("hello")
    (root / "empty.png").write_bytes(b"")
    (root / "cut.jpg").write_bytes(encode(photo, "JPEG")[:4000])
    return root


@pytest.fixture
def cli() -> Callable[..., Any]:
    """Runs the command line in this process; gives click's result (exit_code, stdout, stderr)."""
    from click.testing import CliRunner

    from metaqap_fast.cli import main

    def invoke(*arguments: object) -> Any:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke
