"""Predictions as they are published: one JSON object each. When and where they are sent is not decided here."""

from typing import Any, Final

import polars as pl

_TIMES: Final = frozenset({"event_timestamp", "predicted_at"})


def messages_of(predictions: pl.DataFrame) -> list[dict[str, Any]]:
    """Return messages for Producer.produce_batch().

    The key is the customer's id. The value is a flat JSON object with times in ISO 8601.

    Args:
        predictions: a frame with the columns of `message_types`.
    """
    columns = [
        pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ") if name in _TIMES else pl.col(name)
        for name in predictions.columns
    ]
    values = predictions.select(pl.struct(columns).struct.json_encode()).to_series().to_list()
    keys = predictions["customer_id"].cast(pl.String).to_list()
    return [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]
