"""What bundle version 0 reads off a frozen network: some of its taps, pooled."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metaqap_fast.train.networks import Preprocess, fold, load_network, pool, read_config

BACKBONES = {
    name: read_config(name).weights
    for name in ("mobilenetv2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
}


class Features(nn.Module):
    """Mean, standard deviation and maximum over space, at several depths of one frozen network.

    Read off after the stem, in the last block of every stage of the architecture and after the head. The
    network is folded, so that heads are fitted on the features of the shipped one.

    Input [N, H, W, 3] uint8 RGB, output [N, D] float32; `layout` says what the columns are.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        config = read_config(name)
        self.network = fold(load_network(config))
        self.preprocess = Preprocess(config.mean, config.std)
        groups = [name.partition(".")[0] for name in self.network.names]  # block2.1 -> block2
        self.last = [group not in groups[i + 1 :] for i, group in enumerate(groups)]
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """[N, H, W, 3] uint8 -> [N, D] float32."""
        return torch.cat([statistic for taps in map(pool, self.taps(image)) for statistic in taps], 1)

    def taps(self, image: Tensor) -> Iterator[Tensor]:
        """The activations that are pooled, each [N, C, h, w]."""
        taps = self.network.taps(self.preprocess(image))
        yield from (tap for tap, last in zip(taps, self.last, strict=True) if last)

    def layout(self) -> list[tuple[str, str, int]]:
        """(depth, statistic, number of columns) of the output, in order."""
        chosen = zip(self.network.names, self.network.widths(), self.last, strict=True)
        return [(name, stat, width) for name, width, last in chosen if last for stat in ("mean", "std", "max")]
