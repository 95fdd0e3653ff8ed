"""What the engines that are really built hold, and that the names which our code uses are TensorRT's own."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

import fake_tensorrt
import plans
from metaqap_fast.engine.gpu import lowering as graph
from metaqap_fast.engine.gpu.tensorrt_build import Library, Options, build, find
from metaqap_fast.model import bundle as bundles

BUNDLE = bundles.load()
BATCH = 64
FLAGS = ("TF32", "VERSION_COMPATIBLE", "REQUIRE_USER_ALLOCATION")


@pytest.fixture(scope="module")
def library() -> Library:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the rtx extra is not installed: nothing is built")
    return find("tensorrt_rtx")


def built(library: Library, precision: str) -> plans.Plan:
    model = graph.merged(BUNDLE, precision).SerializeToString()
    return plans.read(build(library, model, BUNDLE.view_size, BATCH, Options(targets=("sm89",))), BATCH)


def test_fp16_is_fused_and_leaves_nothing_to_be_chosen_later(library: Library) -> None:
    found = built(library, "fp16")
    nodes = graph.merged(BUNDLE, "fp16").graph.node
    convolutions = {node.output[0] for node in nodes if node.op_type == "Conv"}
    activated = [node for node in nodes if node.op_type in ("Clip", "Relu") and node.input[0] in convolutions]
    assert found.convolutions == found.with_bias >= len(convolutions) - len(BUNDLE.members)  # first ones may be merged
    assert found.with_activation >= len(activated) - len(BUNDLE.members)
    assert found.runtime_tactics == 0 and found.static_tactics >= found.convolutions
    assert 100 < found.megabytes <= 150 and found.streams == 1


@pytest.mark.nightly
@pytest.mark.parametrize(("precision", "least"), [("int8", 4.0), ("fp8", 2.0)])
def test_what_the_documents_say_of_eight_bits(library: Library, precision: str, least: float) -> None:
    """They move more bytes than fp16, and most of their convolutions are not fused: they are not recommended."""
    found = built(library, precision)
    assert found.megabytes > least * 145 and found.with_bias < found.convolutions / 2


@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("portable", [True, False])
def test_what_is_asked_of_the_builder(kind: str, portable: bool) -> None:
    """Of the full library too, which is not to be had everywhere: what it is told, by a stand-in that remembers it."""
    trt = MagicMock()
    trt.ILogger, trt.BuilderFlag = fake_tensorrt.ILogger, SimpleNamespace(**{name: name for name in FLAGS})
    trt.HardwareCompatibilityLevel.AMPERE_PLUS = "sm80 and newer"
    builder = trt.Builder.return_value
    builder.build_serialized_network.return_value = b"plan"
    config, profile = builder.create_builder_config.return_value, builder.create_optimization_profile.return_value
    assert build(Library(trt, kind), b"graph", 512, BATCH, Options(portable=portable, compatible=portable)) == b"plan"
    flags = {call.args[0] for call in config.set_flag.call_args_list}
    wanted = {"VERSION_COMPATIBLE": portable, "REQUIRE_USER_ALLOCATION": kind == "tensorrt_rtx", "TF32": False}
    assert flags == {name for name, there in wanted.items() if there}
    config.clear_flag.assert_called_once_with("TF32")
    assert (config.hardware_compatibility_level == "sm80 and newer") == portable
    profile.set_shape.assert_called_once_with("image", *[(BATCH, 512, 512, 3)] * 3)  # nothing is left to be chosen
    assert config.max_aux_streams == 0


# --- names ----------------------------------------------------------------------------------------------------------

# What the variables of engine/gpu hold, and the class of the library that it is.
HOLDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "optimisation": "IOptimizationProfile",
    "timings": "ITimingCache",
    "_runtime": "Runtime",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
}
CONFIGS = {"build": "IBuilderConfig", "_set_targets": "IBuilderConfig", "_context": "IRuntimeConfig"}
RTX_ALONE = {"IRuntimeConfig", "IRuntimeCache", "DynamicShapesKernelSpecializationStrategy", "ComputeCapability",
             "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability",
             "BuilderFlag.REQUIRE_USER_ALLOCATION", "ICudaEngine.create_runtime_config",
             "IExecutionContext.is_stream_capturable"}  # fmt: skip
LEAN = {"Runtime", "ICudaEngine", "IExecutionContext", "ILogger", "ExecutionContextAllocationStrategy"}
FOLDER = Path(graph.__file__).parent


def used() -> set[str]:
    """Names of the library that our code uses: `Class.member`, or what the module itself has."""
    found = set()
    for name in ("tensorrt_build.py", "tensorrt_runner.py"):
        for function in ast.walk(ast.parse((FOLDER / name).read_text())):
            if isinstance(function, ast.FunctionDef):
                found |= set(filter(None, (_name(node, function.name) for node in ast.walk(function))))
    return found


def _name(node: ast.AST, function: str) -> str | None:
    if not isinstance(node, ast.Attribute):
        return None
    chain = ast.unparse(node).split(".")
    if "trt" in chain[:-1]:
        return ".".join(chain[chain.index("trt") + 1 :])
    holder = chain[-2]
    if holder == "config" and function in CONFIGS:
        return f"{CONFIGS[function]}.{chain[-1]}"
    if holder == "cache" and function in ("_context", "compiled") and chain[-1] in ("deserialize", "serialize"):
        return f"IRuntimeCache.{chain[-1]}"
    return f"{HOLDS[holder]}.{chain[-1]}" if holder in HOLDS else None


def test_the_names_are_collected() -> None:
    names = used()
    for name in ("Builder.build_serialized_network", "IExecutionContext.execute_async_v3", "BuilderFlag.TF32",
                 "Runtime.deserialize_cuda_engine", "IBuilderConfig.max_aux_streams", "IRuntimeCache.serialize",
                 "IRuntimeConfig.set_runtime_cache", "ICudaEngine.create_execution_context"):  # fmt: skip
        assert name in names
    assert len(names) > 30


CHECK = """
import functools, importlib, json, sys
module = importlib.import_module(sys.argv[1])
def there(name):
    try:
        functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        return False
    return True
print(json.dumps([name for name in json.loads(sys.argv[2]) if not there(name)]))
"""


def missing(module: str, names: set[str], environment: dict[str, str] | None = None) -> set[str]:
    command = [sys.executable, "-c", CHECK, module, json.dumps(sorted(names))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_names_are_those_of_tensorrt_rtx(library: Library) -> None:
    assert missing(library.trt.__name__, used()) == set()


# Of libnvinfer, libnvonnxparser and libnvinfer_plugin, the functions that the bindings want when they are imported.
STUBS = {
    "libnvinfer": "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL "
    "getBuilderPluginRegistry getPluginRegistry",
    "libnvonnxparser": "createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getNvOnnxParserVersion",
    "libnvinfer_plugin": "initLibNvInferPlugins",
    "libnvinfer_lean": "createInferRuntime_INTERNAL createInferRefitter_INTERNAL getPluginRegistry",
}


@pytest.mark.parametrize(
    ("package", "module", "version"),
    [
        ("tensorrt-cu13-bindings", "tensorrt_bindings", "10.16.1.11"),
        ("tensorrt-cu13-bindings", "tensorrt_bindings", "11.4.0.106"),
        ("tensorrt-lean-cu13-bindings", "tensorrt_lean_bindings", "11.4.0.106"),
    ],
)
def test_the_names_are_those_of_tensorrt(package: str, module: str, version: str, tmp_path: Path) -> None:
    """The bindings' wheel stands on the package index, its libraries do not: stubs take their place."""
    compiler = shutil.which("cc")
    if compiler is None or importlib.util.find_spec("pip") is None:
        pytest.skip("needs a C compiler and pip")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path)]
    done = subprocess.run([*command, f"{package}=={version}"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no bindings to check the names against: {done.stderr.strip().splitlines()[-1]}")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    source, major = tmp_path / "stub.c", version.split(".")[0]
    for name, symbols in STUBS.items():
        source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols.split()))
        target = str(tmp_path / f"{name}.so.{major}")
        subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", target, str(source)], check=True)
    environment = {"PYTHONPATH": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    names = used() if "lean" not in package else {name for name in used() if name.split(".")[0] in LEAN}
    assert len(names) >= 9
    lacking = missing(module, names, environment)
    assert {name for name in lacking if not RTX_ALONE & {name, name.split(".")[0]}} == set()
