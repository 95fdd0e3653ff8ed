"""What this CPU can do, or the lesser CPU that the program is told to play.

A CPU is known by its level: the last of LEVELS whose instructions, and those of all levels before it, it has. With
METAQAP_FAST_ISA=avx2 (or another level that the CPU has) the whole program behaves as on a CPU of that level; so one
machine can test what users of lesser ones get. Child processes inherit it.

The one question to ask is `has("avx512_bf16")`. Whoever adds a path for a level asks it before taking the path, the
native engine included: instructions found by other means, such as cpuid in C, are those of the machine, not of the CPU
that is played. `limit_onednn` hands the limit on to OpenVINO and torch and is called before OpenVINO is loaded.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from metaqap_fast.errors import UsageError

VARIABLE = "METAQAP_FAST_ISA"
ONEDNN = "ONEDNN_MAX_CPU_ISA"
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Level:
    """`flags`: what it adds, as /proc/cpuinfo spells it; `onednn`: its name in ONEDNN_MAX_CPU_ISA."""

    flags: frozenset[str]
    onednn: str


LEVELS = {
    "portable": Level(frozenset(), "SSE41"),  # any x86-64 that the libraries run on
    "avx2": Level(frozenset({"avx2", "fma", "f16c"}), "AVX2"),
    "avx512": Level(frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"}), "AVX512_CORE"),
    "avx512_vnni": Level(frozenset({"avx512_vnni"}), "AVX512_CORE_VNNI"),
    "avx512_bf16": Level(frozenset({"avx512_bf16"}), "AVX512_CORE_BF16"),
    "amx": Level(frozenset({"amx_tile", "amx_int8", "amx_bf16"}), "AVX512_CORE_AMX"),
}


@functools.cache
def flags() -> frozenset[str]:
    """The machine's own; none where they cannot be read."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def playable() -> tuple[str, ...]:
    """The levels that this machine can play, its own last."""
    found = []
    for name, level in LEVELS.items():
        if not level.flags <= flags():
            break
        found.append(name)
    return tuple(found)


def played() -> str | None:
    """The level that the program is told to play, None for the machine's own.

    ONEDNN_MAX_CPU_ISA counts too if it names one of the levels: what it takes from OpenVINO is taken from the rest.

    Raises:
        UsageError: METAQAP_FAST_ISA names no level, or one that the machine lacks.
    """
    have = playable()
    if name := os.environ.get(VARIABLE):
        if name not in have:
            known = "this CPU has no such instructions" if name in LEVELS else "there is no such level"
            raise UsageError(f"{VARIABLE}={name}: {known}; here it can be {', '.join(have)}")
        return name
    asked = os.environ.get(ONEDNN, "").upper()
    return next((name for name in have if LEVELS[name].onednn == asked), None)


def level() -> str:
    """The CPU's level, a name of LEVELS.

    Raises:
        UsageError: as `played`.
    """
    return played() or playable()[-1]


def has(name: str) -> bool:
    """Whether the CPU is of this level or a higher one.

    Raises:
        UsageError: as `played`.
    """
    names = list(LEVELS)
    return names.index(name) <= names.index(level())


def has_vnni() -> bool:
    """Whether products of 8-bit numbers are summed in 32 bits. Without, they go through 16 bits, which overflow."""
    return has("avx512_vnni") or (played() is None and "avx_vnni" in flags())


def multiplies_in(precision: str) -> bool:
    """Whether the CPU has instructions for it. Without, OpenVINO is 2.3 times slower in bf16 than in fp32 (AVX512)."""
    return precision in ("fp32", "int8") or (precision == "bf16" and has("avx512_bf16"))


def default_precision() -> str:
    """bf16 where the CPU multiplies in it (AVX512-BF16, AMX), fp32 elsewhere."""
    return "bf16" if multiplies_in("bf16") else "fp32"


def limit_onednn() -> None:
    """Let libraries with oneDNN inside, which they ask when they are first used, play the same CPU."""
    if name := played():
        os.environ[ONEDNN] = LEVELS[name].onednn
