"""Predictions as they are published: one JSON object each. When and where they are sent is not decided here."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from churn_platform.database.prediction_columns import PredictionColumn, PredictionTable
from churn_platform.stream.prediction_values import message_frame, uuid_text, value_of_all
from churn_platform.stream.scoring import ScoredEvents

# Polars takes 1 to 2 ms for a frame and its messages, however few they are, most of it to bring its code into the
# processor's caches. Up to about this many messages, building each of them takes less.
FEW: Final = 200

_TIMES: Final = frozenset({"event_timestamp", "predicted_at"})
_encode: Final = msgspec.json.Encoder().encode


def messages(table: PredictionTable, batch: str, commits: Sequence[ScoredEvents]) -> list[dict[str, Any]]:
    """Return the messages of the predictions of at least one commit, like messages_of()."""
    if sum(map(len, commits)) > FEW:
        return messages_of(message_frame(table, batch, commits))
    values = {column.name: _json_values(column, batch, commits) for column in table.published}
    documents = (dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))
    return [{"key": str(each["customer_id"]), "value": _encode(each)} for each in documents]


def messages_of(predictions: pl.DataFrame) -> list[dict[str, Any]]:
    """Return messages for Producer.produce_batch().

    The key is the customer's id. The value is a flat JSON object with times in ISO 8601.

    Args:
        predictions: a frame with the columns of `message_types`.
    """
    if not len(predictions):
        return []
    columns = [
        pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ") if name in _TIMES else pl.col(name)
        for name in predictions.columns
    ]
    values = predictions.select(pl.struct(columns).struct.json_encode()).to_series().to_list()
    keys = predictions["customer_id"].cast(pl.String).to_list()
    return [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]


def _json_values(column: PredictionColumn, batch: str, commits: Sequence[ScoredEvents]) -> list[Any]:
    """Return what `msgspec` writes as JSON for a column of the predictions of several commits."""
    value = value_of_all(column, batch, commits)
    if not isinstance(value, np.ndarray):
        one = _times(np.array([value], np.int64))[0] if column.type == "timestamptz" else value
        return [one] * sum(map(len, commits))
    match column.type:
        case "uuid":
            return uuid_text(value)
        case "timestamptz":
            return _times(value)
        case "date":
            days = value.astype("datetime64[D]")
            return _with_nulls(np.datetime_as_string(days).tolist(), np.isnat(days))
        case "real":
            # The digits of a number of single precision: as a double it would have more of them.
            texts = value.astype(np.float32).astype(np.str_).tolist()
            return _with_nulls(list(map(msgspec.Raw, texts)), np.isnan(value))
        case "smallint" | "integer" | "bigint" if value.dtype.kind == "f":  # some may be missing
            missing = np.isnan(value)
            return _with_nulls(np.where(missing, 0, value).astype(np.int64).tolist(), missing)
        case "double precision":
            return _with_nulls(value.tolist(), np.isnan(value))
        case _:
            whole: list[Any] = value.tolist()
            return whole


def _times(microseconds: NDArray[np.int64]) -> list[str]:
    """Return times since 1970 in ISO 8601."""
    return [f"{text}Z" for text in np.datetime_as_string(microseconds.astype("datetime64[us]")).tolist()]


def _with_nulls(values: list[Any], missing: NDArray[np.bool_]) -> list[Any]:
    return [None if gone else value for value, gone in zip(values, missing.tolist(), strict=True)]
