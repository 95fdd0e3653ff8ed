"""Decoding on a GPU in lanes: while one's images are handed over, the others read, feed and decode theirs."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice

from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.gpu_errors import silent
from metaqap_fast.options import MAX_SECONDS
from metaqap_fast.records import Decoded, Encoded, Pixels

LANES = 3
TICK = 1.0  # seconds; a lane's silence is counted in them, not by a clock that goes on while this process is stopped


@dataclass(slots=True)
class _Flight:
    """A batch in a lane: its images, and what the lane has made of them so far."""

    batch: list[Encoded]
    made: list[Decoded]
    future: Future[None]


class Lanes:
    """A `Decoder` of several, each with a thread of its own; batches keep their order.

    A bad image costs its own batch a second pass; the other lanes do not notice.

    Args:
        decoders: one for each lane.
        device: what they decode on, for a message.
        seconds: that an image may take. A library that is stuck cannot be stopped: the run ends with `GpuLost`.
    """

    def __init__(self, decoders: Sequence[LocalDecoder], device: str = "the GPU", seconds: float = MAX_SECONDS) -> None:
        self.options = decoders[0].options
        self._decoders, self._device, self._seconds = decoders, device, seconds
        # A thread for each decoder: a DALI pipeline is used by one thread at a time.
        self._threads = [ThreadPoolExecutor(1, f"lane-{i}") for i in range(len(decoders))]
        self._started = self._stuck = False

    def stream(self, images: Iterable[Encoded]) -> Iterator[Decoded]:
        """See `Decoder.stream`."""
        self._start()
        source = iter(images)
        flying: deque[_Flight] = deque()
        lanes = cycle(zip(self._threads, self._decoders, strict=True))
        try:
            while batch := list(islice(source, self.options.batch_size)):
                thread, decoder = next(lanes)
                # The next batch is in the lane before the images of the last are handed over, which takes its time.
                ready = self._landed(flying.popleft()) if len(flying) == len(self._decoders) else []
                made: list[Decoded] = []
                flying.append(_Flight(batch, made, thread.submit(_run, decoder, batch, made)))
                yield from ready
            while flying:
                yield from self._landed(flying.popleft())
        finally:
            for flight in flying:
                flight.future.cancel()

    def stream_arrays(self, images: Iterable[tuple[bytes, Pixels]]) -> Iterator[Decoded]:
        """See `Decoder.stream_arrays`."""
        self._start()
        return self._decoders[0].stream_arrays(images)

    def close(self) -> None:
        """End the threads, release the memory; but for those that are stuck."""
        for thread in self._threads:
            thread.shutdown(wait=not self._stuck, cancel_futures=True)
        if not self._stuck:
            for decoder in self._decoders:
                decoder.close()

    def _start(self) -> None:
        """Once, before the first image; what a lane cannot do then is no image's fault."""
        if not self._started:
            for future in [
                thread.submit(decoder.start) for thread, decoder in zip(self._threads, self._decoders, strict=True)
            ]:
                future.result()
            self._started = True

    def _landed(self, flight: _Flight) -> list[Decoded]:
        """The images of a batch, when it is through."""
        silence, made = 0.0, 0
        while not concurrent.futures.wait([flight.future], TICK).done:
            silence, made = (silence + TICK if len(flight.made) == made else 0.0), len(flight.made)
            if silence >= self._seconds:
                self._stuck = True
                rest = [repr(image.key) for image in flight.batch[made:]]
                among = rest[0] if len(rest) == 1 else f"one of the {len(rest)} images from {rest[0]} to {rest[-1]}"
                raise silent(f"the decoder on {self._device}", self._seconds, f", perhaps because of {among}")
        flight.future.result()
        return flight.made


def _run(decoder: LocalDecoder, batch: list[Encoded], made: list[Decoded]) -> None:
    made.extend(decoder.stream(batch))
