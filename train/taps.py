"""Networks as a row of stages, each of which gives one activation ("tap") that heads can be fitted on.

The networks are timm's, cut where an activation is read off:

- MobileNet types (MobileNetV2, EfficientNet and EfficientNet-Lite): one stage per block; a block's tap is its
  wide activation, after the depthwise convolution, which says far more about quality than the narrow linear
  one between blocks (the model card has the numbers). Stem and head convolution are stages too.
- The large CNNs of the paper: one stage per reduction level, whose tap is that level's last activation, as
  timm's `features_only` reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same_arg
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from metaqap_fast.errors import UsageError


class Taps(nn.Module):
    """A network as stages 0..K-1 from shallow to deep; stage i gives taps[i] and the input of stage i + 1.

    `names` says what each stage is. Stages are what is frozen, and what learning rates are set for. `size` is
    the side of the input in pixels that the network is meant for.
    """

    stages: nn.ModuleList

    def __init__(self, stages: Sequence[nn.Module], names: Sequence[str], size: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.names, self.size = list(names), size

    def forward(self, x: Tensor) -> list[Tensor]:
        """The same as `taps`: a network can be compiled or wrapped."""
        return self.taps(x)

    def taps(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] normalised -> K activations, each [N, C, h, w]."""
        return self.run(x)[0]

    def until(self, k: int, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Taps of stages 0..k-1, and the activation [N, C, h, w] that `from_stage(k, ...)` goes on from."""
        return self.run(x, 0, k)

    def from_stage(self, k: int, x: Tensor) -> list[Tensor]:
        """Taps of stages k..K-1 from the activation after stage k-1: those of a full pass.

        Raises:
            UsageError: the network cannot go on from one activation (NASNet).
        """
        return self.run(x, k)[0]

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> tuple[list[Tensor], Tensor]:
        """Taps of stages `start`..`stop` - 1, and the activation after them."""
        taps = []
        for stage in self.stages[start:stop]:
            tap, x = stage(x)
            taps.append(tap)
        return taps, x

    @torch.no_grad()
    def widths(self) -> list[int]:
        """Channels C of each tap."""
        training, like = self.training, next(self.parameters())
        taps = self.eval().taps(like.new_zeros(1, 3, self.size, self.size))
        self.train(training)
        return [tap.shape[1] for tap in taps]


class Stage(nn.Sequential):
    """Modules in a row; the tap is their output, through a ReLU where it is linear.

    [N, C, h, w] -> (tap, output).
    """

    def __init__(self, modules: Iterable[nn.Module], linear: bool = False) -> None:
        super().__init__(*modules)
        self.linear = linear

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, h, w] -> (tap, output)."""
        out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return (F.relu(out) if self.linear else out), out


class BlockStage(nn.Module):
    """One of timm's MobileNet blocks; the tap is its wide activation: [N, C, h, w] -> (tap, output)."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        inverted, separable = hasattr(block, "conv_pwl"), hasattr(block, "conv_dw") and hasattr(block, "conv_pw")
        if not (inverted or separable) or block.conv_s2d is not None:
            raise UsageError(f"a network with blocks of the type {type(block).__name__} has no wide taps here")
        self.block = block
        # numbered as timm numbers their normalisations bn1, bn2, ...
        self.convs = ("conv_pw", "conv_dw", "conv_pwl") if inverted else ("conv_dw", "conv_pw")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, h, w] -> (tap, output)."""
        block: Any = self.block
        out, wide = x, x
        for number, name in enumerate(self.convs, 1):
            out = getattr(block, f"bn{number}")(getattr(block, name)(out))
            if name == "conv_dw":
                wide = out = block.se(block.aa(out))
        return wide, block.drop_path(out) + x if block.has_skip else out


class Nasnet(Taps):
    """NASNet: a cell reads the outputs of the two layers before it, so there is no one activation to go on from."""

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> tuple[list[Tensor], Tensor]:
        """As `Taps.run`, from the image only."""
        if start:
            raise UsageError("NASNet cannot go on from a cached activation: its cells read two; train it whole")
        taps, before = [], x
        for stage in self.stages[:stop]:
            for name, cell in stage.named_children():
                if name in ("conv0", "cell_stem_0"):
                    x, before = cell(x), x
                elif name == "cell_stem_1":
                    x, before = cell(before, x), x
                elif name.startswith("reduction"):
                    x = cell(x, before)  # the cell that follows reads the same `before`
                else:
                    x, before = cell(x, before), x
            taps.append(x if stage is self.stages[0] else F.relu(x))
        return taps, x


# Where timm's classes are cut, by class name: modules in forward order, one tuple per reduction level.
_LEVELS: dict[str, tuple[str, ...]] = {
    "ResNet": ("conv1 bn1 act1", "maxpool layer1", "layer2", "layer3", "layer4"),
    "DenseNet": (
        "features.conv0 features.norm0",
        "features.pool0 features.denseblock1",
        "features.transition1 features.denseblock2",
        "features.transition2 features.denseblock3",
        "features.transition3 features.denseblock4 features.norm5",
    ),
    "Xception": (
        "conv1 bn1 act1 conv2 bn2 act2",
        "block1",
        "block2",
        " ".join(f"block{i}" for i in range(3, 12)),
        "block12 conv3 bn3 act3 conv4 bn4 act4",
    ),
    "InceptionResnetV2": (
        "conv2d_1a conv2d_2a conv2d_2b",
        "maxpool_3a conv2d_3b conv2d_4a",
        "maxpool_5a mixed_5b repeat",
        "mixed_6a repeat_1",
        "mixed_7a repeat_2 block8 conv2d_7b",
    ),
    "NASNetALarge": (
        "conv0",
        "cell_stem_0",
        "cell_stem_1 " + " ".join(f"cell_{i}" for i in range(6)),
        "reduction_cell_0 " + " ".join(f"cell_{i}" for i in range(6, 12)),
        "reduction_cell_1 " + " ".join(f"cell_{i}" for i in range(12, 18)),
    ),
}


def cut(network: Any, size: int) -> Taps:
    """Cut a timm network into stages; its classifier is dropped, its "same" padding made static.

    Args:
        network: of a class in `_LEVELS`, or one of timm's EfficientNet class (MobileNetV2 is).
        size: side of the input in pixels, for which the padding is computed. For other sizes it holds where
            every strided layer sees the same parity: any multiples of 32 for the MobileNet types.

    Raises:
        UsageError: a network of another kind.
    """
    kind = type(network).__name__
    static_padding(network, size)
    if kind == "EfficientNet":
        blocks = [(f"block{s}.{b}", block) for s, stage in enumerate(network.blocks) for b, block in enumerate(stage)]
        stem, head = Stage([network.conv_stem, network.bn1]), Stage([network.conv_head, network.bn2])
        stages = [stem, *(BlockStage(block) for _, block in blocks), head]
        return Taps(stages, ["stem", *(name for name, _ in blocks), "head"], size)
    if kind not in _LEVELS:
        raise UsageError(f"a network of timm's class {kind} cannot be cut into stages; EfficientNet, {_known()} can")
    levels = [level.split() for level in _LEVELS[kind]]
    names = [level[-1].rpartition(".")[2] for level in levels]
    if kind == "NASNetALarge":
        cells = []
        for level in levels:
            cells.append(nn.Module())
            for name in level:
                cells[-1].add_module(name, network.get_submodule(name))
        return Nasnet(cells, names, size)
    return Taps([Stage(map(network.get_submodule, level), kind == "Xception") for level in levels], names, size)


def _known() -> str:
    return ", ".join(_LEVELS)


class PaddedConv(nn.Conv2d):
    """A convolution over its input padded with zeros: (left, right, top, bottom) pixels."""

    pads: list[int]

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H', W']."""
        return super().forward(F.pad(x, self.pads))


@torch.no_grad()
def static_padding(network: nn.Module, size: int) -> None:
    """Replace timm's layers that compute TensorFlow's "same" padding while running by ones with constant padding.

    What is computed while running becomes operations in the exported graph, which engines fuse badly or
    refuse. The amounts are those of an input of `size` x `size` pixels.
    """
    same = (Conv2dSame, MaxPool2dSame, AvgPool2dSame)
    shapes: dict[nn.Module, list[int]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, x: shapes.__setitem__(module, list(x[0].shape[-2:])))
        for module in network.modules()
        if isinstance(module, same)
    ]
    if not hooks:
        return
    training = network.training
    network.eval()(torch.zeros(1, 3, size, size))
    network.train(training)
    for hook in hooks:
        hook.remove()
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, same):
                setattr(parent, name, _static(child, shapes[child]))


def _static(layer: Any, shape: list[int]) -> nn.Module:
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    left, right, top, bottom = pads = pad_same_arg(shape, kernel, stride)
    even = left == right and top == bottom  # then the layer can pad by itself
    if isinstance(layer, Conv2dSame):
        kind: type[nn.Conv2d] = nn.Conv2d if even else PaddedConv
        conv = kind(layer.in_channels, layer.out_channels, kernel, stride, (top, left) if even else 0, 1, layer.groups)
        conv.weight, conv.bias, conv.pads = layer.weight, layer.bias, pads
        return conv
    pool = nn.MaxPool2d if isinstance(layer, MaxPool2dSame) else nn.AvgPool2d
    if even:
        return pool(kernel, stride, (top, left))  # timm's average counts the padding, and so does torch's
    return nn.Sequential(nn.ConstantPad2d(pads, -torch.inf if pool is nn.MaxPool2d else 0), pool(kernel, stride))


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def foldable(network: Taps) -> bool:
    """Whether `fold` takes the network: one of the MobileNet type."""
    return any(isinstance(stage, BlockStage) for stage in network.stages)


@torch.no_grad()
def fold(network: Taps) -> Taps:
    """A copy of a MobileNet-type network as a bundle stores it, in eval mode.

    Batch normalisations are folded into the convolutions, and the result is rounded to fp16: what is fitted
    on a folded network's taps is fitted on the shipped network's.

    Raises:
        UsageError: a network of another type; the ONNX export folds what can be folded in those.
    """
    network = copy.deepcopy(network).eval()
    for stage in network.stages:
        if isinstance(stage, BlockStage):
            block = stage.block
            for number, name in enumerate(stage.convs, 1):
                setattr(block, name, _folded(getattr(block, name), getattr(block, f"bn{number}")))
                setattr(block, f"bn{number}", nn.Identity())
        elif isinstance(stage, Stage) and len(stage) == 2 and isinstance(stage[0], nn.Conv2d):
            stage[0], stage[1] = _folded(stage[0], stage[1]), nn.Identity()
        else:
            raise UsageError("only networks of the MobileNet type are folded before export")
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        parameter.copy_(parameter.half().float())
    return network


def _folded(conv: Any, norm: Any) -> nn.Module:
    """A convolution with its normalisation folded in, then the activation that timm's norm layer carries."""
    fused = fuse_conv_bn_eval(conv, norm)
    return nn.Sequential(fused, norm.act if isinstance(norm.act, nn.Module) else nn.Identity())
