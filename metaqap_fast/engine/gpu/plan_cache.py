"""Built engines on disk: found again only by everything that decides them, loaded only if they are this user's.

An engine is code for a GPU. It is loaded only from a file that this user owns, that nobody else can write, and
whose sha256 is the one that was noted when it was built.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metaqap_fast import __version__
from metaqap_fast.engine import cache

log = logging.getLogger(__name__)
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Key:
    """What decides an engine.

    `part` is a member's name or `merged`; `graph` the sha256 of its ONNX graph, in which its precision, its
    weights and its 8-bit ranges are; `gpu` a device's name and compute capability, or the targets that it was
    built for; `batch` the one that it runs; `options` whatever else the builder was told.
    """

    model: str
    part: str
    precision: str
    graph: str
    library: str
    gpu: str
    batch: int
    options: tuple[tuple[str, str], ...] = ()

    @property
    def slot(self) -> str:
        """Folder that engines for the same purpose share."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{self.model}-{self.part}-{self.precision}")

    @property
    def digest(self) -> str:
        """Of all of it."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return json.loads(json.dumps({"format": FORMAT, **asdict(self)}))  # type: ignore[no-any-return]


def root() -> Path:
    """The folder of engines in the cache.

    Raises:
        FileNotFoundError: there is no home folder to have a cache in.
    """
    return cache.location() / "engines"


@contextmanager
def alone() -> Iterator[None]:
    """While entered, other processes with this cache wait here; where it cannot be written, they do not."""
    try:
        root().mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open(root() / "lock", "ab")
    except OSError:
        yield
        return
    with file:  # the lock goes with it, and with the process
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load(key: Key) -> tuple[bytes, dict[str, Any]] | None:
    """The engine and its metadata, or None, with a message if one was there that cannot be used."""
    name = f"{key.part} of {key.model} in {key.precision}"
    try:
        folder = root() / key.slot / key.digest[:32]
        if not folder.is_dir():
            _say_what_changed(key, name)
            return None
        document = json.loads(cache.read(folder / "engine.json"))
        plan = cache.read(folder / "engine.plan")
    except (OSError, ValueError) as error:
        log.warning("the engine for %s cannot be used (%s). Building it again", name, error)
        return None
    if not isinstance(document, dict) or document.get("key") != key.as_dict():
        log.warning("the engine for %s in %s was made for something else. Building it again", name, folder)
        return None
    if hashlib.sha256(plan).hexdigest() != document.get("sha256"):
        log.warning("the engine for %s in %s is damaged: its sha256 differs. Building it again", name, folder)
        return None
    return plan, document


def save(key: Key, plan: bytes, metadata: dict[str, Any]) -> bool:
    """Keep an engine, whole or not at all, for this user alone, if the cache can be written."""
    document = {
        "program_version": __version__,
        "key": key.as_dict(),
        "sha256": hashlib.sha256(plan).hexdigest(),
        "bytes": len(plan),
        **metadata,
    }
    text = (json.dumps(document, indent=1) + "\n").encode()
    # The plan first: an engine without its metadata is not there.
    return _write(_file(key, "engine.plan"), plan) and _write(_file(key, "engine.json"), text)


def load_compiled(key: Key) -> bytes:
    """What the library compiled for an engine on this GPU; empty if nothing is kept."""
    return _read(_file(key, "engine.compiled"))


def save_compiled(key: Key, data: bytes) -> None:
    """Keep that beside the engine."""
    _write(_file(key, "engine.compiled"), data)


def timings(name: str) -> bytes:
    """What a builder measured before on such a GPU; empty if nothing is kept."""
    return _read(f"{name}.timing")


def save_timings(name: str, data: bytes) -> None:
    """Keep that for the next build."""
    _write(f"{name}.timing", data)


def _file(key: Key, name: str) -> str:
    return f"{key.slot}/{key.digest[:32]}/{name}"


def _read(name: str) -> bytes:
    """A file that may be missing, damaged or not ours; then empty."""
    try:
        return cache.read(root() / name)
    except OSError:
        return b""


def _write(name: str, data: bytes) -> bool:
    try:
        cache.write(root() / name, data)
    except OSError as error:
        cache.unwritable(error)
        return False
    return True


def _say_what_changed(key: Key, name: str) -> None:
    """Name what the newest engine for the same purpose was made for, if there is one."""
    found = sorted((root() / key.slot).glob("*/engine.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        return
    try:
        old = json.loads(cache.read(found[-1]))["key"]
        new = key.as_dict()
        changed = [f"{field} {old.get(field)!r}, now {new[field]!r}" for field in new if old.get(field) != new[field]]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        changed = [str(error)]
    changed = [text if len(text) < 120 else text.partition(" ")[0] for text in changed]
    log.warning("an engine for %s is there, but made for another %s. Building one", name, "; ".join(changed))
