"""The same images give the same bytes: run after run, at any batch size, in any order, with any number of workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crash
from images import blur, crop, encode, jpeg, noise
from level_report import FROM_FP32
from metaqap_fast import Scorer
from metaqap_fast.engine import cpu
from metaqap_fast.engine.openvino_engine import OpenVINOEngine
from metaqap_fast.model import bundle as bundles

pytestmark = pytest.mark.full

THREADS = (1, 3)
REPEATED = {"fp32": 0.0, "bf16": 1e-3, "int8": 1e-3}


def need(precision: str) -> None:
    """Skip where the CPU has it not; that it is refused there, test_levels.py sees."""
    if not cpu.multiplies_in(precision):
        pytest.skip(f"this CPU ({cpu.level()}) does not multiply in {precision}")


@pytest.fixture(scope="module")
def images(photos: dict[str, Image.Image]) -> list[bytes]:
    """Nine: photographs, also distorted, of several shapes."""
    photo = {name: crop(image) for name, image in photos.items()}
    made = [*photo.values(), blur(photo["coffee"], 3), noise(photo["rocket"], 25), jpeg(photo["chelsea"], 10)]
    made += [photos["coffee"].resize((900, 520)), photos["astronaut"].crop((0, 0, 200, 60))]
    return [encode(image, "PNG") for image in made]


@pytest.fixture(scope="module")
def folder(images: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, data in enumerate([*images[4:], images[0][:999], b"text"]):
        (folder / f"{i:02d}.png").write_bytes(data)
    return folder


def test_every_dataset_is_the_same(cli: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    """The model that ships, fp32, by the command line: each run differs in what must not matter."""
    names = sorted(os.fspath(path) for path in folder.iterdir())
    (tmp_path / "list.txt").write_text("\n".join(names[::-1]))
    variants: dict[str, list[object]] = {
        "first": [*names],
        "again": [*names],
        "one at a time": [*names, "--batch-size", 1],
        "all at once": [*names, "--batch-size", 32, "--rows-per-part", 2],
        "another order, one worker more": [f"@{tmp_path}/list.txt", "--batch-size", 4, "--device", "cpu,cpu,cpu"],
        "two workers": [*names, "--device", "cpu,cpu"],
    }
    found = {}
    for name, arguments in variants.items():
        out = tmp_path / f"{name}.h5"
        result = cli("score", *arguments, "--precision", "fp32", "--quiet", "-o", out)
        assert result.exit_code == 0, result.stderr
        found[name] = crash.datasets(out)
    assert len(found["first"]["score"]) == 7
    assert [name for name, data in found.items() if data != found["first"]] == []


@pytest.mark.parametrize("precision", REPEATED)
def test_threads_order_and_company_of_a_view(precision: str, images: list[bytes]) -> None:
    """Member predictions of the engine; in fp32 bit for bit."""
    need(precision)
    rng, bundle = np.random.default_rng(0), bundles.load()
    size = bundle.view_size
    views = [rng.integers(0, 256, (1 + i % 2, size, size, 3), dtype=np.uint8) for i in range(4)]
    found = []
    for threads in THREADS:
        engine = OpenVINOEngine(bundle, precision, threads)
        for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2]):
            predictions = dict(engine.predict((i, views[i]) for i in order))
            found.append([predictions.get(i) for i in range(4)])
        engine.close()
    largest = max(
        float(np.abs(one - other).max())
        for row in found
        for one, other in zip(row, found[0], strict=True)
        if one is not None and other is not None
    )
    assert largest <= REPEATED[precision], f"largest difference {largest:.2g}"
    print(f"{precision}: largest difference over threads {THREADS} and orders {largest:.2g}")


@pytest.mark.parametrize("precision", FROM_FP32)
def test_difference_from_fp32_is_as_documented(precision: str, images: list[bytes]) -> None:
    need(precision)
    tables = []
    for each in ("fp32", precision):
        scorer = Scorer(precision=each)
        tables.append(scorer.score_bytes(images))
        scorer.close()
    largest = float(np.abs(tables[1].score - tables[0].score).max())
    assert 0 < largest <= FROM_FP32[precision], f"largest difference {largest:.4f}"
    print(f"{precision}: largest difference from fp32 over {len(images)} images {largest:.4f}")
