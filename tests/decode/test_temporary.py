"""Nothing is left in TMPDIR, and none is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images import encode
from metaqap_fast.decode import DecodeOptions, Limits, create
from metaqap_fast.records import Encoded


@pytest.mark.parametrize("limits", [None, Limits()])
def test_nothing_is_left(
    limits: Limits | None, tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # look again
    decoder = create(DecodeOptions(64), limits=limits)
    (file,) = decoder.stream([Encoded(b"", encode(photo, "PNG"))])
    (array,) = decoder.stream_arrays([(b"", np.asarray(photo))])
    assert file.error is None and np.array_equal(file.views, array.views)
    assert not list(tmp_path.rglob("*"))  # nor while it runs
    decoder.close()
    assert not list(tmp_path.rglob("*"))


def test_none_is_needed(photo: Image.Image, tmp_path: Path) -> None:
    """In a container whose file systems are read-only."""
    (tmp_path / "image.png").write_bytes(encode(photo, "PNG"))
    code = (
        "import sys\n"
        "def audit(event, args):\n"
        "    if event.startswith('tempfile.'): raise FileNotFoundError('No usable temporary directory found')\n"
        "sys.addaudithook(audit)\n"
        "from metaqap_fast.decode import DecodeOptions, create\n"
        "from metaqap_fast.records import Encoded\n"
        "decoder = create(DecodeOptions(64))\n"
        "(image,) = decoder.stream([Encoded(b'', open(sys.argv[1], 'rb').read())])\n"
        "(array,) = decoder.stream_arrays([(b'', image.views[0])])\n"
        "print(image.error, array.error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "image.png")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout == "None None\n", result.stderr
