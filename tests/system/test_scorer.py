"""The stages together: same score at any batch size and order, failures alone, and the Python API."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import metaqap_fast
from images import encode
from metaqap_fast import Scorer, Status, UsageError
from metaqap_fast.input.files import Listing
from metaqap_fast.overlap import overlap


@pytest.fixture
def scorer(bundle: Path) -> Iterator[Scorer]:
    scorer = Scorer(str(bundle), precision="fp32")
    yield scorer
    scorer.close()


def test_scores_are_the_formula(scorer: Scorer, photo: Image.Image) -> None:
    square = np.asarray(photo.crop((10, 10, 74, 74)))
    table = scorer.score_arrays([square])
    mean, peak = square.mean() / 255, 0.8 * square.max() / 255
    assert table.members[0] == pytest.approx([mean, peak], abs=1e-5)
    assert table.score[0] == pytest.approx(0.5 * mean + 0.25 * peak + 0.1, abs=1e-5)
    assert (table.width[0], table.height[0]) == (64, 64)


def test_views_are_averaged(scorer: Scorer) -> None:
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 64:] = 200
    table = scorer.score_arrays([wide])
    assert table.members[0] == pytest.approx([100 / 255, 0.8 * 100 / 255], abs=1e-5)


def test_folder(scorer: Scorer, folder: Path) -> None:
    table = scorer.score(folder)
    failed = {path: Status(status) for path, status in zip(table.paths, table.status, strict=True) if status}
    assert failed == {
        "b/text.jpg": Status.unsupported, "empty.png": Status.corrupt, "cut.jpg": Status.corrupt
    }  # fmt: skip
    assert len(table) == 13 and np.isfinite(table.score[table.ok]).all() and np.isnan(table.score[~table.ok]).all()
    assert table.keys == [entry.key for entry in Listing([folder])]
    assert table.attributes["engine"] == "openvino" and table.attributes["precision"] == "fp32"


def test_batch_size_and_order_change_nothing(bundle: Path, folder: Path) -> None:
    tables = []
    for batch_size in (1, 3, 32):
        scorer = Scorer(str(bundle), precision="fp32", batch_size=batch_size)
        tables.append(scorer.score(folder))
        scorer.close()
    for table in tables[1:]:
        assert table.keys == tables[0].keys
        assert table.score.tobytes() == tables[0].score.tobytes()
        assert table.members.tobytes() == tables[0].members.tobytes()
        assert table.uncertainty.tobytes() == tables[0].uncertainty.tobytes()


def test_bytes_and_arrays(scorer: Scorer, photo: Image.Image) -> None:
    data = encode(photo, "PNG")
    by_bytes = scorer.score_bytes([data, b"junk", data])
    strided = np.asarray(photo)[:, ::-1][:, ::-1]
    by_array = scorer.score_arrays([strided])
    assert by_bytes.keys == [b"0", b"1", b"2"]
    assert list(by_bytes.status) == [Status.ok, Status.unsupported, Status.ok]
    assert by_bytes.score[0] == by_bytes.score[2] == by_array.score[0]
    assert scorer.score_bytes([data]).score[0] == by_bytes.score[0]  # called again
    assert len(scorer.score_bytes([])) == 0


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_images(scorer: Scorer, bad: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"images\[1\]"):
        scorer.score_arrays([np.zeros((4, 4, 3), np.uint8), bad])


def test_module_level_score(bundle: Path, folder: Path) -> None:
    one = metaqap_fast.score(folder / "0.png", model=str(bundle))
    assert len(one) == 1 and one.ok.all()
    two = metaqap_fast.score([folder / "0.png", folder / "1.png"], model=str(bundle))
    assert two.score[0] == one.score[0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"engine": "abacus"}, "abacus"),
        ({"precision": "fp8"}, "fp8"),
        ({"device": "cuda:0", "engine": "openvino"}, "cuda:0"),
        ({"device": "cuda:0", "engine": "native"}, "cuda:0"),
        ({"precision": "fp32", "engine": "native"}, "fp32"),
        ({"views": "all"}, "all"),
        ({"batch_size": 0}, "batch size"),
        ({"model": "nosuch"}, "nosuch"),
    ],
)
def test_wrong_options_are_named(bundle: Path, options: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Scorer(**{"model": str(bundle), **options})  # type: ignore[arg-type]


def test_max_pixels(bundle: Path, photo: Image.Image) -> None:
    scorer = Scorer(str(bundle), max_pixels=512 * 512 - 1)
    table = scorer.score_bytes([encode(photo, "PNG"), encode(photo.resize((64, 64)), "PNG")])
    assert list(table.status) == [Status.too_large, Status.ok]
    assert (table.width[0], table.height[0]) == (512, 512)


def test_unscaled_views_see_pixels_that_fit_hides(bundle: Path) -> None:
    image = np.zeros((640, 640, 3), np.uint8)
    image[::2, ::2] = 255  # one bright pixel in four: a resize leaves gray
    fit = Scorer(str(bundle), views="fit").score_arrays([image])
    unscaled = Scorer(str(bundle), views="unscaled").score_arrays([image])
    assert unscaled.members[0, 1] == pytest.approx(0.8, abs=1e-4) and fit.members[0, 1] < 0.4
    assert unscaled.members[0, 0] == pytest.approx(fit.members[0, 0], abs=0.01)


# --- overlap ---------------------------------------------------------------------------------------------


def noted(made: list[int]) -> Iterator[int]:
    """0 to 99; `made` has what has been asked for."""
    for i in range(100):
        made.append(i)
        yield i


def test_overlap_keeps_order_and_runs_ahead_by_its_depth_only() -> None:
    made: list[int] = []
    stream = overlap(noted(made), depth=4)
    assert next(stream) == 0
    time.sleep(0.3)
    assert 4 <= len(made) <= 7
    assert list(stream) == list(range(1, 100))


def test_overlap_runs_ahead_by_its_bytes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaqap_fast.overlap.AHEAD_BYTES", 100)
    # Taken, in the queue, and the one that does not fit in; the queue is filled up again when half of it is free.
    for weight, fewest, most in ((200, 3, 3), (40, 4, 5), (1, 100, 100)):
        made: list[int] = []
        stream = overlap(noted(made), 1000, lambda _, weight=weight: weight)  # type: ignore[misc]
        assert next(stream) == 0
        time.sleep(0.3)
        assert fewest <= len(made) <= most
        assert list(stream) == list(range(1, 100))


def test_overlap_wakes_its_thread_for_many_items_at_once() -> None:
    made: list[int] = []
    stream = overlap(noted(made), depth=8)
    found = [next(stream)]
    time.sleep(0.3)
    full = len(made)
    assert 9 <= full <= 10  # eight in the queue, and the one that does not fit in
    found += islice(stream, 2)
    time.sleep(0.3)
    assert len(made) == full
    found += islice(stream, 3)
    time.sleep(0.3)
    assert len(made) > full
    assert found + list(stream) == list(range(100))


def test_overlap_holds_no_item_back() -> None:
    more = threading.Event()

    def produce() -> Iterator[int]:
        time.sleep(0.2)  # its consumer waits by now
        yield 1
        more.wait(10)

    stream = overlap(produce(), depth=64)
    start = time.monotonic()
    assert next(stream) == 1 and time.monotonic() - start < 1
    more.set()
    assert list(stream) == []


def test_overlap_passes_exceptions_on() -> None:
    def produce() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    stream = overlap(produce(), depth=2)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_overlap_stops_its_thread_when_closed() -> None:
    closed = threading.Event()

    def produce() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    stream = overlap(produce(), depth=1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert closed.wait(2)
    assert not any(t.name.startswith("overlap-produce") and t.is_alive() for t in threading.enumerate())


SIGNALLED = """
import faulthandler, gc, os, signal, sys, threading, time
import numpy as np
from metaqap_fast import Scorer

faulthandler.enable()  # Python's handlers run on its signal stack, or on one that a library put in its place
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
scorer = Scorer(sys.argv[1], precision="fp32")
scorer.score_arrays([np.zeros((64, 64, 3), np.uint8)])

def give_up():
    global scorer
    scorer.close()
    del scorer
    gc.collect()

thread = threading.Thread(target=give_up)
thread.start()
thread.join()
signal.raise_signal(signal.SIGUSR1)
"""


def test_a_signal_after_a_scorer_ended_on_another_thread(bundle: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED, bundle], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


# MB that a process took at most; unlike ru_maxrss not of the process that started it, which may be larger.
PEAK = "next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) // 1024"


def test_memory_does_not_grow_with_the_number_of_images(bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    code = f"import sys; from metaqap_fast.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: print({PEAK})"
    peaks = []
    for count in (300, 4000):
        folder = tmp_path / str(count)
        folder.mkdir()
        photo.save(folder / "0.jpg")
        for i in range(1, count):
            (folder / f"{i}.jpg").hardlink_to(folder / "0.jpg")
        arguments = ["score", str(folder), "--model", str(bundle), "-o", str(tmp_path / f"{count}.h5"), "--quiet"]
        result = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
        peaks.append(int(result.stdout))
    assert peaks[1] - peaks[0] < 50, peaks


def test_many_large_files_are_not_all_in_memory(bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    """Sixty of 30 MB before an engine that is slower than the disk: 1.8 GB, were they all read ahead."""
    code = (
        "import sys, time; from metaqap_fast.engine import openvino; from metaqap_fast.cli import main\n"
        "real = openvino.OpenVINOEngine.predict\n"
        "def predict(self, items):\n"
        "    for item in real(self, items):\n"
        "        time.sleep(0.1)\n"
        "        yield item\n"
        "openvino.OpenVINOEngine.predict = predict\n"
        "try: main(sys.argv[1:])\n"
        f"except SystemExit: print({PEAK})"
    )
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(encode(photo, "JPEG") + bytes(30 << 20))
    for i in range(1, 60):
        (folder / f"{i}.jpg").hardlink_to(folder / "0.jpg")
    arguments = ["score", str(folder), "--model", str(bundle), "-o", str(tmp_path / "s.h5"), "--quiet", "--strict"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    peak = int(result.stdout)
    assert 200 < peak < 600
