"""The paper's five CNNs with random weights, as members of a bundle: for what they cost, not for their scores."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F

from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle, Member

VIEW = 512
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


def export(name: str, path: Path) -> None:
    """One of `SIZES` as ONNX; the same weights every time."""
    torch.manual_seed(0)
    axes = {"image": {0: "batch"}, "prediction": {0: "batch"}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Network(name).eval(), (torch.zeros(1, VIEW, VIEW, 3, dtype=torch.uint8),), str(path), dynamo=False,
            opset_version=17, input_names=["image"], output_names=["prediction"], dynamic_axes=axes,
        )  # fmt: skip


def paper_bundle(folder: Path, names: Iterable[str] = tuple(SIZES)) -> Bundle:
    """A bundle of these networks, their files in `folder`; for engines alone: its scores mean nothing."""
    members = []
    for name in names:
        export(name, folder / f"{name}.onnx")
        members.append(Member(name, folder / f"{name}.onnx", {}))
    return replace(bundles.load(), name="paper", members=tuple(members), view_size=VIEW, digest="")
