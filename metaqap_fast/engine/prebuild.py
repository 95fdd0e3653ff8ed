"""`metaqap-fast compile`: a bundle's engines ahead of the first run."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from metaqap_fast.engine import cache, cuda
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model import bundle as bundles
from metaqap_fast.options import PRECISIONS


def compile_model(
    model: str,
    engine: str | None,
    precisions: str,
    target: str,
    layout: str,
    batch: int,
    device: str,
    photos: Path | None,
    say: Callable[[str], None],
    portable: bool = False,
) -> list[dict[str, Any]]:
    """Build into the cache; returns each engine's metadata. The arguments are the command's.

    Raises:
        UsageError, MetaqapError: an unknown name, packages that are missing, a network that is refused.
    """
    wanted = [name.strip() for name in precisions.split(",") if name.strip()]
    for name in wanted:
        if name not in PRECISIONS or name == "auto":
            raise UsageError(f"unknown precision {name!r}: one of {', '.join(PRECISIONS[1:])}")
    bundle = bundles.load(model)
    cache.require()
    if engine == "openvino":
        return [_openvino(bundle, name, target, say) for name in wanted]
    missing = [name for name in ("torch", "onnx") if find_spec(name) is None]
    if missing:
        raise MetaqapError(f"compiling needs {' and '.join(missing)}: pip install 'metaqap-fast[gpu]'")
    from metaqap_fast.engine.gpu.tensorrt_build import find
    from metaqap_fast.engine.gpu.tensorrt_engine import compile_bundle
    from metaqap_fast.engine.samples import generated, photographs

    library = find(engine)
    targets = [name.strip().lower() for name in target.split(",") if name.strip()]
    try:
        gpu = cuda.pick(cuda.parse_device(device), cuda.gpus()) if not targets else None
    except cuda.NoGpu as error:
        raise UsageError(f"{error}: name what to build for, as in --target sm89 (needs TensorRT-RTX)") from None
    views = photographs(photos, bundle.view_size) if photos else generated(bundle.view_size)
    images = str(photos) if photos else "generated"
    documents = []
    for precision in wanted:
        documents += compile_bundle(
            bundle, precision, layout, library, gpu, targets, batch, views, images, say, portable
        )
    return documents


def _openvino(bundle: bundles.Bundle, precision: str, target: str, say: Callable[[str], None]) -> dict[str, Any]:
    """OpenVINO keeps what it compiles itself; making the engine once is enough."""
    from metaqap_fast.engine.openvino_engine import OpenVINOEngine

    if target:
        raise UsageError("OpenVINO compiles for this CPU: leave out --target")
    made = OpenVINOEngine(bundle, precision)
    say(f"{precision}: compiled for {made.device}")
    made.close()
    return {"engine": "openvino", "precision": precision, "device": made.device}
