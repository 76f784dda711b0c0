"""Rows of churn_predictions for customers of any schema, as a commit encodes them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd

from churn_platform.database.bulk import Column, Rows
from churn_platform.database.prediction_columns import Origin, PredictionColumn, PredictionTable
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.features.customers import any_customers

COUNT = 200
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
BATCH = "20261128T000000000Z"


def scorable_customers(schema: CustomerSchema) -> pd.DataFrame:
    """Customers of a schema that can be scored."""
    found = any_customers(schema, 3 * COUNT, seed=3).dropna(subset=list(schema.dropped))
    return found.head(COUNT).reset_index(drop=True)


def event_ids() -> list[UUID]:
    return [UUID(int=number + 1) for number in range(COUNT)]


def scores() -> np.ndarray:
    return np.linspace(0, 1, COUNT, dtype=np.float32)


def prediction_rows(table: PredictionTable, customers: pd.DataFrame, *, batch: str = BATCH) -> Rows:
    """The rows of these customers, as a commit encodes them."""
    return Rows({column.name: _column(column, table.schema, customers, batch) for column in table.written})


def _column(column: PredictionColumn, schema: CustomerSchema, customers: pd.DataFrame, batch: str) -> Column:
    given: dict[str, Any] = {
        "event_id": np.frombuffer(b"".join(each.bytes for each in event_ids()), "V16"),
        "customer_id": customers[schema.id].to_numpy(),
        "prediction": (scores() >= 0.5).astype(np.int16),
        "risk_score": scores(),
        "predicted_at": np.full(COUNT, round(HOUR.timestamp() * 1e6)),
        "event_timestamp": round(HOUR.timestamp() * 1e6) + np.arange(COUNT) * 30_000_000,
        "model_version": np.full(COUNT, 1),
        "batch": np.full(COUNT, batch, object),
        "kafka_partition": np.full(COUNT, 0),
        "kafka_offset": np.arange(COUNT),
    }
    if column.origin is Origin.CUSTOMER:
        values = customers[column.field]
        return Column(column.type, values.to_numpy(), null=values.isna().to_numpy() if column.nullable else None)
    if column.nullable:  # nothing is known
        zeros = np.zeros(COUNT, np.int16) if column.type == "smallint" else np.full(COUNT, None, object)
        return Column(column.type, zeros, null=np.ones(COUNT, np.bool_))
    return Column(column.type, given[column.name])
