"""Scores as columns of a Ray dataset. Ray schedules, retries and moves data; what is ours is an actor that is fast.

import metaqap_fast, ray

images = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
metaqap_fast.ray.score(images).write_parquet("s3://bucket/scores")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metaqap_fast.errors import ImageError, Status, UsageError
from metaqap_fast.input.members import check_size
from metaqap_fast.records import Stamp
from metaqap_fast.scale.actor import Actor
from metaqap_fast.scale.connect import imported
from metaqap_fast.scores.schema import COLUMNS
from metaqap_fast.scores.table import ScoreTable

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

ROWS = 1000  # that a worker hands on together


def score(
    dataset: Dataset,
    image: str = "bytes",
    key: str = "path",
    *,
    keep_image: bool = False,
    concurrency: int | tuple[int, int] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    **scorer_options: Any,
) -> Dataset:
    """Add the columns of a score table to a dataset of images; lazy, like every operation on a dataset.

    An image that cannot be scored keeps its row, with a status and an error. The same image gets the same score as on
    one machine. A worker or a node that dies is replaced by Ray; a GPU that is lost ends the job with an error.

    Args:
        dataset: a row for each image, as `read_binary_files`, `read_parquet`, `from_huggingface` and
            `read_webdataset(decoder=None)` make them. Its blocks are the batches.
        image: the column of images: encoded files as bytes, or structs {bytes, path}.
        key: the column of what the images are called, for messages.
        keep_image: keep the column of images, which is dropped otherwise.
        concurrency: workers, or the least and the most of them. None: one on each GPU of the cluster as it is now, or
            on each of its CPUs if it has no GPU.
        num_cpus: CPUs for each worker. None: one, if there is no GPU.
        num_gpus: GPUs for each worker. None: one, if there are any.
        **scorer_options: those of `Scorer`.

    Returns:
        the dataset's own columns, and those of a score file's export to parquet but for the path: `score`,
        `uncertainty`, `status`, `error` and so on.

    Raises:
        UsageError: no such column, or one whose name a column of scores has.
        MetaqapError: Ray is missing.
    """
    _ray()
    names = list(dataset.columns() or [])
    for column in (image, key):
        if column not in names:
            raise UsageError(f"the dataset has no column {column!r}; it has {', '.join(names) or 'none'}")
    kept = [name for name in names if keep_image or name != image]
    ours = {column.name for column in COLUMNS if column.is_exported and column.name not in _passed_over(image)}
    if clash := sorted(ours & set(kept) - {key}):
        raise UsageError(f"the dataset has columns that scores need: rename or drop {', '.join(clash)}")
    resources = worker_resources(num_cpus, num_gpus)
    return dataset.map_batches(
        _Scoring,
        fn_constructor_kwargs={"options": scorer_options, "image": image, "key": key, "keep_image": keep_image},
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=pool(concurrency or workers(resources)),
        **resources,
    )


def pool(size: int | tuple[int, int]) -> Any:
    """Ray's way to say how many actors there are, or the least and the most of them."""
    from ray.data import ActorPoolStrategy

    if isinstance(size, int):
        return ActorPoolStrategy(size=size)
    return ActorPoolStrategy(min_size=size[0], max_size=size[1])


def worker_resources(num_cpus: float | None = None, num_gpus: float | None = None) -> dict[str, Any]:
    """What Ray is to give each worker: a GPU if the cluster has any, otherwise a CPU, unless something is asked for."""
    if num_cpus is None and num_gpus is None:
        return {"num_gpus": 1} if _ray().cluster_resources().get("GPU") else {"num_cpus": 1}
    return {name: number for name, number in (("num_cpus", num_cpus), ("num_gpus", num_gpus)) if number is not None}


def workers(resources: Mapping[str, Any]) -> int:
    """How many of these the cluster has room for as it is now; at least one."""
    there = _ray().cluster_resources()
    each = {"GPU": resources.get("num_gpus", 0), "CPU": resources.get("num_cpus", 0)}
    return max(1, min((int(there.get(name, 0) / number) for name, number in each.items() if number), default=1))


def _ray() -> Any:
    """Ray, started on this machine if it was not."""
    ray = imported()
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    return ray


def _passed_over(image: str) -> set[str]:
    """Columns of scores that a dataset does not get: the key is there, and so is the size of an image that is kept."""
    return {"path", image}


class _Scoring(Actor):
    """Scores one block after the other."""

    def __init__(self, options: Mapping[str, Any], image: str, key: str, keep_image: bool) -> None:
        super().__init__(options)
        self._image, self._key, self._keep = image, key, keep_image

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """The rows of a block with their scores, some at a time."""
        scorer, names = self.scorer(), block.column(self._key)
        entries = (_Cell(_text(names[i]), image) for i, image in enumerate(block.column(self._image)))
        rest = block if self._keep else block.drop_columns([self._image])
        rows, start = scorer.stream(entries), 0
        while start < len(block):
            some = [row for row, _ in zip(rows, range(min(ROWS, len(block) - start)), strict=False)]
            table = ScoreTable.from_rows(some, scorer.describe()).to_arrow()
            own = rest.slice(start, len(some))
            for name in table.column_names:
                if name not in _passed_over(self._image) or (name == self._image and not self._keep):
                    own = own.append_column(name, table.column(name))
            yield own
            start += len(some)


@dataclass(frozen=True, slots=True)
class _Cell:
    """An `Entry`: a row of a block in memory."""

    key: bytes
    image: Any  # a pyarrow scalar: bytes, or a struct of bytes and path
    distant = False
    kept = 0

    def stamp(self) -> Stamp:
        """Nothing was seen of it but itself."""
        return Stamp()

    def read(self, max_bytes: int, ahead_bytes: int) -> memoryview:
        """See `Entry.read`."""
        found = self.image["bytes"] if hasattr(self.image, "keys") else self.image
        if not hasattr(found, "as_buffer"):
            raise UsageError(f"the column of images holds {found.type}, not the bytes of image files")
        data = found.as_buffer()
        if data is None:
            raise ImageError(Status.unreadable, "the row holds no image: it is null")
        check_size(data.size, max_bytes)
        return memoryview(data)


def _text(name: Any) -> bytes:
    found = name.as_py()
    return found if isinstance(found, bytes) else str(found).encode(errors="surrogateescape")
