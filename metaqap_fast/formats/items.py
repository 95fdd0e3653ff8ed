"""The `meta` box of HEIF and AVIF (ISO/IEC 23008-12): which pictures a file holds, where, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from metaqap_fast.formats.boxes import Reader, boxes

# Items that are pictures, by how they are coded or made of others.
PICTURES = (b"hvc1", b"av01", b"grid", b"iden", b"iovl", b"jpeg", b"avc1", b"j2k1", b"vvc1", b"unci", b"hvt1")
DERIVED = (b"grid", b"iden", b"iovl")  # made of other items
_MOST = 100_000  # items or properties of one file


@dataclass(slots=True)
class Items:
    """What a `meta` box says. Items are known by their numbers."""

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    refers: dict[bytes, dict[int, list[int]]] = field(default_factory=dict)  # how -> which -> to which
    properties: list[tuple[bytes, memoryview]] = field(default_factory=list)
    has: dict[int, list[int]] = field(default_factory=dict)  # item -> numbers of its properties, from 1
    ends: dict[int, int] = field(default_factory=dict)  # item -> the last byte of the file that it needs

    def of(self, item: int) -> list[tuple[bytes, memoryview]]:
        """An item's properties, in the order in which they are applied."""
        found = (number - 1 for number in self.has.get(item, ()) if 0 < number <= len(self.properties))
        return [self.properties[i] for i in found]

    def coded(self, item: int) -> list[int]:
        """The coded items that an item is, or is made of, each once."""
        found, waiting, seen = [], [item], {item}
        while waiting:
            item = waiting.pop()
            if self.kinds.get(item) not in DERIVED:
                found.append(item)
                continue
            sources = set(self.refers.get(b"dimg", {}).get(item, ())) - seen
            seen |= sources
            waiting.extend(sorted(sources))
        return found

    def shown(self) -> list[int]:
        """Pictures that stand for themselves: no tile, no thumbnail, no map beside another picture."""
        beside = {which for how in (b"thmb", b"auxl") for which in self.refers.get(how, ())}
        inside = {other for others in self.refers.get(b"dimg", {}).values() for other in others}
        aside = (self.hidden | beside | inside) - {self.primary}
        return [item for item, kind in self.kinds.items() if kind in PICTURES and item not in aside]

    def gain_map(self) -> bool:
        """Whether a map says how to brighten the picture for screens that can."""
        names = (bytes(content[4:60]) for kind, content in self.properties if kind == b"auxC")
        return b"tmap" in self.kinds.values() or any(b"hdrgainmap" in name for name in names)


def read_items(meta: memoryview) -> Items:
    """The content of a `meta` box.

    Raises:
        ValueError, struct.error: it is damaged.
    """
    items = Items()
    for kind, content in boxes(meta[4:]):
        if kind == b"pitm":
            reader = Reader(content)
            items.primary = reader.take(4 if reader.version()[0] else 2)
        elif kind == b"iinf":
            _infos(items, Reader(content))
        elif kind == b"iref":
            _references(items, Reader(content))
        elif kind == b"iloc":
            _places(items, Reader(content))
        elif kind == b"iprp":
            for inner, held in boxes(content):
                if inner == b"ipco":
                    items.properties = list(boxes(held))
                elif inner == b"ipma":
                    _associations(items, Reader(held))
    if len(items.properties) > _MOST or len(items.kinds) > _MOST:
        raise ValueError("more items than any picture has")
    return items


def _infos(items: Items, reader: Reader) -> None:
    reader.take(4 if reader.version()[0] else 2)
    for kind, content in boxes(reader.rest()):
        entry = Reader(content)
        version, flags = entry.version()
        if kind != b"infe" or version < 2:
            continue
        number = entry.take(4 if version > 2 else 2)
        entry.take(2)
        items.kinds[number] = entry.take(4).to_bytes(4, "big")
        if flags & 1:
            items.hidden.add(number)


def _references(items: Items, reader: Reader) -> None:
    size = 4 if reader.version()[0] else 2
    for kind, content in boxes(reader.rest()):
        entry = Reader(content)
        which, count = entry.take(size), entry.take(2)
        items.refers.setdefault(kind, {}).setdefault(which, []).extend(entry.take(size) for _ in range(count))


def _associations(items: Items, reader: Reader) -> None:
    version, flags = reader.version()
    wide = flags & 1
    for _ in range(reader.take(4)):
        number = reader.take(4 if version else 2)
        found = [reader.take(2) & 0x7FFF if wide else reader.take(1) & 0x7F for _ in range(reader.take(1))]
        items.has.setdefault(number, []).extend(found)


def _places(items: Items, reader: Reader) -> None:
    version, _ = reader.version()
    sizes = reader.take(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    if version == 0:
        index_size = 0
    for _ in range(reader.take(4 if version == 2 else 2)):
        number = reader.take(4 if version == 2 else 2)
        method = reader.take(2) & 15 if version else 0
        reader.take(2)
        base, last = reader.take(base_size), 0
        extents = reader.take(2)
        for _ in range(
            extents if offset_size + length_size + index_size else min(extents, 1)
        ):  # of no bytes: one is all
            reader.take(index_size)
            offset = reader.take(offset_size)
            last = max(last, base + offset + reader.take(length_size))
        items.ends[number] = last if method == 0 else 0  # others stand in the box itself, or in another item
