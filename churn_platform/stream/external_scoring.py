"""Scoring of recorded offset ranges by another engine, which stages its rows in PostgreSQL.

The stream decides what is scored, and with which model, schema and bounds, and it commits the result. The engine, such
as Spark, reads, decodes and scores with the same code, and writes staging rows. It may fail at any time, or stage other
events than those of the ranges: then a new attempt begins from nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from churn_platform.database import model_versions, spark_staging
from churn_platform.database.connections import connect
from churn_platform.database.spark_staging import StagedPartition
from churn_platform.errors import PlatformError
from churn_platform.kafka.config import KafkaConfig
from churn_platform.kafka.messages import partition_of
from churn_platform.kafka.reading import CHUNK_MESSAGES, read_ranges
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.commit_rows import Source
from churn_platform.stream.config import StreamConfig

# An engine repeats its own tasks. An attempt fails if the driver or the cluster dies, and both may be back soon.
ATTEMPTS: Final = 3


class ScoringFailedError(PlatformError):
    """The engine has not scored exactly the events of the ranges. Nothing was written to the tables of predictions."""

    transient = True


class _UnusableAttemptError(Exception):
    """What an attempt has staged is not what was ordered."""


@dataclass(frozen=True, kw_only=True)
class ScoringOrder:
    """What an engine is to score.

    Attributes:
        attempt: id under which the rows are staged.
        source: batch and topic of the rows.
        ranges: offsets [start, end), by Kafka partition.
        schema: that the events are decoded with.
        accepts_from: earliest event time that is valid.
        accepts_until: latest event time that is valid.
        model_version: version of the model that scores.
        model_uri: folder or s3:// prefix of its bundle.
    """

    attempt: UUID
    source: Source
    ranges: Mapping[int, tuple[int, int]]
    schema: CustomerSchema
    accepts_from: datetime
    accepts_until: datetime
    model_version: int
    model_uri: str


@dataclass(frozen=True)
class StagedAttempt:
    """An attempt whose rows are complete, and what it has staged, by Kafka partition."""

    attempt: UUID
    partitions: Mapping[int, StagedPartition]


@dataclass(frozen=True)
class ScoringEngine:
    """Another engine.

    Attributes:
        score: scores an order. It returns when all rows are staged, or when it cannot go on: the attempt tells which.
        backlog_events: most waiting offsets that it scores in one run.
    """

    score: Callable[[ScoringOrder], None]
    backlog_events: int


def stage(
    config: StreamConfig,
    engine: ScoringEngine,
    log: Callable[[str], None],
    *,
    source: Source,
    ranges: Mapping[int, tuple[int, int]],
    schema: CustomerSchema,
    accepts_from: datetime,
    accepts_until: datetime,
    model_version: int,
    events: int | None = None,
) -> StagedAttempt:
    """Let an engine score offset ranges, and return the attempt whose rows are complete.

    Args:
        config: the stream.
        engine: scores.
        log: writes a line to the run's log.
        source: batch and topic of the rows.
        ranges: offsets [start, end), by Kafka partition.
        schema: that the events are decoded with.
        accepts_from: earliest event time that is valid.
        accepts_until: latest event time that is valid.
        model_version: version of the model that scores.
        events: number of events in the ranges; None: unknown. Then they are counted in Kafka where markers may be
            among them.

    Raises:
        ScoringFailedError: no attempt has staged exactly the events of the ranges.
        RangeLostError: Kafka no longer holds a range.
    """
    with connect(config.dsn, autocommit=True, application_name=f"churn staging {source.batch}") as connection:
        uri = model_versions.get(connection, model_version).uri
    problem = ""
    for number in range(1, ATTEMPTS + 1):
        order = ScoringOrder(
            attempt=uuid4(),
            source=source,
            ranges={partition: bounds for partition, bounds in ranges.items() if bounds[0] < bounds[1]},
            schema=schema,
            accepts_from=accepts_from,
            accepts_until=accepts_until,
            model_version=model_version,
            model_uri=uri,
        )
        with connect(config.dsn, autocommit=True, application_name=f"churn staging {source.batch}") as connection:
            spark_staging.begin(connection, order.attempt, batch=source.batch, model_version=model_version)
        engine.score(order)
        try:
            staged = _require_ordered(config, order, events)
        except _UnusableAttemptError as error:
            problem = str(error)
            log(f"Attempt {number} of {ATTEMPTS} to score batch {source.batch} has failed: {problem}.")
        else:
            scored = sum(each.events for each in staged.values())
            log(f"Attempt {number} has scored {scored:,} events of batch {source.batch}.")
            return StagedAttempt(order.attempt, staged)
    raise ScoringFailedError(
        f"Batch {source.batch} was not scored in {ATTEMPTS} attempts. Nothing was changed. The last one: {problem}.",
        remedy="The run's stdout and stderr have the engine's log. Correct the cause, and start the run again.",
    )


def _require_ordered(config: StreamConfig, order: ScoringOrder, events: int | None) -> dict[int, StagedPartition]:
    """Check that exactly the events that were ordered are staged, and return what is, by Kafka partition.

    Raises:
        _UnusableAttemptError: the attempt has not finished, or other events are staged.
        RangeLostError: Kafka no longer holds a range.
    """
    topic, batch = order.source.topic, order.source.batch
    with connect(config.dsn, autocommit=True, application_name=f"churn staging {batch}") as connection:
        found = spark_staging.find(connection, order.attempt)
        if found is None or found.finished is None:
            raise _UnusableAttemptError("it has not finished; the engine's log has the cause")
        staged = spark_staging.staged_partitions(connection, order.attempt)
        twice = spark_staging.staged_twice(connection, order.attempt)
    foreign = sum(each.foreign for each in staged.values())
    if foreign:
        raise _UnusableAttemptError(
            f"{foreign:,} predictions of another batch or model version are staged; expected batch {batch} and model "
            f"version {order.model_version}"
        )
    if twice:
        raise _UnusableAttemptError(f"{twice:,} offsets are staged both as a prediction and as a dead letter")
    for partition, each in staged.items():
        start, end = order.ranges.get(partition, (0, 0))
        if each.first is not None and each.last is not None and not start <= each.first <= each.last < end:
            expected = f"{start}..{end - 1}" if start < end else "none"
            raise _UnusableAttemptError(
                f"offsets {each.first}..{each.last} of {topic}[{partition}] are staged; expected {expected}"
            )
    if events is None or sum(each.events for each in staged.values()) != events:
        _require_counts(config.kafka, order, {partition: each.events for partition, each in staged.items()})
    return staged


def _require_counts(kafka: KafkaConfig, order: ScoringOrder, staged: Mapping[int, int]) -> None:
    """Check that as many events are staged as the ranges have. They are in the ranges, and none is staged twice.

    Where fewer are staged than the range has offsets, the events are counted in Kafka: a range may have transaction
    markers, and gaps that compaction has left.

    Raises:
        _UnusableAttemptError: fewer are staged.
        RangeLostError: Kafka no longer holds a range.
    """
    sparse = {
        partition: (start, end)
        for partition, (start, end) in order.ranges.items()
        if staged.get(partition, 0) != end - start
    }
    in_kafka = dict.fromkeys(sparse, 0)
    for messages in read_ranges(kafka, order.source.topic, sparse, chunk=CHUNK_MESSAGES):
        for message in messages:
            in_kafka[partition_of(message)] += 1
    for partition, count in in_kafka.items():
        if staged.get(partition, 0) != count:
            start, end = sparse[partition]
            place = f"{order.source.topic}[{partition}], offsets {start}..{end - 1}"
            raise _UnusableAttemptError(
                f"{staged.get(partition, 0):,} events of {place}, are staged; Kafka has {count:,}"
            )


def discard(config: StreamConfig, attempt: UUID) -> None:
    """Delete the staged rows of an attempt, which the tables have now."""
    with connect(config.dsn, autocommit=True, application_name="churn staging") as connection:
        spark_staging.discard(connection, attempt)
