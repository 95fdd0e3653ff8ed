"""Fixtures of the tests of training."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def crop(photo: Image.Image):
    """[1, 3, 160, 176] in 0..1, both reached, an odd shape on purpose."""
    import torch

    from metaqap_fast.train.distortions import stretch

    pixels = np.array(photo.crop((150, 40, 326, 200)))
    return stretch(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
