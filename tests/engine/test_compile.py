"""`metaqap-fast compile`: real engines into a folder, found again, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(("layout", "count"), [("merged", 1), ("members", 2)])
def test_engines_for_two_targets(cli: Any, bundle: Path, folder: Path, tmp_path: Path, layout: str, count: int) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the rtx extra is not installed: nothing is built")
    command = ["compile", bundle, "--engine", "tensorrt_rtx", "--precision", "fp32,fp16", "--target", "sm86,SM89"]
    command += ["--layout", layout, "--photos", folder, "-o", tmp_path / "out", "--batch", "4", "--json"]
    first = cli(*command)
    assert first.exit_code == 0, first.output
    documents = json.loads(first.stdout)
    assert len(documents) == 2 * 2 * count
    assert {document["key"]["gpu"] for document in documents} == {"sm86", "sm89"}
    stored = list((tmp_path / "out" / "engines").glob("*/*/engine.json"))
    assert len(stored) == len(documents)
    for path in stored:
        deviation = json.loads(path.read_text())["deviation"]
        assert deviation["images"] == str(folder) and deviation["count"] >= 8 and deviation["score_max"] < 1e-4
    assert "is there already" not in first.stderr
    assert cli(*command).stderr.count("is there already") == len(documents)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "fp16,fp12"], "unknown precision 'fp12'"),
        (["--precision", "auto"], "unknown precision 'auto'"),
        (["--target", "sm90", "--engine", "tensorrt_rtx"], "no target sm90"),
        (["--target", "sm89", "--precision", "int8", "--engine", "tensorrt_rtx"], "no ranges for int8"),
        (["--engine", "openvino", "--target", "sm89"], "leave out --target"),
        (["--target", "sm89", "--engine", "tensorrt"], "pip install 'metaqap-fast[tensorrt]'"),
        (["--target", "sm89", "--portable", "--engine", "tensorrt_rtx"], "makes no portable engines"),
    ],
)
def test_what_cannot_be_compiled(cli: Any, bundle: Path, options: list[str], words: str) -> None:
    if "tensorrt_rtx" in options:
        pytest.importorskip("tensorrt_rtx_bindings", reason="the rtx extra is not installed")
    result = cli("compile", bundle, *options)
    assert result.exit_code in (1, 2) and words in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_openvino_is_compiled_ahead(cli: Any, bundle: Path, tmp_path: Path) -> None:
    result = cli("compile", bundle, "--engine", "openvino", "--precision", "fp32", "-o", tmp_path / "out")
    assert result.exit_code == 0 and "compiled for cpu" in result.stderr and any((tmp_path / "out").iterdir())
