"""Scores in Spark: spark.read.format("binaryFile").load("photos").mapInPandas(score, schema=SCHEMA)."""

from collections.abc import Iterator
from functools import cache

import pandas as pd

from metaqap_fast import Scorer

SCHEMA = "path string, score float, uncertainty float, status string, error string"
scorer = cache(Scorer)  # made once in each Python worker


def score(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Rows of path and content become rows of SCHEMA."""
    for batch in batches:
        table = scorer().score_bytes(batch["content"]).to_pandas()
        yield table.assign(path=batch["path"].to_numpy())[["path", "score", "uncertainty", "status", "error"]]
