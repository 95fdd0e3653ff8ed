"""A folder of wheels in pieces that a narrow channel takes, put together again and installed without a network.

    python3 bench/wheels.py split WHEELS PIECES [--size 50]    # MB for each piece, and a manifest with digests
    python3 bench/wheels.py join PIECES WHEELS                 # refuses a piece that is missing or damaged
    python3 bench/wheels.py install WHEELS SITE                # pip, offline, into a folder for PYTHONPATH

`split --pattern '*.tar'` does the same with other files: data to train on, or the weights on their way back.
Needs nothing but Python and pip.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MANIFEST = "wheels.json"


class WheelError(Exception):
    """What is wrong with the pieces, in one line."""


def split(wheels: Path, pieces: Path, size: int, pattern: str = "*.whl") -> dict[str, Any]:
    """Cut every wheel into pieces of at most `size` bytes; small wheels stay whole. Returns the manifest."""
    pieces.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {"wheels": []}
    for wheel in sorted(wheels.glob(pattern)):
        entry: dict[str, Any] = {"name": wheel.name, "sha256": _digest(wheel), "pieces": []}
        with open(wheel, "rb") as file:
            number = 0
            while data := file.read(size):
                name = f"{wheel.name}.{number:03d}"
                (pieces / name).write_bytes(data)
                entry["pieces"].append({"name": name, "sha256": hashlib.sha256(data).hexdigest()})
                number += 1
        manifest["wheels"].append(entry)
    if not manifest["wheels"]:
        raise WheelError(f"{wheels} holds no {pattern}")
    (pieces / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def join(pieces: Path, wheels: Path) -> list[Path]:
    """Put the wheels together; every digest is checked.

    Raises:
        WheelError: no manifest, a piece that is missing or damaged.
    """
    try:
        manifest = json.loads((pieces / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise WheelError(f"{pieces / MANIFEST} cannot be read: {error}") from None
    missing = [p["name"] for w in manifest["wheels"] for p in w["pieces"] if not (pieces / p["name"]).is_file()]
    if missing:
        raise WheelError(f"{len(missing)} pieces are missing: {', '.join(missing[:5])}{', ...' if missing[5:] else ''}")
    wheels.mkdir(parents=True, exist_ok=True)
    made = []
    for entry in manifest["wheels"]:
        path = wheels / Path(entry["name"]).name
        with open(path, "wb") as file:
            for piece in entry["pieces"]:
                data = (pieces / Path(piece["name"]).name).read_bytes()
                if hashlib.sha256(data).hexdigest() != piece["sha256"]:
                    raise WheelError(f"{piece['name']} is damaged: its sha256 differs")
                file.write(data)
        if _digest(path) != entry["sha256"]:
            raise WheelError(f"{path.name} is not what was split: its sha256 differs")
        made.append(path)
    return made


def install(wheels: Path, site: Path) -> None:
    """Install every wheel of a folder, and nothing else, into `site`.

    Raises:
        WheelError: pip refuses one; the message is pip's last line.
    """
    names = [str(path) for path in sorted(wheels.glob("*.whl"))]
    if not names:
        raise WheelError(f"{wheels} holds no wheels")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--find-links", str(wheels), "--no-deps"]
    command += ["--no-compile", "--no-cache-dir", "--upgrade", "--target", str(site), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelError(f"pip: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["split", "join", "install"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--size", type=float, default=50, help="MB for each piece")
    parser.add_argument("--pattern", default="*.whl", help="of the files to split")
    options = parser.parse_args(arguments)
    try:
        if options.what == "split":
            manifest = split(options.source, options.target, int(options.size * 1e6), options.pattern)
            print(f"{sum(len(w['pieces']) for w in manifest['wheels'])} pieces of {len(manifest['wheels'])} files")
        elif options.what == "join":
            print(f"{len(join(options.source, options.target))} files")
        else:
            install(options.source, options.target)
    except WheelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
