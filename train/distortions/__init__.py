"""The 25 distortions at 5 levels of the KADIS generator, on batched tensors, seeded per image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from metaqap_fast.train.distortions.base import Distortion, generator, stretch
from metaqap_fast.train.distortions.blur import gaussian_blur, lens_blur, motion_blur, sharpen
from metaqap_fast.train.distortions.colour import colour_diffusion, colour_shift, saturation_hsv, saturation_lab
from metaqap_fast.train.distortions.compression import jpeg, jpeg2000
from metaqap_fast.train.distortions.noise import (
    component_noise,
    denoised,
    impulse_noise,
    multiplicative_noise,
    white_noise,
)
from metaqap_fast.train.distortions.palette import colour_quantisation
from metaqap_fast.train.distortions.spatial import colour_blocks, jitter, patches, pixelate
from metaqap_fast.train.distortions.tone import brighten, contrast, darken, mean_shift, quantisation

__all__ = ["DISTORTIONS", "LEVELS", "Distortion", "distort", "stretch"]

LEVELS = 5
DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(1, "Gaussian blur", (0.1, 0.5, 1, 2, 5), gaussian_blur),
    Distortion(2, "lens blur", (1, 2, 4, 6, 8), lens_blur),
    Distortion(3, "motion blur", (1, 2, 4, 6, 10), motion_blur),
    Distortion(4, "colour diffusion", (1, 3, 6, 8, 12), colour_diffusion),
    Distortion(5, "colour shift", (1, 3, 6, 8, 12), colour_shift),
    Distortion(6, "colour quantisation", (64, 48, 32, 16, 8), colour_quantisation),
    Distortion(7, "saturation, HSV", (0.4, 0.2, 0.1, 0, -0.4), saturation_hsv),
    Distortion(8, "saturation, Lab", (1, 2, 3, 6, 9), saturation_lab),
    Distortion(9, "JPEG 2000", (16, 32, 45, 120, 400), jpeg2000),
    Distortion(10, "JPEG", (43, 36, 24, 7, 4), jpeg),
    Distortion(11, "white noise", (0.001, 0.002, 0.003, 0.005, 0.01), white_noise),
    Distortion(12, "colour-component noise", (0.0001, 0.0005, 0.001, 0.002, 0.003), component_noise),
    Distortion(13, "impulse noise", (0.001, 0.005, 0.01, 0.02, 0.03), impulse_noise),
    Distortion(14, "multiplicative noise", (0.001, 0.005, 0.01, 0.02, 0.05), multiplicative_noise),
    Distortion(15, "denoise", (0.01, 0.03, 0.05, 0.1, 0.15), denoised),
    Distortion(16, "brighten", (0.1, 0.2, 0.4, 0.7, 1.1), brighten),
    Distortion(17, "darken", (0.05, 0.1, 0.2, 0.4, 0.8), darken),
    Distortion(18, "mean shift", (0.15, 0.08, 0, -0.08, -0.15), mean_shift, ordered=False),
    Distortion(19, "jitter", (0.05, 0.1, 0.2, 0.5, 1), jitter),
    Distortion(20, "non-eccentricity patch", (20, 40, 60, 80, 100), patches),
    Distortion(21, "pixelate", (0.01, 0.05, 0.1, 0.2, 0.5), pixelate),
    Distortion(22, "quantisation", (20, 16, 13, 10, 7), quantisation),
    Distortion(23, "colour block", (2, 4, 6, 8, 10), colour_blocks),
    Distortion(24, "sharpen", (1, 2, 3, 6, 12), sharpen),
    Distortion(25, "contrast", (0.3, 0.15, 0, -0.4, -0.6), contrast, ordered=False),
)


@torch.no_grad()
def distort(images: Tensor, kinds: Sequence[int], levels: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Each image with its own distortion.

    A sample (image, kind, level, seed) is the same in any batch: bit by bit on the CPU, up to rounding on a GPU.
    The undistorted image to compare with is `stretch(images)`, since each distortion stands between two stretches.

    Args:
        images: [N, 3, H, W] float32 RGB in 0..1.
        kinds: N of 1..25.
        levels: N of 1..5.
        seeds: N integers; levels of one kind share the draw of a seed.

    Returns:
        [N, 3, H, W] float32 in 0..1, on the device of `images`.

    Raises:
        ValueError: a kind, a level, a shape or a length that is not as above.
    """
    kinds, levels, seeds = ([int(v) for v in values] for values in (kinds, levels, seeds))
    if images.ndim != 4 or images.shape[1] != 3 or not len(images) == len(kinds) == len(levels) == len(seeds):
        raise ValueError(f"images {tuple(images.shape)}, {len(kinds)} kinds, {len(levels)} levels, {len(seeds)} seeds")
    if not all(1 <= k <= len(DISTORTIONS) for k in kinds) or not all(1 <= v <= LEVELS for v in levels):
        raise ValueError(f"kinds are 1..{len(DISTORTIONS)} and levels 1..{LEVELS}")
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, cell in enumerate(zip(kinds, levels, strict=True)):
        groups[cell].append(i)
    out = torch.empty_like(images, dtype=torch.float32, memory_format=torch.contiguous_format)
    for (kind, level), members in groups.items():
        # On the CPU one image fills the cores and fits their caches, and vector code rounds the end of an array
        # otherwise than its middle: groups of one are faster there, and bitwise independent of the batch.
        for part in [members] if images.is_cuda else [[i] for i in members]:
            x = stretch(images[part].float().contiguous())
            distortion = DISTORTIONS[kind - 1]
            draws = [generator(seeds[i], kind) for i in part]
            out[part] = stretch(distortion.function(x, distortion.levels[level - 1], draws))
    return out
