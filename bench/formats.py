"""How fast each format is decoded: one photograph in all of them, by turns.

    python -m metaqap_fast.bench.formats photograph.jpg

Needs the extra `formats`, tifffile, and pillow-heif to make a HEIC file. The figures are of decoding to views, in this
process, by processor time of all threads, which what else the machine does changes little: images a second on one core.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from metaqap_fast.decode import DecodeOptions
from metaqap_fast.decode.extra import library
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.formats import read_header
from metaqap_fast.formats.icc import from_cicp
from metaqap_fast.records import Encoded

VIEW, BATCH = 512, 16


def main() -> None:
    """Time every format, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--width", type=int, default=3000)
    parser.add_argument("--height", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    photograph = Image.open(options.photograph).convert("RGB").resize((options.width, options.height))
    files = encoded(photograph)
    decoder = LocalDecoder(DecodeOptions(VIEW, batch_size=BATCH))
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(options.turns + 1):
        for name, data in files.items():
            count = BATCH if read_header(data).decoder == "dali" else 2
            start = time.process_time()
            for found in decoder.stream(Encoded(b"", data) for _ in range(count)):
                if found.error is not None:
                    raise SystemExit(f"{name}: {found.error}")
            if turn:  # the first one imports libraries
                seconds[name].append((time.process_time() - start) / count)
    print(f"{options.width}x{options.height} pixels, the median of {options.turns} turns (least to most)")
    print("| format | MB | images/s on a core |\n|---|---|---|")
    for name, data in files.items():
        rates = sorted(1 / each for each in seconds[name])
        print(
            f"| {name} | {len(data) / 1e6:.1f} | {statistics.median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f}) |"
        )


def encoded(photograph: Image.Image) -> dict[str, bytes]:
    """The photograph in each format, at the qualities that cameras and web sites use."""
    p3, srgb = from_cicp(12, 13), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.asarray(photograph)
    made: dict[str, Callable[[], bytes]] = {
        "JPEG": lambda: saved(photograph, "JPEG", quality=90),
        "JPEG with sRGB's profile": lambda: saved(photograph, "JPEG", quality=90, icc_profile=srgb),
        "JPEG with Display P3's profile": lambda: saved(photograph, "JPEG", quality=90, icc_profile=p3),
        "HEIC": lambda: heic(photograph),
        "AVIF": lambda: saved(photograph, "AVIF", quality=75, speed=8),
        "JPEG XL": lambda: bytes(library("imagecodecs", "JPEG XL").jpegxl_encode(pixels, distance=1.0)),
        "GIF": lambda: saved(photograph.quantize(256), "GIF"),
        "RAW, its preview": lambda: dng(pixels) + saved(photograph, "JPEG", quality=90),
        "RAW, developed": lambda: dng(pixels),
    }
    return {name: make() for name, make in made.items()}


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """A file by Pillow."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def heic(image: Image.Image) -> bytes:
    """A file by libheif's encoder."""
    import pillow_heif

    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=75)
    return out.getvalue()


def dng(pixels: NDArray[np.uint8], orientation: int = 1) -> bytes:
    """The least that is a RAW file: what a sensor behind red, green, green and blue filters gives, in 12 bits."""
    import tifffile

    light = ((pixels / 255.0) ** 2.2 * 4000 + 95).astype(np.uint16)
    sensor = light[:, :, 1].copy()
    sensor[::2, ::2], sensor[1::2, 1::2] = light[::2, ::2, 0], light[1::2, 1::2, 2]
    identity = tuple(n for i in range(9) for n in (int(i % 4 == 0), 1))
    tags = [
        (271, "s", 0, "Toy", False), (272, "s", 0, "Toy", False), (274, "H", 1, orientation, False),
        (33421, "H", 2, (2, 2), False), (33422, "B", 4, b"\0\1\1\2", False), (50706, "B", 4, b"\1\4\0\0", False),
        (50714, "H", 1, 95, False), (50717, "H", 1, 4095, False), (50721, "2i", 9, identity, False),
        (50728, "2I", 3, (1,) * 6, False), (50778, "H", 1, 21, False),
    ]  # fmt: skip
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(sensor, photometric=32803, metadata=None, software="", subfiletype=0, extratags=tags)
    return out.getvalue()


if __name__ == "__main__":
    main()
