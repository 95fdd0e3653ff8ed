"""Colour spaces that a file names by numbers, as ICC profiles (ICC.1:2022): one form for all that decides colours."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from metaqap_fast.errors import ImageError, Status

# ITU-T H.273: chromaticities of red, green, blue and white.
_D65, _C, _DCI = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351)
_NTSC = ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)
_PRIMARIES = {
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: _NTSC,
    7: _NTSC,
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65)
_AS_SRGB = frozenset({0, 1, 2, 3})  # BT.709 and what says nothing
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
# Curves of SDR video are taken for sRGB's, as browsers do: pictures are made and looked at on screens.
_CURVES_AS_SRGB = frozenset({0, 1, 2, 3, 6, 7, 11, 12, 13, 14, 15})
_HDR = {16: "PQ", 18: "HLG"}
BROKEN = b"\0"  # in place of a profile that cannot even be unpacked
_PNG_SRGB = 45455  # gAMA of sRGB

_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def from_cicp(primaries: int, transfer: int) -> bytes:
    """The profile of H.273's code points; none for sRGB, and for what says nothing.

    Raises:
        ImageError: `unsupported`: PQ and HLG, whose brightness on an ordinary screen no standard settles; and code
            points of no colour space for pictures.
    """
    if transfer in _HDR:
        reason = f"HDR ({_HDR[transfer]}) is not supported: how it looks on an ordinary screen is not settled"
        raise ImageError(Status.unsupported, reason)
    if primaries not in _AS_SRGB and primaries not in _PRIMARIES:
        raise ImageError(Status.unsupported, f"colour primaries {primaries} are not supported")
    if transfer not in _GAMMAS and transfer not in _CURVES_AS_SRGB:
        raise ImageError(Status.unsupported, f"transfer characteristics {transfer} are not supported")
    if primaries in _AS_SRGB and transfer in _CURVES_AS_SRGB:
        return b""
    return profile(_PRIMARIES.get(primaries, SRGB), _GAMMAS.get(transfer, 0.0))


def from_png(gamma: int, chromaticities: Sequence[int] = ()) -> bytes:
    """The profile of PNG's gAMA and cHRM chunks, in their units of 1/100000; none for sRGB, and for what cannot be.

    `chromaticities` are x and y of white, red, green and blue. 1/2.2, within 5 %, is how programs say that it is sRGB.
    """
    if gamma < 1:
        return b""
    curve = 0.0 if abs(gamma / _PNG_SRGB - 1) <= 0.05 else 100_000 / gamma
    if not chromaticities:
        return profile(SRGB, curve) if curve else b""
    white, *colours = (
        (x / 100_000, y / 100_000) for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True)
    )
    try:
        return profile((*colours, white), curve)
    except ValueError:
        return b""


@lru_cache(maxsize=64)
def profile(chromaticities: Sequence[tuple[float, float]], gamma: float) -> bytes:
    """An RGB profile.

    Args:
        chromaticities: x and y of red, green, blue and white.
        gamma: of the curve; 0 for sRGB's.

    Raises:
        ValueError: no such colours can be.
    """
    points = np.array([[x, y, 1 - x - y] for x, y in chromaticities])
    if not np.isfinite(points).all() or (points[:, 1] <= 0).any() or not 0 <= gamma <= 100:
        raise ValueError("primaries or a gamma that cannot be")
    white = points[3] / points[3, 1]
    try:
        amounts = np.linalg.solve(points[:3].T, white)
    except np.linalg.LinAlgError:
        raise ValueError("primaries on one line") from None
    to_xyz = points[:3].T * amounts
    cones = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ white)
    colours = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ to_xyz
    if not (np.abs(colours) < 100).all():
        raise ValueError("primaries that cannot be")
    tags = {b"wtpt": _xyz(_D50), b"rTRC": _curve(gamma), b"gTRC": _curve(gamma), b"bTRC": _curve(gamma)}
    tags |= {name: _xyz(colours[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    at, table, data = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(data), len(content))
        data += content
    head = struct.pack(
        ">I4sI4s4s4s12s4s24sIIII48x",
        at + len(data), b"", 0x04300000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp", bytes(24), 1, *_fixed(_D50),
    )  # fmt: skip
    return head + struct.pack(">I", len(tags)) + table + data


def _fixed(values: Sequence[float]) -> list[int]:
    """As numbers with 16 bits behind the point."""
    return [round(float(value) * 65536) & 0xFFFFFFFF for value in values]


def _xyz(values: Sequence[float]) -> bytes:
    return struct.pack(">4s4xIII", b"XYZ ", *_fixed(values))


def _curve(gamma: float) -> bytes:
    if gamma:
        return struct.pack(">4s4xHxxI", b"para", 0, *_fixed([gamma]))
    return struct.pack(">4s4xHxxIIIII", b"para", 3, *_fixed(_SRGB_CURVE))
