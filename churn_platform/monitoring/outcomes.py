"""Ingestion of outcomes (which customers left, which stayed): from their Kafka topic to PostgreSQL, exactly once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import psycopg
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient

from churn_platform.database import erased_customers, retention_cases, stored_outcomes
from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.database.exceptions import LedgerConflictError
from churn_platform.database.retention_cases import Told
from churn_platform.database.stored_outcomes import Reading
from churn_platform.database.stream_positions import LastRecord
from churn_platform.decoding.named_customers import named_customers
from churn_platform.decoding.outcomes import Outcome, RejectedOutcome, outcome_decoder
from churn_platform.decoding.reasons import LONGEST_REASON, printable
from churn_platform.environments.config import CLOCK_TOLERANCE, EnvironmentConfig
from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import RangeLostError, TopicChangedError, TopicMissingError
from churn_platform.kafka.messages import offset_of, partition_of
from churn_platform.kafka.reading import make_consumer, read_ranges
from churn_platform.kafka.topics import EARLIEST, LATEST, Topic
from churn_platform.positions.truncation import TRUNCATED_REMEDY, last_records, resume
from churn_platform.schema.customer_schema import CustomerSchema

CHUNK: Final = 10_000  # messages per transaction

DecodeMessage = Callable[[Message, datetime, datetime], Outcome | RejectedOutcome]


@dataclass(frozen=True)
class IngestResult:
    """Numbers of ingested outcomes (the customer left or stayed), rejected messages, and cases that outcomes closed."""

    left: int = 0
    stayed: int = 0
    rejected: int = 0
    kept_cases: int = 0
    lost_cases: int = 0

    def __add__(self, other: "IngestResult") -> "IngestResult":
        return IngestResult(
            self.left + other.left,
            self.stayed + other.stayed,
            self.rejected + other.rejected,
            self.kept_cases + other.kept_cases,
            self.lost_cases + other.lost_cases,
        )


def load_lag(connection: psycopg.Connection, admin: AdminClient, topic: str) -> int:
    """Return the lag of the outcomes topic: offsets between the positions and the ends; 0 if there is no such topic.

    If the topic was truncated below a position, the offsets in between count as well, so that a run starts and
    reports the truncation.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    try:
        found = topics.describe(admin, topic)
    except TopicMissingError:
        return 0
    return sum(abs(end - start) for start, end in _ranges(connection, admin, found).values())


def ingest(
    connection: psycopg.Connection,
    admin: AdminClient,
    config: EnvironmentConfig,
    topic: str,
    *,
    chunk: int = CHUNK,
    decode_message: DecodeMessage | None = None,
) -> IngestResult:
    """Ingest all outcomes between the positions and the ends of the topic.

    Each chunk is one transaction: its outcomes, its rejected messages and the new positions. So every message
    counts once, even after an interruption.

    Args:
        connection: not in a transaction.
        config: how the brokers are reached, and the schema of the customers.
        topic: name of the outcomes topic. If it does not exist, there is nothing to ingest.
        chunk: messages per transaction.
        decode_message: decodes one message, instead of the decoder of the schema.

    Raises:
        RangeLostError: Kafka no longer holds the next offsets, or the log is no longer the one that was read before.
        LedgerConflictError: the position was moved in the meantime; nothing of this chunk was written.
        TopicChangedError: the topic was deleted and created again in the meantime; nothing of this chunk was written.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    try:
        found = topics.describe(admin, topic)
    except TopicMissingError:
        return IngestResult()
    with stored_outcomes.reading(connection, found.topic_id):
        decode = decode_message or outcome_decoder(config.schema).decode
        return _ingest_topic(connection, admin, config, found, chunk, decode)


def _ingest_topic(
    connection: psycopg.Connection,
    admin: AdminClient,
    config: EnvironmentConfig,
    found: Topic,
    chunk: int,
    decode_message: DecodeMessage,
) -> IngestResult:
    readings, skipped, known = _open(connection, admin, found, config.epoch)
    result = IngestResult()
    if not readings:
        return result
    reached = {partition: reading.start for partition, reading in readings.items()}
    _compare_log(config, found, reached, known)
    try:
        ranges = {p: (r.start, r.end) for p, r in readings.items()}
        for messages in read_ranges(config.kafka, found.name, ranges, chunk=chunk):
            records = last_records(messages, len(found.partitions))
            ends = {partition: record.offset + 1 for partition, record in records.items()}
            wanted = [each for each in messages if not _is_skipped(each, skipped)]
            decoded = [
                decode_message(
                    each, readings[partition_of(each)].accepts_from, readings[partition_of(each)].accepts_until
                )
                for each in wanted
            ]
            _require_same(admin, found)
            result += _write(connection, config.schema, found, decoded, reached, ends, records)
            reached |= ends
    except RangeLostError:
        require_held(connection, admin, found)  # its error names the offsets and the command
        raise
    # A partition may end with transaction markers, which are never delivered: move the positions past them.
    _write(
        connection,
        config.schema,
        found,
        [],
        reached,
        {partition: reading.end for partition, reading in readings.items()},
        {},
    )
    return result


def _compare_log(
    config: EnvironmentConfig, topic: Topic, positions: Mapping[int, int], known: Mapping[int, LastRecord]
) -> None:
    """Make sure that the topic's log is the one that was read before.

    Raises:
        LogTruncatedError: the log lost its end, and its offsets now hold other outcomes.
    """
    read_before = {partition: position for partition, position in positions.items() if partition in known}
    consumer = make_consumer(config.kafka)
    try:
        resume(consumer, topic.name, read_before, known, reset="churn outcomes reset")
    finally:
        consumer.close()


def require_held(connection: psycopg.Connection, admin: AdminClient, topic: Topic) -> dict[int, tuple[int, int]]:
    """Return the first offset to read and the end offset, by Kafka partition, if Kafka holds all offsets in between.

    Raises:
        RangeLostError: retention deleted offsets before they were read, or the topic was truncated.
    """
    ranges = _ranges(connection, admin, topic)
    oldest = topics.list_offsets(admin, topic, EARLIEST)
    for partition, (start, end) in ranges.items():
        if oldest[partition] > start:
            raise RangeLostError(
                f"{topic.name}[{partition}] no longer holds offsets {start}..{oldest[partition] - 1}: the broker's "
                f"oldest is {oldest[partition]}. Retention deleted them before they were read.",
                remedy=f"Accept the loss with 'churn outcomes reset --topic {topic.name} --partition {partition} "
                f"--to {oldest[partition]}', or restore the topic.",
            )
        if end < start:
            raise RangeLostError(
                f"{topic.name}[{partition}] ends at offset {end}, but was read up to {start}: the topic was truncated.",
                remedy=TRUNCATED_REMEDY,
            )
    return ranges


def _open(
    connection: psycopg.Connection, admin: AdminClient, topic: Topic, epoch: datetime
) -> tuple[dict[int, Reading], dict[int, list[range]], dict[int, LastRecord]]:
    """Record the offsets to read and the outcome times to accept.

    Returns:
        By Kafka partition: the reading, the offsets in it to skip, and the last record read before it, if known.
    """
    with connection.transaction():
        stored_outcomes.lock(connection, topic.topic_id)
        until = datetime.now(UTC) + CLOCK_TOLERANCE
        readings = {
            partition: stored_outcomes.open_reading(
                connection, topic.topic_id, partition, proposed=Reading(start, end, epoch, until)
            )
            for partition, (start, end) in require_held(connection, admin, topic).items()
            if start < end
        }
        starts = [reading.start for reading in readings.values()]
        skipped = stored_outcomes.skips(connection, topic.topic_id, starts)
        return readings, skipped, stored_outcomes.last_records(connection, topic.topic_id)


def _ranges(connection: psycopg.Connection, admin: AdminClient, topic: Topic) -> dict[int, tuple[int, int]]:
    """Return the first offset to read and the end offset, by Kafka partition. A new partition starts at its oldest."""
    known = stored_outcomes.positions(connection, topic.topic_id)
    ends = topics.list_offsets(admin, topic, LATEST)
    starts = topics.list_offsets(admin, topic, EARLIEST) if ends.keys() - known.keys() else {}
    return {partition: (known.get(partition, starts.get(partition, 0)), end) for partition, end in ends.items()}


def _is_skipped(message: Message, skipped: Mapping[int, Sequence[range]]) -> bool:
    return any(offset_of(message) in each for each in skipped.get(partition_of(message), ()))


def _require_same(admin: AdminClient, topic: Topic) -> None:
    """Make sure that the messages were not read from another topic of the same name."""
    now = topics.describe(admin, topic.name)
    if now.topic_id != topic.topic_id:
        raise TopicChangedError(
            f"{topic.name} was deleted and created again while it was read: its id was {topic.topic_id} and is "
            f"{now.topic_id}. Nothing of this chunk was written; the next run reads the new topic from its beginning."
        )


def _write(
    connection: psycopg.Connection,
    schema: CustomerSchema,
    topic: Topic,
    decoded: Sequence[Outcome | RejectedOutcome],
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    records: Mapping[int, LastRecord],
) -> IngestResult:
    """Write a chunk, close the cases that it decides, and move the positions from `starts` to `ends`.

    `records` are the last records before `ends`.
    """
    with connection.transaction():
        erased_customers.hold_off(connection)
        stored_outcomes.lock(connection, topic.topic_id)
        positions = stored_outcomes.positions(connection, topic.topic_id)
        for partition in ends:
            if positions.get(partition, starts[partition]) != starts[partition]:
                raise LedgerConflictError(
                    f"{topic.name}[{partition}] was moved to offset {positions[partition]} while this run read from "
                    f"{starts[partition]}. Nothing of this chunk was written; the next run continues from there."
                )
        decoded = _without_erased(decoded, schema, erased_customers.load(connection))
        written, rejected = _write_outcomes(connection, topic, [each for each in decoded if isinstance(each, Outcome)])
        rejected += [each for each in decoded if isinstance(each, RejectedOutcome)]
        stored_outcomes.insert_refused(
            connection,
            [(topic.topic_id, bad.kafka_partition, bad.kafka_offset, bad.reason, bad.payload) for bad in rejected],
        )
        closed = retention_cases.close_by_outcomes(
            connection,
            schema,
            [Told(each.customer_id, each.event_id, each.churned, each.outcome_timestamp) for each in written],
        )
        stored_outcomes.advance(connection, topic.topic_id, topic.name, ends, records)
    left = sum(each.churned for each in written)
    return IngestResult(
        left=left,
        stayed=len(written) - left,
        rejected=len(rejected),
        kept_cases=closed["kept"],
        lost_cases=closed["lost"],
    )


def _without_erased(
    decoded: Sequence[Outcome | RejectedOutcome], schema: CustomerSchema, erased: ErasedCustomers
) -> list[Outcome | RejectedOutcome]:
    """Return the messages, where those about erased customers are rejected and have no payload."""
    if not erased:
        return list(decoded)

    def is_erased(each: Outcome | RejectedOutcome) -> bool:
        if isinstance(each, Outcome):
            return each.customer_id in erased
        return any(map(erased.__contains__, named_customers(each.payload, schema)))

    return [
        RejectedOutcome(each.kafka_partition, each.kafka_offset, stored_outcomes.ERASED, None)
        if is_erased(each)
        else each
        for each in decoded
    ]


def _write_outcomes(
    connection: psycopg.Connection, topic: Topic, valid: list[Outcome]
) -> tuple[list[Outcome], list[RejectedOutcome]]:
    """Write outcomes with one COPY. If PostgreSQL rejects it, write them one by one to reject only the invalid ones."""
    try:
        with connection.transaction():
            stored_outcomes.insert_all(connection, (_row(topic, each) for each in valid))
    except (psycopg.DataError, psycopg.IntegrityError):
        written: list[Outcome] = []
        rejected: list[RejectedOutcome] = []
        for each in valid:
            try:
                with connection.transaction():
                    stored_outcomes.insert(connection, _row(topic, each))
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                reason = printable(f"PostgreSQL rejected it: {error.diag.message_primary or error}")[:LONGEST_REASON]
                rejected.append(RejectedOutcome(each.kafka_partition, each.kafka_offset, reason, each.payload))
            else:
                written.append(each)
        return written, rejected
    return valid, []


def _row(topic: Topic, outcome: Outcome) -> stored_outcomes.OutcomeRow:
    """Return the outcome as a row of customer_outcomes."""
    return (
        topic.topic_id,
        outcome.kafka_partition,
        outcome.kafka_offset,
        outcome.event_id,
        outcome.customer_id,
        outcome.churned,
        outcome.outcome_timestamp,
    )
