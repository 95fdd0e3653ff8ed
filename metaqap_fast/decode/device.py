"""Decoding on a GPU: pixels that stay there, and a probe that tells a failure of the GPU from one of an image.

A JPEG whose pixels are known rides in every batch. A batch whose probe comes out wrong gives no row, and an image is
called corrupt only by a decoder that can still decode the probe. Known to happen, without an error: black images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaqap_fast.decode import DecodeOptions, probe, views
from metaqap_fast.decode.dali import Dali, Resized
from metaqap_fast.decode.local import Job, LocalDecoder, dalis_words
from metaqap_fast.errors import MetaqapError
from metaqap_fast.formats.format import differs
from metaqap_fast.gpu_errors import DecoderDisagrees, GpuLost, first_line, gpu_lost, lost, out_of_memory
from metaqap_fast.records import Decoded, DeviceViews, LaneBatch, Pixels

log = logging.getLogger(__name__)
DARK = 8  # levels: an image that the CPU decodes to no more may be black


class DeviceDecoder(LocalDecoder):
    """A lane: a pipeline, and a stream of its own. Views are `DeviceViews`.

    Args:
        options: see `DecodeOptions`.
        device_id: CUDA device. None for torch on the CPU, which is for tests.
        threads: of DALI's own.
    """

    def __init__(self, options: DecodeOptions, device_id: int | None, threads: int | None = None) -> None:
        super().__init__(options)
        self._dali = Dali(replace(options, batch_size=options.batch_size + 1), device_id, threads)
        self._device = "the cpu" if device_id is None else f"cuda:{device_id}"
        self._device_id = device_id
        self._stream: Any = None
        data = probe.encoded()
        self._probe = Job(b"probe", len(data), probe.SIDE, probe.SIDE, data)
        self._cpu: LocalDecoder | None = None

    def start(self) -> None:
        """Build the pipeline and decode the probe, in a full batch, which also settles how DALI divides its work.

        Raises:
            MetaqapError: it cannot be built, or it decodes to something else.
        """
        try:
            if self._device_id is not None:
                self._stream = torch.cuda.Stream(self._device_id)  # type: ignore[no-untyped-call]
            self._together([self._probe] * self.options.batch_size)
        except (RuntimeError, MemoryError) as error:
            less = ". Free some of its memory, or use a smaller --batch-size" if out_of_memory(error) else ""
            raise MetaqapError(f"the decoder on {self._device} does not start: {first_line(error)}{less}") from None

    def close(self) -> None:
        """See `Decoder.close`."""
        super().close()
        if self._cpu is not None:
            self._cpu.close()

    def _decode(self, jobs: Sequence[Job]) -> Iterator[Decoded]:
        if not jobs:
            return
        try:
            found = self._together(jobs)
        except (RuntimeError, MemoryError) as error:
            if lost(error):
                raise gpu_lost(self._device, error) from None
            if len(jobs) > 1:
                size = (len(jobs) + 1) // 2 if out_of_memory(error) else 1
                for start in range(0, len(jobs), size):
                    yield from self._decode(jobs[start : start + size])
                return
            yield self._judged(jobs[0], error)
            return
        yield from found

    def _judged(self, job: Job, error: Exception) -> Decoded:
        """An image that failed alone: is it the image?"""
        if out_of_memory(error):
            log.warning("%s has too little memory to decode %r: the cpu decodes it", self._device, job.key)
            return self._by_cpu(job)
        try:
            self._together([self._probe])
        except (RuntimeError, MemoryError) as trouble:
            raise GpuLost(
                f"the decoder on {self._device} stopped working: {first_line(trouble)}. Rows committed so far are "
                "safe; go on with --resume"
            ) from None
        return job.failed(self._failure(job, error, dalis_words(error)))

    def _by_cpu(self, job: Job) -> Decoded:
        if self._cpu is None:
            self._cpu = LocalDecoder(self.options)
        (found,) = self._cpu._decode([job])
        return found

    def _together(self, jobs: Sequence[Job]) -> list[Decoded]:
        """A batch and the probe; returns when all of it is there, since that is when CUDA says that it failed."""
        encoded = jobs[0].source.ndim == 1
        wanted = [*jobs, self._probe] if encoded else list(jobs)
        sizes, fine_sizes = zip(*(job.sizes(self.options) for job in wanted), strict=True)
        has_fine = [size is not None for size in fine_sizes]
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            made = self._dali.run([job.source for job in wanted], sizes, fine_sizes, self._stream)
            known = made.pixels[len(jobs)] if encoded else None
            pixels, counts = self._cut(made, jobs, has_fine)
            # What the host must see: whether an image has any light in it, and the probe.
            seen = [_to_host(tensor) for tensor in (pixels.flatten(1).amax(1), known) if tensor is not None]
            ready = None
            if self._stream is not None:
                ready = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                ready.record(self._stream)
        if ready is not None:
            ready.synchronize()
        if encoded:
            self._check(seen[1])
        batch = LaneBatch(pixels, ready, self.options.size)
        return self._found(jobs, made.found, batch, counts, has_fine, seen[0].tolist())

    def _cut(self, made: Resized, jobs: Sequence[Job], has_fine: Sequence[bool]) -> tuple[Tensor, list[int]]:
        """All views of the images as one tensor of torch's own, and how many each has."""
        size, count = self.options.size, len(jobs)
        usual = isinstance(made.pixels, Tensor) and made.pixels.shape[1:3] == (size, size) and not any(has_fine)
        if usual and not any(_unusual(jobs, made.found)):
            return made.pixels[:count].clone(), [1] * count  # every image is just one view
        parts: list[Any] = []
        counts = []
        for i, job in enumerate(jobs):
            cut: list[Any] = []
            if made.found[i] == job.stored:
                cut.append(views.cut(_shown(made.pixels[i], job), size))
                if has_fine[i]:
                    cut.append(views.fine_view(_shown(made.fine[i], job), size))
            parts += cut
            counts.append(sum(map(len, cut)))
        return torch.cat(parts) if parts else torch.empty((0, size, size, 3), dtype=torch.uint8), counts

    def _found(
        self,
        jobs: Sequence[Job],
        found: Sequence[tuple[int, int]],
        batch: LaneBatch,
        counts: Sequence[int],
        has_fine: Sequence[bool],
        lightest: Sequence[int],
    ) -> list[Decoded]:
        out, start = [], 0
        for job, size, count, fine in zip(jobs, found, counts, has_fine, strict=False):
            stop = start + count
            if size != job.stored:
                out.append(job.failed(differs(job.stored, size)))
            elif not any(lightest[start:stop]):
                out.append(self._black(job, DeviceViews(batch, start, stop), fine))
            else:
                out.append(job.decoded(DeviceViews(batch, start, stop), fine=fine))
            start = stop
        return out

    def _black(self, job: Job, found: Any, fine: bool) -> Decoded:
        """An image without any light: only if the CPU sees none either."""
        cpus = self._by_cpu(job)
        if cpus.error is not None:
            return cpus
        if int(cpus.views.max()) > DARK:
            raise DecoderDisagrees(
                f"the decoder on {self._device} gave black pixels for {job.key!r}, which is not black: images that "
                "it decoded before may be wrong too. Score them again with --device cpu --overwrite, or another driver"
            )
        return job.decoded(found, fine=fine)

    def _check(self, known: Pixels) -> None:
        off = probe.deviation(known)
        if off > probe.LEVELS:
            raise DecoderDisagrees(
                f"the decoder on {self._device} gives wrong pixels, {off} levels off on a known JPEG: no row was made "
                "of this batch. Rows committed so far are safe; go on with --resume and another driver, or score with "
                "--device cpu into another file"
            )


def _unusual(jobs: Sequence[Job], found: Sequence[tuple[int, int]]) -> Iterator[bool]:
    """Whether an image is to be turned or its colours changed, or is none of the size it claims."""
    return (
        job.orientation != 1 or size != job.stored or job.colours.transform is not None
        for job, size in zip(jobs, found, strict=False)
    )


def _shown(pixels: Any, job: Job) -> Any:
    """Pixels [H, W, 3] as a viewer shows them."""
    return views.turned(_coloured(torch.as_tensor(pixels), job), job.orientation)


def _coloured(pixels: Tensor, job: Job) -> Tensor:
    """Pixels [H, W, 3] as sRGB; a profile is applied on the host, which waits for them."""
    if job.colours.transform is None:
        return pixels
    return torch.as_tensor(job.colours.rgb(pixels.cpu().numpy())).to(pixels.device)


def _to_host(tensor: Any) -> Pixels:
    """The values as an array; on a GPU they are there when the stream has come so far."""
    if not torch.as_tensor(tensor).is_cuda:
        return np.asarray(tensor)
    out = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    out.copy_(tensor, non_blocking=True)
    return out.numpy()
