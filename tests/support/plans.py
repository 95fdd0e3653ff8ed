"""What TensorRT-RTX's engines say of themselves: they hold their kernels and tensors as readable text."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

SIZES = {"half": 2, "bfloat16": 2, "float": 4, "int8": 1, "uint8": 1, "fp8_e4m3": 1, "int32": 4, "int64": 8}


@dataclass(frozen=True)
class Plan:
    """Convolutions: how many, with a bias and with an activation in the same kernel; MB of activations for an image."""

    convolutions: int
    with_bias: int
    with_activation: int
    static_tactics: int
    runtime_tactics: int
    megabytes: float
    streams: int


def read(plan: bytes, batch: int) -> Plan:
    """The facts of an engine that was built for one batch."""
    convolutions = re.findall(rb"corrltn=\{[^\n]*", plan)
    tensors = re.findall(
        rb'tensor=\{ alignment=\d+ (?:const_payload_size=\d+ )?dims=\{ ([0-9 ]+)\}[^\n]*?name="([^"]+)"'
        rb'[^\n]*?region="([^"]+)"[^\n]*?type=([a-z0-9_]+)',
        plan,
    )
    sizes = {}
    for dims, name, region, kind in tensors:
        shape = [int(length) for length in dims.split()]
        if b"const" not in region and shape[0] == batch:
            sizes[name] = int(np.prod(shape)) * SIZES[kind.decode()]
    return Plan(
        len(convolutions),
        sum(b" bias=true" in line for line in convolutions),
        sum(b" relu=true" in line for line in convolutions),
        len(re.findall(rb"runtime_tactic=false", plan)),
        len(re.findall(rb"runtime_tactic=true", plan)),
        sum(sizes.values()) / batch / 1e6,
        len(set(re.findall(rb" stream=(\d+) ", plan))),
    )
