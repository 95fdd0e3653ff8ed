"""Distortions of colour against their definitions: spaces, diffusion, shift, palettes, saturation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from distorting import SEED, apply
from metaqap_fast.train.distortions import DISTORTIONS
from metaqap_fast.train.distortions.base import generator, to_uint8
from metaqap_fast.train.distortions.colour import edge_mask
from metaqap_fast.train.distortions.filters import gaussian
from metaqap_fast.train.distortions.palette import minimum_variance_palette
from metaqap_fast.train.distortions.spaces import lab_to_rgb, rgb_to_lab, rgb_to_ycbcr, ycbcr_to_rgb


def test_colour_spaces_against_scikit_image(crop: torch.Tensor) -> None:
    from skimage import color

    pixels = crop[0].permute(1, 2, 0).double().numpy()
    lab = rgb_to_lab(crop)
    assert np.abs(lab[0].permute(1, 2, 0).numpy() - color.rgb2lab(pixels)).max() < 0.02
    assert torch.allclose(lab_to_rgb(lab), crop, atol=2e-5)
    ycbcr = rgb_to_ycbcr(crop)
    assert np.abs(ycbcr[0].permute(1, 2, 0).numpy() * 255 - color.rgb2ycbcr(pixels)).max() < 1e-3
    assert torch.allclose(ycbcr_to_rgb(ycbcr), crop, atol=1e-5)


def test_colour_diffusion_keeps_lightness_and_blurs_colour() -> None:
    generator_ = torch.Generator().manual_seed(0)
    x = 0.45 + 0.1 * torch.rand(1, 3, 64, 64, generator=generator_)
    before, after = rgb_to_lab(x), rgb_to_lab(apply(4, 1, x))
    assert torch.allclose(before[:, 0], after[:, 0], atol=0.01)
    assert torch.allclose(gaussian(before[:, 1:], 3.5), after[:, 1:], atol=0.01)


def test_colour_shift_moves_green_alone_and_only_at_edges(crop: torch.Tensor) -> None:
    out = apply(5, 5, crop)
    assert torch.equal(out[:, [0, 2]], crop[:, [0, 2]])
    mask = edge_mask(crop)
    assert torch.equal(out[:, 1:2][mask == 0], crop[:, 1:2][mask == 0])
    angle = generator(SEED, 5).uniform(0, math.pi / 2)
    dx, dy = round(12 * math.cos(angle)), round(12 * math.sin(angle))
    assert 0 <= dx <= 12 and 0 <= dy <= 12 and dx + dy >= 12
    full = (mask == 1)[0, 0, dy:, dx:]
    assert full.any()
    moved = crop[0, 1, : crop.shape[2] - dy, : crop.shape[3] - dx]
    assert torch.equal(out[0, 1, dy:, dx:][full], moved[full])


@pytest.mark.parametrize("level", [1, 5])
def test_palette_has_its_number_of_colours(level: int, crop: torch.Tensor) -> None:
    colours = int(DISTORTIONS[5].levels[level - 1])
    pixels = to_uint8(apply(6, level, crop)[0]).reshape(-1, 3)
    palette = minimum_variance_palette(to_uint8(crop[0]), colours)
    assert len(palette) == colours
    used = {tuple(p) for p in pixels.tolist()}
    assert used <= {tuple(p) for p in palette.tolist()} and len(used) > 0.7 * colours
    median_cut = Image.fromarray(to_uint8(crop[0])).quantize(colours, Image.Quantize.MEDIANCUT)
    other = np.array(median_cut.getpalette()[: 3 * colours]).reshape(-1, 3)

    def error(table: np.ndarray) -> float:
        points = to_uint8(crop[0]).reshape(-1, 1, 3)[::7].astype(float)
        return float(((points - table[None]) ** 2).sum(2).min(1).mean())

    assert error(palette.astype(float)) < error(other)  # the point of minimum variance


def test_palette_of_few_colours_is_exact() -> None:
    colours = np.array([[0, 0, 0], [255, 255, 255], [200, 30, 40]], np.uint8)
    pixels = colours[np.random.default_rng(0).integers(0, 3, (20, 20))]
    assert {tuple(c) for c in minimum_variance_palette(pixels, 8).tolist()} == {tuple(c) for c in colours.tolist()}


def test_saturation(crop: torch.Tensor) -> None:
    import colorsys

    out = apply(7, 2, crop)
    for y, x in ((3, 5), (80, 90), (120, 20)):
        h, s, v = colorsys.rgb_to_hsv(*crop[0, :, y, x].tolist())
        assert out[0, :, y, x].tolist() == pytest.approx(colorsys.hsv_to_rgb(h, 0.2 * s, v), abs=1e-6)
    gray = apply(7, 4, crop)
    assert torch.equal(gray[:, 0], gray[:, 1]) and torch.equal(gray[:, 0], crop.amax(1))
    x = 0.5 + 0.02 * (crop - 0.5)
    assert torch.allclose(rgb_to_lab(apply(8, 3, x))[:, 1:], 3 * rgb_to_lab(x)[:, 1:], atol=0.02)
