"""Predictions as they are published: one JSON object each. When and where they are sent is not decided here."""

from typing import Any, Final

import polars as pl

from churn_platform.stream.scoring import ScoredEvents

SCHEMA: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "event_id": pl.String,
    "customer_id": pl.Int64,
    "prediction": pl.Int16,
    "probability": pl.Float32,
    "risk_score": pl.Float32,
    "model_version": pl.Int32,
    "event_timestamp": pl.Datetime("us", "UTC"),
    "predicted_at": pl.Datetime("us", "UTC"),
    "geography": pl.String,
    "gender": pl.String,
    "age": pl.Float32,
    "balance": pl.Float64,
    "batch": pl.String,
    "kafka_partition": pl.Int32,
    "kafka_offset": pl.Int64,
}


def prediction_frame(batch: str, scored: ScoredEvents) -> pl.DataFrame:
    """Return predictions as they are published, one row each, with the columns of SCHEMA."""
    events = scored.events
    hexadecimal = pl.Series("event_id", events.event_id.tolist(), pl.Binary).bin.encode("hex")
    groups = [hexadecimal.str.slice(start, length) for start, length in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))]
    frame = pl.DataFrame(
        {
            "event_id": groups[0] + "-" + groups[1] + "-" + groups[2] + "-" + groups[3] + "-" + groups[4],
            "customer_id": events.customer_id,
            "prediction": scored.prediction,
            "probability": scored.risk_score,
            "risk_score": scored.risk_score,
            "model_version": pl.repeat(scored.model_version, len(scored), dtype=pl.Int32, eager=True),
            "event_timestamp": pl.Series(events.event_timestamp).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "predicted_at": pl.repeat(scored.predicted_at, len(scored), dtype=pl.Int64, eager=True)
            .cast(pl.Datetime("us"))
            .dt.replace_time_zone("UTC"),
            "geography": pl.Series(events.customers["Geography"].tolist(), dtype=pl.String),
            "gender": pl.Series(events.customers["Gender"].tolist(), dtype=pl.String),
            "age": events.customers["Age"],
            "balance": events.customers["Balance"],
            "batch": pl.repeat(batch, len(scored), dtype=pl.String, eager=True),
            "kafka_partition": events.kafka_partition,
            "kafka_offset": events.kafka_offset,
        },
        schema=SCHEMA,
    )
    return frame.with_columns(pl.col("age").fill_nan(None))


def messages_of(predictions: pl.DataFrame) -> list[dict[str, Any]]:
    """Return messages for Producer.produce_batch(): key CustomerId, value flat JSON with times in ISO 8601."""
    times = pl.col("event_timestamp", "predicted_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    values = predictions.with_columns(times).select(pl.struct(*SCHEMA).struct.json_encode()).to_series().to_list()
    keys = predictions["customer_id"].cast(pl.String).to_list()
    return [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]
