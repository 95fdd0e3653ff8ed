"""The decoding process itself: how it starts and ends, whoever dies first, and what is left of it."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from decoding import SUPPORT, statuses, supervised
from metaqap_fast.decode import wire
from metaqap_fast.decode.supervisor import Supervisor
from metaqap_fast.errors import ImageError, MetaqapError, Status
from metaqap_fast.records import Decoded, Encoded


def test_a_process_that_cannot_start_ends_the_run_with_a_reason(monkeypatch: pytest.MonkeyPatch, good: bytes) -> None:
    monkeypatch.setattr("metaqap_fast.decode.supervisor.MODULE", "no_such_module")
    with pytest.raises(MetaqapError, match="does not start"):
        list(supervised().stream([Encoded(b"", good)]))


def test_every_wait_for_the_process_has_an_end(monkeypatch: pytest.MonkeyPatch, good: bytes) -> None:
    """Also for one that the kernel cannot end, because it waits for a device."""
    supervisor = supervised()
    assert statuses(list(supervisor.stream([Encoded(b"", good)]))) == [Status.ok]
    waits: list[float | None] = []
    real = subprocess.Popen.wait

    def wait(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        waits.append(timeout)
        raise subprocess.TimeoutExpired("", timeout or 0)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    pid, process = supervisor.pid, supervisor._worker.process if supervisor._worker else None
    supervisor.close()
    assert waits and None not in waits and supervisor.pid is None and process is not None
    monkeypatch.undo()
    assert real(process, 20) == -signal.SIGKILL and not alive(pid or 0)


def test_stopping_early_leaves_nothing_behind(supervisor: Supervisor, good: bytes) -> None:
    stream = supervisor.stream(Encoded(b"%d" % i, good) for i in itertools.count())
    for i in range(6):
        assert next(stream).key == b"%d" % i
    stream.close()
    results = list(supervisor.stream([Encoded(b"again", good)]))  # no stale answer
    assert [result.key for result in results] == [b"again"]


def test_nothing_is_left_open(good: bytes) -> None:
    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = handles()
    for _ in range(3):
        supervisor = supervised()
        results = list(supervisor.stream(Encoded(b"", good) for _ in range(20)))
        supervisor.close()
        del results, supervisor
        gc.collect()
    assert handles() == before


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("mark", [b"", b"HANG"])
def test_the_worker_goes_with_a_killed_run(good: bytes, tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "image").write_bytes(good + mark)
    code = (
        "import sys; from metaqap_fast import decode, records; from metaqap_fast.decode import supervisor\n"
        "supervisor.MODULE = 'hostile_worker'\n"
        "s = supervisor.Supervisor(decode.DecodeOptions(64), decode.Limits()); data = open(sys.argv[1], 'rb').read()\n"
        "list(s.stream([records.Encoded(b'', data[:-4])])); print(s.pid, flush=True)\n"
        "list(s.stream([records.Encoded(b'', data)] * 2)); import time; time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "image"], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    time.sleep(0.5)
    assert alive(worker)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(worker)


def test_closed_beside_a_stream_that_hangs(supervisor: Supervisor, good: bytes) -> None:
    """No process is started again for what it had in hand."""
    answers: list[object] = []
    begun = threading.Event()

    def work() -> None:
        try:
            for result in supervisor.stream(Encoded(b"", good + mark) for mark in [b""] * 4 + [b"HANG"] * 4):
                answers.append(result.error)
                begun.set()
        except MetaqapError as error:
            answers.append(str(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert begun.wait(60)
    supervisor.close()
    thread.join(10)
    assert not thread.is_alive() and supervisor.pid is None
    assert answers[-1] == "the decoder is closed"


def test_what_a_process_sent_before_it_died_is_not_lost(good: bytes) -> None:
    """With a batch that it left unread the kernel first reports a reset connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire.tell_ready(theirs)
    with wire.Answers(theirs) as answers:
        answers.add(Decoded(b"", 3, ImageError(Status.corrupt, "cut")))
    wire.send_batch(ours, [good])
    theirs.close()
    assert wire.receive(ours) == []
    (answer,) = wire.receive(ours) or []
    assert answer.error is not None and answer.error.reason == "cut"
    assert wire.receive(ours) is None
