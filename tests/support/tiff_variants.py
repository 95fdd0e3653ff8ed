"""TIFFs in every combination of what the tags can say, written here; the pixels are known by construction."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, cycle, product
from typing import Any

import numpy as np

HEIGHT, WIDTH = 29, 37
NONE, LZW, DEFLATE, PACKBITS, LZMA = 1, 5, 8, 32773, 34925


@dataclass(frozen=True)
class Writing:
    """How samples are written."""

    endian: str = "<"
    big: bool = False
    planar: bool = False
    compression: int = NONE
    predictor: bool = False
    tile: tuple[int, int] = (0, 0)  # height and width; none: strips
    rows: int = HEIGHT  # of a strip
    fill: int = 1
    orientation: int = 1

    def __str__(self) -> str:
        pieces = f"tiles {self.tile}" if self.tile[0] else f"strips of {self.rows}"
        words = f"{'II' if self.endian == '<' else 'MM'}{' big' * self.big}{' planes' * self.planar} {self.compression}"
        return f"{words}{' differences' * self.predictor} {pieces} fill {self.fill} turned {self.orientation}"


def write(samples: np.ndarray, bits: int, photometric: int, how: Writing, tags: dict[int, list[int]]) -> bytes:
    """A file of [H, W, S] samples; `tags` are added, of kind SHORT."""
    height, width, channels = samples.shape
    pieces = []
    for plane in range(channels) if how.planar else [slice(None)]:
        part = samples[:, :, plane].reshape(height, width, -1)
        if how.tile[0]:
            high, wide = how.tile
            part = np.pad(part, ((0, -height % high), (0, -width % wide), (0, 0)), mode="edge")
            cut = [part[y : y + high, x : x + wide] for y in range(0, height, high) for x in range(0, width, wide)]
        else:
            cut = [part[y : y + how.rows] for y in range(0, height, how.rows)]
        pieces += [packed(piece, bits, how) for piece in cut]
    long = "Q" if how.big else "I"
    start = 16 if how.big else 8
    offsets = [start + sum(map(len, pieces[:i])) for i in range(len(pieces))]
    places = {322: [how.tile[1]], 323: [how.tile[0]], 324: offsets, 325: list(map(len, pieces))} if how.tile[0] else {
        273: offsets, 278: [how.rows], 279: list(map(len, pieces))}  # fmt: skip
    entries = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [how.compression], 262: [photometric],
        277: [channels], 284: [2 if how.planar else 1], **({274: [how.orientation]} if how.orientation > 1 else {}),
        **({266: [2]} if how.fill == 2 else {}), **({317: [2]} if how.predictor else {}), **tags, **places,
    }  # fmt: skip
    body = b"".join(pieces)
    body += b"\0" * (len(body) % 2)
    at = start + len(body)
    size, room = (20, 8) if how.big else (12, 4)
    behind = at + (8 if how.big else 2) + size * len(entries) + room
    directory = struct.pack(how.endian + ("Q" if how.big else "H"), len(entries))
    values = b""
    for tag, numbers in sorted(entries.items()):
        kind, code = ((16 if how.big else 4), long) if tag in places else (3, "H")
        stored = struct.pack(f"{how.endian}{len(numbers)}{code}", *numbers)
        directory += struct.pack(f"{how.endian}HH{long}", tag, kind, len(numbers))
        if len(stored) > room:
            directory, values = directory + struct.pack(how.endian + long, behind + len(values)), values + stored
        else:
            directory += stored.ljust(room, b"\0")
    mark = b"II" if how.endian == "<" else b"MM"
    head = struct.pack(how.endian + "HHHQ", 43, 8, 0, at) if how.big else struct.pack(how.endian + "HI", 42, at)
    return mark + head + body + directory + bytes(room) + values


def packed(piece: np.ndarray, bits: int, how: Writing) -> bytes:
    """The bytes of a strip or a tile [h, w, s]."""
    if how.predictor:
        before = np.concatenate([np.zeros_like(piece[:, :1]), piece[:, :-1]], axis=1)
        piece = (piece.astype(np.int64) - before) % (1 << bits)
    flat = piece.reshape(len(piece), -1)
    if bits in (8, 16):
        rows = np.ascontiguousarray(flat.astype(f"{how.endian}u{bits // 8}")).view(np.uint8).reshape(len(flat), -1)
    else:
        each = (flat[:, :, None].astype(np.int64) >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(each.reshape(len(flat), -1).astype(np.uint8), axis=1)
    raw = rows.tobytes()
    if how.compression == LZW:
        raw = lzw(raw)
    elif how.compression == DEFLATE:
        raw = zlib.compress(raw)
    elif how.compression == LZMA:
        raw = lzma.compress(raw)
    elif how.compression == PACKBITS:  # every row by itself
        raw = b"".join(bytes([len(p) - 1]) + p for row in rows for p in split(row.tobytes(), 128))
    if how.fill == 2:  # of the packed bytes
        raw = np.packbits(np.unpackbits(np.frombuffer(raw, np.uint8).reshape(-1, 1), axis=1)[:, ::-1], axis=1).tobytes()
    return raw


def split(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def lzw(data: bytes) -> bytes:
    """LZW without compression: the table is cleared before its codes get longer than nine bits."""
    codes = [code for part in split(data, 250) for code in (256, *part)] + [257]
    bits = (np.array(codes)[:, None] >> np.arange(9)[::-1]) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def picture(channels: int, bits: int, seed: int = 0) -> np.ndarray:
    """[H, W, channels] of smooth values over the whole range."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rng = np.random.default_rng(seed)
    waves = [np.sin(x / (3 + c) + c) * np.cos(y / (5 + c)) + rng.normal(0, 0.1, x.shape) for c in range(channels)]
    return (np.stack(waves, 2) * 0.55 + 0.5).clip(0, 1) * ((1 << bits) - 1) // 1


def eight(samples: np.ndarray, bits: int) -> np.ndarray:
    """As 8 bits; a level off is no fault."""
    return (samples.astype(float) * 255 / ((1 << bits) - 1)).round().astype(np.uint8)


def kinds() -> Iterator[tuple[str, np.ndarray, int, int, dict[int, list[int]], np.ndarray]]:
    """(name, samples, bits, photometric, tags, pixels shown [H, W, 3])."""
    for bits in (1, 2, 3, 4, 6, 8, 10, 12, 14, 16):
        gray = picture(1, bits)
        yield f"gray {bits}", gray, bits, 1, {}, eight(gray, bits)
        yield f"white is zero {bits}", (1 << bits) - 1 - gray, bits, 0, {}, eight(gray, bits)
    for bits in (8, 16):
        gray, extra = picture(1, bits), picture(2, bits, 1)[:, :, 1:]
        for kind in (0, 2):
            yield f"gray {bits} + {kind}", np.dstack([gray, extra]), bits, 1, {338: [kind]}, eight(gray, bits)
        rgb = picture(3, bits)
        yield f"rgb {bits} + 0 + 0", np.dstack([rgb, extra, extra]), bits, 2, {338: [0, 0]}, eight(rgb, bits)
        for kind in (0, 2):
            yield f"rgb {bits} + {kind}", np.dstack([rgb, extra]), bits, 2, {338: [kind]}, eight(rgb, bits)
        most = (1 << bits) - 1
        alpha = picture(2, bits, 2)[:, :, 1:] // 2 + most // 2 + 1
        yield f"rgb {bits} x alpha", np.dstack([rgb * alpha // most, alpha]), bits, 2, {338: [1]}, eight(rgb, bits)
        yield f"gray {bits} x alpha", np.dstack([gray * alpha // most, alpha]), bits, 1, {338: [1]}, eight(gray, bits)
        inks = picture(4, bits, 3)
        light = (1 - inks[:, :, :3] / most) * (1 - inks[:, :, 3:] / most)
        yield f"cmyk {bits}", inks, bits, 5, {}, (light * 255).round().astype(np.uint8)
        yield f"cmyk {bits} + 2", np.dstack([inks, extra]), bits, 5, {338: [2]}, (light * 255).round().astype(np.uint8)
    for bits in (4, 8, 12, 16):
        rgb = picture(3, bits, 4)
        yield f"rgb {bits}", rgb, bits, 2, {}, eight(rgb, bits)
    for bits in (1, 2, 4, 8, 12):
        indexes, colours = picture(1, bits, 5), np.random.default_rng(6).integers(0, 256, (1 << bits, 3))
        table = {320: (colours.T.reshape(-1) * 257).tolist()}
        yield f"palette {bits}", indexes, bits, 3, table, colours[indexes[:, :, 0].astype(int)].astype(np.uint8)
        if bits == 8:
            more = np.dstack([indexes, picture(1, 8, 7)])
            yield (
                "palette 8 + 2",
                more,
                bits,
                3,
                {**table, 338: [2]},
                colours[indexes[:, :, 0].astype(int)].astype(np.uint8),
            )


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As EXIF says, by what each number means for the first row and column."""
    flipped = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1]}
    if orientation < 5:
        return flipped[orientation]
    side = pixels.transpose(1, 0, 2)
    return {5: side, 6: side[:, ::-1], 7: side[::-1, ::-1], 8: side[::-1]}[orientation]


def variants(every: int = 1) -> Iterator[tuple[str, bytes, np.ndarray, float]]:
    """(name, file, pixels that a viewer shows, levels that they may differ by on average) of each n-th."""
    orientations, number = cycle(range(1, 9)), count()
    for name, samples, bits, photometric, tags, shown in kinds():
        if shown.shape[2] == 1:
            shown = np.repeat(shown, 3, axis=2)
        pieces: list[dict[str, Any]] = [{}, {"rows": 7}, {"tile": (16, 16)}, {"tile": (16, 48)}]
        for endian, big, planar, packing, piece in product(
            "<>", (False, True), (False, True), (NONE, LZW, DEFLATE, PACKBITS, LZMA), pieces
        ):
            if (planar and samples.shape[2] == 1) or (packing == LZMA and (big or endian == ">")):
                continue
            plain = Writing(endian, big, planar, packing, orientation=next(orientations), **piece)
            ways = [plain]
            if bits in (8, 16) and packing in (LZW, DEFLATE, LZMA):
                ways.append(replace(plain, predictor=True, orientation=next(orientations)))
            if bits <= 8 and not big and packing in (NONE, LZW):
                ways.append(replace(plain, fill=2))
            for how in ways:
                if next(number) % every:
                    continue
                data = write(samples.astype(np.int64), bits, photometric, how, tags)
                yield f"TIFF {name}: {how}", data, turn(shown, how.orientation), 1.5
