"""The paper's five CNNs with random weights, as members of a bundle: for what they cost, not for their scores."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import timm
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from timm.layers import padding

from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle, Member

VIEW = 512
_same_padding = padding.get_same_padding
# Their names in timm, and the size that each sees.
SIZES = {"densenet201": 224, "nasnetalarge": 331, "legacy_xception": 299, "resnet50": 224, "inception_resnet_v2": 299}


class _Network(torch.nn.Module):
    """[B, VIEW, VIEW, 3] uint8 -> [B, 1]; the resize is two matrix products, since TensorRT has no antialiased one."""

    rows: torch.Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = timm.create_model(name, pretrained=False, num_classes=1)
        resize = F.interpolate(torch.eye(VIEW)[None, None], (SIZES[name], VIEW), mode="bicubic", antialias=True)
        self.register_buffer("rows", resize[0, 0])

    def forward(self, image: torch.Tensor) -> Any:
        x = self.rows @ image.float().permute(0, 3, 1, 2) @ self.rows.T
        return self.network((x - 127.5) / 127.5)


def _padding(size: Any, *window: int) -> int:
    """As a number: some versions of torch write down how to compute it, by operators that the torch engine lacks."""
    return int(_same_padding(int(size), *window))


def export(name: str, path: Path) -> None:
    """One of `SIZES` as ONNX; the same weights every time."""
    torch.manual_seed(0)
    axes = {"image": {0: "batch"}, "prediction": {0: "batch"}}
    with warnings.catch_warnings(), torch.no_grad(), patch.object(padding, "get_same_padding", _padding):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Network(name).eval(), (torch.zeros(1, VIEW, VIEW, 3, dtype=torch.uint8),), str(path), dynamo=False,
            opset_version=17, input_names=["image"], output_names=["prediction"], dynamic_axes=axes,
        )  # fmt: skip
    onnx.save(_folded(onnx.load(path)), path)


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """What follows from constants alone, as constants: some versions of torch leave the amounts of paddings so."""
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    kept, same = [], dict[str, str]()  # torch writes tensors that are alike once: their other names stay names
    for node in model.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.input[0] in known:
            same[node.output[0]] = node.input[0]
            continue
        if not all(name in known for name in node.input):
            kept.append(node)
            continue
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        alone = helper.make_graph([node], "alone", [], outputs, [known[name] for name in node.input])
        values = ReferenceEvaluator(helper.make_model(alone, opset_imports=model.opset_import)).run(None, {})
        pairs = zip(node.output, values, strict=True)
        known.update({name: numpy_helper.from_array(np.asarray(value), name) for name, value in pairs})
    used = {name for node in kept for name in node.input}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(tensor for name, tensor in known.items() if name in used)
    return model


def paper_bundle(folder: Path, names: Iterable[str] = tuple(SIZES)) -> Bundle:
    """A bundle of these networks, their files in `folder`; for engines alone: its scores mean nothing."""
    members = []
    for name in names:
        export(name, folder / f"{name}.onnx")
        members.append(Member(name, folder / f"{name}.onnx", {}))
    return replace(bundles.load(), name="paper", members=tuple(members), view_size=VIEW, digest="")
