"""Bytes to views: the decoders, and the process that isolates them. `create` picks one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from metaqap_fast.options import BATCH_SIZE, MAX_MEMORY, MAX_PIXELS, MAX_SECONDS, MIN_SIZE, RAW, Raw
from metaqap_fast.records import Decoded, Encoded, Pixels

log = logging.getLogger(__name__)

PACKAGES = ("nvidia-dali-cuda130", "pillow")  # distributions whose version decides the pixels

# All JPEGs go to one decoder: of a share, which image gets which would depend on its place in a batch, and their pixels
# differ by a few levels. The sweep of bench.gpu_acceptance measures other shares.
HW_DECODER_LOAD = 1.0


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How images are decoded.

    Attributes:
        size: side of the members' input in pixels.
        batch_size: images decoded together; never changes a pixel.
        max_pixels: an image with more is a row with status `too_large`; it is never decoded.
        min_size: an image whose shorter side has fewer pixels is a row with status `too_small`; it is never decoded.
        raw: what of a RAW file is scored: the camera's preview, if it is large enough, or the developed sensor.
        exif: whether a camera's notes are read, see `Decoded.details`.
        fine: lines of an image that its fine view is cut from, which a smaller image has not, see
            `metaqap_fast.decode.views`; 0 for none.
        hw_decoder_load: share of the JPEGs that go to a GPU's hardware decoder, where it has one.

    Raises:
        ValueError: a fine view would be larger than what it is cut from.
    """

    size: int
    batch_size: int = BATCH_SIZE
    max_pixels: int = MAX_PIXELS
    min_size: int = MIN_SIZE
    raw: Raw = RAW
    exif: bool = False
    fine: int = 0
    hw_decoder_load: float = HW_DECODER_LOAD

    def __post_init__(self) -> None:
        if 0 < self.fine < self.size:
            raise ValueError(f"a view of {self.size} pixels cannot be cut from {self.fine} lines")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may take in the supervised process; beyond it, its row has the status `too_large`.

    Attributes:
        max_seconds: the time to decode it, alone.
        max_memory: bytes, beyond those that the process starts with.
    """

    max_seconds: float = MAX_SECONDS
    max_memory: int = MAX_MEMORY


class Decoder(Protocol):
    """Images to views, in order: one result for each, failures included. One stream at a time."""

    @property
    def options(self) -> DecodeOptions:
        """What it was made with."""

    def stream(self, images: Iterable[Encoded]) -> Iterator[Decoded]:
        """Decode files, resize them and cut views."""

    def stream_arrays(self, images: Iterable[tuple[bytes, Pixels]]) -> Iterator[Decoded]:
        """The same for (key, pixels [H, W, 3] uint8 RGB), resized by the same operator."""

    def close(self) -> None:
        """Release threads, memory and processes."""


def create(options: DecodeOptions, *, gpu: int | None = None, limits: Limits | None = None) -> Decoder:
    """The decoder for a device.

    Args:
        options: see `DecodeOptions`.
        gpu: CUDA device to decode on; views are then torch tensors on it. None: the CPU.
        limits: decode in a supervised process that keeps them, and whose crashes cost one image each. None: in this
            process. On a GPU nothing is isolated: an image that takes more than `max_seconds` ends the run.
    """
    # Imported when picked: the supervised process loads this module too, and must not load its supervisor.
    if gpu is not None:
        from metaqap_fast.decode.device import DeviceDecoder
        from metaqap_fast.decode.lanes import LANES, Lanes

        limits = limits or Limits()
        if limits.max_memory != MAX_MEMORY:
            log.warning("decoding on a GPU is not isolated: --max-memory is not kept")
        threads = max(1, len(os.sched_getaffinity(0)) // LANES)
        lanes = [DeviceDecoder(options, gpu, threads) for _ in range(LANES)]
        return Lanes(lanes, f"cuda:{gpu}", limits.max_seconds)
    if limits is not None:
        from metaqap_fast.decode.supervisor import Supervisor

        return Supervisor(options, limits)
    from metaqap_fast.decode.local import LocalDecoder

    return LocalDecoder(options)
