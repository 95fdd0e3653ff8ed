"""Thousands of files, made by hand or by Pillow, whose pixels are known: each is decoded as it is shown."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

import other_variants
import tiff_variants
from metaqap_fast.decode import DecodeOptions
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.records import Encoded

S = 64
MAKERS = {"TIFF": tiff_variants.variants, "others": other_variants.variants}


def check(variants: Iterable[other_variants.Variant]) -> int:
    """How many there are."""
    known = list(variants)
    results = LocalDecoder(DecodeOptions(S)).stream(Encoded(b"", data) for _, data, _, _ in known)
    wrong = []
    for (name, _, shown, levels), result in zip(known, results, strict=True):
        if result.error is not None:
            wrong.append(f"{name}: {result.error}")
        elif (result.height, result.width) != shown.shape[:2]:
            wrong.append(f"{name}: {result.width}x{result.height}, not {shown.shape[1]}x{shown.shape[0]}")
        else:
            difference = np.abs(result.views[0][: shown.shape[0], : shown.shape[1]].astype(int) - shown).mean()
            if difference > levels:
                wrong.append(f"{name}: {difference:.2f} levels off")
    assert not wrong, f"{len(wrong)} of {len(known)}"
    return len(known)


@pytest.mark.full
@pytest.mark.parametrize("name", MAKERS)
def test_some_variants(name: str) -> None:
    """Every 23rd, which is no divisor of a number of choices."""
    assert check(MAKERS[name](23)) > 120


@pytest.mark.nightly
@pytest.mark.parametrize("name", MAKERS)
def test_all_variants(name: str) -> None:
    assert check(MAKERS[name](1)) > 3000
