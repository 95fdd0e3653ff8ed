"""Views to measure or calibrate with: of photographs, or generated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import MetaqapError

COUNT = 8


def photographs(sources: Path, size: int, count: int = COUNT) -> NDArray[np.uint8]:
    """The first view of some photographs of a folder, spread over it: [N, size, size, 3].

    Raises:
        MetaqapError: none can be read.
    """
    from metaqap_fast.decode import DecodeOptions, create
    from metaqap_fast.input.files import Listing
    from metaqap_fast.input.reading import read_all

    entries = list(Listing([sources]))
    chosen = entries[:: max(1, len(entries) // count)][:count]
    views = [image.views[0] for image in create(DecodeOptions(size)).stream(read_all(chosen)) if image.error is None]
    if not views:
        raise MetaqapError(f"{sources} holds no photograph that can be read")
    return np.stack(views)


def generated(size: int, count: int = COUNT, seed: int = 0) -> NDArray[np.uint8]:
    """Views with the spectrum of photographs (amplitude 1/f), some blurred, some noisy: [N, size, size, 3] uint8."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1 / size
    out = np.empty((count, size, size, 3), np.uint8)
    for i in range(count):
        noise = random.normal(size=(3, size, size // 2 + 1)) + 1j * random.normal(size=(3, size, size // 2 + 1))
        noise[1:] = 0.5 * noise[0] + 0.3 * noise[1:]
        planes = np.fft.irfft2(noise / frequency ** (1.0 + 0.5 * (i % 3)), s=(size, size))
        planes = (planes - planes.mean()) / planes.std() * 50 + random.uniform(80, 170)
        planes += random.normal(size=planes.shape) * (0, 4, 16)[i // 3 % 3]
        out[i] = np.clip(planes.round(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return out
