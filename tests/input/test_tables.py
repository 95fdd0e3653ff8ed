"""Images in parquet and arrow files: which column, which keys, nulls, damage, and no more memory than a batch."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input import open_sources, tables
from metaqap_fast.input.reading import read_all

JPEG = b"\xff\xd8\xff\xe0"
IMAGES: list[bytes | None] = [JPEG + bytes([i]) * (i * 991 % 3000) for i in range(100)]


def structs(images: Iterable[bytes | None]) -> Any:
    return pa.array([None if image is None else {"bytes": image, "path": "x.jpg"} for image in images])


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **{"row_group_size": 30, **options})
    return path


def arrow(path: Path, columns: dict[str, Any], batch: int = 7, file: bool = False) -> Path:
    table = pa.table(columns)
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


def rows(*sources: object, **options: str) -> dict[str, bytes | str]:
    read = list(read_all(open_sources([str(name) for name in sources], **options)))
    found = {each.key.decode(): each.error.reason if each.error else bytes(each.data) for each in read}
    assert len(found) == len(read)
    return found


def numbered(name: str) -> dict[str, bytes | None]:
    return {f"{name}/{i}": image for i, image in enumerate(IMAGES)}


@pytest.mark.parametrize(
    "column",
    [
        pa.array(IMAGES, pa.binary()),
        pa.array(IMAGES, pa.large_binary()),
        pa.array(IMAGES, pa.binary_view()),
        structs(IMAGES),
        pa.chunked_array([pa.array(IMAGES[:13]), pa.array(IMAGES[13:])]),
    ],
    ids=["binary", "large", "view", "struct", "chunks"],
)
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_columns_of_parquet(column: Any, compression: str, tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"n": range(100), "image": column}, compression=compression)
    assert rows(path) == numbered("a.parquet")


@pytest.mark.parametrize("column", [pa.array(IMAGES), structs(IMAGES)], ids=["binary", "struct"])
@pytest.mark.parametrize("file", [False, True])
def test_arrow_files(column: Any, file: bool, tmp_path: Path) -> None:
    path = arrow(tmp_path / "data-00000-of-00001.arrow", {"image": column}, file=file)
    assert rows(path) == numbered(path.name)


def test_keys_from_a_column(tmp_path: Path) -> None:
    for kind, write in (("parquet", parquet), ("arrow", arrow)):
        path = write(
            tmp_path / f"a.{kind}",
            {"id": ["x", "y", "x", None, "a/b.jpg", ""], "n": [3, 1, 2, 5, 5, 4], "i": IMAGES[:6]},
        )
        name = path.name
        assert list(rows(path, key="id")) == [
            f"{name}/{key}" for key in ("x", "y", "x#2", "3", "a/b.jpg", "5")
        ]  # fmt: skip
        assert list(rows(path, key="n")) == [f"{name}/{key}" for key in ("3", "1", "2", "5", "5#2", "4")]
        with pytest.raises(UsageError, match="no column 'name' for keys; there are: id, n, i"):
            rows(path, key="name")


def test_which_column_holds_images(tmp_path: Path) -> None:
    two = parquet(tmp_path / "two.parquet", {"a": pa.array(IMAGES), "b": pa.array(IMAGES[::-1])})
    assert rows(two, image="b")["two.parquet/0"] == IMAGES[-1]
    assert rows(two) == {"two.parquet": "parquet: several columns hold bytes, name one of them with --image: a, b"}
    assert "'c' is not one of its columns; bytes are in: a, b" in rows(two, image="c")["two.parquet"]
    mixed = parquet(tmp_path / "mixed.parquet", {"mask": pa.array(IMAGES[::-1]), "image": structs(IMAGES)})
    assert rows(mixed) == numbered("mixed.parquet")  # the struct is the image
    features = {"info": {"features": {"image": {"_type": "Image"}, "mask": {"_type": "Value"}}}}
    schema = pa.schema({"mask": pa.binary(), "image": pa.binary()}, metadata={"huggingface": json.dumps(features)})
    pq.write_table(pa.table({"mask": IMAGES[::-1], "image": IMAGES}, schema=schema), tmp_path / "said.parquet")
    assert rows(tmp_path / "said.parquet") == numbered("said.parquet")


def test_tables_without_images(tmp_path: Path) -> None:
    captions = parquet(tmp_path / "captions.parquet", {"url": ["a"], "text": ["b"]})
    assert rows(captions) == {
        "captions.parquet": "parquet: no column of images (bytes, or struct of bytes and path) among: url, text"
    }
    parquet(tmp_path / "images.parquet", {"image": pa.array(IMAGES)})
    source = open_sources([tmp_path])  # as img2dataset lays them out: beside the images, and not named
    assert len(list(source)) == 100 and source.left_out == {"table without images": 1}


def test_nulls_are_rows(tmp_path: Path) -> None:
    images = [None, IMAGES[1], None]
    expected = ["the row holds no image: it is null", IMAGES[1], "the row holds no image: it is null"]
    for column in (pa.array(images), structs(images), pa.array([{"bytes": b, "path": "a.jpg"} for b in images])):
        assert list(rows(parquet(tmp_path / "a.parquet", {"image": column})).values()) == expected
        assert list(rows(arrow(tmp_path / "a.arrow", {"image": column})).values()) == expected


def test_a_dataset_as_hugging_face_saves_it(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        for i in range(2):
            arrow(folder / f"data-0000{i}-of-00002.arrow", {"image": structs(IMAGES[:3]), "label": [1, 2, 3]})
        (folder / "state.json").write_text("{}")
        (folder / "dataset_info.json").write_text("{}")
        arrow(folder / "indices.arrow", {"indices": pa.array([2, 0], pa.uint64())})
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    found = rows(tmp_path / "saved")
    assert list(found)[:4] == ["test/data-00000-of-00002.arrow/" + n for n in "012"] + [
        "test/data-00001-of-00002.arrow/0"
    ]
    assert len(found) == 12


def test_a_damaged_page_costs_rows_not_the_run(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": pa.array(IMAGES)}, compression="zstd", row_group_size=25)
    content = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    found = rows(path)
    bad = [key for key, value in found.items() if isinstance(value, str)]
    assert bad == [f"a.parquet/{i}" for i in range(25, 50)] and "cannot be read there" in str(found["a.parquet/30"])
    entries = list(open_sources([path]))
    for row in (0, 60, 30, 99):  # as readers ask that are not at the same place
        (one,) = read_all([entries[row]])
        assert (one.error is not None) == (row == 30) and (row == 30 or one.data == IMAGES[row])
    path.write_bytes(content[:-100])
    assert list(rows(path)) == ["a.parquet"]


def test_rows_that_are_done_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": pa.array(IMAGES)}, row_group_size=10)
    entries = list(open_sources([path]))
    begun: list[int] = []
    real = tables._Pass
    monkeypatch.setattr(tables, "_Pass", lambda begin, row: begun.append(row) or real(begin, row))
    (found,) = read_all(entries[77:78])
    assert found.data == IMAGES[77] and begun == [77]
    assert [each.data for each in read_all(entries[50:])] == IMAGES[50:]
    assert len(begun) <= 3


def test_little_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row group of 40 MB, pages and batches of 1 MB."""
    images = [np.random.default_rng(i).bytes(100_000) for i in range(400)]
    path = parquet(tmp_path / "a.parquet", {"image": pa.array(images)}, row_group_size=400, write_batch_size=8)
    monkeypatch.setattr(tables, "BATCH", 1 << 20)
    monkeypatch.setattr(tables, "WINDOW", 4 << 20)
    before, most = pa.total_allocated_bytes(), 0
    for expected, found in zip(images, read_all(open_sources([path])), strict=True):
        assert found.data == expected
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 20 << 20


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": pa.array(IMAGES)})
    monkeypatch.setitem(sys.modules, "pyarrow.compute", None)
    with pytest.raises(MetaqapError, match=r"pip install 'metaqap-fast\[parquet\]'"):
        list(open_sources([path]))


def test_stamps_are_those_of_the_file(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": pa.array(IMAGES)})
    first = {entry.stamp().code for entry in open_sources([path])}
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(IMAGES)}), buffer)
    path.write_bytes(buffer.getvalue())
    assert len(first) == 1 and first != {entry.stamp().code for entry in open_sources([path])}
