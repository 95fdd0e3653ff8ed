"""What an installed package must do: `python .ci/installed.py`, by the Python of its environment.

Every path of the kernel is there, and the examples are scored with it by the installed command. Nothing else of the
checkout is used.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def missing_paths() -> list[str]:
    """Paths of the native engine that the installed kernel was compiled without."""
    from metaqap_fast.engine.native.isa import BUILT, PATHS
    from metaqap_fast.engine.native.library import library

    has = library().mobilenet_has
    return [f"{i.name} ({kind})" for kind, isas in PATHS.items() for i in isas if not has(i, kind == "int8") & BUILT]


def main() -> None:
    """Ends with a message and status 1 where the installation is not whole."""
    if missing := missing_paths():
        sys.exit(f"the kernel was compiled without {', '.join(missing)}")
    from metaqap_fast.decode import resize
    from metaqap_fast.formats import scan

    if scan.compiled() is None:
        sys.exit("the check of JPEGs was not compiled")
    if resize.compiled() is None:
        sys.exit("what makes pictures smaller was not compiled")
    program = str(Path(sysconfig.get_path("scripts"), "metaqap-fast"))
    settings = ["--engine", "native", "--precision", "fp32", "--json", "-o", "scores.h5"]
    with tempfile.TemporaryDirectory() as folder:  # not the checkout, whose package would be imported
        run = subprocess.run(
            [program, "score", str(EXAMPLES), *settings], cwd=folder, stdout=subprocess.PIPE, check=True
        )
    found = json.loads(run.stdout)
    images = len(list(EXAMPLES.glob("*.jpg")))  # one of them is a text
    if (found["scored"], found["failed"]) != (images - 1, {"unsupported": 1}):
        sys.exit(f"{found['scored']} of {images - 1} examples scored, failed: {found['failed']}")

    import metaqap_fast

    where = Path(metaqap_fast.__file__).parent
    print(f"{where}: all paths of the kernel, {found['scored']} images scored on {found['device']}")


if __name__ == "__main__":
    main()
