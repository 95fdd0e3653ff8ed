"""Scoring tells nobody: no network, no forked copy of the process, and nothing in HOME but the cache."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
# What is done behind the program's back is written to a file at once: the caller may catch whatever is raised here, and
# threads that end with the process come last.
WATCH = """
import os, socket, sys
file = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def refuse(name):
    def refused(*arguments, **options):
        os.write(file, f"{name} {arguments[:1]}\\n".encode())
        raise OSError(f"{name} is refused")
    return refused
for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp"):
    setattr(os, name, refuse(name))
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refuse(name))
socket.socket.connect = refuse("connect")
os.register_at_fork(before=lambda: os.write(file, b"forked\\n"))
"""
SCORE = "from metaqap_fast.cli import main; main()"


def watched(code: str, home: Path, *arguments: object) -> tuple[subprocess.CompletedProcess[str], str, set[str]]:
    """Run outside CI as the user of a fresh home: what it did, and the files it left there."""
    home.mkdir()
    unset = ("CI", "TF_BUILD", "JENKINS_URL", "METAQAP_FAST_CACHE", "XDG_CACHE_HOME")
    surroundings = {name: value for name, value in os.environ.items() if name not in unset}
    seen = home.parent / "seen"
    done = subprocess.run(
        [sys.executable, "-c", WATCH + code, str(seen), *map(str, arguments)],
        env={**surroundings, "HOME": str(home)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    files = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    return done, seen.read_text(), files


@pytest.mark.parametrize("engine", ["auto", "openvino", "torch"])
def test_scoring_tells_nobody(engine: str, bundle: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ["score", folder, "--model", bundle, "-o", tmp_path / "s.h5", "--engine", engine, "--device", "cpu"]
    done, seen, files = watched(SCORE, tmp_path / "home", *arguments)
    assert done.returncode == 0, done.stderr
    assert seen == ""
    assert {re.sub("[0-9a-f]{32}", "DIGEST", name) for name in files} <= {".cache/metaqap-fast/openvino/DIGEST.blob"}


@pytest.mark.skipif(find_spec("openvino_telemetry") is None, reason="openvino-telemetry is not installed")
def test_openvino_would_tell(tmp_path: Path) -> None:
    """What the test above would see, were OpenVINO imported as it is."""
    _, seen, files = watched("import openvino", tmp_path / "home")
    assert "fork" in seen and any(name.startswith("intel/") for name in files)


def test_a_program_that_uses_openvino_too_keeps_its_telemetry(tmp_path: Path) -> None:
    """What is hidden from one import is there for the next."""
    code = (
        "from metaqap_fast.engine.openvino_core import library\n"
        "library()\nimport sys\nassert 'openvino_telemetry' not in sys.modules\n"
        "import importlib.util as u; print(u.find_spec('openvino_telemetry') is not None)"
    )
    done, seen, _ = watched(code, tmp_path / "home")
    assert done.stdout == f"{find_spec('openvino_telemetry') is not None}\n" and seen == ""


def test_openvino_is_imported_in_one_place() -> None:
    """An import elsewhere, in training and benchmarks too, would be the first one sooner or later."""
    pattern = re.compile(r"^\s*(?:import|from) openvino\b", re.M)
    folders = ("metaqap_fast", "kernels", "train", "bench", "tests")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = [str(path.relative_to(ROOT)) for path in paths if pattern.search(path.read_text())]
    assert found == ["metaqap_fast/engine/openvino_core.py"]
