"""Decoding on a GPU in lanes: while one's images are handed over, the others read, feed and decode theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice

from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.records import Decoded, Encoded, Pixels

LANES = 3


class Lanes:
    """A `Decoder` of several, each with a thread of its own; batches keep their order.

    A bad image costs its own batch a second pass; the other lanes do not notice.
    """

    def __init__(self, decoders: Sequence[LocalDecoder]) -> None:
        self.options = decoders[0].options
        self._decoders = decoders
        # A thread for each decoder: a DALI pipeline is used by one thread at a time.
        self._threads = [ThreadPoolExecutor(1, f"lane-{i}") for i in range(len(decoders))]
        self._started = False

    def stream(self, images: Iterable[Encoded]) -> Iterator[Decoded]:
        """See `Decoder.stream`."""
        self._start()
        source = iter(images)
        flying: deque[Future[list[Decoded]]] = deque()
        lanes = cycle(zip(self._threads, self._decoders, strict=True))
        try:
            while batch := list(islice(source, self.options.batch_size)):
                thread, decoder = next(lanes)
                # The next batch is in the lane before the images of the last are handed over, which takes its time.
                ready = flying.popleft().result() if len(flying) == len(self._decoders) else []
                flying.append(thread.submit(_run, decoder, batch))
                yield from ready
            while flying:
                yield from flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()

    def stream_arrays(self, images: Iterable[tuple[bytes, Pixels]]) -> Iterator[Decoded]:
        """See `Decoder.stream_arrays`."""
        self._start()
        return self._decoders[0].stream_arrays(images)

    def close(self) -> None:
        """End the threads, release the memory."""
        for thread in self._threads:
            thread.shutdown(wait=True, cancel_futures=True)
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


def _run(decoder: LocalDecoder, batch: list[Encoded]) -> list[Decoded]:
    return list(decoder.stream(batch))
