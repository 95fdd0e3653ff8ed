"""DALI's pipeline for a GPU, as far as it can be made without one, and decoding in lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from images import encode
from metaqap_fast.decode import DecodeOptions, views
from metaqap_fast.decode.dali import _on_device, define
from metaqap_fast.decode.lanes import Lanes
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.errors import Status
from metaqap_fast.options import Views
from metaqap_fast.records import Encoded

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


def test_a_gpu_pipeline_names_what_is_missing() -> None:
    from metaqap_fast.engine import cuda

    try:
        cuda.gpus()
        pytest.skip("this machine has a GPU")
    except cuda.NoGpu:
        pass
    with pytest.raises(RuntimeError, match=r"(?i)cuda|driver|nvml"):
        define(True, OPTIONS, 0).build()  # (DALI's words; a user is stopped by `engine.choice`)


class _Batch:
    """DALI's tensor list, on the CPU."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images

    def is_dense_tensor(self) -> bool:
        return len({image.shape for image in self.images}) == 1

    def as_tensor(self) -> np.ndarray:
        self.dense = np.stack(self.images)
        return self.dense

    def __iter__(self) -> Any:
        return iter(self.images)


@pytest.mark.parametrize("sizes", [[(4, 5), (4, 5)], [(4, 5), (6, 3)]])
def test_pixels_are_taken_before_the_buffer_is_used_again(
    sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    stream = type("Stream", (), {"synchronize": lambda self: order.append("waited")})()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    batch = _Batch([np.full((*size, 3), i, np.uint8) for i, size in enumerate(sizes)])
    found = _on_device(batch)
    for image in (*batch.images, getattr(batch, "dense", np.empty(0))):
        image[:] = 99
    assert [(tuple(image.shape[:2]), int(image.max())) for image in found] == [(s, i) for i, s in enumerate(sizes)]
    assert order == ["waited"]


@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (30, 50), (700, 64), (1, 1)])
@pytest.mark.parametrize("mode", ["fit", "unscaled"])
def test_views_of_tensors_are_those_of_arrays(shape: tuple[int, int], mode: Views) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    cut = views.cut(torch.from_numpy(pixels), 64, mode)  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(cut), views.cut(pixels, 64, mode))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_lanes_give_what_one_decoder_gives(photo: Image.Image, batch_size: int) -> None:
    good = [encode(photo.crop((i, i, i + 64, i + 64)), "PNG") for i in range(9)]
    files = [*good[:4], encode(photo, "JPEG")[:3000], b"text", *good[4:], b""]
    images = [Encoded(b"%d" % i, data) for i, data in enumerate(files)]
    options = DecodeOptions(64, batch_size=batch_size)
    lanes = Lanes(options, device_id=None)
    for _ in range(2):
        found, one = list(lanes.stream(iter(images))), list(LocalDecoder(options).stream(images))
        assert [image.key for image in found] == [image.key for image in images]
        for a, b in zip(found, one, strict=True):
            assert (a.error and a.error.status) == (b.error and b.error.status)
            assert np.array_equal(a.views, b.views)
    assert {image.error.status for image in found if image.error} == {Status.corrupt, Status.unsupported}
    lanes.close()
