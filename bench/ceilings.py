"""What the machine can do at best, measured: works for `job` that the stages are held against."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from metaqap_fast.bench.images import First
from metaqap_fast.bench.job import NotInstalled, Work
from metaqap_fast.bench.native_parts import WORKS as NATIVE
from metaqap_fast.bench.stages import WORKS as STAGES
from metaqap_fast.bench.stages import forget
from metaqap_fast.input.files import File

SIDE = 1536  # of the matrices: three of them are larger than a core's caches, and their product is long
CHAIN = 4  # products in one request
COPY_BYTES = 256 << 20
DISK_BYTES = 256 << 20
BLOCK = 1 << 20
Options = dict[str, Any]


def gemm(options: Options) -> Work:
    """Matrix products by OpenVINO in one precision, streams and threads as the engine has them; units: operations."""
    from metaqap_fast.engine.openvino_core import library, shared_core
    from metaqap_fast.engine.openvino_engine import HINTS

    ov, precision = library(), options["precision"]
    op = ov.opset13
    random = np.random.default_rng(0)
    x = image = op.parameter([SIDE, SIDE], ov.Type.f32, "x")
    bounds = [op.constant(np.full((1, 1), value, np.float32)) for value in (-1.0, 1.0)]
    for _ in range(CHAIN):
        weights = op.constant(random.uniform(-1, 1, (SIDE, SIDE)).astype(np.float32) / SIDE**0.5)
        if precision == "int8":
            x, weights = (op.fake_quantize(each, *bounds, *bounds, 255) for each in (x, weights))
        x = op.matmul(x, weights, False, True)
    model = ov.Model([op.reduce_max(x, op.constant(np.array([0, 1])))], [image], "gemm")
    config = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
        "ENABLE_CPU_PINNING": False,
    }
    queue: Any = ov.AsyncInferQueue(shared_core().compile_model(model, "CPU", config))
    data = random.uniform(-1, 1, (SIDE, SIDE)).astype(np.float32)

    def work() -> float:
        requests = 4 * len(queue)
        for _ in range(requests):
            queue.start_async({0: data})
        queue.wait_all()
        return 2.0 * SIDE**3 * CHAIN * requests

    return Work(work, work, unit="operations", facts={"side": SIDE, "library": f"openvino {ov.__version__}"})


def copy(options: Options) -> Work:
    """Memory to memory by as many threads as CPUs; units: bytes read and written."""
    cpus = len(os.sched_getaffinity(0))
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, cpus), np.array_split(source, cpus), strict=True))
    pool = ThreadPoolExecutor(cpus)

    def work() -> float:
        list(pool.map(lambda pair: np.copyto(*pair), parts))
        return 2.0 * COPY_BYTES

    return Work(work, work, pool.shutdown, unit="bytes")


def jpeg(options: Options) -> Work:
    """libjpeg-turbo alone: the same files, in memory, one thread for each CPU."""
    import simplejpeg

    encoded = [Path(os.fsdecode(entry.path)).read_bytes() for entry in First(options["sources"], options["count"])]
    encoded = [data for data in encoded if simplejpeg.is_jpeg(data)]
    if not encoded:
        raise NotInstalled("there is no JPEG among the images")
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def work() -> float:
        return float(sum(1 for _ in pool.map(lambda data: simplejpeg.decode_jpeg(data).shape, encoded)))

    return Work(work, work, pool.shutdown)


def disk_read(options: Options) -> Work:
    """One large file in the temporary folder, after the kernel was asked to forget it; units: bytes."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name, "data")
    _write(path)
    entry = File(b"", os.fsencode(path))

    def work() -> float:
        forget([entry])
        with open(path, "rb", buffering=0) as file:
            block = bytearray(BLOCK)
            while file.readinto(block):
                pass
        return float(DISK_BYTES)

    return Work(work, close=folder.cleanup, unit="bytes")


def disk_write(options: Options) -> Work:
    """One large file in the temporary folder, synced; units: bytes."""
    folder = tempfile.TemporaryDirectory()

    def work() -> float:
        _write(Path(folder.name, "data"))
        return float(DISK_BYTES)

    return Work(work, close=folder.cleanup, unit="bytes")


def _write(path: Path) -> None:
    block = np.random.default_rng(0).bytes(BLOCK)
    with open(path, "wb") as file:
        for _ in range(DISK_BYTES // BLOCK):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


WORKS: dict[str, Callable[[Options], Work]] = {
    **STAGES,
    **NATIVE,
    **{work.__name__: work for work in (gemm, copy, jpeg, disk_read, disk_write)},
}
