"""Score tables in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metaqap_fast.errors import Status, UsageError
from metaqap_fast.records import Row
from metaqap_fast.scores.schema import COLUMNS, Values, of_rows, select
from metaqap_fast.streams import counted

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class ScoreTable:
    """Rows as columns of equal length; compares by identity.

    `table[i]` is a `Row`; `table[slice]`, `table[mask]` and `table[row numbers]` are tables, by numpy's rules for
    negative numbers and errors; iteration gives rows. Each field of `Row` is an attribute: `score` and `uncertainty`
    [N] float32, 0 worst to 1 best, NaN where failed; `members` [N, M] float32; `status` [N] uint8, see `Status`;
    `error` N texts; `width` and `height` [N] uint32, pixels as displayed; `nbytes` [N] uint64.

    Args:
        columns: the columns by field, all of them and of equal length; bytes and texts as lists.
        attributes: how the scores were made, as in the root attributes of a score file.
    """

    # For editors and mypy alone; a column of scores/schema.py that is not named here is an attribute all the same.
    score: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    members: NDArray[np.float32]
    status: NDArray[np.uint8]
    error: list[str]
    width: NDArray[np.uint32]
    height: NDArray[np.uint32]
    nbytes: NDArray[np.uint64]

    __slots__ = ("attributes", "columns")

    def __init__(self, columns: Mapping[str, Values], attributes: Mapping[str, Any]) -> None:
        self.columns = {column.field: columns[column.field] for column in COLUMNS}
        self.attributes = dict(attributes)
        if len(set(map(len, self.columns.values()))) > 1:
            raise ValueError("columns of different lengths")

    def __getattr__(self, name: str) -> Any:
        if name == "columns":  # before __init__, as when a table is copied
            raise AttributeError(name)
        try:
            return self.columns[name]
        except KeyError:
            raise AttributeError(f"a score table has no column {name!r}; it has {', '.join(self.columns)}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.columns]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Row]:
        return (self._row(i) for i in range(len(self)))

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> Row: ...
    @overload
    def __getitem__(self, rows: slice | ArrayLike) -> ScoreTable: ...
    def __getitem__(self, rows: Any) -> Row | ScoreTable:
        if not isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
            if rows.ndim == 0:
                return self._row(int(rows))
            if rows.ndim > 1:
                raise IndexError("rows are chosen by a number, a slice, or a one-dimensional mask or list of numbers")
        return ScoreTable({name: select(values, rows) for name, values in self.columns.items()}, self.attributes)

    def _row(self, i: int) -> Row:
        return Row(**{column.field: column.value(self.columns[column.field], i) for column in COLUMNS})

    def __repr__(self) -> str:
        model = f", model {self.attributes['bundle']}" if "bundle" in self.attributes else ""
        return f"<ScoreTable: {counted(len(self), 'row')}, {int(self.ok.sum()):,} scored{model}>"

    @property
    def keys(self) -> list[bytes]:
        """N paths as bytes."""
        return self.columns["key"]  # type: ignore[return-value]

    @property
    def paths(self) -> list[str]:
        """Keys as text; bytes that are not UTF-8 by surrogateescape, as `os.fsdecode` does."""
        return [os.fsdecode(key) for key in self.keys]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """[N] True where the image was scored."""
        return np.asarray(self.status == Status.ok)

    @classmethod
    def concatenate(cls, tables: Sequence[ScoreTable]) -> ScoreTable:
        """The rows of one or more tables; of an attribute that differs, the first one's."""
        attributes = {name: value for table in reversed(tables) for name, value in table.attributes.items()}
        return cls({c.field: c.concatenate([t.columns[c.field] for t in tables]) for c in COLUMNS}, attributes)

    @classmethod
    def from_rows(cls, rows: Iterable[Row], attributes: Mapping[str, Any]) -> ScoreTable:
        """Columns of rows; `attributes["members"]` gives the width of an empty table."""
        return cls(of_rows(rows, attributes), attributes)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ScoreTable:
        """Read a score file.

        Raises:
            UsageError: no such file.
            MetaqapError: not a score file, damaged, or of a newer format.
        """
        from metaqap_fast.scores.hdf5 import open_scores, read_rows

        with open_scores(path) as file:
            return read_rows(file)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a score file (.h5, .hdf5), or a .csv, .jsonl or .parquet file, in place of any that is there.

        Raises:
            UsageError: another ending.
            MetaqapError: it cannot be written, or pyarrow is missing; what was there before is kept.
        """
        from metaqap_fast.scores.durable import save_scores
        from metaqap_fast.scores.export import WRITERS, export

        path = Path(path)
        if path.suffix.lower() in (".h5", ".hdf5"):
            save_scores(path, self.attributes, [self])
        elif path.suffix.lower() in WRITERS:
            export(self, path)
        else:
            raise UsageError(f"cannot save as {path.name}: the name must end in .h5, {', '.join(WRITERS)}")

    def to_arrow(self) -> pa.Table:
        """As a pyarrow table, with the columns of an export to parquet.

        Raises:
            MetaqapError: pyarrow is missing.
        """
        from metaqap_fast.scores.export import to_arrow

        return to_arrow(self)

    def to_pandas(self) -> pd.DataFrame:
        """As a pandas data frame, with the columns of an export to csv; NaN where failed.

        Raises:
            MetaqapError: pandas is missing.
        """
        from metaqap_fast.scores.export import to_pandas

        return to_pandas(self)
