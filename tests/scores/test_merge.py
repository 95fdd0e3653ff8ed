"""Files become one sequence, in the order of the keys, the newest row of each: whatever lies in which of them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from metaqap_fast.errors import Status
from metaqap_fast.records import key_order
from metaqap_fast.scores import merge
from metaqap_fast.scores.done import Done, KeySet
from metaqap_fast.scores.durable import save_scores
from metaqap_fast.scores.merge import chunks, merged
from metaqap_fast.scores.table import ScoreTable
from rows import a_row

ATTRIBUTES = {"members": ["a", "b"]}
KEYS = [b"a", b"a/b", b"a-b", b"a/b/c", b"a.jpg", b"b", b"b/\xff", b"", b"z\0"]  # a folder's files before its siblings


def save(path: Path, rows: dict[bytes, float]) -> Path:
    ordered = sorted(rows, key=key_order)
    save_scores(path, ATTRIBUTES, [ScoreTable.from_rows([a_row(key, rows[key]) for key in ordered], ATTRIBUTES)])
    return path


@pytest.mark.parametrize("seed", range(12))
def test_merged_is_what_a_dictionary_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Few rows in memory at once, whatever the files' number, overlap and order."""
    rng = random.Random(seed)
    monkeypatch.setattr(merge, "ROWS", rng.choice([1, 2, 3, 100]))
    paths, expected = [], {}
    for number in range(rng.randint(0, 5)):
        rows = {key: rng.random() for key in rng.sample(KEYS, rng.randint(0, len(KEYS)))}
        paths.append(save(tmp_path / f"{number}.h5", rows))
        expected.update(rows)
    tables = list(merged(paths))
    found = [(row.key, row.score) for table in tables for row in table]
    assert [key for key, _ in found] == sorted(expected, key=key_order)
    assert {key: score for key, score in found} == pytest.approx(expected)  # noqa: C416
    assert all(0 < len(table) < 2 * merge.ROWS for table in tables)


def test_files_that_do_not_overlap_are_open_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "ROWS", 2)
    paths = [save(tmp_path / f"{p}.h5", {b"%d%d" % (p, i): 0.5 for i in range(5)}) for p in range(3)]
    opened: list[str] = []
    original = merge.chunks
    monkeypatch.setattr(merge, "chunks", lambda path: opened.append(Path(path).stem) or original(path))
    counts = [len(opened) for _ in merged(paths)]
    assert opened == ["0", "1", "2"] and counts == [1, 1, 2, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(merge, "ROWS", 2)
    path = save(tmp_path / "s.h5", {b"%d" % i: 0.5 for i in range(count)})
    assert [len(table) for table in chunks(path)] == {0: [], 1: [1], 2: [2], 3: [2, 1], 4: [2, 2]}[count]
    assert [key for table in chunks(path) for key in table.keys] == [b"%d" % i for i in range(count)]


def test_what_is_done(tmp_path: Path) -> None:
    first = save(tmp_path / "a.h5", {b"1": 0.5})
    bad = [a_row(b"2", status=Status.corrupt), a_row(b"3", 0.25)]
    save_scores(tmp_path / "b.h5", ATTRIBUTES, [ScoreTable.from_rows(bad, ATTRIBUTES)])
    done = Done(merged([first, tmp_path / "b.h5"]))
    assert len(done) == 3 and b"1" in done and b"4" not in done and len(Done()) == 0
    places = [done.find(key) for key in (b"1", b"3")]
    assert done.status[places].tolist() == [0, 0] and done.score[places].tolist() == [0.5, 0.25]
    assert [done.need(key, 0) for key in (b"1", b"2", b"4")] == [None, None, "new"]
    assert [done.need(key, 0, retry_failed=True) for key in (b"1", b"2", b"4")] == [None, "failed", "new"]
    assert done.is_gone(b"3") and not done.is_gone(b"1") and not done.is_gone(b"4")


@pytest.mark.parametrize(
    ("then", "now", "status", "need"),
    [
        (7, 7, Status.ok, None), (7, 8, Status.ok, "changed"), (7, 8, Status.corrupt, "changed"),
        (0, 8, Status.ok, None),  # an older version has not kept what it saw
        (7, 0, Status.ok, None),  # it cannot be looked at now
        (0, 8, Status.unreadable, "changed"), (0, 0, Status.unreadable, None), (7, 7, Status.unreadable, None),
    ],
)  # fmt: skip
def test_what_has_changed_is_scored_again(then: int, now: int, status: Status, need: str | None) -> None:
    row = dataclasses.replace(a_row(b"k", status=status), seen=then)
    assert Done([ScoreTable.from_rows([row], ATTRIBUTES)]).need(b"k", now) == need


def test_a_key_set_knows_exactly_its_keys() -> None:
    keys = [b"%d.jpg" % i for i in range(3000)]  # a dozen of their digests end in a zero byte
    found = KeySet([*keys, *keys])
    assert len(found) == 3000 and all(key in found for key in keys)
    assert not any(b"x" + key in found for key in keys) and b"" not in KeySet()
    assert found._digests.nbytes == 16 * 3000
