"""The instruction sets that the compiled kernel has paths for, and which of them runs here."""

from __future__ import annotations

import enum

from metaqap_fast.engine import cpu
from metaqap_fast.engine.native.reader import Unsuited

BUILT, OFFERED = 1, 2  # mobilenet.h


class Isa(enum.IntEnum):
    """As in mobilenet.h."""

    PORTABLE = 0
    AVX2 = 1
    AVX_VNNI = 2
    AVX512 = 3
    AVX512_VNNI = 4
    AVX512_BF16 = 5
    AMX = 6


# Paths by what they compute in, the fastest first.
PATHS = {
    "fp32": (Isa.AVX512, Isa.AVX2, Isa.PORTABLE),
    "bf16": (Isa.AMX, Isa.AVX512_BF16),
    "int8": (Isa.AMX, Isa.AVX512_VNNI, Isa.AVX_VNNI, Isa.AVX512, Isa.AVX2, Isa.PORTABLE),
}


def runs(isa: Isa, precision: str) -> str:
    """Why the path does not run here, in a few words; empty if it does.

    Raises:
        Unsuited: the kernel is not there, see `library`.
    """
    from metaqap_fast.engine.native.library import library

    has = int(library().mobilenet_has(isa, precision == "int8"))
    if not has & OFFERED or not _allowed(isa):
        return f"this CPU has no {isa.name}"
    return "" if has & BUILT else f"the package was installed with a C compiler that does not know {isa.name}"


def paths(precision: str) -> list[Isa]:
    """The paths for a precision that run here, the fastest first.

    Raises:
        Unsuited: as `runs`.
    """
    return [isa for isa in PATHS[precision] if not runs(isa, precision)]


def path(precision: str) -> Isa:
    """The fastest.

    Raises:
        Unsuited: none runs here, or as `runs`.
    """
    found = paths(precision)
    if not found:
        raise Unsuited("; ".join(runs(isa, precision) for isa in reversed(PATHS[precision])))
    return found[0]


def _allowed(isa: Isa) -> bool:
    """Whether the CPU that is played (METAQAP_FAST_ISA) has it."""
    if isa == Isa.AVX_VNNI:  # beside the levels: of CPUs without AVX512
        return cpu.has("avx2") and cpu.played() is None
    return cpu.has(isa.name.lower())
