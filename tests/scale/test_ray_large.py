"""Ten thousand images on a cluster whose workers are killed: the file of one machine that nothing befell."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

import crash
from command import run
from images import encode
from metaqap_fast.bench.tiny import write_tiny
from ray_cluster import by_ray, killing_workers

pytest.importorskip("ray", reason="NOT TESTED HERE: Ray is missing")
SHARDS, EACH = 10, 1000


@pytest.mark.nightly
def test_ten_thousand_images_and_two_killed_workers(head: str, photo: Image.Image, tmp_path: Path) -> None:
    sound = [encode(photo.crop((i, i, i + 64, i + 64)), "JPEG") for i in range(100)]
    (tmp_path / "shards").mkdir()
    for shard in range(SHARDS):
        with tarfile.open(tmp_path / f"shards/{shard}.tar", "w") as tar:
            for i in range(EACH):
                data = sound[(7 * shard + i) % 100] if i % 100 else sound[0][:300]  # one in a hundred is cut short
                member = tarfile.TarInfo(f"{i:04d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    model, out, plain = write_tiny(tmp_path / "tiny"), tmp_path / "s.h5", tmp_path / "plain.h5"
    result = run("score", tmp_path / "shards", "--model", model, "-o", plain, "--precision", "fp32")
    assert result.returncode == 0, result.stderr
    with killing_workers(tmp_path / "s.h5.parts", after_parts=(20, 60)) as killed:
        result = by_ray(head, tmp_path / "shards", "--model", model, "-o", out, "--rows-per-part", 100)
    assert result.returncode == 0, result.stderr
    assert "9,900 scored, 100 failed (100 corrupt)" in result.stderr and len(set(killed)) == 2
    assert crash.datasets(out) == crash.datasets(plain)
