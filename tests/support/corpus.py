"""Images of every kind, good and hostile, each with what it must give. The table in docs/images.md is made of this."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from made import deep, dng, heic, ink_profile, jxl
from metaqap_fast.errors import Status
from metaqap_fast.formats.icc import SRGB, from_cicp, profile

WIDTH, HEIGHT = 40, 56


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.copy().save(out, form, **options)  # Pillow keeps options of one save for the next
    return out.getvalue()


def picture() -> Image.Image:
    """A smooth picture with some texture, the same everywhere."""
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [127 + 90 * np.sin(x / a + c) * np.cos(y / b) for a, b, c in ((7, 11, 0), (9, 8, 1), (13, 6, 2))]
    noisy = np.stack(planes, 2) + rng.normal(0, 6, (HEIGHT, WIDTH, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


IMAGE = picture()
PIXELS: NDArray[np.uint8] = np.asarray(IMAGE)
GRAY: NDArray[np.uint8] = np.asarray(IMAGE.convert("L"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, level: int = 9) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    packed = zlib.compress(raw, level)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def png16(pixels: NDArray[np.uint8]) -> bytes:
    wide = pixels.astype(">u2") * 257
    raw = b"".join(b"\0" + row.tobytes() for row in wide.astype(">u2"))
    return png(pixels.shape[1], pixels.shape[0], 16, 2, raw)


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, a thousandth of its size."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * side)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff(
    samples: NDArray[Any], photometric: int, tags: dict[int, tuple[int, list[int]]] | None = None, data: bytes = b""
) -> bytes:
    """A little-endian TIFF of one strip; `tags` (tag -> kind, values) are added or replace."""
    data = data or samples.tobytes()
    bits, count = samples.dtype.itemsize * 8, samples.shape[2] if samples.ndim == 3 else 1
    entries: dict[int, tuple[int, list[int]]] = {
        256: (4, [samples.shape[1]]), 257: (4, [samples.shape[0]]), 258: (3, [bits] * count), 259: (3, [1]),
        262: (3, [photometric]), 273: (4, [8]), 277: (3, [count]), 278: (4, [samples.shape[0]]), 279: (4, [len(data)]),
        **(tags or {}),
    }  # fmt: skip
    extra, at = b"", 8 + len(data) + 2 + 12 * len(entries) + 4
    rows = b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", *values)
        rows += struct.pack("<HHI", tag, kind, len(values))
        if len(packed) > 4:
            rows, extra = rows + struct.pack("<I", at + len(extra)), extra + packed
        else:
            rows += packed.ljust(4, b"\0")
    return (
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries)) + rows + bytes(4) + extra
    )


def jpeg_with(data: bytes, marker: int, payload: bytes) -> bytes:
    """A JPEG with one more segment, right behind its start."""
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def sof(data: bytes, **changes: int) -> bytes:
    """A JPEG whose frame header says something else: marker, precision, height, width."""
    at, out = data.index(b"\xff\xc0"), bytearray(data)
    for name, value in changes.items():
        offset, size = {"marker": (1, 1), "precision": (4, 1), "height": (5, 2), "width": (7, 2)}[name]
        out[at + offset : at + offset + size] = value.to_bytes(size, "big")
    return bytes(out)


def turned(form: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"tiffinfo": {274: orientation}} if form == "TIFF" else {"exif": exif}
    return encode(IMAGE, form, **options)


JPEG = encode(IMAGE, "JPEG", quality=90)
ADOBE_CMYK = encode(IMAGE.convert("CMYK"), "JPEG", quality=95)
TIFF = encode(IMAGE, "TIFF")
ok, unsupported, corrupt, too_large = Status.ok, Status.unsupported, Status.corrupt, Status.too_large

# kind: (the file, its status, in words how it is converted or why it is refused, the pixels that must come out
# as far as they are known without a decoder, their mean difference)
Kind = tuple[bytes, Status, str, NDArray[np.uint8] | None, float]
PNG, JP2, BILEVEL = encode(IMAGE, "PNG"), encode(IMAGE, "JPEG2000"), IMAGE.convert("1")
NAIVE_CMYK = np.asarray(IMAGE.convert("CMYK").convert("RGB"))


def gray3(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(gray[:, :, None], 3, 2)


def bare(data: bytes) -> bytes:
    """A JPEG without its Adobe marker."""
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 16 :]


def sycc(data: bytes) -> bytes:
    return data.replace(b"colr\1\0\0\0\0\0\x10", b"colr\1\0\0\0\0\0\x12")


def tiny_webp(green: int) -> bytes:
    """Of one colour: no transform, no cache, no groups, and codes of one symbol each for green, red, blue, alpha, distance."""
    fields = [
        (WIDTH - 1, 14),
        (HEIGHT - 1, 14),
        (0, 4),
        (0, 3),
        (0b101, 3),
        (green, 8),
        (1, 4),
        (1, 4),
        (0b101, 3),
        (255, 8),
        (1, 4),
    ]
    bits = "".join(f"{value:0{size}b}"[::-1] for value, size in fields)
    coded = b"\x2f" + int(bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")
    return b"RIFF" + struct.pack("<I4s4sI", 12 + len(coded), b"WEBP", b"VP8L", len(coded)) + coded


def hurt(data: bytes) -> bytes:
    """With zeros in its middle."""
    return data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :]


def bmp(depth: int, packing: int, body: bytes, palette: bytes = b"", masks: bytes = b"") -> bytes:
    start = 54 + len(palette) + len(masks)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, depth, packing, len(body), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + masks + palette + body


def bmps() -> dict[str, Kind]:
    """BMPs that Pillow does not write."""
    five = PIXELS // 8
    values = (five[:, :, 0].astype("<u2") << 10 | five[:, :, 1].astype("<u2") << 5 | five[:, :, 2])[::-1].astype("<u2")
    red_first = np.dstack([0 * GRAY, PIXELS[:, :, ::-1]])[::-1].tobytes()
    grays = b"".join(bytes([i * 17] * 3 + [0]) for i in range(16))
    run8 = b"".join(b"".join(bytes([1, v // 16]) for v in (*row, 0, 0)) + b"\0\0" for row in GRAY[::-1]) + b"\0\1"
    run4 = b"".join(b"".join(bytes([1, v // 16 << 4]) for v in row) + b"\0\0" for row in GRAY[::-1]) + b"\0\1"
    wide = np.round(five * 255.0 / 31).astype(np.uint8)
    return {
        "BMP of 16 bits": (bmp(16, 0, values.tobytes()), ok, "scaled to 8 bits", wide, 0),
        "BMP with masks": (bmp(32, 3, red_first, masks=struct.pack("<III", 0xFF << 24, 0xFF << 16, 0xFF << 8)), ok, "as they say", PIXELS, 0),
        "BMP RLE8 with padded rows": (bmp(8, 1, run8, grays), ok, "padding is dropped", gray3(GRAY // 16 * 17), 0),
        "BMP RLE4": (bmp(4, 2, run4, grays), ok, "its colours", gray3(GRAY // 16 * 17), 0),
        "BMP RLE8, cut": (bmp(8, 1, run8[:-60], grays), corrupt, "found by its decoder", None, 0),
        "BMP with a JPEG in it": (bmp(24, 4, JPEG), unsupported, "compression 4", None, 0),
    }  # fmt: skip


def modern(palette: Image.Image, alpha: Image.Image) -> dict[str, Kind]:
    """What the decoders of the extra `formats`, and of GIF and AVIF, read."""
    first = {"save_all": True, "append_images": [IMAGE.rotate(180)]}
    exact = {"quality": 100, "subsampling": "4:4:4"}
    small = IMAGE.resize((WIDTH // 4, HEIGHT // 4))
    turned_over = np.stack([PIXELS, PIXELS[::-1]])
    pq = encode(IMAGE, "AVIF", **exact)
    at = pq.index(b"nclx")
    return {
        "GIF": (encode(palette, "GIF"), ok, "its colours", np.asarray(palette.convert("RGB")), 0),
        "GIF animated": (encode(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]), ok, "the first frame, and the row says so", np.asarray(palette.convert("RGB")), 0),
        "GIF cut": (encode(palette, "GIF")[:-50], corrupt, "truncated", None, 0),
        "HEIC": (heic(IMAGE), ok, "the primary picture", PIXELS, 0),
        "HEIC alpha": (heic(alpha), ok, "transparency ignored", PIXELS, 0),
        "HEIC with ICC profile": (heic(IMAGE, icc_profile=from_cicp(12, 13)), ok, "converted to sRGB", None, 0),
        "HEIC without pictures": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", corrupt, "no meta box", None, 0),
        "HEIC cut": (heic(IMAGE)[:-50], corrupt, "truncated", None, 0),
        "AVIF": (encode(IMAGE, "AVIF", **exact), ok, "the primary picture", PIXELS, 2),
        "AVIF animated": (encode(IMAGE, "AVIF", **exact, **first), ok, "its still, and the row says so", PIXELS, 2),
        "AVIF in HDR (PQ)": (pq[: at + 6] + b"\0\x10" + pq[at + 8 :], unsupported, "HDR (PQ)", None, 0),
        "JPEG XL": (jxl(PIXELS), ok, "as it is", PIXELS, 0),
        "JPEG XL gray": (jxl(GRAY), ok, "gray as three equal channels", gray3(GRAY), 0),
        "JPEG XL animated": (jxl(turned_over), ok, "the first frame, and the row says so", PIXELS, 0),
        "JPEG XL cut": (jxl(PIXELS)[:-50], corrupt, "found by its decoder", None, 0),
        "RAW with a preview": (dng(PIXELS, IMAGE), ok, "the camera's preview, and the row says so", PIXELS, 6),
        "RAW with a thumbnail": (dng(PIXELS, small), ok, "developed from the sensor, and the row says so", None, 0),
        "RAW cut": (dng(PIXELS)[:-50], corrupt, "truncated", None, 0),
    }  # fmt: skip


@cache
def kinds() -> dict[str, Kind]:
    alpha = IMAGE.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))))
    palette = IMAGE.convert("P")

    def frames() -> dict[str, Any]:
        return {"save_all": True, "append_images": [IMAGE.rotate(180)]}

    wide = {f"{f} {w}x{h}": (encode(Image.new("RGB", (w, h), (200, 100, 50)), f), ok, "as it is", None, 0.0)
            for f in ("JPEG", "PNG", "TIFF", "BMP", "PPM", "JPEG2000", "WEBP")
            for w, h in ((1, 1), (1, 20000), (20000, 1)) if f != "WEBP" or w == h}  # fmt: skip
    return {
        "JPEG": (JPEG, ok, "as it is", PIXELS, 6),
        "JPEG gray": (encode(IMAGE.convert("L"), "JPEG", quality=95), ok, "gray as three equal channels", gray3(GRAY), 2),
        "JPEG progressive": (encode(IMAGE, "JPEG", quality=95, progressive=True), ok, "all scans", PIXELS, 6),
        "JPEG restart markers": (encode(IMAGE, "JPEG", quality=95, restart_marker_blocks=2), ok, "as it is", PIXELS, 6),
        "JPEG 4:4:4, quality 100": (encode(IMAGE, "JPEG", quality=100, subsampling=0), ok, "as it is", PIXELS, 1),
        "JPEG stored as RGB": (encode(IMAGE, "JPEG", quality=95, keep_rgb=True), ok, "as it is", PIXELS, 2),
        "JPEG CMYK": (ADOBE_CMYK, ok, "ink to light without a profile", NAIVE_CMYK, 3),
        "JPEG CMYK without Adobe's marker": (bare(ADOBE_CMYK), ok, "as with it", NAIVE_CMYK, 3),
        "JPEG YCCK": (ADOBE_CMYK.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2"), ok, "as CMYK", None, 0),
        "JPEG with Display P3's profile": (encode(IMAGE, "JPEG", quality=95, icc_profile=from_cicp(12, 13)), ok, "converted to sRGB", None, 0),
        "JPEG with sRGB's profile": (encode(IMAGE, "JPEG", quality=95, icc_profile=profile(SRGB, 0.0)), ok, "as it is", PIXELS, 6),
        "JPEG with a broken profile": (encode(IMAGE, "JPEG", quality=95, icc_profile=bytes(3000)), ok, "profile ignored, and the row says so", PIXELS, 6),
        "JPEG CMYK with a profile": (encode(IMAGE.convert("CMYK"), "JPEG", quality=95, icc_profile=ink_profile()), ok, "converted to sRGB", None, 0),
        "JPEG with stray bytes between its segments": (JPEG[:20] + b"\0\xff\0?" + JPEG[20:], ok, "ignored", PIXELS, 6),
        "JPEG with zeros before its end": (JPEG[:-2] + bytes(600) + JPEG[-2:], ok, "ignored: its data is complete", PIXELS, 6),
        "JPEG with zeros in place of its end": (JPEG[:-2] + bytes(600), ok, "ignored: its data is complete", PIXELS, 6),
        "JPEG whose last sector is zeroed": (JPEG[:-514] + bytes(512) + JPEG[-2:], corrupt, "a run of zeros", None, 0),
        "JPEG with data after its end": (JPEG + bytes(999), ok, "the rest ignored", PIXELS, 6),
        "JPEG of one colour, optimised": (encode(Image.new("RGB", (600, 600), (9, 9, 9)), "JPEG", optimize=True), ok, "as it is", None, 0),
        "MPO": (encode(IMAGE, "MPO", quality=95, **frames()), ok, "the first picture, and the row says so", PIXELS, 6),
        "JPEG 12-bit": (deep(12), ok, "scaled to 8 bits", PIXELS, 4),
        "JPEG lossless, 16-bit": (deep(16, lossless=True), ok, "scaled to 8 bits", PIXELS, 1),
        "JPEG 12-bit, as baseline": (sof(JPEG, precision=12), unsupported, "12-bit samples", None, 0),
        "JPEG hierarchical": (sof(JPEG, marker=0xC5), unsupported, "process SOF5", None, 0),
        "JPEG arithmetic": (sof(JPEG, marker=0xC9), ok, "as it is", None, 0),
        "JPEG that claims 60000x3000": (sof(JPEG, width=60000, height=3000), corrupt, "too little data for its size", None, 0),
        "JPEG that claims 65535x65535": (sof(JPEG, width=65535, height=65535), too_large, "over --max-pixels", None, 0),
        "JPEG that claims no height": (sof(JPEG, height=0), corrupt, "no pixels", None, 0),
        "JPEG with a zeroed sector": (JPEG[:-700] + bytes(512) + JPEG[-188:], corrupt, "a run of zeros", None, 0),
        "JPEG cut, with a new end": (JPEG[:900] + b"\xff\xd9", ok, "scored as decoders show it, with the damage", None, 0),
        "JPEG damaged inside": (JPEG[:900] + bytes([JPEG[900] ^ 0x55]) + JPEG[901:], ok, "scored as decoders show it, with the damage", None, 0),
        "PNG": (encode(IMAGE, "PNG"), ok, "as it is", PIXELS, 0),
        "PNG gray": (encode(IMAGE.convert("L"), "PNG"), ok, "gray as three equal channels", gray3(GRAY), 0),
        "PNG bilevel": (encode(IMAGE.convert("1"), "PNG"), ok, "black and white", np.asarray(IMAGE.convert("1").convert("RGB")), 0),
        "PNG palette": (encode(palette, "PNG"), ok, "its colours", np.asarray(palette.convert("RGB")), 0),
        "PNG palette, one transparent": (encode(palette, "PNG", transparency=3), ok, "transparency ignored", np.asarray(palette.convert("RGB")), 0),
        "PNG alpha": (encode(alpha, "PNG"), ok, "transparency ignored", PIXELS, 0),
        "PNG gray and alpha": (encode(alpha.convert("LA"), "PNG"), ok, "transparency ignored", gray3(GRAY), 0),
        "PNG 16-bit gray": (encode(Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG"), ok, "scaled to 8 bits", gray3(GRAY), 1),
        "PNG 16-bit": (png16(PIXELS), ok, "scaled to 8 bits", PIXELS, 1),
        "PNG animated": (encode(IMAGE, "PNG", **frames()), ok, "the first picture, and the row says so", PIXELS, 0),
        "PNG animated without frames": (PNG[:33] + chunk(b"acTL", bytes([0, 0, 0, 2, 0, 0, 0, 0])) + PNG[33:], ok, "the picture that is there", PIXELS, 0),
        "PNG with two EXIF chunks": (PNG[:33] + 2 * chunk(b"eXIf", bytes(16)) + PNG[33:], ok, "the first counts", PIXELS, 0),
        "PNG of Apple's own kind": (PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:], unsupported, "CgBI", None, 0),
        "PNG that claims 100000x100000": (png(100_000, 100_000, 8, 2, bytes(999)), too_large, "over --max-pixels", None, 0),
        "PNG that claims 10000x10000": (png(10_000, 10_000, 8, 2, bytes(999)), corrupt, "too little data for its size", None, 0),
        "PNG with a wrong checksum": (encode(IMAGE, "PNG")[:-20] + b"\0" + encode(IMAGE, "PNG")[-19:], corrupt, "checksum", None, 0),
        "PNG bomb, 1 GB in 1 MB": (bomb(18_500), too_large, "over --max-pixels", None, 0),
        "WebP": (encode(IMAGE, "WEBP", quality=95), ok, "as it is", PIXELS, 6),
        "WebP lossless": (encode(IMAGE, "WEBP", lossless=True), ok, "as it is", PIXELS, 0),
        "WebP of one colour, in 30 bytes": (tiny_webp(200), ok, "as it is", np.zeros_like(PIXELS) + np.array([0, 200, 0], np.uint8), 0),
        "WebP alpha": (encode(alpha, "WEBP", lossless=True, exact=True), ok, "transparency ignored", PIXELS, 0),
        "WebP animated": (encode(IMAGE, "WEBP", lossless=True, **frames()), ok, "the first picture, and the row says so", PIXELS, 0),
        "TIFF": (TIFF, ok, "as it is", PIXELS, 0),
        "TIFF LZW": (encode(IMAGE, "TIFF", compression="tiff_lzw"), ok, "as it is", PIXELS, 0),
        "TIFF deflate": (encode(IMAGE, "TIFF", compression="tiff_adobe_deflate"), ok, "as it is", PIXELS, 0),
        "TIFF JPEG": (encode(IMAGE, "TIFF", compression="jpeg", quality=95), ok, "as it is", PIXELS, 6),
        "TIFF gray": (encode(IMAGE.convert("L"), "TIFF"), ok, "gray as three equal channels", gray3(GRAY), 0),
        "TIFF gray, white is zero": (tiff(255 - GRAY, 0), ok, "inverted", gray3(GRAY), 0),
        "TIFF 16-bit": (tiff(PIXELS.astype("<u2") * 257, 2), ok, "scaled to 8 bits", PIXELS, 1),
        "TIFF palette": (encode(palette, "TIFF"), ok, "its colours", np.asarray(palette.convert("RGB")), 1),
        "TIFF alpha": (encode(alpha, "TIFF"), ok, "transparency ignored", PIXELS, 0),
        "TIFF CMYK": (encode(IMAGE.convert("CMYK"), "TIFF"), ok, "ink to light without a profile", NAIVE_CMYK, 1),
        "TIFF of several pages": (encode(IMAGE, "TIFF", **frames()), ok, "the first page, and the row says so", PIXELS, 0),
        "TIFF bilevel": (encode(BILEVEL, "TIFF"), ok, "black and white", np.asarray(BILEVEL.convert("RGB")), 0),
        "TIFF fax (CCITT group 4)": (encode(BILEVEL, "TIFF", compression="group4"), ok, "black and white", np.asarray(BILEVEL.convert("RGB")), 0),
        "TIFF of 4 bits": (tiff(np.packbits(np.unpackbits(GRAY[:, :, None], axis=2)[:, :, :4].reshape(HEIGHT, -1), axis=1), 1, {256: (4, [WIDTH]), 258: (3, [4])}), ok, "scaled to 8 bits", gray3(GRAY // 16 * 17), 0),
        "TIFF gray and alpha": (tiff(np.dstack([GRAY, 255 - GRAY]), 1, {338: (3, [2])}), ok, "transparency ignored", gray3(GRAY), 0),
        "TIFF in planes": (tiff(PIXELS, 2, {284: (3, [2]), 273: (4, [8 + GRAY.size * i for i in range(3)]), 279: (4, [GRAY.size] * 3)}, PIXELS.transpose(2, 0, 1).tobytes()), ok, "as it is", PIXELS, 0),
        "TIFF with predictor": (tiff(PIXELS, 2, {259: (3, [8]), 317: (3, [2])}, zlib.compress(np.diff(PIXELS, axis=1, prepend=np.uint8(0)).tobytes())), ok, "as it is", PIXELS, 0),
        "TIFF in tiles": (tiff(GRAY, 1, {322: (3, [48]), 323: (3, [64]), 324: (4, [8]), 325: (4, [48 * 64]), 278: (4, [9])}, np.pad(GRAY, ((0, 8), (0, 8))).tobytes()), ok, "as it is", gray3(GRAY), 0),
        "TIFF of 16 bits, white is zero": (tiff((255 - GRAY).astype("<u2") * 257, 0), ok, "inverted", gray3(GRAY), 1),
        "TIFF CMYK of 16 bits": (tiff(np.asarray(IMAGE.convert("CMYK")).astype("<u2") * 257, 5), ok, "ink to light without a profile", NAIVE_CMYK, 1),
        "BigTIFF": (encode(IMAGE, "TIFF", big_tiff=True), ok, "as it is", PIXELS, 0),
        "TIFF JPEG 2000": (tiff(PIXELS, 2, {259: (3, [34712])}), unsupported, "compression 34712", None, 0),
        "TIFF LZW, damaged": (hurt(encode(IMAGE, "TIFF", compression="tiff_lzw")), corrupt, "found by its decoder", None, 0),
        "TIFF float": (encode(IMAGE.convert("F"), "TIFF"), unsupported, "32-bit samples", None, 0),
        "TIFF Lab": (tiff(PIXELS, 8), unsupported, "colour model 8", None, 0),
        "TIFF that points at itself": (tiff(GRAY, 1)[:-4] + struct.pack("<I", 8 + GRAY.size), ok, "the first page", gray3(GRAY), 0),
        "TIFF in a TIFF": (tiff(GRAY, 1, {330: (4, [8 + GRAY.size] * 9)}), ok, "the first page", gray3(GRAY), 0),
        "TIFF of a strip that claims 2 GB": (tiff(GRAY, 1, {273: (4, [8]), 279: (4, [1 << 31])}), ok, "as much as it needs", gray3(GRAY), 0),
        "TIFF LZW of a strip that claims 2 GB": (tiff(GRAY, 1, {259: (3, [5]), 273: (4, [8]), 279: (4, [1 << 31])}), corrupt, "truncated", None, 0),
        "TIFF deflate bomb": (tiff(np.zeros((9000, 9000, 3), np.uint8), 2, {259: (3, [8])}, zlib.compress(bytes(9000 * 27000), 9)), ok, "as it is, within --max-pixels", None, 0),
        "BMP": (encode(IMAGE, "BMP"), ok, "as it is", PIXELS, 0),
        "BMP gray": (encode(IMAGE.convert("L"), "BMP"), ok, "gray as three equal channels", gray3(GRAY), 0),
        "BMP palette": (encode(palette, "BMP"), ok, "its colours", np.asarray(palette.convert("RGB")), 0),
        "BMP 32-bit": (encode(alpha, "BMP"), ok, "transparency ignored", PIXELS, 0),
        **bmps(),
        "PNM": (encode(IMAGE, "PPM"), ok, "as it is", PIXELS, 0),
        "PNM gray": (encode(IMAGE.convert("L"), "PPM"), ok, "gray as three equal channels", gray3(GRAY), 0),
        "PNM in decimals": (b"P2 %d %d 255\n" % (WIDTH, HEIGHT) + b" ".join(b"%d" % v for v in GRAY.ravel()) + b"\n", ok, "as it is", gray3(GRAY), 0),
        "PNM 16-bit": (b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + (GRAY.astype(">u2") * 257).astype(">u2").tobytes(), ok, "scaled to 8 bits", gray3(GRAY), 1),
        "PNM of another range": (b"P5 %d %d 100\n" % (WIDTH, HEIGHT) + (GRAY // 2.55).astype(np.uint8).tobytes(), ok, "scaled to 8 bits", gray3(GRAY), 2),
        "PBM": (encode(BILEVEL, "PPM"), ok, "black and white", np.asarray(BILEVEL.convert("RGB")), 0),
        "PBM in digits": (b"P1 %d %d\n" % BILEVEL.size + np.where(np.asarray(BILEVEL), b"0", b"1").tobytes(), ok, "black and white", np.asarray(BILEVEL.convert("RGB")), 0),
        "JPEG 2000": (encode(IMAGE, "JPEG2000"), ok, "as it is", PIXELS, 0),
        "JPEG 2000 codestream": (encode(IMAGE, "JPEG2000", no_jp2=True), ok, "as it is", PIXELS, 0),
        "JPEG 2000 gray": (encode(IMAGE.convert("L"), "JPEG2000"), ok, "gray as three equal channels", gray3(GRAY), 0),
        "JPEG 2000 alpha": (encode(alpha, "JPEG2000"), ok, "transparency ignored", PIXELS, 0),
        "JPEG 2000 16-bit": (encode(Image.fromarray(GRAY.astype(np.uint16) * 257), "JPEG2000"), ok, "scaled to 8 bits", gray3(GRAY), 1),
        "JPEG 2000 gray and alpha": (encode(alpha.convert("LA"), "JPEG2000"), ok, "transparency ignored", gray3(GRAY), 0),
        "JPEG 2000 gray codestream": (encode(IMAGE.convert("L"), "JPEG2000", no_jp2=True), ok, "gray as three equal channels", gray3(GRAY), 0),
        "JPEG 2000 off its origin": (encode(IMAGE, "JPEG2000", offset=(8, 8), tile_size=(64, 64)), ok, "as it is", PIXELS, 0),
        "JPEG 2000 in sYCC": (sycc(encode(Image.fromarray(np.asarray(IMAGE.convert("YCbCr"))), "JPEG2000")), ok, "as it is", PIXELS, 2),
        "JPEG 2000 in Lab": (JP2.replace(b"colr\1\0\0\0\0\0\x10", b"colr\1\0\0\0\0\0\x0e"), unsupported, "colour space 14", None, 0),
        **modern(palette, alpha),
        "PSD": (b"8BPS\0\1" + bytes(40), unsupported, "PSD", None, 0),
        "PDF": (b"%PDF-1.7\n", unsupported, "PDF", None, 0),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", unsupported, "SVG", None, 0),
        "text": (b"<html><body>404 not found</body></html>", unsupported, "not an image", None, 0),
        "zeros": (bytes(5000), unsupported, "not an image", None, 0),
        "nothing": (b"", corrupt, "empty", None, 0),
        **{f"{form} EXIF orientation {o}": (turned(form, o), ok, "rotated as viewers do", np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(turned(form, o)))).convert("RGB")), 6 if form == "WEBP" else 2)
           for form in ("JPEG", "PNG", "WEBP", "TIFF") for o in range(1, 9)},
        **wide,
    }  # fmt: skip
