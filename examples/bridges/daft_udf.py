"""Scores in a Daft data frame: frame.with_column("score", Quality().score(daft.col("image")))."""

import daft

from metaqap_fast import Scorer


@daft.cls(max_concurrency=1)  # one Scorer uses all cores
class Quality:
    """Scores a column of image files as bytes; null where an image cannot be scored."""

    def __init__(self, **options: str) -> None:
        self.scorer = Scorer(**options)

    @daft.method.batch(return_dtype=daft.DataType.float32())
    def score(self, images: daft.Series) -> daft.Series:
        """The scores of a batch."""
        table = self.scorer.score_bytes(image or b"" for image in images.to_pylist()).to_arrow()
        return daft.Series.from_arrow(table.column("score"), "score")
