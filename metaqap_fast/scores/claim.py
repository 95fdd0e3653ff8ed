"""An output that is ours to write: where it really is, whether it can be made, and that no other run writes it."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.options import HDF5, OUTPUTS, OutputMode

# Of a file system without locks: Lustre without -o flock, some of NFS and FUSE.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

log = logging.getLogger(__name__)


class Claim:
    """An output that no other run may write while this is held.

    Args:
        output: the file to make; a link to it is followed, and stays.
        mode: as of `Store`.

    Attributes:
        output: the file itself. suffix: what kind of file it is to be. parts: the folder beside it, which holds the
            lock and committed rows.

    Raises:
        UsageError: see `check_output`; another run is writing it.
        MetaqapError: the folder cannot be written.
    """

    def __init__(self, output: str | os.PathLike[str], mode: OutputMode = "new") -> None:
        check_output(output, mode)
        self.output, self.mode = real(output), mode
        self.suffix = Path(output).suffix.lower()  # a link's target may have any name
        self.parts = parts_of(output)
        self._lock: IO[bytes] | None = None
        try:
            self.parts.mkdir(exist_ok=True)
            self._take_lock()
        except OSError as error:
            self.close()
            raise MetaqapError(f"cannot write {self.parts}: {error.strerror or error}") from None
        if mode == "new" and any(self.parts.glob("part-*.h5")):
            self.close()
            raise UsageError(f"{self.parts} holds rows of an interrupted run; give --resume or --overwrite")

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others write it. Committed rows stay for `--resume`; a folder without any goes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            if not any(self.parts.glob("part-*")):
                shutil.rmtree(self.parts, ignore_errors=True)

    def _take_lock(self) -> None:
        while True:
            self._lock = open(self.parts / "lock", "a+b", buffering=0)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _owner(self._lock)
                self._lock.close()
                self._lock = None
                raise UsageError(f"another run (process {owner}) is writing {self.output}") from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                log.warning("%s is on a file system without locks: let no other run write it", self.output)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self._lock.name)):
                    break
            self._lock.close()  # its run ended and removed it, between our open and our lock
            self.parts.mkdir(exist_ok=True)
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()).encode())


def _owner(lock: IO[bytes]) -> str:
    lock.seek(0)
    return lock.read().decode(errors="replace").strip() or "unknown"


def writer_of(output: str | os.PathLike[str]) -> str | None:
    """The process that is writing an output now; None without one, or where there are no locks."""
    try:
        with open(parts_of(output) / "lock", "rb", buffering=0) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _owner(lock)
    except OSError:
        pass
    return None


def check_output(output: str | os.PathLike[str], mode: OutputMode) -> None:
    """Whether a run may write there; nothing is touched.

    Raises:
        UsageError: a name that does not say what kind of file is wanted, a folder, a folder that is missing, in mode
            `new` rows that would be lost, in mode `resume` rows that nobody can add to.
        MetaqapError: pyarrow is missing for parquet, or the folder cannot be written.
    """
    given = Path(output)
    try:
        path = real(output)
        for name in (parts_of(path), merging(path)):
            with suppress(FileNotFoundError, NotADirectoryError):
                name.lstat()
        if path.is_dir():
            raise UsageError(f"{given} is a folder; the output is a file")
        if not path.parent.is_dir():
            raise UsageError(f"the output's folder does not exist: {path.parent}")
        if mode == "new" and path.exists():
            raise UsageError(f"{given} exists; give --resume, --overwrite or another -o")
        check_suffix(given)
        if mode == "resume" and given.suffix.lower() not in HDF5 and path.exists():
            raise UsageError(
                f"{given} is finished, and only a score file (.h5) can be added to: score into one with --resume, "
                "and export it"
            )
        if not os.access(path.parent, os.W_OK):
            raise MetaqapError(f"cannot write to {path.parent}: permission denied")
    except OSError as error:  # such as a name that is too long
        raise MetaqapError(f"cannot write {given}: {error.strerror or error}") from None


def check_suffix(path: Path) -> None:
    """Whether an output's name says what kind of file it is to be.

    Raises:
        UsageError: it does not.
        MetaqapError: pyarrow is missing for parquet.
    """
    suffix = path.suffix.lower()
    if suffix not in OUTPUTS:
        raise UsageError(f"cannot write {path.name}: the name must end in {', '.join(OUTPUTS)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MetaqapError("pyarrow is missing: pip install 'metaqap-fast[parquet]'")


def real(output: str | os.PathLike[str]) -> Path:
    """Where an output is: a link to it is followed, also one to a file that does not exist yet."""
    path = Path(output)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def parts_of(output: str | os.PathLike[str]) -> Path:
    """The folder of an output's committed parts."""
    path = real(output)
    return path.with_name(path.name + ".parts")


def merging(output: Path) -> Path:
    """What an output is called while it is being written."""
    return output.with_name(f".{output.name}.merging")
