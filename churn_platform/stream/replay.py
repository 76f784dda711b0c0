"""Replay of a closed batch: the same events are scored with the current champion, and replaced in one transaction.

Events are decoded with the customer schema of the batch, so that the same ones are valid. The threshold of the batch
decides which predictions are high risk. A replay publishes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
from confluent_kafka import Message

from churn_platform.database import (
    advisory_locks,
    batch_hours,
    churn_predictions,
    customer_schemas,
    dead_letter_events,
    erased_customers,
    high_risk_customers,
    replaced_predictions,
    spark_staging,
    stream_batches,
)
from churn_platform.database.churn_predictions import KnownEventError
from churn_platform.database.connections import connect
from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.decoding.events import DeadLetter, EventColumns, event_decoder
from churn_platform.kafka import clients, topics
from churn_platform.kafka.exceptions import RangeLostError
from churn_platform.kafka.messages import UNIX_EPOCH, offset_of, partition_of
from churn_platform.kafka.reading import read_ranges, require_ranges
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.commit_rows import Source, Written, write_high_risk, write_rows
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.erasure import without_erased
from churn_platform.stream.exceptions import ReplayError, UnknownBatchError
from churn_platform.stream.external_scoring import ScoringEngine, discard, stage
from churn_platform.stream.prediction_values import prediction_rows
from churn_platform.stream.schema_agreement import require_scorable
from churn_platform.stream.scoring import Champion, load_champion, score
from churn_platform.stream.staged_rows import StagedWritten, write_staged

MICROSECOND: Final = timedelta(microseconds=1)
# Customer id and event time of each row, by Kafka partition and offset.
_StoredRows = dict[tuple[int, int], tuple[int | str, datetime]]


@dataclass(frozen=True)
class ReplayResult:
    """The event counts of a replay, and how many rows it replaced."""

    events: int
    predictions: int
    dead_letters: int
    duplicates: int
    erased: int
    replaced: int
    model_version: int


@dataclass(frozen=True)
class _Plan:
    """A batch that can be replayed, and how its events are read and scored."""

    recorded: stream_batches.Batch
    accepts_from: datetime
    accepts_until: datetime
    schema: CustomerSchema
    source: Source
    ranges: dict[int, tuple[int, int]]
    champion: Champion
    threshold: float


def replay(
    config: StreamConfig, batch: str, log: Callable[[str], None], *, engine: ScoringEngine | None = None
) -> ReplayResult:
    """Read the recorded ranges of a closed batch, score their events with the champion, and replace the batch's rows.

    Args:
        config: the stream.
        batch: its key.
        log: writes a line to the run's log.
        engine: scores the events elsewhere, before the transaction; None: this process scores them, within it.

    Raises:
        UnknownBatchError: the ledger does not have the batch.
        ReplayError: the batch is not closed, or is archived, or Kafka no longer has its events. Nothing was changed.
        NoChampionError: there is no champion to score with.
        SchemaDisagreementError: the champion cannot score events of the batch's customer schema. Nothing was changed.
        ScoringFailedError: the engine has not scored the events. Nothing was changed.
        AttemptGoneError: the rows that the engine has staged are not all there. Nothing was changed.
    """
    with connect(config.dsn, autocommit=True, application_name=f"churn replay {batch}") as connection:
        champion = load_champion(connection)
        attempt = None if engine is None else _stage(connection, config, batch, champion, engine, log)
        with advisory_locks.replay_transaction(connection, batch):
            erased = erased_customers.load(connection)
            plan = _plan(connection, config, batch, champion)
            source = plan.source
            log(f"Replaying {batch} from {source.topic}, offsets {plan.ranges}, with model version {champion.version}.")
            try:
                result = _replace(connection, config, plan, erased, attempt)
            except RangeLostError as error:
                raise ReplayError(f"Batch {batch} cannot be replayed. Its rows are unchanged. {error}") from error
        if attempt is not None:
            discard(config, attempt)
        return result


def _plan(connection: psycopg.Connection, config: StreamConfig, batch: str, champion: Champion) -> _Plan:
    """Return how a batch is replayed.

    Raises: see replay().
    """
    recorded = stream_batches.find_batch(connection, batch)
    if recorded is None:
        raise UnknownBatchError(f"Batch {batch} is not in the ledger, so there is nothing to replay.")
    if recorded.closed is not None and recorded.opened is None:
        raise ReplayError(
            f"Batch {batch} was closed before its first event, because LANES had changed. It has nothing to replay; "
            f"leave it out."
        )
    if recorded.closed is None or recorded.accepts_from is None or recorded.accepts_until is None:
        raise ReplayError(f"Batch {batch} is not closed: it is still being streamed. Replay it afterwards.")
    if recorded.archived is not None:
        raise ReplayError(
            f"Batch {batch} was archived on {recorded.archived:%Y-%m-%d}: its predictions are in "
            f"{recorded.archive}. An archived batch cannot be replayed. Nothing was changed."
        )
    schema = _schema(connection, config, recorded)
    require_scorable(
        champion.bundle.schema, schema, model_version=champion.version, source=f"the events of batch {batch}"
    )
    source, ranges = _source(connection, config, batch)
    return _Plan(
        recorded=recorded,
        accepts_from=recorded.accepts_from,
        accepts_until=recorded.accepts_until,
        schema=schema,
        source=source,
        ranges=ranges,
        champion=champion,
        # A batch that was opened without an event has no threshold.
        threshold=config.high_risk_threshold if recorded.high_risk_threshold is None else recorded.high_risk_threshold,
    )


def _stage(
    connection: psycopg.Connection,
    config: StreamConfig,
    batch: str,
    champion: Champion,
    engine: ScoringEngine,
    log: Callable[[str], None],
) -> UUID:
    """Let the engine score the events of a batch. The transaction that uses its rows plans the replay again."""
    plan = _plan(connection, config, batch, champion)
    try:
        require_ranges(config.kafka, plan.source.topic, plan.ranges)
        attempt = stage(
            config,
            engine,
            log,
            source=plan.source,
            ranges=plan.ranges,
            schema=plan.schema,
            accepts_from=plan.accepts_from,
            accepts_until=plan.accepts_until,
            model_version=champion.version,
            events=plan.recorded.events,
        ).attempt
        # Retention may have deleted the beginning of a range while the engine read it.
        require_ranges(config.kafka, plan.source.topic, plan.ranges)
    except RangeLostError as error:
        raise ReplayError(f"Batch {batch} cannot be replayed. Its rows are unchanged. {error}") from error
    return attempt


def _schema(connection: psycopg.Connection, config: StreamConfig, recorded: stream_batches.Batch) -> CustomerSchema:
    """Return the customer schema that the events of a batch were decoded with."""
    if recorded.schema_fingerprint is None:
        return config.schema
    schema = customer_schemas.get(connection, recorded.schema_fingerprint)
    if schema is None:
        raise ReplayError(
            f"Batch {recorded.batch} was read with the customer schema {recorded.schema_fingerprint}, which the "
            f"database does not have. Its rows stay as they are."
        )
    return schema


def _source(
    connection: psycopg.Connection, config: StreamConfig, batch: str
) -> tuple[Source, dict[int, tuple[int, int]]]:
    recorded = stream_batches.ranges_of(connection, batch)
    topic = topics.describe(clients.admin(config.kafka.client), config.events_topic)
    others = {each.topic_id for each in recorded} - {topic.topic_id}
    if others:
        raise ReplayError(
            f"Batch {batch} was read from topic id {', '.join(sorted(others))}, but {topic.name!r} is {topic.topic_id} "
            f"now: the topic was created again and the events are gone. The batch's rows are unchanged."
        )
    source = Source(batch=batch, topic=topic.name, topic_id=topic.topic_id)
    return source, {each.kafka_partition: (each.start_offset, each.end_offset) for each in recorded}


def _replace(
    connection: psycopg.Connection, config: StreamConfig, plan: _Plan, erased: ErasedCustomers, attempt: UUID | None
) -> ReplayResult:
    recorded, batch = plan.recorded, plan.recorded.batch
    replaced_predictions.keep(connection, prediction_table(plan.schema), batch, replay=recorded.replays)
    dead_letter_events.set_aside(connection, batch)
    high_risk_customers.delete_without_alert(connection, batch)
    hours = batch_hours.delete_sums(connection, batch)
    if attempt is None:
        replaced, written = _score_again(connection, config, plan, erased)
    else:
        replaced, written = _move_staged(connection, config, plan, erased, attempt)
    _restore_dead_letters(connection, batch)
    high_risk_customers.rescore_alerted(connection, batch)
    sums = [each for part in written for each in part.hours]
    batch_hours.add_sums(connection, plan.schema, batch=batch, hours=sums)
    counts = {
        name: sum(getattr(part, name) for part in written)
        for name in ("predictions", "dead_letters", "duplicates", "erased")
    }
    result = ReplayResult(events=sum(counts.values()), **counts, replaced=replaced, model_version=plan.champion.version)
    if result.events != recorded.events:
        raise ReplayError(
            f"Batch {batch} had {recorded.events} events, but Kafka returned {result.events} in its ranges "
            f"{plan.ranges}. Its rows are unchanged."
        )
    stream_batches.record_replay(connection, batch, events=result.events, **counts, model_version=plan.champion.version)
    # Last, because the stream's own commits have to wait for these rows until the transaction ends.
    batch_hours.mark_dirty(connection, [*hours, *(each.hour_timestamp for each in sums)])
    return result


def _score_again(
    connection: psycopg.Connection, config: StreamConfig, plan: _Plan, erased: ErasedCustomers
) -> tuple[int, list[StagedWritten]]:
    """Read and score the events in this process; return how many rows were replaced, and what was written."""
    rows: _StoredRows = churn_predictions.delete_batch(connection, plan.recorded.batch)
    parts = []
    for messages in _rows_first(config, plan.source.topic, plan.ranges, rows, plan.recorded.events):
        written = _write(connection, config, plan, messages, rows, erased)
        parts.append(
            StagedWritten(
                predictions=len(written.predictions),
                dead_letters=written.dead_letters,
                duplicates=written.duplicates,
                erased=written.erased,
                hours=written.hours,
            )
        )
    return len(rows), parts


def _move_staged(
    connection: psycopg.Connection, config: StreamConfig, plan: _Plan, erased: ErasedCustomers, attempt: UUID
) -> tuple[int, list[StagedWritten]]:
    """Move the rows that an engine has staged; return how many rows were replaced, and what was written."""
    batch = plan.recorded.batch
    replaced = churn_predictions.delete_rows_of_batch(connection, batch)
    other = spark_staging.other_event(connection, attempt, batch=batch, replay=plan.recorded.replays)
    if other is not None:
        raise _other_event(plan.source, *other)
    written = write_staged(
        connection,
        plan.source,
        plan.schema,
        attempt,
        erased,
        kafka=config.kafka,
        replay=plan.recorded.replays,
        high_risk_threshold=plan.threshold,
    )
    return replaced, [written]


def _restore_dead_letters(connection: psycopg.Connection, batch: str) -> None:
    """Restore the times and retries of dead letters that the replay has written again.

    Raises:
        ReplayError: the replay scores an event whose dead letter was retried, so it would count twice.
    """
    valid = dead_letter_events.restore_history(connection)
    if valid:
        raise ReplayError(
            f"Batch {batch} cannot be replayed. Its rows are unchanged. {len(valid)} of its dead letters are valid "
            f"events now, but corrected ones were already sent for them ('churn dlq retry'), so both would "
            f"count: {', '.join(valid[:5])}{', …' if len(valid) > 5 else ''}."
        )


def _rows_first(
    config: StreamConfig, topic: str, ranges: dict[int, tuple[int, int]], rows: _StoredRows, events: int
) -> Iterator[list[Message]]:
    """Yield the events of a batch: first those that had a row, then the others.

    Kafka returns partitions in a different order each time. This order ensures that of two events with the same id,
    the one that had the row gets it again.
    """
    for are_rows in (True, False) if len(rows) < events else (True,):
        for messages in read_ranges(config.kafka, topic, ranges, chunk=config.commit_events):
            chosen = [each for each in messages if ((partition_of(each), offset_of(each)) in rows) is are_rows]
            if chosen:
                yield chosen


def _write(
    connection: psycopg.Connection,
    config: StreamConfig,
    plan: _Plan,
    messages: list[Message],
    rows: _StoredRows,
    erased: ErasedCustomers,
) -> Written:
    source, schema, threshold = plan.source, plan.schema, plan.threshold
    events, dead_letters = event_decoder(schema).decode(
        messages, topic_id=source.topic_id, accepts_from=plan.accepts_from, accepts_until=plan.accepts_until
    )
    _require_same_events(source, rows, events, dead_letters)
    events, dead_letters, left_out = without_erased(schema, events, dead_letters, erased)
    scored = score(events, plan.champion, threads=config.scoring_threads)
    rows_to_write = prediction_rows(prediction_table(schema), source.batch, scored)

    def write(*, compare: bool) -> Written:
        with connection.transaction():  # a savepoint
            written = write_rows(
                connection,
                source,
                schema,
                scored,
                rows_to_write,
                dead_letters,
                messages,
                compare=compare,
                high_risk_threshold=threshold,
                erased=left_out,
            )
            write_high_risk(connection, schema, written.predictions, threshold)
            return written

    try:
        return write(compare=False)
    except KnownEventError:
        return write(compare=True)


def _require_same_events(
    source: Source, rows: _StoredRows, events: EventColumns, dead_letters: Sequence[DeadLetter]
) -> None:
    """Check that Kafka still has the events that the rows were made from, and not others after a truncation.

    Raises:
        ReplayError: there is another event at the offset of a row, or none.
    """
    read = zip(
        events.kafka_partition.tolist(),
        events.kafka_offset.tolist(),
        events.customer_id.tolist(),
        events.event_timestamp.tolist(),
        strict=True,
    )
    found = {(partition, offset): (customer, time) for partition, offset, customer, time in read}
    found |= {(each.kafka_partition, each.kafka_offset): (None, None) for each in dead_letters}
    for place, (customer, time) in rows.items():
        if place in found and found[place] != (customer, (time - UNIX_EPOCH) // MICROSECOND):
            raise _other_event(source, *place)


def _other_event(source: Source, partition: int, offset: int) -> ReplayError:
    return ReplayError(
        f"Batch {source.batch} has a row from {source.topic}[{partition}] offset {offset}, where Kafka holds a record "
        f"of another customer or time now: the log was truncated and has grown again. The batch's rows are unchanged."
    )
