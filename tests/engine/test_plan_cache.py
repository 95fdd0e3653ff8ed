"""The cache of plans: what its key is, whose plans are loaded, and that one process builds for all."""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metaqap_fast.engine.gpu import plan_cache as cache

pytestmark = pytest.mark.usefixtures("own_cache")

KEY = cache.Key("m", "merged", "fp16", "0" * 64, "tensorrt 11.4.0", "GPU sm89", 8, (("level", "None"),))


def saved(key: cache.Key = KEY, data: bytes = b"plan") -> Path:
    assert cache.save(key, data, {"deviation": {"score_max": 0.001}})
    return cache.root() / key.slot / key.digest[:32]


def test_an_engine_comes_back_with_its_metadata() -> None:
    assert cache.load(KEY) is None
    saved()
    found = cache.load(KEY)
    assert found is not None and found[0] == b"plan" and found[1]["deviation"] == {"score_max": 0.001}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"part": "a"},
        {"precision": "fp32"},
        {"graph": "1" * 64},
        {"library": "tensorrt 11.5.0"},
        {"gpu": "GPU sm90"},
        {"batch": 16},
        {"options": (("level", "5"),)},
    ],
)
def test_every_part_of_the_key_decides(change: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    saved()
    values = {**{name: getattr(KEY, name) for name in KEY.__slots__}, **change}
    with caplog.at_level(logging.WARNING):
        assert cache.load(cache.Key(**values)) is None
    same_purpose = not {"model", "part", "precision"} & set(change)
    assert ("made for another " + next(iter(change)) in caplog.text) == same_purpose
    assert cache.load(KEY) is not None


def test_only_this_user_can_reach_it() -> None:
    folder = saved()
    assert {oct(path.stat().st_mode & 0o777) for path in (cache.root(), folder)} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}


def damage(folder: Path) -> None:
    (folder / "engine.plan").write_bytes(b"plaN")


def open_up(folder: Path) -> None:
    (folder / "engine.plan").chmod(0o622)


def give_away(folder: Path) -> None:
    os.chown(folder / "engine.plan", 12345, 12345)


def link(folder: Path) -> None:
    (folder / "engine.plan").rename(folder / "other")
    (folder / "engine.plan").symlink_to("other")


def swap_key(folder: Path) -> None:
    document = json.loads((folder / "engine.json").read_text())
    document["key"]["gpu"] = "another"
    (folder / "engine.json").write_text(json.dumps(document))


def lose(folder: Path) -> None:
    (folder / "engine.plan").unlink()


def spoil(folder: Path) -> None:
    (folder / "engine.json").write_text("[1")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage, "is damaged: its sha256 differs"),
        (open_up, "can be written by others"),
        pytest.param(
            give_away, "belongs to another user", marks=pytest.mark.skipif(os.getuid() != 0, reason="needs root")
        ),
        (link, "Too many levels of symbolic links"),
        (swap_key, "was made for something else"),
        (lose, "No such file"),
        (spoil, "cannot be used"),
    ],
)
def test_what_is_not_ours_or_not_whole_is_never_loaded(harm: Any, words: str, caplog: pytest.LogCaptureFixture) -> None:
    harm(saved())
    with caplog.at_level(logging.WARNING):
        assert cache.load(KEY) is None
    assert words in caplog.text and "uilding it again" in caplog.text


def test_of_processes_that_start_together_one_builds(tmp_path: Path) -> None:
    code = """
import sys, time
from metaqap_fast.engine.gpu import plan_cache
with plan_cache.alone():
    print("in", flush=True)
    sys.stdin.read()
"""
    start = [sys.executable, "-c", code]
    first = subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "in\n"
    second = subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None and not select.select([second.stdout], [], [], 3)[0]
    first.kill()
    assert second.stdout.readline() == "in\n"
    for process in (first, second):
        process.communicate()
