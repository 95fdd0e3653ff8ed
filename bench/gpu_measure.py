"""How `gpu_steps` measures: engines and decoders by name, and rates after a warm-up."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaqap_fast.decode import DecodeOptions, Decoder
from metaqap_fast.decode import create as create_decoder
from metaqap_fast.engine import cuda
from metaqap_fast.engine.gpu.engine import DeviceEngine
from metaqap_fast.input.files import Listing
from metaqap_fast.input.reading import read_all
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.records import Decoded, DeviceViews, Encoded, Pixels
from metaqap_fast.run import run
from metaqap_fast.scorer import Scorer


@dataclass(frozen=True)
class Settings:
    """What all steps share. `gpu` None is the dry run: the same steps on the CPU. `seconds` is for each timing."""

    model: str
    work: str
    generated: str
    photos: str
    gpu: int | None
    seconds: float = 4.0
    batch: int = 64

    @property
    def device(self) -> cuda.Gpu | None:
        """The GPU, or None in a dry run."""
        return None if self.gpu is None else cuda.pick(self.gpu, cuda.gpus())


def make_engine(
    settings: Settings,
    engine: str,
    precision: str,
    layout: str = "merged",
    batch: int | None = None,
    bundle: Bundle | None = None,
) -> DeviceEngine:
    """An engine by name: `tensorrt`, `tensorrt_rtx` or `torch`; of the settings' model, or of another bundle."""
    bundle = bundle or bundles.load(settings.model)
    batch = batch or (settings.batch if settings.gpu is not None else 2)
    if engine == "torch":
        from metaqap_fast.engine.gpu import torch_engine

        return torch_engine.create(bundle, precision, settings.device, batch)
    from metaqap_fast.engine.gpu import tensorrt_build
    from metaqap_fast.engine.gpu import tensorrt_engine as tensorrt

    gpu = settings.device
    if gpu is None:
        raise RuntimeError(f"{engine} needs a GPU")
    return tensorrt.create(bundle, precision, gpu, batch, layout, tensorrt_build.find(engine))


def decoder_for(settings: Settings, on_gpu: bool, **options: Any) -> Decoder:
    """A decoder for the device, or for the CPU."""
    bundle = bundles.load(settings.model)
    plain = DecodeOptions(bundle.view_size, fine=bundle.fine_lines)
    if not on_gpu:
        return create_decoder(plain)
    return create_decoder(replace(plain, batch_size=settings.batch, **options), gpu=settings.gpu)


def encoded(settings: Settings) -> list[Encoded]:
    """The generated photographs' files, in memory."""
    return list(read_all(Listing([settings.generated])))


def endless(data: list[Encoded]) -> Iterator[Encoded]:
    """Again and again."""
    while True:
        yield from data


def sound(image: Decoded) -> Decoded:
    """A decoded image; a failed one is no image that was decoded, however fast.

    Raises:
        RuntimeError: it failed.
    """
    if image.error is not None:
        raise RuntimeError(f"{image.key!r} failed: {image.error.reason}")
    return image


def on_host(views: Any) -> Pixels:
    """An image's views, wherever they are, as an array."""
    return views.array() if isinstance(views, DeviceViews) else np.asarray(views)


def own_stream(settings: Settings) -> AbstractContextManager[Any]:
    """A stream that is not the default one, for the block."""
    if settings.gpu is None:
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(settings.gpu))  # type: ignore[no-untyped-call]


def rate(settings: Settings, step: Callable[[], object], images: int) -> float:
    """Images per second of a step, after warm-up."""
    for _ in range(3):
        step()
    wait(settings)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < settings.seconds:
        for _ in range(4):
            step()
        wait(settings)
        count += 4
    return count * images / (time.perf_counter() - start)


def stream_rate(settings: Settings, items: Iterator[object], warm: int) -> float:
    """Items per second of a stream, after `warm` of them."""
    for _ in range(warm):
        next(items)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < settings.seconds:
        next(items)
        count += 1
    return count / (time.perf_counter() - start)


def decode_rate(settings: Settings, data: list[Encoded], **options: Any) -> float:
    """Images per second of decoding alone."""
    decoder = decoder_for(settings, on_gpu=settings.gpu is not None, **options)
    stream = (sound(image) for image in decoder.stream(endless(data)))
    return stream_rate(settings, stream, 4 * decoder.options.batch_size)


def engine_rate(settings: Settings, made: DeviceEngine) -> float:
    """Images per second of an engine's full batches, already on the device."""

    def step() -> None:
        with made.on_stream(), torch.inference_mode():
            made.runner.run()

    return rate(settings, step, made.batch)


def whole_rate(settings: Settings, scorer: Scorer, expected: float) -> float:
    """A whole run into a score file, long enough for its start to weigh little; names are many, files few."""
    folder = Path(settings.work) / "many"
    folder.mkdir(exist_ok=True)
    files = sorted(Path(settings.generated).iterdir())
    count = max(8 if settings.gpu is None else 32, int(expected * 3 * settings.seconds))
    for i in range(len(list(folder.iterdir())), count):
        os.link(files[i % len(files)], folder / f"{i:07d}.jpg")
    rates = []
    for round_ in range(2):  # the first warms up
        summary = run(scorer, Listing([folder]), Path(settings.work) / f"whole-{time.time_ns()}-{round_}.h5")
        if summary.failed:
            raise RuntimeError(f"{summary.failed} of {summary.images} images failed: {dict(summary.statuses)}")
        rates.append(summary.rate)
    return rates[-1]


def wait(settings: Settings) -> None:
    """For the device."""
    if settings.gpu is not None:
        torch.cuda.synchronize(settings.gpu)


def used_memory(gpu: int | None) -> float:
    """Of the device (in a dry run: of this process), in MB."""
    if gpu is None:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    free, total = torch.cuda.mem_get_info(gpu)
    return (total - free) / 1e6


def reference_path(settings: Settings, folder: str) -> Path:
    """Where the CPU's scores of a folder are."""
    return Path(settings.work) / f"{Path(folder).name}.npz"


def output_of(command: list[str]) -> str | None:
    """What a command prints; None if it does not run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


class Utilisation:
    """Samples nvidia-smi while a block runs."""

    def __init__(self, gpu: cuda.Gpu | None) -> None:
        self._gpu, self._samples, self._stop = gpu, list[float](), threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        assert self._gpu is not None
        # By its UUID: nvidia-smi counts all GPUs, CUDA those of CUDA_VISIBLE_DEVICES. Of a MIG slice it says nothing.
        query = ["nvidia-smi", f"--id={self._gpu.uuid}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._stop.wait(0.5):
            if (text := output_of(query)) and text.isdigit():
                self._samples.append(float(text))

    def __enter__(self) -> Utilisation:
        if self._gpu is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def mean(self) -> float | None:
        """Percent, None without a sample."""
        return float(np.mean(self._samples)) if self._samples else None
