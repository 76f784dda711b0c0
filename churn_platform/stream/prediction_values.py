"""The values of churn_predictions for scored events: as columns for PostgreSQL, and as a frame for messages.

Which columns there are, and where each value comes from, is defined in database/prediction_columns.py.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, assert_never

import numpy as np
import polars as pl
from numpy.typing import NDArray

from churn_platform.database.bulk import Column, Rows
from churn_platform.database.prediction_columns import Origin, PredictionColumn, PredictionTable
from churn_platform.stream.scoring import ScoredEvents

PolarsType = pl.DataType | type[pl.DataType]

_NUMPY_TYPES: Final = {"smallint": np.int16, "integer": np.int32, "bigint": np.int64, "timestamptz": np.int64}
_POLARS_TYPES: Final[dict[str, PolarsType]] = {
    "uuid": pl.String,
    "text": pl.String,
    "smallint": pl.Int16,
    "integer": pl.Int32,
    "bigint": pl.Int64,
    "real": pl.Float32,
    "double precision": pl.Float64,
    "date": pl.Date,
    "timestamptz": pl.Datetime("us", "UTC"),
}
# Where the hexadecimal digits of a UUID are in its text.
_UUID_DIGITS: Final = np.array([place for place in range(36) if place not in (8, 13, 18, 23)])


@cache
def message_types(table: PredictionTable) -> dict[str, PolarsType]:
    """Return column -> type of the frame that messages are made of, in the order of their fields."""
    return {column.name: _POLARS_TYPES[column.type] for column in table.published}


def prediction_rows(table: PredictionTable, batch: str, scored: ScoredEvents) -> Rows:
    """Return the rows of churn_predictions."""
    return Rows({column.name: _database_column(column, batch, scored) for column in table.written})


def message_frame(table: PredictionTable, batch: str, commits: Sequence[ScoredEvents]) -> pl.DataFrame:
    """Return the predictions of at least one commit as they are published: one row each, columns of `message_types`."""
    return pl.DataFrame({column.name: _series(column, batch, commits) for column in table.published})


def uuid_text(event_ids: NDArray[np.void]) -> list[str]:
    """Return ids of 16 raw bytes as text."""
    return [f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in (i.hex() for i in event_ids.tolist())]


def _value(column: PredictionColumn, batch: str, scored: ScoredEvents) -> Any:
    """Return an array of shape (n,), or the one value of all rows."""
    match column.origin:
        case Origin.EVENT:
            return getattr(scored.events, column.field)
        case Origin.CUSTOMER:
            return scored.events.customers[column.field]
        case Origin.SCORE | Origin.GENERATED:
            return getattr(scored, column.field)
        case Origin.BATCH:
            return batch
        case _:
            assert_never(column.origin)


def _database_column(column: PredictionColumn, batch: str, scored: ScoredEvents) -> Column:
    value = _value(column, batch, scored)
    if isinstance(value, str):
        value = np.full(len(scored), np.bytes_(value.encode()))
    elif not isinstance(value, np.ndarray):
        value = np.full(len(scored), value, _NUMPY_TYPES[column.type])
    missing = _missing(value) if column.nullable else None
    if column.type == "text" and missing is not None and missing.all():
        value = np.zeros(len(scored), "S1")  # most events have no event_ref, so this is faster
    return Column(column.type, value, null=missing)


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a value is unknown: NaN, NaT, None, or -1 in whole numbers."""
    match values.dtype.kind:
        case "f":
            missing: NDArray[np.bool_] = np.isnan(values)
        case "M":
            missing = np.isnat(values)
        case "O":
            missing = np.array([each is None for each in values.tolist()], np.bool_)
        case _:
            missing = values < 0
    return missing


def value_of_all(column: PredictionColumn, batch: str, commits: Sequence[ScoredEvents]) -> Any:
    """Return an array of shape (n,) for the n rows of several commits, or the one value of all rows.

    Times are microseconds since 1970. In numbers that may be missing, NaN is missing; in dates, NaT; in texts, None.
    """
    values = [_value(column, batch, scored) for scored in commits]
    if len(values) == 1 or (not any(isinstance(each, np.ndarray) for each in values) and len(set(values)) == 1):
        return values[0]
    return np.concatenate(
        [
            value if isinstance(value, np.ndarray) else np.full(len(scored), value, _NUMPY_TYPES[column.type])
            for value, scored in zip(values, commits, strict=True)
        ]
    )


def _series(column: PredictionColumn, batch: str, commits: Sequence[ScoredEvents]) -> pl.Series:
    """Return a column of the frame.

    Every expression of polars costs 0.2 ms, whatever the number of rows, so there is none here. So does every frame,
    and there is one for all commits.
    """
    value, kind = value_of_all(column, batch, commits), _POLARS_TYPES[column.type]
    if column.type == "uuid":
        return pl.Series(_uuid_texts(value), dtype=pl.Binary).cast(pl.String)
    if not isinstance(value, np.ndarray):
        # Times come as microseconds.
        one = pl.Series([value], dtype=pl.Int64 if column.type == "timestamptz" else kind)
        return one.new_from_index(0, sum(map(len, commits))).cast(kind)
    if column.type == "timestamptz":
        return pl.Series(value).cast(kind)
    if column.type == "text":
        return pl.Series(value.tolist(), dtype=kind)
    if column.type == "date":
        return pl.Series(value.astype("datetime64[D]"), dtype=kind)
    if value.dtype.kind == "f":  # a number, or whole numbers of which some may be missing
        return pl.Series(value, nan_to_null=column.nullable).cast(kind)
    return pl.Series(value, dtype=kind)


def _uuid_texts(event_ids: NDArray[np.void]) -> list[bytes]:
    """Return ids of 16 raw bytes as text in ASCII."""
    digits = np.frombuffer(event_ids.tobytes().hex().encode(), np.uint8).reshape(len(event_ids), 32)
    texts = np.full((len(event_ids), 36), ord("-"), np.uint8)
    texts[:, _UUID_DIGITS] = digits
    found: list[bytes] = texts.view("S36").ravel().tolist()
    return found
