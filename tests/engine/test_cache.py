"""Compiled models on disk: where, what happens where nothing can be written, and that harm to them harms no score."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command import COMMAND
from metaqap_fast.engine import cache, cpu, openvino_engine
from metaqap_fast.engine.openvino_engine import OpenVINOEngine
from metaqap_fast.errors import MetaqapError
from metaqap_fast.model import bundle as bundles

VARIABLES = ("METAQAP_FAST_CACHE", "XDG_CACHE_HOME", "HOME")
VIEW = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)


@pytest.fixture(autouse=True)
def _own(own_cache: None) -> None:
    cache._say_once.cache_clear()


def predicted(bundle: Path, precision: str = "fp32") -> bytes:
    engine = OpenVINOEngine(bundles.load(str(bundle)), precision)
    ((_, found),) = engine.predict([(0, VIEW)])
    engine.close()
    return found.tobytes()


def kept() -> list[Path]:
    return sorted(path for path in cache.location().rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("values", "place"),
    [
        (("/a", "/b", "/c"), "/a"),
        ((None, "/b", "/c"), "/b/metaqap-fast"),
        ((None, None, "/c"), "/c/.cache/metaqap-fast"),
        (("", "", "/c"), "/c/.cache/metaqap-fast"),
    ],
)
def test_where_it_is(values: tuple[str | None, ...], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert cache.location() == Path(place)


def test_the_second_start_compiles_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = predicted(bundle)
    (path,) = kept()
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700

    def compiled(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("compiled again")

    monkeypatch.setattr(openvino_engine, "merged", compiled)
    assert predicted(bundle) == first
    monkeypatch.setenv(cpu.VARIABLE, next(name for name in cpu.playable() if name != cpu.level()))
    with pytest.raises(AssertionError, match="compiled again"):  # what is kept is for this CPU
        predicted(bundle)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def sealed_but_senseless(path: Path) -> None:
    cache.save(str(path.relative_to(cache.location())), b"not a model")


def open_to_all(path: Path) -> None:
    path.chmod(0o666)


def a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARM = {
    flipped: "its sha256 differs",
    cut: "its sha256 differs",
    emptied: "its sha256 differs",
    sealed_but_senseless: "cannot be used",
    open_to_all: "can be written by others",
    a_link: "cannot be used",
    unreadable: "cannot be used",
}


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_harm_to_it_costs_a_compilation(
    harm: Callable[[Path], None], bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenVINO itself takes a file with changed bytes as it is, and gives other scores."""
    first = predicted(bundle)
    harm(kept()[0])
    with caplog.at_level(logging.WARNING):
        assert predicted(bundle) == first
    assert HARM[harm] in caplog.text and "ompiling it again" in caplog.text and caplog.text.count("\n") <= 2
    caplog.clear()
    assert predicted(bundle) == first
    assert not caplog.text or harm is unreadable  # what could be replaced was


@pytest.mark.parametrize("place", ["file/cache", "/proc/metaqap-fast", "/dev/null"])
def test_where_nothing_can_be_written_nothing_is_kept(
    place: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = predicted(bundle)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METAQAP_FAST_CACHE", os.path.join(tmp_path, place))
    with caplog.at_level(logging.WARNING):
        assert predicted(bundle) == predicted(bundle) == first
    assert caplog.text.count("compiled models are not kept") == caplog.text.count("\n") == 1
    assert os.path.join(tmp_path, place) in caplog.text
    with pytest.raises(MetaqapError, match="cannot write to the cache"):  # `compile` has nothing else to do
        cache.require()


def test_a_user_without_a_home(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)
    with caplog.at_level(logging.WARNING):
        predicted(bundle)
    assert "compiled models are not kept (Could not determine home directory.)" in caplog.text


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_run_needs_no_cache(variable: str, bundle: Path, folder: Path, tmp_path: Path) -> None:
    """The command line: a warning, once, and all rows."""
    (tmp_path / "file").write_text("")
    surroundings = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    arguments = ["score", folder, "--model", bundle, "--engine", "openvino", "-o", tmp_path / "s.h5", "--quiet"]
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120,
        env={**surroundings, variable: str(tmp_path / "file")},
    )  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "s.h5").exists()
    assert done.stderr.count("compiled models are not kept") == 1 and "Traceback" not in done.stderr


def test_two_runs_share_it(bundle: Path) -> None:
    """At the same time, from the first file on."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport test_cache, pathlib\n"
        "input()\nfor _ in range(3): print(test_cache.predicted(pathlib.Path(sys.argv[2])).hex())\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(bundle)]
    support = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    runs = [subprocess.Popen(command, text=True, env=support, **pipes) for _ in range(3)]
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    answers = [run.communicate(timeout=120) for run in runs]
    assert {line for out, _ in answers for line in out.split()} == {predicted(bundle).hex()}, answers
    assert [err for _, err in answers] == [""] * 3 and len(kept()) == 1
