"""A frame in a Parquet file that may be larger than memory: one column, or the rows of some row groups, at a time."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from churn_platform.files.artifacts import reading_ranges
from churn_platform.files.parquet import ATTRIBUTES, read_parquet


class StoredFrame:
    """A frame that `write_parquet` or `write_frames` wrote. It holds none of the rows.

    It has the part of pandas' interface that needs one column at a time.

    Attributes:
        uri: path or s3:// address of the file.
    """

    def __init__(self, uri: str, *, objects: bool = False, chosen: NDArray[np.bool_] | None = None) -> None:
        """Read nothing yet.

        Args:
            uri: path or s3:// address of the file.
            objects: whether texts have the dtype object. Otherwise those that repeat are categories.
            chosen: shape (rows of the file,), whether the row is one of the frame; None for all.
        """
        self.uri = uri
        self._objects = objects
        self._chosen = chosen

    def only(self, chosen: NDArray[np.bool_]) -> StoredFrame:
        """Return the frame of some rows of the file.

        Args:
            chosen: shape (rows of the file,).
        """
        return StoredFrame(self.uri, objects=self._objects, chosen=chosen)

    @cached_property
    def _file(self) -> pq.FileMetaData:
        with reading_ranges(self.uri) as file:
            return pq.read_metadata(file)

    @property
    def attrs(self) -> dict[str, Any]:
        """The frame's `attrs`."""
        found: dict[str, Any] = json.loads((self._file.metadata or {}).get(ATTRIBUTES, b"{}"))
        return found

    @cached_property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return [str(name) for name in self._file.schema.names]

    @cached_property
    def dtypes(self) -> pd.Series:
        """The dtype of each column. Texts are objects or categories."""
        return self.head(1).dtypes

    @property
    def index(self) -> pd.RangeIndex:
        """The numbers of the rows."""
        return pd.RangeIndex(len(self))

    @cached_property
    def group_rows(self) -> list[int]:
        """The number of rows of each row group of the file, chosen or not."""
        return [self._file.row_group(number).num_rows for number in range(self._file.num_row_groups)]

    def __len__(self) -> int:
        return int(self._file.num_rows) if self._chosen is None else int(np.count_nonzero(self._chosen))

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __getitem__(self, name: str) -> pd.Series:
        """Return one column of all rows."""
        if name not in self:
            raise KeyError(name)
        return self.rows(columns=[name])[name]

    def rows(self, groups: Sequence[int] | None = None, *, columns: Collection[str] | None = None) -> pd.DataFrame:
        """Return the rows of some row groups, or of all, with a new index 0..n-1.

        Args:
            groups: numbers of row groups, ascending; None for all.
            columns: None for all.
        """
        with reading_ranges(self.uri) as file:
            frame = read_parquet(file, columns, categorical=not self._objects, row_groups=groups)
        if self._chosen is None:
            return frame
        positions = np.flatnonzero(self._chosen if groups is None else self._chosen_of(groups))
        taken = pd.DataFrame({name: values.array.take(positions) for name, values in frame.items()}, copy=False)
        taken.attrs = dict(frame.attrs)
        return taken

    def _chosen_of(self, groups: Sequence[int]) -> NDArray[np.bool_]:
        """Return which rows of these row groups are chosen."""
        ends = np.cumsum([0, *self.group_rows])
        chosen = np.ones(ends[-1], np.bool_) if self._chosen is None else self._chosen
        return np.concatenate([chosen[ends[group] : ends[group + 1]] for group in groups])

    def blocks(self, columns: Collection[str] | None = None) -> Iterator[pd.DataFrame]:
        """Yield all rows, those of one row group at a time, with the index 0..n-1 each. At least one block."""
        for group in range(len(self.group_rows)):
            yield self.rows([group], columns=columns)

    def where_rows(self, wanted: NDArray[np.bool_]) -> pd.DataFrame:
        """Return the wanted rows, with their numbers as index.

        Args:
            wanted: shape (n,).
        """
        found: list[pd.DataFrame] = []
        start = 0
        for rows in self.blocks():
            rows.index = pd.RangeIndex(start, start + len(rows))
            found.append(rows[wanted[start : start + len(rows)]])
            start += len(rows)
        return pd.concat(found)

    def sample(self, count: int, *, seed: int) -> pd.DataFrame:
        """Return this many rows, drawn as `pandas.DataFrame.sample` draws them, with their numbers as index.

        Args:
            count: number of rows, at most that of the frame.
            seed: of the draws.
        """
        numbers = np.random.RandomState(seed).choice(len(self), size=count, replace=False)
        wanted = np.zeros(len(self), np.bool_)
        wanted[numbers] = True
        return self.where_rows(wanted).loc[numbers]

    def head(self, count: int = 5) -> pd.DataFrame:
        """Return the first rows."""
        groups: list[int] = []
        for group in range(len(self.group_rows)):
            groups.append(group)
            if np.count_nonzero(self._chosen_of(groups)) >= count:
                break
        return self.rows(groups).head(count)


def blocks_of(frame: Frame, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Yield columns of all rows in blocks: a frame in memory as one, a stored one by row group."""
    if isinstance(frame, StoredFrame):
        yield from (block[[*columns]] for block in frame.blocks(columns))
    else:
        yield frame[[*columns]]


class StoredColumns(Mapping[str, NDArray[Any]]):
    """The columns of a stored frame as arrays, each of which is read when it is asked for."""

    def __init__(
        self, frame: StoredFrame, names: Collection[str], others: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """Read nothing yet.

        Args:
            frame: has the columns.
            names: of the columns.
            others: more columns, in memory.
        """
        self._frame = frame
        self._names = [*names]
        self._others = others or {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name in self._others:
            return self._others[name]
        if name not in self._names:
            raise KeyError(name)
        return self._frame[name].to_numpy()

    def __iter__(self) -> Iterator[str]:
        return iter([*self._names, *self._others])

    def __len__(self) -> int:
        return len(self._names) + len(self._others)


Frame: TypeAlias = pd.DataFrame | StoredFrame
"""A frame in memory, or one that is read column by column."""
