"""Decoding on a GPU in two lanes: while one hands over its batch, the next is read, fed and decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from metaqap_fast.decode.dali import Decoder
from metaqap_fast.options import MAX_PIXELS, Views
from metaqap_fast.records import Decoded, Encoded, Pixels

LANES = 2


class Lanes:
    """Like `Decoder`, with a decoder and a thread for each lane; batches keep their order.

    A bad image costs its own batch a second pass, as in `Decoder`; the other lane does not notice.
    """

    def __init__(
        self,
        size: int,
        mode: Views = "fit",
        batch_size: int = 64,
        max_pixels: int = MAX_PIXELS,
        lanes: int = LANES,
        **options: Any,
    ) -> None:
        self.batch_size = batch_size
        self._decoders = [Decoder(size, mode, batch_size, max_pixels, **options) for _ in range(lanes)]
        # A thread for each decoder: a DALI pipeline is used by one thread at a time.
        self._threads = [ThreadPoolExecutor(1, f"lane-{i}") for i in range(lanes)]

    def stream(self, images: Iterable[Encoded]) -> Iterator[Decoded]:
        """See `Decoder.stream`."""
        source = iter(images)
        flying: deque[Future[list[Decoded]]] = deque()
        turn = 0
        try:
            while batch := list(islice(source, self.batch_size)):
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
        """End the threads."""
        for thread in self._threads:
            thread.shutdown(wait=True, cancel_futures=True)


def _run(decoder: Decoder, batch: list[Encoded]) -> list[Decoded]:
    return list(decoder.stream(batch))
