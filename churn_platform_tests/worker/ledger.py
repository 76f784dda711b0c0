"""Predictions in a database as the stream's commits leave them, for duties that follow the stream."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from churn_platform.database import stream_batches, stream_positions

TOPIC_ID = "topic"
THRESHOLD = 0.7


@dataclass(frozen=True)
class Scored:
    """A prediction to commit: customer, risk score, age of the event, and what the case takes from it."""

    customer: int
    risk: float
    ago: timedelta = timedelta(0)
    balance: float = 1_000.0
    age: float | None = 42.0
    country: str = "Germany"


@dataclass
class FollowedLedger:
    """A stream of one Kafka partition, without Kafka: each commit moves its position and extends its batch."""

    connection: psycopg.Connection
    batch: str = ""
    position: int = 0
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        stream_positions.add_positions(self.connection, topic="events", topic_id=TOPIC_ID, starts={0: 0})
        self.next_batch()

    def next_batch(self) -> None:
        """Close the batch and begin another."""
        stream_batches.close_open_batches(self.connection)
        self.batch = f"batch-{next(self.numbers):03}"
        stream_batches.plan_batch(self.connection, self.batch)
        self.connection.execute(
            "update stream_batches set opened = now(), high_risk_threshold = %s where batch = %s",
            (THRESHOLD, self.batch),
        )

    def commit(self, scored: Sequence[Scored], *, explained: bool = False) -> list[UUID]:
        """Commit predictions, and return their event ids."""
        now, ids = datetime.now(UTC), [uuid4() for _ in scored]
        reasons = [
            {"feature": "Balance", "value": 125_510.0, "contribution": 1.2},
            {"feature": "Tenure", "value": 3.0, "contribution": -0.4},
            {"feature": "IsActiveMember", "value": 0.0, "contribution": 0.3},
        ]
        with self.connection.transaction():
            for number, (event_id, each) in enumerate(zip(ids, scored, strict=True)):
                self.connection.execute(
                    "insert into churn_predictions (event_id, customer_id, prediction, risk_score, predicted_at, "
                    "event_timestamp, model_version, credit_score, geography, gender, age, tenure, balance, "
                    "num_of_products, has_cr_card, is_active_member, estimated_salary, batch, kafka_partition, "
                    "kafka_offset) "
                    "values (%s, %s, 1, %s, now(), %s, 1, 600, %s, 'Male', %s, 3, %s, 1, 1, 1, 0, %s, 0, %s)",
                    (
                        *(event_id, each.customer, each.risk, now - each.ago, each.country, each.age, each.balance),
                        *(self.batch, self.position + number),
                    ),
                )
                if each.risk >= THRESHOLD:
                    self.connection.execute(
                        "insert into high_risk_customers (event_id, batch, customer_id, risk_score, geography, gender, "
                        "age, balance, detected_at, reasons) values (%s, %s, %s, %s, %s, 'Male', %s, %s, now(), %s)",
                        (
                            *(event_id, self.batch, each.customer, each.risk, each.country, each.age, each.balance),
                            Jsonb(reasons) if explained else None,
                        ),
                    )
            self._advance(len(scored))
        return ids

    def fill(self, count: int) -> None:
        """Commit many predictions without risk, of customers that no test names."""
        with self.connection.transaction():
            self.connection.execute(
                "insert into churn_predictions (event_id, customer_id, prediction, risk_score, predicted_at, "
                "event_timestamp, model_version, credit_score, geography, gender, age, tenure, balance, "
                "num_of_products, has_cr_card, is_active_member, estimated_salary, batch, kafka_partition, "
                "kafka_offset) "
                "select gen_random_uuid(), 1000000 + number, 0, 0.1, now(), now(), 1, 600, 'Spain', 'Male', 40, 3, 0, "
                "1, 1, 1, 0, %s, 0, %s + number from generate_series(0, %s - 1) as n (number)",
                (self.batch, self.position, count),
            )
            self._advance(count)

    def _advance(self, count: int) -> None:
        """Move the position over this many predictions, in the caller's transaction."""
        end = self.position + count
        self.connection.execute(
            "update stream_batches set events = events + %s, predictions = predictions + %s where batch = %s",
            (count, count, self.batch),
        )
        self.connection.execute(
            "insert into stream_ranges (batch, topic_id, kafka_partition, start_offset, end_offset) "
            "values (%s, %s, 0, %s, %s) "
            "on conflict (batch, topic_id, kafka_partition) do update set end_offset = excluded.end_offset",
            (self.batch, TOPIC_ID, self.position, end),
        )
        self.connection.execute(
            "update stream_positions set next_offset = %s, covered_to = %s where topic_id = %s", (end, end, TOPIC_ID)
        )
        self.position = end

    def explain(self) -> None:
        """Store reasons of all predictions that have none, as the stream does moments later."""
        self.connection.execute(
            "update high_risk_customers set reasons = %s where reasons is null",
            (Jsonb([{"feature": "Balance", "value": 125_510.0, "contribution": 1.2}]),),
        )
