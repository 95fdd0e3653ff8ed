"""Each distortion against its definition: the values that the definition fixes, order of severity, seeds, batches."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from distorting import SEED, apply
from metaqap_fast.train.distortions import DISTORTIONS, distort, stretch
from metaqap_fast.train.distortions.base import generator, to_uint8
from metaqap_fast.train.distortions.compression import jpeg2000_bytes
from metaqap_fast.train.distortions.denoise import denoise_standin
from metaqap_fast.train.distortions.filters import convolve, disk_kernel, gaussian, gaussian_kernel, line_kernel
from metaqap_fast.train.distortions.noise import component_noise, impulse_noise, multiplicative_noise, white_noise
from metaqap_fast.train.distortions.otsu import otsu_starts, otsu_table
from metaqap_fast.train.distortions.sheet import contact_sheet
from metaqap_fast.train.distortions.spaces import rgb_to_lab, rgb_to_ycbcr
from metaqap_fast.train.distortions.spatial import displaced
from metaqap_fast.train.distortions.tone import spline_curve

IDENTITIES = {(1, 1), (3, 1), (8, 1), (18, 3)}


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    error = float(((a - b) ** 2).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def test_the_list_is_complete() -> None:
    assert [d.id for d in DISTORTIONS] == list(range(1, 26))
    assert all(len(d.levels) == 5 for d in DISTORTIONS)
    assert [d.id for d in DISTORTIONS if not d.ordered] == [18, 25]


@pytest.mark.parametrize("kind", range(1, 26))
def test_severity_rises_with_the_level(kind: int, crop: torch.Tensor) -> None:
    out = distort(crop.expand(5, -1, -1, -1), [kind] * 5, [1, 2, 3, 4, 5], [SEED] * 5)
    assert out.dtype == torch.float32 and out.shape == (5, *crop.shape[1:])
    assert out.isfinite().all() and (out.amin((1, 2, 3)) == 0).all() and (out.amax((1, 2, 3)) == 1).all()
    values = [psnr(one[None], crop) for one in out]
    if kind in (20, 23):  # a block may hide a worse one: the mean over seeds is what falls
        more = [distort(crop.expand(5, -1, -1, -1), [kind] * 5, [1, 2, 3, 4, 5], [s] * 5) for s in range(12)]
        values = [float(np.mean([psnr(out[i : i + 1], crop) for out in more])) for i in range(5)]
    for level, value in enumerate(values, 1):
        assert (value > 100) == ((kind, level) in IDENTITIES), (level, value)
    if DISTORTIONS[kind - 1].ordered:
        assert all(a > b for a, b in itertools.pairwise(values)), values
    else:  # mildest in the middle
        assert max(values) == values[2] or (kind == 25 and max(values[2:4]) == max(values)), values


def test_a_sample_is_the_same_in_any_batch_and_each_has_its_own_seed(crop: torch.Tensor) -> None:
    cells = [(kind, level) for kind in range(1, 26) for level in (2, 5)]
    x = crop[..., :53, :47]
    other = x.flip(3)
    kinds, levels = zip(*cells, strict=True)
    seeds = list(range(len(cells)))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = [distort(x, [k], [v], [s]) for k, v, s in zip(kinds, levels, seeds, strict=True)]
        mixed = torch.cat([other, *[x] * len(cells), other])
        batch = distort(mixed, [kinds[0], *kinds, 1], [levels[0], *levels, 1], [-3, *seeds, 2**70])
    finally:
        torch.set_num_threads(threads)
    for cell, one, same in zip(cells, alone, batch[1:-1], strict=True):
        assert torch.equal(one[0], same), cell
    random = {3, 5, 11, 12, 13, 14, 15, 19, 20, 23}
    for kind in range(1, 26):
        a, b, again = distort(x.expand(3, -1, -1, -1), [kind] * 3, [4] * 3, [1, 2, 1])
        assert torch.equal(a, again)
        assert torch.equal(a, b) == (kind not in random), kind


def test_bad_requests_are_refused(crop: torch.Tensor) -> None:
    for kinds, levels, seeds in (
        ([0], [1], [0]),
        ([26], [1], [0]),
        ([1], [6], [0]),
        ([1], [0], [0]),
        ([1, 2], [1], [0]),
    ):
        with pytest.raises(ValueError):
            distort(crop, kinds, levels, seeds)
    with pytest.raises(ValueError):
        distort(crop[:, :1], [1], [1], [0])


def test_a_flat_image_survives_every_kind() -> None:
    flat = torch.full((25, 3, 40, 40), 0.3)
    assert distort(flat, range(1, 26), [5] * 25, [0] * 25).isfinite().all()


def test_stretch_is_over_all_channels_and_idempotent() -> None:
    x = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    once = stretch(x)
    assert torch.allclose(once[0, :, 0, 0], torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(stretch(once), once)


def test_kernels_have_their_values() -> None:
    side = math.sqrt(0.75) / 2 + math.asin(0.5) - 0.5  # the unit disk's share of the pixel beside the middle one
    expected = torch.full((3, 3), (math.pi - 1 - 4 * side) / 4, dtype=torch.float64)
    expected[1], expected[:, 1], expected[1, 1] = side, side, 1
    assert torch.allclose(disk_kernel(1), expected / math.pi, atol=1e-5)  # .0251 .1453 .3183: fspecial('disk', 1)
    assert disk_kernel(8).shape == (17, 17)
    kernel = gaussian_kernel(2)
    assert len(kernel) == 9 and float(kernel[4] / kernel[2]) == pytest.approx(math.exp(0.5))
    assert line_kernel(1, 0.7).tolist() == [[1.0]]
    assert torch.allclose(line_kernel(5, 0.0)[2], torch.full((5,), 0.2, dtype=torch.float64))  # fspecial('motion', 5)
    up = line_kernel(5, math.pi / 4)
    assert (up[0, -1] == 0 and up[1, 3] > up[1, 1] == 0) or up[1, 3] > up[1, 1]  # y points down: rises to the right
    for k in (disk_kernel(4), line_kernel(10, 1.0), kernel):
        assert float(k.sum()) == pytest.approx(1)
        assert torch.allclose(k, k.flip(tuple(range(k.ndim))))


def test_blur_replicates_the_edge_and_is_the_kernel() -> None:
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    kernel = gaussian_kernel(1.0).float()
    assert torch.allclose(gaussian(point, 1.0)[0, 0, 8:13, 8:13], kernel[:, None] * kernel, atol=1e-6)
    ramp = torch.zeros(1, 1, 9, 9)
    ramp[..., 0] = 1
    blurred = gaussian(ramp, 1.0)
    assert float(blurred[0, 0, 4, 0]) == pytest.approx(float(kernel[:3].sum()), abs=1e-6)
    assert torch.allclose(convolve(torch.ones(1, 2, 9, 9), disk_kernel(4)), torch.ones(1, 2, 9, 9))


def test_codecs_give_what_the_codec_gives(crop: torch.Tensor) -> None:
    pixels = to_uint8(crop[0])
    for level, quality in enumerate((43, 36, 24, 7, 4), 1):
        encoded = simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420")
        assert np.array_equal(to_uint8(apply(10, level, crop)[0]), simplejpeg.decode_jpeg(encoded))
    for level, ratio in enumerate((16, 32, 45, 120, 400), 1):
        encoded = jpeg2000_bytes(pixels, ratio)
        assert len(encoded) <= pixels.nbytes / ratio * 1.02 + 100
        assert ratio > 100 or len(encoded) > pixels.nbytes / ratio * 0.8
        assert np.array_equal(to_uint8(apply(9, level, crop)[0]), np.asarray(Image.open(io.BytesIO(encoded))))


def test_noise_has_its_variance() -> None:
    x = torch.full((1, 3, 256, 256), 0.5)
    for level in range(1, 6):
        var = DISTORTIONS[10].levels[level - 1]
        noise = white_noise(x, var, [generator(1, 11)]) - x
        assert float(noise.var()) == pytest.approx(var, rel=0.02) and abs(float(noise.mean())) < 3e-3
        var = DISTORTIONS[11].levels[level - 1]
        noise = rgb_to_ycbcr(component_noise(x, var, [generator(1, 12)])) - rgb_to_ycbcr(x)
        assert noise.var((0, 2, 3)).tolist() == pytest.approx([var] * 3, rel=0.03)
        density = DISTORTIONS[12].levels[level - 1]
        spots = impulse_noise(x, density, [generator(1, 13)])
        assert float((spots != x).float().mean()) == pytest.approx(density, rel=0.15)
        assert set(spots.unique().tolist()) == {0.0, 0.5, 1.0}
        assert float((spots == 1).float().mean()) == pytest.approx(density / 2, rel=0.25)
        var = DISTORTIONS[13].levels[level - 1]
        n = (multiplicative_noise(x, var, [generator(1, 14)]) - x) / x
        assert float(n.var()) == pytest.approx(var, rel=0.02)
        assert float(n.abs().max()) == pytest.approx(math.sqrt(3 * var), rel=0.01)  # uniform: its edge is there
    assert torch.equal(multiplicative_noise(0 * x, 0.05, [generator(1, 14)]), 0 * x)


def test_the_denoiser_removes_noise_and_keeps_a_clean_image(crop: torch.Tensor) -> None:
    noisy = white_noise(crop, 0.01, [generator(2, 15)])
    assert psnr(denoise_standin(noisy, 0.1), crop) > psnr(noisy, crop) + 4
    assert torch.allclose(denoise_standin(crop, 0.0), crop, atol=1e-5)  # transform, overlap and borders are exact


def test_curves_go_through_their_points_and_are_scipys() -> None:
    from scipy.interpolate import CubicSpline

    t = torch.linspace(0, 1, 101)
    assert torch.allclose(spline_curve(t, [(0, 0), (0.5, 0.6), (1, 1)]), t + 0.4 * t * (1 - t), atol=1e-6)
    a = 0.3
    points = [(0.0, 0.0), (0.3, 0.25 - a / 4), (0.5, 0.5), (0.7, 0.75 + a / 4), (1.0, 1.0)]
    curve = spline_curve(t, points)
    assert torch.allclose(curve[[0, 30, 50, 70, 100]], torch.tensor([v for _, v in points]), atol=1e-6)
    reference = CubicSpline(*zip(*points, strict=True), bc_type="not-a-knot")(t.double().numpy()).clip(0, 1)
    assert np.abs(curve.numpy() - reference).max() < 1e-6
    x = t.view(1, 1, 1, -1).expand(1, 3, 2, -1)
    assert torch.allclose(apply(25, 1, x)[0, 0, 0], curve)
    assert float(apply(17, 3, x)[0, 0, 0, 50]) == pytest.approx(0.4)  # .5 - .2 / 2


def test_brighten_mixes_rgb_and_lightness(crop: torch.Tensor) -> None:
    gray = crop[:, :1].expand(-1, 3, -1, -1).contiguous()
    points = [(0.0, 0.0), (0.5, 0.6), (1.0, 1.0)]
    light = rgb_to_lab(gray)[:, 0]
    lifted = rgb_to_lab((3 * apply(16, 2, gray) - 2 * spline_curve(gray, points)).clamp(0, 1))[:, 0]
    assert torch.allclose(lifted, 100 * spline_curve(light / 100, points), atol=0.05)


def test_mean_shift_adds_and_the_stretch_undoes_what_was_not_clipped() -> None:
    x = torch.linspace(0, 1, 48).view(1, 3, 4, 4)
    assert torch.allclose(apply(18, 1, x), (x + 0.15).clamp(0, 1))
    assert torch.allclose(apply(18, 5, x), (x - 0.15).clamp(0, 1))
    assert torch.equal(distort(x, [18], [3], [0]), x)
    middle = 0.3 + 0.2 * x
    assert torch.allclose(stretch(middle + 0.08), stretch(middle), atol=1e-5)


def test_jitter_displaces_by_the_level(crop: torch.Tensor) -> None:
    ramp = torch.linspace(0.2, 0.8, 128).expand(1, 3, 128, 128).contiguous()
    inner = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    draws = 0.7 * torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    assert torch.allclose((displaced(ramp, *draws) - ramp)[inner], (draws[1:2] * 0.6 / 127)[inner], atol=1e-5)
    for level, a in enumerate((0.05, 0.1, 0.2, 0.5, 1), 1):
        moved = ((apply(19, level, ramp) - ramp)[inner] * 127 / 0.6).std()
        low = 0.85 if a < 0.1 else 0.7  # reading between displaced pixels averages their displacements
        assert low * a * math.sqrt(5) < float(moved) < 1.02 * a * math.sqrt(5)  # five independent passes
    still = DISTORTIONS[18].function(crop, 0.0, [generator(0, 19)])
    assert torch.allclose(still, crop, atol=1e-4)


def test_patches_are_copies_from_nearby() -> None:
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    image = torch.stack([y, x, 0 * x])[None] / 255
    out = apply(20, 3, image)
    offset = (out - image)[0, :2] * 255
    assert float(offset.abs().max()) <= 8.001
    changed = (offset.abs().sum(0) > 0.5).float().mean()
    assert 0.08 < float(changed) < 60 * 256 / 65536  # overlaps and zero offsets only make it less
    assert float((offset - offset.round()).abs().max()) < 1e-3
    one = DISTORTIONS[19].function(image, 1, [generator(7, 20)])
    rows, columns = torch.nonzero((one - image)[0].abs().sum(0) > 1e-3, as_tuple=True)
    assert (int(rows.max() - rows.min()), int(columns.max() - columns.min())) == (15, 15)


@pytest.mark.parametrize(("level", "s"), enumerate((0.01, 0.05, 0.1, 0.2, 0.5), 1))
def test_pixelate_keeps_so_many_pixels(level: int, s: float) -> None:
    y, x = torch.meshgrid(torch.arange(200.0), torch.arange(200.0), indexing="ij")
    out = apply(21, level, torch.stack([y, x, 0 * x])[None] / 200)
    expected = math.ceil((0.95 - s**0.6) * 200)
    assert len(out[0, 0, :, 0].unique()) == len(out[0, 1, 0].unique()) == expected
    assert float(((out[0, 0, :, 0] * 200) - torch.arange(200)).abs().max()) <= 0.5 + 1 / (0.95 - s**0.6)


def test_otsu_is_optimal_and_quantisation_has_its_classes(crop: torch.Tensor) -> None:
    from skimage.filters import threshold_multiotsu

    rng = np.random.default_rng(0)
    histogram = rng.integers(0, 30, 12)
    bins = np.arange(12)

    def error(starts: tuple[int, ...]) -> float:
        label = np.searchsorted(starts, bins, side="right") - 1
        parts = [(histogram[label == k], bins[label == k]) for k in range(len(starts))]
        return sum(float((c * (b - (c * b).sum() / max(c.sum(), 1)) ** 2).sum()) for c, b in parts)

    for classes in (2, 3, 4, 5):
        least = min(error((0, *cut)) for cut in itertools.combinations(range(1, 12), classes - 1))
        starts = otsu_starts(histogram, classes)
        assert error((0, *starts[1:])) == pytest.approx(least) and len(starts) == classes
    pixels = to_uint8(crop[0])
    counts = np.bincount(pixels.ravel(), minlength=256)
    thresholds = threshold_multiotsu(pixels.reshape(-1, 3 * 176), 4)  # the last bin of each class
    assert np.array_equal(np.unique(otsu_table(counts, 4), return_index=True)[1][1:], thresholds + 1)
    for level, classes in enumerate((20, 16, 13, 10, 7), 1):
        assert len(apply(22, level, crop).unique()) == classes
    assert len(otsu_starts(np.bincount([0, 7, 7, 200], minlength=256), 7)) == 3


def test_colour_blocks_are_opaque_squares() -> None:
    x = torch.full((1, 3, 256, 256), -1.0)
    one = DISTORTIONS[22].function(x, 1, [generator(3, 23)])[0]
    rows, columns = torch.nonzero(one[0] >= 0, as_tuple=True)
    assert (len(rows), int(rows.max() - rows.min()), int(columns.max() - columns.min())) == (1024, 31, 31)
    assert all(len(one[c][rows, columns].unique()) == 1 for c in range(3))
    for level, count in enumerate((2, 4, 6, 8, 10), 1):
        colours = apply(23, level, x)[0].flatten(1).T.unique(dim=0)
        assert count - 2 <= len(colours) - 1 <= count  # a square may cover another


def test_sharpen_works_on_lightness_alone() -> None:
    x = 0.45 + 0.02 * torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    before, after = rgb_to_lab(x), rgb_to_lab(apply(24, 2, x))
    light = before[:, :1]
    assert torch.allclose(after[:, :1], light + 2 * (light - gaussian(light, 3.0)), atol=0.05)
    assert torch.allclose(after[:, 1:], before[:, 1:], atol=0.05)


def test_the_sheet_shows_every_cell(photo) -> None:
    sheet = contact_sheet(np.asarray(photo.crop((100, 0, 356, 256))))
    assert sheet.width > 6 * 144 and sheet.height > 25 * 144
    assert len(set(np.asarray(sheet.convert("L")).std(1).round(1))) > 200


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu(crop: torch.Tensor) -> None:
    cells = [(k, v) for k in range(1, 26) for v in range(1, 6)]
    kinds, levels = zip(*cells, strict=True)
    batch = crop.expand(len(cells), -1, -1, -1)
    here = distort(batch, kinds, levels, range(len(cells)))
    there = distort(batch.cuda(), kinds, levels, range(len(cells))).cpu()
    for cell, a, b in zip(cells, here, there, strict=True):
        assert psnr(a, b) > 35, cell  # a rounding may turn one 8-bit step before a palette or a codec
