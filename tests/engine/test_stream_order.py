"""Decoder, engine and combiner on streams of their own: nothing is read before it is written."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from metaqap_fast.decode import DecodeOptions
from metaqap_fast.decode import lanes as lanes_module
from metaqap_fast.decode.dali import Resized
from metaqap_fast.decode.device import DeviceDecoder
from metaqap_fast.decode.lanes import Lanes
from metaqap_fast.engine.gpu.engine import DeviceEngine, Graph
from metaqap_fast.engine.gpu.torch_engine import TorchRunner
from metaqap_fast.gpu_errors import GpuLost
from metaqap_fast.infer import scored
from metaqap_fast.model.meta import MetaLearner
from metaqap_fast.model.readout import Readout
from metaqap_fast.records import Decoded, Encoded
from stream_order import Event, Order, Stream, stand_in

META = MetaLearner((0.5, 0.25), 0.1, ((0.0, 0.01),), 2.0)
READOUT = Readout((0, 1))
SIZE = 64


class Runner:
    """Sums of pixels, by one step over fixed buffers."""

    columns = 2

    def __init__(self, order: Order, batch: int = 16) -> None:
        self.stream = Stream(order, "engine")
        with torch.cuda.stream(self.stream):  # type: ignore[arg-type]
            self.image = torch.zeros(batch, SIZE, SIZE, 3, dtype=torch.uint8)
            self._out = torch.zeros(batch, 2)

    def run(self) -> torch.Tensor:
        self._out.copy_(self.image.flatten(1)[:, :2])
        return self._out

    def close(self) -> None: ...


def files(photo: Any, widths: list[int]) -> list[Encoded]:
    from images import encode

    return [Encoded(b"%d" % i, encode(photo.crop((0, i, w, i + SIZE)), "PNG")) for i, w in enumerate(widths)]


def lane(order: Order, name: str) -> DeviceDecoder:
    """A real lane; DALI writes on a stream of its own, behind which it puts the one that it is given."""
    made = DeviceDecoder(DecodeOptions(SIZE, batch_size=4), None)
    made._stream = Stream(order, name)
    dali, real = Stream(order, f"dali of {name}"), made._dali.run

    def run(sources: Any, sizes: Any, fine_sizes: Any, stream: Any = None) -> Any:
        with torch.cuda.stream(dali):  # type: ignore[arg-type]
            arrays, found, _ = real(sources, sizes, fine_sizes)
            images = [torch.tensor(image) for image in arrays]
            if len({image.shape for image in images}) == 1:
                images = torch.stack(images)  # type: ignore[assignment]
        if stream is not None:
            stream.wait_stream(dali)
        else:
            dali.synchronize()
        return Resized(images, found, [])

    made._dali.run = run  # type: ignore[method-assign]
    return made


@pytest.fixture(params=[True, False], ids=["with the host's waits", "by events alone"])
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Order:
    made = Order(host=request.param)
    stand_in(made, monkeypatch)
    real = lanes_module._run

    def watched(decoder: Any, batch: Any, found: list[Decoded]) -> None:
        with made.watching():
            real(decoder, batch, found)

    monkeypatch.setattr(lanes_module, "_run", watched)
    return made


def run(order: Order, photo: Any, widths: list[int]) -> int:
    lanes = Lanes([lane(order, f"lane {i}") for i in range(3)])
    engine = DeviceEngine(Runner(order), "test", "fp16", "cuda:0", None)
    with order.watching():
        items = ((image, image.views) for image in lanes.stream(files(photo, widths)))
        count = sum(1 for _ in scored(engine, items, META, READOUT))
    lanes.close()
    return count


@pytest.mark.parametrize("widths", [[SIZE] * 30, list(itertools.islice(itertools.cycle([64, 200, 64, 130]), 30))])
def test_nothing_is_read_before_it_is_written(order: Order, photo: Any, widths: list[int]) -> None:
    assert run(order, photo, widths) == 30
    assert order.operations > 30 and not order.races


def test_the_check_sees_a_missing_event(order: Order, photo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stream, "wait_event", lambda self, event: None)
    run(order, photo, [SIZE] * 30)
    assert bool(order.races) != order.counts_host  # the host's own wait orders it as well


def test_the_check_sees_a_stack_on_another_stream(order: Order) -> None:
    """What version 0.1 did: views were stacked on the default stream, and copied on the engine's."""
    with order.watching():
        views = torch.stack([torch.zeros(3)])
        with torch.cuda.stream(Stream(order, "engine")):  # type: ignore[arg-type]
            torch.zeros(1, 3).copy_(views)
    assert list(order.races) == ["copy_ on engine uses what stack wrote on default, unordered"]


def test_the_host_does_not_keep_a_core_busy_while_it_waits(
    order: Order, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(order, photo, [SIZE] * 30)
    assert not order.spins
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking=False: Event(order))  # what CUDA gives by itself
    run(order, photo, [SIZE] * 30)
    assert order.spins >= 8  # batches of the decoder


@pytest.fixture
def graphs(order: Order, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done with CUDA graphs."""
    seen: list[str] = []

    class Captured:
        def __init__(self, graph: Any, stream: Stream, capture_error_mode: str) -> None:
            assert stream.name == order.current == "engine" and capture_error_mode == "thread_local"

        def __enter__(self) -> None:
            seen.append("capture")

        def __exit__(self, *_: object) -> None: ...

    class CUDAGraph:
        def replay(self) -> None:
            seen.append("replay")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    monkeypatch.setattr(torch.cuda, "graph", Captured)
    return seen


def test_a_graph_is_captured_on_the_runners_stream_before_anything_runs(order: Order, graphs: list[str]) -> None:
    """The default stream cannot be captured; and a step is run before, for libraries that allocate the first time."""
    graph = Graph(lambda: graphs.append(order.current), Stream(order, "engine"))
    assert graphs == ["engine"] * 3 + ["capture", "engine"] and graph.captured
    graph()
    assert graphs[5:] == ["replay"]
    assert not Graph(lambda: None, Stream(order, "engine"), refusal="the library says no").captured


def test_torchs_networks_are_captured_too(order: Order, graphs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From wherever they are run: those of the paper were timed on the default stream, so without a graph."""
    monkeypatch.setattr("metaqap_fast.engine.gpu.torch_engine.stream_for", lambda _: Stream(order, "engine"))
    runner = TorchRunner(lambda image: image[:, 0, 0, :1].float(), 4, 1, 2, "cpu")
    runner.run()
    assert runner.captured and graphs == ["capture", "replay"]


def test_a_gpu_that_is_lost_while_rows_are_awaited_is_one_line(
    order: Order, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA says late what went wrong: it is not only where work is started that errors must be translated."""

    def gone(self: Event) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    monkeypatch.setattr(Event, "query", gone)
    with pytest.raises(GpuLost, match=r"^cuda:0 stopped working: CUDA error: .*; go on with --resume$"):
        run(order, photo, [SIZE] * 30)


def test_a_gpu_that_never_answers_is_not_waited_for_for_ever(
    order: Order, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has fallen off its bus may not even give an error."""
    monkeypatch.setattr(Event, "query", lambda self: False)
    monkeypatch.setattr("metaqap_fast.gpu_errors.wait.__defaults__", (0.05,))
    with pytest.raises(GpuLost, match=r"^cuda:0 has not answered for 0 seconds\. Rows committed so far are safe; "):
        run(order, photo, [SIZE] * 30)
