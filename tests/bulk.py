"""What the program makes of every file of a folder, beside what Pillow, OpenCV and libvips show.

    python tests/bulk.py FOLDER... [--list] [--json rows.jsonl]

Needs OpenCV, pyvips and pyvips-binary, which the extra `dev` installs. A file is wrong if it is ok and the pixels that
would be scored differ by more than a level on average from what two viewers agree on, and refused if it is not ok and
two viewers show the same whole picture. Both are listed, the rest is counted. Viewers' pixels go through the same
resize and cut. "Right but for its profile": so it is when the viewers' pixels are converted as ours are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "support"))

import viewers
from metaqap_fast.decode import DecodeOptions, Limits
from metaqap_fast.decode.colour import colours
from metaqap_fast.decode.supervisor import Supervisor
from metaqap_fast.formats import EXTENSIONS, read_header
from metaqap_fast.records import Encoded

SIZE = 512  # of a view, as the shipped members have it
MAX_PIXELS = 50_000_000
SAME = 1.0  # levels, on average, that two decoders of one file may differ


class Viewers:
    """The viewers in a process of their own, which may crash or hang."""

    def __init__(self, seconds: float) -> None:
        self._pool, self._seconds = self._start(), seconds

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"), initializer=_silent)

    def show(self, data: bytes) -> dict[str, Any]:
        try:
            return self._pool.submit(viewers.shown, data, MAX_PIXELS).result(self._seconds)
        except (BrokenProcessPool, TimeoutError) as error:
            for process in list(self._pool._processes.values()):
                process.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = self._start()
            return dict.fromkeys(viewers.VIEWERS, f"a viewer crashed or hung ({type(error).__name__})")

    def close(self) -> None:
        self._pool.shutdown()


def _silent() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say about bad files


def files(folders: list[str]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and path.suffix.lower().encode() in EXTENSIONS:
                yield path


def judged(paths: Iterator[Path]) -> Iterator[dict[str, Any]]:
    """A record for each file."""
    decoder = Supervisor(DecodeOptions(SIZE, batch_size=1, max_pixels=MAX_PIXELS), Limits(max_seconds=60))
    others = Viewers(60)
    try:
        for path in paths:
            data = path.read_bytes()
            (ours,) = decoder.stream([Encoded(b"", data)])
            found = others.show(data)
            yield {"path": str(path), **_record(decoder, data, ours, found)}
    finally:
        decoder.close()
        others.close()


def _record(decoder: Supervisor, data: bytes, ours: Any, found: dict[str, Any]) -> dict[str, Any]:
    arrays = {name: each for name, each in found.items() if isinstance(each, np.ndarray)}
    scored = {name: decoded.views.astype(np.int16) for name, decoded in zip(
        arrays, decoder.stream_arrays((b"", each) for each in arrays.values()), strict=True)}  # fmt: skip
    record: dict[str, Any] = {
        "status": ours.error.status.name if ours.error else "ok", "error": str(ours.error or ""), "note": ours.note,
        "size": [ours.width, ours.height],
        "viewers": {name: each if isinstance(each, str) else [*each.shape[1::-1]] for name, each in found.items()},
    }  # fmt: skip
    agree = [pair for pair in combinations(scored, 2) if _difference(scored[pair[0]], scored[pair[1]]) <= SAME]
    if ours.error:
        record["verdict"] = "refused" if agree else "not ok, nor shown alike by two"
        return record
    mine = ours.views.astype(np.int16)
    off = {name: round(_difference(mine, each), 2) for name, each in scored.items()}
    record["difference"] = {name: value if np.isfinite(value) else None for name, value in off.items()}
    fine = [name for name, value in off.items() if value <= SAME]
    # Browsers apply the gamma of a PNG and the profiles of 16-bit and JPEG 2000 files; these viewers do not.
    profile = colours(read_header(data).icc)
    as_ours = (np.stack([profile.rgb(view.astype(np.uint8)) for view in each]) for each in scored.values())
    converted = [_difference(mine, each) for each in as_ours]
    if not scored:
        record["verdict"] = "shown by no viewer"
    elif agree:
        record["verdict"] = "right" if fine else "right but for its profile" if min(converted) <= SAME else "wrong"
    else:
        record["verdict"] = "as one viewer" if fine else "no two viewers agree, and none with us"
    return record


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean levels; infinite for pictures of other shapes."""
    return float(np.abs(a - b).mean()) if a.shape == b.shape else float("inf")


LISTED = ("wrong", "refused", "no two viewers agree, and none with us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="+")
    parser.add_argument("--list", action="store_true", help="every file, not only those that differ")
    parser.add_argument("--json", help="write a record for each file to this file")
    arguments = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    out = open(arguments.json, "w") if arguments.json else None
    for record in judged(files(arguments.folder)):
        counts[record["status"], record["verdict"]] += 1
        if out:
            out.write(json.dumps(record) + "\n")
        if arguments.list or record["verdict"] in LISTED:
            print(record["verdict"], record["path"], record["status"], record["error"], record["size"],
                  record.get("difference", record["viewers"]), flush=True)  # fmt: skip
    print(f"\n{sum(counts.values())} files")
    for (status, verdict), count in sorted(counts.items()):
        print(f"{count:6} {status:12} {verdict}")
    wrong = sum(count for (_, verdict), count in counts.items() if verdict == "wrong")
    corrupt = sum(count for (status, verdict), count in counts.items() if (status, verdict) == ("corrupt", "refused"))
    print(f"{wrong} ok with another picture, {corrupt} called corrupt that two viewers show")


if __name__ == "__main__":
    main()
