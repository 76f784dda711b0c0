"""Predictions as they are published: one JSON object each. When and where they are sent is not decided here."""

from typing import Any

import polars as pl


def messages_of(predictions: pl.DataFrame) -> list[dict[str, Any]]:
    """Return messages for Producer.produce_batch().

    The key is the customer's id. The value is a flat JSON object with times in ISO 8601.

    Args:
        predictions: a frame with the columns of `message_types`.
    """
    times = pl.col("event_timestamp", "predicted_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    values = (
        predictions.with_columns(times)
        .select(pl.struct(*predictions.columns).struct.json_encode())
        .to_series()
        .to_list()
    )
    keys = predictions["customer_id"].cast(pl.String).to_list()
    return [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]
