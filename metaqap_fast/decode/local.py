"""Decoding in this process: the header rule, batches, the isolation of bad images, and views.

DALI fails a whole batch for one bad file. A failed batch is therefore decoded again image by image: the
culprit gets its status, its neighbours their pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier
from typing import Any

import numpy as np

from metaqap_fast.decode import DecodeOptions, views
from metaqap_fast.decode.colour import NONE, Colours, colours
from metaqap_fast.decode.dali import Dali, Size
from metaqap_fast.decode.phash import phash
from metaqap_fast.decode.pixels import DECODERS, PixelDecoder
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import Header, raw, read_header
from metaqap_fast.formats.camera import details
from metaqap_fast.formats.format import RAW, differs
from metaqap_fast.options import PIXEL_BYTES
from metaqap_fast.records import Decoded, Details, Encoded, Pixels

BATCH_PIXELS = 64_000_000  # decoded pixels held at once: a batch of large photographs is cut short


@dataclass(frozen=True, slots=True)
class Job:
    """An image that may be decoded, or an array that needs no decoding."""

    key: bytes
    nbytes: int
    width: int  # as displayed
    height: int
    source: Pixels  # encoded bytes [n] or pixels [H, W, 3], as stored
    header: Header | None = None
    details: Details | None = None

    @property
    def orientation(self) -> int:
        """How its pixels are to be turned, 1 to 8."""
        return self.header.orientation if self.header else 1

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) before it is turned."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.width * self.height

    @property
    def decoder(self) -> PixelDecoder | None:
        """The one that must turn it into pixels before DALI gets it."""
        return DECODERS[self.header.decoder] if self.header else None

    def of_size(self, width: int, height: int) -> Job:
        """The same with another size, as stored."""
        return (
            replace(self, width=height, height=width)
            if self.orientation >= 5
            else replace(self, width=width, height=height)
        )

    def failed(self, error: ImageError) -> Decoded:
        """Its result where it has no views."""
        return Decoded(self.key, self.nbytes, error, self.width, self.height, details=self.details)

    def decoded(self, found: Any, code: int = 0, *, fine: bool = False) -> Decoded:
        """Its result: views, the last of them a fine one or not, and a hash."""
        notes = filter(None, (self.header.note if self.header else "", self.colours.note))
        note = "; ".join(notes)
        return Decoded(self.key, self.nbytes, found, self.width, self.height, note, code, self.details, fine)

    def sizes(self, options: DecodeOptions) -> tuple[Size | None, Size | None]:
        """What it is resized to for its views, None if it is not; and for its fine view, None if it has none."""
        target = views.target_size(*self.stored, options.size)
        fine = views.fine_size(*self.stored, options.fine) if options.fine else None
        return None if target == self.stored else target, fine

    @property
    def colours(self) -> Colours:
        """How its pixels become sRGB."""
        return colours(self.header.icc) if self.header else NONE


class LocalDecoder:
    """A `Decoder` in this process.

    Args:
        options: see `DecodeOptions`.
        max_memory: bytes that this process may take for an image; an image that fails although its header is sound
            and that can need more has run out of memory, for not every decoder says so. None: no limit.
        borrow: views may lie in the decoder's own memory, and hold until the next image is asked for.
    """

    def __init__(
        self,
        options: DecodeOptions,
        *,
        max_memory: int | None = None,
        borrow: bool = False,
    ) -> None:
        self.options = options
        self._max_memory, self._borrow = max_memory, borrow
        # Of decoders that take one file at a time, and of what makes pictures smaller; DALI has threads of its own.
        self._threads = min(len(os.sched_getaffinity(0)), options.batch_size)
        self._pool = ThreadPoolExecutor(self._threads, "decode")
        self._dali = Dali(options, None, each=self._pool.map)

    def start(self) -> None:
        """Get ready before the first image: threads take memory, which is not that of an image."""
        together = Barrier(self._threads)
        list(self._pool.map(lambda _: together.wait(), range(self._threads)))

    def stream(self, images: Iterable[Encoded]) -> Iterator[Decoded]:
        """See `Decoder.stream`."""
        batch: list[Job | Decoded] = []
        pixels = jobs = 0
        for image in images:
            job = self._admit(image)
            if isinstance(job, Job):
                if jobs == self.options.batch_size or (jobs and pixels + job.pixels > BATCH_PIXELS):
                    yield from self._run(batch)
                    batch, pixels, jobs = [], 0, 0
                pixels, jobs = pixels + job.pixels, jobs + 1
            batch.append(job)
            if not jobs and len(batch) >= self.options.batch_size:  # nothing but failures: don't hold them back
                yield from self._run(batch)
                batch = []
        yield from self._run(batch)

    def stream_arrays(self, images: Iterable[tuple[bytes, Pixels]]) -> Iterator[Decoded]:
        """See `Decoder.stream_arrays`."""
        for key, array in images:
            height, width = array.shape[:2]
            if error := self._unfit(width, height):
                yield Decoded(key, array.nbytes, error, width, height)
            else:  # DALI takes no strides
                yield from self._decode([Job(key, array.nbytes, width, height, np.ascontiguousarray(array))])

    def close(self) -> None:
        """Release threads and memory."""
        self._pool.shutdown(cancel_futures=True)
        self._dali.close()

    def _admit(self, image: Encoded) -> Job | Decoded:
        """Check what can be checked without decoding."""
        width = height = 0
        told = details(image.data) if self.options.exif else None
        try:
            if image.error is not None:
                raise image.error
            header = read_header(image.data)
            if header.sensor != (0, 0) and self.options.raw == "develop":
                header = raw.developed(header)
            width, height = header.display_size
            if error := self._unfit(width, height):
                raise error
            if header.defect:
                raise ImageError(Status.corrupt, f"{header.format}: {header.defect}")
        except ImageError as error:  # without its frames, which hold the image's bytes
            return Decoded(image.key, len(image.data), error.with_traceback(None), width, height, details=told)
        data = np.frombuffer(b"".join(header.parts) if header.parts else image.data, np.uint8)
        return Job(image.key, len(image.data), width, height, data, header, told)

    def _unfit(self, width: int, height: int) -> ImageError | None:
        """Why an image of this size is not decoded."""
        most, least = self.options.max_pixels, self.options.min_size
        if width * height > most:
            reason = f"{width}x{height} is {width * height} pixels, over the limit of {most}"
            return ImageError(Status.too_large, reason)
        if 0 < min(width, height) < least:
            return ImageError(Status.too_small, f"{width}x{height} pixels, under --min-size {least}")
        return None

    def _run(self, batch: Sequence[Job | Decoded]) -> Iterator[Decoded]:
        """DALI's images together, those of other decoders side by side, all in their order."""
        jobs = [job for job in batch if isinstance(job, Job)]
        together = self._decode([job for job in jobs if not job.decoder])
        alone = [job for job in jobs if job.decoder]
        opened = self._pool.map(_opened, alone) if len(alone) > 1 else map(_opened, alone)
        for item in batch:
            if isinstance(item, Decoded):
                yield item
            elif item.decoder:
                found = next(opened)
                if isinstance(found, Job):
                    yield from self._decode([found])
                else:
                    error = found if isinstance(found, ImageError) else self._failure(item, found, _words(found))
                    yield item.failed(error)
            else:
                yield next(together)

    def _decode(self, jobs: Sequence[Job]) -> Iterator[Decoded]:
        """By DALI: all of them encoded, or all of them pixels."""
        if not jobs:
            return
        options = self.options
        try:
            sizes, fine_sizes = zip(*(job.sizes(options) for job in jobs), strict=True)
            arrays, found, fine = self._dali.run([job.source for job in jobs], sizes, fine_sizes)
        except (RuntimeError, MemoryError) as error:
            if len(jobs) > 1:
                for job in jobs:
                    yield from self._decode([job])
            else:
                yield jobs[0].failed(self._failure(jobs[0], error, dalis_words(error)))
            return
        for i, (job, size) in enumerate(zip(jobs, found, strict=True)):
            if size != job.stored:
                yield job.failed(differs(job.stored, size))
                continue
            shown = views.turned(job.colours.rgb(arrays[i]), job.orientation)
            cut = views.cut(shown, options.size)
            has_fine = fine_sizes[i] is not None
            if has_fine:
                closer = views.turned(job.colours.rgb(fine[i]), job.orientation)
                cut = np.concatenate([cut, views.fine_view(closer, options.size)])
            elif not self._borrow and isinstance(cut, np.ndarray) and cut.base is not None:
                cut = cut.copy()
            yield job.decoded(cut, phash(shown), fine=has_fine)

    def _failure(self, job: Job, error: Exception, detail: str) -> ImageError:
        """What to say of an image that a decoder failed on; whether memory is what it lacked."""
        unsaid = self._max_memory is not None and job.pixels * PIXEL_BYTES > self._max_memory
        # DALI passes C++'s MemoryError on as text.
        if unsaid or isinstance(error, MemoryError) or "bad_alloc" in str(error):
            return ImageError(Status.too_large, "not enough memory to decode it", out_of_memory=True)
        return ImageError(Status.corrupt, f"cannot be decoded: {detail}")


def _opened(job: Job) -> Job | Exception:
    """An image's pixels by the decoder that it names, or what went wrong; without frames, which hold the image."""
    assert job.header is not None and job.decoder is not None
    try:
        pixels = job.decoder(job.source.data, job.header)
        if job.header.decoder == RAW:  # only its decoder knows a sensor's margins
            job = job.of_size(pixels.shape[1], pixels.shape[0])
        if pixels.shape != (*job.stored[::-1], 3) or pixels.dtype != np.uint8:
            raise differs(job.stored, pixels.shape[1::-1])
    except Exception as error:  # noqa: BLE001 -- whatever a library raises over a file is that file's failure
        return error.with_traceback(None)
    return replace(job, source=np.ascontiguousarray(pixels))


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def dalis_words(error: Exception) -> str:
    """What DALI's many lines say of the one image."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = next((i + 1 for i, line in enumerate(lines) if line.startswith("encountered")), 0)
    detail = lines[after] if after < len(lines) else "unknown error"
    return "damaged or truncated pixel data" if detail.startswith("Failed to decode sample") else detail
