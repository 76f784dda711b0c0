"""Outcomes: who left and who stayed, read from their topic into PostgreSQL, each message once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec
import psycopg
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient

from churn_platform.database import outcomes
from churn_platform.database.exceptions import LedgerConflictError
from churn_platform.database.ledger import LastRecord
from churn_platform.database.outcomes import Reading
from churn_platform.decoding.events import Flag, Timestamp, canonical_event_id, kafka_time
from churn_platform.decoding.reasons import LONGEST_REASON, described, explain, printable
from churn_platform.environments.config import CLOCK_TOLERANCE, EnvironmentConfig
from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import RangeLostError, TopicChangedError, TopicMissingError
from churn_platform.kafka.messages import Received, offset_of, partition_of
from churn_platform.kafka.reading import make_consumer, read_ranges
from churn_platform.kafka.topics import EARLIEST, LATEST, Topic
from churn_platform.positions.truncation import TRUNCATED_REMEDY, last_records, resume

CHUNK: Final = 10_000  # messages of one transaction

_COPY: Final = """
    copy customer_outcomes (
        topic_id, kafka_partition, kafka_offset, event_id, customer_id, churned, outcome_timestamp
    ) from stdin
"""
_INSERT: Final = """
    insert into customer_outcomes (
        topic_id, kafka_partition, kafka_offset, event_id, customer_id, churned, outcome_timestamp
    ) values (%s, %s, %s, %s, %s, %s, %s) on conflict (topic_id, kafka_partition, kafka_offset) do nothing
"""
_INSERT_REFUSED: Final = """
    insert into refused_outcomes (topic_id, kafka_partition, kafka_offset, reason, payload)
    values (%s, %s, %s, %s, %s) on conflict (topic_id, kafka_partition, kafka_offset) do nothing
"""


class Outcome(msgspec.Struct, gc=False, kw_only=True):
    """What a message says: of the event with this id, else of all that is known of the customer until then."""

    true_churn_label: Flag
    event_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    CustomerId: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None = None
    outcome_timestamp: Timestamp | None = None


FIELDS: Final = described(Outcome)
_decode = msgspec.json.Decoder(Outcome).decode


@dataclass(frozen=True)
class Known:
    """A valid outcome. One of event_id and customer_id is there; churned is 0 or 1."""

    kafka_partition: int
    kafka_offset: int
    event_id: UUID | None
    customer_id: int | None
    churned: int
    outcome_timestamp: datetime
    payload: bytes | None

    def row(self, topic_id: str) -> tuple[object, ...]:
        """Its row of customer_outcomes."""
        return (
            topic_id,
            self.kafka_partition,
            self.kafka_offset,
            self.event_id,
            self.customer_id,
            self.churned,
            self.outcome_timestamp,
        )


@dataclass(frozen=True)
class Refused:
    """A message that is no valid outcome, with the reason in words."""

    kafka_partition: int
    kafka_offset: int
    reason: str
    payload: bytes | None


@dataclass(frozen=True)
class IngestResult:
    """What was read: outcomes of those who left and who stayed, and messages that were refused."""

    left: int = 0
    stayed: int = 0
    refused: int = 0

    def __add__(self, other: "IngestResult") -> "IngestResult":
        return IngestResult(self.left + other.left, self.stayed + other.stayed, self.refused + other.refused)


def decode(message: Received, accepts_from: datetime, accepts_until: datetime) -> Known | Refused:
    """A message as an outcome, or with the reason why it is none. No content of a message makes it raise.

    Args:
        message: as it was read.
        accepts_from: earliest time that an outcome may have.
        accepts_until: latest time that an outcome may have.
    """
    partition, offset, value = partition_of(message), offset_of(message), message.value()
    try:
        return _known(message, value, accepts_from, accepts_until)
    except Exception as problem:  # whatever it is: one message must not keep all that follow it from being read
        return Refused(partition, offset, _reason(value, problem), value)


def _known(message: Received, value: bytes | None, accepts_from: datetime, accepts_until: datetime) -> Known:
    if value is None:
        raise ValueError("The message has no value (null, a tombstone). An outcome is a JSON object.")
    outcome = _decode(value)
    if outcome.event_id is None and outcome.CustomerId is None:
        raise ValueError("There is neither an event_id nor a CustomerId: whose outcome is it?")
    if outcome.event_id is not None and "\0" in outcome.event_id:
        raise ValueError("event_id holds U+0000, which no event's id does.")
    given = outcome.outcome_timestamp
    moment = kafka_time(message, "outcome_timestamp") if given is None else given
    _require_within(moment, accepts_from, accepts_until, is_kafkas=given is None)
    return Known(
        kafka_partition=partition_of(message),
        kafka_offset=offset_of(message),
        event_id=None if outcome.event_id is None else canonical_event_id(outcome.event_id),
        customer_id=outcome.CustomerId,
        churned=outcome.true_churn_label,
        # Only now: in UTC, a time at either end of the calendar may lie beyond it.
        outcome_timestamp=moment.astimezone(UTC),
        payload=value,
    )


def _require_within(moment: datetime, accepts_from: datetime, accepts_until: datetime, *, is_kafkas: bool) -> None:
    """Refuse a time that no outcome can have.

    Raises:
        ValueError: it is too early or too late, and what that mostly means.
    """
    name = "Kafka's timestamp, which counts where there is no outcome_timestamp," if is_kafkas else "outcome_timestamp"
    if moment < accepts_from:
        seconds = " Is it in seconds instead of milliseconds?" if is_kafkas else ""
        raise ValueError(
            f"{name} {moment.isoformat()} is before {accepts_from.isoformat()}, where the platform's events start "
            f"(STREAM_EPOCH).{seconds}"
        )
    if moment > accepts_until:
        raise ValueError(
            f"{name} {moment.isoformat()} is after {accepts_until.isoformat()}, the latest that this reading "
            f"accepts: an outcome lies in the past. Is the producer's clock or its time zone wrong?"
        )


def _reason(value: bytes | None, problem: Exception) -> str:
    if value is None:
        return str(problem)
    try:
        return explain(value, problem, FIELDS)
    except Exception:  # what cannot be explained is refused all the same
        return printable(f"{type(problem).__name__}: {problem}")[:LONGEST_REASON]


def waiting(connection: psycopg.Connection, admin: AdminClient, topic: str) -> int:
    """Offsets between the positions and the ends of the outcomes topic; 0 where there is no such topic.

    Those by which a truncated topic falls short of its positions count too, so that a run reports them.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    try:
        found = topics.describe(admin, topic)
    except TopicMissingError:
        return 0
    return sum(abs(end - start) for start, end in _ranges(connection, admin, found).values())


def take(connection: psycopg.Connection, admin: AdminClient, config: EnvironmentConfig, topic: str) -> IngestResult:
    """Read what waits in the outcomes topic.

    Outcomes, refused messages and the positions after them are one transaction each CHUNK: a message counts once,
    whenever this is cut off.

    Args:
        connection: not in a transaction.
        config: of the brokers.
        topic: name of the outcomes topic; where there is none, nothing waits.

    Raises:
        RangeLostError: Kafka no longer holds what comes next, or not the log that was read.
        LedgerConflictError: the position was moved meanwhile; nothing of this chunk was written.
        TopicChangedError: the topic was deleted and created again meanwhile; nothing of this chunk was written.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    try:
        found = topics.describe(admin, topic)
    except TopicMissingError:
        return IngestResult()
    with outcomes.reading(connection, found.topic_id):
        return _take(connection, admin, config, found)


def _take(connection: psycopg.Connection, admin: AdminClient, config: EnvironmentConfig, found: Topic) -> IngestResult:
    readings, skipped, known = _open(connection, admin, found, config.epoch)
    taken = IngestResult()
    if not readings:
        return taken
    reached = {partition: reading.start for partition, reading in readings.items()}
    _compare_log(config, found, reached, known)
    try:
        ranges = {p: (r.start, r.end) for p, r in readings.items()}
        for messages in read_ranges(config.kafka, found.name, ranges, chunk=CHUNK):
            records = last_records(messages, len(found.partitions))
            ends = {partition: record.offset + 1 for partition, record in records.items()}
            wanted = [each for each in messages if not _is_skipped(each, skipped)]
            decoded = [_decode_within(each, readings[partition_of(each)]) for each in wanted]
            _require_same(admin, found)
            taken += _write(connection, found, decoded, reached, ends, records)
            reached |= ends
    except RangeLostError:
        require_held(connection, admin, found)  # it names the offsets and the command
        raise
    # Behind the last message of a partition there may be transaction markers, which are never delivered.
    _write(connection, found, [], reached, {partition: reading.end for partition, reading in readings.items()}, {})
    return taken


def _compare_log(
    config: EnvironmentConfig, topic: Topic, positions: Mapping[int, int], known: Mapping[int, LastRecord]
) -> None:
    """Refuse a topic whose log is not the one that was read before.

    Raises:
        LogTruncatedError: it lost its end, and other outcomes have taken the offsets.
    """
    read_before = {partition: position for partition, position in positions.items() if partition in known}
    consumer = make_consumer(config.kafka)
    try:
        resume(consumer, topic.name, read_before, known, reset="churn outcomes reset")
    finally:
        consumer.close()


def require_held(connection: psycopg.Connection, admin: AdminClient, topic: Topic) -> dict[int, tuple[int, int]]:
    """First offset to read and the one after the last, by Kafka partition, when Kafka holds all of them.

    Raises:
        RangeLostError: retention deleted some before they were read, or the topic was truncated.
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
    """By Kafka partition: what is to be read, recorded with its bounds, and the offsets in it that are skipped.

    And the last record read before it, where one is known.
    """
    with connection.transaction():
        outcomes.lock(connection, topic.topic_id)
        until = datetime.now(UTC) + CLOCK_TOLERANCE
        readings = {
            partition: outcomes.open_reading(
                connection, topic.topic_id, partition, proposed=Reading(start, end, epoch, until)
            )
            for partition, (start, end) in require_held(connection, admin, topic).items()
            if start < end
        }
        starts = [reading.start for reading in readings.values()]
        skipped = outcomes.skips(connection, topic.topic_id, starts)
        return readings, skipped, outcomes.last_records(connection, topic.topic_id)


def _ranges(connection: psycopg.Connection, admin: AdminClient, topic: Topic) -> dict[int, tuple[int, int]]:
    """First offset to read and the one after the last, by Kafka partition; of an unknown one from its oldest offset."""
    known = outcomes.positions(connection, topic.topic_id)
    ends = topics.list_offsets(admin, topic, LATEST)
    starts = topics.list_offsets(admin, topic, EARLIEST) if ends.keys() - known.keys() else {}
    return {partition: (known.get(partition, starts.get(partition, 0)), end) for partition, end in ends.items()}


def _decode_within(message: Message, reading: Reading) -> Known | Refused:
    return decode(message, reading.accepts_from, reading.accepts_until)


def _is_skipped(message: Message, skipped: Mapping[int, Sequence[range]]) -> bool:
    return any(offset_of(message) in each for each in skipped.get(partition_of(message), ()))


def _require_same(admin: AdminClient, topic: Topic) -> None:
    """Refuse to write what may have been read from another topic of the same name."""
    now = topics.describe(admin, topic.name)
    if now.topic_id != topic.topic_id:
        raise TopicChangedError(
            f"{topic.name} was deleted and created again while it was read: its id was {topic.topic_id} and is "
            f"{now.topic_id}. Nothing of this chunk was written; the next run reads the new topic from its beginning."
        )


def _write(
    connection: psycopg.Connection,
    topic: Topic,
    decoded: Sequence[Known | Refused],
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    records: Mapping[int, LastRecord],
) -> IngestResult:
    """Write a chunk and move the positions from `starts` to `ends`; `records` are the last ones before those."""
    with connection.transaction():
        outcomes.lock(connection, topic.topic_id)
        positions = outcomes.positions(connection, topic.topic_id)
        for partition in ends:
            if positions.get(partition, starts[partition]) != starts[partition]:
                raise LedgerConflictError(
                    f"{topic.name}[{partition}] was moved to offset {positions[partition]} while this run went on from "
                    f"{starts[partition]}. Nothing of this chunk was written; the next run goes on from there."
                )
        known, refused = _write_known(connection, topic, [each for each in decoded if isinstance(each, Known)])
        refused += [each for each in decoded if isinstance(each, Refused)]
        with connection.cursor() as cursor:
            cursor.executemany(
                _INSERT_REFUSED,
                [(topic.topic_id, bad.kafka_partition, bad.kafka_offset, bad.reason, bad.payload) for bad in refused],
            )
        outcomes.advance(connection, topic.topic_id, topic.name, ends, records)
    left = sum(each.churned for each in known)
    return IngestResult(left=left, stayed=len(known) - left, refused=len(refused))


def _write_known(
    connection: psycopg.Connection, topic: Topic, outcomes: list[Known]
) -> tuple[list[Known], list[Refused]]:
    """Write outcomes at once; where PostgreSQL refuses one, write them one by one, so that only that one is refused."""
    try:
        with connection.transaction(), connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            for each in outcomes:
                copy.write_row(each.row(topic.topic_id))
    except (psycopg.DataError, psycopg.IntegrityError):
        written: list[Known] = []
        refused: list[Refused] = []
        for each in outcomes:
            try:
                with connection.transaction():
                    connection.execute(_INSERT, each.row(topic.topic_id))
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                reason = f"PostgreSQL refused it: {error.diag.message_primary or error}"
                refused.append(
                    Refused(each.kafka_partition, each.kafka_offset, printable(reason)[:LONGEST_REASON], each.payload)
                )
            else:
                written.append(each)
        return written, refused
    return outcomes, []
