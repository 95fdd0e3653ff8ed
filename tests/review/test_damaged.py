"""A stranger's score file that is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from metaqap_fast.cli import main

Scored = Callable[..., Path]


@pytest.mark.parametrize("command", [["select", "--worst", "1"], ["report"], ["compare", "{}"]])
def test_a_damaged_file_is_one_line(scored: Scored, tmp_path: Path, command: list[str]) -> None:
    scores = scored({"a.jpg": 0.1})
    data = scores.read_bytes()
    scores.write_bytes(data[: len(data) // 2])
    result = CliRunner().invoke(main, [command[0], str(scores), *(word.format(scores) for word in command[1:])])
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert str(scores) in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "scores.h5"]
