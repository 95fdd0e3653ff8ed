"""torch: the members' graph through torch.compile, for a GPU without TensorRT; on a CPU the reference in tests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.engine.gpu import lowering as graph
from metaqap_fast.engine.gpu.engine import DeviceEngine, Graph, fitting, on, stream_for
from metaqap_fast.engine.gpu.onnx_torch import module
from metaqap_fast.errors import UsageError
from metaqap_fast.gpu_errors import first_line, lost, out_of_memory
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.streams import counted

log = logging.getLogger(__name__)
BATCH = {"cuda": 64, "cpu": 4}


class TorchRunner:
    """See `metaqap_fast.engine.gpu.engine.Runner`.

    Args:
        network: [batch, S, S, 3] uint8 -> [batch, columns] float32, on the device.
        batch: views at once.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], size: int, columns: int, batch: int, device: str) -> None:
        self.columns, self._network = columns, network
        where = torch.device(device)
        self.stream = stream_for(where)
        with on(self.stream):
            self.image = torch.zeros(batch, size, size, 3, dtype=torch.uint8, device=where)
            self._out = torch.zeros(batch, columns, device=where)
            self._graph = Graph(self._step, self.stream)

    @property
    def captured(self) -> bool:
        """Whether it runs as a CUDA graph."""
        return self._graph.captured

    def run(self) -> Tensor:
        """See `Runner.run`."""
        self._graph()
        return self._out

    def _step(self) -> None:
        self._out.copy_(self._network(self.image))

    def close(self) -> None:
        """See `Runner.close`."""
        self._graph.clear()
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
        # fp32 takes the same kernels in every run; lower precisions, whose scores hold within a bound, the fastest.
        torch.backends.cudnn.benchmark = precision != "fp32"
        torch.backends.cudnn.deterministic = precision == "fp32"
        network = network.to(device)
    name = f"cuda:{gpu.index}: {gpu.name}" if gpu else f"cpu: {counted(torch.get_num_threads(), 'thread')}"

    def make(batch: int) -> TorchRunner:
        sizes = bundle.view_size, bundle.readout.columns, batch, device
        if gpu is None:
            return TorchRunner(network, *sizes)
        try:
            return TorchRunner(torch.compile(network, dynamic=False), *sizes)
        except Exception as error:
            if lost(error) or out_of_memory(error):
                raise
            log.warning("torch cannot compile the networks here: %s. Running them as they are", first_line(error))
            return TorchRunner(network, *sizes)

    runner = fitting(make, batch or BATCH["cuda" if gpu else "cpu"], name)
    return DeviceEngine(runner, "torch", precision, name, gpu.index if gpu else None)
