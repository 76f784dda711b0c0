"""A task on an executor: decodes and scores the events of one offset range, and stages the rows in one transaction.

It uses the stream's own code. It imports nothing of Spark, which only passes Arrow batches.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import psycopg
import pyarrow as pa

from churn_platform.database import spark_staging
from churn_platform.database.bulk import Column
from churn_platform.database.connections import connect
from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.database.spark_staging import StagedCounts
from churn_platform.decoding.events import event_decoder
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.stream.commit_rows import new_dead_letter
from churn_platform.stream.erasure import without_erased
from churn_platform.stream.external_scoring import ScoringOrder
from churn_platform.stream.prediction_values import prediction_rows
from churn_platform.stream.scoring import Champion, score

MESSAGE_COLUMNS: Final = ("value", "partition", "offset", "timestamp", "timestampType")
"""Columns of Spark's Kafka source that a task reads."""
MICROSECONDS_PER_MILLISECOND: Final = 1_000
# A frozen executor, or one that is cut off, must not keep the rows of its task from the copy that replaces it.
IDLE_SECONDS: Final = 120


@dataclass(frozen=True)
class Message:
    """A Kafka message, with the methods of a message that librdkafka returns."""

    _value: bytes | None
    _partition: int
    _offset: int
    _timestamp: tuple[int, int]

    def value(self) -> bytes | None:
        """Return the bytes of the value."""
        return self._value

    def partition(self) -> int:
        """Return the Kafka partition."""
        return self._partition

    def offset(self) -> int:
        """Return the offset in that partition."""
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of Kafka's timestamp, as librdkafka counts it, and its milliseconds since 1970."""
        return self._timestamp


@dataclass(frozen=True)
class TaskWork:
    """What every task of a job needs. Spark sends it to the executors.

    Attributes:
        order: what is scored.
        dsn: connection string of the database with the staging tables.
        bundle_parts: file name -> bytes of the model's bundle, so that executors need no access to its folder.
        erased: the customers whose events are left out.
    """

    order: ScoringOrder
    dsn: str
    bundle_parts: Mapping[str, bytes]
    erased: ErasedCustomers


def messages_of(batch: pa.RecordBatch) -> list[Message]:
    """Return the messages of an Arrow batch that has MESSAGE_COLUMNS."""
    microseconds = batch.column("timestamp").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    # Kafka's Java client counts the kinds of timestamps from -1 (none), librdkafka from 0.
    kinds = [kind + 1 for kind in batch.column("timestampType").to_pylist()]
    times = [(kind, time // MICROSECONDS_PER_MILLISECOND) for kind, time in zip(kinds, microseconds, strict=True)]
    columns = (batch.column(name).to_pylist() for name in ("value", "partition", "offset"))
    return [Message(*each) for each in zip(*columns, times, strict=True)]


def run(work: TaskWork, batches: Iterable[pa.RecordBatch]) -> StagedCounts:
    """Stage the rows of a task, and return how many there are. A task that was staged before is not staged again.

    Args:
        work: of the job.
        batches: the events of one range of a Kafka partition, in the order of their offsets, with MESSAGE_COLUMNS.

    Raises:
        AttemptGoneError: the attempt was given up.
    """
    remaining: Iterator[pa.RecordBatch] = (batch for batch in batches if batch.num_rows)
    first = next(remaining, None)
    if first is None:
        return StagedCounts(0, 0, 0)
    attempt = work.order.attempt
    place = {"kafka_partition": first.column("partition")[0].as_py(), "first_offset": first.column("offset")[0].as_py()}
    with connect(work.dsn, application_name=f"churn spark {attempt}") as connection:
        connection.execute("select set_config('idle_in_transaction_session_timeout', %s, false)", (f"{IDLE_SECONDS}s",))
        if not spark_staging.begin_task(connection, attempt, **place):
            return spark_staging.counts_of_task(connection, attempt, **place)
        scorer = _Scorer(work, connection)
        counts = [scorer.stage(messages_of(batch)) for batch in chain([first], remaining)]
        total = StagedCounts(
            predictions=sum(each.predictions for each in counts),
            dead_letters=sum(each.dead_letters for each in counts),
            erased=sum(each.erased for each in counts),
        )
        spark_staging.finish_task(connection, attempt, total, **place)
    return total


class _Scorer:
    """Decodes and scores messages as the stream does, and stages them."""

    def __init__(self, work: TaskWork, connection: psycopg.Connection) -> None:
        order = work.order
        self._order = order
        self._erased = work.erased
        self._connection = connection
        self._decoder = event_decoder(order.schema)
        self._table = prediction_table(order.schema)
        self._champion = Champion(
            order.model_version, ModelBundle.from_parts(work.bundle_parts, origin=order.model_uri)
        )

    def stage(self, messages: list[Message]) -> StagedCounts:
        order = self._order
        events, dead_letters = self._decoder.decode(
            messages,
            topic_id=order.source.topic_id,
            accepts_from=order.accepts_from,
            accepts_until=order.accepts_until,
        )
        events, dead_letters, left_out = without_erased(order.schema, events, dead_letters, self._erased)
        scored = score(events, self._champion, threads=1)  # Spark runs as many tasks as it has cores
        if len(scored):
            spark_staging.copy_predictions(
                self._connection,
                order.attempt,
                prediction_rows(self._table, order.source.batch, scored),
                timestamp_given=Column("smallint", scored.events.timestamp_given.astype(np.int16)),
            )
        if dead_letters:
            spark_staging.copy_dead_letters(self._connection, order.attempt, map(new_dead_letter, dead_letters))
        return StagedCounts(len(scored), len(dead_letters), left_out)
