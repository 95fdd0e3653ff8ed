"""Members of a tar archive, found by hopping from header to header; nothing is unpacked, and names are only text.

Not by the standard library's `tarfile`: it ends without a word at a header that is damaged, and keeps an object for
every member.
"""

from __future__ import annotations

from collections.abc import Iterator

from metaqap_fast.formats.format import START
from metaqap_fast.input.data import Data, Read
from metaqap_fast.input.members import Broken, Damaged, Kind, Member, Names, Options
from metaqap_fast.records import Entry

BLOCK = 512
CHUNK = 1 << 20  # bytes searched at once for the next header, behind a damaged one
LONGEST = 1 << 20  # bytes of an extended header
_LINKS, _FOLDERS = b"12", b"5"


def members(data: Data, names: Names, options: Options) -> Iterator[Entry]:
    """Members that are images, in the archive's order."""
    with data.scan() as read:
        at, wrong = 0, ""
        extended: dict[str, bytes] = {}  # said of the next member
        always: dict[str, bytes] = {}  # of all that follow
        while True:
            found = read(at, BLOCK + START)
            header = found[:BLOCK]
            if not header.strip(b"\0") and len(header) == BLOCK:
                break
            if len(header) < BLOCK or not is_header(header):
                wrong = wrong or (
                    f"no tar header at byte {at}" if len(header) == BLOCK else f"cut short: it has no end at byte {at}"
                )
                if (at := _next_header(read, at + BLOCK)) < 0:
                    break
                extended = {}
                continue
            kind, size = header[156:157], _number(header[124:136])
            if kind in b"xgLK":
                body = read(at + BLOCK, min(size, LONGEST))
                if kind == b"g":
                    always |= _records(body)
                elif kind == b"x":
                    extended |= _records(body)
                else:
                    extended["path" if kind == b"L" else "linkpath"] = body.rstrip(b"\0")
                at += BLOCK + _padded(size)
                continue
            told = always | extended
            extended = {}
            size = int(told.get("size", size))
            name = told.get("path") or _name(header)
            start = at + BLOCK
            if kind in b"0\0" + b"7" and not name.endswith(b"/"):
                key = names.take(name, lambda start=found[BLOCK:][:size]: start)  # type: ignore[misc]
                if key is not None and "GNU.sparse.major" in told:
                    yield Broken(key, "a sparse tar member, which is not supported")
                elif key is not None:
                    yield Member(key, data, start, size)
            elif kind in _LINKS:
                names.leave("link in an archive")
            elif kind not in _FOLDERS and not name.endswith(b"/"):
                names.leave("special member of an archive")
            at = start + _padded(0 if kind in _LINKS + _FOLDERS else size)
            if data.size is not None and at > data.size:
                wrong = wrong or f"cut short: it ends within {name.decode(errors='backslashreplace')!r}"
                break
    if wrong:
        raise Damaged(wrong)


def is_header(block: bytes) -> bool:
    """Whether the checksum of a block says that it is a header."""
    try:
        said = int(block[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    rest = sum(block) - sum(block[148:156]) + 256
    # Some old programs added up signed bytes.
    return said > 256 and (said == rest or said == rest - 256 * sum(byte > 127 for byte in block))


def _next_header(read: Read, at: int) -> int:
    """Where the next header stands; -1 if there is none."""
    while chunk := read(at, CHUNK):
        place = chunk.find(b"ustar")
        while place >= 0:
            begin = place - 257
            if begin >= 0 and begin % BLOCK == 0 and is_header(chunk[begin : begin + BLOCK]):
                return at + begin
            place = chunk.find(b"ustar", place + 1)
        at += CHUNK
    return -1


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # base 256, for more than 8 GB
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _records(body: bytes) -> dict[str, bytes]:
    """The records of an extended header: "length key=value", each with a newline behind it."""
    found: dict[str, bytes] = {}
    while body[:1].isdigit():
        length = int(body.split(b" ", 1)[0])
        key, _, value = body[len(str(length)) + 1 : length - 1].partition(b"=")
        found[key.decode(errors="replace")] = value
        body = body[length:]
    return found


KIND = Kind("tar", (b".tar",), members)
