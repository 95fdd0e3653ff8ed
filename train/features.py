"""Features of labelled images through the program's own decoder and OpenVINO in fp32, cached on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from metaqap_fast.decode import Decoder
from metaqap_fast.errors import MetaqapError
from metaqap_fast.source import Entry, read_all

log = logging.getLogger(__name__)

VIEW_SIZE = 512


def extract(network: torch.nn.Module, files: Sequence[Path], cache: Path) -> NDArray[np.float32]:
    """Features [n, D] of each file, the mean over its views; kept in `cache`, a .npy in fp32.

    A cache of another length is an error, not a silent mismatch; an interrupted extraction starts again.

    Raises:
        MetaqapError: an image that cannot be decoded.
    """
    if cache.exists():
        stored = np.load(cache, mmap_mode="r", allow_pickle=False)
        if len(stored) != len(files):
            raise MetaqapError(f"{cache} holds {len(stored)} images, not {len(files)}: remove it")
        return np.asarray(stored)
    onnx = cache.with_suffix(".onnx")
    export_onnx(network, onnx)
    model = ov.Core().compile_model(onnx, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"})
    width = model.output(0).partial_shape[1].get_length()
    partial = cache.with_suffix(".partial")
    out = np.lib.format.open_memmap(partial, "w+", np.float32, (len(files), width))
    queue = ov.AsyncInferQueue(model)

    def collect(request: ov.InferRequest, slot: tuple[int, int]) -> None:
        row, views = slot
        out[row] += request.get_output_tensor(0).data[0] / views

    queue.set_callback(collect)
    start = time.monotonic()
    entries = [Entry(bytes(path), bytes(path)) for path in files]
    for row, image in enumerate(Decoder(VIEW_SIZE).stream(read_all(entries))):
        if image.error is not None:
            raise MetaqapError(f"{files[row]}: {image.error}")
        for view in image.views:
            queue.start_async({0: view[None]}, (row, len(image.views)))
        if row % 1000 == 0:
            log.info("%s: %d of %d images, %.0f s", cache.stem, row, len(files), time.monotonic() - start)
    queue.wait_all()
    out.flush()
    partial.rename(cache)
    return out


def export_onnx(network: torch.nn.Module, path: Path) -> None:
    """Write a module that takes [N, S, S, 3] uint8 as ONNX with a free batch dimension."""
    example = torch.zeros(1, VIEW_SIZE, VIEW_SIZE, 3, dtype=torch.uint8)
    axes = {"image": {0: "batch"}, "prediction": {0: "batch"}}
    torch.onnx.export(
        network.eval(),
        (example,),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["prediction"],
        dynamic_axes=axes,
    )
