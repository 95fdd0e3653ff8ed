"""Features of labelled images through the program's own decoder, cached on disk; and the export to ONNX."""

from __future__ import annotations

import copy
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from metaqap_fast.decode import DecodeOptions, create
from metaqap_fast.engine.openvino_core import library, shared_core
from metaqap_fast.errors import MetaqapError
from metaqap_fast.input.files import File
from metaqap_fast.input.reading import read_all
from metaqap_fast.records import Decoded
from metaqap_fast.train.member import VIEW_SIZE, Features
from metaqap_fast.train.pooling import pool

log = logging.getLogger(__name__)

OPSET = 17


@dataclass(frozen=True, slots=True)
class Cache:
    """What a network with its first weights sees in each of n views: of the training images, or of ladders.

    `pooled` [n, D] float32 are its pooled taps; `activation` is what stage number `stage` reads: float16
    [n, C, h, w], or for stage 0 the views themselves, uint8 [n, S, S, 3]; for no stage there is none.
    """

    pooled: NDArray[np.float32]
    activation: NDArray[Any]
    stage: int | None


class Probe(nn.Module):
    """Pooled taps of all stages, and the activation before stage `k` if that is not the image."""

    def __init__(self, features: Features, k: int) -> None:
        super().__init__()
        self.features, self.k = features, k

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """[N, S, S, 3] uint8 -> pooled taps [N, D], and the activation [N, C, h, w]."""
        network = self.features.network
        x = self.features.preprocess(image)
        if not self.k:
            return (torch.cat([pool(tap) for tap in network.taps(x)], 1),)
        taps, activation = network.until(self.k, x)
        taps += network.from_stage(self.k, activation)
        return torch.cat([pool(tap) for tap in taps], 1), activation


def cached(
    features: Features,
    views: Callable[[], Iterable[NDArray[np.uint8]]],
    count: int,
    folder: Path,
    stage: int | None,
    device: torch.device,
) -> Cache:
    """Run a network over `count` views [S, S, 3] once and keep what training needs in `folder`, as .npy files.

    `views` gives them; it is called only where there is no cache yet. Without a `stage` only the pooled taps are
    kept, which a frozen network's head is fitted on.

    A cache of another length is an error, not a silent mismatch; an interrupted one starts again.

    Raises:
        MetaqapError: an image that cannot be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "pooled.npy", *([] if stage is None else [folder / f"stage{stage}.npy"])]
    if all(path.exists() for path in paths):
        pooled, *activation = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
        if len(pooled) != count:
            raise MetaqapError(f"{folder} holds {len(pooled)} images, not {count}: remove it")
        return Cache(pooled, activation[0] if activation else np.empty(0), stage)
    stores: dict[int, NDArray[Any]] = {}
    lock = threading.Lock()  # outputs arrive on the engine's threads
    start = time.monotonic()

    def store(place: int, row: int, value: NDArray[Any], kind: type) -> None:
        with lock:
            if place not in stores:
                shape = (count, *value.shape)
                stores[place] = np.lib.format.open_memmap(paths[place].with_suffix(".partial"), "w+", kind, shape)
        stores[place][row] = value

    def collect(row: int, outputs: list[NDArray[Any]]) -> None:
        store(0, row, outputs[0], np.float32)
        if stage:
            store(1, row, outputs[1], np.float16)
        if row % 1000 == 0:
            log.info("%s: %d of %d images, %.0f s", folder.name, row, count, time.monotonic() - start)

    def seen() -> Iterator[NDArray[np.uint8]]:
        for row, view in enumerate(views()):
            if stage == 0:
                store(1, row, view, np.uint8)
            yield view

    infer = _on_cpu if device.type == "cpu" else _on_device
    infer(Probe(features, stage or 0), seen(), collect, device)
    for path in paths:
        path.with_suffix(".partial").rename(path)
    return cached(features, views, count, folder, stage, device)


def predict_files(member: nn.Module, files: Sequence[Path], device: torch.device) -> NDArray[np.float64]:
    """[n] MOS of files by a member, as scoring computes it: the mean over an image's views."""
    image_of: list[int] = []  # of each view
    predicted: dict[int, float] = {}

    def views() -> Iterator[NDArray[np.uint8]]:
        for row, image in enumerate(decoded(files)):
            for view in image.views:
                image_of.append(row)
                yield view

    infer = _on_cpu if device.type == "cpu" else _on_device
    infer(member, views(), lambda view, outputs: predicted.__setitem__(view, float(outputs[0][0])), device)
    values = [predicted[view] for view in range(len(image_of))]
    return np.bincount(image_of, values, len(files)) / np.bincount(image_of, minlength=len(files))


Collect = Callable[[int, list[NDArray[Any]]], None]


class OnCpu:
    """A network by OpenVINO, as scoring does; in fp32, or in bf16 where the CPU has it."""

    def __init__(self, network: nn.Module, precision: str = "fp32") -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            export_onnx(network, path)
            kind = {"fp32": "f32", "bf16": "bf16"}[precision]
            hints = {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "THROUGHPUT"}
            self._model = shared_core().compile_model(path, "CPU", hints)

    def __call__(self, views: Iterable[NDArray[np.uint8]], collect: Collect) -> None:
        """Hands on the outputs of each view [S, S, 3], with its row, on the engine's threads."""
        queue = library().AsyncInferQueue(self._model)
        outputs = range(len(self._model.outputs))
        queue.set_callback(lambda request, row: collect(row, [request.get_output_tensor(i).data[0] for i in outputs]))
        for row, view in enumerate(views):
            queue.start_async({0: view[None]}, row)
        queue.wait_all()


def _on_cpu(network: nn.Module, views: Iterable[NDArray[np.uint8]], collect: Collect, _: torch.device) -> None:
    OnCpu(network)(views, collect)


@torch.no_grad()
def _on_device(
    network: nn.Module, views: Iterable[NDArray[np.uint8]], collect: Collect, device: torch.device, batch: int = 16
) -> None:
    """By torch in fp32 on a GPU."""
    network = copy.deepcopy(network).to(device).to(memory_format=torch.channels_last)
    rows = enumerate(views)
    while block := list(itertools.islice(rows, batch)):
        images = torch.from_numpy(np.stack([view for _, view in block])).to(device)
        result = network(images)
        outputs = [output.cpu().numpy() for output in ((result,) if isinstance(result, Tensor) else result)]
        for i, (row, _) in enumerate(block):
            collect(row, [output[i] for output in outputs])


def decoded(files: Sequence[Path], size: int = VIEW_SIZE, fine: int = 0) -> Iterator[Decoded]:
    """Each file through the program's own decoder, in order, for views of `size` pixels, and fine ones of `fine` lines.

    Raises:
        MetaqapError: an image that cannot be decoded; leaving it out would part images from their labels.
    """
    entries = [File(bytes(path), bytes(path)) for path in files]
    for path, image in zip(files, create(DecodeOptions(size, fine=fine)).stream(read_all(entries)), strict=True):
        if image.error is not None:
            raise MetaqapError(f"{path}: {image.error}")
        yield image


def middle_views(files: Sequence[Path], size: int = VIEW_SIZE) -> Iterator[NDArray[np.uint8]]:
    """The middle view of each file, [S, S, 3] uint8, which training sees; raises as `decoded`."""
    return (image.views[len(image.views) // 2] for image in decoded(files, size))


def views_of(files: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """The first view of each file, [S, S, 3] uint8; raises as `decoded`."""
    return [image.views[0] for image in decoded(files)]


def export_onnx(network: nn.Module, path: Path) -> None:
    """Write a module that takes [N, S, S, 3] uint8 as ONNX with a free batch dimension."""
    network.eval()
    example = torch.zeros(1, VIEW_SIZE, VIEW_SIZE, 3, dtype=torch.uint8)
    with torch.no_grad():
        outputs = network(example)
    names = ["prediction", "activation"][: 1 if isinstance(outputs, Tensor) else len(outputs)]
    torch.onnx.export(
        network,
        (example,),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=names,
        dynamic_axes={name: {0: "batch"} for name in ("image", *names)},
    )
    model = onnx.load(path)
    fuse_pads(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def fuse_pads(model: onnx.ModelProto) -> None:
    """Turn a zero padding of height and width before a convolution into the convolution's own.

    TensorFlow's "same" padding is asymmetric, which torch can only express as a separate operation, and as
    such it costs engines a pass over the image and the fusion of what stands before it.

    onnxoptimizer has such a pass, fuse_pad_into_conv, but it wants amounts that stand in the file. torch writes
    operations that compute them, which it does not fold: 0.4.2 leaves all five paddings of efficientnet_lite0.
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
    read = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):  # ONNX graphs stand in topological order
        if read.isdisjoint(node.output):
            graph.node.remove(node)  # a padding that no other operator reads, and what computed its amounts
        else:
            read.update(node.input)


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
