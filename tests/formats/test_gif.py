"""GIF: the first frame, how many there are, and what is cut."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import read_header

FRAMES = [Image.effect_noise((40, 30), 50).convert("P") for _ in range(3)]


def gif(count: int) -> bytes:
    out = io.BytesIO()
    FRAMES[0].save(out, "GIF", save_all=True, append_images=FRAMES[1:count], loop=0)
    return out.getvalue()


@pytest.mark.parametrize("count", [1, 3])
def test_frames(count: int) -> None:
    header = read_header(gif(count))
    assert (header.width, header.height, header.frames, header.defect, header.decoder) == (40, 30, count, "", "pillow")
    assert header.note == ("the first of 3 pictures" if count == 3 else "")


def test_every_truncation_is_seen_but_that_of_the_last_byte() -> None:
    data = gif(1)
    for n in range(14, len(data)):
        try:
            defect = read_header(data[:n]).defect
        except ImageError as error:
            assert error.status == Status.corrupt
        else:
            assert bool(defect) == (n < len(data) - 1), n


def test_a_frame_larger_than_its_screen() -> None:
    data = bytearray(gif(1))
    data[6:10] = b"\x05\0\x06\0"
    assert (read_header(bytes(data)).width, read_header(bytes(data)).height) == (40, 30)


def test_a_size_that_its_data_cannot_hold() -> None:
    data = gif(1)
    at = data.index(b",\0\0\0\0")
    lying = data[: at + 5] + b"\xff\xff\xff\xff" + data[at + 9 :]
    assert "cannot hold" in read_header(lying).defect


def test_blocks_that_are_none() -> None:
    data = gif(1)
    assert "unknown block" in read_header(data[:-1] + b"\x99").defect
    empty = data[:10] + b"\0" + data[11:13] + b";"
    assert read_header(empty).defect == "no frame"
