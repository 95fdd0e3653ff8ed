"""Ratings and labels beside images, as Lightroom, digiKam and darktable read them: XMP sidecars.

A sidecar that is there is read by an XML parser, gets the two properties, and keeps the rest. A rating or a label that
it has already is somebody's own and stays, unless it is to be replaced.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.review.images import Images, LeftOut, from_here
from metaqap_fast.scores.durable import replacing
from metaqap_fast.scores.table import ScoreTable

Names = Literal["full", "stem"]  # a.jpg.xmp, a.xmp
X, RDF, XMP = "adobe:ns:meta/", "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://ns.adobe.com/xap/1.0/"
LIMIT = 1 << 24  # bytes of a sidecar; darktable's are some kilobytes
NEW = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="{X}">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="" xmlns:xmp="{XMP}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()


@dataclass(slots=True)
class Sidecars:
    """What is to be written.

    Attributes:
        rating, label: of every image; None and "" for none.
        replace: whether ratings and labels that are there are replaced.
        paths: of the sidecars, which may exist or not.
        kept: how many keep a rating or label of their own.
        left_out: images that cannot be used.
    """

    rating: int | None
    label: str
    replace: bool = False
    paths: list[bytes] = field(default_factory=list)
    kept: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)

    def lines(self) -> list[str]:
        """What would be written, a line for each sidecar."""
        what = ", ".join(f"{name} {value}" for name, value in self.properties())
        return [f"{os.fsdecode(from_here(path))}: {what}" for path in self.paths]

    def properties(self) -> Iterator[tuple[str, str]]:
        """Name and value."""
        if self.rating is not None:
            yield "Rating", str(self.rating)
        if self.label:
            yield "Label", self.label


def planned(
    tables: Iterable[ScoreTable], images: Images, rating: int | None, label: str, replace: bool, names: Names
) -> Sidecars:
    """What is to be written beside the chosen images.

    Raises:
        UsageError: there is nothing to write.
        MetaqapError: a sidecar cannot be read, or be written. Nothing has been written then.
    """
    plan = Sidecars(rating, label, replace)
    if plan.rating is None and not plan.label:
        raise UsageError("say what to write into the sidecars: --rating or --label")
    for table in tables:
        for key in table.keys:
            place = images.place(key)
            if place.why:
                plan.left_out.add(place.why, key)
            else:
                _add(plan, place.path, names)
    return plan


def _add(plan: Sidecars, path: bytes, names: Names) -> None:
    """Plan for the image at a path: whatever sidecars it has, or a new one."""
    both = {"full": path + b".xmp", "stem": os.path.splitext(path)[0] + b".xmp"}
    for sidecar in [name for name in both.values() if os.path.lexists(name)] or [both[names]]:
        merged, kept = _merged(sidecar, plan)
        plan.kept += kept
        if merged is not None:
            plan.paths.append(sidecar)


def write(plan: Sidecars) -> int:
    """Write the sidecars that were planned; returns how many. Each is whole or as it was before.

    Raises:
        MetaqapError: one cannot be written; the message says how many were.
    """
    for done, path in enumerate(plan.paths):
        try:
            merged, _ = _merged(path, plan)
            if merged is None:
                continue
            mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else None
            with replacing(os.fsdecode(path)) as partial:
                partial.write_bytes(merged)
                if mode is not None:
                    partial.chmod(mode)
        except MetaqapError as error:
            raise MetaqapError(
                f"{error}; {done} of {len(plan.paths)} sidecars were written, each of them whole"
            ) from None
    return len(plan.paths)


def _merged(path: bytes, plan: Sidecars) -> tuple[bytes | None, bool]:
    """A sidecar as it is to be, None if it stays; and whether it keeps something of its own."""
    name = os.fsdecode(path)
    try:
        if os.path.lexists(path):
            if not os.stat(path).st_mode & 0o222 or not os.access(path, os.W_OK):
                raise MetaqapError(f"{name} is read-only")
            if os.stat(path).st_size > LIMIT:
                raise MetaqapError(f"{name} is not an XMP sidecar: it has more than {LIMIT} bytes")
            document = Path(name).read_bytes()
        elif not os.access(os.path.dirname(path) or b".", os.W_OK):
            raise MetaqapError(f"{os.path.dirname(name)} cannot be written")
        else:
            document = NEW
    except OSError as error:
        raise MetaqapError(f"cannot read {name}: {error.strerror}") from None
    return with_properties(document, name, list(plan.properties()), plan.replace)


def with_properties(
    document: bytes, name: str, properties: Iterable[tuple[str, str]], replace: bool
) -> tuple[bytes | None, bool]:
    """An XMP document with properties of the xmp namespace set; None if that changes nothing.

    Also whether it keeps a value of its own. A rating of 0 and an empty label are none.

    Raises:
        MetaqapError: it is no XMP; `name` is for the message.
    """
    try:
        from lxml import etree
    except ImportError:
        raise MetaqapError("lxml is missing: pip install 'metaqap-fast[review]'") from None
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root: Any = etree.fromstring(document, parser)
    except etree.XMLSyntaxError as error:
        raise MetaqapError(f"{name} is not XML: {error.msg}") from None
    if root.getroottree().docinfo.doctype:
        raise MetaqapError(f"{name} is not XMP: it has a document type")
    descriptions = root.findall(f".//{{{RDF}}}RDF/{{{RDF}}}Description")
    if root.tag == f"{{{RDF}}}RDF":
        descriptions = root.findall(f"{{{RDF}}}Description")
    if not descriptions:
        raise MetaqapError(f"{name} is not XMP: it has no rdf:Description")
    changed = kept = False
    for what, value in properties:
        tag = f"{{{XMP}}}{what}"
        there = [one.get(tag) or one.findtext(tag) for one in descriptions]
        own = next((text.strip() for text in there if text and text.strip()), "")
        if own == value:
            continue
        if own not in ("", "0") and not replace:
            kept = True
            continue
        for one in descriptions:
            one.attrib.pop(tag, None)
            for element in one.findall(tag):
                one.remove(element)
        etree.SubElement(descriptions[0], tag, nsmap={"xmp": XMP}).text = value
        changed = True
    written = etree.tostring(root.getroottree(), encoding="utf-8")
    return (bytes(written) + b"\n" if changed else None), kept
