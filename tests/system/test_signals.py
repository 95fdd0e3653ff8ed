"""What a signal becomes, and when: at once, at a safe moment, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from metaqap_fast import child, signals
from metaqap_fast.signals import INTERRUPTIONS, SIGNALS, Interrupts, as_exceptions, at_once, exit_status, handled

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
USUAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    """Whatever happens, handlers are as they were; before, they are those of a terminal: tests that are run by nohup,
    or in the background of a script, inherit that some signals are ignored."""
    inherited = {number: signal.signal(number, usual) for number, usual in USUAL.items()}
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    yield
    after = {number: signal.signal(number, handler) for number, handler in inherited.items()}
    assert after == USUAL and set(after) == set(SIGNALS)
    assert signal.set_wakeup_fd(wakeup) == wakeup


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_every_signal_has_its_status() -> None:
    assert set(SIGNALS) == set(STATUS)
    for number, status in STATUS.items():
        stop = signals.exception(number)
        assert isinstance(stop, INTERRUPTIONS) and exit_status(stop) == status
    assert isinstance(signals.exception(signal.SIGINT), KeyboardInterrupt)
    assert exit_status(SystemExit("text")) == exit_status(SystemExit(None)) == 130
    assert not issubclass(Exception, INTERRUPTIONS)


@pytest.mark.parametrize("number", SIGNALS)
def test_as_exceptions(number: int) -> None:
    with pytest.raises(INTERRUPTIONS) as caught, as_exceptions():
        send(number)
        time.sleep(5)
    assert exit_status(caught.value) == STATUS[signal.Signals(number)]


def test_a_handler_gets_the_number_and_no_more_than_while_entered() -> None:
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    with handled(note):
        for number in SIGNALS:
            send(number)
    assert seen == list(SIGNALS)
    with pytest.raises(ZeroDivisionError), handled(note):
        raise ZeroDivisionError


def test_under_nohup_a_hangup_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    seen: list[int] = []
    try:
        with handled(lambda number, frame: seen.append(number)):
            for number in SIGNALS:
                send(number)
        assert seen == [signal.SIGINT, signal.SIGTERM] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with Interrupts(lambda error: None) as interrupts:
            send(signal.SIGHUP)
            assert list(interrupts.waiting("ab")) == ["a", "b"]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_the_background_of_a_script_an_interrupt_is_heard() -> None:
    """There the shell has it ignored; whoever sends it to this process means this process."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    seen: list[int] = []
    try:
        with handled(lambda number, frame: seen.append(number)):
            send(signal.SIGINT)
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_interrupts_wait_for_a_safe_moment(number: int) -> None:
    """Not in the middle of an item; before the next is asked for; what is there is saved first."""
    saved: list[BaseException] = []
    done: list[str] = []
    asked: list[int] = []

    def items() -> Iterator[int]:
        for i in range(5):
            asked.append(i)
            yield i

    with pytest.raises(INTERRUPTIONS) as caught, Interrupts(saved.append) as interrupts:
        for i in interrupts.waiting(items()):
            if i == 2:
                send(number)
                time.sleep(0.01)
            done.append(f"item {i}")
    assert done == ["item 0", "item 1", "item 2"] and asked == [0, 1, 2]
    assert saved == [caught.value] and interrupts.raised is caught.value
    assert exit_status(caught.value) == STATUS[signal.Signals(number)]


def test_interrupts_end_a_wait() -> None:
    saved: list[BaseException] = []

    def stuck() -> Iterator[int]:
        yield 1
        send(signal.SIGTERM)
        time.sleep(20)
        yield 2

    start = time.monotonic()
    with pytest.raises(SystemExit), Interrupts(saved.append) as interrupts:
        for _ in interrupts.waiting(stuck()):
            pass
    assert time.monotonic() - start < 10 and len(saved) == 1


def test_an_interrupt_behind_the_last_item_is_not_lost() -> None:
    saved: list[BaseException] = []
    with pytest.raises(KeyboardInterrupt), Interrupts(saved.append) as interrupts:
        assert list(interrupts.waiting("ab")) == ["a", "b"]
        send(signal.SIGINT)
        time.sleep(0.01)
    assert len(saved) == 1


def test_a_second_signal_does_not_cost_what_the_first_saves() -> None:
    saved: list[str] = []

    def save(error: BaseException) -> None:
        send(signal.SIGINT)
        time.sleep(0.01)
        saved.append(type(error).__name__)

    with pytest.raises(SystemExit) as caught, Interrupts(save) as interrupts:
        for _ in interrupts.waiting(range(5)):
            send(signal.SIGTERM)
            send(signal.SIGINT)
    assert saved == ["SystemExit"] and caught.value.code == 143


def test_another_error_is_not_hidden_by_an_interrupt() -> None:
    saved: list[BaseException] = []
    with pytest.raises(ZeroDivisionError), Interrupts(saved.append) as interrupts:
        for _ in interrupts.waiting(range(5)):
            send(signal.SIGTERM)
            raise ZeroDivisionError
    assert saved == []


@pytest.mark.parametrize("number", SIGNALS)
def test_at_once_a_thread_is_told(number: int) -> None:
    """While the main thread is in C, where it hears nothing."""
    told: list[tuple[int, bool]] = []
    heard = threading.Event()

    def stop(error: BaseException) -> None:
        told.append((exit_status(error), threading.current_thread() is threading.main_thread()))
        heard.set()

    with at_once(stop):
        send(number)
        assert heard.wait(10)
    assert told == [(STATUS[signal.Signals(number)], False)]
    assert "interrupts" not in {thread.name for thread in threading.enumerate()}


def test_at_once_hears_no_other_signal() -> None:
    told: list[BaseException] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with at_once(told.append):
            send(signal.SIGUSR1)
            time.sleep(0.1)
        assert told == []
        with pytest.raises(ZeroDivisionError), at_once(told.append):
            raise ZeroDivisionError
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_in_another_thread_nothing_is_touched() -> None:
    """Python sets handlers in the main thread alone; a library call may be in any."""
    result: list[Any] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with as_exceptions(), at_once(result.append), Interrupts(result.append) as interrupts:
            result.append(list(interrupts.waiting("ab")))
            result.append(signal.getsignal(signal.SIGTERM) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert result == [["a", "b"], True]


def test_leaving_is_at_once() -> None:
    """Neither threads nor what is registered for the end of a process is waited for."""
    code = (
        "import atexit, threading, time\nfrom metaqap_fast import signals\natexit.register(time.sleep, 60)\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\nsignals.leave(7)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 7


# --- processes of our own ---


def test_a_child_gets_our_modules_and_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the current folder')")
    (tmp_path / "ours.py").write_text("name = 'ours'")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "none"), ""])
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "ours.py").write_text("name = 'more'")
    monkeypatch.chdir(tmp_path / "more")
    command = child.command("import json, sys, ours; print(json.dumps([sys.argv[1:], ours.name]))", "a b", "", "\n")
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert result.stdout == '[["a b", "", "\\n"], "more"]\n', result.stderr


def test_an_interrupted_start_is_silent() -> None:
    process = subprocess.Popen(child.command("print('on', flush=True); input()"), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (-signal.SIGINT, "")


def test_waits_have_an_end() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    quick, slow = (
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        for code in ("print(flush=True); import time; time.sleep(0.3); raise SystemExit(5)", deaf)
    )
    for process in (quick, slow):
        assert process.stdout is not None
        process.stdout.readline()
    start = time.monotonic()
    child.end([quick, slow], 2.0)
    assert (quick.returncode, slow.returncode) == (5, -signal.SIGKILL) and 1.5 < time.monotonic() - start < 10
    child.end([quick, slow])  # once more does no harm
    killed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child.end([killed])
    assert killed.returncode == -signal.SIGKILL


def test_a_process_that_cannot_be_killed_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a device; the kernel ends it when that comes back."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(child, "SECONDS_TO_DIE", 0.1)
    with monkeypatch.context() as patched:
        patched.setattr(process, "kill", lambda: None)
        start = time.monotonic()
        child.end([process])
        assert process.poll() is None and time.monotonic() - start < 10
    child.end([process])
