"""What disks, folders and clocks do to a run: one line and its exit status, and the resumed output is that of an
undisturbed run. Rows are made up, as in `test_crash`.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crash
from metaqap_fast.cli import main as _cli  # noqa: F401 -- imported once, before anything forks
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input.files import Listing
from metaqap_fast.scores.durable import write_scores
from metaqap_fast.scores.store import Store
from metaqap_fast.scores.table import ScoreTable

SEED = 20260


def in_child(work: Callable[[], None]) -> tuple[int, str]:
    """Exit status and message of a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except MetaqapError as error:
            os.write(write, str(error).encode()[:4000])
            os._exit(error.exit_code)
        except BaseException as error:  # noqa: BLE001
            os.write(write, repr(error).encode()[:4000])
            os._exit(99)
    os.close(write)
    with open(read, "rb") as pipe:
        message = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), message


@pytest.fixture
def photos(fast: Path) -> tuple[Path, dict[str, list[bytes]]]:
    folder = crash.images(fast / "photos")
    crash.score(folder, fast / "whole.h5", "new", pause=0)
    return folder, crash.datasets(fast / "whole.h5")


@pytest.mark.full
def test_files_that_cannot_grow(photos: tuple[Path, dict[str, list[bytes]]], fast: Path) -> None:
    """A quota, by RLIMIT_FSIZE, at eight sizes: every write of the store fails at some of them."""
    folder, expected = photos
    largest, statuses = (fast / "whole.h5").stat().st_size, []
    for i, limit in enumerate(np.linspace(1, largest + 4096, 8).astype(int)):
        out = fast / f"{i}.h5"

        def limited(out: Path = out, limit: int = int(limit)) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            crash.score(folder, out, "new", pause=0)

        status, message = in_child(limited)
        statuses.append(status)
        assert status == 0 or (status == 1 and "cannot write" in message and "\n" not in message.strip()), message
        crash.score(folder, out, "resume", pause=0)
        assert crash.datasets(out) == expected
    assert statuses[0] == 1 and statuses[-1] == 0


def test_a_file_is_written_whole_or_not_at_all(fast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at one write, for each of them: also for those that HDF5 makes when it closes the file."""
    path, attributes, real = fast / "s.h5", crash.FakeScorer().describe(), os.write
    table = ScoreTable.from_rows([crash.row(b"%03d" % i) for i in range(120)], attributes)
    done = 0

    def full(at: int) -> Callable[[int, Any], int]:
        def write(fd: int, data: Any) -> int:
            nonlocal done
            done += 1
            if done == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, data)

        return write

    monkeypatch.setattr("os.write", full(0))
    write_scores(path, attributes, [table])
    count = done
    assert count >= 10
    for at in range(1, count + 1):
        done = 0
        monkeypatch.setattr("os.write", full(at))
        with pytest.raises(OSError, match="No space left"):
            write_scores(path, attributes, [table])


def test_full_disk(photos: tuple[Path, dict[str, list[bytes]]], tmp_path: Path) -> None:
    folder, expected = photos
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("NOT TESTED HERE: a full disk, for want of the right to mount; test_files_that_cannot_grow ran")
    try:
        failed = 0
        for size in (64 * 2**i for i in range(12)):
            subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
            status, message = in_child(lambda: crash.score(folder, disk / "s.h5", "resume", pause=0))
            if status == 0:
                break
            assert status == 1 and "cannot write" in message and "\n" not in message.strip(), message
            failed += 1
        assert failed >= 2 and crash.datasets(disk / "s.h5") == expected
    finally:
        subprocess.run(["umount", disk], check=True)


def test_read_only_folder(photos: tuple[Path, dict[str, list[bytes]]], fast: Path) -> None:
    folder, _ = photos
    locked = fast / "locked"
    locked.mkdir(mode=0o555)
    fast.chmod(0o755)

    def as_nobody() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        crash.score(folder, locked / "s.h5", "new")

    status, message = in_child(as_nobody)
    assert status == 1 and "cannot write" in message and not list(locked.iterdir())


@pytest.mark.parametrize("what", ["folder", "one part", "damage"])
def test_output_removed_under_the_run(photos: tuple[Path, dict[str, list[bytes]]], fast: Path, what: str) -> None:
    """Rows that are gone are never silently missing: the run fails, says so, and --resume scores them again."""
    folder, expected = photos
    out = fast / "s.h5"

    class Vandal(crash.FakeScorer):
        def stream(self, entries: Any, trace: Any = None) -> Any:
            for i, row in enumerate(super().stream(entries)):
                if i == 60:
                    parts = sorted((fast / "s.h5.parts").glob("part-*.h5"))
                    if what == "damage":
                        data = bytearray(parts[1].read_bytes())
                        data[len(data) // 3] ^= 1
                        parts[1].write_bytes(data)
                    else:
                        for path in parts if what == "folder" else parts[1:2]:
                            path.unlink()
                    if what == "folder":
                        for path in (fast / "s.h5.parts").iterdir():
                            path.unlink()
                        (fast / "s.h5.parts").rmdir()
                yield row

    from metaqap_fast.run import run

    with pytest.raises(MetaqapError, match=r"removed|damaged") as error:
        run(Vandal(), Listing([folder]), out, rows_per_part=crash.PER_PART)  # type: ignore[arg-type]
    assert "--resume" in str(error.value) and not out.exists()
    crash.score(folder, out, "resume", pause=0)
    assert crash.datasets(out) == expected


@pytest.mark.full
def test_any_damage_to_any_part_is_found(photos: tuple[Path, dict[str, list[bytes]]], fast: Path) -> None:
    """Twenty parts with a byte flipped or their end cut off, seeded."""
    folder, expected = photos
    attributes, rng = crash.FakeScorer().describe(), np.random.default_rng(SEED)
    attributes = {"program_version": "0", "source": ["x"], **attributes}
    keys = [entry.key for entry in Listing([folder])]
    for trial in range(20):
        out = fast / f"d{trial}.h5"
        store = Store(out, attributes, rows_per_part=40)
        for key in keys:
            store.add(crash.row(key))
        store.close()
        part = sorted((fast / f"{out.name}.parts").glob("part-*.h5"))[trial % 3]
        data, at = bytearray(part.read_bytes()), int(rng.integers(part.stat().st_size))
        if trial % 4 == 0:
            data = data[:at]
        else:
            data[at] ^= int(rng.integers(1, 256))
        part.write_bytes(data)
        store = Store(out, attributes, "resume")
        assert len(store.done) == 80 and not part.exists()
        for key in keys:
            if key not in store.done:
                store.add(crash.row(key))
        store.finish()
        assert crash.datasets(out) == expected
        out.unlink()


def test_damaged_run_json_is_a_clear_error(photos: tuple[Path, dict[str, list[bytes]]], fast: Path) -> None:
    out, attributes = fast / "s.h5", crash.FakeScorer().describe()
    store = Store(out, attributes, rows_per_part=1)
    store.add(crash.row(b"a"))
    store.close()
    for text in (b"", b"[1]", b'{"a"', b"\xff"):
        (fast / "s.h5.parts" / "run.json").write_bytes(text)
        with pytest.raises((MetaqapError, UsageError), match=r"run\.json is damaged"):
            Store(out, attributes, "resume")


def test_clock_jumps_change_nothing(
    photos: tuple[Path, dict[str, list[bytes]]], fast: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = photos
    rng = np.random.default_rng(SEED)
    monkeypatch.setattr("time.time", lambda: float(rng.uniform(-1e9, 1e10)))
    monkeypatch.setattr("metaqap_fast.scores.store._now", lambda: f"{rng.integers(1970, 2100)}-01-01T00:00:00+00:00")
    crash.score(folder, fast / "s.h5", "new", pause=0)
    assert crash.datasets(fast / "s.h5") == expected
