"""Scores as columns of a Hugging Face dataset: add_scores(load_dataset(...)["train"])."""

from functools import cache

from datasets import Dataset, Image

from metaqap_fast import Scorer

scorer = cache(Scorer)  # made once in each process


def add_scores(dataset: Dataset, image: str = "image", **options: str) -> Dataset:
    """The dataset with columns score, uncertainty and status."""

    def scores(rows: dict) -> dict:
        files = [cell["bytes"] or open(cell["path"], "rb").read() for cell in rows[image]]
        table = scorer(**options).score_bytes(files).to_arrow()
        return {name: table.column(name).to_pylist() for name in ("score", "uncertainty", "status")}

    encoded = dataset.cast_column(image, Image(decode=False))  # files as they are, not decoded by Pillow
    return encoded.map(scores, batched=True, batch_size=500).cast_column(image, Image())
