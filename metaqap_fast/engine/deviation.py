"""How far a precision moves the scores: a network against OpenVINO in fp32, on photographs or generated views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import MetaqapError
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.model.meta import combine

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
COUNT = 8
# Largest difference of a score from fp32's, on photographs: asserted in tests, and what a user may count on.
TOLERANCE = {"fp32": 0.0005, "fp16": 0.002, "bf16": 0.02, "int8": 0.06, "fp8": 0.15}


def deviation(bundle: Bundle, predict: Predict, views: NDArray[np.uint8], images: str, how: str) -> dict[str, Any]:
    """What an engine's metadata says of its precision.

    Args:
        bundle: the model.
        predict: [N, S, S, 3] uint8 -> members [N, M], in the precision in question.
        views: [N, S, S, 3] uint8.
        images: what the views are of, in words.
        how: what `predict` is, in words.

    Returns:
        Largest and mean absolute difference of the scores, and the largest of any member, on the MOS scale.
    """
    wanted, found = reference(bundle, views), predict(views)
    scores = [combine(members, bundle.meta)[0] for members in (wanted, found)]
    if not np.isfinite(found).all():
        raise MetaqapError(f"{bundle.name}: {how} gives predictions that are not numbers: use another precision")
    difference = np.abs(scores[1] - scores[0])
    return {
        "images": images,
        "count": len(views),
        "measured_with": how,
        "against": "openvino, fp32",
        "score_max": float(difference.max()),
        "score_mean": float(difference.mean()),
        "member_max": float(np.abs(found - wanted).max()),
    }


def reference(bundle: Bundle, views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Members [N, M] by OpenVINO in fp32."""
    from metaqap_fast.engine.openvino import OpenVINOEngine

    engine = OpenVINOEngine(bundle, "fp32")
    try:
        return np.concatenate([rows for _, rows in engine.predict((i, view[None]) for i, view in enumerate(views))])
    finally:
        engine.close()


def graph_predict(bundle: Bundle, precision: str) -> Predict:
    """The graph that TensorRT is given, run by torch on the CPU: types, casts and 8-bit steps as they stand in it."""
    import torch

    from metaqap_fast.engine.gpu import lowering as graph
    from metaqap_fast.engine.gpu.onnx_torch import module

    network = module(graph.merged(bundle, precision))

    def predict(views: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.concatenate([network(torch.from_numpy(view[None])).numpy() for view in views])

    return predict


def photographs(sources: Path, size: int, count: int = COUNT) -> NDArray[np.uint8]:
    """The first view of some photographs of a folder, spread over it: [N, size, size, 3].

    Raises:
        MetaqapError: none can be read.
    """
    from metaqap_fast.decode import DecodeOptions, create
    from metaqap_fast.input.files import Listing
    from metaqap_fast.input.reading import read_all

    entries = list(Listing([sources]))
    chosen = entries[:: max(1, len(entries) // count)][:count]
    views = [image.views[0] for image in create(DecodeOptions(size)).stream(read_all(chosen)) if image.error is None]
    if not views:
        raise MetaqapError(f"{sources} holds no photograph that can be read")
    return np.stack(views)


def generated(size: int, count: int = COUNT, seed: int = 0) -> NDArray[np.uint8]:
    """Views with the spectrum of photographs (amplitude 1/f), some blurred, some noisy: [N, size, size, 3] uint8."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1 / size
    out = np.empty((count, size, size, 3), np.uint8)
    for i in range(count):
        noise = random.normal(size=(3, size, size // 2 + 1)) + 1j * random.normal(size=(3, size, size // 2 + 1))
        noise[1:] = 0.5 * noise[0] + 0.3 * noise[1:]
        planes = np.fft.irfft2(noise / frequency ** (1.0 + 0.5 * (i % 3)), s=(size, size))
        planes = (planes - planes.mean()) / planes.std() * 50 + random.uniform(80, 170)
        planes += random.normal(size=planes.shape) * (0, 4, 16)[i // 3 % 3]
        out[i] = np.clip(planes.round(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return out
