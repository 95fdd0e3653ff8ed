"""The stand-in for DnCNN in kind 15: thresholding of overlapping 8x8 cosine transforms."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metaqap_fast.train.distortions.base import singles

BLOCK = 8
STRIDE = 2
THRESHOLD = 2.7  # in standard deviations of the noise; the usual hard threshold of transform denoisers


def cosine_basis(size: int) -> Tensor:
    """[size, size] float32, orthonormal rows: the DCT-II."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi * (n + 0.5) * k / size) * math.sqrt(2 / size)
    basis[0] = 1 / math.sqrt(size)
    return basis.float()


def denoise_standin(x: Tensor, sigma: float) -> Tensor:
    """x [N, 3, H, W] with white noise of standard deviation `sigma` -> an estimate of the clean image.

    A stand-in for the DnCNN of the original generator, which this project does not ship: colours are decorrelated
    by an orthonormal transform, 8x8 blocks at every second pixel are transformed, coefficients under 2.7 sigma
    dropped, and the overlapping blocks averaged (Yu and Sapiro, "DCT image denoising", IPOL 2011). Like DnCNN it
    leaves a smooth image with blotches where the noise was strong; its artefacts are not the same.
    """
    colour = cosine_basis(3).to(x.device)
    basis = cosine_basis(BLOCK).to(x.device)
    transform = torch.einsum("ij,kl->ikjl", basis, basis).reshape(BLOCK * BLOCK, -1)
    return torch.cat([_denoise_one(one, sigma, colour, transform) for one in singles(x)])


def _denoise_one(x: Tensor, sigma: float, colour: Tensor, transform: Tensor) -> Tensor:
    height, width = x.shape[2:]
    reach = BLOCK - STRIDE
    pad = (reach, reach + (-width) % STRIDE, reach, reach + (-height) % STRIDE)
    planes = F.pad(torch.einsum("ij,njhw->nihw", colour, x), pad, mode="replicate").transpose(0, 1)  # [3, 1, h, w]
    size = (planes.shape[2], planes.shape[3])
    coefficients = transform @ F.unfold(planes, BLOCK, stride=STRIDE)  # [3, 64, blocks]
    keep = coefficients.abs() > THRESHOLD * sigma
    keep[:, 0] = True  # the mean of a block is never dropped
    blocks = transform.T @ (coefficients * keep)
    total = F.fold(blocks, size, BLOCK, stride=STRIDE) / (BLOCK // STRIDE) ** 2
    inner = total[:, 0, reach : reach + height, reach : reach + width]
    return torch.einsum("ji,jhw->ihw", colour, inner)[None]
