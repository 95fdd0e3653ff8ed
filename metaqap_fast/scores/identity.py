"""Whether rows of two runs may stand in one score file: what decides scores must be the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from metaqap_fast.errors import UsageError
from metaqap_fast.scores.hdf5 import ABOUT_FILE

# Root attributes that decide the scores.
IDENTITY = ("bundle_digest", "precision", "engine", "preprocessing")
# Those that do too, but are compared only where both runs have recorded them.
IF_RECORDED = ("engine_version", "decoder")
# Recorded, not compared: a newer version of the program must be able to go on with a run.
VERSION = "program_version"


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first thing that decides scores in which two scorers differ, by its name; see `Scorer.describe`."""
    names = (*IDENTITY, *IF_RECORDED)
    return next((name for name in names if found.get(name) != wanted.get(name)), None)


def agreed(
    output: str | os.PathLike[str],
    found: Mapping[str, Any],
    ours: Mapping[str, Any],
    moved: bool = False,
    merging: bool = False,
) -> dict[str, Any]:
    """The attributes of an output that holds rows of an earlier run and of this one.

    Args:
        output: for the message.
        found: the earlier run's attributes, which stay.
        ours: this run's; what the earlier run did not record is added.
        moved: the folder that keys are relative to is the same one in another place.
        merging: `ours` is no run but another output.

    Raises:
        UsageError: the two would give different scores, or the same key to different images.
    """
    if not merging:
        _same_images(output, found, ours, moved)
    for name in (*IDENTITY, *(name for name in IF_RECORDED if name in found and name in ours)):
        if found.get(name) != ours.get(name):
            if merging:
                raise UsageError(
                    f"cannot merge {output}: its rows were made with {name} {ours.get(name)!r}, those of the files "
                    f"before it with {found.get(name)!r}"
                )
            raise UsageError(
                f"cannot resume {output}: its rows were made with {name} {found.get(name)!r}, "
                f"this run has {ours.get(name)!r}. Use the same, or --overwrite"
            )
    attributes = {**ours, **{name: value for name, value in found.items() if name not in ABOUT_FILE}}
    for name in ("preprocessing", "root"):
        if name in ours:
            attributes[name] = ours[name]
    versions = {version for each in (found, ours) if VERSION in each for version in str(each[VERSION]).split(", ")}
    if versions:
        attributes[VERSION] = ", ".join(sorted(versions))
    return {**attributes, **_sources(found, ours, together=merging or not moved)}


def _same_images(
    output: str | os.PathLike[str], found: Mapping[str, Any], ours: Mapping[str, Any], moved: bool
) -> None:
    """Keys are relative to one folder, or whole paths; and each of several shares has an output of its own."""
    before, now = found.get("root"), ours.get("root")
    if before is None and now is not None and len(found.get("source", ())) > 1:
        raise UsageError(
            f"cannot resume {output}: an older version of the program wrote it, which gave images of several sources "
            "other names. Give --overwrite or another -o"
        )
    if before is not None and now is not None and before != now and not moved:
        raise UsageError(
            f"cannot resume {output}: its keys are {_relative(before)}, those of this run {_relative(now)}. Name the "
            "same sources, or another -o; if it is the same folder in another place, give --moved"
        )
    if found.get("shard") != ours.get("shard"):
        raise UsageError(
            f"cannot resume {output}: it holds {_share(found.get('shard'))}, this run is for "
            f"{_share(ours.get('shard'))}. Give each share an -o of its own"
        )


def _relative(root: str) -> str:
    return f"relative to {root}" if root else "whole paths"


def _share(shard: str | None) -> str:
    return f"share {shard}" if shard else "the whole source"


def _sources(found: Mapping[str, Any], ours: Mapping[str, Any], together: bool) -> dict[str, list[str]]:
    """What the rows come from: all that was named, each once under its present name; or only what is named now."""
    if "roots" not in ours:
        return {}
    named = dict(zip(ours["roots"], ours["source"], strict=True))
    if "roots" in found and together:
        named = {**dict(zip(found["roots"], found["source"], strict=False)), **named}
    return {"source": list(named.values()), "roots": list(named)}
