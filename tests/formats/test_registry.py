"""The table of formats: names, extensions and signatures are each in one place, and every decoder exists."""

from __future__ import annotations

import pytest

from metaqap_fast.decode.pixels import DECODERS
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import EXTENSIONS, FORMATS, read_header
from metaqap_fast.formats.format import START


def test_each_format_is_there_once() -> None:
    names = [each.name for each in FORMATS]
    extensions = [extension for each in FORMATS for extension in each.extensions]
    assert len(set(names)) == len(names) and len(set(extensions)) == len(extensions)
    assert all(extension.startswith(".") and extension == extension.lower() for extension in extensions)
    assert {each.decoder for each in FORMATS} <= set(DECODERS)


def test_the_extensions_of_a_folder() -> None:
    assert (
        frozenset(
            b".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .tif .tiff .btf .bmp .dib .rle"
            b" .ppm .pgm .pnm .pbm .jp2 .j2k .jpx .j2c .jpf .jpc"
            b" .gif .heic .heif .hif .avif .avifs .jxl .cr2 .cr3 .nef .nrw .arw .sr2 .dng .raf .orf .rw2 .pef"
            b" .srw".split()
        )
        == EXTENSIONS
    )


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"P7\n", "PAM"),
        (b"8BPS", "PSD"),
        (b"%PDF", "PDF"),
        (b"<svg", "SVG"),
    ],
)
def test_known_and_refused(start: bytes, name: str) -> None:
    with pytest.raises(ImageError, match="is not supported") as error:
        read_header(start + bytes(50))
    assert error.value.status == Status.unsupported and error.value.reason.startswith(name)


@pytest.mark.parametrize("start", [b"P5x", b"P0 ", b"P8 ", b"xftypheic", b"RIFF\0\0\0\0WAVE", b"BM", b"GIF88a"])
def test_what_only_looks_like_a_signature(start: bytes) -> None:
    with pytest.raises(ImageError, match="not an image") as error:
        read_header(start)
    assert error.value.status == Status.unsupported


def test_no_signature_needs_more_than_is_looked_at() -> None:
    for each in FORMATS:
        assert not each.matches(bytes(START)) and not each.matches(b"")
