"""What the parent of several processes says and hears, with small processes that only talk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.gpu_errors import DecoderDisagrees
from metaqap_fast.input.files import File
from metaqap_fast.input.told import heard as heard_entry
from metaqap_fast.scale import shards
from metaqap_fast.scale.shards import BLOCK, _Processes
from metaqap_fast.scores.identity import IDENTITY

SAME = dict.fromkeys(IDENTITY, "same")
TALKS = """
import json, os, sys, time
def hear():
    return json.loads(sys.stdin.readline())
def say(**message):
    print(json.dumps(message), flush=True)
order = hear()
say(about={"device": order["options"]["device"], "cores": order["cores"]}, ready={**SAME, "device": "a CPU"})
where = hear()
entries = []
def work():
    say(more=True)
    while block := hear():
        entries.append(block)
        say(counts=[len(each) for each in entries])
        say(more=True)
"""
ENDS = "work()\nsay(entries=entries, where=where, finished=True)"
ENTRIES = [File(b"%04d" % i, b"/folder/\xff%d" % i) for i in range(5 * BLOCK + 7)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SECONDS_TO_LEAVE", 0.5)
    monkeypatch.setattr(shards, "SECONDS_TO_BE_HEARD", 0.5)
    monkeypatch.setattr(shards, "TICK", 0.02)


def processes(monkeypatch: pytest.MonkeyPatch, *codes: str, devices: list[str] | None = None) -> _Processes:
    """A process for each code."""
    real, rest = subprocess.Popen, list(codes)

    def start(command: Any, **options: Any) -> Any:
        return real([sys.executable, "-S", "-E", "-c", f"SAME = {SAME}\n{rest.pop(0)}"], **options)

    with monkeypatch.context() as patched:
        patched.setattr(shards.subprocess, "Popen", start)
        return _Processes(devices or [f"cpu{i}" for i in range(len(codes))], {"model": "m"})


def gone(each: _Processes) -> bool:
    return all(process.poll() is not None for process in each._all)


def test_every_entry_is_handed_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    with processes(monkeypatch, *[TALKS + ENDS] * 3) as each:
        assert each.start(told.append) == [{**SAME, "device": "a CPU"}] * 3
        assert sorted(about["device"] for about in told) == ["cpu0", "cpu1", "cpu2"]
        heard = list(each.work(ENTRIES, {"folder": "f", "number": 4}))
    last = {index: message for index, message in heard if "finished" in message}
    assert set(last) == {0, 1, 2} and all(m["where"] == {"folder": "f", "number": 4} for m in last.values())
    blocks = [block for message in last.values() for block in message["entries"]]
    assert sorted(map(len, blocks)) == [7, *[BLOCK] * 5]
    files = [heard_entry(values) for block in blocks for values in block]
    assert sorted(files, key=lambda file: file.key) == ENTRIES
    for message in last.values():  # each gets them in their order, so that its parts are sorted
        keys = [key for block in message["entries"] for _, key, _ in block]
        assert keys == sorted(keys)
    assert sum("counts" in message for _, message in heard) == 6 and gone(each)


def test_who_asks_more_often_gets_more(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = (TALKS + ENDS).replace("while block := hear():", "while block := hear():\n        time.sleep(0.3)")
    with processes(monkeypatch, slow, TALKS + ENDS) as each:
        each.start(lambda _: None)
        last = {i: m for i, m in each.work(ENTRIES * 3, {}) if "finished" in m}
    assert len(last[0]["entries"]) < len(last[1]["entries"])


def test_the_cores_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of a GPU's processes starts a decoding thread on every core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 8, 9, 10, 11})
    assert [shards.cores(i, 3) for i in range(3)] == [[0, 1], [2, 3], [8, 9]]
    assert [shards.cores(i, 10) for i in (0, 9)] == [[0], [1]]


def test_cores_are_shared_on_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    with processes(monkeypatch, *[TALKS + ENDS] * 2, devices=["cuda:0", "cpu"]) as each:
        each.start(lambda about: told.update({about["device"]: about["cores"]}))
    assert told == {"cuda:0": shards.cores(0, 2), "cpu": None}


@pytest.mark.parametrize("name", IDENTITY)
def test_all_must_give_the_same_scores(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    other = TALKS.replace('"a CPU"}', f'"a CPU", {name!r}: "other"}}')
    words = f"cpu0 and cpu2 would give different scores: {name} 'same' and 'other'"
    each = processes(monkeypatch, TALKS + ENDS, TALKS + ENDS, other + ENDS)
    with pytest.raises(UsageError, match=words), each:
        each.start(lambda _: None)
    assert gone(each)


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (MetaqapError, 1), (DecoderDisagrees, 4)])
@pytest.mark.parametrize("when", ["start", "work"])
def test_an_error_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, kind: type[MetaqapError], code: int, when: str
) -> None:
    error = f"say(error='no such thing', exit_code={code}); raise SystemExit({code})"
    bad = f"{TALKS}\n{error}" if when == "work" else TALKS.replace("say(about", f"{error}\nsay(about")
    each = processes(monkeypatch, TALKS + ENDS, bad)
    with pytest.raises(MetaqapError, match=r"^cpu1: no such thing$") as caught, each:
        each.start(lambda _: None)
        list(each.work(ENTRIES, {}))
    assert caught.value.exit_code == code and (type(caught.value) is UsageError) == (kind is UsageError)
    assert gone(each)


LEFT_BEHIND = "if not os.fork():\n    time.sleep(20)\n    os._exit(0)"  # with the process's pipes


@pytest.mark.parametrize(
    ("end", "status"),
    [("os._exit(7)", "7"), ("os.kill(os.getpid(), 9)", "-9"), (f"{LEFT_BEHIND}\nos._exit(7)", "7"),
     ("sys.stdout.write('{\"counts\": '); sys.stdout.flush(); os._exit(7)", "7")],
    ids=["exits", "killed", "leaves its pipes", "in the middle of a word"],
)  # fmt: skip
@pytest.mark.parametrize("others", [1, 3])
def test_one_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch, end: str, status: str, others: int) -> None:
    """Also while others have a lot to say, and without the end of its pipe."""
    chatters = TALKS + "while True:\n    say(counts=[])\n    time.sleep(0.01)"
    with processes(monkeypatch, f"{TALKS}\n{end}", *[chatters] * others) as each:
        each.start(lambda _: None)
        start = time.monotonic()
        with pytest.raises(MetaqapError, match=f"the process on cpu0 ended with status {status}.*--resume"):
            for _ in each.work(ENTRIES, {}):
                assert time.monotonic() - start < 10
    assert gone(each)


def test_one_that_says_its_last_word_and_stays_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    stays = TALKS + ENDS + "\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
    start = time.monotonic()
    with processes(monkeypatch, TALKS + ENDS, stays) as each:
        each.start(lambda _: None)
        assert sum("finished" in message for _, message in each.work(ENTRIES, {})) == 2
    assert gone(each) and time.monotonic() - start < 15


def test_those_that_work_are_told_and_get_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    saves = f"""{TALKS}
import signal
def term(*_):
    time.sleep(1)
    open({str(tmp_path / "saved")!r}, "w").close()
    os._exit(0)
signal.signal(signal.SIGTERM, term)
say(counts=[])
time.sleep(60)"""
    deaf = f"{TALKS}\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay(counts=[])\ntime.sleep(60)"
    monkeypatch.setattr(shards, "SECONDS_TO_COMMIT", 3.0)
    with processes(monkeypatch, saves, deaf) as each:
        each.start(lambda _: None)
        heard = each.work(ENTRIES, {})
        assert {next(heard)[0], next(heard)[0]} == {0, 1}
        start = time.monotonic()
    assert gone(each) and (tmp_path / "saved").exists() and 2.5 < time.monotonic() - start < 15


@pytest.mark.parametrize("error", [UsageError("cannot list b"), RuntimeError("a bug")])
def test_an_error_of_the_listing_is_raised(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def entries() -> Iterator[File]:
        yield from ENTRIES[:BLOCK]
        raise error

    with processes(monkeypatch, *[TALKS + ENDS] * 2) as each:
        each.start(lambda _: None)
        with pytest.raises(type(error), match=str(error)):
            list(each.work(entries(), {}))
    assert gone(each)


def test_entries_that_are_no_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Member:
        key = b"a.tar/b.jpg"

    with processes(monkeypatch, TALKS + ENDS) as each:
        each.start(lambda _: None)
        with pytest.raises(UsageError, match=r"a\.tar/b\.jpg is in a source that one process has to read in order"):
            list(each.work([Member()], {}))  # type: ignore[list-item]


def test_long_messages_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than a pipe holds, both ways."""
    long = {"source": ["x" * 1000] * 1000}
    with processes(monkeypatch, TALKS + ENDS) as each:
        each.start(lambda _: None)
        (last,) = [message for _, message in each.work(ENTRIES, long) if "finished" in message]
    assert last["where"] == long and json.dumps(last)
