"""Features of labelled images through the program's own decoder and OpenVINO in fp32, cached on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from metaqap_fast.decode import Decoded, Decoder
from metaqap_fast.errors import MetaqapError
from metaqap_fast.source import Entry, read_all

log = logging.getLogger(__name__)

VIEW_SIZE = 512
OPSET = 17


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
    exported = cache.with_suffix(".onnx")
    export_onnx(network, exported)
    model = ov.Core().compile_model(
        exported, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
    )
    width = model.output(0).partial_shape[1].get_length()
    partial = cache.with_suffix(".partial")
    out = np.lib.format.open_memmap(partial, "w+", np.float32, (len(files), width))
    queue = ov.AsyncInferQueue(model)

    def collect(request: ov.InferRequest, slot: tuple[int, int]) -> None:
        row, views = slot
        out[row] += request.get_output_tensor(0).data[0] / views

    queue.set_callback(collect)
    start = time.monotonic()
    for row, image in enumerate(decoded(files)):
        for view in image.views:
            queue.start_async({0: view[None]}, (row, len(image.views)))
        if row % 1000 == 0:
            log.info("%s: %d of %d images, %.0f s", cache.stem, row, len(files), time.monotonic() - start)
    queue.wait_all()
    out.flush()
    partial.rename(cache)
    return out


def decoded(files: Sequence[Path]) -> Iterator[Decoded]:
    """Each file through the program's own decoder, in order.

    Raises:
        MetaqapError: an image that cannot be decoded; leaving it out would part images from their labels.
    """
    entries = [Entry(bytes(path), bytes(path)) for path in files]
    for path, image in zip(files, Decoder(VIEW_SIZE).stream(read_all(entries)), strict=True):
        if image.error is not None:
            raise MetaqapError(f"{path}: {image.error}")
        yield image


def views_of(files: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """The first view of each file, [S, S, 3] uint8; raises as `decoded`."""
    return [image.views[0] for image in decoded(files)]


def export_onnx(network: torch.nn.Module, path: Path) -> None:
    """Write a module that takes [N, S, S, 3] uint8 as ONNX with a free batch dimension."""
    example = torch.zeros(1, VIEW_SIZE, VIEW_SIZE, 3, dtype=torch.uint8)
    axes = {"image": {0: "batch"}, "prediction": {0: "batch"}}
    torch.onnx.export(
        network.eval(),
        (example,),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["prediction"],
        dynamic_axes=axes,
    )
    model = onnx.load(path)
    fuse_pads(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def fuse_pads(model: onnx.ModelProto) -> None:
    """Turn a zero padding of height and width before a convolution into the convolution's own.

    TensorFlow's "same" padding is asymmetric, which torch can only express as a separate operation, and as
    such it costs engines a pass over the image and the fusion of what stands before it.
    """
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        pad = made.get(conv.input[0])
        if pad is None or pad.op_type != "Pad":
            continue
        chain = _ancestors(pad.input[1], made)
        amounts = _evaluate(chain, pad.input[1])  # [8]: before and after, for each of N, C, H, W
        own = next(attribute for attribute in conv.attribute if attribute.name == "pads")
        own.ints[:] = [a + int(b) for a, b in zip(own.ints, amounts[[2, 3, 6, 7]], strict=True)]
        conv.input[0] = pad.input[0]
        for node in (*chain, pad):
            graph.node.remove(node)


def _ancestors(name: str, made: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The constant nodes that a tensor is computed from, inputs first."""
    if not name or name not in made:
        return []
    node = made[name]
    above = [ancestor for source in node.input for ancestor in _ancestors(source, made)]
    return [*above, node]


def _evaluate(nodes: list[onnx.NodeProto], output: str) -> NDArray[np.int64]:
    value = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.INT64, None)
    graph = onnx.helper.make_graph(nodes, "constants", [], [value])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    (amounts,) = ReferenceEvaluator(model).run(None, {})
    return np.asarray(amounts)
