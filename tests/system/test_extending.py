"""To add a format, a decoder or a source is to add a file and an entry of a table, as ARCHITECTURE.md says."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from PIL import Image

from bundles import VIEW
from extended import extend, rows

FORMAT = """
import struct

from metaqap_fast.formats.format import Format, Header, starts


def parse(view: memoryview) -> Header:
    width, height = struct.unpack_from("<HH", view, 4)
    return Header(width, height, defect="" if len(view) >= 8 + width * height else "truncated")


FORMAT = Format("Toy", starts(b"TOY!"), parse, (".toy",), decoder="toy")
"""

DECODER = '''
import ctypes

import numpy as np


def decode(data: memoryview, header: object) -> object:
    """Gray pixels, one byte each; what stands behind them says what goes wrong."""
    fate = bytes(data[8 + header.width * header.height :])
    if fate == b"crash":
        ctypes.string_at(0)
    if fate == b"raise":
        raise KeyError("a bug of the library")
    height = header.height + (fate == b"large")
    gray = np.resize(np.frombuffer(data[8:], np.uint8), (height, header.width))
    return np.repeat(gray[:, :, None], 3, axis=2)
'''

SOURCE = '''
from dataclasses import dataclass

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.input.members import Kind
from metaqap_fast.records import Stamp


@dataclass(frozen=True)
class Member:
    key: bytes
    data: bytes
    distant = False
    kept = 0

    def stamp(self) -> Stamp:
        return Stamp(len(self.data))

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | None:
        if not self.data:
            raise ImageError(Status.unreadable, "the member is gone")
        return None if len(self.data) > ahead_bytes else self.data


def members(data, names, options):
    """Images of one length, one behind the other."""
    size = int.from_bytes(data.read(0, 4), "little")
    for i, start in enumerate(range(4, data.size, size)):
        yield Member(names.key(b"%d.png" % i), data.read(start, size))
    yield Member(names.key(b"gone"), b"")


KIND = Kind("pack", (b".pack",), members)
'''


@pytest.fixture
def gray(photo: Image.Image) -> Image.Image:
    return photo.convert("L").resize((VIEW + 60, VIEW + 20))


def toy(image: Image.Image, fate: bytes = b"") -> bytes:
    return b"TOY!" + struct.pack("<HH", *image.size) + image.tobytes() + fate


def test_a_format_and_its_decoder(tmp_path: Path, gray: Image.Image, bundle: Path) -> None:
    extend(
        tmp_path,
        {"formats/toy.py": FORMAT, "decode/toy.py": DECODER},
        {
            "formats/__init__.py": ["import bmp, |toy, ", "    jpeg2000.FORMAT,\n|    toy.FORMAT,\n"],
            "decode/pixels.py": [
                "from collections.abc import Callable\n\n|from metaqap_fast.decode import toy\n",
                "see `metaqap_fast.decode.dali`\n|    'toy': toy.decode,\n",
            ],
        },
    )
    (tmp_path / "images").mkdir()
    for name, fate in (("sound", b""), ("crash", b"crash"), ("raise", b"raise"), ("large", b"large")):
        (tmp_path / "images" / f"{name}.toy").write_bytes(toy(gray, fate))
    (tmp_path / "images" / "cut.TOY").write_bytes(toy(gray)[:-1])
    (tmp_path / "images" / "other.xyz").write_bytes(toy(gray))
    gray.save(tmp_path / "images" / "same.png")
    found = rows(tmp_path, bundle, tmp_path / "images")
    assert set(found) == {"sound.toy", "crash.toy", "raise.toy", "large.toy", "cut.TOY", "same.png"}
    assert found["sound.toy"] == found["same.png"] and found["sound.toy"][0] == "ok"
    for name, words in {
        "crash.toy": "SIGSEGV", "raise.toy": "a bug of the library", "large.toy": "the decoded image has 124x85",
        "cut.TOY": "Toy: truncated",
    }.items():  # fmt: skip
        status, score, error = found[name]
        assert status == "corrupt" and score is None and words in error


def test_a_source(tmp_path: Path, photo: Image.Image, bundle: Path) -> None:
    extend(
        tmp_path,
        {"input/toy.py": SOURCE},
        {"input/kinds.py": ["input import inflate, tables, tar, |toy, ", "KINDS: tuple[Kind, ...] = (|toy.KIND, "]},
    )
    (tmp_path / "images").mkdir()
    bodies = []
    for i in range(3):
        photo.crop((i, i, i + VIEW, i + VIEW)).save(tmp_path / "images" / f"{i}.bmp")  # all of one length
        bodies.append((tmp_path / "images" / f"{i}.bmp").read_bytes())
    pack = tmp_path / "all.pack"
    pack.write_bytes(len(bodies[0]).to_bytes(4, "little") + b"".join(bodies))
    found = rows(tmp_path, bundle, tmp_path / "images", pack)
    assert len(found) == 7
    for i in range(3):
        assert found[f"images/{i}.bmp"] == found[f"all.pack/{i}.png"] and found[f"all.pack/{i}.png"][0] == "ok"
    assert found["all.pack/gone"][0] == "unreadable" and found["all.pack/gone"][2] == "the member is gone"
