"""Rows that another engine has staged: moving them to their tables, in the transaction of a commit or a replay."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import psycopg
from confluent_kafka import Message

from churn_platform.database import churn_predictions, dead_letter_events, spark_staging
from churn_platform.database.batch_hours import HourSums
from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.kafka.config import KafkaConfig
from churn_platform.kafka.messages import offset_of, partition_of
from churn_platform.kafka.reading import read_ranges
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.commit_rows import Source, conflicting, write_dead_letters
from churn_platform.stream.exceptions import InvariantViolation

CHUNK_MESSAGES = 10_000


@dataclass(frozen=True)
class StagedWritten:
    """What was written: events read = predictions + dead letters + duplicates + erased."""

    predictions: int
    dead_letters: int
    duplicates: int
    erased: int
    hours: list[HourSums]

    @property
    def events(self) -> int:
        """Events read."""
        return self.predictions + self.dead_letters + self.duplicates + self.erased


def write_staged(
    connection: psycopg.Connection,
    source: Source,
    schema: CustomerSchema,
    attempt: UUID,
    erased: ErasedCustomers,
    *,
    kafka: KafkaConfig,
    replay: int | None,
    high_risk_threshold: float,
) -> StagedWritten:
    """Write predictions, high-risk ones and dead letters of an attempt into the open transaction.

    An event whose id is stored already, or occurs before, is a duplicate if its content is the same, and a dead letter
    otherwise, as in a commit of the stream.

    Args:
        connection: in a transaction.
        source: where the rows come from.
        schema: that the events were decoded with.
        attempt: whose rows are staged.
        erased: the present list of erased customers.
        kafka: where the payload of an event is read again that becomes a dead letter here.
        replay: how often the batch has been replayed before; None for a first reading.
        high_risk_threshold: risk score from which a prediction is high risk.

    Raises:
        AttemptGoneError: not all rows are there. Score again.
        RangeLostError: Kafka no longer holds an event that becomes a dead letter here.
        InvariantViolation: what was written does not add up to what was read.
    """
    table = prediction_table(schema)
    staged = spark_staging.require_complete(connection, attempt, erased)
    hours = spark_staging.insert_new(connection, table, attempt, replay=replay, high_risk_threshold=high_risk_threshold)
    predictions = sum(each.total_predictions for each in hours)
    dead_letters = dead_letter_events.insert_of_attempt(
        connection, attempt, batch=source.batch, topic=source.topic, topic_id=source.topic_id
    )
    conflicts = 0
    if predictions < staged.predictions:
        others = churn_predictions.conflicts_of_attempt(connection, table, attempt)
        if others:
            conflicts = write_dead_letters(
                connection, source, conflicting(others, _messages_at(kafka, source.topic, others))
            )
    duplicates = staged.predictions - predictions - conflicts
    if dead_letters != staged.dead_letters or duplicates < 0:
        raise InvariantViolation(
            f"Batch {source.batch}: {staged} events were staged, but {predictions} predictions, {dead_letters} dead "
            f"letters and {conflicts} more with known ids were written. All is rolled back. Please report this as a "
            f"bug."
        )
    return StagedWritten(
        predictions=predictions,
        dead_letters=dead_letters + conflicts,
        duplicates=duplicates,
        erased=staged.erased,
        hours=hours,
    )


def _messages_at(kafka: KafkaConfig, topic: str, places: Collection[tuple[int, int]]) -> list[Message]:
    """Return the messages at these Kafka partitions and offsets."""
    ranges: dict[int, tuple[int, int]] = {}
    for partition, offset in places:
        first, last = ranges.get(partition, (offset, offset))
        ranges[partition] = (min(first, offset), max(last, offset))
    ends = {partition: (first, last + 1) for partition, (first, last) in ranges.items()}
    return [
        message
        for messages in read_ranges(kafka, topic, ends, chunk=CHUNK_MESSAGES)
        for message in messages
        if (partition_of(message), offset_of(message)) in places
    ]
