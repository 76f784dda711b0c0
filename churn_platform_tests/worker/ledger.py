"""Predictions in a database as the stream's commits leave them, for duties that follow the stream."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from churn_platform.database import replaced_predictions, stream_batches, stream_positions
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.schema.customer_schema import CustomerSchema

TOPIC_ID = "topic"
THRESHOLD = 0.7


@dataclass(frozen=True)
class Scored:
    """A prediction to commit: customer, risk score, age of the event, and values of the customer."""

    customer: int
    risk: float
    ago: timedelta = timedelta(0)
    balance: float = 1_000.0
    age: float | None = 42.0
    country: str = "Germany"
    label: int | None = None
    gender: str = "Male"
    products: int = 1
    prediction: int = 1


@dataclass
class FollowedLedger:
    """A stream of some Kafka partitions, without Kafka: each commit moves a position and extends the batch."""

    connection: psycopg.Connection
    batch: str = ""
    partitions: int = 1
    positions: dict[int, int] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.positions = dict.fromkeys(range(self.partitions), 0)
        stream_positions.add_positions(self.connection, topic="events", topic_id=TOPIC_ID, starts=self.positions)
        self.next_batch()

    @property
    def position(self) -> int:
        """The position of partition 0."""
        return self.positions[0]

    def next_batch(self) -> None:
        """Close the batch and begin another."""
        stream_batches.close_open_batches(self.connection)
        self.batch = f"batch-{next(self.numbers):03}"
        stream_batches.plan_batch(self.connection, self.batch)
        self.connection.execute(
            "update stream_batches set opened = now(), high_risk_threshold = %s where batch = %s",
            (THRESHOLD, self.batch),
        )

    def commit(self, scored: Sequence[Scored], *, explained: bool = False, partition: int = 0) -> list[UUID]:
        """Commit predictions of events in a partition, and return their event ids."""
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
                    "num_of_products, has_cr_card, is_active_member, estimated_salary, true_churn_label, batch, "
                    "kafka_partition, kafka_offset) "
                    "values (%s, %s, %s, %s, now(), %s, 1, 600, %s, %s, %s, 3, %s, %s, 1, 1, 0, %s, %s, %s, %s)",
                    (
                        *(event_id, each.customer, each.prediction, each.risk, now - each.ago, each.country),
                        *(each.gender, each.age, each.balance, each.products),
                        *(each.label, self.batch, partition, self.positions[partition] + number),
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
            self._advance(len(scored), partition)
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
            self._advance(count, 0)

    def replay(
        self, schema: CustomerSchema, batch: str, *, risks: Sequence[float], refused: Sequence[UUID] = ()
    ) -> None:
        """Score the events of a batch again.

        Args:
            schema: of the customers.
            batch: its key.
            risks: of the events, in the order of partition and offset, as often as needed.
            refused: events that become dead letters.
        """
        recorded = stream_batches.find_batch(self.connection, batch)
        assert recorded is not None
        with self.connection.transaction():
            replaced_predictions.keep(self.connection, prediction_table(schema), batch, replay=recorded.replays)
            self.connection.execute("delete from churn_predictions where event_id = any(%s)", (list(refused),))
            rows = self.connection.execute(
                "update churn_predictions p set "
                "risk_score = (%(risks)s::real[])[n %% cardinality(%(risks)s::real[]) + 1], prediction = n %% 2, "
                "model_version = model_version + 1, predicted_at = now() from ("
                "select event_id, row_number() over (order by kafka_partition, kafka_offset) as n "
                "from churn_predictions where batch = %(batch)s) as o where o.event_id = p.event_id",
                {"risks": list(risks), "batch": batch},
            ).rowcount
            stream_batches.record_replay(
                self.connection,
                batch,
                events=recorded.events,
                predictions=rows,
                dead_letters=recorded.events - rows,
                duplicates=0,
                erased=0,
                model_version=2,
            )

    def _advance(self, count: int, partition: int) -> None:
        """Move a position over this many predictions, in the caller's transaction."""
        start = self.positions[partition]
        end = start + count
        self.connection.execute(
            "update stream_batches set events = events + %s, predictions = predictions + %s where batch = %s",
            (count, count, self.batch),
        )
        self.connection.execute(
            "insert into stream_ranges (batch, topic_id, kafka_partition, start_offset, end_offset) "
            "values (%s, %s, %s, %s, %s) "
            "on conflict (batch, topic_id, kafka_partition) do update set end_offset = excluded.end_offset",
            (self.batch, TOPIC_ID, partition, start, end),
        )
        self.connection.execute(
            "update stream_positions set next_offset = %s, covered_to = %s "
            "where topic_id = %s and kafka_partition = %s",
            (end, end, TOPIC_ID, partition),
        )
        self.positions[partition] = end

    def explain(self) -> None:
        """Store reasons of all predictions that have none, as the stream does moments later."""
        self.connection.execute(
            "update high_risk_customers set reasons = %s where reasons is null",
            (Jsonb([{"feature": "Balance", "value": 125_510.0, "contribution": 1.2}]),),
        )
