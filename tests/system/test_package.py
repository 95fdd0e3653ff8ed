"""What is promised of the package: quick to start, no torch to score, nothing unpickled, wheels that work."""

from __future__ import annotations

import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE_SOURCES = [p for d in ("metaqap_fast", "kernels", "train", "bench") for p in sorted((ROOT / d).rglob("*.py"))]


@pytest.mark.parametrize(
    "code", ["import metaqap_fast", "import sys; sys.argv[1:]=['--help']; import metaqap_fast.cli as c; c.main()"]
)
def test_start_up_is_quick(code: str) -> None:
    times = []
    for _ in range(5):  # processor time: a busy machine must not fail it
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.3, times


def test_heavy_libraries_are_imported_only_when_used() -> None:
    code = "import sys, metaqap_fast, metaqap_fast.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"numpy", "torch", "openvino", "nvidia.dali", "h5py", "scipy", "rich"} & set(modules)


def test_scoring_needs_no_torch() -> None:
    code = "import sys, metaqap_fast.run, metaqap_fast.engine.native.engine; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "triton", "timm", "tensorrt"} & set(modules)


def test_nothing_is_unpickled() -> None:
    for path in PACKAGE_SOURCES:
        text = path.read_text()
        assert not re.search(r"^\s*(import|from) (pickle|dill|cloudpickle|joblib|shelve|marshal)\b", text, re.M), path
        assert "allow_pickle=True" not in text, path
        for call in re.finditer(r"torch\.load\((?:[^()]|\([^()]*\))*\)", text):
            assert "weights_only=True" in call.group(), path


def test_stages_do_not_reach_back() -> None:
    order = [
        "errors",
        "headers",
        "source",
        "views",
        "decode",
        "worker",
        "supervisor",
        "engine",
        "combine",
        "table",
        "durable",
        "merge",
        "store",
        "scorer",
        "run",
        "cli",
    ]
    for path in (ROOT / "metaqap_fast").glob("*.py"):
        if path.stem not in order:
            continue
        top = re.findall(r"^(?:from metaqap_fast\.(\w+)|from metaqap_fast import (\w+))", path.read_text(), re.M)
        for name in {a or b for a, b in top} & set(order):
            assert order.index(name) < order.index(path.stem), f"{path.stem} imports {name}"
    for path in (ROOT / "train").glob("*.py"):
        assert not re.search(r"metaqap_fast\.(scorer|store)\b|metaqap_fast import (scorer|store)", path.read_text()), (
            path
        )


def wheel_of(folder: Path, **environment: str) -> Path:
    """Built in a folder of its own: neither does it leave anything in the checkout, nor use what is left there."""
    config = folder / "build.cfg"
    config.write_text(f"[build]\nbuild_base = {folder / 'build'}\n")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir", "-w", str(folder), str(ROOT)]
    surroundings = {**os.environ, "DIST_EXTRA_CONFIG": str(config), **environment}
    subprocess.run(build, check=True, capture_output=True, env=surroundings)
    (wheel,) = folder.glob("*.whl")
    return wheel


def can_compile() -> bool:
    """Whether there is a C compiler that knows the instructions of the native kernel."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    command = [*compiler, "-fsyntax-only", *map(str, (ROOT / "kernels" / "cpu").glob("*.c"))]
    return bool(shutil.which(compiler[0])) and subprocess.run(command, capture_output=True).returncode == 0


def test_without_a_compiler_the_package_installs_without_the_kernel(tmp_path: Path) -> None:
    names = zipfile.ZipFile(wheel_of(tmp_path, CC="/bin/false")).namelist()
    assert "metaqap_fast/engine/native/engine.py" in names and not [name for name in names if name.endswith(".so")]


def test_what_the_kernel_is_built_from_is_all_named() -> None:
    """Or it would be missing in source distributions, and not be built again when it changes."""
    (module,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "kernels" / "cpu").iterdir()}
    assert {*module["sources"], *module["depends"]} == files


def test_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    compiled = f"metaqap_fast/engine/native/_mobilenet{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert (compiled in names) == can_compile()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"metaqap_fast"}
    for needed in (
        "kernels/__init__.py",
        "train/run.py",
        "train/configs/resnet50.toml",
        "bench/__init__.py",
        "model/default/bundle.json",
        "py.typed",
    ):
        assert f"metaqap_fast/{needed}" in names
    assert wheel.stat().st_size < 60e6
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    code = "import metaqap_fast, metaqap_fast.model.bundle as b; print(metaqap_fast.__file__, b.load().name)"
    if compiled in names:
        code += "; import metaqap_fast.engine.native.library as n; assert n.arithmetic() in (0, *n.ARITHMETIC)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(target)}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert str(target) in result.stdout


def test_files_stay_readable_in_one_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE_SOURCES}
    assert statistics.fmean(lengths.values()) < 300
    assert not {str(path): n for path, n in lengths.items() if n > 350}
