"""Rows are never lost: parts, resume, merge, and two runs on one output."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from metaqap_fast.errors import MetaqapError, Status, UsageError
from metaqap_fast.scores.store import Store
from metaqap_fast.scores.table import ScoreTable
from rows import ATTRIBUTES, a_row, rows, store_rows


def test_round_trip(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    bad = a_row(b"caf\xe9 \xff.jpg", status=Status.corrupt, error="because \u00fc")
    store_rows(out, [*rows(*range(7)), bad])
    table = ScoreTable.read(out)
    assert table.keys == [*(row.key for row in rows(*range(7))), bad.key]
    assert table.error[-1] == "because \u00fc" and table.status[-1] == Status.corrupt and np.isnan(table.score[-1])
    assert os.fsencode(table.paths[-1]) == bad.key
    with h5py.File(out) as file:
        g = file["scores"]
        assert {name: g[name].dtype for name in ("score", "uncertainty", "members")} == dict.fromkeys(
            ("score", "uncertainty", "members"), np.dtype("f4")
        )
        assert h5py.check_enum_dtype(g["status"].dtype) == {s.name: s.value for s in Status}
        assert bytes(g["path_raw"][7]) == bad.key and len(g["path_raw"][0]) == 0
        assert file.attrs["format"] == "metaqap-scores" and file.attrs["created"].endswith("+00:00")
    assert not list(tmp_path.glob("*.parts"))


def test_rows_are_merged_in_the_order_of_their_keys(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    store_rows(out, rows(5, 1, 9, 0, 3, 8, 2), per_part=2)
    assert ScoreTable.read(out).keys == [row.key for row in rows(0, 1, 2, 3, 5, 8, 9)]


def test_resume_keeps_committed_rows_and_gives_the_same_file(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.h5", tmp_path / "cut.h5"
    store_rows(whole, rows(*range(10)))
    store_rows(cut, rows(*range(8)), finish=False)  # two parts of three rows; two rows were never committed
    store = store_rows(cut, rows(*range(10)), mode="resume")
    assert len(store.done) == 6
    a, b = ScoreTable.read(whole), ScoreTable.read(cut)
    assert a.keys == b.keys and np.array_equal(a.score, b.score) and np.array_equal(a.members, b.members)


def test_resume_of_a_finished_output_adds_what_is_new(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    store_rows(out, rows(1, 3))
    store_rows(out, rows(0, 1, 2, 3), mode="resume")
    assert ScoreTable.read(out).keys == [row.key for row in rows(0, 1, 2, 3)]


def test_nothing_is_overwritten_unless_told(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    store_rows(out, rows(1))
    with pytest.raises(UsageError, match="exists"):
        store_rows(out, rows(2))
    assert ScoreTable.read(out).keys == [b"001.jpg"]
    store_rows(out, rows(2), mode="overwrite")
    assert ScoreTable.read(out).keys == [b"002.jpg"]
    store_rows(tmp_path / "t.h5", rows(1, 2, 3), finish=False)
    with pytest.raises(UsageError, match="interrupted run"):
        store_rows(tmp_path / "t.h5", rows(1))
    store_rows(tmp_path / "t.h5", rows(7), mode="overwrite")
    assert ScoreTable.read(tmp_path / "t.h5").keys == [b"007.jpg"]


def test_a_damaged_part_is_found_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "s.h5"
    store_rows(out, rows(*range(6)), finish=False)
    part = sorted((tmp_path / "s.h5.parts").glob("part-*.h5"))[0]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 0xFF
    part.write_bytes(bytes(data))
    store = Store(out, ATTRIBUTES, "resume")
    assert [row.key in store.done for row in rows(*range(6))] == [False] * 3 + [True] * 3
    assert f"{part} is damaged: its rows are scored again" in caplog.text
    store.close()
    store_rows(out, rows(*range(6)), mode="resume")
    assert ScoreTable.read(out).keys == [row.key for row in rows(*range(6))]


def test_a_damaged_part_is_passed_over_and_its_number_not_given_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "s.h5"
    store_rows(out, rows(*range(9)), finish=False)
    first, _, last = sorted((tmp_path / "s.h5.parts").glob("part-*.h5"))
    for part in (first, last):
        part.rename(part.with_suffix(".damaged"))  # as an earlier resume has left them
    store = Store(out, ATTRIBUTES, "resume")
    assert [row.key in store.done for row in rows(*range(9))] == [False] * 3 + [True] * 3 + [False] * 3
    store.add(a_row(b"x"))
    store.commit()
    names = sorted(path.name[:11] + path.suffix for path in store.parts.glob("part-*"))
    assert names == ["part-000000.damaged", "part-000001.h5", "part-000002.damaged", "part-000003.h5"]
    assert not caplog.records
    store.finish()
    assert len(ScoreTable.read(out)) == 4


def test_half_a_part_is_no_part(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    store_rows(out, rows(*range(3)), finish=False)
    (tmp_path / "s.h5.parts" / "writing-0.tmp").write_bytes(b"half")
    store_rows(out, rows(*range(5)), mode="resume")
    assert len(ScoreTable.read(out)) == 5


def test_second_run_on_one_output_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    first = Store(out, ATTRIBUTES)
    code = (
        "import sys; from metaqap_fast.scores.store import Store; from metaqap_fast.errors import UsageError\n"
        f"try: Store({str(out)!r}, {ATTRIBUTES!r})\n"
        "except UsageError as e: sys.exit(str(e))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"another run (process {os.getpid()})" in result.stderr
    for row in rows(1):
        first.add(row)
    first.finish()
    assert len(ScoreTable.read(out)) == 1


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        Store(tmp_path, ATTRIBUTES)
    with pytest.raises(UsageError, match="does not exist"):
        Store(tmp_path / "no" / "s.h5", ATTRIBUTES)


def test_a_failed_write_keeps_earlier_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.h5"
    store = Store(out, ATTRIBUTES, rows_per_part=2)
    for row in rows(1, 2):
        store.add(row)

    with monkeypatch.context() as patch:
        patch.setattr("metaqap_fast.scores.durable.append_rows", full_disk)
        store.add(a_row(b"003.jpg"))
        with pytest.raises(MetaqapError, match="No space left"):
            store.commit()
    store.close()
    store_rows(out, rows(1, 2, 3), mode="resume")
    assert len(ScoreTable.read(out)) == 3


def test_files_that_are_no_score_files(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    for name in ("text.h5", "other.h5"):
        with pytest.raises(MetaqapError, match=name):
            ScoreTable.read(tmp_path / name)
    with pytest.raises(UsageError, match="no such file"):
        ScoreTable.read(tmp_path / "missing.h5")
    store_rows(tmp_path / "new.h5", rows(1))
    with h5py.File(tmp_path / "new.h5", "a") as file:
        file.attrs["format_version"] = 9
    with pytest.raises(MetaqapError, match="format 9"):
        ScoreTable.read(tmp_path / "new.h5")


def test_rows_that_were_there_are_replaced_by_newer_ones(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    bad = a_row(b"001.jpg", status=Status.unreadable, error="gone")
    store_rows(out, [*rows(0), bad, *rows(2)])
    store = Store(out, ATTRIBUTES, "resume")
    assert store.totals.failures == {"unreadable": 1} and store.totals.scored == 2
    store.add(a_row(b"001.jpg", score=0.9))
    store.finish()
    table = ScoreTable.read(out)
    assert table.keys == [b"000.jpg", b"001.jpg", b"002.jpg"] and table.ok.all() and table.score[1] == np.float32(0.9)


def test_a_single_part_becomes_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not written again; it is the file that a merge gives; and it is not lost where it cannot be renamed."""
    store_rows(tmp_path / "merged.h5", rows(*range(8)))
    out = tmp_path / "s.h5"
    store = Store(out, ATTRIBUTES)
    for row in rows(*range(8)):
        store.add(row)
    store.commit()
    monkeypatch.setattr("metaqap_fast.scores.store.write_table_file", None)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(MetaqapError, match="cannot write"):
            store.finish()
    assert len(list(store.parts.glob("part-*.h5"))) == 1
    store.finish()
    assert not store.parts.exists()
    assert contents(out) == contents(tmp_path / "merged.h5")


def contents(path: Path) -> dict[str, object]:
    found: dict[str, object] = {}

    def take(name: str, node: h5py.Group | h5py.Dataset) -> None:
        data = [node.dtype, node.chunks, repr(node[:].tolist())] if isinstance(node, h5py.Dataset) else []
        found[name] = [sorted(set(node.attrs) - {"created"}), *data]

    with h5py.File(path) as file:
        found[""] = sorted(file.attrs)
        file.visititems(take)
    return found


def test_parts_that_are_gone_are_not_merged_without(tmp_path: Path) -> None:
    store = store_rows(tmp_path / "s.h5", rows(1, 2, 3), finish=False)
    shutil.rmtree(store.parts)
    with pytest.raises(
        MetaqapError, match=r"s\.h5: part-.* has been damaged or removed .*; .*s\.h5\.parts was removed while"
    ):
        store.finish()


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")
