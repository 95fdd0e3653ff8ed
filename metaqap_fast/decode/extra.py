"""Libraries of the extra `formats`, which a plain installation lacks."""

from __future__ import annotations

import importlib
from typing import Any

from metaqap_fast.errors import ImageError, Status


def library(name: str, form: str) -> Any:
    """A module.

    Raises:
        ImageError: `unsupported`: it is not installed; the row says what to install to read the format `form`.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        reason = f"{form} needs another package: pip install 'metaqap-fast[formats]'"
        raise ImageError(Status.unsupported, reason) from None
