"""Score files written so that a full disk is an error and not a crash.

HDF5 does not survive a write that fails: closing the file afterwards has been seen to end the process with a
segmentation fault (HDF5 1.14, a full tmpfs). So it writes through a file object that remembers the first error
instead of passing it on; it is raised when HDF5 is out of the way.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from metaqap_fast.errors import MetaqapError
from metaqap_fast.scores.hdf5 import append_rows, create_scores
from metaqap_fast.scores.table import ScoreTable

# Of a file system that cannot sync folders (some of FUSE and CIFS), or a folder that may be written but not read.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES)


class Remembering(io.FileIO):
    """A file that takes every write; `error` is the first that failed."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """All of it, or none of it is meant to be kept."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[os.write(self.fileno(), rest) :]
        except OSError as error:
            self.error = self.error or error
        return size

    def truncate(self, size: int | None = None) -> int:
        """As `write`."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise what failed."""
        if self.error is not None:
            raise self.error


def write_scores(path: Path, attributes: Mapping[str, Any], tables: Iterable[ScoreTable]) -> None:
    """A whole score file, on the disk when this returns.

    Raises:
        OSError: it cannot be written; nothing is to be made of what is there.
    """
    with Remembering(path, "w+") as raw:
        with create_scores(raw, attributes) as file:
            for table in tables:
                append_rows(file, table)
                raw.check()
        raw.check()
        os.fsync(raw.fileno())


def save_scores(path: Path, attributes: Mapping[str, Any], tables: Iterable[ScoreTable]) -> None:
    """A whole score file in place of any that is there, which stays until the new one is on the disk.

    Raises:
        MetaqapError: it cannot be written.
    """
    with replacing(path) as partial:
        write_scores(partial, attributes, tables)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name to write a file under that then takes the place of `path`; nothing of it is left if that fails.

    A link is followed, and stays: what it stands for is replaced.

    Raises:
        MetaqapError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield partial
        partial.replace(target)
        sync_folder(target.parent)
    except (OSError, RuntimeError, ValueError) as error:  # h5py raises each of these for a full disk
        raise MetaqapError(f"cannot write {os.fspath(path)}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        with suppress(OSError):  # a file system that cannot be written to says so here, too
            partial.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable, as far as the file system can."""
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def digest(path: Path) -> str:
    """Sha256 of a file, its first 16 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
