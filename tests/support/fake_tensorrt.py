"""TensorRT's Python API as far as it is called, computing on the CPU; its engines are small JSON texts.

An engine of the fake says which columns of [mean, maximum] it gives; it reads and writes through the addresses
that it is given, as the real one does.
"""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace
from typing import Any

import numpy as np

calls: list[str] = []


class ILogger:
    Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)

    def log(self, severity: int, text: str) -> None: ...


class Context:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan, self.addresses, self.shape = plan, dict[str, int](), (0, 0, 0, 0)
        self.memory = (0, 0)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        calls.append(f"shape {shape[0]}")
        self.shape = shape
        return name == "image" and shape[0] == self.plan["batch"]

    def update_device_memory_size_for_shapes(self) -> int:
        return 1000 * self.shape[0]

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        assert self.memory[1] >= 1000 * self.shape[0], "too little scratch memory"
        calls.append(f"run {self.plan['columns']} {self.shape[0]}")
        if self.plan.get("broken"):
            return False
        count = int(np.prod(self.shape))
        source = (ctypes.c_uint8 * count).from_address(self.addresses["image"])
        pixels = np.ctypeslib.as_array(source).reshape(self.shape[0], -1).astype(np.float32) / 255
        both = np.stack([pixels.mean(1), pixels.max(1)], 1)[:, self.plan["columns"]]
        target = (ctypes.c_float * both.size).from_address(self.addresses["predictions"])
        np.ctypeslib.as_array(target)[:] = both.ravel()
        return True


class Engine:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan

    def create_execution_context(self, how: Any) -> Context | None:
        if isinstance(how, RuntimeConfig):
            assert how.dynamic_shapes_kernel_specialization_strategy == "eager" and how.cache is not None
            how.cache.data = f"kernels of {self.plan['columns']}".encode()
            how = how.strategy
        assert how == "user managed"
        return Context(self.plan)

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()


class RuntimeCache:
    data = b""

    def deserialize(self, data: bytes) -> bool:
        calls.append(f"known {data.decode()}")
        return True

    def serialize(self) -> bytes:
        return self.data


class RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = "lazy"
    strategy = ""
    cache: RuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        document = json.loads(plan)
        if document["version"] != 1 or (document.get("compatible") and not self.engine_host_code_allowed):
            self.logger.log(1, "The engine plan file is not compatible\nwith this version of TensorRT")
            return None
        return Engine(document)


DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
__version__ = "11.4.0"


def plan(columns: list[int], batch: int = 8, version: int = 1, **more: Any) -> bytes:
    return json.dumps({"columns": columns, "batch": batch, "version": version, **more}).encode()
