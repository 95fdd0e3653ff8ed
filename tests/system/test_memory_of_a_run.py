"""What a run takes of memory: no more for many images, nor for large ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from images import encode

pytestmark = pytest.mark.full

# MB that a process took at most; unlike ru_maxrss not of the process that started it, which may be larger.
PEAK = "next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) // 1024"


def test_memory_does_not_grow_with_the_number_of_images(bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    code = f"import sys; from metaqap_fast.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: print({PEAK})"
    peaks = []
    for count in (300, 2000):
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
    """Thirty of 30 MB before an engine that is slower than the disk: 900 MB, were they all read ahead."""
    code = (
        "import sys, time; from metaqap_fast.engine import openvino_engine as openvino\n"
        "from metaqap_fast.cli import main\n"
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
    for i in range(1, 30):
        (folder / f"{i}.jpg").hardlink_to(folder / "0.jpg")
    arguments = ["score", str(folder), "--model", str(bundle), "-o", str(tmp_path / "s.h5"), "--quiet", "--strict"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    peak = int(result.stdout)
    assert 200 < peak < 600
