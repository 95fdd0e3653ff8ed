"""No pixel is scored that a decoder did not write: memory is poisoned, and files stand among others of their size."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pytest
from PIL import Image

import corpus
import other_variants
import tiff_variants
from metaqap_fast.decode import DecodeOptions, Limits
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.decode.supervisor import Supervisor
from metaqap_fast.records import Decoded, Encoded

S = 64


@cache
def files() -> list[bytes]:
    """All kinds but the huge, and some variants."""
    kinds = [data for name, (data, *_) in corpus.kinds().items() if "bomb" not in name and "20000" not in name]
    return [*kinds, *(data for made in (tiff_variants, other_variants) for _, data, _, _ in made.variants(151))]


def told(result: Decoded) -> str:
    return str(result.error) if result.error else hashlib.sha256(np.ascontiguousarray(result.views)).hexdigest()


@pytest.mark.full
def test_what_memory_held_before_is_in_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc fills what it hands out with the byte that MALLOC_PERTURB_ names, or its complement."""
    found = []
    for byte in ("171", "84"):
        monkeypatch.setenv("MALLOC_PERTURB_", byte)
        supervisor = Supervisor(DecodeOptions(S), Limits(max_seconds=60))
        found.append([told(result) for result in supervisor.stream(Encoded(b"", data) for data in files())])
        supervisor.close()
    assert found[0] == found[1]


@pytest.mark.full
@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_same_file_among_others_gives_one_picture(batch_size: int) -> None:
    """DALI uses its memory again: here it held bright and dark pictures of the same size."""
    poison = [
        corpus.encode(Image.new("RGB", (corpus.WIDTH, corpus.HEIGHT), colour), form)
        for colour in ((171, 171, 171), (84, 84, 84))
        for form in ("PNG", "JPEG")
    ]
    named = [(0, data) for data in poison]
    for i, data in enumerate(files(), 1):
        named += [(0, poison[i % 4]), (i, data), (0, poison[(i + 1) % 4]), (0, poison[(i + 2) % 4]), (i, data)]
    decoder = LocalDecoder(DecodeOptions(S, batch_size))
    seen: dict[int, str] = {}
    for (i, _), result in zip(named, decoder.stream(Encoded(b"", data) for _, data in named), strict=True):
        if i:
            assert seen.setdefault(i, told(result)) == told(result), i
