"""What very many rows cost a Ray cluster of this machine: rows a second, the driver's memory, and Ray's object store.

    python -m metaqap_fast.bench.cluster_rows [--rows 1000000] [-o rows.json]

The images are JPEGs of 64x64 pixels in a hundred tars, which are links of five; the model costs next to nothing. Images
are read where they are scored, so the object store should hold parts of the output and no images.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metaqap_fast.bench.environment import brief
from metaqap_fast.bench.printed import printed
from metaqap_fast.bench.tiny import write_tiny

TARS, DIFFERENT = 100, 5
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def shards(folder: Path, rows: int) -> Path:
    """A folder of tars with so many members."""
    from PIL import Image

    rng = np.random.default_rng(0)
    made = folder / "shards"
    made.mkdir()
    for i in range(DIFFERENT):
        with tarfile.open(folder / f"{i}.tar", "w") as tar:
            for member in range(rows // TARS):
                out = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64)).save(out, "JPEG")
                info = tarfile.TarInfo(f"{i}-{member:06d}.jpg")
                info.size = out.tell()
                out.seek(0)
                tar.addfile(info, out)
    for i in range(TARS):
        os.link(folder / f"{i % DIFFERENT}.tar", made / f"{i:03d}.tar")
    return made


@contextmanager
def cluster(*options: str) -> Iterator[str]:
    """The address of a cluster of this machine alone, started with these options of `ray start`; it is stopped then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["RAY_AUTH_MODE"] = "disabled"  # a token would be written to HOME
    start = ["start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", *options]
    subprocess.run([*RAY, *start, "--disable-usage-stats"], check=True, capture_output=True, timeout=120)
    import ray

    try:
        yield f"{ray.util.get_node_ip_address()}:{port}"
    finally:
        subprocess.run([*RAY, "stop", "--force"], check=True, capture_output=True, timeout=120)


def measured(source: Path, model: Path, out: Path, address: str) -> dict[str, Any]:
    """One run, watched from beside it."""
    import ray

    command = ["-c", "from metaqap_fast.cli import main; main()", "score", str(source), "--model", str(model)]
    start = time.monotonic()
    run = subprocess.Popen([sys.executable, *command, "-o", str(out), "--ray", address, "--json"], text=True,
                           stdout=subprocess.PIPE)  # fmt: skip
    ray.init(address, log_to_driver=False)
    whole, most = ray.cluster_resources()["object_store_memory"], 0.0
    spilled = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    while run.poll() is None:
        most = max(most, whole - ray.available_resources().get("object_store_memory", whole))
        time.sleep(1)
    seconds = time.monotonic() - start
    ray.shutdown()
    found = json.loads(run.stdout.read()) if run.stdout is not None else {}
    return {
        "rows": found["images"],
        "scored": found["scored"],
        "seconds": round(seconds, 1),
        "rows_per_second": round(found["images"] / seconds, 1),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
        "object_store_peak_mb": round(most / 1e6, 1),
        "spilled_bytes": sum(path.stat().st_size for path in spilled.rglob("*spill*/*") if path.is_file()),
    }


def main() -> None:
    """Measure; say it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, cluster() as address:
        work = Path(name)
        found = measured(shards(work, options.rows), write_tiny(work / "tiny"), work / "scores.h5", address)
    printed({**brief(), **found}, options.output)


if __name__ == "__main__":
    main()
