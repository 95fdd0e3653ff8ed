"""The acceptance run and its wheels, as far as a CPU can tell: every step that runs without a GPU is really run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metaqap_fast.bench import gpu_acceptance
from metaqap_fast.bench.gpu_acceptance import Step, checks, measure, plan, run_step, table

ROOT = Path(__file__).parents[2]


def test_a_dry_run_ends_in_a_table(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    steps = "environment,cpu_scores,parity torch fp32,speed torch fp16,eager,sweep"
    arguments = [
        "--dry-run",
        "-o",
        str(out),
        "--model",
        str(bundle),
        "--images",
        "8",
        "--seconds",
        "0.05",
        "--minutes",
        "30",
    ]
    assert gpu_acceptance.main([*arguments, "--steps", steps]) == 0
    document = json.loads((out / "gpu-acceptance-dry-run.json").read_text())
    assert document["dry_run"] and document["machine"].startswith("dry run on a CPU")
    failed = {title: step["failed"] for title, step in document["steps"].items() if "failed" in step}
    assert not failed
    parity = document["steps"]["parity torch fp32"]["result"]
    assert parity["max"] < 1e-4 and parity["generated, cpu decoder"]["same_failures"]
    speed = document["steps"]["speed torch fp16"]["result"]
    assert speed["whole"] > 0 and speed["whole_over_slowest_stage"] > 0
    verdicts = {entry["check"]: entry["passed"] for entry in document["checks"]}
    assert verdicts["parity torch fp32: score against the CPU's"] is True
    assert verdicts["the paper's five CNNs together, images/s"] is None
    text = (out / "gpu-acceptance-dry-run.txt").read_text()
    assert "says nothing about a GPU" in text and "did not run" in text and text in capsys.readouterr().out


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "metaqap_fast.bench.gpu_acceptance", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_the_plan_covers_every_promise() -> None:
    titles = [step.title for step in plan(("tensorrt", "torch"))]
    assert len(set(titles)) == len(titles)
    for title in ("parity tensorrt fp32", "parity torch fp32", "parity tensorrt int8", "parity tensorrt fp8",
                  "parity tensorrt fp16 members", "speed tensorrt fp16", "eager", "paper torch", "paper tensorrt",
                  "memory tensorrt fp16", "sweep_decoder"):  # fmt: skip
        assert title in titles
    assert titles.index("speed tensorrt fp16") < 8  # what matters most comes before time runs out


RESULTS: dict[str, dict[str, Any]] = {
    "parity tensorrt fp32": {"result": {"max": 0.004}},
    "parity tensorrt fp16": {"result": {"max": 0.011}},
    "speed tensorrt fp16": {"result": {"whole": 900.0, "whole_over_slowest_stage": 0.95}},
    "eager": {"result": {"images_per_second": 20.0}},
    "paper torch": {"failed": "stopped after 150 s"},
    "memory tensorrt fp16": {"result": {"growth_mb": 100.0}},
}


def test_verdicts() -> None:
    found = {entry["check"]: entry["passed"] for entry in checks(RESULTS)}
    assert found == {
        "parity tensorrt fp32: score against the CPU's": True,
        "parity tensorrt fp16: score against the CPU's": False,
        "speed tensorrt fp16: whole over slowest stage": True,
        "speed tensorrt fp16: whole over eager loop": False,
        "the paper's five CNNs together, images/s": None,
        "memory tensorrt fp16: growth of device memory, MB": False,
    }
    text = table({"machine": "X", "checks": checks(RESULTS), "steps": RESULTS})
    assert "paper torch: stopped after 150 s" in text and text.count("FAILED") == 3 and "did not run" in text


def test_a_step_that_fails_or_hangs_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"model": "nosuch", "work": str(tmp_path), "generated": "", "photos": "", "gpu": None}
    assert "unknown model 'nosuch'" in run_step(Step("environment"), settings, 600)["failed"]
    assert run_step(Step("environment"), settings, 0.2)["failed"] == "stopped after 0 s"
    seen: list[float] = []
    monkeypatch.setattr(
        gpu_acceptance, "run_step", lambda step, settings, seconds: seen.append(seconds) or {"result": {}}
    )
    settings = {**settings, "gpu": 0}
    results = measure(settings, [Step("a", limit=5), Step("b", limit=1000)], time.monotonic() + 30, lambda text: None)
    assert seen[0] == 5 and seen[1] < 31 and results == {"a": {"result": {}}, "b": {"result": {}}}
    late = measure(settings, [Step("a")], time.monotonic() + 5, lambda text: None)
    assert late == {"a": {"failed": "not run: no time left"}}


# --- wheels ---------------------------------------------------------------------------------------------------


def make_wheel(folder: Path, name: str, size: int) -> None:
    """A wheel that pip takes: one module with some ballast."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "here = True\n" + "#" * size)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def commands(document: str) -> list[str]:
    """The command lines between <!-- pieces --> and <!-- end -->."""
    return re.search(r"<!-- pieces -->\n```\n(.*?)```", (ROOT / "docs" / document).read_text(), re.S)[1].splitlines()


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    command = ["bash", "-c", line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_wheels_travel_in_pieces_and_the_checkout_runs_with_them(tmp_path: Path) -> None:
    """The documented lines as they stand, but for pieces of 50 kB and a dry run of one step."""
    split, join, install, run = commands("gpu.md")
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    make_wheel(here / "wheels", "metaqap_test_one", 120_000)
    make_wheel(here / "wheels", "metaqap_test_two", 100)
    done = shell(split.replace("50M", "50K"), here)
    assert done.returncode == 0, done.stderr
    assert len(list((here / "pieces").glob("wheels.tar.*"))) > 2
    (here / "pieces").rename(there / "pieces")
    (there / "metaqap_fast").symlink_to(ROOT / "metaqap_fast")
    for line in (join, install):
        done = shell(line, there)
        assert done.returncode == 0, done.stderr
    for path in (here / "wheels").iterdir():
        assert (there / "wheels" / path.name).read_bytes() == path.read_bytes()
    done = shell(f"{run} --dry-run --images 2 --steps environment --minutes 30", there)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((there / "bench" / "results" / "gpu-acceptance-dry-run.json").read_text())
    assert document["steps"]["environment"]["result"]["bundle"]
    place = run.split("python3")[0]
    done = shell(f"{place} python3 -P -c 'import metaqap_test_one, metaqap_test_two; print(metaqap_test_one)'", there)
    assert str(there / "site") in done.stdout, done.stderr


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
