"""DALI's pipeline for a GPU, as far as it can be made without one, and lanes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gpu_lane import Faulty, array, device, files
from images import encode
from metaqap_fast.decode import DecodeOptions, Limits, create, probe, views
from metaqap_fast.decode.dali import Dali, define
from metaqap_fast.decode.device import DeviceDecoder
from metaqap_fast.decode.lanes import Lanes
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.errors import Status
from metaqap_fast.records import Decoded, Encoded

OPTIONS = DecodeOptions(64, batch_size=8, hw_decoder_load=0.4321)


def serialised(encoded: bool, gpu: bool) -> bytes:
    """The whole graph, checked by DALI against its operators' schemas."""
    pipeline = define(encoded, OPTIONS, 0 if gpu else None)
    pipeline._device_id = None  # else DALI asks for the driver even before the graph
    return bytes(pipeline.serialize())


@pytest.mark.parametrize("encoded", [True, False])
def test_one_definition_serves_both_devices(encoded: bool) -> None:
    """Without a driver DALI serialises a pipeline for a GPU, but does not run it."""
    cpu, gpu = serialised(encoded, gpu=False), serialised(encoded, gpu=True)
    assert b"\x12\x03gpu" in gpu and b"\x12\x03gpu" not in cpu  # where tensors are
    assert (b"mixed" in gpu) == encoded and b"mixed" not in cpu
    assert (b"hw_decoder_load" in gpu) == encoded and b"hw_decoder_load" not in cpu
    for text in (b"antialias", b"interp_type", *((b"jpeg_fancy_upsampling", b"adjust_orientation") * encoded)):
        assert text in cpu and text in gpu
    if encoded:
        assert np.float32(0.4321).tobytes() in gpu


def test_all_jpegs_go_to_one_decoder() -> None:
    """Of a share, which image gets which would depend on its place; and the first batch settles it for good."""
    assert DecodeOptions(64).hw_decoder_load in (0.0, 1.0)
    decoder, sizes = device(batch_size=8), list[int]()
    Faulty(decoder, lambda sources, real: sizes.append(len(sources)) or real())
    decoder.start()
    assert sizes == [9]  # a full batch, and the probe


def test_an_image_that_is_decoded_again_has_the_same_decoder(photo: Image.Image) -> None:
    """Another one's pixels differ by some levels: a score would depend on what stands beside an image."""
    decoder, sizes = device(batch_size=4), list[int]()

    def failing(sources: Any, real: Any) -> Any:
        sizes.append(len(sources))
        if len(sizes) == 2:
            raise RuntimeError("one of them is bad")
        return real()

    Faulty(decoder, failing)
    images = [Encoded(b"%d" % i, encode(photo.crop((i, 0, i + 64, 64)), "JPEG")) for i in range(4)]
    together, alone = list(decoder.stream(images)), list(decoder.stream(images))
    assert sizes == [5, 5, 2, 2, 2, 2]
    assert all(np.array_equal(array(a), array(b)) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("dense", [True, False])
def test_dali_puts_its_pixels_behind_the_lanes_stream(dense: bool) -> None:
    """Without a stream the host would wait for them in every batch."""
    given: list[Any] = []
    pixels = torch.arange(2 * 4 * 6 * 3, dtype=torch.uint8).reshape(2, 4, 6, 3)

    class Images(list[torch.Tensor]):
        def is_dense_tensor(self) -> bool:
            return dense

        def as_tensor(self) -> torch.Tensor:
            return pixels

    class Pipeline:
        def feed_input(self, name: str, values: Any) -> None:
            assert len(values) == 2, name

        def run(self, *arguments: Any) -> Any:
            given.extend(arguments)
            return Images(pixels), SimpleNamespace(as_array=lambda: np.array([[4, 6, 3]] * 2))

    dali = Dali(OPTIONS, 0)
    dali._pipelines[True] = Pipeline()
    images, sizes, fine = dali.run([np.zeros(9, np.uint8)] * 2, [None, (6, 4)], [None] * 2, "the lane's stream")
    assert not fine
    assert given == ["the lane's stream"] and sizes == [(6, 4)] * 2
    assert isinstance(images, torch.Tensor) == dense and all(map(torch.equal, images, pixels))


def test_lanes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of several lanes must be neither pinned to the same cores nor as many as all cores each."""
    made: list[int | None] = []
    lane = "metaqap_fast.decode.device.DeviceDecoder"
    monkeypatch.setattr(lane, lambda options, gpu, threads: made.append(threads) or device())
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)))
    create(OPTIONS, gpu=0).close()
    assert made == [4, 4, 4] and b"affine" in serialised(encoded=True, gpu=True)


def test_a_gpu_pipeline_names_what_is_missing() -> None:
    from metaqap_fast.engine import cuda

    try:
        cuda.gpus()
        pytest.skip("this machine has a GPU")
    except cuda.NoGpu:
        pass
    with pytest.raises(RuntimeError, match=r"(?i)cuda|driver|nvml"):
        define(True, OPTIONS, 0).build()  # (DALI's words; a user is stopped by `engine.choice`)


@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (30, 50), (700, 64), (1, 1)])
def test_views_of_tensors_are_those_of_arrays(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    cut = views.cut(torch.from_numpy(pixels), 64)  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(cut), views.cut(pixels, 64))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("fine", [0, 128, 192])
def test_lanes_give_what_one_decoder_gives(photo: Image.Image, batch_size: int, fine: int) -> None:
    good = [image.data for image in files(photo, 7)] + [encode(photo, "PNG"), encode(photo.resize((40, 200)), "PNG")]
    data = [*good[:4], encode(photo, "JPEG")[:3000], b"text", *good[4:], b""]
    images = [Encoded(b"%d" % i, data) for i, data in enumerate(data)]
    options = DecodeOptions(64, batch_size=batch_size, fine=fine)
    lanes = Lanes([DeviceDecoder(options, None) for _ in range(3)])
    for _ in range(2):
        found, one = list(lanes.stream(iter(images))), list(LocalDecoder(options).stream(images))
        assert [image.key for image in found] == [image.key for image in images]
        for a, b in zip(found, one, strict=True):
            assert (a.error and a.error.status, a.error and a.error.reason) == (
                b.error and b.error.status, b.error and b.error.reason
            )  # fmt: skip
            assert np.array_equal(array(a), array(b)) and a.fine == b.fine
            assert a.fine == (bool(fine) and not a.error and min(a.width, a.height) >= fine)
    assert {image.error.status for image in found if image.error} == {Status.corrupt, Status.unsupported}
    lanes.close()


def test_a_lane_has_its_next_batch_before_its_images_are_handed_over() -> None:
    taken: list[int] = []

    class Slow(LocalDecoder):
        def stream(self, images: Any) -> Iterator[Decoded]:
            for image in images:
                yield Decoded(image.key, 1, np.zeros((1, 4, 4, 3), np.uint8))

    def source() -> Iterator[Encoded]:
        for i in range(100):
            taken.append(i)
            yield Encoded(b"%d" % i, b"")

    lanes = Lanes([Slow(DecodeOptions(4, batch_size=10)) for _ in range(3)])
    stream = lanes.stream(source())
    assert next(stream).key == b"0" and len(taken) == 40  # three in the lanes while the first is handed over
    assert [image.key for image in stream] == [b"%d" % i for i in range(1, 100)]
    lanes.close()


def test_limits_that_are_not_kept_are_spoken_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metaqap_fast.decode.device.DeviceDecoder", lambda options, gpu, threads: device())
    create(OPTIONS, gpu=0, limits=Limits(max_seconds=1.0)).close()
    assert not caplog.text
    create(OPTIONS, gpu=0, limits=Limits(max_memory=1 << 30)).close()
    assert "--max-memory is not kept" in caplog.text


def test_the_probe_is_what_it_says() -> None:
    (found,) = LocalDecoder(DecodeOptions(96)).stream([Encoded(b"", probe.encoded().tobytes())])
    assert found.views.shape == (1, 96, 96, 3) and probe.deviation(found.views[0]) <= 3
    assert probe.deviation(found.views[0][:, ::-1]) > 50 and probe.deviation(found.views[0][..., ::-1]) > 50
