"""A decoder that crashes, hangs or is killed costs the image that did it, and no other."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decoding import SUPPORT, S, hostile, statuses, supervised, views_of
from images import encode
from metaqap_fast.decode import DecodeOptions, wire
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.decode.supervisor import Supervisor
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.records import Decoded, Encoded
from metaqap_fast.scores.table import ScoreTable

CULPRITS = {
    b"SEGV": (Status.corrupt, "SIGSEGV"),
    b"ABRT": (Status.corrupt, "SIGABRT"),
    b"EXIT": (Status.corrupt, "exit status 7"),
    b"KILL": (Status.too_large, "killed"),
    b"HANG": (Status.too_large, "within 1 seconds"),
    b"GONE": (Status.corrupt, "does not end"),
    b"OVER": (Status.too_large, "--max-memory"),
    b"EATS": (Status.too_large, "--max-memory"),
}


@pytest.mark.parametrize(("mark", "place"), [*((mark, 3) for mark in CULPRITS), (b"SEGV", 0), (b"HANG", 9)])
def test_the_culprit_is_named_and_the_rest_is_decoded(
    supervisor: Supervisor, good: bytes, mark: bytes, place: int
) -> None:
    data = [good] * 10
    data[place] = good + mark
    results = list(supervisor.stream(Encoded(b"%d" % i, each) for i, each in enumerate(data)))
    assert [result.key for result in results] == [b"%d" % i for i in range(10)]
    status, word = CULPRITS[mark]
    assert statuses(results) == [status if i == place else Status.ok for i in range(10)]
    error = results[place].error
    assert error is not None and word in error.reason
    expected = views_of(good)
    assert all(np.array_equal(result.views, expected) for i, result in enumerate(results) if i != place)
    assert 2 <= supervisor.restarts <= 3  # with its batch, alone, and as the first of a new worker


@pytest.mark.parametrize(
    ("form", "megabytes"), [("PPM", 8), pytest.param("PNG", 18, marks=pytest.mark.full), ("JPEG2000", 18)]
)
def test_an_image_that_needs_more_memory_than_it_may(
    form: str, megabytes: int, good: bytes, photo: Image.Image
) -> None:
    """Whether its decoder says that memory is what it lacks, or not; fine with the memory."""
    big = encode(photo.resize((2000, 2000)), form)
    data = [good, big, good, good, big[: len(big) // 2], good]
    for memory, expected in ((megabytes << 20, Status.too_large), (1 << 30, Status.ok)):
        supervisor = supervised(batch_size=4, max_memory=memory)
        results = list(supervisor.stream(Encoded(b"%d" % i, each) for i, each in enumerate(data)))
        assert statuses(results) == [Status.ok, expected, Status.ok, Status.ok, Status.corrupt, Status.ok]
        assert expected == Status.ok or "--max-memory" in str(results[1].error)
        supervisor.close()


def test_memory_that_is_too_little_for_any_image(photo: Image.Image) -> None:
    """Libraries crash without it rather than say so."""
    images = [encode(photo, form) for form in ("JPEG", "PNG")]
    supervisor = supervised(max_memory=1000)
    results = list(supervisor.stream(Encoded(b"%d" % i, each) for i, each in enumerate(images)))
    assert statuses(results) == [Status.too_large] * 2
    supervisor.close()


def test_a_time_that_is_shorter_than_a_tick(good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile(monkeypatch)
    supervisor = supervised(max_seconds=0.001)
    results = list(supervisor.stream(Encoded(b"%d" % i, good + b"NAPS") for i in range(2)))
    assert statuses(results) == [Status.too_large] * 2
    assert "not decoded within 0.001 seconds" in str(results[0].error)
    supervisor.close()


def test_a_crash_is_no_want_of_memory(supervisor: Supervisor, photo: Image.Image) -> None:
    """Unless the image can need more than there is."""
    for side, status in ((S, Status.corrupt), (4200, Status.too_large)):  # 256 MB are 4096 x 4096 pixels, 16 bytes each
        killer = encode(Image.new("RGB", (side, side)), "PNG") + b"SEGV"
        (result,) = supervisor.stream([Encoded(b"", killer)])
        assert statuses([result]) == [status]
        assert result.error is not None and ("--max-memory" in result.error.reason) == (status == Status.too_large)


def test_few_large_files_are_held(monkeypatch: pytest.MonkeyPatch, good: bytes) -> None:
    """Two batches under way, but only one file that is larger than both may be, and the one behind it."""
    monkeypatch.setattr("metaqap_fast.decode.supervisor.BATCH_BYTES", len(good) // 3)
    taken: list[int] = []

    def images() -> Iterator[Encoded]:
        for i in range(9):
            taken.append(i)
            yield Encoded(b"%d" % i, good)

    supervisor = supervised()
    for i, _ in enumerate(supervisor.stream(images())):
        assert len(taken) <= i + 2
    supervisor.close()


def test_what_an_earlier_image_did_to_the_worker_is_not_blamed_on_a_later_one(
    supervisor: Supervisor, good: bytes
) -> None:
    data = [good, good + b"ROTS", good, good, good, good + b"ROTS", good, good]  # the next image dies of it
    for _ in range(2):
        results = list(supervisor.stream(Encoded(b"%d" % i, each) for i, each in enumerate(data)))
        assert statuses(results) == [Status.ok] * 8
    assert supervisor.restarts >= 4


def test_time_that_nobody_waited_is_not_counted(good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped, or a machine that slept, sees clocks jump: here by an hour at every look."""
    hostile(monkeypatch)
    supervisor = supervised(max_seconds=4)
    hours = itertools.count()
    for clock in ("monotonic", "time", "perf_counter"):
        monkeypatch.setattr(f"time.{clock}", lambda: 3600.0 * next(hours))
    assert statuses(list(supervisor.stream(Encoded(b"", good + b"SLOW") for _ in range(2)))) == [Status.ok] * 2
    assert supervisor.restarts == 0
    monkeypatch.undo()
    supervisor.close()


@pytest.mark.full
def test_many_culprits(supervisor: Supervisor, good: bytes) -> None:
    data = [good + b"SEGV" * (i % 3 == 0) for i in range(8)]
    results = list(supervisor.stream(Encoded(b"%d" % i, each) for i, each in enumerate(data)))
    assert statuses(results) == [Status.corrupt if i % 3 == 0 else Status.ok for i in range(8)]


def test_an_image_is_not_blamed_for_a_death_that_it_did_not_cause(supervisor: Supervisor, good: bytes) -> None:
    def images() -> Iterator[Encoded]:
        for i in range(12):
            if i == 8:
                os.kill(supervisor.pid or 0, signal.SIGKILL)
            yield Encoded(b"%d" % i, good)

    assert statuses(list(supervisor.stream(images()))) == [Status.ok] * 12
    assert supervisor.restarts == 1
    os.kill(supervisor.pid or 0, signal.SIGKILL)  # while it has nothing to do
    assert statuses(list(supervisor.stream([Encoded(b"", good)]))) == [Status.ok]


def test_same_results_as_in_this_process(good: bytes, photo: Image.Image) -> None:
    data = [good, b"", b"text", encode(photo, "JPEG"), encode(photo, "JPEG")[:2000], encode(photo, "WEBP")]
    with_error = Encoded(b"e", b"", ImageError(Status.unreadable, "gone"))
    images = [with_error, *(Encoded(b"%d" % i, each) for i, each in enumerate(data))]
    supervisor, local = supervised(batch_size=2), LocalDecoder(DecodeOptions(S))
    for ours, theirs in zip(supervisor.stream(images), local.stream(images), strict=True):
        assert (ours.key, ours.nbytes, ours.width, ours.height) == (
            theirs.key,
            theirs.nbytes,
            theirs.width,
            theirs.height,
        )
        assert str(ours.error) == str(theirs.error) and np.array_equal(ours.views, theirs.views)
    arrays = [(b"a", np.asarray(photo)), (b"b", np.asarray(photo)[::-1, ::2])]
    for ours, theirs in zip(supervisor.stream_arrays(arrays), local.stream_arrays(arrays), strict=True):
        assert np.array_equal(ours.views, theirs.views) and (ours.width, ours.nbytes) == (theirs.width, theirs.nbytes)


def test_answers_come_together(good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message for a batch, or for what fills one; a failure is told at once."""
    messages: list[list[int]] = []
    real = wire.receive

    def receive(connection: socket.socket) -> list[Decoded] | None:
        answers = real(connection)
        messages.append([len(answer.views) for answer in answers or []])
        return answers

    monkeypatch.setattr(wire, "receive", receive)
    supervisor = supervised(batch_size=70)
    data = [good] * 66 + [b"no image"] + [good] * 13
    results = list(supervisor.stream(Encoded(b"%d" % i, each) for i, each in enumerate(data)))
    assert statuses(results) == [Status.ok] * 66 + [Status.unsupported] + [Status.ok] * 13
    assert messages == [[], [1] * 64, [1, 1, 0], [1] * 3, [1] * 10]
    expected = views_of(good)
    assert all(np.array_equal(result.views, expected) for result in results if not result.error)
    supervisor.close()


def test_a_run_survives_its_decoder(bundle: Path, folder: Path, good: bytes, tmp_path: Path) -> None:
    (folder / "killer.png").write_bytes(good + b"SEGV")
    (folder / "b" / "sleeper.png").write_bytes(good + b"HANG")
    code = (
        "from metaqap_fast.decode import supervisor; supervisor.MODULE = 'hostile_worker'\n"
        "from metaqap_fast.cli import main; main()"
    )
    arguments = ["score", str(folder), "--model", str(bundle), "-o", str(tmp_path / "s.h5"), "--max-seconds", "1"]
    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    result = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    table = ScoreTable.read(tmp_path / "s.h5")
    found = dict(zip(table.paths, map(Status, table.status), strict=True))
    assert found["killer.png"] == Status.corrupt and found["b/sleeper.png"] == Status.too_large
    assert sum(status == Status.ok for status in found.values()) == 10 and len(found) == 15
