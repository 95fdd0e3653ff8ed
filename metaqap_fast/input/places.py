"""Where something is, and the key that this gives it.

An address is an absolute path or a URL without credentials, as bytes. Addresses compare by their components, so one
rule serves disks and buckets: a key is the address relative to the root, the deepest folder that holds all sources.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import quote_from_bytes, unquote_to_bytes

_BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<words>[^{}]*,[^{}]*))\}")
# Parts of queries that let someone in: of Amazon, Google, Azure and others.
_SECRET = re.compile(
    rb"(x-amz-|x-goog-|(signature|sig|token|access_token|awsaccesskeyid|googleaccessid|expires|policy|key-pair-id"
    rb"|key|api_?key|auth|password|s[eprtv]|spr|sk(oid|tid|t|e|s|v))(=|$))",
    re.IGNORECASE,
)
_URL = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(name: bytes) -> bool:
    """Whether it begins with a scheme, such as s3://."""
    return _URL.match(name) is not None


def absolute(path: bytes) -> bytes:
    """A local path from the root, each part once: without `.`, `..` and doubled slashes. Links keep their names."""
    parts = path.split(b"/")
    if b".." in parts:  # what is above a link is what is above its target
        last = len(parts) - parts[::-1].index(b"..")
        path = os.path.join(os.path.realpath(b"/".join(parts[:last])), *parts[last:])
    path = os.path.abspath(path)
    return path[1:] if path.startswith(b"//") else path


def plain(url: bytes) -> bytes:
    """A URL without credentials: no user, no password, no signature in its query, and no fragment."""
    scheme, _, rest = url.partition(b"://")
    host, slash, path = rest.partition(b"/")
    path, _, query = path.partition(b"?") if scheme.startswith(b"http") else (path, b"", b"")
    kept = [part for part in query.partition(b"#")[0].split(b"&") if part and not _SECRET.match(part)]
    path += b"?" + b"&".join(kept) if kept else b""
    return scheme.lower() + b"://" + host.rpartition(b"@")[2] + slash + path


def common(folders: Iterable[bytes]) -> bytes | None:
    """The deepest folder that holds all folders, without a slash at its end; None if there is none.

    Two buckets, or a bucket and a disk, have none.
    """
    shared: list[bytes] | None = None
    for folder in folders:
        parts = folder.rstrip(b"/").split(b"/")
        if shared is None:
            shared = parts
        elif parts[: len(shared)] != shared:
            same = (i for i, (a, b) in enumerate(zip(shared, parts, strict=False)) if a != b)
            shared = shared[: next(same, min(len(shared), len(parts)))]
    if shared is None or not shared or (shared[0] and len(shared) < 3):  # not even a bucket
        return None
    return b"/".join(shared)


def inside(address: bytes, root: bytes | None) -> bool:
    """Whether it is the root or lies in it."""
    return root is not None and (address.startswith(root + b"/") or address == root)


def key_of(address: bytes, root: bytes | None) -> bytes:
    """The address relative to the root, which itself is empty; what lies elsewhere keeps its whole address."""
    return address[len(root) + 1 :] if root is not None and inside(address, root) else address


def url(address: bytes | None) -> str:
    """An address as a URL; empty for None."""
    if address is None:
        return ""
    if is_url(address):
        return address.decode(errors="backslashreplace")
    return "file://" + quote_from_bytes(address or b"/")


def address_of(root: str) -> bytes | None:
    """The address that `url` made a URL of."""
    if not root:
        return None
    return unquote_to_bytes(root[len("file://") :]).rstrip(b"/") if root.startswith("file://") else os.fsencode(root)


def braces(name: str) -> list[str]:
    """`shard-{000..099}.tar` and `{a,b}.zip` as a shell would spell them out; a name without braces is itself."""
    match = _BRACES.search(name)
    if match is None:
        return [name]
    if match["first"] is None:
        middle = match["words"].split(",")
    else:
        first, last = int(match["first"]), int(match["last"])
        digits = max(len(match["first"]), len(match["last"])) if "0" in (match["first"][0], match["last"][0]) else 0
        step = 1 if last >= first else -1
        middle = [f"{number:0{digits}d}" for number in range(first, last + step, step)]
    start, end = name[: match.start()], name[match.end() :]
    return [found for word in middle for found in braces(start + word + end)]


def one_name(folders: Iterable[bytes]) -> dict[bytes, bytes]:
    """Local folders -> a name for each, so that a folder that can be reached by several links has only one.

    A folder in another one of them is named as a part of it.
    """
    real = {folder: os.path.realpath(folder) for folder in folders}
    best: dict[bytes, bytes] = {}
    for folder, target in sorted(real.items(), key=lambda item: (item[0] != item[1], item[0])):
        best.setdefault(target, folder)
    found = {}
    for folder, target in real.items():
        parts = target.split(b"/")
        above = (b"/".join(parts[:n]) or b"/" for n in range(1, len(parts) + 1))
        outer = next(place for place in above if place in best)
        found[folder] = (best[outer].rstrip(b"/") + b"/" + target[len(outer) :].lstrip(b"/")).rstrip(b"/") or b"/"
    return found
