"""Decoding on a GPU in two lanes: while one hands over its batch, the next is read, fed and decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from metaqap_fast.decode import DecodeOptions
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.records import Decoded, Encoded, Pixels

LANES = 2


class Lanes:
    """A `Decoder` with a `LocalDecoder` and a thread for each lane; batches keep their order.

    A bad image costs its own batch a second pass; the other lane does not notice.
    """

    def __init__(self, options: DecodeOptions, *, device_id: int | None, lanes: int = LANES) -> None:
        self.options = options
        self._decoders = [LocalDecoder(options, device_id=device_id) for _ in range(lanes)]
        # A thread for each decoder: a DALI pipeline is used by one thread at a time.
        self._threads = [ThreadPoolExecutor(1, f"lane-{i}") for i in range(lanes)]

    def stream(self, images: Iterable[Encoded]) -> Iterator[Decoded]:
        """See `Decoder.stream`."""
        source = iter(images)
        flying: deque[Future[list[Decoded]]] = deque()
        turn = 0
        try:
            while batch := list(islice(source, self.options.batch_size)):
                lane = turn % len(self._decoders)
                flying.append(self._threads[lane].submit(_run, self._decoders[lane], batch))
                turn += 1
                if len(flying) == len(self._decoders):
                    yield from flying.popleft().result()
            while flying:
                yield from flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()

    def stream_arrays(self, images: Iterable[tuple[bytes, Pixels]]) -> Iterator[Decoded]:
        """See `Decoder.stream_arrays`."""
        return self._decoders[0].stream_arrays(images)

    def close(self) -> None:
        """End the threads, release the memory."""
        for thread in self._threads:
            thread.shutdown(wait=True, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()


def _run(decoder: LocalDecoder, batch: list[Encoded]) -> list[Decoded]:
    return list(decoder.stream(batch))
