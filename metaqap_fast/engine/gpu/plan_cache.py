"""Built engines on disk: found again only by everything that decides them, loaded only if they are this user's.

An engine is code for a GPU. It is loaded only from a file that this user owns, that nobody else can write, and
whose sha256 is the one that was noted when it was built.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metaqap_fast import __version__
from metaqap_fast.engine.openvino import cache_dir
from metaqap_fast.errors import MetaqapError

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
    """The folder of engines in the cache; made for this user alone.

    Raises:
        MetaqapError: it cannot be made.
    """
    path = cache_dir() / "engines"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MetaqapError(f"cannot make {path}: {error.strerror}. Set METAQAP_FAST_CACHE to another folder") from None
    return path


def load(key: Key) -> tuple[bytes, dict[str, Any]] | None:
    """The engine and its metadata, or None, with a message if one was there that cannot be used."""
    folder = root() / key.slot / key.digest[:32]
    name = f"{key.part} of {key.model} in {key.precision}"
    if not folder.is_dir():
        _say_what_changed(key, name)
        return None
    try:
        document = json.loads(_read(folder / "engine.json"))
        plan = _read(folder / "engine.plan")
    except (OSError, ValueError) as error:
        log.warning("the engine for %s cannot be used: %s. Building it again", name, error)
        return None
    if not isinstance(document, dict) or document.get("key") != key.as_dict():
        log.warning("the engine for %s in %s was made for something else. Building it again", name, folder)
        return None
    if hashlib.sha256(plan).hexdigest() != document.get("sha256"):
        log.warning("the engine for %s in %s is damaged: its sha256 differs. Building it again", name, folder)
        return None
    return plan, document


def save(key: Key, plan: bytes, metadata: dict[str, Any]) -> Path:
    """Keep an engine; whole or not at all, for this user alone. Returns its folder."""
    folder = root() / key.slot / key.digest[:32]
    document = {
        "program_version": __version__,
        "key": key.as_dict(),
        "sha256": hashlib.sha256(plan).hexdigest(),
        "bytes": len(plan),
        **metadata,
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The plan first: an engine without its metadata is not there.
    write_private(folder / "engine.plan", plan)
    write_private(folder / "engine.json", (json.dumps(document, indent=1) + "\n").encode())
    return folder


def load_compiled(key: Key) -> bytes:
    """What the library compiled for an engine on this GPU; empty if nothing is kept."""
    return read_private(root() / key.slot / key.digest[:32] / "engine.compiled")


def save_compiled(key: Key, data: bytes) -> None:
    """Keep that beside the engine."""
    write_private(root() / key.slot / key.digest[:32] / "engine.compiled", data)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file by one that only this user can read and write."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path) -> bytes:
    """A file that is this user's alone; the check is on what was opened, not on a name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.getuid():
            raise PermissionError(f"{path} belongs to another user")
        if status.st_mode & 0o022:
            raise PermissionError(f"{path} can be written by others")
        return file.read()


def read_private(path: Path) -> bytes:
    """A file of this cache that may be missing, damaged or not ours; then empty."""
    try:
        return _read(path)
    except OSError:
        return b""


def _say_what_changed(key: Key, name: str) -> None:
    """Name what the newest engine for the same purpose was made for, if there is one."""
    found = sorted((root() / key.slot).glob("*/engine.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        return
    try:
        old = json.loads(_read(found[-1]))["key"]
        new = key.as_dict()
        changed = [f"{field} {old.get(field)!r}, now {new[field]!r}" for field in new if old.get(field) != new[field]]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        changed = [str(error)]
    changed = [text if len(text) < 120 else text.partition(" ")[0] for text in changed]
    log.warning("an engine for %s is there, but made for another %s. Building one", name, "; ".join(changed))
