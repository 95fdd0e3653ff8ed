"""DALI's pipelines: one definition for CPU and GPU, for encoded images and for pixels.

On a CPU DALI decodes, and `resize` makes smaller what it decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from metaqap_fast.decode import DecodeOptions
from metaqap_fast.decode.resize import compiled
from metaqap_fast.errors import MetaqapError
from metaqap_fast.records import Pixels

Size = tuple[int, int]  # (width, height)
Wanted = tuple[Pixels, Size | None]  # a picture, and the size that it is to have
Made = Pixels | MemoryError
Each = Callable[[Callable[[Wanted], Made], Iterable[Wanted]], Iterable[Made]]


class Resized(NamedTuple):
    """What a batch was decoded to.

    Attributes:
        pixels: [H, W, 3] uint8 RGB of each image, as stored (not turned), in DALI's memory, which hold until the next
            run: arrays, or torch tensors; one tensor [B, H, W, 3] if all on a GPU have one shape.
        found: the size that each had before it was resized.
        fine: a second time, for fine views, of those of which that is wanted, and something else for the others; empty
            if it is wanted of none.
    """

    pixels: Any
    found: list[Size]
    fine: list[Any]


class Dali:
    """The pipelines of one decoder, built when they are first needed. For one thread at a time.

    Args:
        options: see `DecodeOptions`; `batch_size` is the largest batch.
        device_id: CUDA device to decode on, None for the CPU.
        threads: of DALI's own; None for one on each core that this process may use.
        each: how a function is applied to many pictures, on a CPU: `map`, or that of a pool of threads.
    """

    def __init__(
        self, options: DecodeOptions, device_id: int | None, threads: int | None = None, each: Each = map
    ) -> None:
        self._options, self._device_id, self._threads, self._each = options, device_id, threads, each
        self._resized = compiled() if device_id is None else None
        self._pipelines: dict[bool, Any] = {}

    def run(
        self,
        sources: Sequence[Pixels],
        sizes: Sequence[Size | None],
        fine_sizes: Sequence[Size | None] = (),
        stream: Any = None,
    ) -> Resized:
        """Decode and resize a batch.

        Args:
            sources: all encoded files [n], or all pixels [H, W, 3] uint8.
            sizes: what each is resized to; None for one that keeps its exact pixels.
            fine_sizes: the same for its fine view; None for one without. Ignored unless `DecodeOptions.fine` is set.
            stream: on a GPU, torch's stream that will read the pixels; the current one. The host does not wait.

        Raises:
            RuntimeError, MemoryError: one of the images, nobody knows which; or the GPU.
        """
        if self._resized:
            return self._on_cpu(self._resized, sources, sizes, fine_sizes if any(fine_sizes) else ())
        pipe = self._built(encoded=sources[0].ndim == 1)
        pipe.feed_input("source", list(sources))
        for name, asked in (("", sizes), ("fine_", fine_sizes))[: 2 if self._options.fine else 1]:
            pipe.feed_input(f"{name}size", np.array([size[::-1] if size else (1, 1) for size in asked], np.float32))
            pipe.feed_input(f"{name}resized", np.array([size is not None for size in asked]))
        if self._device_id is None:
            output, shapes, *fine = pipe.run()
            count = len(sources)
            return Resized(
                [np.asarray(output[i]) for i in range(count)],
                _sizes(shapes),
                [np.asarray(each[i]) for each in fine for i in range(count)] if any(fine_sizes) else [],
            )
        from torch.utils.dlpack import from_dlpack

        output, shapes, *fine = pipe.run(stream)
        second = [from_dlpack(image) for each in fine for image in each] if any(fine_sizes) else []
        if output.is_dense_tensor():
            return Resized(from_dlpack(output.as_tensor()), _sizes(shapes), second)
        return Resized([from_dlpack(image) for image in output], _sizes(shapes), second)

    def _on_cpu(
        self,
        resized: Callable[[Pixels, Size], Pixels],
        sources: Sequence[Pixels],
        sizes: Sequence[Size | None],
        fine_sizes: Sequence[Size | None],
    ) -> Resized:
        """As `run`. Threads share pictures and not rows of them: each is made smaller twice, so few wait at the end."""
        whole = list(sources)
        if whole[0].ndim == 1:
            pipe = self._built(encoded=True)
            pipe.feed_input("source", whole)
            (output,) = pipe.run()
            whole = [np.asarray(output[i]) for i in range(len(sources))]
        wanted = [*zip(whole, sizes, strict=True), *(zip(whole, fine_sizes, strict=True) if fine_sizes else ())]
        made: list[Pixels] = []
        # All of them, before one is told of: what they read is DALI's, and not theirs once it runs again.
        for one in list(self._each(partial(_made, resized), wanted)):
            if isinstance(one, MemoryError):
                raise one
            made.append(one)
        return Resized(made[: len(whole)], [(each.shape[1], each.shape[0]) for each in whole], made[len(whole) :])

    def close(self) -> None:
        """Release DALI's threads and memory."""
        self._pipelines.clear()

    def _built(self, encoded: bool) -> Any:
        if encoded not in self._pipelines:
            pipeline = define(encoded, self._options, self._device_id, self._threads, whole=self._resized is not None)
            pipeline.build()
            self._pipelines[encoded] = pipeline
        return self._pipelines[encoded]


def _made(resized: Callable[[Pixels, Size], Pixels], wanted: Wanted) -> Made:
    pixels, size = wanted
    try:
        return resized(pixels, size) if size else pixels
    except MemoryError as error:
        return error.with_traceback(None)


def _sizes(shapes: Any) -> list[Size]:
    return [(width, height) for height, width, _ in np.asarray(shapes.as_array()).tolist()]


def define(
    encoded: bool, options: DecodeOptions, device_id: int | None, threads: int | None = None, *, whole: bool = False
) -> Any:
    """The pipeline for encoded images or for pixels, not yet built; one definition for the CPU and a GPU.

    With `whole` it decodes and does nothing else.
    """
    os.environ.setdefault("DALI_NVIMGCODEC_LOG_LEVEL", "0")  # failures are rows, not noise on stderr
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise MetaqapError(f"DALI is not installed: pip install nvidia-dali-cuda130 ({error})") from None
    on_gpu = device_id is not None
    # Not affine: lanes side by side must not be pinned to the same cores.
    more: dict[str, Any] = {"hw_decoder_load": options.hw_decoder_load, "affine": False} if on_gpu else {}

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=options.batch_size,
        num_threads=threads or len(os.sched_getaffinity(0)),
        device_id=device_id,
        prefetch_queue_depth=1,  # our own stages overlap; nothing is fed ahead
    )
    def definition() -> Any:
        image = fn.external_source(name="source", dtype=types.UINT8, ndim=1 if encoded else 3)
        if encoded:
            image = fn.decoders.image(
                image,
                device="mixed" if on_gpu else "cpu",
                **more,
                output_type=types.RGB,
                adjust_orientation=False,  # read and applied by us: see `formats.Header`
                jpeg_fancy_upsampling=True,  # as libjpeg-turbo does it; the GPU's default differs
            )
        elif on_gpu:
            image = image.gpu()
        if whole:
            return image
        shape = image.shape(dtype=types.INT32)  # what a decoder made of the file, whatever its header says
        pixels = _resized(image, "", lambda same: same)
        if not options.fine:
            return pixels, shape
        return pixels, shape, _resized(image, "fine_", lambda same: fn.crop(same, crop_w=1, crop_h=1))

    return definition()


def _resized(image: Any, name: str, otherwise: Callable[[Any], Any]) -> Any:
    """Images at the sizes that are fed as `{name}size`, (height, width), where `{name}resized` says so.

    A branch for each sample: a 512x512 image costs no resampling, and keeps its exact pixels. These are the operators
    that DALI makes of an `if` statement, used directly: to compile the statement, it writes files to TMPDIR, which stay
    there when the process is killed.
    """
    from nvidia.dali import fn, types

    conditional: Any = fn._conditional  # type: ignore[attr-defined]
    size = fn.external_source(name=f"{name}size", dtype=types.FLOAT, ndim=1)
    resized = fn.external_source(name=f"{name}resized", dtype=types.BOOL, ndim=0)
    large, same = conditional.split(image, predicate=resized, _if_stmt=True)
    large_size, _ = conditional.split(size, predicate=resized, _if_stmt=True)
    large = fn.resize(large, size=large_size, interp_type=types.INTERP_CUBIC, antialias=True)
    return conditional.merge(large, otherwise(same), predicate=resized)
