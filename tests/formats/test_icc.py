"""Profiles made of numbers: H.273's code points, and chromaticities with a gamma."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.icc import SRGB, from_cicp, from_png, profile

P3, BT2020 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))


def converted(icc: bytes, pixels: np.ndarray) -> np.ndarray:
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    srgb = ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(Image.fromarray(pixels), source, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert image is not None
    return np.asarray(image).astype(float)


def decoded(levels: np.ndarray, gamma: float) -> np.ndarray:
    v = levels / 255
    return v**gamma if gamma else np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def expected(primaries: tuple[tuple[float, float], ...], gamma: float, pixels: np.ndarray) -> np.ndarray:
    """Straight from the definition, in numpy: both spaces have the same white, so no adaptation comes into it."""

    def matrix(points: tuple[tuple[float, float], ...]) -> np.ndarray:
        xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (*points[:3], (0.3127, 0.3290))])
        return xyz[:3].T * np.linalg.solve(xyz[:3].T, xyz[3])

    linear = decoded(pixels, gamma) @ (np.linalg.inv(matrix(SRGB)) @ matrix(primaries)).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


COLOURS = np.random.default_rng(0).integers(40, 216, (1, 500, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("code", "primaries", "gamma"),
    [
        ((12, 13), P3, 0),
        ((12, 1), P3, 0),
        ((9, 14), BT2020, 0),
        ((12, 4), P3, 2.2),
        ((1, 4), SRGB, 2.2),
        ((1, 8), SRGB, 1),
    ],
)
def test_code_points(code: tuple[int, int], primaries: tuple[tuple[float, float], ...], gamma: float) -> None:
    found, wanted = converted(from_cicp(*code), COLOURS), expected(primaries, gamma, COLOURS)
    inside = (wanted > 1) & (wanted < 254)
    assert np.abs(found - wanted)[inside].max() < 1.6


@pytest.mark.parametrize("code", [(1, 13), (1, 1), (2, 2), (0, 0), (1, 6), (2, 13), (1, 14)])
def test_what_is_srgb_or_says_nothing(code: tuple[int, int]) -> None:
    assert from_cicp(*code) == b""


@pytest.mark.parametrize(
    ("code", "words"), [((9, 16), "PQ"), ((9, 18), "HLG"), ((10, 13), "primaries 10"), ((1, 9), "ristics 9")]
)
def test_what_is_refused(code: tuple[int, int], words: str) -> None:
    with pytest.raises(ImageError, match=words) as error:
        from_cicp(*code)
    assert error.value.status == Status.unsupported


def test_gamma_and_chromaticities_of_png() -> None:
    srgb = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    assert from_png(45455) == from_png(45000) == from_png(0) == from_png(45455, [0] * 8) == b""
    assert from_png(100_000) == profile(SRGB, 1.0) and from_png(45455, srgb) == profile(SRGB, 0.0)
    found, wanted = converted(from_png(55_556), COLOURS), expected(SRGB, 1.8, COLOURS)
    assert np.abs(found - wanted).max() < 1.6


@pytest.mark.parametrize(
    "points",
    [
        (*[(0.3, 0.3)] * 3, (0.3127, 0.329)),
        ((0.1, 0.0), *SRGB[1:]),
        (*SRGB[:3], (float("nan"), 0.3)),
        ((1e-9, 1e-9), (2e-9, 1e-9), (1e-9, 2e-9), (0.3, 0.3)),
    ],
)
def test_colours_that_cannot_be(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="primaries"):
        profile(points, 2.2)
    with pytest.raises(ValueError, match="gamma"):
        profile(SRGB, -1.0)
