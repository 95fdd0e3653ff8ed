"""Ten thousand images on a cluster whose workers are killed: the file of one machine that nothing befell."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

import crash
from command import run
from images import encode
from metaqap_fast.bench.tiny import write_tiny
from ray_cluster import another_node, by_ray, killing_workers, lose

ray = pytest.importorskip("ray", reason="NOT TESTED HERE: Ray is missing")
SHARDS, EACH = 10, 1000


@pytest.fixture(scope="module")
def shards(photo: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tars of a thousand small JPEGs, one in a hundred of which is cut short."""
    root = tmp_path_factory.mktemp("shards")
    sound = [encode(photo.crop((i, i, i + 64, i + 64)), "JPEG") for i in range(100)]
    for shard in range(SHARDS):
        with tarfile.open(root / f"{shard}.tar", "w") as tar:
            for i in range(EACH):
                data = sound[(7 * shard + i) % 100] if i % 100 else sound[0][:300]
                member = tarfile.TarInfo(f"{i:04d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def plain(shards: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "s.h5"
    result = run("score", shards, "--model", tiny, "-o", out, "--precision", "fp32")
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.nightly
def test_ten_thousand_images_and_two_killed_workers(
    head: str, shards: Path, tiny: Path, plain: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s.h5"
    with killing_workers(tmp_path / "s.h5.parts", after_parts=(20, 60)) as killed:
        result = by_ray(head, shards, "--model", tiny, "-o", out, "--rows-per-part", 100)
    assert result.returncode == 0, result.stderr
    assert "9,900 scored, 100 failed (100 corrupt)" in result.stderr and len(set(killed)) == 2
    assert crash.datasets(out) == crash.datasets(plain)


@pytest.mark.nightly
def test_a_node_that_is_lost_costs_nothing(head: str, shards: Path, tiny: Path, plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    with another_node(head) as node:
        ray.init(head, log_to_driver=False)
        while ray.cluster_resources().get("CPU", 0) < 3:
            time.sleep(0.2)
        ray.shutdown()

        def switch_off() -> None:
            while len(list((tmp_path / "s.h5.parts").glob("part-*.h5"))) < 20:
                time.sleep(0.05)
            lose(node)

        thread = threading.Thread(target=switch_off)
        thread.start()
        result = by_ray(head, shards, "--model", tiny, "-o", out, "--rows-per-part", 100)
        thread.join()
    assert result.returncode == 0, result.stderr
    assert "3 Ray workers" in result.stderr and crash.datasets(out) == crash.datasets(plain)
