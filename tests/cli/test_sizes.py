"""Options that are more than a number."""

from __future__ import annotations

from typing import Any

import click
import pytest

from metaqap_fast.cli.shared import BatchSize, Bytes, needs, written
from metaqap_fast.errors import MetaqapError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1), ("4294967296", 1 << 32), ("4GiB", 1 << 32), ("4 gib", 1 << 32), ("512MiB", 1 << 29), ("1.5kB", 1500),
        ("2KiB", 2048), ("3MB", 3_000_000), ("1tb", 10**12), ("1TiB", 1 << 40), ("7B", 7), (123, 123), ("0.5KiB", 512),
    ],
)  # fmt: skip
def test_sizes(text: Any, size: int) -> None:
    assert Bytes().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "4G", "GiB", "4GiBs", "1e9", "0.2B", "4,5GB", "nan", "٤GiB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size: give a number of bytes, or one with a unit"):
        Bytes().convert(text, None, None)


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1"), (1000, "1000"), (1024, "1KiB"), (1 << 29, "512MiB"), (1 << 32, "4GiB"), (3 << 40, "3TiB")],
)
def test_a_size_is_written_as_it_is_read(size: int, text: str) -> None:
    assert written(size) == text and Bytes().convert(text, None, None) == size


def test_batch_sizes() -> None:
    assert [BatchSize().convert(value, None, None) for value in ("auto", "1", 64)] == [None, 1, 64]
    for text in ("0", "-1", "x", "1.5", "²"):
        with pytest.raises(click.BadParameter, match="neither auto nor a positive number"):
            BatchSize().convert(text, None, None)


@pytest.mark.parametrize("name", ["torch", "metaqap_fast.nonsense", None])
def test_a_missing_module_is_an_extra_unless_it_is_ours(name: str | None) -> None:
    group: Any = needs("train")("teach")

    @group.command()
    def fit() -> None:
        raise ModuleNotFoundError("No module named 'x'", name=name)

    ours = name is not None and name.startswith("metaqap_fast")
    with pytest.raises(ModuleNotFoundError if ours else MetaqapError) as caught:
        group.main(["fit"], standalone_mode=False)
    if not ours:
        words = "teach needs more packages: pip install 'metaqap-fast[train]' (No module named 'x')"
        assert str(caught.value) == words
