"""Changes the program, one small thing at a time, and counts the changes that its tests do not notice.

    python tests/mutants.py [ROOM...] [--sample 200] [--seed 0] [--tree .]

Works on a copy. Mutants are those of cosmic-ray: an operator, a number or a keyword is another. Left out are those
that change nothing when the program runs: in annotations, and `is` in place of `==`. Survivors are printed; each is
a test that is missing, or a change that may be.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from functools import partial
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import apply_mutation
from cosmic_ray.plugins import get_operator, operator_names

# What is changed, and the tests that are to notice: quick ones, for each change runs them all.
ROOMS = {
    "views": (["metaqap_fast/decode/views.py"], ["tests/decode/test_views.py"]),
    "infer": (["metaqap_fast/infer.py"], ["tests/engine/test_infer.py"]),
    "memory": (["metaqap_fast/input/memory.py"], ["tests/input/test_memory.py"]),
    "formats": (["metaqap_fast/formats/*.py"], ["tests/formats"]),
    "scores": (
        ["metaqap_fast/scores/*.py"],
        ["tests/scores", "--deselect=tests/scores/test_schema.py::test_a_column_is_one_entry"],  # starts interpreters
    ),
    "run": (
        ["metaqap_fast/run.py", "metaqap_fast/signals.py", "metaqap_fast/streams.py", "metaqap_fast/child.py"],
        ["tests/system/test_run.py", "tests/system/test_signals.py", "tests/system/test_standard_streams.py"],
    ),
    "scale": (["metaqap_fast/scale/*.py"], ["tests/scale"]),
    "cli": (
        ["metaqap_fast/cli/shared.py", "metaqap_fast/cli/progress.py", "metaqap_fast/review/*.py"],
        ["tests/cli"],
    ),
    "model": (["metaqap_fast/model/*.py"], ["tests/model/test_bundle.py", "tests/model/test_combine.py"]),
    "overlap": (["metaqap_fast/overlap.py"], ["tests/system/test_overlap.py"]),
    "evaluation": (
        ["metaqap_fast/evaluation.py"],
        [
            "tests/system/test_evaluation.py",
            "--deselect=tests/system/test_evaluation.py::test_intervals_hold_the_truth",
        ],
    ),
}
SECONDS, MEMORY = 30, 8 << 30  # of processor time, bytes: a change that costs more was noticed
WAITING = 300  # seconds: the same for one that makes threads wait for each other


@dataclass(frozen=True, order=True)
class Mutant:
    """The change that an operator makes to a file at its n-th opportunity."""

    file: Path
    line: int
    column: int
    operator: str
    occurrence: int


def main() -> None:
    """Try the mutants of some rooms; print the score and the survivors of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", nargs="*", help=f"one of {', '.join(ROOMS)}; all of them if none is named")
    parser.add_argument("--sample", type=int, default=200, help="mutants of each room, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[1], help="another checkout")
    options = parser.parse_args()
    failed = 0
    for room in options.room or ROOMS:
        patterns, tests = ROOMS[room]
        with tempfile.TemporaryDirectory() as work:
            copy = Path(work, "copy")
            left_out = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "results")
            shutil.copytree(options.tree, copy, symlinks=True, ignore=left_out)
            failed |= in_a_fork(partial(measure, room, copy, patterns, tests, options.sample, options.seed))
    sys.exit(failed != 0)


def measure(room: str, copy: Path, patterns: Sequence[str], tests: Sequence[str], sample: int, seed: int) -> int:
    """One room's mutants, in a process of its own."""
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    pytest.main(["-q", "--collect-only", "--no-header", *tests])  # imports what every run needs
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(copy)):
            del sys.modules[name]
    sys.dont_write_bytecode = True
    if run(tests, quiet=False):
        print(f"{room}: the tests fail without a change")
        return 1
    found = sorted(each for pattern in patterns for file in sorted(copy.glob(pattern)) for each in mutants(file))
    chosen = sorted(random.Random(seed).sample(found, min(sample, len(found))))
    survivors = impossible = 0
    for mutant in chosen:
        before = mutant.file.read_text()
        try:
            _, after = apply_mutation(mutant.file, get_operator(mutant.operator)(), mutant.occurrence)
            if run(tests):
                continue
        except AttributeError:  # cosmic-ray cannot replace an exception with a dotted name
            impossible += 1
            continue
        finally:
            mutant.file.write_text(before)
        survivors += 1
        print(f"{mutant.file.relative_to(copy)}:{mutant.line} {mutant.operator}")
        lines = list(unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[3:]
        print(*(f"    {line}" for line in lines), sep="\n", flush=True)
    tried = len(chosen) - impossible
    print(f"{room}: {tried - survivors} of {tried} mutants noticed; there are {len(found)}", flush=True)
    return 0


def run(tests: Sequence[str], quiet: bool = True) -> int:
    """The tests' exit status in a process of their own: 0 if nothing was noticed."""

    def tried() -> int:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(WAITING)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if quiet:
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 1)
                os.dup2(null.fileno(), 2)
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))

    return in_a_fork(tried)


def in_a_fork(work: Callable[[], int]) -> int:
    """What a function returns, called in a copy of this process; not 0 if that dies."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = work()
        except BaseException:  # noqa: BLE001 -- the process ends here
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def mutants(file: Path) -> Iterator[Mutant]:
    """All of a file's that change what runs."""
    annotations = [
        ((each.lineno, each.col_offset), (each.end_lineno, each.end_col_offset))
        for node in ast.walk(ast.parse(file.read_text()))
        for each in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if each is not None
    ]
    tree = get_ast_from_path(file)
    for name in operator_names():
        if get_operator(name).arguments() or name.endswith(("_Is", "_IsNot")):
            continue
        operator = get_operator(name)()
        places = (place for node in ast_nodes(tree) for place in operator.mutation_positions(node))
        for occurrence, ((line, column), _) in enumerate(places):
            if not any(first <= (line, column) < last for first, last in annotations):
                yield Mutant(file, line, column, name, occurrence)


if __name__ == "__main__":
    main()
