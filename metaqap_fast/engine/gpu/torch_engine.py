"""torch: the members' graph through torch.compile, for a GPU without TensorRT; on a CPU the reference in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.engine.gpu import lowering as graph
from metaqap_fast.engine.gpu.engine import DeviceEngine, Graphs, shape_for
from metaqap_fast.engine.gpu.onnx_torch import module
from metaqap_fast.errors import UsageError
from metaqap_fast.model.bundle import Bundle

BATCH = {"cuda": 64, "cpu": 4}


class TorchRunner:
    """See `metaqap_fast.engine.gpu.engine.Runner`.

    Args:
        network: [B, S, S, 3] uint8 -> [B, members] float32, on the device.
        batch: views at once.
        exact: run every batch in full, see `shape_for`.
    """

    def __init__(
        self, network: Callable[[Tensor], Tensor], size: int, members: int, batch: int, device: str, exact: bool
    ) -> None:
        self.members = members
        self._network, self._size, self._device, self._exact = network, size, torch.device(device), exact
        self._graphs = Graphs(self._step, self._device.type == "cuda")
        self.resize(batch)

    def resize(self, batch: int) -> None:
        """See `Runner.resize`."""
        self._graphs.clear()
        self.image = self._out = torch.empty(0)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self.image = torch.zeros(batch, self._size, self._size, 3, dtype=torch.uint8, device=self._device)
        self._out = torch.zeros(batch, self.members, device=self._device)

    def run(self, count: int) -> Tensor:
        """See `Runner.run`."""
        self._graphs(shape_for(count, len(self.image), self._exact))
        return self._out[:count]

    @property
    def captured(self) -> bool:
        """Whether it runs as a CUDA graph."""
        return self._graphs.captured

    def _step(self, shape: int) -> None:
        self._out[:shape] = self._network(self.image[:shape])

    def close(self) -> None:
        """See `Runner.close`."""
        self._graphs.clear()
        self.image = self._out = torch.empty(0)


def create(bundle: Bundle, precision: str, gpu: Gpu | None, batch: int | None = None) -> DeviceEngine:
    """The torch engine on a GPU, or on the CPU (gpu None).

    Raises:
        UsageError: int8 or fp8, which torch would only imitate.
    """
    if precision == "auto":
        precision = "fp16" if gpu else "fp32"
    if precision in graph.EIGHT:
        raise UsageError(f"the torch engine has no {precision}: use --precision fp16, or another engine")
    network: Any = module(graph.merged(bundle, precision))
    device = gpu.device if gpu else "cpu"
    if gpu:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        network = torch.compile(network.to(device), dynamic=False)
    kind = "cuda" if gpu else "cpu"
    runner = TorchRunner(
        network, bundle.view_size, len(bundle.members), batch or BATCH[kind], device, precision == "fp32"
    )
    name = f"cuda:{gpu.index}: {gpu.name}" if gpu else f"cpu: {torch.get_num_threads()} threads"
    return DeviceEngine(runner, "torch", precision, name, gpu.index if gpu else None)
