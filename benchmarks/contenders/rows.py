"""Code that the reference loop and the peers share: scoring, rows and an idempotent insert.

They score with the platform's transform and bundle, which is faster than most would write it. They write only what an
afternoon's work would: rows of churn_predictions, but no dead letters and no sums.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pandas as pd
import psycopg

from benchmarks.contenders.task import moment
from churn_platform.scoring.bundle import ModelBundle

Event = dict[str, Any]
Row = tuple[Any, ...]

_INSERT: Final = """
    insert into churn_predictions (
        event_id, customer_id, prediction, risk_score, predicted_at, event_timestamp, model_version, credit_score,
        geography, gender, age, tenure, balance, num_of_products, has_cr_card, is_active_member, estimated_salary,
        true_churn_label, batch, kafka_partition, kafka_offset
    )
    values (%s, %s, %s, %s, %s, %s, 1, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'contender', %s, %s)
    on conflict (event_id) do nothing
"""
_NUMBERS: Final = (
    "CreditScore", "Age", "Tenure", "Balance", "NumOfProducts", "HasCrCard", "IsActiveMember", "EstimatedSalary"
)  # fmt: skip


def score(bundle: ModelBundle, events: Sequence[Event]) -> list[tuple[int, float]]:
    """Return prediction and P(churn) of each event, vectorized."""
    frame = pd.DataFrame.from_records(list(events))
    columns = {name: pd.to_numeric(frame[name]).to_numpy() for name in _NUMBERS}
    columns |= {name: frame[name].to_numpy(object) for name in ("Geography", "Gender")}
    risk = bundle.score(columns)
    return list(zip((risk >= bundle.threshold).astype(int).tolist(), risk.tolist(), strict=True))


def row_of(event: Event, scored: tuple[int, float], partition: int, offset: int, at: datetime) -> Row:
    """Return the row of an event."""
    return (
        event["event_id"], event["CustomerId"], *scored, at, moment(event["event_timestamp"]), event["CreditScore"],
        event["Geography"], event["Gender"], event["Age"], event["Tenure"], event["Balance"], event["NumOfProducts"],
        event["HasCrCard"], event["IsActiveMember"], event["EstimatedSalary"], event.get("true_churn_label"),
        partition, offset,
    )  # fmt: skip


def insert(connection: psycopg.Connection, rows: Sequence[Row]) -> None:
    """Insert rows in one transaction, skipping existing ids."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(_INSERT, rows)


def message_of(event: Event, scored: tuple[int, float], at: datetime) -> Mapping[str, object]:
    """Return the published message of an event."""
    prediction, risk = scored
    return {
        "event_id": event["event_id"], "customer_id": event["CustomerId"], "prediction": prediction,
        "probability": risk, "risk_score": risk, "model_version": 1, "event_timestamp": event["event_timestamp"],
        "predicted_at": at.isoformat(), "geography": event["Geography"], "gender": event["Gender"],
        "age": event["Age"], "balance": event["Balance"],
    }  # fmt: skip


def encoded(event: Event, scored: tuple[int, float], at: datetime) -> bytes:
    """Return the published message as JSON."""
    return json.dumps(message_of(event, scored, at)).encode()


def now() -> datetime:
    """Return the time for a commit's predictions."""
    return datetime.now(UTC)
