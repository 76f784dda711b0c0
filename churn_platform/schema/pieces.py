"""Columns that arrive in pieces, in little memory until they are joined. Pure; no I/O."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

MAX_CATEGORIES: Final = 32_767  # as many as two bytes number
MAX_DISTINCT_SHARE: Final = 0.25
MAX_SPARSITY: Final = 8  # numbers of a range for each value: a byte each takes no more memory than sorting the values
SAMPLE_ROWS: Final = 10_000
SMALL_INTEGERS: Final = (np.int8, np.int16, np.int32)


@dataclass
class Pieces:
    """One column, in little memory until it is joined.

    Whole numbers have the smallest type that holds them, and texts that repeat are categories.

    Attributes:
        arrays: the pieces, in order.
        starts: the number of the first row of each piece.
        dtype: the dtype of the joined column; None without pieces.
        rows: number of rows.
    """

    arrays: list[NDArray[Any] | pd.Categorical] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    dtype: np.dtype[Any] | None = None
    rows: int = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add the next rows."""
        self.dtype = values.dtype if self.dtype is None else self.dtype
        self._append(_small(values))

    def _append(self, values: NDArray[Any] | pd.Categorical) -> None:
        self.starts.append(self.rows)
        self.arrays.append(values)
        self.rows += len(values)

    def __getitem__(self, row: int) -> Any:  # an element of an array of any type
        """Return the value of a row. A missing text is None or NaN."""
        piece = bisect_right(self.starts, row) - 1
        return self.arrays[piece][row - self.starts[piece]]

    def only(self, kept: NDArray[np.bool_]) -> Pieces:
        """Return the rows for which `kept`, of shape (rows,), is true."""
        found = Pieces(dtype=self.dtype)
        for start, values in zip(self.starts, self.arrays, strict=True):
            found._append(values[kept[start : start + len(values)]])
        return found


def joined(columns: list[Pieces]) -> NDArray[Any]:
    """Return the rows of all columns in one array. The pieces are removed from the columns."""
    dtype = np.result_type(*(each.dtype for each in columns if each.dtype is not None))
    values = np.empty(sum(each.rows for each in columns), dtype)
    start = 0
    for each in columns:
        while each.arrays:
            piece = each.arrays.pop(0)
            values[start : start + len(piece)] = piece if isinstance(piece, np.ndarray) else _texts(piece)
            start += len(piece)
    return values


def joined_as_categories(columns: list[Pieces]) -> pd.Categorical | None:
    """Return the rows of all columns as categories; None if they are not texts that repeat.

    The pieces are removed from the columns, unless the result is None.
    """
    from pandas.api.types import union_categoricals

    pieces = [piece for each in columns for piece in each.arrays]
    categories = [piece for piece in pieces if not isinstance(piece, np.ndarray)]
    if not categories or len(categories) < len(pieces):
        return None
    if len(set().union(*(each.categories for each in categories))) > MAX_CATEGORIES:
        return None
    for each in columns:
        each.arrays.clear()
    return union_categoricals(categories)


def all_different(values: NDArray[Any]) -> bool:
    """Return whether no two values are equal. For numbers this takes less time and memory than hashing them."""
    if values.dtype.kind in "iu":
        least, most = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        if most - least < MAX_SPARSITY * len(values):
            found = np.zeros(most - least + 1, dtype=np.bool_)
            found[values.astype(np.int64, copy=False) - least] = True
            return int(np.count_nonzero(found)) == len(values)
        ordered = np.sort(values)
        return not bool((ordered[1:] == ordered[:-1]).any())
    import pandas as pd

    return bool(pd.Series(values, copy=False).is_unique)


def _texts(categories: pd.Categorical) -> NDArray[np.object_]:
    """Return texts as objects, None where missing. Shape (n,)."""
    texts: NDArray[np.object_] = np.array([*categories.categories, None], dtype=object)[categories.codes]
    return texts


def _small(values: NDArray[Any]) -> NDArray[Any] | pd.Categorical:
    if values.dtype == object:
        return _as_categories(values)
    if values.dtype != np.int64 or not len(values):
        return values
    least, most = int(values.min()), int(values.max())
    for dtype in SMALL_INTEGERS:
        limits = np.iinfo(dtype)
        if limits.min <= least and most <= limits.max:
            return values.astype(dtype)
    return values


def _as_categories(values: NDArray[np.object_]) -> NDArray[np.object_] | pd.Categorical:
    """Return the texts as categories, unless there are many and hardly any of them repeats."""
    import pandas as pd

    if len(values) > SAMPLE_ROWS and len(set(values[:SAMPLE_ROWS].tolist())) > MAX_DISTINCT_SHARE * SAMPLE_ROWS:
        return values
    codes, texts = pd.factorize(values)
    if len(texts) > MAX_CATEGORIES:
        return values
    dtype = pd.CategoricalDtype(pd.Index(texts, dtype=object))
    return pd.Categorical.from_codes(codes, dtype=dtype)  # type: ignore[arg-type]  # pandas' types lack arrays
