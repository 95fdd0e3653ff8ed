"""The process that decodes: what `supervisor` starts, feeds, and starts again."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress

from metaqap_fast.decode import DecodeOptions, probe, wire
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.errors import MetaqapError, Status
from metaqap_fast.records import Encoded


def main() -> None:
    """The worker process: sys.argv holds two file descriptors, a limit of memory, and the decoder's options."""
    number, alive, max_memory = map(int, sys.argv[1].split(","))
    _protect(alive)
    connection = socket.socket(fileno=number)
    options = DecodeOptions(**json.loads(sys.argv[2]))
    try:
        serve(connection, LocalDecoder(options, max_memory=max_memory, borrow=True), max_memory)
    except MetaqapError as error:
        wire.tell_cannot(connection, str(error))
    except MemoryError:
        reason = f"it needs more than --max-memory ({max_memory} bytes)"
        wire.tell_death(connection, Status.too_large, reason)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the run is over
    except Exception as error:  # noqa: BLE001 -- the supervisor must hear of it, whatever it is
        wire.tell_death(connection, Status.engine_error, f"{type(error).__name__}: {error}")
    os._exit(0)


def _protect(alive: int) -> None:
    """Signals, limits, and the end: this process must go when its parent does, even while it is stuck."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent decides, and blames no image for a signal
    # The kernel ends us by SIGIO when the other end of this pipe closes; no thread of ours has to run for that.
    fcntl.fcntl(alive, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(alive, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        if not os.read(alive, 1):  # it is gone already
            os._exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # should memory run out, then this process goes and not the run


def serve(connection: socket.socket, decoder: LocalDecoder, max_memory: int) -> None:
    """Answer batches until the supervisor hangs up.

    Raises:
        MemoryError: an image would take more than `max_memory` bytes. What it has left of them is not known then,
            so this process ends; the supervisor asks a new one whether it was this image alone.
    """
    decoder.start()
    list(decoder.stream([Encoded(b"", probe.encoded().data)]))  # the decoder is loaded before anyone's time counts
    limit = _data() + max_memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    wire.tell_ready(connection)
    while (batch := wire.receive_batch(connection)) is not None:
        with wire.Answers(connection) as answers:
            for decoded in decoder.stream(batch.files) if batch.files else decoder.stream_arrays(batch.arrays):
                if decoded.error and decoded.error.out_of_memory:
                    raise MemoryError
                answers.add(decoded)


def _data() -> int:
    """Bytes of memory that are this process's own, those of its threads' stacks included: what RLIMIT_DATA counts."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData:"))
