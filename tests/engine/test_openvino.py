"""OpenVINO says what it runs, and is not believed otherwise; its errors are one line."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metaqap_fast.engine import cpu, openvino_engine
from metaqap_fast.engine.openvino_engine import OpenVINOEngine, executed
from metaqap_fast.engine.openvino_int8 import _largest_pair
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model import bundle as bundles

pytestmark = pytest.mark.usefixtures("own_cache")


def test_bf16_that_was_not_compiled_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that OpenVINO takes the hint on without a word, and runs fp32."""
    monkeypatch.setattr(cpu, "multiplies_in", lambda precision: True)
    monkeypatch.setitem(openvino_engine.HINTS, "bf16", "f32")
    with pytest.raises(MetaqapError, match=r"^OpenVINO compiled tiny in fp32, where bf16 was asked for$"):
        OpenVINOEngine(bundles.load(str(bundle)), "bf16")


def test_int8_that_was_not_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "quantize", lambda *arguments, **options: None)
    model = bundles.load()
    with pytest.raises(
        MetaqapError, match=rf"^OpenVINO compiled {re.escape(model.name)} in fp32, where int8 was asked for$"
    ):
        OpenVINOEngine(model, "int8")


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_precisions_that_it_never_has(precision: str, bundle: Path) -> None:
    with pytest.raises(UsageError, match=rf"^OpenVINO has no {precision} on a CPU: use --precision fp32"):
        OpenVINOEngine(bundles.load(str(bundle)), precision)


def compiled(hint: str, *convolutions: str) -> Any:
    def value(text: str) -> Any:
        return SimpleNamespace(astype=lambda kind: text)

    kinds = [("Convolution", kind) for kind in convolutions] + [("Input", "u8"), ("Pooling", "f32")]
    nodes = [
        SimpleNamespace(get_rt_info=lambda each=each: {"layerType": value(each[0]), "runtimePrecision": value(each[1])})
        for each in kinds
    ]
    return SimpleNamespace(
        get_runtime_model=lambda: SimpleNamespace(get_ordered_ops=lambda: nodes),
        get_property=lambda name: SimpleNamespace(to_string=lambda: hint),
    )


@pytest.mark.parametrize(
    ("hint", "convolutions", "ran"),
    [
        ("f32", ["f32", "f32"], "fp32"),
        ("bf16", ["f32", "f32"], "fp32"),  # the hint is a wish
        ("bf16", ["bf16", "f32"], "bf16"),
        ("f32", ["f32", "i8", "u8"], "int8"),
        ("f16", ["f16"], "fp16"),
        ("f32", [], "fp32"),
        ("bf16", [], "bf16"),
    ],
)
def test_what_ran_is_what_the_convolutions_ran(hint: str, convolutions: list[str], ran: str) -> None:
    assert executed(compiled(hint, *convolutions)) == ran


def test_an_error_of_openvino_is_one_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("Exception from src/core.cpp:117:\nException from src/plugin.cpp:54:\nno such luck\n\n")

    monkeypatch.setattr(openvino_engine, "merged", lambda *arguments, **options: None)
    monkeypatch.setattr(openvino_engine, "shared_core", lambda: SimpleNamespace(compile_model=fail))
    with pytest.raises(MetaqapError, match=r"^OpenVINO cannot compile tiny in fp32: no such luck$"):
        OpenVINOEngine(bundles.load(str(bundle)), "fp32")


# --- streams of images ------------------------------------------------------------------------------------------------


def expected(views: Any) -> Any:
    """Members of the tests' bundle."""
    return np.array([[view.mean() / 255, 0.8 * view.max() / 255] for view in views]).reshape(-1, 2)


@pytest.fixture
def engine(bundle: Path) -> OpenVINOEngine:
    return OpenVINOEngine(bundles.load(str(bundle)), "fp32", threads=2)


@pytest.mark.parametrize("counts", [(), (0,), (1,) * 30, (0, 3, 0, 0, 9, 1, 0), (20,)])
def test_images_come_back_in_order_with_their_own_predictions(engine: OpenVINOEngine, counts: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    images = [(i, random.integers(0, 256, (count, 64, 64, 3), np.uint8)) for i, count in enumerate(counts)]
    found = list(engine.predict(images))
    assert [tag for tag, _ in found] == list(range(len(counts)))
    for (_, views), (_, rows) in zip(images, found, strict=True):
        assert rows == pytest.approx(expected(views), abs=1e-5) and rows.dtype == np.float32


def test_an_exception_or_an_early_end_leaves_the_engine_ready(engine: OpenVINOEngine) -> None:
    views = np.full((1, 64, 64, 3), 51, np.uint8)

    def source() -> Any:
        yield from ((i, views) for i in range(7))
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(engine.predict(source()))
    early = engine.predict((i, views) for i in range(100))
    assert next(early)[0] == 0
    early.close()  # type: ignore[attr-defined]
    assert len(list(engine.predict((i, views) for i in range(9)))) == 9
    engine.close()


def test_a_finished_image_does_not_wait_for_the_next(engine: OpenVINOEngine) -> None:
    """A slow source sees its rows as they get ready, not when every request is taken."""
    views, got = np.full((1, 64, 64, 3), 51, np.uint8), list[int]()

    def slow() -> Any:
        for i in range(4):
            yield i, views
            time.sleep(0.2)
        assert got, "nothing came before the end"

    for tag, _ in engine.predict(slow()):
        got.append(tag)
    assert got == [0, 1, 2, 3]


def test_no_thread_of_openvino_calls_python() -> None:
    """Its queue's threads take Python's lock even after a callback; when the interpreter ends meanwhile, they abort it:
    2 of 120 short programs ended with SIGABRT after their work."""
    for path in Path(openvino_engine.__file__).parent.rglob("*.py"):
        assert "AsyncInferQueue(" not in path.read_text(), path


SHAPES = st.tuples(st.just(2), st.integers(1, 7), st.just(1), st.just(2))  # outputs, inputs, height, width


@given(arrays(np.float32, SHAPES, elements=st.floats(-1, 1, width=32)))
def test_without_vnni_every_sum_of_two_products_fits(weights: Any) -> None:
    """Weights as `_quantize_weights` rounds them, activations of 255."""
    bound = np.maximum(np.abs(weights).max((1, 2, 3), keepdims=True), 1e-8)
    bound = np.maximum(bound, _largest_pair(weights, 1).max((1, 2, 3), keepdims=True) * (127 / 127.5))
    whole = np.rint(weights / bound * 127).astype(np.int64)
    padded = np.pad(whole, [(0, 0), (0, whole.shape[1] % 2), (0, 0), (0, 0)])
    for sign in (1, -1):
        sums = 255 * np.maximum(sign * padded, 0).reshape(2, -1, 2, 1, 2).sum(2)
        assert sums.max() <= 32767
