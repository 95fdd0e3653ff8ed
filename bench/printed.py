"""How a benchmark that is a module of its own tells its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def printed(found: dict[str, Any], output: Path | None, indent: int = 1) -> None:
    """Print figures as JSON, and write the same to a file if there is to be one."""
    text = json.dumps(found, indent=indent)
    print(text)
    if output:
        output.write_text(text + "\n")
