"""Engines that are really built, by TensorRT-RTX and without a GPU, and the graphs' scores on real photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from bundles import tiny_member
from metaqap_fast.bench.gpu_paper import SIZES, paper_bundle
from metaqap_fast.decode import DecodeOptions, create
from metaqap_fast.engine.deviation import TOLERANCE, deviation, graph_predict, reference
from metaqap_fast.engine.gpu import lowering as graph
from metaqap_fast.engine.gpu.tensorrt_build import Library, Options, build, find
from metaqap_fast.engine.gpu.tensorrt_engine import FIRST_FP8, prepare
from metaqap_fast.engine.openvino_core import shared_core
from metaqap_fast.engine.samples import generated
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Member
from metaqap_fast.model.meta import combine

pytestmark = pytest.mark.full
# The largest networks take minutes on two cores; ResNet-50 stands for them in CI.
LARGE = dict.fromkeys(("nasnetalarge", "densenet201", "inception_resnet_v2", "legacy_xception"), pytest.mark.nightly)

TARGETS = ("sm80", "sm86", "sm89", "sm120")
BATCH = 64
BUNDLE = bundles.load()


@pytest.fixture(scope="module")
def library() -> Library:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the rtx extra is not installed: nothing is built")
    return find("tensorrt_rtx")


@pytest.fixture(scope="module")
def views(photos: dict[str, Image.Image]) -> np.ndarray:
    """A view of each photograph, and of two spoiled ones."""
    images = [np.asarray(photo) for photo in photos.values()]
    images.append(np.asarray(photos["coffee"].resize((150, 100)).resize((600, 400))))
    noise = np.random.default_rng(0).normal(0, 25, images[0].shape)
    images.append(np.clip(images[0] + noise, 0, 255).astype(np.uint8))
    decoder = create(DecodeOptions(BUNDLE.view_size))
    return np.stack([d.views[0] for d in decoder.stream_arrays((b"", image) for image in images)])


@pytest.fixture(scope="module")
def wanted(views: np.ndarray) -> np.ndarray:
    return reference(BUNDLE, views)


def by_openvino(model: onnx.ModelProto, views: np.ndarray) -> np.ndarray:
    core = shared_core()
    # Else it computes in 8 bits what the graph has in 8 bits; without VNNI sums overflow (engine/openvino_int8.py).
    config = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    network = core.compile_model(core.read_model(model.SerializeToString()), "CPU", config)
    return np.concatenate([network({0: view[None]})[0] for view in views])


@pytest.mark.parametrize("member", BUNDLE.members, ids=lambda member: member.name)
def test_every_member_builds(library: Library, member: Member) -> None:
    model = graph.merged(BUNDLE, "fp32", [member])
    plan = build(library, model.SerializeToString(), BUNDLE.view_size, BATCH, Options(targets=TARGETS))
    assert len(plan) > 0.9 * sum(tensor.ByteSize() for tensor in model.graph.initializer)


NIGHTLY = [pytest.param(precision, marks=pytest.mark.nightly) for precision in ("bf16", "int8")]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp8", *NIGHTLY])
def test_the_merged_network_builds(library: Library, precision: str) -> None:
    model = graph.merged(BUNDLE, precision)
    targets = [target for target in TARGETS if precision != "fp8" or int(target[2:]) >= FIRST_FP8]
    plan = build(library, model.SerializeToString(), BUNDLE.view_size, BATCH, Options(targets=tuple(targets)))
    assert len(plan) > 0.9 * sum(tensor.ByteSize() for tensor in model.graph.initializer)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8"])
def test_scores_on_photographs(views: np.ndarray, wanted: np.ndarray, precision: str) -> None:
    """By OpenVINO, which reads the graph's weights and 8-bit steps but computes in fp32."""
    found = by_openvino(graph.merged(BUNDLE, precision), views)
    scores = [combine(BUNDLE.readout(columns)[0], BUNDLE.meta)[0] for columns in (wanted, found)]
    assert np.abs(scores[0] - scores[1]).max() <= TOLERANCE[precision]
    if precision == "fp32":
        assert np.abs(wanted - found).max() < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8", "fp8"])
def test_scores_with_every_rounding(views: np.ndarray, precision: str) -> None:
    """By torch, which also rounds every activation as the graph's types say."""
    report = deviation(BUNDLE, graph_predict(BUNDLE, precision), views, "photographs", "torch")
    assert report["score_max"] <= TOLERANCE[precision], report
    assert report["score_mean"] <= report["score_max"] <= report["member_max"] + 1e-6
    if precision != "fp32":
        assert report["score_max"] > 1e-5  # it was rounded at all


@pytest.mark.parametrize("name", [pytest.param(name, marks=LARGE.get(name, ())) for name in SIZES])
def test_the_networks_of_the_paper_build(library: Library, name: str, tmp_path: Path) -> None:
    bundle = paper_bundle(tmp_path, [name])
    for precision in ("fp32", "fp16"):
        model = graph.merged(bundle, precision)
        plan = build(library, model.SerializeToString(), bundle.view_size, 32, Options(targets=TARGETS))
        assert len(plan) > 0.9 * sum(tensor.ByteSize() for tensor in model.graph.initializer)


# --- what a graph holds ------------------------------------------------------------------------------------


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of tensors; of a merged graph."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_convolutions_are_low_and_pooling_is_fp32(precision: str) -> None:
    model = graph.merged(BUNDLE, precision)
    types = kinds(model)
    for node in model.graph.node:
        floats = {types.get(name) for name in (*node.input, *node.output)} & {1, 10, 16}
        if node.op_type == "Conv":
            assert floats == {graph.HALF[precision]}, node.name
        if node.op_type in ("ReduceMean", "ReduceMax", "Sqrt", "MatMul"):
            assert floats == {onnx.TensorProto.FLOAT}, node.name


def test_fp8_is_in_all_but_the_first_and_the_depthwise_convolutions() -> None:
    model = graph.merged(BUNDLE, "fp8")
    types = kinds(model)
    made = {output: node for node in model.graph.node for output in node.output}
    eight = {output for output, node in made.items() if node.op_type == "DequantizeLinear"}
    assert {types[made[name].input[0]] for name in eight} == {onnx.TensorProto.FLOAT8E4M3FN}
    whole = 0
    for node in (node for node in model.graph.node if node.op_type == "Conv"):
        depthwise = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        assert not (depthwise and eight & set(node.input)), node.name
        whole += not depthwise and not set(node.input[:2]) <= eight
    assert whole == len(BUNDLE.members)  # the first of each: it reads the image


def test_fp8_needs_a_gpu_that_has_it(library: Library) -> None:
    arguments = (BUNDLE, "fp8", "merged", library)
    with pytest.raises(UsageError, match=r"sm86 has no fp8, which begins with sm89: use --precision int8 or fp16"):
        prepare(*arguments, "sm86", BATCH, Options())
    assert prepare(*arguments, "NVIDIA H100 80GB HBM3 sm90", BATCH, Options())


def test_every_range_becomes_a_pair() -> None:
    model = graph.merged(BUNDLE, "int8")
    quantised = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantised) == sum(len(member.ranges) for member in BUNDLE.members)
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    whole = [node for node in convolutions if not set(node.input[:2]) & dequantised]
    assert len(whole) == len(BUNDLE.members)  # the first of each: it reads the image
    assert all(set(node.input[:2]) <= dequantised for node in convolutions if node not in whole)


def test_the_image_is_cast_and_transposed_once() -> None:
    nodes = graph.merged(BUNDLE, "fp32").graph.node
    assert [node.op_type for node in nodes if "image" in node.input] == ["Cast"]
    assert sum(node.op_type == "Transpose" for node in nodes) == 1


def test_a_graph_is_the_same_every_time() -> None:
    digests = {graph.digest(graph.merged(BUNDLE, "int8")) for _ in range(2)}
    assert len(digests) == 1 and graph.digest(graph.merged(BUNDLE, "fp16")) not in digests


def test_int8_needs_ranges(bundle: Path) -> None:
    with pytest.raises(UsageError, match="no ranges for int8"):
        graph.merged(bundles.load(str(bundle)), "int8")


# --- the builder's errors ------------------------------------------------------------------------------------


def test_what_the_parser_refuses_is_said(library: Library) -> None:
    model = tiny_member(1.0, "mean")
    model.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(MetaqapError, match=r"cannot read the network: .*NoSuchOperator"):
        build(library, model.SerializeToString(), 64, 2)


def test_unknown_targets(library: Library) -> None:
    model = tiny_member(1.0, "mean").SerializeToString()
    with pytest.raises(UsageError, match="no target sm90: one of sm75"):
        build(library, model, 64, 2, Options(targets=("sm90",)))
    with pytest.raises(UsageError, match="builds for the GPU at hand only"):
        build(Library(library.trt, "tensorrt"), model, 64, 2, Options(targets=("sm89",)))


def test_what_is_built_can_be_captured_and_keeps_its_precision(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX: an engine that allocates by itself cannot be captured in a CUDA graph."""
    config, flags = library.trt.IBuilderConfig, library.trt.BuilderFlag
    real, seen = {name: getattr(config, name) for name in ("set_flag", "clear_flag")}, list[tuple[str, object]]()
    for name, method in real.items():
        monkeypatch.setattr(config, name, lambda self, flag, n=name, m=method: seen.append((n, flag)) or m(self, flag))
    build(library, tiny_member(1.0, "mean").SerializeToString(), 64, 2)
    assert ("set_flag", flags.REQUIRE_USER_ALLOCATION) in seen and ("clear_flag", flags.TF32) in seen


def test_timings_are_kept(library: Library) -> None:
    from metaqap_fast.engine.gpu import plan_cache as cache

    model = graph.merged(BUNDLE, "fp16", BUNDLE.members[:1]).SerializeToString()
    for _ in range(2):
        build(library, model, 512, 2, Options(targets=("sm89",)), "test rtx/1")
    (path,) = cache.root().glob("test-rtx-1.timing")
    assert path.stat().st_size and path.stat().st_mode & 0o777 == 0o600


def test_without_a_driver_an_engine_is_refused_in_one_line(library: Library) -> None:
    from metaqap_fast.engine import cuda
    from metaqap_fast.engine.gpu.tensorrt_runner import EngineRefused, TensorRTRunner

    try:
        cuda.gpus()
        pytest.skip("this machine has a GPU")
    except cuda.NoGpu:
        pass
    plan = build(library, graph.merged(BUNDLE, "fp16", BUNDLE.members[:1]).SerializeToString(), 512, 2)
    with pytest.raises(EngineRefused, match="driver version is insufficient") as caught:
        TensorRTRunner(library, [plan], 512, [1], 2, "cpu")
    assert "\n" not in str(caught.value)


def test_generated_views_are_alike_every_time_and_unlike_each_other() -> None:
    views = generated(64, 8)
    assert views.shape == (8, 64, 64, 3) and np.array_equal(views, generated(64, 8))
    assert len({view.tobytes() for view in views}) == 8 and views.std() > 20
