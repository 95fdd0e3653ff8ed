"""The single steps of `gpu_acceptance`: each measures one thing and returns what it saw.

Every step runs in a process of its own, so that one that crashes or hangs costs only itself.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaqap_fast.bench.gpu_measure import (
    Settings,
    Utilisation,
    decode_rate,
    decoder_for,
    encoded,
    endless,
    engine_rate,
    make_engine,
    on_host,
    output_of,
    own_stream,
    rate,
    reference_path,
    sound,
    used_memory,
    whole_rate,
)
from metaqap_fast.bench.tiny import SIZE, write_tiny
from metaqap_fast.engine.samples import generated
from metaqap_fast.infer import scored
from metaqap_fast.input.files import Listing
from metaqap_fast.input.reading import read_all
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.meta import combine_tensors
from metaqap_fast.scorer import Scorer

BATCHES = (16, 32, 64, 128, 256)
LOADS = (0.0, 0.35, 0.65, 0.8, 1.0)
KEPT = 5  # reasons of failed images in a result
WARM, SAMPLES = 3, 5  # samples of the memory in use that are warm-up, and that are needed after it


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
        if not counts[folder]:
            raise RuntimeError(f"{folder} holds no image that the CPU can score: there is nothing to compare with")
    return {"scored": counts}


def first(settings: Settings, engine: str) -> dict[str, Any]:
    """Whether an engine runs here at all: a tiny network, built and run, against what its pixels say."""
    with tempfile.TemporaryDirectory(dir=settings.work) as folder:
        bundle = bundles.load(str(write_tiny(Path(folder, "tiny"))))
        made = make_engine(settings, engine, "fp32", bundle=bundle)
    views = np.random.default_rng(0).integers(0, 256, (2 * made.batch + 1, SIZE, SIZE, 3), np.uint8)
    rows = np.concatenate([rows for _, rows in made.predict((i, view[None]) for i, view in enumerate(views))])
    difference = np.abs(rows[:, 0] - views.reshape(len(views), -1).mean(1) / 255)
    made.close()
    return {"engine": made.reason or made.name, "device": made.device, "max": float(difference.max())}


def first_decoder(settings: Settings) -> dict[str, Any]:
    """Whether the decoder runs here at all: the first views of generated images against the CPU's, in mean levels."""
    data, views = encoded(settings)[:8], list[list[Any]]()
    for on_gpu in (False, settings.gpu is not None):
        images = decoder_for(settings, on_gpu=on_gpu).stream(iter(data))
        views.append([on_host(sound(image).views)[0].astype(float) for image in images])
    difference = [np.abs(ours - cpus).mean() for cpus, ours in zip(*views, strict=True)]
    return {"images": len(difference), "max": float(np.max(difference))}


def parity(settings: Settings, engine: str, precision: str, layout: str = "merged") -> dict[str, Any]:
    """The largest difference of a score from the CPU's, with each decoder; and the batch that memory allowed.

    `differ` counts the images that failed here alone or on the CPU alone; `max` is then no number.
    """
    made = make_engine(settings, engine, precision, layout)
    out: dict[str, Any] = {"engine": made.reason or made.name, "precision": precision, "layout": layout}
    bundle, parts = bundles.load(settings.model), list[dict[str, Any]]()
    for folder in (settings.generated, settings.photos):
        wanted = np.load(reference_path(settings, folder))
        for kind in ("cpu decoder", "gpu decoder") if settings.gpu is not None else ("cpu decoder",):
            decoder = decoder_for(settings, on_gpu=kind == "gpu decoder")
            images = decoder.stream(read_all(Listing([folder])))
            items = ((image, image.views) for image in images)
            found = list(scored(made, items, bundle.meta, bundle.readout, attrgetter("fine")))
            part = compare(np.array([result.score for _, result in found]), wanted["score"], wanted["ok"])
            part["failures"] = [f"{i.key!r}: {i.error.reason}" for i, _ in found if i.error is not None][:KEPT]
            out[f"{Path(folder).name}, {kind}"] = part
            parts.append(part)
            out["max"] = float(np.max([part["max"] for part in parts]))  # not max(): NaN must stay
            out["differ"] = sum(part["differ"] for part in parts)
            report(out)
    out["batch"] = made.batch
    made.close()
    return out


def compare(found: NDArray[Any], wanted: NDArray[Any], ok: NDArray[Any]) -> dict[str, Any]:
    """Largest and mean difference over the images that the CPU scored, and how many failed on one side alone."""
    if len(found) != len(wanted):
        raise RuntimeError(f"{len(found)} images came out of {len(wanted)}")
    difference = np.abs(found - wanted)[ok]
    largest, mean = (float(difference.max()), float(difference.mean())) if len(difference) else (np.nan, np.nan)
    return {"max": largest, "mean": mean, "differ": int((np.isfinite(found) != ok).sum())}


def places(settings: Settings, engine: str, precision: str) -> dict[str, Any]:
    """Predictions of one view at every place of a batch, among others and alone, by an engine made twice: their number.

    One, where a score does not depend on company, place or build.
    """
    rows = []
    for _ in range(2):
        made = make_engine(settings, engine, precision)
        size = int(made.runner.image.shape[1])
        others = np.random.default_rng(0).integers(0, 256, (made.batch, size, size, 3), np.uint8)
        view = generated(size, 1)[0]
        for place in (*range(made.batch), None):
            batch = [view if i == place else other for i, other in enumerate(others)] if place is not None else [view]
            found = [out for _, out in made.predict((i, one[None]) for i, one in enumerate(batch))]
            rows.append(found[place or 0].tobytes())
        made.close()
    return {"predictions": len(rows), "distinct": len(set(rows))}


def speed(settings: Settings, engine: str, precision: str) -> dict[str, Any]:
    """Images/s of decode, engine (merged and one for each member), combine and the whole; GPU utilisation."""
    bundle, out = bundles.load(settings.model), dict[str, Any]()
    data = encoded(settings)
    out["decode"] = decode_rate(settings, data)
    report(out)
    layouts = ("merged",) if engine == "torch" else ("merged", "members")
    for layout in layouts:
        made = make_engine(settings, engine, precision, layout)
        out[f"engine {layout}"] = engine_rate(settings, made)
        report(out)
        made.close()
    made = make_engine(settings, engine, precision)
    members = torch.rand(settings.batch, len(bundle.members), device=made.runner.image.device)
    out["combine"] = rate(settings, lambda: combine_tensors(members, bundle.meta), settings.batch)
    scorer = Scorer(settings.model, engine="openvino", precision="fp32", batch_size=settings.batch)
    scorer.engine.close()
    scorer.engine, scorer.decoder = made, decoder_for(settings, on_gpu=settings.gpu is not None)
    with Utilisation(settings.device) as utilisation:
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
        report(out)
        made.close()
    return out


def sweep_decoder(settings: Settings) -> dict[str, Any]:
    """Images/s of decoding alone by the hardware decoder's share (on a CPU: that of the CPU decoder)."""
    data = encoded(settings)
    if settings.gpu is None:
        return {"cpu": decode_rate(settings, data)}
    out = {}
    for load in LOADS:
        out[str(load)] = decode_rate(settings, data, hw_decoder_load=load)
        report(out)
    return out


def eager(settings: Settings) -> dict[str, Any]:
    """The loop that people write first: Pillow, torch eager in fp32, one image at a time, the same members."""
    from PIL import Image

    from metaqap_fast.engine.gpu import lowering as graph
    from metaqap_fast.engine.gpu.onnx_torch import module

    bundle = bundles.load(settings.model)
    device = "cpu" if settings.gpu is None else f"cuda:{settings.gpu}"
    networks = [module(graph.merged(bundle, "fp32", [member])).to(device) for member in bundle.members]
    paths = [os.fsdecode(entry.path) for entry in Listing([settings.generated]).files()]
    turn = iter(paths * 100_000)

    def one() -> float:
        view = torch.from_numpy(np.asarray(Image.open(next(turn)).convert("RGB")).copy())[None].to(device)
        predictions = [float(network(view)[0, 0]) for network in networks]  # reasons stand behind it
        return float(np.dot(predictions, bundle.meta.weights) + bundle.meta.intercept)

    with torch.no_grad():
        return {"images_per_second": rate(settings, one, 1)}


def paper(settings: Settings, engine: str, names: Iterable[str] = ()) -> dict[str, Any]:
    """Images/s of the paper's five CNNs together, fp16, random weights, as one bundle: resize and all.

    By torch they run in CUDA graphs as they are: compiling them would take longer than all other steps.
    """
    from metaqap_fast.bench.gpu_paper import SIZES, paper_bundle
    from metaqap_fast.engine.gpu import lowering as graph
    from metaqap_fast.engine.gpu.onnx_torch import module
    from metaqap_fast.engine.gpu.torch_engine import TorchRunner

    bundle = paper_bundle(Path(settings.work), names or SIZES)
    if engine != "torch":
        return {"together": engine_rate(settings, make_engine(settings, engine, "fp16", bundle=bundle))}
    batch, device = (1, "cpu") if settings.gpu is None else (settings.batch, f"cuda:{settings.gpu}")
    network = module(graph.merged(bundle, "fp32" if settings.gpu is None else "fp16")).to(device)
    with torch.inference_mode(), own_stream(settings):  # a graph cannot be captured on the default stream
        runner = TorchRunner(network, bundle.view_size, len(bundle.members), batch, device)
        together = rate(settings, runner.run, batch)
        return {"together": together, "in_cuda_graphs": runner.captured}


def memory(settings: Settings, engine: str, precision: str, images: int = 50_000) -> dict[str, Any]:
    """Device memory in use after warm-up and after many images, decoded and scored; MB.

    Raises:
        RuntimeError: too few samples to say anything.
    """
    made = make_engine(settings, engine, precision)
    decoder, data = decoder_for(settings, on_gpu=settings.gpu is not None), encoded(settings)
    bundle, used, done = bundles.load(settings.model), list[float](), 0
    every, seconds = (1000, 40 * settings.seconds) if settings.gpu is not None else (2, 600.0)
    limit = time.monotonic() + seconds
    stream = decoder.stream(endless(data))
    items = ((image, image.views) for image in stream)
    for image, _ in scored(made, items, bundle.meta, bundle.readout, attrgetter("fine")):
        sound(image)
        done += 1
        if done % every == 0:
            used.append(used_memory(settings.gpu))
        if done >= (images if settings.gpu is not None else every * (WARM + SAMPLES)) or time.monotonic() > limit:
            break
    return {"images": done, **growth(used)}


def growth(used: list[float]) -> dict[str, float]:
    """From samples of used memory in equal steps, the first WARM of which are warm-up."""
    if len(used) < WARM + SAMPLES:
        raise RuntimeError(f"{len(used)} samples in the time there was: {WARM + SAMPLES} are needed to see a growth")
    warm = used[WARM - 1]
    return {"after_warm_up_mb": warm, "at_end_mb": used[-1], "growth_mb": max(used[WARM:]) - warm}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    step.__name__: step
    for step in (
        environment, first, first_decoder, cpu_scores, parity, places, speed, sweep_batch, sweep_decoder, eager,
        paper, memory,
    )
}  # fmt: skip


def report(found: dict[str, Any]) -> None:
    """What a step has found so far, as a line of its own: it is kept if the step does not come to its end."""
    print("\n" + json.dumps(found), flush=True)


def main() -> None:
    """One step: settings, its name and arguments as JSON on standard input; its result on the last line of stdout."""
    order = json.loads(sys.stdin.read())
    result = STEPS[order["step"]](Settings(**order["settings"]), *order["arguments"])
    report(result)
    os._exit(0)  # a library that hangs at exit must not cost the result


if __name__ == "__main__":
    main()
