"""Files become one sequence, in the order of the keys, the newest row of each: whatever lies in which of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from metaqap_fast.errors import Status
from metaqap_fast.records import key_order
from metaqap_fast.scores import merge
from metaqap_fast.scores.durable import save_scores
from metaqap_fast.scores.merge import KeySet, chunks, keys_in, merged
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
    assert opened == ["0", "1", "2"] and counts == [1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(merge, "ROWS", 2)
    path = save(tmp_path / "s.h5", {b"%d" % i: 0.5 for i in range(count)})
    assert [len(table) for table in chunks(path)] == {0: [], 1: [1], 2: [2], 3: [2, 1], 4: [2, 2]}[count]
    assert [key for table in chunks(path) for key in table.keys] == [b"%d" % i for i in range(count)]


def test_keys_of_several_files(tmp_path: Path) -> None:
    first = save(tmp_path / "a.h5", {b"1": 0.5})
    bad = [a_row(b"2", status=Status.corrupt), a_row(b"3")]
    save_scores(tmp_path / "b.h5", ATTRIBUTES, [ScoreTable.from_rows(bad, ATTRIBUTES)])
    paths = [first, tmp_path / "b.h5"]
    assert list(keys_in(paths)) == [b"1", b"2", b"3"] and list(keys_in(paths, failed=False)) == [b"1", b"3"]


def test_a_key_set_knows_exactly_its_keys() -> None:
    keys = [b"%d.jpg" % i for i in range(3000)]  # a dozen of their digests end in a zero byte
    found = KeySet([*keys, *keys])
    assert len(found) == 3000 and all(key in found for key in keys)
    assert not any(b"x" + key in found for key in keys) and b"" not in KeySet()
    assert found._digests.nbytes == 16 * 3000
