"""Changes the program, one small thing at a time, and counts the changes that its tests do not notice.

    python tests/mutants.py ROOM... [--sample 200] [--seed 0] [--tree .]

Works on a copy. Mutants are those of cosmic-ray: an operator, a number or a keyword is another. Left out are those
that change nothing when the program runs: in annotations, and `is` in place of `==`. Survivors are printed; each is
a test that is missing, or a change that may be.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, WorkerOutcome, WorkResult

# What is changed, and the tests that are to notice: quick ones, for each change runs them all.
ROOMS = {
    "views": (["metaqap_fast/decode/views.py"], ["tests/decode/test_views.py"]),
    "formats": (["metaqap_fast/formats"], ["tests/formats"]),
}
SECONDS = 120  # a mutant that takes longer is one that was noticed


def main() -> None:
    """Run the mutants of some rooms; print the score and the survivors of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", nargs="*", default=list(ROOMS), choices=[*ROOMS, []])
    parser.add_argument("--sample", type=int, default=200, help="mutants of each room, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[1], help="another checkout")
    options = parser.parse_args()
    for room in options.room:
        with tempfile.TemporaryDirectory() as work:
            measure(room, options.tree, Path(work), options.sample, options.seed)


def measure(room: str, tree: Path, work: Path, sample: int, seed: int) -> None:
    """One room's mutants."""
    modules, tests = ROOMS[room]
    copy = work / "copy"
    shutil.copytree(
        tree, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", "results")
    )
    command = f"{sys.executable} -B -m pytest -x -q -p no:cacheprovider {' '.join(tests)}"
    (work / "settings.toml").write_text(
        f"[cosmic-ray]\nmodule-path = {modules}\ntimeout = {SECONDS}\nexcluded-modules = []\n"
        f"test-command = {command!r}\n[cosmic-ray.distributor]\nname = 'local'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(copy)}

    def run(*arguments: str | Path) -> None:
        subprocess.run(arguments, cwd=copy, env=environment, check=True)

    run(*command.split())  # without a change they pass
    session = work / "session.sqlite"
    run(sys.executable, "-m", "cosmic_ray.cli", "init", work / "settings.toml", session)
    with use_db(session, WorkDB.Mode.open) as database:
        items = {item.job_id: item.mutations[0] for item in database.work_items}
        chosen = [job for job, mutation in sorted(items.items(), key=_place) if not _idle(copy, mutation)]
        kept = random.Random(seed).sample(chosen, min(sample, len(chosen)))
        database.set_multiple_results(items.keys() - set(kept), WorkResult(WorkerOutcome.SKIPPED))
    run(sys.executable, "-m", "cosmic_ray.cli", "exec", work / "settings.toml", session)
    with use_db(session, WorkDB.Mode.open) as database:
        results = [(items[job], result) for job, result in database.results if job in kept]
    noticed = Counter(result.is_killed for _, result in results)
    print(f"{room}: {noticed[True]} of {len(results)} mutants noticed, {len(chosen)} in all")
    for mutation, result in sorted(results, key=lambda pair: _place(("", pair[0]))):
        if not result.is_killed:
            print(f"  {mutation.module_path}:{mutation.start_pos[0]} {mutation.operator_name}")
            changes = (result.diff or "").splitlines()[2:]
            print(*(f"    {line}" for line in changes if line.startswith(("-", "+"))), sep="\n")


def _place(item: tuple[str, MutationSpec]) -> tuple[object, ...]:
    mutation = item[1]
    return str(mutation.module_path), mutation.start_pos, mutation.operator_name, mutation.occurrence


def _idle(tree: Path, mutation: MutationSpec) -> bool:
    """Whether it changes nothing that runs."""
    if mutation.operator_name.endswith(("_Is", "_IsNot")):
        return True
    place = mutation.start_pos
    for node in ast.walk(ast.parse((tree / mutation.module_path).read_text())):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if annotation is not None:
                start = annotation.lineno, annotation.col_offset
                if start <= place < (annotation.end_lineno, annotation.end_col_offset):
                    return True
    return False


if __name__ == "__main__":
    main()
