"""The table of engines: what a new one takes, what choice and messages make of it, and what it may get wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metaqap_fast import Scorer, Status, options
from metaqap_fast import engine as engines
from metaqap_fast.engine import cpu
from metaqap_fast.engine.protocol import Engine, T, Unsuited
from metaqap_fast.engine.table import ENGINES, Spec, either
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model import bundle as bundles


class Toy(Engine):
    """Its members are the mean of a view, all of them; all that an engine has to have."""

    name, precision, device = "toy", "fp32", "cpu: a toy"

    def __init__(self, members: int) -> None:
        self.members, self.closed = members, False

    def predict(self, items: Iterable[tuple[T, NDArray[np.uint8]]]) -> Iterator[tuple[T, NDArray[np.float32]]]:
        for tag, views in items:
            means = views.reshape(len(views), -1).mean(axis=1) / 255 if len(views) else np.empty(0)
            yield tag, np.repeat(means.astype(np.float32)[:, None], self.members, 1)

    def close(self) -> None:
        self.closed = True


def create(bundle: Any, precision: str, gpu: Any) -> Toy:
    return Toy(len(bundle.members))


class Broken(Toy):
    """Gives no number for bright views."""

    name = "broken"

    def predict(self, items: Iterable[tuple[T, NDArray[np.uint8]]]) -> Iterator[tuple[T, NDArray[np.float32]]]:
        for tag, found in super().predict(items):
            yield tag, np.where(found > 0.5, np.float32("inf" if self.members % 2 else "nan"), found)


def create_broken(bundle: Any, precision: str, gpu: Any) -> Toy:
    return Broken(len(bundle.members))


def unsuited(bundle: Any, precision: str, gpu: Any) -> Toy:
    raise Unsuited("it is broken")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """In its order, too, which is that of `auto`."""
    saved = dict(ENGINES)
    yield
    ENGINES.clear()
    ENGINES.update(saved)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "toy", Spec(f"{__name__}:create", devices=("cpu",), precisions=("fp32", "int8")))


def test_names_are_the_same_everywhere() -> None:
    """options.py, which `--help` reads without importing the engines; the table decides."""
    assert ("auto", *ENGINES) == options.ENGINES
    assert set(options.PRECISIONS) == {"auto", *(each for spec in ENGINES.values() for each in spec.precisions)}
    for spec in ENGINES.values():
        assert set(spec.automatic) <= set(spec.devices) <= {"cpu", "cuda"}


@pytest.mark.usefixtures("toy")
def test_an_engine_is_one_file_and_one_line(bundle: Path) -> None:
    scorer = Scorer(str(bundle), engine="toy")
    table = scorer.score_arrays([np.full((64, 64, 3), level, np.uint8) for level in (51, 102)])
    assert table.score == pytest.approx([0.75 * level / 255 + 0.1 for level in (51, 102)], abs=1e-6)
    assert table.attributes["engine"] == "toy" and scorer.engine.reason == "asked for"
    assert scorer.engine.device_id is None
    scorer.close()


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("toy", "cuda:0"), UsageError, "the toy engine runs on the cpu, not on 'cuda:0'"),
        (("toy", "cpu", "bf16"), UsageError, "the toy engine has no bf16: use --precision fp32 or int8"),
        (("toy", "cpu", "int8"), MetaqapError, "int8 was asked for, but the toy engine runs fp32 here"),
        (("magic",), UsageError, "unknown engine 'magic': one of auto, tensorrt, native, openvino, torch, toy"),
        (("auto", "cpu", "fp8"), UsageError, "the engines native and openvino have no fp8: use --precision "),
    ],
)
def test_what_cannot_be_is_one_line(bundle: Path, arguments: Any, kind: type[MetaqapError], words: str) -> None:
    with pytest.raises(MetaqapError) as caught:
        engines.create(bundles.load(str(bundle)), *arguments)
    assert type(caught.value) is kind and str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_the_precisions_named_are_those_that_the_cpu_has(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for precision, named in (("fp32", "fp32 or int8"), ("bf16", "fp32, bf16 or int8")):
        monkeypatch.setattr(cpu, "has", lambda level, found=precision: found == "bf16")
        with pytest.raises(UsageError, match=f"use --precision {named}$"):
            engines.create(bundles.load(str(bundle)), "auto", "cpu", "fp16")


def test_why_the_others_were_not_taken(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every engine that `auto` passes over is named, with the reason."""
    for name in ("native", "openvino"):
        monkeypatch.delitem(ENGINES, name)
    always = {"devices": ("cpu",), "automatic": ("cpu",)}
    monkeypatch.setitem(ENGINES, "first", Spec(f"{__name__}:create", precisions=("int8",), **always))
    monkeypatch.setitem(ENGINES, "second", Spec(f"{__name__}:unsuited", precisions=("fp32",), **always))
    loaded = bundles.load(str(bundle))
    with pytest.raises(MetaqapError, match=r"^the first engine has no fp32; the second engine does not run: "):
        engines.create(loaded, "auto", "cpu", "fp32")
    monkeypatch.setitem(ENGINES, "third", Spec(f"{__name__}:create", precisions=("fp32",), **always))
    assert engines.create(loaded, "auto", "cpu", "fp32").reason == (
        "the cpu was asked for; the first engine has no fp32; the second engine does not run: it is broken"
    )


def test_a_prediction_that_is_not_a_number_is_an_error_of_the_engine(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of that image alone; its row says so, and has no score."""
    monkeypatch.setitem(ENGINES, "broken", Spec(f"{__name__}:create_broken", devices=("cpu",), precisions=("fp32",)))
    scorer = Scorer(str(bundle), engine="broken")
    table = scorer.score_arrays([np.full((64, 64, 3), level, np.uint8) for level in (51, 204, 102)])
    scorer.close()
    assert list(table.status) == [Status.ok, Status.engine_error, Status.ok]
    assert list(table.error) == ["", "the engine gave a prediction that is not a number", ""]
    for column in (table.score, table.uncertainty):
        assert list(np.isfinite(column)) == [True, False, True]


@pytest.mark.parametrize(("names", "words"), [(["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")])
def test_names_in_words(names: list[str], words: str) -> None:
    assert either(names) == words
