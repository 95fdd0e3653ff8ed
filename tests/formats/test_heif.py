"""HEIC and AVIF: the primary item, what it is made of, how it is turned; from boxes made by hand and from encoders."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from PIL import Image

from made import heic
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import read_header
from metaqap_fast.formats.boxes import boxes
from metaqap_fast.formats.icc import from_cicp
from metaqap_fast.formats.items import read_items

IMAGE = Image.effect_noise((48, 32), 60).convert("RGB")


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def full(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, bytes([version]), flags.to_bytes(3, "big"), *parts)


ISPE = full(b"ispe", struct.pack(">II", 48, 32))


def heif(
    items: Mapping[int, bytes],
    properties: Sequence[bytes] = (ISPE,),
    refers: Sequence[bytes] = (),
    primary: int = 1,
    brand: bytes = b"heic",
    hidden: Sequence[int] = (),
    where: Mapping[int, tuple[int, int]] | None = None,
) -> bytes:
    """A file of items of these kinds; the primary one has all properties. `where`: offsets and lengths."""
    infos = [
        full(b"infe", struct.pack(">HH4s", number, 0, kind), b"\0", version=2, flags=int(number in hidden))
        for number, kind in items.items()
    ]
    numbers = bytes(range(1, len(properties) + 1))
    places = [
        struct.pack(">HHHII", number, 0, 1, *(where or {}).get(number, (0, 8))) for number in items
    ]  # fmt: skip
    meta = full(
        b"meta",
        full(b"pitm", struct.pack(">H", primary)),
        full(b"iinf", struct.pack(">H", len(items)), *infos),
        full(b"iref", *refers) if refers else b"",
        box(b"iprp", box(b"ipco", *properties), full(b"ipma", struct.pack(">IHB", 1, primary, len(numbers)), numbers)),
        full(b"iloc", b"\x44\0", struct.pack(">H", len(items)), *places),
    )
    return box(b"ftyp", brand, bytes(4), b"mif1") + meta + box(b"mdat", bytes(64))


def refer(how: bytes, which: int, *others: int) -> bytes:
    return box(how, struct.pack(f">HH{len(others)}H", which, len(others), *others))


def refusal(data: bytes) -> tuple[Status, str]:
    with pytest.raises(ImageError) as error:
        read_header(data)
    return error.value.status, error.value.reason


def test_who_decodes_it() -> None:
    for brand, kind, name, decoder in (
        (b"heic", b"hvc1", "HEIC", "heif"), (b"avif", b"av01", "AVIF", "pillow"),
        (b"mif1", b"av01", "HEIC", "pillow"), (b"mif1", b"hvc1", "HEIC", "heif"),
    ):  # fmt: skip
        header = read_header(heif({1: kind}, brand=brand))
        assert (header.format, header.decoder, header.width, header.height) == (name, decoder, 48, 32)
    assert refusal(heif({1: b"j2k1"})) == (Status.unsupported, "HEIF coded as j2k1 is not supported")
    assert refusal(heif({1: b"hvc1"}, primary=7))[0] == Status.corrupt
    assert "only a sequence" in refusal(box(b"ftyp", b"msf1", bytes(4)) + box(b"moov"))[1]


@pytest.mark.parametrize(("kind", "items"), [(b"hvc1", 9), (b"av01", 9)])
def test_tiles_thumbnails_and_maps_are_no_pictures_of_their_own(kind: bytes, items: int) -> None:
    grid = {1: b"grid", 2: kind, 3: kind, 4: kind, 5: kind, 6: kind, 7: b"Exif", 8: kind}
    refers = [refer(b"dimg", 1, 2, 3), refer(b"thmb", 4, 1), refer(b"auxl", 5, 1)]
    header = read_header(heif(grid, refers=refers, hidden=[6]))
    assert header.note == "the primary one of 2 pictures" and header.frames == 1
    del grid[8]
    assert read_header(heif(grid, refers=refers, hidden=[6])).note == ""


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [None, 0, 1])
def test_how_it_is_turned(turns: int, mirror: int | None) -> None:
    """libheif turns by itself: the header has the size that comes out. libavif leaves it to us."""
    properties = [ISPE, box(b"irot", bytes([turns]))] + ([] if mirror is None else [box(b"imir", bytes([mirror]))])
    found = read_header(heif({1: b"hvc1"}, properties))
    assert found.orientation == 1 and (found.width, found.height) == ((32, 48) if turns & 1 else (48, 32))
    left = read_header(heif({1: b"av01"}, properties, brand=b"avif"))
    assert (left.width, left.height) == (48, 32) and left.display_size == (found.width, found.height)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_encoders_write_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    out = io.BytesIO()
    IMAGE.save(out, "AVIF", exif=exif)
    assert read_header(out.getvalue()).orientation == orientation


@pytest.mark.parametrize("orientation", [6])
def test_exif_does_not_turn_a_heic(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    header = read_header(heic(IMAGE))
    assert (header.width, header.height, header.orientation) == (48, 32, 1)


def test_clean_aperture() -> None:
    clap = box(b"clap", struct.pack(">IIIIiIiI", 40, 1, 20, 1, 0, 1, 0, 1))
    header = read_header(heif({1: b"hvc1"}, [ISPE, clap]))
    assert (header.width, header.height) == (40, 20)
    assert "clean aperture" in refusal(heif({1: b"av01"}, [ISPE, clap], brand=b"avif"))[1]


def test_colours() -> None:
    def nclx(*codes: int) -> bytes:
        return box(b"colr", b"nclx", struct.pack(">HHHB", *codes, 128))

    assert read_header(heif({1: b"hvc1"}, [ISPE, nclx(12, 13, 6)])).icc == from_cicp(12, 13)
    assert read_header(heif({1: b"hvc1"}, [ISPE, nclx(1, 13, 6)])).icc == b""
    both = [ISPE, box(b"colr", b"prof", b"a profile"), nclx(12, 13, 6)]
    assert read_header(heif({1: b"hvc1"}, both)).icc == b"a profile"
    assert refusal(heif({1: b"hvc1"}, [ISPE, nclx(9, 16, 9)]))[1].startswith("HDR (PQ)")


def test_colours_that_only_the_tiles_have() -> None:
    """Telephones and cameras write it so."""
    colr = box(b"colr", b"nclx", struct.pack(">HHHB", 12, 13, 6, 128))
    tiles = {1: b"grid", 2: b"hvc1", 3: b"hvc1"}
    data = heif(tiles, [ISPE, colr], [refer(b"dimg", 1, 2, 3)])
    alike = full(b"ipma", struct.pack(">IHBBB", 1, 1, 2, 1, 2))
    apart = full(b"ipma", struct.pack(">IHBBHBBB", 2, 1, 1, 1, 2, 2, 1, 2))
    moved = data.replace(alike, apart)
    sizes = (b"meta", b"iprp")
    for name in sizes:  # two boxes around it have grown
        at = moved.index(name) - 4
        moved = moved[:at] + (int.from_bytes(moved[at : at + 4], "big") + 4).to_bytes(4, "big") + moved[at + 4 :]
    assert read_header(data).icc == read_header(moved).icc == from_cicp(12, 13) and moved != data
    assert read_header(moved.replace(b"\0\x0c\0\x0d\0\6", b"\0\1\0\x0d\0\6")).icc == b""
    assert "HDR (PQ)" in refusal(moved.replace(b"\0\x0c\0\x0d\0\6", b"\0\x09\0\x10\0\6"))[1]


def test_gain_maps_are_said() -> None:
    aux = full(b"auxC", b"urn:com:apple:photo:2020:aux:hdrgainmap\0")
    assert read_header(heif({1: b"hvc1"}, [ISPE, aux])).note == "its HDR gain map is ignored"
    mapped = heif({1: b"hvc1", 2: b"hvc1", 3: b"tmap"}, refers=[refer(b"dimg", 3, 1, 2)])
    assert read_header(mapped).note == "its HDR gain map is ignored"


def test_data_that_is_missing() -> None:
    whole = heif({1: b"hvc1"}, where={1: (0, 0)})
    data = heif({1: b"hvc1"}, where={1: (len(whole) - 64, 64)})
    assert read_header(data).defect == ""
    assert read_header(data[:-1]).defect == f"truncated, {len(data) - 1} of {len(data)} bytes"
    assert read_header(data + bytes(99)).defect == ""
    tiles = heif({1: b"grid", 2: b"hvc1"}, refers=[refer(b"dimg", 1, 2)], where={2: (0, 1 << 30)})
    assert "truncated" in read_header(tiles).defect


@pytest.mark.parametrize(
    "refers",
    [
        [refer(b"dimg", 1, 1)],
        [refer(b"dimg", 1, 2), refer(b"dimg", 2, 1)],
        [refer(b"dimg", 1, *[2] * 9999), refer(b"dimg", 2, *[1] * 9999)],
        [],
    ],
)
def test_pictures_made_of_themselves_or_of_nothing(refers: list[bytes]) -> None:
    assert refusal(heif({1: b"grid", 2: b"grid"}, refers=refers))[0] == Status.corrupt


def test_every_cut_is_seen() -> None:
    for data in (heic(IMAGE), _avif()):
        assert read_header(data).defect == ""
        for n in range(32, len(data)):
            try:
                assert read_header(data[:n]).defect, n
            except ImageError as error:
                assert error.status in (Status.corrupt, Status.unsupported), n


def _avif() -> bytes:
    out = io.BytesIO()
    IMAGE.save(out, "AVIF")
    return out.getvalue()


def test_boxes_of_odd_sizes() -> None:
    def kinds(data: bytes) -> list[tuple[bytes, bytes]]:
        return [(kind, bytes(content)) for kind, content in boxes(memoryview(data))]

    wide = struct.pack(">I4sQ", 1, b"wide", 20) + b"abcd"
    assert kinds(wide + box(b"more", b"x")) == [(b"wide", b"abcd"), (b"more", b"x")]
    assert kinds(struct.pack(">I4s", 0, b"rest") + b"all") == [(b"rest", b"all")]
    assert kinds(struct.pack(">I4s", 99, b"cuts") + b"all") == [(b"cuts", b"all")]
    assert kinds(struct.pack(">I4s", 7, b"none") + b"all") == [] == kinds(b"\0\0\0\1abcd\0\0")
    assert kinds(box(b"uuid", bytes(16), b"x")) == [(bytes(16), b"x")]
    assert kinds(struct.pack(">I4sQ", 1, b"huge", 1 << 63) + b"x") == [(b"huge", b"x")]


def test_places_that_take_no_bytes_take_no_time() -> None:
    """Found by fuzzing: 65,535 extents of nothing for each of thousands of items."""
    places = full(b"iloc", bytes(2), struct.pack(">H", 9000), struct.pack(">HHH", 1, 0, 65535) * 9000)
    start = time.process_time()
    assert read_items(memoryview(bytes(4) + places)).ends == {1: 0}
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", [b"pitm", b"iinf", b"iref", b"iloc"])
def test_lists_that_are_longer_than_their_box(name: bytes) -> None:
    short: Any = full(name, b"\xff" * (1 if name == b"pitm" else 3))
    if name in (b"iref", b"iinf"):
        short = full(
            name, b"\0\1" if name == b"iinf" else b"", box(b"dimg", b"\0\1\xff\xff\0"), box(b"infe", b"\2\0\0\0\0")
        )
    with pytest.raises(struct.error, match="shorter"):
        read_items(memoryview(bytes(4) + short))
