"""What a score file can hold, and what of other versions' files is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from metaqap_fast.errors import MetaqapError, Status
from metaqap_fast.records import HASH, SEEN
from metaqap_fast.scores.export import export
from metaqap_fast.scores.table import ScoreTable
from rows import a_row

ATTRIBUTES = {"members": ["a", "b"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A score file of three rows."""
    ScoreTable.from_rows([a_row(b"%d" % i, i / 10) for i in range(3)], ATTRIBUTES).save(tmp_path / "s.h5")
    return tmp_path / "s.h5"


def test_datasets_and_what_stands_beside_them(path: Path) -> None:
    with h5py.File(path) as file:
        g = file["scores"]
        assert {name: (str(g[name].dtype), g[name].shape, g[name].chunks, dict(g[name].attrs)) for name in g} == {
            "path": ("object", (3,), (4096,), {}),
            "path_raw": ("object", (3,), (4096,), {}),
            "score": ("float32", (3,), (4096,), {"range": "0 worst to 1 best, NaN where status is not ok"}),
            "uncertainty": ("float32", (3,), (4096,), {"meaning": "one standard deviation, in the units of the score"}),
            "members": ("float32", (3, 2), (4096, 2), {}),
            "status": ("uint8", (3,), (4096,), {"values": json.dumps({s.name: s.value for s in Status})}),
            "error": ("object", (3,), (4096,), {}),
            "width": ("uint32", (3,), (4096,), {}),
            "height": ("uint32", (3,), (4096,), {}),
            "bytes": ("uint64", (3,), (4096,), {}),
            "note": (
                "object",
                (3,),
                (4096,),
                {"meaning": "what a reader of the score should know, such as 'the first of 3 pictures'"},
            ),
            "seen": ("uint64", (3,), (4096,), {"meaning": SEEN}),
            "hash": ("uint64", (3,), (4096,), {"meaning": HASH}),
        }
        assert {g[name].maxshape[0] for name in g} == {None}
        assert h5py.check_enum_dtype(g["status"].dtype) == {s.name: s.value for s in Status}
        assert h5py.check_vlen_dtype(g["path_raw"].dtype) == np.uint8
        assert all(h5py.check_string_dtype(g[name].dtype).encoding == "utf-8" for name in ("path", "error"))
        assert list(file.attrs) == ["format", "format_version", "members"]


KEYS = [b"plain", b"caf\xe9", b"zero\0byte", b"\xff and \0", rb"looks like \x00", "über".encode(), b"", b"line\nbreak"]


def test_keys_of_any_bytes(tmp_path: Path) -> None:
    table = ScoreTable.from_rows([a_row(key, error=repr(key)) for key in KEYS], ATTRIBUTES)
    table.save(tmp_path / "s.h5")
    assert ScoreTable.read(tmp_path / "s.h5").keys == KEYS
    with h5py.File(tmp_path / "s.h5") as file:
        raw = [bytes(value) for value in file["scores/path_raw"][:]]
        assert raw == [b"", b"caf\xe9", b"zero\0byte", b"\xff and \0", b"", b"", b"", b""]
        assert [bytes(value) for value in file["scores/path"][:5]] == [
            b"plain", b"caf\xe9", rb"zero\x00byte", rb"\xff and \x00", rb"looks like \x00",
        ]  # fmt: skip
    export(tmp_path / "s.h5", tmp_path / "s.jsonl")
    shown = [json.loads(line)["path"] for line in (tmp_path / "s.jsonl").read_bytes().splitlines()]
    assert shown[:5] == ["plain", r"caf\xe9", r"zero\x00byte", r"\xff and \x00", r"looks like \x00"]
    assert shown[5:] == ["über", "", "line\nbreak"]


TEXTS = ["plain", "\udcff", "zero\0", "\ud800", "über", ""]
ESCAPED = ["plain", r"\xff", r"zero\x00", r"\ud800", "über", ""]


def test_texts_that_hdf5_cannot_hold_are_escaped(tmp_path: Path) -> None:
    """In rows and in attributes: by the time a row is written, it has cost its scoring."""
    attributes = {**ATTRIBUTES, "source": TEXTS, "one": "photos\udcff", "members": ["a\0", "\udcff"]}
    ScoreTable.from_rows([a_row(b"k", error=text) for text in TEXTS], attributes).save(tmp_path / "s.h5")
    read = ScoreTable.read(tmp_path / "s.h5")
    assert read.error == ESCAPED == read.attributes["source"]
    assert read.attributes["one"] == r"photos\xff" and read.attributes["members"] == [r"a\x00", r"\xff"]


LONG = {"names": [f"photos/{i:09d}.jpg" for i in range(20_000)], "numbers": [0.5] * 20_000, "text": "x" * 200_000}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_attributes_of_any_length(tmp_path: Path, value: Any) -> None:
    """HDF5's own limit is 64 kB, of a whole command line of *.jpg."""
    ScoreTable.from_rows([a_row(b"k")], {**ATTRIBUTES, "long": value}).save(tmp_path / "s.h5")
    assert ScoreTable.read(tmp_path / "s.h5").attributes["long"] == value
    assert (tmp_path / "s.h5").read_bytes()[8] == 2  # superblock of HDF5 1.8: what later libraries all read


@pytest.mark.parametrize(("version", "minor"), [(1, None), (1, 7), (2, 0), (2, 7)])
def test_newer_minor_versions_are_read(path: Path, version: int, minor: int | None) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = version
        if minor is not None:
            file.attrs["format_minor"] = minor
        file["scores/later"] = np.zeros((3, 2, 2))
        file["other"] = 1
    read = ScoreTable.read(path)
    assert read.keys == [b"0", b"1", b"2"] and not hasattr(read, "later")


@pytest.mark.parametrize("version", [0, 3, "1", 1.5, [1]])
def test_other_versions_are_not(path: Path, version: Any) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = version
    with pytest.raises(MetaqapError, match=r"has score format .*; this program reads 1 and 2"):
        ScoreTable.read(path)


def put(name: str, values: Any, **options: Any) -> Any:
    def change(file: h5py.File) -> None:
        del file["scores"][name]
        if values is not None:
            file["scores"].create_dataset(name, data=values, **options)

    return change


def attribute(name: str, value: Any) -> Any:
    def change(file: h5py.File) -> None:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    return change


def unwritten(file: h5py.File) -> None:
    """Rows that take no room on the disk, which a damaged file may claim to have by the billion."""
    for name in list(file["scores"]):
        dtype, shape = file["scores"][name].dtype, file["scores"][name].shape
        del file["scores"][name]
        file["scores"].create_dataset(name, (1 << 40, *shape[1:]), dtype, chunks=True)


def half_written(file: h5py.File) -> None:
    """As after a crash: room was made for three rows, and one was written."""
    del file["scores/score"]
    file["scores"].create_dataset("score", (3,), "f4", chunks=(1,))[0] = 0.5


DAMAGE = {
    "half written": (half_written, "score is not what it should be"),
    "score missing": (put("score", None), "score"),
    "status missing": (put("status", None), "status"),
    "path missing": (put("path", None), "path"),
    "double": (put("score", np.zeros(3)), "score is not what it should be"),
    "short": (put("width", np.zeros(2, "u4")), "width is not what it should be"),
    "two-dimensional": (put("height", np.zeros((3, 1), "u4")), "height is not what it should be"),
    "one member": (put("members", np.zeros((3, 1), "f4")), "members is not what it should be"),
    "narrow": (put("members", np.zeros(3, "f4")), "members is not what it should be"),
    "numbers for texts": (put("error", np.zeros(3)), "error is not what it should be"),
    "texts for numbers": (put("bytes", ["a", "b", "c"]), "bytes is not what it should be"),
    "no such status": (put("status", np.array([0, 200, 0], "u1")), "status has a value out of range"),
    "no members": (attribute("members", None), "members"),
    "members are numbers": (attribute("members", [1, 2]), "members is not a list of names"),
    "three members": (attribute("members", ["a", "b", "c"]), "members is not what it should be"),
    "never written": (unwritten, "is not what it should be"),
    "no group": (lambda file: file.move("scores", "x"), "not a score file"),
    "not ours": (attribute("format", "other"), "not a score file"),
    "a group for a column": (lambda file: (put("score", None)(file), file["scores"].create_group("score")), "damaged"),
}


@pytest.mark.parametrize(("change", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_not_as_it_should_be_is_named(path: Path, change: Any, expected: str) -> None:
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(MetaqapError, match=rf"s\.h5 .*{expected}"):
        ScoreTable.read(path)
