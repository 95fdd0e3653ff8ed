"""A member of the ensemble: preprocessing, network, pooled taps, linear head, in one module that is exported."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metaqap_fast.train.networks import Config, Preprocess
from metaqap_fast.train.pooling import pool
from metaqap_fast.train.ridge import standardisation
from metaqap_fast.train.taps import Taps

VIEW_SIZE = 512


class Features(nn.Module):
    """Pooled taps of a network: [N, S, S, 3] uint8 views -> [N, D] float32."""

    def __init__(self, config: Config, network: Taps) -> None:
        super().__init__()
        self.preprocess = Preprocess(config.mean, config.std, VIEW_SIZE, config.size)
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """[N, S, S, 3] uint8 -> [N, D] float32."""
        return torch.cat([pool(tap) for tap in self.network.taps(self.preprocess(image))], 1)


class Member(nn.Module):
    """What a bundle stores: [N, S, S, 3] uint8 views -> [N, 1] MOS."""

    weights: Tensor
    bias: Tensor

    def __init__(self, features: Features, weights: NDArray[np.float64], bias: float) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32)[:, None])
        self.register_buffer("bias", torch.tensor(bias, dtype=torch.float32))

    def forward(self, image: Tensor) -> Tensor:
        """[N, S, S, 3] uint8 -> [N, 1] float32."""
        prediction: Tensor = self.features(image) @ self.weights + self.bias
        return prediction


class TrainedHead(nn.Module):
    """A linear head on standardised features, in the form that gradient descent can train.

        prediction = dropout((x - mean) / deviation) @ w / sqrt(D) + bias

    The root keeps steps in w comparable to those in the network's own weights: D is in the tens of thousands.
    It starts where ridge regression (the linear probe) ends.

    Args:
        features: [n, D] raw features of the training rows, for their standardisation.
        probe: weights [D] of the ridge head fitted on them.
        bias: its bias.
        dropout: share of the features left out in training.
    """

    mean: Tensor
    inverse: Tensor

    def __init__(self, features: NDArray[np.float32], probe: NDArray[np.float64], bias: float, dropout: float) -> None:
        super().__init__()
        mean, deviation, used = standardisation(features)
        inverse = np.where(used, 1 / np.where(used, deviation, 1), 0)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("inverse", torch.tensor(inverse, dtype=torch.float32))
        scaled = probe * deviation * math.sqrt(len(mean))
        self.weights = nn.Parameter(torch.tensor(scaled, dtype=torch.float32))
        self.bias = nn.Parameter(torch.tensor(bias + float(mean @ probe), dtype=torch.float32))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """[N, D] -> [N]."""
        z = self.dropout((features - self.mean) * self.inverse)
        prediction: Tensor = z @ (self.weights / math.sqrt(len(self.weights))) + self.bias
        return prediction

    @torch.no_grad()
    def raw(self) -> tuple[NDArray[np.float64], float]:
        """Weights [D] and bias for features as they are."""
        weights = (self.weights.double() * self.inverse.double() / math.sqrt(len(self.weights))).cpu()
        return weights.numpy(), float(self.bias.double().cpu() - self.mean.double().cpu() @ weights)


@torch.no_grad()
def rounded(network: Taps) -> Taps:
    """A copy with every parameter rounded to fp16, which is how a bundle stores it."""
    network = copy.deepcopy(network).cpu().eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        parameter.copy_(parameter.half().float())
    return network
