"""What a CPU can do is read of its flags, and a lesser one can be played."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaqap_fast.engine import cpu
from metaqap_fast.errors import UsageError

# As /proc/cpuinfo has them, and what follows: the level, VNNI, the precision that is chosen.
CPUS = {
    "Nehalem": ("sse4_1 sse4_2", "portable", False, "fp32"),
    "EPYC Milan": ("avx2 fma f16c", "avx2", False, "fp32"),
    "Alder Lake": ("avx2 fma f16c avx_vnni", "avx2", True, "fp32"),
    "Skylake-SP": ("avx2 fma f16c avx512f avx512bw avx512dq avx512vl", "avx512", False, "fp32"),
    "Ice Lake": ("avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni", "avx512_vnni", True, "fp32"),
    "EPYC Genoa": (
        "avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16", "avx512_bf16", True, "bf16",
    ),
    "Sapphire Rapids": (
        "avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16",
        "amx", True, "bf16",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_played(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in (cpu.VARIABLE, cpu.ONEDNN):
        monkeypatch.delenv(variable, raising=False)
    cpu.flags.cache_clear()
    yield
    cpu.flags.cache_clear()


def on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nmodel name : {name}\nflags\t\t: fpu {CPUS[name][0]}\n\n")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")


@pytest.mark.parametrize("name", CPUS)
def test_flags_say_what_a_cpu_can_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(name, tmp_path, monkeypatch)
    _, level, vnni, precision = CPUS[name]
    assert (cpu.level(), cpu.has_vnni(), cpu.default_precision()) == (level, vnni, precision)
    names = list(cpu.LEVELS)
    assert [each for each in names if cpu.has(each)] == names[: names.index(level) + 1] == list(cpu.playable())


def test_without_flags_it_is_any_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "none")
    assert (cpu.level(), cpu.has_vnni(), cpu.default_precision()) == ("portable", False, "fp32")


@pytest.mark.parametrize(
    ("name", "played", "vnni", "precision"),
    [
        ("Sapphire Rapids", "avx2", False, "fp32"),
        ("Sapphire Rapids", "avx512_vnni", True, "fp32"),
        ("Sapphire Rapids", "avx512_bf16", True, "bf16"),
        ("Alder Lake", "avx2", False, "fp32"),
        ("EPYC Milan", "portable", False, "fp32"),
    ],
)
def test_a_lesser_cpu_is_played_in_the_whole_program(
    name: str, played: str, vnni: bool, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(name, tmp_path, monkeypatch)
    monkeypatch.setenv(cpu.VARIABLE, played)
    assert (cpu.level(), cpu.has_vnni(), cpu.default_precision()) == (played, vnni, precision)
    cpu.limit_onednn()
    limit = os.environ.pop(cpu.ONEDNN)  # monkeypatch does not know of it
    assert limit == cpu.LEVELS[played].onednn
    monkeypatch.delenv(cpu.VARIABLE)
    monkeypatch.setenv(cpu.ONEDNN, limit)
    assert cpu.level() == played  # what is taken from OpenVINO alone is taken from the rest


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("amx", "METAQAP_FAST_ISA=amx: this CPU has no such instructions; here it can be portable, avx2"),
        ("avx3", "METAQAP_FAST_ISA=avx3: there is no such level; here it can be portable, avx2"),
        ("AVX2", "METAQAP_FAST_ISA=AVX2: there is no such level; here it can be portable, avx2"),
    ],
)
def test_what_cannot_be_played_is_one_line(
    value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("EPYC Milan", tmp_path, monkeypatch)
    monkeypatch.setenv(cpu.VARIABLE, value)
    for ask in (cpu.level, cpu.limit_onednn, cpu.has_vnni, lambda: cpu.multiplies_in("bf16")):
        with pytest.raises(UsageError) as caught:
            ask()
        assert str(caught.value) == words


def test_libraries_are_left_alone_where_nothing_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu.limit_onednn()
    assert cpu.ONEDNN not in os.environ
    monkeypatch.setenv(cpu.ONEDNN, "AVX512_CORE_FP16")  # no level of ours
    cpu.limit_onednn()
    assert cpu.played() is None and os.environ[cpu.ONEDNN] == "AVX512_CORE_FP16"
