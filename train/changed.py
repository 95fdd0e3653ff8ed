"""Settings with entries changed, as `--set` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from metaqap_fast.errors import UsageError

T = TypeVar("T")
WORDS = {"int": "a whole number", "float": "a number", "str": "a word", "bool": "true or false"}


def changed(settings: T, changes: Mapping[str, Any]) -> T:
    """A dataclass of numbers and words with some of its entries changed.

    Raises:
        UsageError: there is no such entry, or its value is of another type.
    """
    kinds = {field.name: str(field.type) for field in fields(settings)}  # type: ignore[arg-type]
    for entry, value in changes.items():
        if entry not in kinds:
            raise UsageError(f"there is no setting {entry!r}: {', '.join(kinds)}")
        kind = type(value).__name__
        if kind != kinds[entry] and (kind, kinds[entry]) != ("int", "float"):
            raise UsageError(f"--set {entry}={value}: {entry} is {WORDS[kinds[entry]]}")
    return replace(settings, **changes)  # type: ignore[type-var]
