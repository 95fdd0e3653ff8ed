"""Coverage-guided fuzzing of everything that parses what others wrote.

    python tests/fuzz.py header|pixels|heif|jxl|gif|raw|profile|bundle|table SECONDS [INPUTS]

With a number of inputs they are the same ones each time, as far as the program is the same. Several targets (gif,raw)
run side by side; what each has said is printed when it has ended.

A finding is written to tests/findings/TARGET-HASH and ends the run; `test_fuzz.py` replays them for ever.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import atheris

sys.path.insert(0, str(Path(__file__).parent / "support"))

with atheris.instrument_imports(include=["metaqap_fast"]):
    from fuzz_targets import TARGETS

FINDINGS = Path(__file__).parent / "findings"


def main() -> None:
    targets, seconds, inputs = sys.argv[1].split(","), int(sys.argv[2]), [int(number) for number in sys.argv[3:]]
    if len(targets) == 1:
        fuzz(targets[0], seconds, inputs)
    sys.exit(max(side_by_side(targets, seconds, inputs)))


def side_by_side(targets: list[str], seconds: int, inputs: list[int]) -> list[int]:
    """The exit status of each target, which has a process of its own; what they need was imported once."""
    running = {}
    for target in targets:
        said = tempfile.TemporaryFile("w+", errors="replace")
        if pid := os.fork():
            running[target] = pid, said
            continue
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
        fuzz(target, seconds, inputs)
    statuses = []
    for target, (pid, said) in running.items():
        statuses.append(abs(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
        said.seek(0)
        print(f"--- {target}: ended with status {statuses[-1]}", said.read(), sep="\n", flush=True)
    return statuses


def fuzz(target: str, seconds: int, inputs: list[int]) -> NoReturn:
    """Ends the process: with status 0 if nothing was found."""
    check, seeds = TARGETS[target]

    def one(data: bytes) -> None:
        try:
            check(data)
        except BaseException:
            FINDINGS.mkdir(exist_ok=True)
            (FINDINGS / f"{target}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
            raise

    with tempfile.TemporaryDirectory() as folder:
        for i, seed in enumerate(seeds()):
            Path(folder, str(i)).write_bytes(seed)
        # The limit is on one allocation: the peak of memory that libFuzzer reads is inherited from a large parent.
        # That on time is by the clock, and a dozen runs may share two cores.
        limits = ["-timeout=20", "-rss_limit_mb=0", "-malloc_limit_mb=2048", "-max_len=65536"]
        # A crash of a C library, a hang or a huge allocation raises nothing: libFuzzer itself writes those down.
        kept = f"-artifact_prefix={FINDINGS}/{target}-"
        options = [f"-max_total_time={seconds}", *limits, "-verbosity=1", kept]
        options += [option for number in inputs for option in (f"-runs={number}", "-seed=1")]
        atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", folder], one)
        atheris.Fuzz()
    raise AssertionError("libFuzzer ends the process")


if __name__ == "__main__":
    main()
