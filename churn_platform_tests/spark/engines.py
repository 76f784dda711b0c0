"""Engines for tests, and events of every kind."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
from confluent_kafka import Message

from churn_platform.database import spark_staging
from churn_platform.database.connections import connect
from churn_platform.kafka.reading import read_ranges
from churn_platform.model_store import load_bundle
from churn_platform.settings import settings
from churn_platform.spark import task
from churn_platform.spark.engine import spark_engine
from churn_platform.spark.submit import SparkConfig
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.external_scoring import ScoringEngine, ScoringOrder
from churn_platform_tests.stream.streams import Stream, event

KNOWN_ID = "0192a000-0000-7000-8000-00000000000a"
SEVERAL = 10_000_000

# What a replay or a backlog writes, apart from the times at which it was written.
WRITTEN: Mapping[str, str] = {
    "predictions": "select row_to_json(p)::jsonb - 'predicted_at' from churn_predictions p order by event_id",
    "dead letters": "select row_to_json(d)::jsonb - 'received_at' from dead_letter_events d "
    "order by kafka_partition, kafka_offset",
    "high risk": "select event_id, batch, risk_score, alert_sent from high_risk_customers order by 1",
    # Sums of floating-point numbers depend on their order.
    "hours": "select row_to_json(h)::jsonb - 'risk_sum', round(risk_sum::numeric, 6) from churn_batch_hours h "
    "order by batch, hour_timestamp",
}


def written(stream: Stream) -> dict[str, list[tuple[object, ...]]]:
    """Return what was written, by what it is."""
    return {name: stream.connection.execute(query.encode()).fetchall() for name, query in WRITTEN.items()}


@dataclass
class DriverLog:
    """The output of the drivers that were started."""

    texts: list[str] = field(default_factory=list)

    def start(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        """Run Spark's driver."""
        done = subprocess.run(
            command,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.texts.append(done.stdout)


@contextmanager
def with_spark(stream: Stream, **changes: object) -> Iterator[DriverLog]:
    """Let the stream's runs use Spark within the block, as the settings say, with these changes."""
    log, config = DriverLog(), SparkConfig.from_settings(settings())
    stream.engine = spark_engine(stream.config, SparkConfig(**{**vars(config), **changes}), log.start)
    try:
        yield log
    finally:
        stream.engine = None


def arrow(messages: Sequence[Message]) -> pa.RecordBatch:
    """Return messages as Spark's Kafka source passes them to a task."""
    kinds, times = zip(*(message.timestamp() for message in messages), strict=True)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([message.value() for message in messages], pa.binary()),
            pa.array([message.partition() for message in messages], pa.int32()),
            pa.array([message.offset() for message in messages], pa.int64()),
            pa.array([milliseconds * 1_000 for milliseconds in times], pa.int64()).cast(pa.timestamp("us", "UTC")),
            pa.array([kind - 1 for kind in kinds], pa.int32()),
        ],
        names=list(task.MESSAGE_COLUMNS),
    )


@dataclass
class Tasks:
    """An engine that does in this process what Spark's driver and executors do, one task after the other.

    Attributes:
        config: the stream.
        failing: how many attempts fail after their first task.
        repeated: whether each task runs twice, as Spark repeats the tasks of executors that die.
        orders: what was ordered.
    """

    config: StreamConfig
    failing: int = 0
    repeated: bool = False
    orders: list[ScoringOrder] = field(default_factory=list)

    def engine(self, *, backlog_events: int = SEVERAL) -> ScoringEngine:
        """Return it as an engine."""
        return ScoringEngine(self.score, backlog_events)

    def score(self, order: ScoringOrder) -> None:
        """Stage the rows of an order, unless this attempt is to fail."""
        self.orders.append(order)
        with connect(self.config.dsn, autocommit=True, application_name="driver") as connection:
            erased = spark_staging.erased_in(connection, order.attempt)
            parts = load_bundle(order.model_uri).to_parts()
            work = task.TaskWork(order=order, dsn=self.config.dsn, bundle_parts=parts, erased=erased)
            events = 0
            for partition, bounds in order.ranges.items():
                for messages in read_ranges(self.config.kafka, order.source.topic, {partition: bounds}, chunk=100):
                    events += self.run(work, messages).events
                    if len(self.orders) <= self.failing:
                        return
            spark_staging.finish(connection, order.attempt, events=events)

    def run(self, work: task.TaskWork, messages: Sequence[Message]) -> spark_staging.StagedCounts:
        """Run a task over these messages, in two Arrow batches."""
        half = len(messages) // 2
        batches = [arrow(part) for part in (messages[:half], messages[half:]) if part]
        if self.repeated:
            task.run(work, batches)
        return task.run(work, batches)


def every_kind(count: int) -> list[Mapping[str, object] | bytes | None]:
    """Return events: mostly valid ones, and some of each other kind.

    The last ones are: the same event twice, two with one id and other contents, no JSON, no value, a wrong value, one
    without a time, one without an id, one whose id is not a UUID.
    """
    twice = event(1)
    untimed = event(5)
    del untimed["event_timestamp"]
    unnamed = event(6)
    del unnamed["event_id"]
    return [
        *(event(number) for number in range(count)),
        twice,
        twice,
        event(2, event_id=KNOWN_ID),
        event(3, event_id=KNOWN_ID),
        b"no JSON",
        None,
        event(4, Age=-3),
        untimed,
        unnamed,
        event(7, event_id="order 7"),
    ]
