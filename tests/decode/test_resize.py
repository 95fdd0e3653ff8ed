"""Pictures are made smaller by the formula, as DALI does it, and alike on every CPU."""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import sanitized
from images import encode
from metaqap_fast.decode import DecodeOptions, resize
from metaqap_fast.decode.dali import Dali
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.records import Encoded

SOURCE = Path(__file__).parents[2] / "kernels" / "resize" / "cubic.c"
Pixels = NDArray[np.uint8]
SIDES = st.integers(1, 90)


@pytest.fixture(scope="module")
def by_c() -> Callable[[Pixels, tuple[int, int]], Pixels]:
    found = resize.compiled()
    if found is None:
        pytest.skip("pictures are not made smaller in C here (decode/_resize.so): it is not compared with the formula")
    return found


def keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic filter of Keys (1981) with a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def by_formula(pixels: Pixels, size: tuple[int, int]) -> NDArray[np.float64]:
    """In float64, not rounded: [height, width, 3]."""
    made = pixels.astype(np.float64)
    for axis, count in enumerate(size[::-1]):
        scale = pixels.shape[axis] / count
        wide = max(1.0, scale)
        centre = (np.arange(count) + 0.5) * scale - 0.5
        place = np.ceil(centre - 2 * wide)[:, None] + np.arange(int(4 * wide) + 2)
        weight = keys((place - centre[:, None]) / wide)
        weight /= weight.sum(1, keepdims=True)
        inside = place.clip(0, pixels.shape[axis] - 1).astype(int)
        made = np.moveaxis(np.einsum("okab,ok->oab", np.moveaxis(made, axis, 0)[inside], weight), 0, axis)
    return made.clip(0, 255)


@given(height=SIDES, width=SIDES, to=st.tuples(SIDES, SIDES), seed=st.integers(0, 99))
@example(height=1, width=1, to=(1, 1), seed=0)
@example(height=80, width=64, to=(1, 1), seed=1)
@example(height=3, width=2, to=(7, 5), seed=2)
@settings(max_examples=100, deadline=None)
def test_it_is_the_formula(
    by_c: Callable[[Pixels, tuple[int, int]], Pixels], height: int, width: int, to: tuple[int, int], seed: int
) -> None:
    """Rounded to the nearest of whole numbers, also where a picture becomes larger."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert np.abs(by_c(pixels, to) - by_formula(pixels, to)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size", [(256, 256), (300, 512), (511, 77)])
def test_it_is_what_dali_does(
    by_c: Callable[[Pixels, tuple[int, int]], Pixels],
    photo: Image.Image,
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for the rounding of one value in a hundred, by one."""
    pixels = np.asarray(photo)
    monkeypatch.setattr("metaqap_fast.decode.dali.compiled", lambda: None)
    (dalis,) = Dali(DecodeOptions(64), None).run([pixels], [size]).pixels
    difference = np.abs(dalis.astype(int) - by_c(pixels, size))
    assert difference.max() <= 1 and difference.mean() < 0.01


def test_views_without_it_are_the_same(
    by_c: Callable[[Pixels, tuple[int, int]], Pixels], photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file and an array of one picture; usual and fine views; a picture of the right size, which keeps its pixels."""
    large = photo.resize((400, 300))
    images = [encode(large, "PNG"), encode(photo.resize((64, 64)), "PNG"), encode(large.resize((90, 500)), "PNG")]

    def views() -> list[Pixels]:
        decoder = LocalDecoder(DecodeOptions(64, fine=128))
        found = [*decoder.stream(Encoded(b"x", image) for image in images)]
        found += decoder.stream_arrays([(b"x", np.asarray(large))])
        assert all(each.error is None for each in found)
        return [np.asarray(each.views) for each in found]

    ours = views()
    monkeypatch.setattr("metaqap_fast.decode.dali.compiled", lambda: None)
    for mine, dalis in zip(ours, views(), strict=True):
        assert mine.shape == dalis.shape
        assert np.abs(mine.astype(int) - dalis).max() <= 1
    assert np.array_equal(ours[1][0], np.asarray(photo.resize((64, 64)))) and np.array_equal(ours[0], ours[3])


def test_what_does_not_fit_is_told_when_all_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others read memory that DALI uses again as soon as it is asked again."""
    done: list[tuple[int, int]] = []

    def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
        if size == (1, 1):
            raise MemoryError("no room")
        time.sleep(0.1)
        done.append(size)
        return pixels

    monkeypatch.setattr("metaqap_fast.decode.dali.compiled", lambda: resized)
    picture, sizes = np.zeros((9, 9, 3), np.uint8), [(1, 1), (2, 2), (3, 3), None]
    with ThreadPoolExecutor(2) as pool, pytest.raises(MemoryError, match="no room"):
        try:
            Dali(DecodeOptions(64), None, each=pool.map).run([picture] * 4, sizes)
        finally:
            assert sorted(done) == [(2, 2), (3, 3)]


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_an_installation_without_it(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "__file__", str(tmp_path / "resize.py"))
    if content is not None:
        (tmp_path / "_resize.so").write_bytes(content)
    resize.compiled.cache_clear()
    try:
        assert resize.compiled() is None
    finally:
        resize.compiled.cache_clear()


def test_every_cpu_gives_the_same(by_c: Callable[[Pixels, tuple[int, int]], Pixels], tmp_path: Path) -> None:
    """What a CPU without AVX2 runs, compiled for itself."""
    portable = tmp_path / "_resize.so"
    options = ["-O2", "-ffp-contract=off", "-DPORTABLE", "-fPIC", "-shared"]
    subprocess.run([*sanitized.compiler(SOURCE), *options, SOURCE, "-o", portable, "-lm"], check=True)
    function = ctypes.CDLL(str(portable)).resize_cubic
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64] * 2
    rng = np.random.default_rng(0)
    for height, width, to in ((200, 301, (64, 64)), (65, 1000, (700, 33)), (5, 9, (2, 3))):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        made = np.empty((to[1], to[0], 3), np.uint8)
        assert function(pixels.ctypes.data, height, width, made.ctypes.data, to[1], to[0]) == 0
        assert np.array_equal(made, by_c(pixels, to))


CASES = """
import sys
import numpy as np
from hypothesis import given, settings
from metaqap_fast.decode import resize
import test_resize
resize.__file__ = sys.argv[1]  # beside the library
by_c = resize.compiled()
@settings(max_examples=500, deadline=None, database=None)
@given(sides=test_resize.st.tuples(*[test_resize.SIDES] * 4))
def check(sides):
    height, width, *to = sides
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    assert np.abs(by_c(pixels, to) - test_resize.by_formula(pixels, to)).max() <= 0.5 + 1e-3
check()
print("ran")
"""


@pytest.mark.full
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    sanitized.check(SOURCE, tmp_path / "_resize.so", CASES, Path(__file__).parent)
