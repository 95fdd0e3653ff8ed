"""Scores of a score file as fields of a FiftyOne dataset, to sort and filter by in its app."""

from pathlib import Path

import fiftyone

from metaqap_fast import ScoreTable


def add_fields(dataset: fiftyone.Dataset, scores: str, folder: str) -> None:
    """Fields quality and quality_uncertainty for the samples whose files were scored as keys relative to `folder`."""
    table = ScoreTable.read(scores)
    rows = {str(Path(folder).resolve() / path): row for path, row in zip(table.paths, table, strict=True)}
    found = {sample.id: rows[sample.filepath] for sample in dataset.iter_samples() if sample.filepath in rows}
    for field, name in (("quality", "score"), ("quality_uncertainty", "uncertainty")):
        values = {key: float(getattr(row, name)) for key, row in found.items() if not row.status}
        dataset.set_values(field, values, key_field="id")
