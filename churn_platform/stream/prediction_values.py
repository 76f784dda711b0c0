"""The values of churn_predictions for scored events: as columns for PostgreSQL, and as a frame for messages.

Which columns there are, and where each value comes from, is defined in database/prediction_columns.py.
"""

from typing import Any, Final, assert_never

import numpy as np
import polars as pl
from numpy.typing import NDArray

from churn_platform.database.bulk import Column, Rows
from churn_platform.database.prediction_columns import (
    PUBLISHED_COLUMNS,
    WRITTEN_COLUMNS,
    Origin,
    PredictionColumn,
)
from churn_platform.stream.scoring import ScoredEvents

_NUMPY_TYPES: Final = {"smallint": np.int16, "integer": np.int32, "bigint": np.int64, "timestamptz": np.int64}
_POLARS_TYPES: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "uuid": pl.String,
    "text": pl.String,
    "smallint": pl.Int16,
    "integer": pl.Int32,
    "bigint": pl.Int64,
    "real": pl.Float32,
    "double precision": pl.Float64,
    "timestamptz": pl.Datetime("us", "UTC"),
}
_UUID_PARTS: Final = ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))  # first hexadecimal digit and number of digits

MESSAGE_SCHEMA: Final = {column.name: _POLARS_TYPES[column.type] for column in PUBLISHED_COLUMNS}
"""Column -> type of the frame that messages are made of, in the order of their fields."""


def prediction_rows(batch: str, scored: ScoredEvents) -> Rows:
    """Return the rows of churn_predictions, encoded for COPY."""
    return Rows.of({column.name: _database_column(column, batch, scored) for column in WRITTEN_COLUMNS})


def message_frame(batch: str, scored: ScoredEvents) -> pl.DataFrame:
    """Return the predictions as they are published: one row each, with the columns of MESSAGE_SCHEMA."""
    return pl.DataFrame({column.name: _series(column, batch, scored) for column in PUBLISHED_COLUMNS})


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
    if not column.nullable:
        return Column(column.type, value.astype(np.bytes_) if column.type == "text" else value)
    if column.type == "text":
        return _optional_text(value)
    return Column(column.type, value, null=np.isnan(value) if value.dtype.kind == "f" else value < 0)


def _optional_text(values: NDArray[np.object_]) -> Column:
    missing = np.array([each is None for each in values.tolist()], np.bool_)
    if missing.all():
        return Column("text", np.zeros(len(values), "S1"), null=missing)
    return Column("text", np.array([(each or "").encode() for each in values], np.bytes_), null=missing)


def _series(column: PredictionColumn, batch: str, scored: ScoredEvents) -> pl.Series:
    value, kind = _value(column, batch, scored), MESSAGE_SCHEMA[column.name]
    if column.type == "uuid":
        digits = pl.Series(value.tolist(), dtype=pl.Binary).bin.encode("hex")
        parts = [digits.str.slice(start, length) for start, length in _UUID_PARTS]
        return parts[0] + "-" + parts[1] + "-" + parts[2] + "-" + parts[3] + "-" + parts[4]
    if column.type == "timestamptz":
        value = value if isinstance(value, np.ndarray) else np.full(len(scored), value, np.int64)
        return pl.Series(value).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if not isinstance(value, np.ndarray):
        return pl.repeat(value, len(scored), dtype=kind, eager=True)
    if column.type == "text":
        return pl.Series(value.tolist(), dtype=kind)
    series = pl.Series(value, dtype=kind)
    return series.fill_nan(None) if column.nullable else series
