"""Score tables as csv, jsonl and parquet."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from metaqap_fast.errors import MetaqapError, Status, UsageError
from metaqap_fast.scores.table import ScoreTable


def records(table: ScoreTable) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries of plain values; NaN is None, bytes that are not UTF-8 are escaped as \\xNN."""
    names = table.attributes["members"]
    for i, key in enumerate(table.keys):
        ok = table.status[i] == Status.ok
        yield {
            "path": key.decode(errors="backslashreplace"),
            "score": float(table.score[i]) if ok else None,
            "uncertainty": float(table.uncertainty[i]) if ok else None,
            "status": Status(table.status[i]).name,
            "error": table.error[i],
            "width": int(table.width[i]),
            "height": int(table.height[i]),
            "bytes": int(table.nbytes[i]),
            **{f"member_{n}": float(v) if ok else None for n, v in zip(names, table.members[i], strict=True)},
        }


def export(table: ScoreTable, path: str | os.PathLike[str]) -> None:
    """Write a table as .csv, .jsonl or .parquet (needs pyarrow), by the name's ending; atomically.

    Raises:
        UsageError: another ending.
        MetaqapError: pyarrow is missing, or the file cannot be written.
    """
    path = Path(path)
    writers = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise UsageError(f"cannot export to {path.name}: the name must end in {', '.join(writers)}")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            writer(table, file)
        partial.replace(path)
    except OSError as error:
        raise MetaqapError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def _write_csv(table: ScoreTable, file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    rows = list(records(table))
    columns = list(rows[0]) if rows else ["path", "score", "uncertainty", "status", "error"]
    out = csv.DictWriter(text, columns)
    out.writeheader()
    out.writerows(rows)
    text.detach()


def _write_jsonl(table: ScoreTable, file: IO[bytes]) -> None:
    for record in records(table):
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _write_parquet(table: ScoreTable, file: IO[bytes]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MetaqapError("parquet needs pyarrow: pip install 'metaqap-fast[parquet]'") from None
    rows = list(records(table))
    metadata = {name: json.dumps(value) for name, value in table.attributes.items()}
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), file)
