"""Bringing the acceptance run to a machine without a network: the lines that docs/gpu.md has for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]


def make_wheel(folder: Path, name: str, size: int, version: str = "1.0") -> None:
    """A wheel that pip takes: one module with some ballast."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"version = '{version}'\n" + "#" * size)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def commands(document: str) -> list[str]:
    """The command lines between <!-- pieces --> and <!-- end -->."""
    found = re.search(r"<!-- pieces -->\n```\n(.*?)```", (ROOT / "docs" / document).read_text(), re.S)
    assert found is not None
    return found[1].splitlines()


def shell(line: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **more}
    command = ["bash", "-c", line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.nightly
def test_wheels_travel_in_pieces_and_replace_nothing_of_the_machine(tmp_path: Path) -> None:
    """The documented lines as they stand, but for small pieces, other wheels, and a dry run of no steps."""
    split, join, venv, install, run = commands("gpu.md")
    here, there, machine = tmp_path / "here", tmp_path / "there", tmp_path / "machine"
    for folder in (here, there):
        folder.mkdir()
    make_wheel(here / "wheels", "metaqap_test_one", 120_000)
    make_wheel(here / "wheels", "metaqap_test_two", 100)
    make_wheel(tmp_path / "own", "metaqap_test_two", 100, version="0.9")
    with zipfile.ZipFile(next((tmp_path / "own").iterdir())) as wheel:
        wheel.extractall(machine)
    done = shell(split.replace("50M", "50K"), here)
    assert done.returncode == 0, done.stderr
    assert len(list((here / "pieces").glob("wheels.tar.*"))) > 2
    (here / "pieces").rename(there / "pieces")
    # The machine's packages, as far as a test can have any: an environment made in another does not see its packages.
    packages = [str(machine), str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    own = {"PYTHONPATH": os.pathsep.join(packages)}
    for line in (join, venv, install.replace("metaqap-fast onnx pillow", "metaqap_test_one metaqap_test_two")):
        done = shell(line, there, **own)
        assert done.returncode == 0, done.stderr
    for path in (here / "wheels").iterdir():
        assert (there / "wheels" / path.name).read_bytes() == path.read_bytes()
    code = "import metaqap_test_one as a, metaqap_test_two as b; print(a.version, b.version)"
    assert shell(f'env/bin/python -c "{code}"', there, **own).stdout.split() == ["1.0", "0.9"]
    assert not list((there / "env").rglob("metaqap_test_two.py"))
    done = shell(f"{run} --dry-run --images 2 --steps nothing --minutes 30", there, **own)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((there / "bench" / "results" / "gpu-acceptance-dry-run.json").read_text())
    assert document["steps"]["environment"]["result"]["bundle"]


@pytest.mark.parametrize(
    "harm", [lambda piece: piece.unlink(), lambda piece: piece.write_bytes(b"x")], ids=["missing", "damaged"]
)
def test_pieces_that_do_not_fit_are_refused(harm: Callable[[Path], None], tmp_path: Path) -> None:
    split, join, *_ = commands("gpu.md")
    make_wheel(tmp_path / "wheels", "metaqap_test_one", 120_000)
    assert shell(split.replace("50M", "50K"), tmp_path).returncode == 0
    (tmp_path / "wheels").rename(tmp_path / "before")
    harm(max((tmp_path / "pieces").glob("wheels.tar.*")))
    done = shell(join, tmp_path)
    assert done.returncode == 1 and "FAILED" in done.stdout + done.stderr and not (tmp_path / "wheels").exists()
