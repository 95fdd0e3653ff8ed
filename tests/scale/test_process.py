"""One of several processes: it asks, scores, commits, and says so, with a scorer made up for the test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import crash
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.scale import process
from metaqap_fast.scores.table import ScoreTable


class Parent:
    """Answers from a list; what it is told is kept."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.told = deque(answers), list[dict[str, Any]]()

    def tell(self, **message: Any) -> None:
        self.told.append(message)

    def ask(self) -> Any:
        if not self.answers:
            raise MetaqapError("the process that started this one is gone")
        return self.answers.popleft()

    def words(self) -> list[str]:
        return [next(iter(message)) for message in self.told]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Scorers that were made, each with its options; "fail" is one that cannot be."""
    found: list[Any] = []

    class Fake(crash.FakeScorer):
        engine = SimpleNamespace(name="e", reason="r", precision="fp32", device="cpu: fake")
        bundle = SimpleNamespace(name="b", members=[1, 2])
        views, closed = "fit", False

        def __init__(self, **options: Any) -> None:
            super().__init__(pause=0)
            if options.get("model") == "fail":
                raise UsageError("unknown model 'fail'")
            self.options = options
            self.bundle.view_size = 64
            found.append(self)

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr("metaqap_fast.scorer.Scorer", Fake)
    return found


@pytest.fixture
def where(tmp_path: Path) -> dict[str, Any]:
    return {
        "folder": str(tmp_path), "attributes": crash.FakeScorer().describe(), "number": 7, "rows_per_part": 4
    }  # fmt: skip


ORDER = {"options": {"model": "m", "device": "cpu"}, "cores": None}
BLOCKS = [
    [["file", f"{i}.jpg", f"/photos/{i}.jpg"] for i in range(5)],
    [["file", "\udcff.jpg", "/photos/\udcff.jpg"]],
    [],
]


def test_a_process_from_its_order_to_its_last_word(made: list[Any], where: dict[str, Any], tmp_path: Path) -> None:
    parent = Parent(ORDER, dict(where), *BLOCKS)
    process._score(parent)  # type: ignore[arg-type]
    (scorer,) = made
    assert scorer.options == ORDER["options"] and scorer.closed
    assert parent.told[0]["ready"] == scorer.describe() and parent.told[0]["about"]["device"] == "cpu: fake"
    assert parent.words().count("more") == 3 and parent.words()[1] == "more"
    names = [message["part"] for message in parent.told if "part" in message]
    assert [name[:12] for name in names] == ["part-000007-", "part-000008-"]
    rows = [key for name in names for key in ScoreTable.read(tmp_path / name).keys]
    assert rows == [b"0.jpg", b"1.jpg", b"2.jpg", b"3.jpg", b"4.jpg", b"\xff.jpg"]
    assert parent.told[-1]["finished"] is True and sum(parent.told[-1]["counts"]["statuses"].values()) == 6
    assert parent.words().index("part") < len(parent.told) - 1  # what is counted at the end is on disk
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_counts_are_told_now_and_then(made: list[Any], where: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(process.time, "monotonic", lambda: now[0])
    real = crash.FakeScorer.stream

    def stream(self: Any, entries: Any, trace: Any = None) -> Any:
        for row in real(self, entries):
            yield row
            now[0] += 0.2

    monkeypatch.setattr("metaqap_fast.scorer.Scorer.stream", stream)
    parent = Parent(ORDER, where, [["file", f"{i}", f"{i}"] for i in range(10)], [])
    process._score(parent)  # type: ignore[arg-type]
    counts = [sum(message["counts"]["statuses"].values()) for message in parent.told if "counts" in message]
    assert counts == [1, 4, 7, 10, 10]  # every half a second, and at the end


def test_its_share_of_the_cores(made: list[Any], where: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda *arguments: asked.append(arguments))
    process._score(Parent({**ORDER, "cores": [2, 3]}, dict(where), []))  # type: ignore[arg-type]
    process._score(Parent(ORDER, dict(where), []))  # type: ignore[arg-type]
    assert asked == [(0, [2, 3])]


def test_without_its_parent_it_commits_and_ends(made: list[Any], where: dict[str, Any], tmp_path: Path) -> None:
    parent = Parent(ORDER, where, BLOCKS[0])
    with pytest.raises(MetaqapError, match="the process that started this one is gone"):
        process._score(parent)  # type: ignore[arg-type]
    assert (
        len(
            crash.committed(tmp_path / "x.h5")
            | {k for p in tmp_path.glob("part-*.h5") for k in ScoreTable.read(p).keys}
        )
        == 5
    )
    assert "finished" not in parent.words()


def test_a_folder_that_cannot_be_written(made: list[Any], where: dict[str, Any], tmp_path: Path) -> None:
    where["folder"] = str(tmp_path / "gone")
    parent = Parent(ORDER, where, *BLOCKS)
    with pytest.raises(MetaqapError, match=r"cannot write .*/gone: No such file or directory"):
        process._score(parent)  # type: ignore[arg-type]
    assert "more" not in parent.words()


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Statuses that the process has left with; it goes on here."""

    class Left(BaseException):
        pass

    found: list[int] = []

    def leave(status: int) -> None:
        found.append(status)
        raise Left

    monkeypatch.setattr(process.signals, "leave", leave)
    monkeypatch.setattr(process.streams, "guard", lambda: None)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(process, "Left", Left, raising=False)
    return found


@pytest.mark.parametrize(
    ("raised", "told", "status"),
    [
        (None, [], 0),
        (UsageError("no such device"), [{"error": "no such device", "exit_code": 2}], 2),
        (MetaqapError("a full disk"), [{"error": "a full disk", "exit_code": 1}], 1),
        (KeyboardInterrupt(), [], 130),
        (SystemExit(143), [], 143),
    ],
)
def test_it_always_leaves_at_once(
    left: list[int], monkeypatch: pytest.MonkeyPatch, raised: BaseException | None, told: list[Any], status: int
) -> None:
    parent = Parent()

    def score(_: Any) -> None:
        if raised is not None:
            raise raised

    monkeypatch.setattr(process, "Parent", lambda: parent)
    monkeypatch.setattr(process, "_score", score)
    with pytest.raises(process.Left):  # type: ignore[attr-defined]
        process.main()
    assert left == [status] and parent.told == told


def test_an_ordinary_error_stops_nothing_here(left: list[int]) -> None:
    process._stopped(MetaqapError("x"))
    assert left == []
    with pytest.raises(process.Left):  # type: ignore[attr-defined]
        process._stopped(SystemExit(129))
    assert left == [129]


def test_the_wire() -> None:
    """What a library prints goes elsewhere; a word cut short, or none, is the end of the parent."""
    code = (
        "import os, sys\nfrom metaqap_fast.scale.process import Parent\nfrom metaqap_fast.errors import MetaqapError\n"
        "parent = Parent()\nprint('noise', flush=True)\nos.write(1, b'noise\\n')\n"
        "parent.tell(a=parent.ask(), b='\\udcff\\n')\nparent.tell(long='x' * 300_000)\n"
        "try: parent.ask()\nexcept MetaqapError as error: parent.tell(error=str(error))"
    )
    for rest in (b"", b'{"cut": '):
        result = subprocess.run([sys.executable, "-c", code], input=b'[1, "\\udcff"]\n' + rest, capture_output=True)
        first, second, third = result.stdout.splitlines()
        assert first == b'{"a": [1, "\\udcff"], "b": "\\udcff\\n"}' and len(second) == 300_000 + len('{"long": ""}')
        assert third == b'{"error": "the process that started this one is gone"}'
        assert result.stderr == b"noise\nnoise\n" and result.returncode == 0


def test_nobody_listens() -> None:
    code = "from metaqap_fast.scale.process import Parent\nfor _ in range(3): Parent().tell(a=1)"
    read, write = os.pipe()
    os.close(read)
    assert subprocess.run([sys.executable, "-c", code], stdout=write).returncode == 0
    os.close(write)
