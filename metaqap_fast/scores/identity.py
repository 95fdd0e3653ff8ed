"""Whether rows of two runs may stand in one score file: what decides scores must be the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from metaqap_fast.errors import UsageError
from metaqap_fast.options import OLD_VIEWS
from metaqap_fast.scores.hdf5 import ABOUT_FILE

# Root attributes that decide the scores.
IDENTITY = ("bundle_digest", "precision", "engine", "preprocessing")
# Those that do too, but are compared only where both runs have recorded them.
IF_RECORDED = ("engine_version", "decoder")
# Recorded, not compared: a newer version of the program must be able to go on with a run.
VERSION = "program_version"


def agreed(output: str | os.PathLike[str], found: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of an output that holds rows of an earlier run and of this one.

    Args:
        output: for the message.
        found: the earlier run's attributes, which stay.
        ours: this run's; what the earlier run did not record is added.

    Raises:
        UsageError: the two would give different scores.
    """
    for name in (*IDENTITY, *(name for name in IF_RECORDED if name in found and name in ours)):
        if _in_today_s_words(found.get(name)) != ours.get(name):
            raise UsageError(
                f"cannot resume {output}: its rows were made with {name} {found.get(name)!r}, "
                f"this run has {ours.get(name)!r}. Use the same, or --overwrite"
            )
    attributes = {**ours, **{name: value for name, value in found.items() if name not in ABOUT_FILE}}
    if "preprocessing" in ours:
        attributes["preprocessing"] = ours["preprocessing"]
    versions = {version for each in (found, ours) if VERSION in each for version in str(each[VERSION]).split(", ")}
    if versions:
        attributes[VERSION] = ", ".join(sorted(versions))
    return attributes


def _in_today_s_words(value: Any) -> Any:
    """Version 0.1 had other names for the view modes."""
    for old, new in OLD_VIEWS.items():
        value = value.replace(f"views={old}", f"views={new}") if isinstance(value, str) else value
    return value
