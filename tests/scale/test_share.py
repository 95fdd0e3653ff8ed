"""One of n shares of a source: none is lost, none is scored twice, and each stays where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metaqap_fast.input import open_sources
from metaqap_fast.input.files import File
from metaqap_fast.scale.share import Share


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_the_source_dealt_out(folder: Path, count: int) -> None:
    source = open_sources([folder])
    keys = [entry.key for entry in source]
    dealt = [[entry.key for entry in Share(source, i, count)] for i in range(count)]
    assert sorted(key for share in dealt for key in share) == sorted(keys)
    assert all(share == sorted(share, key=keys.index) for share in dealt)
    assert (Share(source, 0, count).sources, sum(Share(source, 0, count).left_out.values())) == ([str(folder)], 1)
    assert (Share(source, 0, count).roots, Share(source, 0, count).root) == ([folder.as_uri()], folder.as_uri())


def test_a_share_keeps_its_images_when_others_come_and_go() -> None:
    class Toy:
        sources, roots, root, left_out = ("toy",), (), "", {}

        def __init__(self, numbers: range) -> None:
            self.numbers = numbers

        def __iter__(self) -> Any:
            return (File(b"%d" % i, b"") for i in self.numbers)

    for i in range(4):
        before = {entry.key for entry in Share(Toy(range(1000, 3000)), i, 4)}  # type: ignore[arg-type]
        after = {entry.key for entry in Share(Toy(range(2000, 4000)), i, 4)}  # type: ignore[arg-type]
        middle = {b"%d" % n for n in range(2000, 3000)}
        assert before & middle == after & middle and 400 < len(before) < 600
