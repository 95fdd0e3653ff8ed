"""Colour spaces, as MATLAB defines them: CIE Lab of sRGB with white D65, and studio-range BT.601 YCbCr."""

from __future__ import annotations

import torch
from torch import Tensor

_XYZ_OF_RGB = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)  # IEC 61966-2-1
_WHITE = tuple(sum(row) for row in _XYZ_OF_RGB)  # the matrix's own white, so that gray has a* = b* = 0
_EPSILON, _KAPPA = 216 / 24389, 24389 / 27
_YCBCR_OF_RGB = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))  # ITU-R BT.601
_YCBCR_OFFSET = (16.0, 128.0, 128.0)


def _mix(x: Tensor, matrix: Tensor) -> Tensor:
    """Channels of x [N, 3, H, W] through a 3x3 matrix, written out so that each pixel is rounded alike everywhere."""
    m = matrix.tolist()
    r, g, b = x.unbind(1)
    return torch.stack([row[0] * r + row[1] * g + row[2] * b for row in m], 1)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """[N, 3, H, W] sRGB in 0..1 -> L* 0..100, a*, b* about -100..100."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _mix(linear, torch.tensor(_XYZ_OF_RGB, dtype=torch.float64) / torch.tensor(_WHITE).double()[:, None])
    f = torch.where(xyz > _EPSILON, xyz.clamp_min(_EPSILON) ** (1 / 3), (_KAPPA * xyz + 16) / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`, colours outside sRGB clipped to 0..1."""
    light, a, b = lab.unbind(1)
    y = (light + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(f > 6 / 29, f * f * f, (116 * f - 16) / _KAPPA)
    scaled = torch.tensor(_XYZ_OF_RGB, dtype=torch.float64) / torch.tensor(_WHITE).double()[:, None]
    linear = _mix(xyz, torch.linalg.inv(scaled)).clamp(0, 1)
    return torch.where(
        linear > 0.0031308, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear
    ).clamp(0, 1)


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """[N, 3, H, W] in 0..1 -> Y 16/255..235/255, Cb and Cr 16/255..240/255."""
    offset = torch.tensor(_YCBCR_OFFSET, device=rgb.device)[:, None, None]
    return (_mix(rgb, torch.tensor(_YCBCR_OF_RGB, dtype=torch.float64)) + offset) / 255


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """The inverse of `rgb_to_ycbcr`; not clipped."""
    offset = torch.tensor(_YCBCR_OFFSET, device=ycbcr.device)[:, None, None]
    return _mix(ycbcr * 255 - offset, torch.linalg.inv(torch.tensor(_YCBCR_OF_RGB, dtype=torch.float64)))
