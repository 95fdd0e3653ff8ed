"""Compiled models on disk, so that the next run need not compile them: never needed, and believed only if unharmed.

The folder is $METAQAP_FAST_CACHE, or metaqap-fast under $XDG_CACHE_HOME or ~/.cache. A file in it is read only if it
belongs to this user and nobody else can write to it, and is replaced whole, so that runs may share the folder. Where it
cannot be written, a warning says so, once, and models are compiled at every start.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
import tempfile
from pathlib import Path

from metaqap_fast.errors import MetaqapError

log = logging.getLogger(__name__)
_DIGEST = hashlib.sha256().digest_size


def location() -> Path:
    """The folder of the cache, which need not exist.

    Raises:
        FileNotFoundError: the user has no home folder, and no other is named.
    """
    if named := os.environ.get("METAQAP_FAST_CACHE"):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named, "metaqap-fast")
    try:
        return Path.home() / ".cache" / "metaqap-fast"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None


def read(path: Path) -> bytes:
    """A file that is this user's alone; the check is on what was opened, not on a name.

    Raises:
        OSError: it is not there, cannot be read, or is another's.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.getuid():
            raise PermissionError(f"{path} belongs to another user")
        if status.st_mode & 0o022:
            raise PermissionError(f"{path} can be written by others")
        return file.read()


def write(path: Path, data: bytes) -> None:
    """Replace a file by one that only this user can read and write, and make its folders likewise.

    Raises:
        OSError: it cannot be written.
    """
    for folder in reversed(path.parents):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
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


def require() -> None:
    """Fail where nothing can be kept: for a command that has nothing else to do.

    Raises:
        MetaqapError: the folder cannot be made or written.
    """
    try:
        probe = location() / ".writable"
        write(probe, b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise MetaqapError(f"cannot write to the cache, {error.filename or error}: {error.strerror}") from None


def load(name: str) -> bytes | None:
    """What `save` kept under this name; None, with a warning where there is something else, if it did not."""
    try:
        path = location() / name
        kept = read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        log.warning("a compiled model cannot be used: %s. Compiling it again", error)
        return None
    # What OpenVINO reads of a file with a few changed bytes gives other scores, without an error.
    if hashlib.sha256(kept[_DIGEST:]).digest() != kept[:_DIGEST]:
        log.warning("the compiled model in %s is damaged: its sha256 differs. Compiling it again", path)
        return None
    return kept[_DIGEST:]


def save(name: str, data: bytes) -> bool:
    """Keep it for the next run, if the folder can be written."""
    try:
        write(location() / name, hashlib.sha256(data).digest() + data)
    except OSError as error:
        unwritable(error)
        return False
    return True


def unwritable(error: OSError) -> None:
    """Say, once, that nothing is kept."""
    try:
        _say_once(f"{location()}: {error.strerror}")
    except FileNotFoundError as homeless:
        _say_once(str(homeless))


@functools.cache
def _say_once(reason: str) -> None:
    log.warning("compiled models are not kept (%s): every start compiles. Set METAQAP_FAST_CACHE to a folder", reason)
