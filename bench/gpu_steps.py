"""The single steps of `gpu_acceptance`: each measures one thing and returns what it saw.

Every step runs in a process of its own, so that one that crashes or hangs costs only itself.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaqap_fast.bench.gpu_measure import (
    Settings,
    Utilisation,
    decode_rate,
    decoder_for,
    encoded,
    endless,
    engine_rate,
    make_engine,
    output_of,
    rate,
    reference_path,
    used_memory,
    whole_rate,
)
from metaqap_fast.bench.gpu_paper import SIZES, paper_bundle
from metaqap_fast.infer import scored
from metaqap_fast.input.files import Listing
from metaqap_fast.input.reading import read_all
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.meta import combine_tensors
from metaqap_fast.scorer import Scorer

BATCHES = (16, 32, 64, 128, 256)
LOADS = (0.0, 0.35, 0.65, 0.8, 1.0)


def environment(settings: Settings) -> dict[str, Any]:
    """The machine and the versions."""
    versions: dict[str, str | None] = {}
    for name in ("torch", "triton", "timm", "openvino", "onnx", "nvidia-dali-cuda130", "tensorrt-cu13",
                 "tensorrt-cu13-bindings", "tensorrt-rtx-cu13-libs", "numpy"):  # fmt: skip
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    smi = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    gpu = settings.device
    return {
        "gpu": asdict(gpu) if gpu else None,
        "driver": output_of(smi) if gpu else None,
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "versions": versions,
        "bundle": bundles.load(settings.model).name,
    }


def cpu_scores(settings: Settings) -> dict[str, Any]:
    """Scores of both folders by OpenVINO in fp32 with the CPU decoder: what every engine is compared with."""
    scorer = Scorer(settings.model, device="cpu", precision="fp32")
    counts = {}
    for folder in (settings.generated, settings.photos):
        table = scorer.score(folder)
        np.savez(reference_path(settings, folder), score=table.score, ok=table.ok)
        counts[folder] = int(table.ok.sum())
    return {"scored": counts}


def parity(settings: Settings, engine: str, precision: str, layout: str = "merged") -> dict[str, Any]:
    """The largest difference of a score from the CPU's, with each decoder; and the batch that memory allowed."""
    made = make_engine(settings, engine, precision, layout)
    out: dict[str, Any] = {"engine": made.reason or made.name, "precision": precision, "layout": layout}
    bundle = bundles.load(settings.model)
    for folder in (settings.generated, settings.photos):
        wanted = np.load(reference_path(settings, folder))
        for kind in ("cpu decoder", "gpu decoder") if settings.gpu is not None else ("cpu decoder",):
            decoder = decoder_for(settings, on_gpu=kind == "gpu decoder")
            images = decoder.stream(read_all(Listing([folder])))
            found = [r for _, r in scored(made, ((i, i.views) for i in images), bundle.meta)]
            score = np.array([result.score for result in found], np.float32)
            same = np.array_equal(np.isfinite(score), wanted["ok"])
            difference = np.abs(score - wanted["score"])[wanted["ok"]]
            out[f"{Path(folder).name}, {kind}"] = {
                "max": float(difference.max()), "mean": float(difference.mean()), "same_failures": bool(same)
            }  # fmt: skip
    out["max"] = max(value["max"] for value in out.values() if isinstance(value, dict))
    out["batch"] = made.batch
    made.close()
    return out


def speed(settings: Settings, engine: str, precision: str) -> dict[str, Any]:
    """Images/s of decode, engine (merged and one for each member), combine and the whole; GPU utilisation."""
    bundle, out = bundles.load(settings.model), dict[str, Any]()
    data = encoded(settings)
    out["decode"] = decode_rate(settings, data)
    layouts = ("merged",) if engine == "torch" else ("merged", "members")
    for layout in layouts:
        made = make_engine(settings, engine, precision, layout)
        out[f"engine {layout}"] = engine_rate(settings, made)
        made.close()
    made = make_engine(settings, engine, precision)
    members = torch.rand(settings.batch, len(bundle.members), device=made.runner.image.device)
    out["combine"] = rate(settings, lambda: combine_tensors(members, bundle.meta), settings.batch)
    scorer = Scorer(settings.model, engine="openvino", precision="fp32", batch_size=settings.batch)
    scorer.engine.close()
    scorer.engine, scorer.decoder = made, decoder_for(settings, on_gpu=settings.gpu is not None)
    with Utilisation(settings.gpu) as utilisation:
        out["whole"] = whole_rate(settings, scorer, min(out["decode"], out["engine merged"]))
    out["gpu_utilisation_percent"] = utilisation.mean()
    slowest = min(out["decode"], out["engine merged"], out["combine"])
    out["whole_over_slowest_stage"] = out["whole"] / slowest
    if len(layouts) == 2:
        out["better_layout"] = max(layouts, key=lambda layout: out[f"engine {layout}"])
    scorer.close()
    return out


def sweep_batch(settings: Settings, engine: str, precision: str) -> dict[str, Any]:
    """Images/s of the engine alone by batch."""
    out = {}
    for batch in BATCHES if settings.gpu is not None else (1, 2):
        made = make_engine(settings, engine, precision, batch=batch)
        out[str(batch)] = engine_rate(settings, made)
        made.close()
    return out


def sweep_decoder(settings: Settings) -> dict[str, Any]:
    """Images/s of decoding alone by the hardware decoder's share (on a CPU: that of the CPU decoder)."""
    data = encoded(settings)
    if settings.gpu is None:
        return {"cpu": decode_rate(settings, data)}
    return {str(load): decode_rate(settings, data, hw_decoder_load=load) for load in LOADS}


def eager(settings: Settings) -> dict[str, Any]:
    """The loop that people write first: Pillow, torch eager in fp32, one image at a time, the same members."""
    from PIL import Image

    from metaqap_fast.engine.gpu import lowering as graph
    from metaqap_fast.engine.gpu.onnx_torch import module

    bundle = bundles.load(settings.model)
    device = "cpu" if settings.gpu is None else f"cuda:{settings.gpu}"
    networks = [module(graph.merged(bundle, "fp32", [member])).to(device) for member in bundle.members]
    paths = [os.fsdecode(entry.path) for entry in Listing([settings.generated])]
    turn = iter(paths * 100_000)

    def one() -> float:
        view = torch.from_numpy(np.asarray(Image.open(next(turn)).convert("RGB")).copy())[None].to(device)
        predictions = [float(network(view)) for network in networks]
        return float(np.dot(predictions, bundle.meta.weights) + bundle.meta.intercept)

    with torch.no_grad():
        return {"images_per_second": rate(settings, one, 1)}


def paper(settings: Settings, engine: str, names: Iterable[str] = tuple(SIZES)) -> dict[str, Any]:
    """Images/s of the paper's five CNNs together, fp16, random weights, as one bundle: resize and all.

    By torch they run in CUDA graphs as they are: compiling them would take longer than all other steps.
    """
    from metaqap_fast.engine.gpu import lowering as graph
    from metaqap_fast.engine.gpu.onnx_torch import module
    from metaqap_fast.engine.gpu.torch_engine import TorchRunner

    bundle = paper_bundle(Path(settings.work), names)
    if engine != "torch":
        return {"together": engine_rate(settings, make_engine(settings, engine, "fp16", bundle=bundle))}
    batch, device = (1, "cpu") if settings.gpu is None else (settings.batch, f"cuda:{settings.gpu}")
    network = module(graph.merged(bundle, "fp32" if settings.gpu is None else "fp16")).to(device)
    with torch.inference_mode():
        runner = TorchRunner(network, bundle.view_size, len(bundle.members), batch, device, exact=False)
        return {"together": rate(settings, lambda: runner.run(batch), batch)}


def memory(settings: Settings, engine: str, precision: str, images: int = 50_000) -> dict[str, Any]:
    """Device memory in use after warm-up and after many images, decoded and scored; MB."""
    made = make_engine(settings, engine, precision)
    decoder, data = decoder_for(settings, on_gpu=settings.gpu is not None), encoded(settings)
    bundle, used, done = bundles.load(settings.model), list[float](), 0
    limit = time.monotonic() + (40 * settings.seconds if settings.gpu is not None else settings.seconds)
    stream = decoder.stream(endless(data))
    for _ in scored(made, ((image, image.views) for image in stream), bundle.meta):
        done += 1
        if done % 1000 == 0 or time.monotonic() > limit:
            used.append(used_memory(settings.gpu))
        if done >= images or time.monotonic() > limit:
            break
    warm = used[min(2, len(used) - 1)]
    return {"images": done, "after_warm_up_mb": warm, "at_end_mb": used[-1], "growth_mb": used[-1] - warm}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    step.__name__: step
    for step in (environment, cpu_scores, parity, speed, sweep_batch, sweep_decoder, eager, paper, memory)
}


def main() -> None:
    """One step: settings, its name and arguments as JSON on standard input; its result on the last line of stdout."""
    order = json.loads(sys.stdin.read())
    result = STEPS[order["step"]](Settings(**order["settings"]), *order["arguments"])
    sys.stdout.flush()
    print("\n" + json.dumps(result), flush=True)
    os._exit(0)  # a library that hangs at exit must not cost the result


if __name__ == "__main__":
    main()
