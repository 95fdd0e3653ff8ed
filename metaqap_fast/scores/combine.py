"""Score files of several runs as one: of the shares of a source, of one machine after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metaqap_fast.errors import UsageError
from metaqap_fast.input.places import address_of, common, key_of, url
from metaqap_fast.scores.claim import Claim, parts_of
from metaqap_fast.scores.committed import check_finished, committed
from metaqap_fast.scores.durable import replacing
from metaqap_fast.scores.export import write_table_file
from metaqap_fast.scores.hdf5 import open_scores, read_attributes
from metaqap_fast.scores.identity import agreed
from metaqap_fast.scores.merge import merged
from metaqap_fast.scores.probe import try_out
from metaqap_fast.scores.totals import Totals
from metaqap_fast.streams import counted


def combine(
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    overwrite: bool = False,
    incomplete: bool = False,
) -> Totals:
    """Merge score files into one, its rows in the order of their keys, in bounded memory.

    Files of one folder keep their keys; those of different folders get the keys that they have when the folders are
    scored together. Of a key that stands in several files the last one's row is taken.

    Args:
        paths: score files, or the folder of the parts of an interrupted run.
        output: a score file, or .csv, .jsonl or .parquet; made whole or not at all.
        overwrite: replace an existing output.
        incomplete: shares of a source may be missing.

    Returns:
        What was merged.

    Raises:
        UsageError: no such file; scores that were not made in the same way; a missing share; an existing output.
        MetaqapError: a file is damaged, or the output cannot be written.
    """
    files = [file for path in paths for file in _files(path)]
    try_out(*files)
    attributes = [_attributes(file) for file in files]
    together = _together(files, attributes, incomplete)
    prefixes, together["root"] = _one_root(files, attributes)
    totals = Totals()
    with Claim(output, "overwrite" if overwrite else "new") as claim, replacing(claim.output) as partial:
        tables = totals.passing(merged(files, prefixes=prefixes))
        write_table_file(partial, claim.suffix, together, tables)
    return totals


def _files(path: str | os.PathLike[str]) -> Iterator[Path]:
    path = Path(path)
    if path.is_dir():
        output = path.with_name(path.name.removesuffix(".parts"))
        found = [part for part in committed(output) if part.parent == parts_of(output)]
        if not found or not path.name.endswith(".parts"):
            raise UsageError(f"{path} is a folder without rows of a run")
        yield from found
    else:
        check_finished(path)
        yield path


def _attributes(path: Path) -> dict[str, Any]:
    with open_scores(path) as file:
        return read_attributes(file)


def _together(files: Sequence[Path], attributes: Sequence[Mapping[str, Any]], incomplete: bool) -> dict[str, Any]:
    """The root attributes of all of them."""
    shards = [str(about["shard"]) for about in attributes if "shard" in about]
    counts = {shard.partition("/")[2] for shard in shards}
    if len(counts) > 1:
        raise UsageError(f"the files are shares of {' and of '.join(sorted(counts))}: they belong to different runs")
    missing = sorted({f"{i}/{n}" for n in map(int, counts) for i in range(n)} - set(shards), key=_index)
    if missing and not incomplete:
        what = f"{counted(len(missing), 'share')} missing, the first is {missing[0]}"
        raise UsageError(f"the source is not complete: {what}; give --incomplete to merge the rest")
    first, *rest = ({k: v for k, v in about.items() if k != "shard"} for about in attributes)
    found = dict(first)
    for path, about in zip(files[1:], rest, strict=True):
        found = agreed(path, found, about, merging=True)
    return found


def _one_root(files: Sequence[Path], attributes: Sequence[Mapping[str, Any]]) -> tuple[dict[Path, bytes], str]:
    """What stands before the keys of each file, so that they are those of all sources named together; their root."""
    roots = [str(about["root"]) for about in attributes if "root" in about]
    if len(set(roots)) <= 1 and len(roots) in (0, len(files)):
        return {}, "".join(roots[:1])
    if len(roots) < len(files):
        old = next(path for path, about in zip(files, attributes, strict=True) if "root" not in about)
        raise UsageError(
            f"{old} does not say what its keys are relative to (an older version wrote it), and the "
            "other files are of another folder"
        )
    addresses = [address_of(root) for root in roots]
    known = [address for address in addresses if address is not None]
    root = common(known) if len(known) == len(addresses) else None
    prefixes = {f: key_of(address, root) for f, address in zip(files, addresses, strict=True) if address is not None}
    return prefixes, url(root)


def _index(shard: str) -> int:
    return int(shard.partition("/")[0])
