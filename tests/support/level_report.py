"""What the engines do on the CPU that METAQAP_FAST_ISA plays, as JSON; one process for each level."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast import engine as engines
from metaqap_fast.engine import cpu
from metaqap_fast.engine.openvino_core import shared_core
from metaqap_fast.engine.openvino_engine import OpenVINOEngine, executed, merged
from metaqap_fast.engine.samples import generated
from metaqap_fast.errors import MetaqapError
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.meta import combine

BUNDLE = bundles.load()
VIEWS = generated(BUNDLE.view_size, 2)
PRECISIONS = ("fp32", "bf16", "int8")
# Largest difference of a score from that in fp32, as measured and with some room: docs/reliability.md.
FROM_FP32 = {"bf16": 0.03, "int8": 0.1}


def members(engine: engines.Engine) -> NDArray[np.float32]:
    found = dict(engine.predict((i, view[None]) for i, view in enumerate(VIEWS)))
    return np.concatenate([found[i] for i in range(len(VIEWS))])


def scores(found: NDArray[np.float32]) -> list[float]:
    return [float(score) for score in combine(BUNDLE.readout(found)[0], BUNDLE.meta)[0]]


def convolutions(engine: OpenVINOEngine) -> dict[str, int]:
    """How many OpenVINO runs in each type, by its own account."""
    counts: dict[str, int] = {}
    for node in engine._requests[0].get_compiled_model().get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) == "Convolution":
            kind = str(info["runtimePrecision"].astype(str))
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def report() -> dict[str, Any]:
    out: dict[str, Any] = {"level": cpu.level(), "vnni": cpu.has_vnni(), "default": cpu.default_precision()}
    automatic = engines.create(BUNDLE, device="cpu")
    out["auto"] = [automatic.name, automatic.precision, automatic.reason]
    automatic.close()
    for precision in PRECISIONS:
        try:
            made = [OpenVINOEngine(BUNDLE, precision, threads) for threads in (1, 3)]
        except MetaqapError as error:
            out[precision] = {"refused": str(error)}
            continue
        found = [members(engine) for engine in made]
        out[precision] = {
            "scores": scores(found[0]),
            "threads_differ": float(np.abs(found[0] - found[1]).max()),
            "ran": convolutions(made[0]),
        }
    # The network for CPUs without VNNI, on this one: where sums have 32 bits it gives what it gives without overflow.
    cpu.has_vnni = lambda: False
    model = shared_core().compile_model(merged(BUNDLE, int8=True), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    out["narrow"] = scores(np.concatenate([model({0: view[None]})[0].copy() for view in VIEWS]))
    out["narrow_ran"] = executed(model)
    return out


if __name__ == "__main__":
    print(json.dumps(report()))
