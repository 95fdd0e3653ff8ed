"""The columns of a score table, derived from `Row`: one list that everything else about rows follows.

A column is one entry: a field of `records.Row`, such as

    blur: Annotated[float, Stored("f4", meaning="0 sharp to 1 blurred")] = nan

The annotated type says what a row holds, and so what kind of column it is:

    bytes           a key: text as far as it is UTF-8, and the bytes themselves where it is not
    str             a text
    float, int      a number of the stored dtype
    an IntEnum      a number of the stored dtype with the enum's names
    an array        several numbers, [N, M] in a table; a name in the plural ("members"), for which the root
                    attribute of the same name lists what each of the M stands for

A field without a default is in every file. One with a default may be missing from a file (an older version wrote it);
its rows then hold the default, for an array a single number that stands for all M. So new columns come last and
have a default. Storage (hdf5.py), tables (table.py), merges and exports loop over `COLUMNS` and know no column but
the key and the status by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from operator import attrgetter
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.records import Row, Stored

Values = list[Any] | NDArray[Any]  # a column of a table: a list of bytes or texts, or an array of numbers


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    field: its name in `Row` and `ScoreTable`. type: of a row's value, `np.ndarray` where there are several numbers.
    default: what stands in rows of a file without it; `dataclasses.MISSING` where every file has it.
    """

    field: str
    type: Any
    stored: Stored
    default: Any

    @property
    def name(self) -> str:
        """In files and exports."""
        return self.stored.name or self.field

    @property
    def is_text(self) -> bool:
        """A list of bytes or texts, not an array of numbers."""
        return self.type in (bytes, str)

    @property
    def is_wide(self) -> bool:
        """Several numbers a row."""
        return self.type is np.ndarray

    @property
    def is_exported(self) -> bool:
        """It says something to people; the others are for the program itself."""
        return self.stored.exported

    @property
    def is_optional(self) -> bool:
        """A file may lack it."""
        return self.default is not dataclasses.MISSING

    @property
    def enum(self) -> type[IntEnum] | None:
        """What its numbers stand for."""
        return self.type if issubclass(self.type, IntEnum) else None

    def is_stored(self, attributes: Mapping[str, Any]) -> bool:
        """Whether files and exports with these root attributes have it."""
        return not self.stored.needs or len(attributes.get(self.stored.needs, ())) > 0

    def labels(self, attributes: Mapping[str, Any]) -> list[str]:
        """What each number of a row of a wide column stands for."""
        return list(attributes.get(self.name, ()) if self.is_optional else attributes[self.name])

    def shape(self, rows: int, attributes: Mapping[str, Any]) -> tuple[int, ...]:
        """Of the column in a table: [N], or [N, M]."""
        return (rows, len(self.labels(attributes))) if self.is_wide else (rows,)

    def of(self, values: Sequence[Any], attributes: Mapping[str, Any]) -> Values:
        """The column of rows with these values."""
        if self.is_text:
            return list(values)
        shape = self.shape(len(values), attributes)
        if self.is_wide:  # a default is one number for all
            values = [value if np.ndim(value) else np.full(shape[1:], value) for value in values]
        return np.array(values, self.stored.dtype).reshape(shape)

    def absent(self, rows: int, attributes: Mapping[str, Any]) -> Values:
        """The column of rows from a file without it."""
        if self.is_text:
            return [self.default] * rows
        return np.full(self.shape(rows, attributes), self.default, self.stored.dtype)

    def value(self, values: Values, row: int) -> Any:
        """One row's value."""
        return values[row] if self.is_wide else self.type(values[row])

    def concatenate(self, parts: Sequence[Any]) -> Values:
        """The column of several tables, one after the other."""
        if self.is_text:
            return list(chain(*parts))
        widest = max(part.shape[1:] for part in parts)
        return np.concatenate([self.fitted(part, widest) for part in parts])

    def fitted(self, values: Any, shape: tuple[int, ...]) -> Any:
        """Numbers as [N, *shape], where they come from a file that had no such column and so have no width."""
        lacking = self.is_optional and self.is_wide and values.shape[1] == 0
        return np.full((len(values), *shape), self.default, self.stored.dtype) if lacking else values


def columns_of(row: type) -> tuple[Column, ...]:
    """The fields of a dataclass, each annotated with a `Stored`, as columns."""
    hints = get_type_hints(row, include_extras=True)
    return tuple(_column(field, hints[field.name]) for field in dataclasses.fields(row))


def _column(field: dataclasses.Field[Any], hint: Any) -> Column:
    kind, stored = get_args(hint)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return Column(field.name, _class(kind), stored, default)


def _class(kind: Any) -> type:
    """Of an annotation. What is written as `NDArray` is an array by another name, from NumPy 2.5 on."""
    kind = get_origin(kind) or kind
    return _class(kind.__value__) if hasattr(kind, "__value__") else kind


COLUMNS = columns_of(Row)


def select(values: Values, rows: slice | NDArray[np.intp]) -> Values:
    """Rows of a column by a slice or an array of row numbers."""
    if isinstance(values, np.ndarray) or isinstance(rows, slice):
        return values[rows]
    return [values[i] for i in rows]


def of_rows(rows: Iterable[Any], attributes: Mapping[str, Any]) -> dict[str, Values]:
    """The columns of rows, by field."""
    rows = list(rows)
    return {column.field: column.of([*map(attrgetter(column.field), rows)], attributes) for column in COLUMNS}


def escaped(text: str | bytes) -> str:
    """A text that every format can hold: what is not UTF-8, and zero bytes, as \\xNN."""
    if text.isascii() and (b"\0" if isinstance(text, bytes) else "\0") not in text:  # type: ignore[operator]
        return text.decode() if isinstance(text, bytes) else text  # most are, and there are very many
    if isinstance(text, bytes):
        return text.decode(errors="backslashreplace").replace("\0", "\\x00")
    try:
        return escaped(text.encode(errors="surrogateescape"))  # a file name that is not UTF-8, see os.fsdecode
    except UnicodeEncodeError:
        return escaped(text.encode(errors="backslashreplace"))
