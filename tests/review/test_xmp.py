"""Sidecars: what they hold stays, what is ours is added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from lxml import etree

from metaqap_fast.cli import main
from metaqap_fast.errors import MetaqapError
from metaqap_fast.review.xmp import NEW, with_properties

Scored = Callable[..., Path]
XMP = "{http://ns.adobe.com/xap/1.0/}"
DARKTABLE = b"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/" xmp:Rating="0" darktable:auto_presets_applied="1">
   <darktable:history><rdf:Seq>
    <rdf:li darktable:operation="exposure" darktable:enabled="1"/>
   </rdf:Seq></darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""


def values(document: bytes, name: str) -> list[str]:
    root = etree.fromstring(document)
    return [*(one.get(XMP + name) for one in root.iter() if one.get(XMP + name)), *root.xpath(  # type: ignore[arg-type]
        f"//*[local-name()='{name}']/text()")]  # fmt: skip


def select(scores: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["select", str(scores), *map(str, arguments)])


def test_a_sidecar_is_merged() -> None:
    merged, kept = with_properties(DARKTABLE, "x.xmp", [("Rating", "-1"), ("Label", "Red")], replace=False)
    assert merged is not None
    assert not kept
    assert values(merged, "Rating") == ["-1"]  # once, though it was an attribute
    assert values(merged, "Label") == ["Red"]
    assert b'<rdf:li darktable:operation="exposure" darktable:enabled="1"/>' in merged
    assert b'x:xmptk="XMP Core 4.4.0-Exiv2"' in merged
    assert with_properties(merged, "x.xmp", [("Rating", "-1"), ("Label", "Red")], replace=False) == (None, False)


def test_an_own_rating_stays_unless_it_is_replaced() -> None:
    mine, _ = with_properties(NEW, "x.xmp", [("Rating", "5")], replace=False)
    assert mine is not None
    merged, kept = with_properties(mine, "x.xmp", [("Rating", "1"), ("Label", "Red")], replace=False)
    assert merged is not None
    assert kept
    assert (values(merged, "Rating"), values(merged, "Label")) == (["5"], ["Red"])
    merged, kept = with_properties(mine, "x.xmp", [("Rating", "1")], replace=True)
    assert merged is not None
    assert not kept
    assert values(merged, "Rating") == ["1"]


ENTITY = NEW.partition(b"?>")[2].replace(b"/>", b">&e;</rdf:Description>", 1)


@pytest.mark.parametrize(
    "document", [b"not xml", b"<html/>", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + ENTITY]
)
def test_what_is_no_sidecar_is_refused(document: bytes) -> None:
    with pytest.raises(MetaqapError, match=r"x\.xmp is not"):
        with_properties(document, "x.xmp", [("Rating", "1")], replace=False)


def test_written_beside_the_images(scored: Scored, tmp_path: Path) -> None:
    scores, photos = scored({"a.jpg": 0.1, "b.jpg": 0.2, "c.jpg": 0.9}), tmp_path / "photos"
    (photos / "b.xmp").write_bytes(DARKTABLE)  # by Lightroom's way of naming
    result = select(scores, "--worst", "2", "--xmp", "--rating", "1", "--label", "Red", "--yes")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in photos.glob("*.xmp")) == ["a.jpg.xmp", "b.xmp"]
    for name in ("a.jpg.xmp", "b.xmp"):
        document = (photos / name).read_bytes()
        assert (values(document, "Rating"), values(document, "Label")) == (["1"], ["Red"])
    result = select(scores, "--best", "1", "--xmp", "--sidecars", "stem", "--yes")
    assert values((photos / "c.xmp").read_bytes(), "Label") == ["Green"]


@pytest.mark.parametrize(("content", "mode", "says"), [(DARKTABLE, 0o444, "read-only"), (b"<x", 0o644, "is not XML")])
def test_one_that_cannot_be_written_stops_all(
    scored: Scored, tmp_path: Path, content: bytes, mode: int, says: str
) -> None:
    scores, photos = scored({"a.jpg": 0.1, "b.jpg": 0.2}), tmp_path / "photos"
    (photos / "b.jpg.xmp").write_bytes(content)
    (photos / "b.jpg.xmp").chmod(mode)
    result = select(scores, "--worst", "2", "--xmp", "--yes")
    assert result.exit_code == 1
    assert says in result.output
    assert "b.jpg.xmp" in result.output
    assert [path.name for path in photos.glob("*.xmp")] == ["b.jpg.xmp"]
    assert (photos / "b.jpg.xmp").read_bytes() == content
