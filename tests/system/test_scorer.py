"""The stages together: same score at any batch size and order, failures alone, and the Python API."""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import metaqap_fast
from images import encode
from metaqap_fast import Scorer, Status, UsageError
from metaqap_fast.input import open_sources
from metaqap_fast.progress import Progress

GRAY = np.zeros((4, 4), np.uint8)


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
    assert table.keys == [entry.key for entry in open_sources([folder])]
    assert table.attributes["engine"] == "openvino" and table.attributes["precision"] == "fp32"
    assert table.attributes["engine_version"] == f"openvino {metadata.version('openvino')}"
    names = ("nvidia-dali-cuda130", "pillow")
    assert table.attributes["decoder"] == ", ".join(f"{name} {metadata.version(name)}" for name in names)


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
    by_bytes = scorer.score_bytes([data, b"junk", memoryview(data), bytearray(data)])
    strided = np.asarray(photo)[:, ::-1][:, ::-1]
    by_array = scorer.score_arrays([strided])
    assert by_bytes.keys == [b"0", b"1", b"2", b"3"]
    assert list(by_bytes.status) == [Status.ok, Status.unsupported, Status.ok, Status.ok]
    assert by_bytes.score[0] == by_bytes.score[2] == by_bytes.score[3] == by_array.score[0]
    assert scorer.score_bytes(each for each in [data]).score[0] == by_bytes.score[0]  # called again, by a generator
    assert scorer.score_bytes(np.array([data], object)).score[0] == by_bytes.score[0]  # a column of pandas
    assert len(scorer.score_bytes([])) == len(scorer.score_arrays(iter([]))) == len(list(scorer.score_stream([]))) == 0


def test_a_stream_is_read_as_its_rows_are_asked_for(scorer: Scorer, photo: Image.Image) -> None:
    data, read = encode(photo.resize((64, 64)), "PNG"), 0

    def images() -> Iterator[tuple[str | bytes, bytes]]:
        nonlocal read
        for i in itertools.count():
            read = i
            yield (f"{i}.png" if i % 2 else b"\xff%d" % i), data if i % 5 else b"junk"

    stream = scorer.score_stream(images())
    assert read == 0
    rows = list(itertools.islice(stream, 300))
    assert [row.key for row in rows] == [b"%d.png" % i if i % 2 else b"\xff%d" % i for i in range(300)]
    assert [row.status for row in rows] == [Status.ok if i % 5 else Status.unsupported for i in range(300)]
    assert 300 <= read < 300 + 200
    stream.close()
    assert len(scorer.score_bytes([data])) == 1


def test_what_the_input_raises_comes_behind_the_rows_before_it(scorer: Scorer, photo: Image.Image) -> None:
    data = encode(photo.resize((64, 64)), "PNG")

    def images() -> Iterator[tuple[str, bytes]]:
        for i in range(40):
            yield str(i), data
        raise ConnectionError("the bucket is gone")

    rows = []
    with pytest.raises(ConnectionError, match="the bucket is gone"):
        rows.extend(scorer.score_stream(images()))
        pytest.fail("no error")
    rows = []
    with pytest.raises(ConnectionError):
        for row in scorer.score_stream(images()):
            rows.append(row.key)
    assert rows == [b"%d" % i for i in range(40)]
    with pytest.raises(ConnectionError):
        scorer.score_bytes(data for _, data in images())
    assert scorer.score_bytes([data]).ok.all()


def test_progress(scorer: Scorer, folder: Path, photo: Image.Image) -> None:
    seen: list[Progress] = []
    scorer.score(folder, progress=seen.append)
    assert [(each.done, each.total) for each in seen] == [(i, 13) for i in range(1, 14)] and seen[-1].failed == 3
    data = encode(photo.resize((64, 64)), "PNG")
    for images, total in (([("a", data), ("b", b"junk")], 2), (iter([("a", data), ("b", b"junk")]), None)):
        seen.clear()
        for row in scorer.score_stream(images, progress=seen.append):
            assert seen[-1].done == len(seen) == 1 + (row.key == b"b")
        assert seen == [Progress(1, 0, total), Progress(2, 1, total)]

    def stop(progress: Progress) -> None:
        raise KeyError(progress.done)

    with pytest.raises(KeyError, match="1"):
        scorer.score_bytes([data] * 50, progress=stop)
    assert scorer.score_bytes([data], progress=seen.append).ok.all()  # the call has ended


def test_module_level_score(bundle: Path, folder: Path) -> None:
    one = metaqap_fast.score(folder / "0.png", model=str(bundle))
    assert len(one) == 1 and one.ok.all()
    sources = [folder / "0.png", str(folder / "1.png")]
    for two in (metaqap_fast.score(sources, model=bundle), metaqap_fast.score(*sources, model=bundle)):
        assert len(two) == 2 and two.score[0] == one.score[0]


def test_one_source_several_or_a_list_of_them(scorer: Scorer, folder: Path) -> None:
    a, b = folder / "0.png", os.fsencode(folder / "1.png")
    one, both = scorer.score(a), scorer.score(a, b)
    assert len(one) == 1 and len(both) == 2
    for same in (scorer.score([a, b]), scorer.score((a,), b), scorer.score(iter([a, b]))):
        assert same.keys == both.keys and same.score.tobytes() == both.score.tobytes()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.score(), "no source given"),
        (lambda s: s.score([]), "no source given"),
        (lambda s: s.score(None), "a source is None, not the name of a folder or file"),
        (lambda s: s.score(["a", 3]), "a source is an int"),
        (lambda s: s.score("/nowhere"), "no such file or folder: /nowhere"),
        (lambda s: s.score(b"\x89PNG\0\0"), "use score_bytes"),
        (lambda s: s.score([GRAY]), "use score_arrays"),
        (lambda s: s.score(GRAY), r"a source is an array \[4, 4\] of uint8, .* use score_arrays"),
        (lambda s: s.score(Image.new("L", (4, 4))), "a source is an Image, .* use score_arrays"),
        (lambda s: s.score(io.BytesIO(b"a.jpg")), "a source is a BytesIO, not the name"),
        (lambda s: s.score(""), "a source is an empty name"),
        (lambda s: s.score(".", progress=3), "progress is an int, not a function"),
        (lambda s: s.score_bytes(b"..."), r"images is a bytes, .* score_bytes\(\[data\]\)"),
        (lambda s: s.score_bytes("a.jpg"), "images is a str"),
        (lambda s: s.score_bytes(None), "images is None"),
        (lambda s: s.score_bytes([b"", GRAY]), r"images\[1\] is an array \[4, 4\] of uint8, .* use score_arrays"),
        (lambda s: s.score_bytes([Image.new("L", (4, 4))]), r"images\[0\] is an Image, .* use score_arrays"),
        (lambda s: s.score_bytes(["a.jpg"]), r"images\[0\] is a str, .* use score"),
        (lambda s: s.score_bytes([7]), r"images\[0\] is an? int, not the bytes of an image file"),
        (lambda s: list(s.score_stream(5)), "images is an int, not an iterable of pairs"),
        (lambda s: list(s.score_stream([b"data"])), r"images\[0\] is a bytes, not a pair \(key, bytes\)"),
        (lambda s: list(s.score_stream([("a", b"")] * 3 + [("b", 7)])), r"images\[3\] \(key 'b'\) is an? int"),
        (lambda s: list(s.score_stream([("a", "a.jpg")])), r"images\[0\] \(key 'a'\) is a str, .* use score"),
        (lambda s: list(s.score_stream([(7, b"")])), r"the key of images\[0\] is an int"),
        (lambda s: list(s.score_stream([("a", b"", 1)])), r"images\[0\] is a tuple, not a pair"),
        (lambda s: list(s.score_stream([("\ud800", b"")])), r"the key of images\[0\]"),
        (lambda s: s.score_arrays(np.zeros((8, 8, 3), np.uint8)), r"array \[8, 8, 3\] .* score_arrays\(\[image\]\)"),
        (lambda s: s.score_arrays(GRAY), r"images is an array \[4, 4\]"),
        (lambda s: s.score_arrays(Image.new("L", (4, 4))), r"images is an Image, .* score_arrays\(\[image\]\)"),
    ],
)
def test_what_is_no_image_is_named(scorer: Scorer, call: Callable[[Scorer], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(scorer)


@pytest.mark.parametrize("limit", ["batch_size", "max_pixels", "max_bytes", "max_seconds", "max_memory"])
@pytest.mark.parametrize("value", [0, -1, "4GiB", float("nan"), True, 0.5, float("inf"), [1]])
def test_limits_are_positive_numbers(bundle: Path, limit: str, value: object) -> None:
    if limit == "max_seconds" and value in (True, 0.5, float("inf")):
        return
    word = "number" if limit == "max_seconds" else "whole number"
    with pytest.raises(UsageError, match=re.escape(f"{limit} is {value!r}, not a positive {word}")):
        Scorer(bundle, **{limit: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["engine", "device", "precision"])
@pytest.mark.parametrize(("value", "what"), [(None, "None"), (3, "an int"), (["auto"], "a list")])
def test_names_are_text(bundle: Path, option: str, value: object, what: str) -> None:
    with pytest.raises(UsageError, match=f"{option} is {what}, not a str"):
        Scorer(bundle, **{option: value})  # type: ignore[arg-type]


def test_a_limit_may_be_a_whole_float(bundle: Path, photo: Image.Image) -> None:
    with Scorer(bundle, precision="fp32", max_pixels=1e6, max_bytes=1e6, max_memory=4e9, batch_size=2.0) as scorer:
        assert scorer.score_bytes([encode(photo, "PNG")]).ok.all()
        assert repr(scorer).startswith("<Scorer: model tiny, engine openvino, fp32, cpu: ")


def test_max_bytes(bundle: Path, photo: Image.Image) -> None:
    data = encode(photo.resize((64, 64)), "PNG")
    with Scorer(bundle, max_bytes=len(data)) as scorer:
        assert scorer.score_bytes([data, data + b"0", memoryview(data + b"0")]).status.tolist() == [0, 4, 4]
        assert [row.error for row in scorer.score_stream([("a", data + b"0")])] == [
            f"{len(data) + 1} bytes, over the limit of {len(data)}"
        ]


def test_a_decoder_does_not_outlive_a_model_that_fails(bundle: Path) -> None:
    before = children()
    with pytest.raises(UsageError) as error:
        Scorer(bundle, precision="fp8")
    assert children() == before, error  # held: its traceback has the Scorer


def children() -> set[str]:
    return set(Path("/proc/self/task").joinpath(str(os.getpid()), "children").read_text().split())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"engine": "abacus"}, "abacus"),
        ({"precision": "fp8"}, "fp8"),
        ({"device": "cuda:0", "engine": "openvino"}, "cuda:0"),
        ({"device": "cuda:0", "engine": "native"}, "cuda:0"),
        ({"precision": "fp16", "engine": "native"}, "fp16"),
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


def test_no_data_is_a_row_of_its_own(scorer: Scorer) -> None:
    """NULL in a database; the images beside it are scored."""
    data = encode(Image.new("RGB", (80, 60), "teal"), "PNG")
    rows = list(scorer.score_stream([("a", data), ("b", None), ("c", data)]))
    assert [row.status for row in rows] == [Status.ok, Status.unreadable, Status.ok]
    assert rows[1].error == "no data: None in place of bytes"
