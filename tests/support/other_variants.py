"""JPEG, PNG, WebP, BMP, PNM and JPEG 2000 in many variants; pixels by construction, of JPEG as Pillow decodes them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import chain, cycle, islice, product
from typing import Any

import numpy as np
from PIL import Image

from tiff_variants import HEIGHT, WIDTH, eight, picture, turn

Variant = tuple[str, bytes, np.ndarray, float]
Maker = Callable[[], Iterator[Variant]]
RGB = picture(3, 8).astype(np.uint8)
LIGHT = Image.fromarray(RGB)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.copy().save(out, form, **options)
    return out.getvalue()


def exif(orientation: int, endian: str, kind: int = 3, prefix: bytes = b"", before: int = 0) -> bytes:
    """A block with the tag, behind some others."""
    code = {3: "HH", 4: "I", 8: "hh", 9: "i"}[kind]
    value = struct.pack(endian + code, *([orientation, 0] if len(code) == 2 else [orientation]))
    others = b"".join(struct.pack(endian + "HHII", 256 + i, 4, 1, 7) for i in range(before))
    head = struct.pack(endian + "HIH", 42, 8, before + 1) + others + struct.pack(endian + "HHI", 274, kind, 1)
    return prefix + (b"II" if endian == "<" else b"MM") + head + value + bytes(4)


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpegs() -> Iterator[Variant]:
    """EXIF before and behind the frame header, alone and before other segments of its kind; stray bytes; inks."""
    turns, ends, types = cycle(range(1, 9)), cycle("<>"), cycle((3, 4, 9, 3, 8))
    for mode, quality, sampling, progressive, restart, place, stray in product(
        ("RGB", "L", "CMYK"), (60, 95), (0, 1, 2), (False, True), (0, 3),
        ("none", "first", "last", "twice", "second"), (b"", b"\0", b"\xff\x01"),
    ):  # fmt: skip
        if mode != "RGB" and (sampling or place == "twice"):
            continue
        options = {"subsampling": sampling} if mode == "RGB" else {}
        plain = encode(LIGHT.convert(mode), "JPEG", quality=quality, progressive=progressive,
                       restart_marker_blocks=restart, **options)  # fmt: skip
        shown = np.asarray(Image.open(io.BytesIO(plain)).convert("RGB"))
        orientation, other = next(turns), next(turns)
        block = segment(0xE1, exif(orientation, next(ends), next(types), b"Exif\0\0", orientation % 3))
        again = segment(0xE1, exif(other, next(ends), prefix=b"Exif\0\0"))
        words, scan = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), plain.index(b"\xff\xda")
        data = {
            "none": plain[:2] + words + stray + plain[2:],
            "first": plain[:2] + block + stray + words + plain[2:],
            "last": plain[:scan] + stray + block + plain[scan:],
            "twice": plain[:2] + block + again + stray + plain[2:scan] + again + plain[scan:],
            "second": plain[:2] + words + stray + block + plain[2:],
        }[place]
        name = f"JPEG {mode}: {quality} {sampling} {progressive} {restart} EXIF {place} {orientation} {stray!r}"
        yield name, data, shown if place == "none" else turn(shown, orientation), 0.5


def chunk(kind: bytes, data: bytes, flaw: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ flaw)


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png(samples: np.ndarray, bits: int, colour: int, interlaced: bool, before: bytes, behind: bytes) -> bytes:
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [samples]
    raw = b""
    for part in passes:
        flat = part.reshape(part.shape[0], -1).astype(np.int64)
        each = ((flat[:, :, None] >> np.arange(bits)[::-1]) & 1).reshape(len(flat), -1).astype(np.uint8)
        rows = np.packbits(each, axis=1) if each.size else []
        raw += b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour, 0, 0, interlaced)
    data = before + chunk(b"IDAT", zlib.compress(raw)) + behind
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def pngs() -> Iterator[Variant]:
    turns, ends = cycle(range(1, 9)), cycle("<>")
    types = [(0, 1, b) for b in (1, 2, 4, 8, 16)] + [(3, 1, b) for b in (1, 2, 4, 8)] + [
        (2, 3, 8), (2, 3, 16), (4, 2, 8), (4, 2, 16), (6, 4, 8), (6, 4, 16)]  # fmt: skip
    for (colour, channels, bits), interlaced, place, moves in product(
        types, (False, True), ("none", "before", "behind", "twice", "broken"), ("", "frames", "beside", "lost")
    ):
        samples = picture(channels, bits, 8)
        shown, before, behind = eight(samples[:, :, : 3 if channels > 2 else 1], bits), b"", b""
        if colour == 3:
            palette = np.random.default_rng(9).integers(0, 256, (1 << bits, 3)).astype(np.uint8)
            before, shown = chunk(b"PLTE", palette.tobytes()), palette[samples[:, :, 0].astype(int)]
        orientation = next(turns)
        block, other = chunk(b"eXIf", exif(orientation, next(ends))), chunk(b"eXIf", exif(next(turns), "<"))
        before += {"before": block, "twice": block + other, "broken": chunk(b"eXIf", exif(5, "<"), 1) + block}.get(
            place, b""
        )
        behind += {"behind": block, "twice": other}.get(place, b"")
        control, frame = (
            chunk(b"acTL", struct.pack(">II", 2, 0)),
            struct.pack(">IIIIHHBB", WIDTH, HEIGHT, 0, 0, 1, 9, 0, 0),
        )
        first, second = (chunk(b"fcTL", struct.pack(">I", i) + frame) for i in (0, 1))
        more = chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(bytes(9 * HEIGHT * WIDTH)))
        before += {"frames": control + first, "beside": control, "lost": control}.get(moves, b"")
        behind = {"frames": second + more, "beside": first + more}.get(moves, b"") + behind
        data = png(samples, bits, colour, interlaced, before, behind)
        if shown.shape[2] == 1:
            shown = np.repeat(shown, 3, axis=2)
        name = f"PNG {colour} {bits}: {'interlaced ' * interlaced}EXIF {place} {orientation} animation {moves}"
        yield name, data, shown if place == "none" else turn(shown, orientation), 1.0


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def webps() -> Iterator[Variant]:
    turns, ends = cycle(range(1, 9)), cycle("<>")
    for cut, lossless, profile, place, announced, prefix, kind in product(
        range(4), (False, True), (0, 300, 301), ("behind", "before", "twice"), (True, False), (b"", b"Exif\0\0"), (3, 4)
    ):
        part = RGB[:, : WIDTH - cut]
        plain = encode(Image.fromarray(part), "WEBP", lossless=lossless, quality=90)
        shown = part if lossless else np.asarray(Image.open(io.BytesIO(plain)).convert("RGB"))
        image = plain[12:16], plain[20 : 20 + struct.unpack("<I", plain[16:20])[0]]
        orientation = next(turns)
        block = b"EXIF", exif(orientation, next(ends), kind, prefix)
        flags = (8 if announced else 0) | (32 if profile else 0)
        size = (part.shape[1] - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
        chunks = [(b"VP8X", bytes([flags, 0, 0, 0]) + size), *([(b"ICCP", bytes(profile))] if profile else [])]
        chunks += {"behind": [image, block], "before": [block, image],
                   "twice": [image, block, (b"EXIF", exif(next(turns), "<"))]}[place]  # fmt: skip
        name = f"WebP: {cut} {lossless} ICC {profile} EXIF {place} {announced} {prefix!r} {kind} {orientation}"
        yield name, riff(*chunks), turn(shown, orientation) if announced else shown, 2.0


def bmp(
    header: int, depth: int, packing: int, masks: tuple[int, ...], rows: bytes, palette: bytes, height: int, width: int
) -> bytes:
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, depth)
    else:
        used = len(palette) // 4
        info = struct.pack("<IiiHHIIiiII", header, width, height, 1, depth, packing, len(rows), 9, 9, used, 0)
        info = (info + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows


MASKS = {
    16: [(0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F), (0xF00, 0xF0, 0xF), (0x1F, 0x3E0, 0x7C00)],
    32: [
        (0xFF0000, 0xFF00, 0xFF),
        (0xFF000000, 0xFF0000, 0xFF00),
        (0x3FF00000, 0xFFC00, 0x3FF),
        (0xFF, 0xFF00, 0xFF0000),
    ],
}


def bmps() -> Iterator[Variant]:
    for cut, top, header, depth in product(
        range(4), (False, True), (12, 40, 52, 56, 64, 108, 124), (1, 2, 4, 8, 16, 24, 32)
    ):
        width, height = WIDTH - cut, HEIGHT
        if header == 12 and (top or depth in (2, 16, 32)):
            continue
        part = RGB[:, :width]
        for masks in [(), *(MASKS.get(depth, []) if header not in (12, 64) else [])]:
            palette = b""
            if depth <= 8:
                indexes = picture(1, depth, 3)[:, :width, 0].astype(int)
                colours = np.random.default_rng(2).integers(0, 256, (1 << depth, 3)).astype(np.uint8)
                palette, shown = b"".join(bytes(c[::-1]) + b"\0" * (header > 12) for c in colours), colours[indexes]
                bits = ((indexes[:, :, None] >> np.arange(depth)[::-1]) & 1).reshape(height, -1).astype(np.uint8)
                packed = np.packbits(bits, axis=1)
            elif depth == 24:
                packed, shown = part[:, :, ::-1].reshape(height, -1), part
            else:
                value, shown = np.zeros((height, width), np.uint64), np.empty_like(part)
                for c, mask in enumerate(masks or MASKS[depth][0]):
                    shift = (mask & -mask).bit_length() - 1
                    most = mask >> shift
                    level = (part[:, :, c].astype(float) / 255 * most).round().astype(np.uint64)
                    value |= level << np.uint64(shift)
                    shown[:, :, c] = (level.astype(float) * 255 / most).round()
                packed = np.ascontiguousarray(value.astype(f"<u{depth // 8}")).view(np.uint8).reshape(height, -1)
            rows = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4)))[:: 1 if top else -1].tobytes()
            inside = masks if header >= 52 else ()
            between = struct.pack(f"<{len(masks)}I", *masks) if masks and header == 40 else b""
            data = bmp(
                header, depth, 3 if masks else 0, inside, rows, between + palette, -height if top else height, width
            )
            yield f"BMP {depth}: header {header} width {width} {'top down' * top} masks {masks}", data, shown, 0.5


def runs(indexes: np.ndarray, nibbles: bool, pad: int, literal: bool) -> bytes:
    """RLE8 and RLE4, rows from below, some longer than the image."""
    out = b""
    for row in indexes[::-1]:
        values = [*row.tolist(), *[0] * pad]
        for at in range(0, len(values), 6):
            part = values[at : at + 6]
            if literal and len(part) > 2:
                coded = bytes(part) if not nibbles else bytes(
                    a << 4 | b for a, b in zip(part[::2], [*part[1::2], 0], strict=False))  # fmt: skip
                out += bytes([0, len(part)]) + coded + b"\0" * (len(coded) & 1)
            else:
                out += b"".join(bytes([1, v << 4 if nibbles else v]) for v in part)
        out += b"\0\0"
    return out + b"\0\1"


def run_lengths() -> Iterator[Variant]:
    for cut, nibbles, pad, literal in product(range(4), (False, True), (0, 1, 3), (False, True)):
        depth = 4 if nibbles else 8
        indexes = picture(1, depth, 3)[:, : WIDTH - cut, 0].astype(int)
        colours = np.random.default_rng(2).integers(0, 256, (1 << depth, 3)).astype(np.uint8)
        palette = b"".join(bytes(c[::-1]) + b"\0" for c in colours)
        data = bmp(
            40, depth, 2 if nibbles else 1, (), runs(indexes, nibbles, pad, literal), palette, HEIGHT, WIDTH - cut
        )
        yield f"BMP RLE{depth}: width {WIDTH - cut} {pad} more {'literal' * literal}", data, colours[indexes], 0.0


def pnms() -> Iterator[Variant]:
    for largest, channels, decimal, cut, head in product(
        (1, 2, 15, 100, 254, 255, 256, 1000, 4095, 65534, 65535), (1, 3), (False, True), (0, 1, 2, 3),
        (b"P%d %d %d %d\n", b"P%d\n# words\n%d # 1\n%d\n%d "),
    ):  # fmt: skip
        samples = (picture(channels, 16, 4)[:, : WIDTH - cut] / 65535 * largest).round().astype(np.int64)
        shown = np.repeat((samples * 255 / largest).round().astype(np.uint8), 3 // channels, axis=2)
        if decimal:
            body = b"\n".join(b" ".join(b"%d" % v for v in row) for row in samples.reshape(HEIGHT, -1))
        else:
            body = samples.astype("u1" if largest < 256 else ">u2").tobytes()
        kind = (2 if channels == 1 else 3) + (0 if decimal else 3)
        yield (
            f"PNM {kind}: {largest} width {WIDTH - cut}",
            head % (kind, WIDTH - cut, HEIGHT, largest) + body,
            shown,
            1.0,
        )
    for cut, how in product(range(9), ("packed", "spaced", "touching")):
        bits = picture(1, 1, 4)[:, : WIDTH - cut, 0].astype(np.uint8)
        body = {"packed": np.packbits(bits, axis=1).tobytes(),
                "spaced": b"\n".join(b" ".join(b"%d" % v for v in row) for row in bits),
                "touching": b"\n".join(b"".join(b"%d" % v for v in row) for row in bits)}[how]  # fmt: skip
        head = b"P%d\n%d %d\n" % (4 if how == "packed" else 1, WIDTH - cut, HEIGHT)
        yield f"PBM: {how} {cut}", head + body, np.repeat((1 - bits)[:, :, None] * np.uint8(255), 3, axis=2), 0.0


def jpeg2000s() -> Iterator[Variant]:
    alpha = Image.fromarray(picture(1, 8, 5)[:, :, 0].astype(np.uint8))
    for mode, bare, offset, tiles, layers, order in product(
        ("L", "LA", "RGB", "RGBA", "I;16"),
        (False, True),
        ((0, 0), (5, 3)),
        (None, (16, 16), (64, 64)),
        (1, 3),
        ("LRCP", "RPCL"),
    ):
        if mode == "I;16":
            gray = picture(1, 16, 5)[:, :, 0].astype(np.uint16)
            image, shown = Image.fromarray(gray), eight(gray[:, :, None], 16)
        else:
            image = LIGHT.convert(mode[0] if mode[0] == "L" else "RGB")
            shown = np.asarray(image).reshape(HEIGHT, WIDTH, -1)
            if mode.endswith("A"):
                image.putalpha(alpha)
        if tiles == (16, 16) and (mode == "I;16" or offset != (0, 0)):  # Pillow writes 16 bits in tiles wrongly
            continue
        options: dict[str, Any] = (
            {"tile_size": tiles or (WIDTH + offset[0], HEIGHT + offset[1])} if tiles or offset[0] else {}
        )
        data = encode(image, "JPEG2000", no_jp2=bare, offset=offset, progression=order, num_resolutions=3,
                      quality_layers=[0] if layers == 1 else [20, 10, 0], **options)  # fmt: skip
        shown = np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown
        yield f"JPEG 2000 {mode}: {'bare ' * bare}{offset} {tiles} {layers} {order}", data, shown, 1.0


def variants(every: int = 1) -> Iterator[Variant]:
    """All of these, or each n-th."""
    made = (jpegs, pngs, webps, bmps, run_lengths, pnms, jpeg2000s)
    return islice(chain.from_iterable(each() for each in made), 0, None, every)
