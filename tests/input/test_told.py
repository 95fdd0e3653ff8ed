"""Entries that another process reads: told in JSON, they give the same bytes and stamps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import fsspec
import pytest

from archives import FILES, JPEG, as_tar, as_zip
from metaqap_fast.errors import UsageError
from metaqap_fast.input import open_sources
from metaqap_fast.input.members import Broken
from metaqap_fast.input.reading import read_bytes
from metaqap_fast.input.told import heard, told


def test_what_is_told_is_what_is_heard(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(as_tar(FILES))
    (tmp_path / "b.zip").write_bytes(as_zip(FILES))
    (tmp_path / "caf\udce9.jpg").write_bytes(JPEG)
    (tmp_path / "cut.tar").write_bytes(as_tar(FILES)[:5000])
    fsspec.filesystem("memory").pipe("/told/x.jpg", JPEG)
    entries = list(open_sources([tmp_path, "memory://told/x.jpg"]))
    again = [heard(json.loads(json.dumps(told(entry)))) for entry in entries]
    assert len(again) > 120 and any(isinstance(entry, Broken) for entry in again)
    for before, after in zip(entries, again, strict=True):
        assert after.key == before.key and after.stamp() == before.stamp() and type(after) is type(before)
        one, two = read_bytes(before), read_bytes(after)
        assert one.data == two.data and str(one.error) == str(two.error)


def test_an_archive_that_changed_is_not_read_by_old_places(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(as_tar(FILES))
    values = [told(entry) for entry in open_sources([path])]
    path.write_bytes(as_tar({"other.jpg": JPEG}))
    assert {str(read_bytes(heard(each)).error) for each in values} == {"the archive has changed since it was listed"}


def test_what_has_to_be_read_in_order_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(as_tar(FILES)))
    for entry in open_sources([tmp_path / "a.tar.gz"]):
        with pytest.raises(UsageError, match=r"a\.tar\.gz/.* one process has to read in order: .* --shard"):
            told(entry)
