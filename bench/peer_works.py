"""The same job by other means: image files to scores, as a user would write it. Works for `job`.

Every peer reads the same files. Those that can run the same members see the same views (Pillow decodes and resizes),
and their scores are compared with ours. Options: sources, count, model; ours also engine, device, precision; compiled:
batch; measure: measure.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.bench.baselines import PYIQA, NoWeights, baselines, pyiqa
from metaqap_fast.bench.environment import versions
from metaqap_fast.bench.images import First, load_rgb
from metaqap_fast.bench.job import NotInstalled, Work
from metaqap_fast.bench.stages import WARM
from metaqap_fast.decode.views import cut, target_size
from metaqap_fast.errors import UsageError
from metaqap_fast.input.files import File
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.model.meta import combine
from metaqap_fast.run import run
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.table import ScoreTable

BATCH = 8
Options = dict[str, Any]
Views = NDArray[np.uint8]  # [N, S, S, 3]


def ours(options: Options) -> Work:
    """`metaqap-fast score`."""
    scorer = Scorer(**{name: options[name] for name in ("model", "engine", "device", "precision")})
    engine = scorer.engine
    facts: dict[str, Any] = {"engine": engine.name, "precision": engine.precision, "device": engine.device}

    def work(count: int | None = options["count"]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            output = os.path.join(folder, "scores.h5")
            run(scorer, First(options["sources"], count), output)
            facts["scores"] = _rounded(ScoreTable.read(output).score.tolist())
        return float(len(facts["scores"]))

    return Work(work, lambda: work(WARM), scorer.close, facts=facts)


def eager(options: Options) -> Work:
    """torch, one image at a time, member after member, fp32: the loop that is written first."""
    score = eager_loop(bundles.load(options["model"]))
    return _one_by_one(score, options, "torch", "pillow")


def eager_loop(bundle: Bundle) -> Callable[[bytes], float]:
    """From a file's path to its score: Pillow, torch eager in fp32, one image, one member at a time."""
    import torch

    from metaqap_fast.engine.gpu import lowering as graph
    from metaqap_fast.engine.gpu.onnx_torch import module

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    members = [module(graph.load(member.file)) for member in bundle.members]

    @torch.no_grad()
    def score(path: bytes) -> float:
        views = torch.from_numpy(load_views(path, bundle.view_size))
        return _score(bundle, np.concatenate([member(views).mean(0).numpy() for member in members]))

    return score


def onnxruntime(options: Options) -> Work:
    """ONNX Runtime, a session for each member, one image at a time; Pillow."""
    import onnxruntime as ort
    import PIL  # noqa: F401

    bundle = bundles.load(options["model"])
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = len(os.sched_getaffinity(0))
    sessions = [ort.InferenceSession(member.file, settings, ["CPUExecutionProvider"]) for member in bundle.members]

    def score(path: bytes) -> float:
        views = load_views(path, bundle.view_size)
        means = [session.run(None, {session.get_inputs()[0].name: views})[0].mean(0) for session in sessions]
        return _score(bundle, np.concatenate(means))

    return _one_by_one(score, options, "onnxruntime", "pillow")


def compiled(options: Options) -> Work:
    """torch.compile over batches of views that a DataLoader with a worker for each CPU decodes, fp32."""
    import torch
    from torch.utils.data import DataLoader

    from metaqap_fast.engine.gpu import lowering as graph
    from metaqap_fast.engine.gpu.onnx_torch import module

    bundle, batch = bundles.load(options["model"]), options.get("batch") or BATCH
    cpus = len(os.sched_getaffinity(0))
    torch.set_num_threads(cpus)
    network = torch.compile(module(graph.merged(bundle)), dynamic=False)
    facts: dict[str, Any] = {"versions": versions(("torch", "pillow")), "batch": batch}

    @torch.no_grad()
    def work(count: int | None = options["count"]) -> float:
        entries = First(options["sources"], count).entries
        files: Any = _Files([entry.path for entry in entries], bundle.view_size)
        loader: Any = DataLoader(files, batch_size=batch, num_workers=cpus, collate_fn=_collate)
        scores: list[float] = []
        for views, counts in loader:
            rows = []
            for start in range(0, len(views), batch):
                part = views[start : start + batch]
                whole = torch.zeros(batch, *part.shape[1:], dtype=part.dtype)  # one shape: compiled once
                whole[: len(part)] = part
                rows.append(network(whole)[: len(part)])
            members = torch.cat(rows).numpy()
            ends = np.cumsum(counts)
            scores += [_score(bundle, members[b - n : b].mean(0)) for n, b in zip(counts, ends, strict=True)]
        facts["scores"] = _rounded(scores)
        return float(len(entries))

    return Work(work, lambda: work(batch), facts=facts)


class _Files:
    """A torch Dataset of views."""

    def __init__(self, paths: list[bytes], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Views:
        return load_views(self.paths[index], self.size)


def _collate(images: list[Views]) -> tuple[Any, list[int]]:
    import torch

    return torch.from_numpy(np.concatenate(images)), [len(image) for image in images]


def measure(options: Options) -> Work:
    """One of `baselines`, called `measure` in the options, image by image."""
    name = options["measure"]
    facts = {}
    try:
        judge = baselines([name])[name]
    except NoWeights:  # untrained, it takes the same time
        judge = pyiqa(name.removeprefix(PYIQA), pretrained=False, backbone_pretrain=False)
        facts["weights"] = "random: its own cannot be downloaded"
    except UsageError as error:
        raise NotInstalled(str(error)) from None

    def score(path: bytes) -> float:
        return judge(load_rgb(path), os.stat(path).st_size)

    work = _one_by_one(score, options, *_PACKAGES.get(name.partition(":")[0], ()), "pillow", comparable=False)
    work.facts |= facts
    return work


def cleanvision(options: Options) -> Work:
    """CleanVision as its documents use it: all issues that it looks for by default, in a process for each core."""
    from cleanvision import Imagelab

    facts: dict[str, Any] = {"versions": versions(("cleanvision", "pillow"))}

    def work(count: int | None = options["count"]) -> float:
        files = [os.fsdecode(entry.path) for entry in _entries(options, count)]
        Imagelab(filepaths=files).find_issues()
        return float(len(files))

    return Work(work, lambda: work(2), facts=facts)


_PACKAGES = {"brisque": ("brisque",), "piqe": ("pypiqe",), "pyiqa": ("pyiqa", "torch"), "laplacian": ("numpy",)}
WORKS: dict[str, Callable[[Options], Work]] = {
    work.__name__: work for work in (ours, eager, compiled, onnxruntime, measure, cleanvision)
}


def load_views(path: bytes, size: int) -> Views:
    """Pillow's pixels, upright, resized and cut as ours are."""
    from PIL import Image

    pixels = load_rgb(path)
    height, width = pixels.shape[:2]
    target = target_size(width, height, size)
    if target != (width, height):
        pixels = np.array(Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC))
    return cut(pixels, size)


def _one_by_one(score: Callable[[bytes], float], options: Options, *names: str, comparable: bool = True) -> Work:
    facts: dict[str, Any] = {"versions": versions(names)}

    def work(count: int | None = options["count"]) -> float:
        scores = [score(entry.path) for entry in _entries(options, count)]
        if comparable:
            facts["scores"] = _rounded(scores)
        return float(len(scores))

    return Work(work, lambda: work(2), facts=facts)


def _entries(options: Options, count: int | None) -> Iterator[File]:
    return iter(First(options["sources"], count))


def _score(bundle: Bundle, columns: NDArray[np.float32]) -> float:
    return float(combine(bundle.readout(columns[None])[0], bundle.meta)[0][0])


def _rounded(scores: Sequence[float]) -> list[float]:
    return [round(float(score), 5) for score in scores]
