"""Replay of a closed batch: the same events are scored with the current champion, in one transaction.

Events are decoded with the customer schema of the batch, so that the same ones are valid. The threshold of the batch
decides which predictions are high risk. A replay publishes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

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
from churn_platform.kafka.reading import read_ranges
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.commit_rows import Source, Written, write_high_risk, write_rows
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.erasure import without_erased
from churn_platform.stream.exceptions import ReplayError, UnknownBatchError
from churn_platform.stream.prediction_values import prediction_rows
from churn_platform.stream.schema_agreement import require_scorable
from churn_platform.stream.scoring import Champion, load_champion, score

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


def replay(config: StreamConfig, batch: str, log: Callable[[str], None]) -> ReplayResult:
    """Read the recorded ranges of a closed batch, score their events with the champion, and replace the batch's rows.

    Raises:
        UnknownBatchError: the ledger does not have the batch.
        ReplayError: the batch is not closed, or is archived, or Kafka no longer has its events. Nothing was changed.
        NoChampionError: there is no champion to score with.
        SchemaDisagreementError: the champion cannot score events of the batch's customer schema. Nothing was changed.
    """
    with connect(config.dsn, autocommit=True, application_name=f"churn replay {batch}") as connection:
        champion = load_champion(connection)
        with advisory_locks.replay_transaction(connection, batch):
            erased = erased_customers.load(connection)
            recorded = stream_batches.find_batch(connection, batch)
            if recorded is None:
                raise UnknownBatchError(f"Batch {batch} is not in the ledger, so there is nothing to replay.")
            if recorded.closed is not None and recorded.opened is None:
                raise ReplayError(
                    f"Batch {batch} was closed before its first event, because LANES had changed. It has nothing to "
                    f"replay; leave it out."
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
            log(f"Replaying {batch} from {source.topic}, offsets {ranges}, with model version {champion.version}.")
            try:
                return _replace(connection, config, recorded, schema, source, ranges, champion, erased)
            except RangeLostError as error:
                raise ReplayError(f"Batch {batch} cannot be replayed. Its rows are unchanged. {error}") from error


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
    connection: psycopg.Connection,
    config: StreamConfig,
    recorded: stream_batches.Batch,
    schema: CustomerSchema,
    source: Source,
    ranges: dict[int, tuple[int, int]],
    champion: Champion,
    erased: ErasedCustomers,
) -> ReplayResult:
    batch = recorded.batch
    replaced_predictions.keep(connection, prediction_table(schema), batch, replay=recorded.replays)
    rows: _StoredRows = churn_predictions.delete_batch(connection, batch)
    dead_letter_events.set_aside(connection, batch)
    high_risk_customers.delete_without_alert(connection, batch)
    hours = batch_hours.delete_sums(connection, batch)
    predictions = dead_letters = duplicates = left_out = 0
    sums: list[batch_hours.HourSums] = []
    for messages in _rows_first(config, source.topic, ranges, rows, recorded.events):
        written = _write(connection, config, source, recorded, schema, champion, messages, rows, erased)
        predictions += len(written.predictions)
        dead_letters += written.dead_letters
        duplicates += written.duplicates
        left_out += written.erased
        sums += written.hours
    _restore_dead_letters(connection, batch)
    high_risk_customers.rescore_alerted(connection, batch)
    batch_hours.add_sums(connection, schema, batch=batch, hours=sums)
    result = ReplayResult(
        events=predictions + dead_letters + duplicates + left_out,
        predictions=predictions,
        dead_letters=dead_letters,
        duplicates=duplicates,
        erased=left_out,
        replaced=len(rows),
        model_version=champion.version,
    )
    if result.events != recorded.events:
        raise ReplayError(
            f"Batch {batch} had {recorded.events} events, but Kafka returned {result.events} in its ranges {ranges}. "
            f"Its rows are unchanged."
        )
    stream_batches.record_replay(
        connection,
        batch,
        events=result.events,
        predictions=predictions,
        dead_letters=dead_letters,
        duplicates=duplicates,
        erased=left_out,
        model_version=champion.version,
    )
    # Last, because the stream's own commits have to wait for these rows until the transaction ends.
    batch_hours.mark_dirty(connection, [*hours, *(each.hour_timestamp for each in sums)])
    return result


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
    source: Source,
    recorded: stream_batches.Batch,
    schema: CustomerSchema,
    champion: Champion,
    messages: list[Message],
    rows: _StoredRows,
    erased: ErasedCustomers,
) -> Written:
    events, dead_letters = event_decoder(schema).decode(
        messages,
        topic_id=source.topic_id,
        accepts_from=_recorded(recorded.accepts_from, recorded),
        accepts_until=_recorded(recorded.accepts_until, recorded),
    )
    _require_same_events(source, rows, events, dead_letters)
    events, dead_letters, left_out = without_erased(schema, events, dead_letters, erased)
    scored = score(events, champion, threads=config.scoring_threads)
    rows_to_write = prediction_rows(prediction_table(schema), source.batch, scored)
    # A batch that was opened without an event has no threshold.
    threshold = config.high_risk_threshold if recorded.high_risk_threshold is None else recorded.high_risk_threshold

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
            partition, offset = place
            raise ReplayError(
                f"Batch {source.batch} has a row from {source.topic}[{partition}] offset {offset}, where Kafka holds "
                f"a record of another customer or time now: the log was truncated and has grown again. The batch's "
                f"rows are unchanged."
            )


def _recorded(moment: datetime | None, batch: stream_batches.Batch) -> datetime:
    if moment is None:
        raise ReplayError(f"Batch {batch.batch} has no bounds for event times, because it was never opened.")
    return moment
