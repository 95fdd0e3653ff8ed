"""Lanes of a GPU's decoder on the CPU, and what can go wrong in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from images import encode
from metaqap_fast.decode import DecodeOptions
from metaqap_fast.decode.device import DeviceDecoder
from metaqap_fast.records import Decoded, DeviceViews, Encoded


def device(size: int = 64, batch_size: int = 4) -> DeviceDecoder:
    """A lane as on a GPU, but for its streams."""
    return DeviceDecoder(DecodeOptions(size, batch_size=batch_size), None)


def files(photo: Image.Image, count: int) -> list[Encoded]:
    return [Encoded(b"%d" % i, encode(photo.crop((i, i, i + 64, i + 64)), "PNG")) for i in range(count)]


def array(image: Decoded) -> np.ndarray:
    return image.views.array() if isinstance(image.views, DeviceViews) else image.views


class Faulty:
    """DALI, which from its `after`-th run on does something else."""

    def __init__(self, decoder: DeviceDecoder, does: Any, after: int = 0) -> None:
        self.runs, self.does, self.after, self.real = 0, does, after, decoder._dali.run
        decoder._dali.run = self.run  # type: ignore[method-assign]

    def run(self, sources: Any, *others: Any) -> Any:
        self.runs += 1
        if self.runs > self.after:
            return self.does(sources, lambda: self.real(sources, *others))
        return self.real(sources, *others)
