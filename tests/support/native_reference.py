"""What the native kernel computes, by torch: exactly, or rounded where the kernel rounds; and networks made for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from metaqap_fast.engine.native.isa import PATHS, Isa, runs
from metaqap_fast.engine.native.kernel import levels
from metaqap_fast.engine.native.reader import Convolution, Network, Unsuited
from metaqap_fast.engine.openvino_core import library, shared_core
from metaqap_fast.train.features import export_onnx
from metaqap_fast.train.member import VIEW_SIZE, Features, Member
from metaqap_fast.train.networks import read_config
from metaqap_fast.train.taps import cut, fold

Round = Callable[[Tensor], Tensor]
Pooled = list[tuple[NDArray[np.float32], ...]]  # mean, deviation and maximum of each tap

# Every path in every arithmetic. The portable one is slow, and the full tests compare it with all others.
KINDS = pytest.mark.parametrize(
    ("isa", "precision"),
    [
        pytest.param(
            isa,
            precision,
            id=f"{precision}-{isa.name}",
            marks=[pytest.mark.full] if isa == Isa.PORTABLE else [],
        )
        for precision in PATHS
        for isa in PATHS[precision]
    ],
)

# One path of each arithmetic: what the others compute is compared with the portable path, on smaller networks.
ARITHMETICS = pytest.mark.parametrize(
    ("isa", "precision"),
    [
        (Isa.AVX2, "fp32"),
        (Isa.AVX512_BF16, "bf16"),
        (Isa.AMX, "bf16"),
        (Isa.AVX2, "int8"),
        (Isa.AVX512_VNNI, "int8"),
        (Isa.AMX, "int8"),
    ],
)


def need(isa: Isa, precision: str) -> None:
    """Skip where the CPU, or the installation, has not this path."""
    try:
        reason = runs(isa, precision)
    except Unsuited as missing:
        reason = f"the native kernel is not there: {missing}"
    if reason:
        pytest.skip(f"{precision} by {isa.name} is not tested: {reason}")


def same(x: Tensor) -> Tensor:
    return x


def to(dtype: torch.dtype) -> Round:
    return lambda x: x.to(dtype).float()


def steps(largest: float, low: int, high: int) -> Round:
    """To int8: `largest` becomes `high`."""
    return lambda x: (x * (high / largest)).round().clamp(low, high) * (largest / high)


def whole(weights: Tensor, most: float, least: float, bits: int, count: int) -> Round:
    """Outputs as whole numbers of a step: 6 is a number of so many bits, unless sums are coarser."""
    sums = (weights.abs().amax((1, 2, 3)) / count).clamp_min(least) * (most / 127)
    step = (sums * torch.exp2((torch.floor(torch.log2(6 / sums)) + 1 - bits).clamp_min(0))).view(1, -1, 1, 1)
    return lambda x: (x / step).round() * step


def rows(least: float, count: int) -> Round:
    """Weights of a product to int8, each output with a step of its own, no smaller than `least`."""

    def rounded(weights: Tensor) -> Tensor:
        step = (weights.abs().amax((1, 2, 3), keepdim=True) / count).clamp_min(least)
        return (weights / step).round() * step

    return rounded


def tensor(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values.copy())  # what was read is not writable


def convolved(x: Tensor, each: Convolution, inputs: Round = same, weights: Round = same) -> Tensor:
    """Inputs and weights rounded, sums in fp32; the padding below and right is what makes the size 'same'."""
    kernel, stride = each.weights.shape[-1], each.stride
    (height, width), (top, left) = each.size, each.pads
    bottom, right = ((-(-n // stride) - 1) * stride + kernel - n - p for n, p in ((height, top), (width, left)))
    groups = len(each.weights) if each.weights.shape[1] == 1 else 1
    w, bias = tensor(each.weights), tensor(each.bias)
    return F.conv2d(F.pad(inputs(x), (left, right, top, bottom)), weights(w), bias, stride, groups=groups)


@torch.no_grad()
def pooled(
    network: Network, view: NDArray[np.uint8], isa: Isa = Isa.PORTABLE, ranges: Sequence[float] | None = None
) -> Pooled:
    """What the head reads of a view [S, S, 3], rounded as a path rounds: in int8 with `ranges` as `largest` gives
    them, otherwise in bf16 or fp32. Of int8 without AMX, what is rounded to 16 bits is left out."""
    bf16 = to(torch.bfloat16) if isa in PATHS["bf16"] else same
    wide = to(torch.float16) if isa == Isa.AMX else same
    largest_sum, bits = (65535, 11) if isa == Isa.AMX else (2 ** levels(isa).bits - 1, levels(isa).bits)
    count, largest = levels(isa).weights, iter(ranges or ())

    def product(x: Tensor, each: Convolution, low: int, high: int, most: float) -> Tensor:
        if ranges is None:
            return convolved(x, each, bf16, bf16)
        least = 6 / largest_sum / (most / 127) if low else 1e-10
        found = convolved(x, each, steps(most, low, high), rows(least, count))
        return whole(tensor(each.weights), most, least, bits, count)(found) if low else found

    mean, scale = (tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.scale))
    x = torch.from_numpy(view).permute(2, 0, 1)[None].float() - mean
    stem = tensor(network.stem.weights) * scale
    least = 6 / (2**24 - 1)
    counted = whole(stem, 127, least, 16, count) if ranges else same  # pixels are whole numbers already
    stem = rows(least, count)(stem) if ranges else bf16(stem)
    x = wide(counted(convolved(x, replace(network.stem, weights=stem.numpy()))).clamp(0, 6))
    taps = [x]
    for block in network.blocks:
        begin = x
        if block.expand is not None:
            x = wide(product(x, block.expand, -128, 127, next(largest, 0)).clamp(0, 6))
        most = next(largest, 6.0)
        if block.depthwise is not None and block.project is not None:
            x = convolved(x, block.depthwise, wide, wide).clamp(0, most)
        taps.append(x)
        if block.project is not None:
            x = product(x, block.project, 0, 255, most)
            x = bf16(x + begin if block.residual else x)
    return [(tap.mean((2, 3))[0].numpy(), deviation(tap, network.epsilon), tap.amax((2, 3))[0].numpy()) for tap in taps]


def deviation(tap: Tensor, epsilon: float) -> NDArray[np.float32]:
    return (tap.double().var((2, 3), correction=0)[0] + epsilon).sqrt().float().numpy()


def differences(taps: NDArray[np.float32], expected: Pooled) -> NDArray[np.float64]:
    """Of taps as the kernel gives them, [taps, 3]: root mean square difference over the channels, over that of what is
    expected; of means, deviations and maxima."""
    found, start = np.empty((len(expected), 3)), 0
    for i, parts in enumerate(expected):
        for j, part in enumerate(parts):
            difference = taps[start : start + len(part)].astype(np.float64) - part
            found[i, j] = np.sqrt(np.square(difference).mean() / np.square(part.astype(np.float64)).mean())
            start += len(part)
    assert start == len(taps)
    return found


def graph(path: Path, size: int = VIEW_SIZE) -> Any:
    """A member's `ov.Model`, as the native engine reads it."""
    model = shared_core().read_model(path)
    model.reshape([1, size, size, 3])
    return model


def head(model: Any) -> Any:
    """The product of the head's weights."""
    last = model.get_results()[0].input_value(0).get_node()
    if last.get_type_name() == "Concat":  # reasons stand beside the prediction
        last = last.input_value(0).get_node()
    inputs = last.input_values()
    (product,) = [value.get_node() for value in inputs if value.get_node().get_type_name() == "MatMul"]
    return product


def by_openvino(model: Any, views: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """What the head reads of each view, in fp32."""
    taps = library().Model([head(model).input_value(0)], model.get_parameters(), "taps")
    compiled = shared_core().compile_model(taps, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [compiled({0: view[None]})[0].ravel().copy() for view in views]


@torch.no_grad()
def member(
    blocks: Sequence[str],
    last: int,
    padding: str = "",
    activation: type[nn.Module] = nn.ReLU6,
    views: NDArray[np.uint8] | None = None,
    stem: int = 32,
) -> Member:
    """A network with random weights, in timm's spelling of blocks and paddings; `last` channels before the head.

    Views give its normalisations the statistics that training would.
    """
    torch.manual_seed(5)
    definition: Any = decode_arch_def([[block] for block in blocks])
    network: Any = EfficientNet(
        definition, num_features=last, stem_size=stem, fix_stem=True, round_chs_fn=lambda channels: channels,
        pad_type=padding, act_layer=activation,
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.uniform_(0.5, 2)  # so that some channels reach 6, and some hardly ever 0
            module.bias.normal_(0, 1)
    config = read_config("mobilenetv2")
    features = Features(config, cut(network, VIEW_SIZE))
    if views is not None:
        features.train()(torch.from_numpy(views))
    features = Features(config, fold(features.network.eval()))
    count = 3 * sum(features.network.widths())
    return Member(features, np.random.default_rng(5).normal(0, 0.2 / count**0.5, count), 0.5)


def exported(member: Member, path: Path) -> Any:
    export_onnx(member, path)
    return graph(path)
