"""Bytes to pixels: one DALI pipeline definition for CPU and GPU, and the isolation of bad images.

DALI fails a whole batch for one bad file. A failed batch is therefore decoded again image by image: the
culprit gets its status, its neighbours their pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metaqap_fast.decode import views
from metaqap_fast.errors import ImageError, MetaqapError, Status
from metaqap_fast.formats import Header, read_header
from metaqap_fast.options import MAX_PIXELS, Views
from metaqap_fast.records import Decoded, Encoded, Pixels

BATCH_PIXELS = 64_000_000  # decoded pixels held at once: a batch of large photographs is cut short
OUT_OF_MEMORY = "not enough memory to decode it"
UNDECODABLE = "cannot be decoded"
HW_DECODER_LOAD = 0.65  # DALI's own default; the sweep of bench.gpu_acceptance measures others
# So much is set aside at the start that usual photographs cause no allocation later.
_MEMORY = {
    "device_memory_padding": 64 << 20,
    "host_memory_padding": 32 << 20,
    "preallocate_width_hint": 2048,
    "preallocate_height_hint": 2048,
}


@dataclass(slots=True)
class _Job:
    """An encoded image with its header, or an array that needs no decoding."""

    source: Pixels  # encoded bytes [n] or pixels [H, W, 3]
    key: bytes
    nbytes: int
    width: int
    height: int
    resize: tuple[int, int] = field(init=False)

    @property
    def pixels(self) -> int:
        return self.width * self.height


class Decoder:
    """Decodes, resizes and cuts images in batches.

    Args:
        size: side of the members' input in pixels.
        mode: how views are cut, see `views`.
        batch_size: images handed to DALI at once.
        max_pixels: an image with more is a row with status `too_large`; it is never decoded.
        threads: DALI's decoding threads.
        device_id: CUDA device to decode on, None for the CPU. Views are then torch tensors on it.
        hw_decoder_load: share of the JPEGs that go to the GPU's hardware decoder, where it has one.
        borrow: views may lie in the decoder's own memory, and hold until the next image is asked for.
    """

    def __init__(
        self,
        size: int,
        mode: Views = "fit",
        batch_size: int = 16,
        max_pixels: int = MAX_PIXELS,
        threads: int | None = None,
        device_id: int | None = None,
        hw_decoder_load: float = HW_DECODER_LOAD,
        borrow: bool = False,
    ) -> None:
        self.size, self.mode = size, mode
        self.batch_size, self.max_pixels = batch_size, max_pixels
        self._options = {
            "batch_size": batch_size,
            "num_threads": threads or len(os.sched_getaffinity(0)),
            "device_id": device_id,
            "prefetch_queue_depth": 1,  # our own stages overlap; nothing is fed ahead
        }
        self._load, self._borrow = hw_decoder_load, borrow
        self._pipelines: dict[bool, Any] = {}

    def stream(self, images: Iterable[Encoded]) -> Iterator[Decoded]:
        """Decode in order; one result for each image, failures included."""
        batch: list[_Job | Decoded] = []
        pixels = jobs = 0
        for image in images:
            job = self._admit(image)
            if isinstance(job, _Job):
                if jobs == self.batch_size or (jobs and pixels + job.pixels > BATCH_PIXELS):
                    yield from self._run(batch)
                    batch, pixels, jobs = [], 0, 0
                pixels, jobs = pixels + job.pixels, jobs + 1
            batch.append(job)
            if not jobs and len(batch) >= self.batch_size:  # nothing but failures: don't hold them back
                yield from self._run(batch)
                batch = []
        yield from self._run(batch)

    def stream_arrays(self, images: Iterable[tuple[bytes, Pixels]]) -> Iterator[Decoded]:
        """The same for decoded images [H, W, 3] uint8 RGB, resized by the same operator."""
        for key, array in images:
            height, width = array.shape[:2]
            if error := self._too_large(width, height):
                yield Decoded(key, array.nbytes, self._none(), width, height, error)
            else:
                pixels = np.ascontiguousarray(array)  # DALI takes no strides
                yield from self._run([self._job(pixels, key, array.nbytes, width, height)])

    def close(self) -> None:
        """Release DALI's threads and memory."""
        self._pipelines.clear()

    def _admit(self, image: Encoded) -> _Job | Decoded:
        """Check what can be checked without decoding."""
        nbytes = len(image.data)
        header: Header | None = None
        error = image.error
        if error is None:
            try:
                header = read_header(image.data)
                error = self._too_large(*header.display_size)
                if error is None and header.defect:
                    error = ImageError(Status.corrupt, f"{header.format}: {header.defect}")
            except ImageError as reason:
                error = reason
        width, height = header.display_size if header else (0, 0)
        if error is not None:
            return Decoded(image.key, nbytes, self._none(), width, height, error)
        return self._job(np.frombuffer(image.data, np.uint8), image.key, nbytes, width, height)

    def _job(self, source: Pixels, key: bytes, nbytes: int, width: int, height: int) -> _Job:
        job = _Job(source, key, nbytes, width, height)
        job.resize = views.target_size(width, height, self.size, self.mode)
        return job

    def _too_large(self, width: int, height: int) -> ImageError | None:
        if width * height <= self.max_pixels:
            return None
        reason = f"{width}x{height} is {width * height} pixels, over the limit of {self.max_pixels}"
        return ImageError(Status.too_large, reason)

    def _none(self) -> Pixels:
        return np.empty((0, self.size, self.size, 3), np.uint8)

    def _run(self, batch: Sequence[_Job | Decoded]) -> Iterator[Decoded]:
        jobs = [job for job in batch if isinstance(job, _Job)]
        done = iter(self._decode(jobs))
        for item in batch:
            yield item if isinstance(item, Decoded) else next(done)

    def _decode(self, jobs: Sequence[_Job]) -> Iterator[Decoded]:
        if not jobs:
            return
        try:
            arrays = self._pipe(jobs)
        except (RuntimeError, MemoryError) as error:
            if len(jobs) > 1:
                for job in jobs:
                    yield from self._decode([job])
                return
            yield self._failed(jobs[0], _failure(error))
            return
        for job, pixels in zip(jobs, arrays, strict=True):
            want = job.resize[::-1]
            if pixels.shape[:2] != want:  # the header lied, and the decoder believed the pixels
                reason = f"header says {job.width}x{job.height}, the decoded image differs"
                yield self._failed(job, ImageError(Status.corrupt, reason))
                continue
            cut = views.cut(pixels, self.size, self.mode)
            if not self._borrow and isinstance(cut, np.ndarray) and cut.base is not None:
                cut = cut.copy()
            yield Decoded(job.key, job.nbytes, cut, job.width, job.height)

    def _failed(self, job: _Job, error: ImageError) -> Decoded:
        return Decoded(job.key, job.nbytes, self._none(), job.width, job.height, error)

    def _pipe(self, jobs: Sequence[_Job]) -> list[Pixels]:
        """Run the pipeline on one batch; pixels are views into DALI's buffer, valid until the next run."""
        encoded = jobs[0].source.ndim == 1
        if encoded not in self._pipelines:
            self._pipelines[encoded] = define(encoded, self._options, self._load)
            self._pipelines[encoded].build()
        pipe = self._pipelines[encoded]
        resized = [job.resize != (job.width, job.height) for job in jobs]
        pipe.feed_input("source", [job.source for job in jobs])
        pipe.feed_input("size", [np.array(job.resize[::-1], np.float32) for job in jobs])
        pipe.feed_input("resized", [np.array(flag) for flag in resized])
        (output,) = pipe.run()
        if self._options["device_id"] is not None:
            return _on_device(output)
        return [np.asarray(output[i]) for i in range(len(jobs))]


def _on_device(output: Any) -> list[Any]:
    """DALI's output on a GPU as torch tensors of their own, without a way over the host."""
    import torch
    from torch.utils.dlpack import from_dlpack

    if output.is_dense_tensor():
        images = list(from_dlpack(output.as_tensor()).clone())
    else:
        images = [from_dlpack(image).clone() for image in output]
    torch.cuda.current_stream(images[0].device).synchronize()  # DALI reuses its buffer in the next run
    return images


def define(encoded: bool, options: dict[str, Any], hw_decoder_load: float = HW_DECODER_LOAD) -> Any:
    """The decoding pipeline, not yet built; the same definition for the CPU and for a GPU (`device_id`)."""
    os.environ.setdefault("DALI_NVIMGCODEC_LOG_LEVEL", "0")  # failures are rows, not noise on stderr
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise MetaqapError(f"DALI is not installed: pip install nvidia-dali-cuda130 ({error})") from None
    on_gpu = options["device_id"] is not None
    more: dict[str, Any] = {**_MEMORY, "hw_decoder_load": hw_decoder_load} if on_gpu else {}

    @pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
    def definition() -> Any:
        image = fn.external_source(name="source", dtype=types.UINT8, ndim=1 if encoded else 3)
        size = fn.external_source(name="size", dtype=types.FLOAT, ndim=1)  # (height, width)
        resized = fn.external_source(name="resized", dtype=types.BOOL, ndim=0)
        if encoded:
            image = fn.decoders.image(
                image,
                device="mixed" if on_gpu else "cpu",
                **more,
                output_type=types.RGB,
                adjust_orientation=True,
                jpeg_fancy_upsampling=True,  # as libjpeg-turbo does it; the GPU's default differs
            )
        elif on_gpu:
            image = image.gpu()
        # A 512x512 image costs no resampling, and keeps its exact pixels. Not a conditional expression: DALI
        # compiles the statement into a branch for each sample.
        if resized:  # noqa: SIM108
            out = fn.resize(image, size=size, interp_type=types.INTERP_CUBIC, antialias=True)
        else:
            out = image
        return out

    return definition(**options)


def _failure(error: RuntimeError | MemoryError) -> ImageError:
    """What DALI's many lines say of the one image."""
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):
        return ImageError(Status.too_large, OUT_OF_MEMORY)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = next((i + 1 for i, line in enumerate(lines) if line.startswith("encountered")), 0)
    detail = lines[after] if after < len(lines) else "unknown error"
    if detail.startswith("Failed to decode sample"):
        detail = "damaged or truncated pixel data"
    return ImageError(Status.corrupt, f"{UNDECODABLE}: {detail}")
