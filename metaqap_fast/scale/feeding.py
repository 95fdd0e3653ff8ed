"""How many processes keep a GPU busy: Python's threads share one lock, so that one process hands on so many images a
second and no more.
"""

from __future__ import annotations

import math
import os

from metaqap_fast.engine.choice import choose
from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.errors import MetaqapError
from metaqap_fast.scale import apart

# What a GPU does is estimated: the networks wait for its memory. docs/gpu.md says where the numbers are from.
IMAGE_BYTES = 340e6  # that the default model's networks move for an image in fp16
REACHED = 0.55  # of the memory's bandwidth, by the best engine
HOST_SECONDS = 227e-6  # of one process for an image
BUSY = 0.8  # of its time, at most: a process that has no time left lets the GPU wait
CORES, MEMORY = 4, 16 << 30  # that a process needs: cores, and bytes of the GPU's memory
FEW = 20_000  # images that are scored before a second process has started


def processes(gpu: Gpu, cores: int) -> int:
    """As many as the GPU can use, and the cores and its memory allow; one where its bandwidth is not known."""
    wanted = math.ceil(REACHED * gpu.bandwidth / IMAGE_BYTES * HOST_SECONDS / BUSY)
    return max(1, min(wanted, cores // CORES, gpu.memory // MEMORY))


def devices(engine: str, device: str) -> list[str]:
    """The device of each process of a run: what is named has one each time; `auto` as many as the GPU needs."""
    if device != "auto" or apart.inside:
        return device.split(",")
    try:
        gpu = choose(engine, device).gpu
    except MetaqapError:  # the run itself says what is wrong
        gpu = None
    return [gpu.device] * processes(gpu, len(os.sched_getaffinity(0))) if gpu else [device]
