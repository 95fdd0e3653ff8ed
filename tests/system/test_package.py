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
import tarfile
import venv
import zipfile
from functools import cache
from pathlib import Path

import pytest

import imports

ROOT = Path(__file__).parents[2]
LINKED = ("kernels", "train", "bench")  # folders at the top that are links in the package
# Of what is committed there.
LEFT_OUT = (
    "metaqap_fast/bench/results/",
    *(f"metaqap_fast/kernels/{name}/" for name in ("cpu", "files", "jpeg", "resize")),
)
PACKAGE_SOURCES = list(imports.walk(ROOT / "metaqap_fast"))


@pytest.mark.parametrize(
    "code", ["import metaqap_fast", "import sys; sys.argv[1:]=['--help']; import metaqap_fast.cli as c; c.main()"]
)
def test_start_up_is_quick(code: str) -> None:
    """In .3 s of processor time, or in twice what to import click alone takes: on a busy, slow CPU that is .2 s."""
    times = [(processor_time(code), processor_time("import click")) for _ in range(5)]
    ours, of_click = map(min, zip(*times, strict=True))
    assert ours < max(0.3, 2 * of_click), times


def processor_time(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the checkout, links kept: what is built leaves nothing in the checkout and uses nothing from it."""
    ignored = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", "*.so", "*.egg-info", "build", "work")
    return shutil.copytree(ROOT, tmp_path / "tree", symlinks=True, ignore=ignored)


def pip(command: str, *arguments: object, **environment: str) -> None:
    build = [sys.executable, "-m", "pip", command, "-q", "--no-deps", "--no-build-isolation", *map(str, arguments)]
    subprocess.run(build, check=True, capture_output=True, env={**os.environ, **environment})


def wheel_of(source: Path, folder: Path, **environment: str) -> Path:
    pip("wheel", "-w", folder, source, **environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def names_in(wheel: Path) -> set[str]:
    """Without the metadata."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


WORKS = """
import sys, metaqap_fast, metaqap_fast.kernels.checks, metaqap_fast.train.recipe, metaqap_fast.bench.runs
from metaqap_fast.engine.native.library import library
from metaqap_fast.model import bundle
print(metaqap_fast.__file__, bundle.load().name, metaqap_fast.train.recipe.__file__)
if sys.argv[1] == "compiled":
    library()
"""


def works(site: Path, folder: Path, compiled: bool) -> str:
    """Where the package that is installed in `site` is, used from `folder`."""
    # What runs the tests may be an editable installation too: its .pth files are passed over (-S).
    start = f"import site, sys; site.addsitedir({str(site)!r}); sys.path.append({sysconfig.get_path('purelib')!r})"
    command = [sys.executable, "-S", "-c", f"{start}\n{WORKS}", "compiled" if compiled else "without the kernel"]
    surroundings = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(command, cwd=folder, env=surroundings, check=True, capture_output=True, text=True).stdout


@cache
def can_compile() -> bool:
    """Whether there is a C compiler that knows the instructions of the native kernel."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    command = [*compiler, "-fsyntax-only", *map(str, (ROOT / "kernels" / "cpu").glob("*.c"))]
    return bool(shutil.which(compiler[0])) and subprocess.run(command, capture_output=True).returncode == 0


def test_without_a_compiler_the_package_installs_without_the_kernel(tree: Path, tmp_path: Path) -> None:
    old = tree / "metaqap_fast" / "formats" / "_scan.so"  # of an earlier build
    old.touch()
    names = names_in(wheel_of(tree, tmp_path, CC="/bin/false"))
    assert not old.exists()
    assert "metaqap_fast/engine/native/engine.py" in names and not [name for name in names if name.endswith(".so")]


def scored_without_a_compiler(wheel: Path, folder: Path) -> str:
    """What .ci/installed.py says of a wheel in an environment of its own, where PATH holds nothing that compiles."""
    venv.create(folder, symlinks=True)
    python, site = folder / "bin" / "python", folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel]
    subprocess.run(command, check=True, capture_output=True)
    # What it depends on is that of this environment, which would be a gigabyte to download; the package is the wheel's.
    (site / "site-packages" / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    surroundings = {"PATH": str(folder / "bin"), "HOME": str(folder)}
    assert not [name for name in ("cc", "gcc", "clang", "c99") if shutil.which(name, path=surroundings["PATH"])]
    command = [python, ROOT / ".ci" / "installed.py"]
    return subprocess.run(command, env=surroundings, check=True, stdout=subprocess.PIPE, text=True).stdout


def linux_of(wheel: Path) -> list[int]:
    """Which versions of glibc a wheel runs with: manylinux_2_17 is [2, 17]."""
    command = [sys.executable, "-m", "auditwheel", "show", wheel]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r'platform\s+tag:\s+"manylinux_(\d+)_(\d+)_\w+"', shown)
    assert found is not None, shown
    return [int(found[1]), int(found[2])]


def quick_compiler(folder: Path) -> str:
    """A C compiler that hardly optimises, which takes most of a minute; the kernel that all other tests run is
    compiled as setup.py says."""
    name = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    script = folder / "quick-cc"
    script.write_text(f'#!/bin/sh\nexec {name} "$@" -O1\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.full
def test_wheel_and_source_distribution_work_outside_the_checkout(tree: Path, tmp_path: Path) -> None:
    wheel = wheel_of(tree, tmp_path, CC=quick_compiler(tmp_path))
    names = names_in(wheel)
    assert re.fullmatch(r"metaqap_fast-[\d.]+-py3-none-linux_\w+\.whl", wheel.name)
    compiled = {
        "metaqap_fast/engine/native/_mobilenet.so",
        "metaqap_fast/decode/_resize.so",
        "metaqap_fast/formats/_scan.so",
        "metaqap_fast/input/_files.so",
    }
    assert compiled & names == (compiled if can_compile() else set())
    assert {name.split("/")[0] for name in names} == {"metaqap_fast"}
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], check=True, capture_output=True, text=True).stdout.split()
    links = {f"metaqap_fast/{name}" for name in LINKED}
    inside = {name for name in listed if name.startswith("metaqap_fast/")} - links
    inside |= {f"metaqap_fast/{name}" for name in listed if name.split("/")[0] in LINKED}
    inside = {name for name in inside if not name.startswith(LEFT_OUT)}
    assert names - compiled == inside
    assert wheel.stat().st_size < 59e6  # two models, of 41 and 17 MB

    made = tmp_path / "sdist"
    made.mkdir()
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, made], cwd=tree, check=True, capture_output=True)
    (archive,) = made.iterdir()
    # Its C files are those of the checkout; to compile them again would take as long again.
    assert {Path(name).name for name in tarfile.open(archive).getnames() if "/kernels/" in name} >= {
        path.name for path in (ROOT / "kernels").glob("*/*.[ch]")
    }
    assert names_in(wheel_of(archive, made, CC="/bin/false")) == names - compiled

    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    assert works(target, tmp_path, can_compile()).count(str(target)) == 2
    if can_compile():
        assert str(tmp_path / "env") in scored_without_a_compiler(wheel, tmp_path / "env")
        assert linux_of(wheel) <= [2, 28]  # the manylinux that pyproject.toml names


@pytest.mark.nightly  # .ci/run installs the checkout in this way, and tests it
def test_an_editable_installation_works_outside_the_checkout(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip("install", "-e", tree, "--target", target, CC="/bin/false")
    assert works(target, tmp_path, False).count(str(tree)) == 2


def test_files_stay_readable_in_one_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE_SOURCES}
    assert statistics.fmean(lengths.values()) < 300
    assert not {str(path): n for path, n in lengths.items() if n > 350}
