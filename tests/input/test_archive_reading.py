"""How archives are read: hopped over, inflated once, in any order; names of any kind; stamps."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archives import JPEG, KINDS, as_tar, rows, written
from metaqap_fast.input import data as data_module
from metaqap_fast.input import inflate, members, open_sources
from metaqap_fast.input.data import LocalData
from metaqap_fast.input.reading import read_all

names = st.lists(st.text("abc/.é", min_size=1, max_size=130).map(lambda text: text.strip("/.") + ".jpg"), max_size=6)


@given(names.filter(lambda found: len(set(found)) == len(found)), st.sampled_from(["a.tar", "gnu.tar", "a.zip"]))
def test_any_names_come_back(tmp_path_factory: pytest.TempPathFactory, found: list[str], kind: str) -> None:
    files = {name: JPEG + name.encode() for name in found}
    path = written(tmp_path_factory.mktemp("names") / kind, KINDS[kind](files))
    kept = {name: data for name, data in files.items() if not any(part == ".git" for part in name.split("/"))}
    assert set(rows(path).values()) >= {data for name, data in kept.items() if "/." not in "/" + name}


@given(st.lists(st.tuples(st.integers(0, 70_000), st.integers(0, 9000)), max_size=30))
def test_any_order_of_reading_what_is_inflated(
    tmp_path_factory: pytest.TempPathFactory, reads: list[tuple[int, int]]
) -> None:
    content = np.random.default_rng(1).bytes(64_000)
    path = written(tmp_path_factory.mktemp("inflate") / "a.gz", gzip.compress(content, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inflate, "WINDOW", 8192)
        patch.setattr(inflate, "BLOCK", 1024)
        data = inflate.Inflated(LocalData(os.fsencode(path)), lambda file: gzip.GzipFile(fileobj=file))
        for offset, length in reads:
            assert data.read(offset, length) == content[offset : offset + length]
            assert len(data._passes) <= inflate.STREAMS


def test_a_listing_hops_over_what_it_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.tar", as_tar({f"{i}.jpg": JPEG + bytes(100_000) for i in range(20)}))
    asked: list[int] = []
    real = data_module._read
    monkeypatch.setattr(data_module, "_read", lambda fd, at, length: asked.append(length) or real(fd, at, length))
    entries = list(open_sources([path]))
    assert sum(asked) < 20_000
    asked.clear()
    for entry in entries[5:8]:  # the others have rows already
        entry.read(1 << 20, 1 << 20)
    assert asked == [100_004] * 3


def test_a_tar_that_passes_by_is_inflated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(
        tmp_path / "a.tar.gz", gzip.compress(as_tar({f"{i}.jpg": bytes([i]) * 50_000 for i in range(200)}), 1)
    )
    monkeypatch.setattr(inflate, "WINDOW", 4 << 20)
    begun: list[object] = []
    real = inflate._Pass
    monkeypatch.setattr(inflate, "_Pass", lambda *args: begun.append(args) or real(*args))
    assert sum(len(each.data) for each in read_all(open_sources([path]))) == 10_000_000
    assert len(begun) == 1
    assert sum(len(each.data) for each in read_all(list(open_sources([path])))) == 10_000_000
    assert len(begun) == 3  # one for the listing, one for the reading: neither sets the other back


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_member_of_more_than_8_gb_is_hopped_over(form: int, tmp_path: Path) -> None:
    large, small = tarfile.TarInfo("1.jpg"), tarfile.TarInfo("2.jpg")
    large.size, small.size = 9 << 30, len(JPEG)
    with open(tmp_path / "a.tar", "wb") as file:  # most of it is a hole
        file.write(large.tobuf(form))
        file.seek(large.size, os.SEEK_CUR)
        file.write(small.tobuf(form) + JPEG + bytes(508 + 1024))
    assert rows(tmp_path / "a.tar") == {"1.jpg": f"{9 << 30} bytes, over the limit of {1 << 29}", "2.jpg": JPEG}


def test_stamps_change_with_what_they_stand_for(tmp_path: Path) -> None:
    def stamps(name: str, files: dict[str, bytes], time: int) -> list[int]:
        written(tmp_path / name, KINDS[name](files))
        os.utime(tmp_path / name, ns=(time, time))
        return [entry.stamp().code for entry in open_sources([tmp_path / name])]

    files, other = {"1.jpg": JPEG, "2.jpg": JPEG + b"x"}, {"1.jpg": JPEG, "2.jpg": JPEG + b"y"}
    assert stamps("a.tar", files, 5) == stamps("a.tar", files, 5)
    assert not set(stamps("a.tar", files, 5)) & set(stamps("a.tar", other, 6))  # who knows which has changed
    before, after = stamps("a.zip", files, 5), stamps("a.zip", other, 6)
    assert before[0] == after[0] and before[1] != after[1]  # a zip knows


def test_a_million_names_are_told_apart_in_little_memory() -> None:
    seen = members._Digests()
    seen.RUN = 64
    assert all(seen.add(b"%d" % i) for i in range(5000))
    assert not any(seen.add(b"%d" % i) for i in range(0, 5000, 7))
    assert len(seen._runs) <= 8 and all(run.dtype == np.uint64 for run in seen._runs)
