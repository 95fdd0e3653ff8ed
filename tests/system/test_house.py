"""The order of the house: no module imports a later stage of an image's way."""

from __future__ import annotations

from pathlib import Path

import imports

ROOT = Path(__file__).parents[2]

# Every module of the package, the earliest first. Those of one line do not import each other.
ORDER = """
    child errors options signals overlap
    streams gpu_errors trace records forked turns
    progress
    formats.format formats.directory formats.boxes formats.icc formats.scan
    formats.exif formats.camera formats.bmp formats.jpeg2000 formats.pnm formats.refused formats.tiff
    formats.gif formats.items formats.jxl
    formats.jpeg formats.png formats.webp formats.heif
    formats.raw
    formats
    input.local
    input.data input.lists input.memory input.places input.reading input.source input.transfers
    input.blocks input.google input.hub input.objects input.members input.chosen
    input.pages
    input.fetch input.tables input.tar input.zipped
    input.inflate
    input.kinds
    input.folders
    input.distant
    input.told input.remote_walk
    input.remote
    input.files
    input input.ahead
    decode.phash
    decode decode.views decode.probe decode.wire decode.colour decode.extra decode.resize
    decode.dali decode.bmp decode.pillow decode.pnm decode.supervisor decode.codecs decode.heif decode.raw
    decode.tiff
    decode.pixels
    decode.local
    decode.device decode.worker
    decode.lanes
    model.meta model.readout
    model.bundle
    model
    engine.cache engine.cpu engine.cuda engine.protocol engine.samples
    engine.table engine.openvino_core
    engine.choice engine.openvino_int8
    engine.openvino_engine
    engine.gpu.lowering engine.gpu.onnx_torch engine.gpu.plan_cache engine.gpu.engine
    engine.gpu.tensorrt_build
    engine.gpu.tensorrt_runner engine.deviation
    engine.gpu.torch_engine engine.gpu.tensorrt_engine
    engine.gpu
    engine.native.reader
    engine.native.packing
    engine.native.library
    engine.native.isa
    engine.native.layout
    engine.native.layout_bf16
    engine.native.layout_vectors
    engine.native.kernel
    engine.native.correction engine.native.measure
    engine.native.engine
    engine.native
    engine
    engine.prebuild
    infer
    scores.schema scores.probe
    scores.table
    scores.hdf5
    scores.durable scores.identity scores.merge
    scores.export scores.done scores.totals
    scores.parts scores.claim scores.lines scores.sidecars
    scores.committed
    scores.store scores.combine
    scores
    scorer
    evaluation summary
    run
    scale.apart scale.connect scale.pieces scale.process scale.share scale.shards
    scale.feeding
    scale.actor
    scale.ray
    scale.cluster
    scale
    review.describe review.preview review.images review.groups review.explain
    review.select
    review.chosen review.survey review.thumbnails review.transfer review.xmp
    review.report review.compare
    review
    cli.shared cli.progress
    cli.bench cli.compare cli.compile cli.evaluate cli.explain cli.export cli.inspect cli.merge cli.report
    cli.score cli.select cli.train
    cli
    __main__
"""

# What a reader finds under one name, made of what comes later in the same folder; imported inside a function.
GATHERED = {
    "decode": "`create` picks a decoder; the protocol that decoders follow stands beside it",
    "scores.table": "a table reads and saves itself",
}
APART = {"bench", "train", "kernels"}  # measured, trained and called by name; see the last test


def places() -> dict[str, int]:
    return {name: place for place, line in enumerate(ORDER.split("\n")) for name in line.split()}


def test_no_module_imports_a_later_stage() -> None:
    place, wrong = places(), []
    for module, others in imports.graph(ROOT).items():
        if not module or imports.room(module) in APART:
            continue
        for other in others - {""}:
            if imports.room(other) in APART or place[other] < place[module]:
                continue
            if module in GATHERED and imports.room(other) == imports.room(module):
                continue
            wrong.append(f"{module} imports {other}")
    assert not wrong


def test_every_module_has_a_place() -> None:
    modules = {name for name in imports.graph(ROOT) if name and imports.room(name) not in APART}
    assert modules == set(places())


def test_scoring_leans_on_neither_training_nor_benchmarks() -> None:
    """Only their commands do; and the meta-learner and GPU engines call the kernels."""
    for module, others in imports.graph(ROOT).items():
        rooms = {imports.room(other) for other in others}
        if module and imports.room(module) not in APART:
            assert not rooms & {"bench", "train"} or module in ("cli.bench", "cli.train"), module
        if imports.room(module) == "train":
            assert "scorer" not in rooms and "scores.store" not in others, module
        if imports.room(module) == "kernels":
            assert rooms <= {"kernels", "errors"}, module
