"""Compiles every kernel ahead of time, without a GPU, and tables its registers, spills and shared memory.

    python -m metaqap_fast.kernels.aot [-o FOLDER] [--target 90 ...] [--update]

Exit status 1 when a kernel spills or needs more registers than `aot_registers.json` allows, which `--update` rewrites.
TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaqap_fast.errors import MetaqapError, UsageError

TARGETS = (80, 86, 89, 90, 100, 120)
LIMITS = Path(__file__).with_name("aot_registers.json")
_FLOAT = {"fp32": "*fp32", "bf16": "*bf16", "fp16": "*fp16"}


@dataclass(frozen=True)
class Variant:
    """One kernel with the types and constants that it is compiled for."""

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    warps: int


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes, per thread and (shared memory) per block; bytes except registers."""

    name: str
    target: int
    registers: int
    spills: int
    shared: int
    cubin: bytes


def variants() -> list[Variant]:
    """The kernels as they are launched on contiguous tensors, for the usual member counts and each dtype."""
    from metaqap_fast.kernels import qa_ensemble_launch as launch
    from metaqap_fast.kernels import qa_ensemble_triton as qa
    from metaqap_fast.kernels import soft_spearman_triton as spearman

    out = []
    for members, dtype in ((3, "fp32"), (5, "fp32"), (8, "fp32"), (16, "fp32"), (8, "bf16"), (8, "fp16")):
        cut = launch.tile(members)
        p, f = _FLOAT[dtype], "*fp32"
        sizes = {"M": members, "M_PAD": cut.columns, "BLOCK": cut.rows, "CONTIGUOUS": True, "HAS_MASK": True}
        head = {"members": p, "weights": f, "bias": f}
        steps = {"row_stride": "i32", "col_stride": "i32", "weight_stride": "i32"}
        table: list[tuple[str, Any, dict[str, str], dict[str, Any]]] = [
            ("combine", qa.combine_kernel,
             {**head, "mask": "*u8", "score": f, "spread": f, "bad": "*i32", "n_rows": "i32", **steps,
              "mask_stride": "i32"}, sizes),
            ("loss_block", qa.loss_block_kernel,
             {**head, "mos": f, "mask": "*u8", "score": f, "partials": "*fp64", "n_rows": "i32", "n_blocks": "i32",
              **steps, "mos_stride": "i32", "mask_stride": "i32"}, sizes),
            ("loss_grad", qa.loss_grad_kernel,
             {**head, "mos": f, "mask": "*u8", "stats": "*fp64", "grad_loss": f, "grad_score": f, "grad_members": p,
              "partials": f, "n_rows": "i32", "n_blocks": "i32", **steps, "mos_stride": "i32", "mask_stride": "i32",
              "grad_stride": "i32"},
             {**sizes, "HAS_LOSS": True, "HAS_SCORE": True, "HAS_MEMBERS": True, "INTERPRET": False}),
        ]  # fmt: skip
        out += [
            Variant(f"{stem}-{dtype}-m{members}", kernel, types, constants, cut.warps)
            for stem, kernel, types, constants in table
        ]
    f = "*fp32"
    pairs = {"ROWS": spearman.ROWS, "COLUMNS": spearman.COLUMNS, "HAS_MASK": True}
    merge = {"partials": "*fp64", "loss": f, "stats": "*fp64", "n_blocks": "i32", "l1": "fp32", "l2": "fp32"}
    rank = {"score": f, "mos": f, "mask": "*u8", "ranks": f, "bad": "*i32", "n_rows": "i32", "score_stride": "i32",
            "mos_stride": "i32", "mask_stride": "i32", "slope": "fp32"}  # fmt: skip
    rank_merge = {"ranks": f, "bad": "*i32", "loss": f, "stats": "*fp64", "n_rows": "i32", "n_blocks": "i32",
                  "mask": "*u8", "mask_stride": "i32"}  # fmt: skip
    rank_grad = {"score": f, "mask": "*u8", "ranks": f, "stats": "*fp64", "grad_loss": f, "grad_score": f,
                 "n_rows": "i32", "score_stride": "i32", "mask_stride": "i32", "slope": "fp32"}  # fmt: skip
    warps = spearman.RANK_WARPS
    return [
        *out,
        Variant("loss_merge", qa.loss_merge_kernel, merge, {"CHUNK": launch.MERGE_BLOCK}, 8),
        Variant("sum", qa.sum_kernel, {"partials": f, "out": f, "n_blocks": "i32"}, {"CHUNK": launch.SUM_BLOCK}, 4),
        Variant("spearman_rank", spearman.rank_kernel, rank, pairs, warps),
        Variant("spearman_merge", spearman.spearman_merge_kernel, rank_merge,
                {"CHUNK": spearman.MERGE_BLOCK, "HAS_MASK": True}, 8),
        Variant("spearman_grad", spearman.spearman_grad_kernel, rank_grad, {**pairs, "INTERPRET": False}, warps),
    ]  # fmt: skip


def compile_variant(variant: Variant, target: int) -> Usage:
    """Compiles one variant for sm_`target` and reads what ptxas gave it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from metaqap_fast.kernels.triton_math import OPTIONS

    # As a launch on contiguous tensors finds them: strides of 1, and pointers aligned to 16 bytes, which is what lets
    # it load whole vectors.
    constants = {**variant.constants, **{name: 1 for name in variant.signature if name.endswith("_stride")}}
    names = variant.kernel.arg_names
    types = {name: "constexpr" if name in constants else variant.signature[name] for name in names}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if types[name].startswith("*")}
    source = ASTSource(variant.kernel, signature=types, constexprs=constants, attrs=aligned)
    options = {"num_warps": variant.warps, **OPTIONS}
    compiled = compile(source, target=GPUTarget("cuda", target, 32), options=options)
    cubin = compiled.asm["cubin"]
    registers, spills = resources(cubin)
    return Usage(variant.name, target, registers, spills, int(compiled.metadata.shared), cubin)


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory (where spilled registers go; the kernels use none else) per thread."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    if found is None:
        raise MetaqapError(f"cuobjdump printed no resource usage: {text!r}")
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def faults(usages: list[Usage], limits: dict[str, dict[str, int]]) -> Iterator[str]:
    """A line for each spill and each kernel above, or absent from, the committed registers."""
    for usage in usages:
        where = f"{usage.name} for sm_{usage.target}"
        if usage.spills:
            yield f"{where} spills {usage.spills} bytes"
        limit = limits.get(usage.name, {}).get(str(usage.target))
        if limit is None:
            yield f"{where} has no committed register count: run with --update"
        elif usage.registers > limit:
            yield f"{where} needs {usage.registers} registers, {limit} are committed"


def table(usages: list[Usage]) -> str:
    """The usages as a text table."""
    rows = [f"{'kernel':<22} {'target':>7} {'registers':>9} {'spills':>6} {'shared':>7}"]
    rows += [f"{u.name:<22} {f'sm_{u.target}':>7} {u.registers:>9} {u.spills:>6} {u.shared:>7}" for u in usages]
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="metaqap_fast.kernels.aot", description="Compile the kernels without a GPU.")
    parser.add_argument("-o", "--output", type=Path, help="folder for the cubins and usage.txt")
    parser.add_argument("--target", type=int, nargs="+", choices=TARGETS, default=TARGETS, help="sm numbers")
    parser.add_argument("--update", action="store_true", help=f"commit these register counts to {LIMITS.name}")
    parser.add_argument("--only", default="", help="kernels whose name begins so")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    try:
        import triton
    except ModuleNotFoundError:
        raise MetaqapError("the GPU kernels need triton: pip install 'metaqap-fast[gpu]'") from None
    if triton.knobs.runtime.interpret:
        raise UsageError("TRITON_INTERPRET is set: nothing would be compiled")
    chosen = [variant for variant in variants() if variant.name.startswith(options.only)]
    work = [(variant, target) for variant in chosen for target in options.target]
    with ThreadPoolExecutor(options.jobs) as pool:
        usages = list(pool.map(lambda item: compile_variant(*item), work))
    print(table(usages))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "usage.txt").write_text(table(usages) + "\n")
        for usage in usages:
            (options.output / f"{usage.name}.sm_{usage.target}.cubin").write_bytes(usage.cubin)
    limits: dict[str, dict[str, int]] = json.loads(LIMITS.read_text()) if LIMITS.exists() else {}
    if options.update:
        for usage in usages:
            limits.setdefault(usage.name, {})[str(usage.target)] = usage.registers
        LIMITS.write_text(json.dumps(limits, indent=1) + "\n")
    lines = list(faults(usages, limits))
    print("\n".join(lines), file=sys.stderr, end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MetaqapError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
