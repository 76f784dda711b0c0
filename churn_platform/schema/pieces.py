"""Columns that arrive in pieces, in little memory until they are joined. Pure; no I/O."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL_INTEGERS: Final = (np.int8, np.int16, np.int32)


@dataclass
class Pieces:
    """One column. Whole numbers have the smallest type that holds them until the column is joined.

    Attributes:
        arrays: the pieces, in order.
        starts: the number of the first row of each piece.
        dtype: the dtype of the joined column; None without pieces.
        rows: number of rows.
    """

    arrays: list[NDArray[Any]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    dtype: np.dtype[Any] | None = None
    rows: int = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add the next rows."""
        self.dtype = values.dtype if self.dtype is None else self.dtype
        self.starts.append(self.rows)
        self.arrays.append(_small(values))
        self.rows += len(values)

    def __getitem__(self, row: int) -> Any:  # an element of an array of any type
        """Return the value of a row."""
        piece = bisect_right(self.starts, row) - 1
        return self.arrays[piece][row - self.starts[piece]]

    def only(self, kept: NDArray[np.bool_]) -> Pieces:
        """Return the rows for which `kept`, of shape (rows,), is true."""
        found = Pieces(dtype=self.dtype)
        for start, values in zip(self.starts, self.arrays, strict=True):
            found.append(values[kept[start : start + len(values)]])
        return found


def joined(columns: list[Pieces]) -> NDArray[Any]:
    """Return the rows of all columns in one array. The pieces are removed from the columns."""
    dtype = np.result_type(*(each.dtype for each in columns if each.dtype is not None))
    values = np.empty(sum(each.rows for each in columns), dtype)
    start = 0
    for each in columns:
        while each.arrays:
            piece = each.arrays.pop(0)
            values[start : start + len(piece)] = piece
            start += len(piece)
    return values


def all_different(values: NDArray[Any]) -> bool:
    """Return whether no two values are equal. Sorting numbers takes less time and memory than hashing them."""
    if values.dtype.kind in "iu":
        ordered = np.sort(values)
        return not bool((ordered[1:] == ordered[:-1]).any())
    import pandas as pd

    return bool(pd.Series(values, copy=False).is_unique)


def _small(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype != np.int64 or not len(values):
        return values
    least, most = int(values.min()), int(values.max())
    for dtype in SMALL_INTEGERS:
        limits = np.iinfo(dtype)
        if limits.min <= least and most <= limits.max:
            return values.astype(dtype)
    return values
