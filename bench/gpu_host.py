"""What the GPU path costs the host for an image: CPU time of everything but the device and DALI.

    python -m metaqap_fast.bench.gpu_host [--images 4000]

Files are read, their headers checked, batches formed, views handed on, scores combined and rows stored by the code that
a GPU is scored with; DALI's pixels are there beforehand, and the network is a copy. CPU time of all threads, so that
another program on the machine takes little of it away. It bounds the images/s of one process: Python's threads hold
one lock.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from metaqap_fast.bench.tiny import SIZE, write_tiny
from metaqap_fast.decode import DecodeOptions
from metaqap_fast.decode import probe as known
from metaqap_fast.decode.dali import Resized
from metaqap_fast.decode.device import DeviceDecoder
from metaqap_fast.decode.lanes import LANES, Lanes
from metaqap_fast.engine.gpu.engine import DeviceEngine
from metaqap_fast.engine.samples import generated
from metaqap_fast.input.files import Listing
from metaqap_fast.run import run
from metaqap_fast.scorer import Scorer

BATCH, SIDE, QUALITY = 64, 512, 90
MOST_ROUNDS = 12


class Ready:
    """In place of DALI: pixels of the members' size, the probe last, whatever is asked for."""

    def __init__(self) -> None:
        squares = torch.as_tensor(known.colours()).repeat_interleave(SIZE // known.SQUARES, 0)
        self._probe = squares.repeat_interleave(SIZE // known.SQUARES, 1)[None]
        self._pixels = torch.full((BATCH, SIZE, SIZE, 3), 128, dtype=torch.uint8)

    def run(self, sources: Sequence[Any], *_: Any) -> Resized:
        """See `metaqap_fast.decode.dali.Dali.run`."""
        pixels = torch.cat([self._pixels[: len(sources) - 1], self._probe])
        return Resized(pixels, [(SIDE, SIDE)] * len(sources), [])

    def close(self) -> None:
        """Nothing to close."""


class Copy:
    """In place of a network."""

    columns, stream = 1, None

    def __init__(self) -> None:
        self.image = torch.zeros(BATCH, SIZE, SIZE, 3, dtype=torch.uint8)
        # Different ones, as a network's are: were all alike, each would be among the best and the worst so far.
        self._out = torch.linspace(0.2, 0.8, BATCH)[:, None]

    def run(self) -> torch.Tensor:
        """See `metaqap_fast.engine.gpu.engine.Runner.run`."""
        return self._out

    def close(self) -> None:
        """Nothing to close."""


def host_microseconds(images: int = 4000, rounds: int = 2, enough: float = math.inf) -> dict[str, float]:
    """CPU and wall microseconds for an image, and those of CPU that Pillow takes to decode it; the best round each.

    Args:
        images: scored in a round.
        rounds: at least, behind one that warms up.
        enough: of Pillow's time; while more was taken, there is another round, up to MOST_ROUNDS. Other programs
            lengthen a round, none shortens one.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        scorer = _scorer(work)
        files = work / "files"
        files.mkdir()
        photographs = [_encoded(view) for view in generated(SIDE, 8)]
        for i, data in enumerate(photographs):
            (work / f"{i}.jpg").write_bytes(data)
        for i in range(images):
            os.link(work / f"{i % 8}.jpg", files / f"{i:07d}.jpg")
        found, pillow = list[tuple[float, float]](), list[float]()
        for turn in range(MOST_ROUNDS + 1):  # the first warms up
            if turn > rounds and min(found[1:])[0] / images <= enough * min(pillow):
                break
            cpu, wall = time.process_time(), time.perf_counter()
            summary = run(scorer, Listing([files]), work / f"{turn}.h5")
            found.append((time.process_time() - cpu, time.perf_counter() - wall))
            pillow.append(_decoding(photographs))
            if summary.scored != images:
                raise RuntimeError(f"{summary.scored} of {images} images were scored: {dict(summary.statuses)}")
        cpu, wall = min(found[1:])
        scorer.close()
    kilobytes = sum(map(len, photographs)) / len(photographs) / 1000
    return {
        "cpu_us": cpu / images * 1e6,
        "wall_us": wall / images * 1e6,
        "pillow_us": min(pillow) * 1e6,
        "kB_an_image": kilobytes,
    }


def _decoding(photographs: list[bytes]) -> float:
    """CPU seconds that Pillow takes for one of these: a yardstick for the machine and how busy it is."""
    start = time.process_time()
    for data in photographs * 4:
        Image.open(io.BytesIO(data)).load()
    return (time.process_time() - start) / (4 * len(photographs))


def _scorer(work: Path) -> Scorer:
    write_tiny(work / "tiny")
    scorer = Scorer(str(work / "tiny"), device="cpu", precision="fp32", isolate=False, batch_size=BATCH)
    lanes = [DeviceDecoder(DecodeOptions(SIZE, batch_size=BATCH), None) for _ in range(LANES)]
    for lane in lanes:
        lane._dali = Ready()  # type: ignore[assignment]
    scorer.decoder = Lanes(lanes)
    scorer.engine = DeviceEngine(Copy(), "torch", "fp16", "no device", None)
    return scorer


def _encoded(view: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(view).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    torch.set_num_threads(1)
    print(json.dumps({name: round(value, 1) for name, value in host_microseconds(parser.parse_args().images).items()}))


if __name__ == "__main__":
    main()
