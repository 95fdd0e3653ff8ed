"""DALI's pipeline for a GPU, as far as it can be made without one; lanes, and who is to blame when decoding fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from images import encode
from metaqap_fast.decode import DecodeOptions, Limits, create, probe, views
from metaqap_fast.decode.dali import define
from metaqap_fast.decode.device import DeviceDecoder
from metaqap_fast.decode.lanes import Lanes
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.errors import MetaqapError, Status
from metaqap_fast.gpu_errors import DecoderDisagrees, GpuLost
from metaqap_fast.options import Views
from metaqap_fast.records import Decoded, DeviceViews, Encoded

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


@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (30, 50), (700, 64), (1, 1)])
@pytest.mark.parametrize("mode", ["fit", "unscaled"])
def test_views_of_tensors_are_those_of_arrays(shape: tuple[int, int], mode: Views) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    cut = views.cut(torch.from_numpy(pixels), 64, mode)  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(cut), views.cut(pixels, 64, mode))


def device(size: int = 64, batch_size: int = 4) -> DeviceDecoder:
    """A lane as on a GPU, but for its streams."""
    return DeviceDecoder(DecodeOptions(size, batch_size=batch_size), None)


def files(photo: Image.Image, count: int) -> list[Encoded]:
    return [Encoded(b"%d" % i, encode(photo.crop((i, i, i + 64, i + 64)), "PNG")) for i in range(count)]


def array(image: Decoded) -> np.ndarray:
    return image.views.array() if isinstance(image.views, DeviceViews) else image.views


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_lanes_give_what_one_decoder_gives(photo: Image.Image, batch_size: int) -> None:
    good = [image.data for image in files(photo, 7)] + [encode(photo, "PNG"), encode(photo.resize((40, 200)), "PNG")]
    data = [*good[:4], encode(photo, "JPEG")[:3000], b"text", *good[4:], b""]
    images = [Encoded(b"%d" % i, data) for i, data in enumerate(data)]
    options = DecodeOptions(64, batch_size=batch_size)
    lanes = Lanes([DeviceDecoder(options, None) for _ in range(3)])
    for _ in range(2):
        found, one = list(lanes.stream(iter(images))), list(LocalDecoder(options).stream(images))
        assert [image.key for image in found] == [image.key for image in images]
        for a, b in zip(found, one, strict=True):
            assert (a.error and a.error.status, a.error and a.error.reason) == (
                b.error and b.error.status, b.error and b.error.reason
            )  # fmt: skip
            assert np.array_equal(array(a), array(b))
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


# --- who is to blame ----------------------------------------------------------------------------------------------


class Faulty:
    """DALI, which from its `after`-th run on does something else."""

    def __init__(self, decoder: DeviceDecoder, does: Any, after: int = 0) -> None:
        self.runs, self.does, self.after, self.real = 0, does, after, decoder._dali.run
        decoder._dali.run = self.run  # type: ignore[method-assign]

    def run(self, sources: Any, sizes: Any, stream: Any = None) -> Any:
        self.runs += 1
        if self.runs > self.after:
            return self.does(sources, lambda: self.real(sources, sizes, stream))
        return self.real(sources, sizes, stream)


class AcceleratorError(RuntimeError):
    """torch's, by its name."""

    error_code = 700


GONE = [
    RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ..."),
    RuntimeError("Error in thread 0: nvml error (999): unknown error"),
    RuntimeError("Cuda Runtime (an illegal memory access was encountered)"),
    AcceleratorError("an illegal instruction was encountered"),
    RuntimeError("[/opt/dali/dali/pipeline/util/thread_pool.cc] words that nobody knows"),
]


@pytest.mark.parametrize("error", GONE, ids=[str(error)[:24] for error in GONE])
@pytest.mark.parametrize("after", [1, 3])
def test_a_gpu_that_fails_makes_no_image_corrupt(photo: Image.Image, error: Exception, after: int) -> None:
    def gone(sources: Any, real: Any) -> Any:
        raise error

    decoder, rows = device(), list[Decoded]()
    Faulty(decoder, gone, after)
    decoder.start()
    with pytest.raises(GpuLost, match=r"^(the decoder on )?the cpu stopped working: .*go on with --resume$") as caught:
        rows.extend(decoder.stream(files(photo, 20)))
    assert all(row.error is None for row in rows) and "\n" not in str(caught.value)


def test_a_decoder_that_does_not_start_is_no_images_failure(photo: Image.Image) -> None:
    """Really: DALI for a GPU on a machine without a driver."""
    from metaqap_fast.decode.dali import Dali
    from metaqap_fast.engine import cuda

    try:
        cuda.gpus()
        pytest.skip("this machine has a GPU")
    except cuda.NoGpu:
        pass
    decoder = device()
    decoder._dali = Dali(OPTIONS, 0)
    lanes = Lanes([decoder])
    with pytest.raises(MetaqapError, match="the decoder on the cpu does not start: ") as caught:
        list(lanes.stream(files(photo, 3)))
    assert "\n" not in str(caught.value)
    lanes.close()


def black(sources: Any, real: Any) -> Any:
    images, sizes = real()
    return [np.zeros_like(image) for image in images], sizes


@pytest.mark.parametrize("after", [0, 1, 3])
def test_wrong_pixels_without_an_error_make_no_row(photo: Image.Image, after: int) -> None:
    """As some cards and drivers give them."""
    decoder, rows = device(), list[Decoded]()
    Faulty(decoder, black, after)
    with pytest.raises(DecoderDisagrees, match=r"gives wrong pixels, 2\d\d levels off on a known JPEG") as caught:
        decoder.start()
        rows.extend(decoder.stream(files(photo, 20)))
    assert caught.value.exit_code == 4 and len(rows) == 4 * max(0, after - 1)
    assert all(array(row).any() for row in rows)


def test_one_black_image_is_looked_at_by_the_cpu(photo: Image.Image) -> None:
    dark = Encoded(b"dark", encode(Image.new("RGB", (64, 64)), "PNG"))
    decoder = device()
    images = [*files(photo, 2), dark]
    assert [image.error for image in decoder.stream(images)] == [None] * 3

    def first_is_black(sources: Any, real: Any) -> Any:
        images, sizes = real()
        return [np.zeros_like(images[0]), *images[1:]], sizes

    Faulty(decoder, first_is_black)
    with pytest.raises(DecoderDisagrees, match=r"gave black pixels for b'0', which is not black"):
        list(decoder.stream(images))


def test_full_memory_means_smaller_batches_and_at_last_the_cpu(
    photo: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def full(sources: Any, real: Any) -> Any:
        seen.append(len(sources) - 1)
        if len(sources) - 1 > 2 or any(len(source) > 200_000 for source in sources):
            raise RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory")
        return real()

    decoder = device(batch_size=8)
    Faulty(decoder, full)
    large = Encoded(b"large", encode(photo, "PNG"))
    assert len(large.data) > 200_000
    images = [*files(photo, 7), large]
    found = list(decoder.stream(images))
    wanted = list(LocalDecoder(decoder.options).stream(images))
    assert seen == [8, 4, 2, 2, 4, 2, 2, 1, 1]
    assert all(np.array_equal(array(a), array(b)) for a, b in zip(found, wanted, strict=True))
    assert "too little memory to decode b'large': the cpu decodes it" in caplog.text


def test_pixels_are_the_lanes_own(photo: Image.Image) -> None:
    """DALI uses its memory again in the next run."""
    kept: list[np.ndarray] = []

    def keep(sources: Any, real: Any) -> Any:
        images, sizes = real()
        kept.extend(images)
        return kept, sizes

    decoder = device(batch_size=2)
    Faulty(decoder, keep)
    (first, _) = decoder.stream(files(photo, 2))
    before = array(first).copy()
    for image in kept:
        image.flags.writeable = True
        image[:] = 99
    assert np.array_equal(array(first), before)


def test_a_gpu_that_goes_in_the_middle_costs_no_row(bundle: Any, folder: Any, tmp_path: Any) -> None:
    from metaqap_fast.engine.gpu import torch_engine
    from metaqap_fast.input.files import Listing
    from metaqap_fast.model import bundle as bundles
    from metaqap_fast.run import run
    from metaqap_fast.scorer import Scorer
    from metaqap_fast.scores.table import ScoreTable

    def gone(sources: Any, real: Any) -> Any:
        raise RuntimeError("CUDA error: the launch timed out and was terminated")

    scorer = Scorer(str(bundle), precision="fp32", isolate=False)
    scorer.engine = torch_engine.create(bundles.load(str(bundle)), "fp32", None, 1)
    decoder = device(batch_size=1)
    scorer.decoder = decoder
    Faulty(decoder, gone, after=6)
    with pytest.raises(GpuLost):
        run(scorer, Listing([folder]), tmp_path / "s.h5")
    kept = [ScoreTable.read(part) for part in (tmp_path / "s.h5.parts").glob("part-*.h5")]
    corrupt = {key for table in kept for key in np.array(table.keys)[table.status == Status.corrupt]}
    assert kept and corrupt <= {b"cut.jpg"}  # which is
    scorer.decoder = device(batch_size=2)
    run(scorer, Listing([folder]), tmp_path / "s.h5", "resume")
    whole = ScoreTable.read(tmp_path / "s.h5")
    assert (len(whole), int(whole.ok.sum())) == (13, 10)


def test_limits_that_are_not_kept_are_spoken_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metaqap_fast.decode.device.DeviceDecoder", lambda options, gpu, threads: device())
    create(OPTIONS, gpu=0, limits=Limits()).close()
    assert not caplog.text
    create(OPTIONS, gpu=0, limits=Limits(max_seconds=1.0)).close()
    assert "--max-seconds and --max-memory are not kept" in caplog.text


def test_the_probe_is_what_it_says() -> None:
    (found,) = LocalDecoder(DecodeOptions(96)).stream([Encoded(b"", probe.encoded().tobytes())])
    assert found.views.shape == (1, 96, 96, 3) and probe.deviation(found.views[0]) <= 3
    assert probe.deviation(found.views[0][:, ::-1]) > 50 and probe.deviation(found.views[0][..., ::-1]) > 50
