"""A bundle's member as a network to go on from: `--networks NETWORK@BUNDLE/MEMBER.onnx`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.train.networks import Config, load_network
from metaqap_fast.train.rehead import read_head
from metaqap_fast.train.taps import Taps, fold, foldable

PREFIX = "features.network."  # of its parameters, as `build` exports them


def shipped_network(path: Path, config: Config) -> Taps:
    """The network of a member, with its batch normalisations folded, as the bundle stores it.

    Raises:
        UsageError: no such file, another architecture than the configuration's, or one that is not folded.
    """
    model = _load(path)
    network = load_network(config, pretrained=False)
    if not foldable(network):
        raise UsageError(f"{path}: training goes on from a bundle with networks of the MobileNet type only")
    network = fold(network)
    stored = {
        tensor.name.removeprefix(PREFIX).removesuffix(".fp16"): torch.from_numpy(
            np.array(onnx.numpy_helper.to_array(tensor), np.float32)
        )
        for tensor in model.graph.initializer
        if tensor.name.startswith(PREFIX)
    }
    try:
        network.load_state_dict(stored)
    except RuntimeError:
        raise UsageError(f"{path} is not a member of the architecture {config.architecture}") from None
    return network.eval()


def shipped_head(path: Path) -> tuple[NDArray[np.float64], float]:
    """Its head: weights [D] on the pooled taps, and bias.

    Raises:
        UsageError: as `shipped_network`, or a member without a linear head.
    """
    try:
        return read_head(_load(path))
    except MetaqapError as error:
        raise UsageError(f"{path}: {error}") from None


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give a bundle's ONNX file")
    return onnx.load(path)
