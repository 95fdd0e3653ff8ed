"""Who is to blame when decoding on a GPU fails: an image, or the GPU and what drives it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fake_driver import fake_driver
from gpu_lane import Faulty, array, device, files
from images import encode
from metaqap_fast.decode import DecodeOptions
from metaqap_fast.decode import lanes as lanes_module
from metaqap_fast.decode.dali import Dali, Resized
from metaqap_fast.decode.lanes import Lanes
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.engine import cuda
from metaqap_fast.engine.gpu import torch_engine
from metaqap_fast.errors import MetaqapError, Status
from metaqap_fast.gpu_errors import DecoderDisagrees, GpuLost
from metaqap_fast.input.files import Listing
from metaqap_fast.model import bundle as bundles
from metaqap_fast.records import Decoded, Encoded
from metaqap_fast.run import run
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.table import ScoreTable


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
    try:
        cuda.gpus()
        pytest.skip("this machine has a GPU")
    except cuda.NoGpu:
        pass
    decoder = device()
    decoder._dali = Dali(DecodeOptions(64), 0)
    lanes = Lanes([decoder])
    with pytest.raises(MetaqapError, match="the decoder on the cpu does not start: ") as caught:
        list(lanes.stream(files(photo, 3)))
    assert "\n" not in str(caught.value)
    lanes.close()


def black(sources: Any, real: Any) -> Any:
    images, sizes, _ = real()
    return Resized([np.zeros_like(image) for image in images], sizes, [])


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
        images, sizes, _ = real()
        return Resized([np.zeros_like(images[0]), *images[1:]], sizes, [])

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
        images, sizes, _ = real()
        kept.extend(images)
        return Resized(kept, sizes, [])

    decoder = device(batch_size=2)
    Faulty(decoder, keep)
    (first, _) = decoder.stream(files(photo, 2))
    before = array(first).copy()
    for image in kept:
        image.flags.writeable = True
        image[:] = 99
    assert np.array_equal(array(first), before)


def test_a_gpu_that_goes_in_the_middle_costs_no_row(bundle: Any, folder: Any, tmp_path: Any) -> None:
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


def test_a_decoder_that_is_stuck_ends_the_run_and_names_its_images(
    bundle: Any, folder: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be stopped; but to wait for it for ever would be worse."""
    release, out = threading.Event(), tmp_path / "s.h5"

    def stuck(sources: Any, real: Any) -> Any:
        release.wait(60)
        return real()

    monkeypatch.setattr(lanes_module, "TICK", 0.05)
    scorer = Scorer(str(bundle), device="cpu", precision="fp32", isolate=False)
    scorer.engine = torch_engine.create(bundles.load(str(bundle)), "fp32", None, 1)
    decoder = device(batch_size=2)
    scorer.decoder = Lanes([decoder], "cuda:0", seconds=0.3)
    Faulty(decoder, stuck, after=4)
    with pytest.raises(GpuLost, match=r"^the decoder on cuda:0 has not answered .*of the 2 images from b'") as caught:
        run(scorer, Listing([folder]), out)
    assert "go on with --resume" in str(caught.value) and "\n" not in str(caught.value)
    kept = [ScoreTable.read(part) for part in (tmp_path / "s.h5.parts").glob("part-*.h5")]
    assert sum(map(len, kept)) >= 2
    start = time.monotonic()
    scorer.decoder.close()  # does not wait for what is stuck
    assert time.monotonic() - start < 20
    release.set()
    scorer.decoder = Lanes([device(batch_size=2)])
    run(scorer, Listing([folder]), out, "resume")
    whole = ScoreTable.read(out)
    assert (len(whole), int(whole.ok.sum())) == (13, 10)


def test_a_decoder_without_memory_for_its_start_says_what_to_do() -> None:
    def full(sources: Any, real: Any) -> Any:
        raise RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory")

    decoder = device()
    Faulty(decoder, full)
    with pytest.raises(MetaqapError, match=r"does not start: CUDA .*\. Free some .*, or use a smaller --batch-size$"):
        decoder.start()


VANISHES = """
import os
from metaqap_fast.decode import DecodeOptions, probe
from metaqap_fast.decode.dali import Dali
from metaqap_fast.decode.device import DeviceDecoder
from metaqap_fast.engine import cuda
from metaqap_fast.records import Encoded

assert len(cuda.gpus()) == 1
options = DecodeOptions(64, batch_size=2)
decoder = DeviceDecoder(options, None)  # in whose place comes, in the middle, DALI's own on a GPU that is gone
decoder.start()
for done, image in enumerate(decoder.stream(Encoded(b"%d" % i, probe.encoded().tobytes()) for i in range(20))):
    print(image.error)
    if done == 5:
        os.environ["FAKE_CUDA_GONE"] = "1"
        decoder._dali = Dali(DecodeOptions(64, batch_size=3), 0)
"""


@pytest.mark.full
def test_a_driver_that_vanishes_in_the_middle(tmp_path: Path) -> None:
    """With the words that DALI really has for it, on a driver of which nothing is left."""
    done = subprocess.run(
        [sys.executable, "-c", VANISHES], capture_output=True, text=True, env=fake_driver(tmp_path), check=False
    )
    assert set(done.stdout.splitlines()) == {"None"}, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("metaqap_fast.gpu_errors.GpuLost: the ") and last.endswith("go on with --resume"), last


def test_a_decoder_that_gives_wrong_pixels_has_a_status_of_its_own(
    bundle: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    left: list[int] = []
    monkeypatch.setattr("metaqap_fast.signals.leave", lambda status: left.append(status))

    def wrong(*_: object, **__: object) -> None:
        raise DecoderDisagrees("the decoder on cuda:0 gives wrong pixels")

    monkeypatch.setattr("metaqap_fast.scorer.Scorer.stream", wrong)
    result = cli("score", folder, "-o", tmp_path / "s.h5", "--model", bundle, "--precision", "fp32")
    assert result.exit_code == 4 and left == [4] and "gives wrong pixels" in result.stderr
