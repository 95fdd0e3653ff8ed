"""The bench commands and the peers on work that costs little, and what a wrong request or an interrupt gives."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaqap_fast.bench import idle, throughput
from metaqap_fast.bench.images import generate, parse_size
from metaqap_fast.bench.job import NotInstalled, prepare
from metaqap_fast.bench.runs import read
from metaqap_fast.bench.sampling import Settings
from metaqap_fast.errors import UsageError

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
QUICK = Settings(repeats=1, seconds=0.0, patience=0.0)


# --- the commands, on work that costs little ---

SIZE = "64x64"


def test_generated_images_are_the_same_every_time(tmp_path: Path) -> None:
    a, b = (generate(tmp_path / name, SIZE, 20) for name in "ab")
    files = sorted(a.iterdir())
    assert len(files) == 20 and [f.read_bytes() for f in files] == [f.read_bytes() for f in sorted(b.iterdir())]
    assert len({f.read_bytes() for f in files}) == 16
    for wrong in ("64", "64x", "0x64", "axb", "64x64x3"):
        with pytest.raises(UsageError, match="is not a size"):
            parse_size(wrong)


@pytest.mark.usefixtures("in_process")
def test_throughput_end_to_end(bundle: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "run"
    how = ["--repeats", 1, "--seconds", 0, "--patience", 0, "--model", bundle, "--even-busy", "-o", out]
    result = cli("bench", "throughput", "--synthetic", 3, "--sizes", SIZE, "--precisions", "fp32", *how)
    assert result.exit_code == 0, result.stderr
    assert "whole over slowest stage" in result.stdout and "[7/7]" in result.stderr
    run = read(out)
    stages = {each["labels"]["stage"]: each for each in run.samples}
    assert set(stages) == set(throughput.STAGES) and all(each["units"] > 0 for each in run.samples)
    assert stages["whole"]["units"] == stages["decode"]["units"] == 3 and stages["whole"]["facts"]["scored"] == 1
    assert str(tmp_path) not in (out / "run.json").read_text() + (out / "samples.jsonl").read_text()
    page = tmp_path / "page.html"
    assert cli("bench", "report", out, "--json", "-o", page).exit_code == 0
    assert page.read_text().startswith("<!doctype html>")
    refused = cli("bench", "report", out, "-o", out / "run.json")
    assert refused.exit_code == 2 and "must end in .html" in refused.stderr
    assert read(out).samples == run.samples


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["throughput", "{empty}"], "no image found"),
        (["throughput", "{empty}/none"], "no such file"),
        (["throughput"], "folders of images or --synthetic"),
        (["throughput", "--synthetic", "3", "--engines", "magic"], "unknown engine 'magic'"),
        (["throughput", "--synthetic", "3", "--precisions", "fp9"], "unknown precision 'fp9'"),
        (["throughput", "--synthetic", "3", "--threads", "0"], "positive numbers"),
        (["throughput", "--synthetic", "3", "--threads", "100000"], "CPUs"),
        (["throughput", "--synthetic", "3", "--model", "nosuch"], "unknown model"),
        (["throughput", "--synthetic", "3", "--sizes", "big"], "is not a size"),
        (["limit", "--synthetic", "3", "--sizes", "64x64,96x96"], "one size"),
        (["peers", "--synthetic", "3", "--peers", "magic"], "unknown peer 'magic'"),
        (["peers", "--synthetic", "3", "--python", "magic=python"], "PEER=PYTHON"),
        (["accuracy"], "labelled images"),
        (["accuracy", "--set", "nosuch={empty}"], "unknown data set"),
        (["scale", "--rows", "many"], "positive numbers"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = cli("bench", *(argument.format(empty=tmp_path / "empty") for argument in arguments))
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert not list(tmp_path.glob("bench-*"))


@pytest.mark.parametrize("package", ["psutil", "simplejpeg"])
def test_without_the_bench_extra_it_says_what_to_install(package: str) -> None:
    code = f"import sys; sys.modules['{package}'] = None; from metaqap_fast.cli import main; main()"
    command = [sys.executable, "-c", code, "bench", "throughput", "--synthetic", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "pip install 'metaqap-fast[bench]'" in done.stderr and package in done.stderr


def test_when_nothing_can_be_timed_the_run_says_so(bundle: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("no image")
    how = ["--peers", "onnxruntime", "--repeats", 1, "--patience", 0, "--model", bundle, "-o", tmp_path / "run"]
    result = cli("bench", "peers", tmp_path / "photos", "--precisions", "int8", *how)
    assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("metaqap-fast: nothing could be timed")
    assert "int8 ranges" in result.stdout and "onnxruntime files: failed" in result.stdout


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_no_child_and_is_not_reported(
    number: int, bundle: Path, folder: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    out = tmp_path / "run"
    command = ["bench", "throughput", str(folder), "--model", str(bundle), "--seconds", "60", "-o", str(out)]
    # A shell starts what it runs in the background with SIGINT ignored, the tests perhaps among it.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from metaqap_fast.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *command], stderr=subprocess.PIPE, text=True)
    deadline, jobs = time.monotonic() + 120, list[int]()
    while time.monotonic() < deadline and not jobs:
        jobs = [child.pid for child in idle.tree(process.pid) if b"bench.job" in _command_line(child.pid)]
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "interrupted" in err and "Traceback" not in err
    assert jobs and not any(b"bench.job" in _command_line(pid) for pid in jobs)
    result = cli("bench", "report", out)
    assert result.exit_code == 1 and "interrupted run" in result.stderr


# --- peers ---


def views_of(folder: Path, size: str = SIZE, count: int = 3) -> dict[str, Any]:
    return {"sources": [str(generate(folder, size, count))], "count": count, "engine": "auto", "device": "cpu"}


@pytest.mark.parametrize("peer", ["eager", "onnxruntime"])
@pytest.mark.parametrize("size", ["64x64", "200x150"])
def test_peers_do_the_same_job(peer: str, size: str, bundle: Path, tmp_path: Path) -> None:
    options = {**views_of(tmp_path, size), "model": str(bundle), "precision": "fp32"}
    ours, theirs = prepare("peer.ours", options), prepare(f"peer.{peer}", options)
    try:
        assert ours.run() == theirs.run() == 3
    finally:
        ours.close()
    difference = np.abs(np.subtract(ours.facts["scores"], theirs.facts["scores"])).max()
    assert difference < (1e-4 if size == SIZE else 0.02)  # Pillow's bicubic is not DALI's
    assert peer in (*theirs.facts["versions"], "eager")


@pytest.mark.nightly
def test_the_compiled_peer_does_the_same_job(bundle: Path, tmp_path: Path) -> None:
    options = {**views_of(tmp_path, "200x64"), "model": str(bundle), "precision": "fp32"}
    ours, theirs = prepare("peer.ours", options), prepare("peer.compiled", options)
    assert ours.run() == theirs.run() == 3
    ours.close()
    assert np.allclose(ours.facts["scores"], theirs.facts["scores"], atol=1e-4)


def test_a_peer_that_is_not_installed_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "brisque", None)
    with pytest.raises(NotInstalled, match="pip install 'brisque"):
        prepare("peer.measure", {"measure": "brisque"})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotInstalled, match="onnxruntime is not installed"):
        prepare("peer.onnxruntime", {"model": "default"})
