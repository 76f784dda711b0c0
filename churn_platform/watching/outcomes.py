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

from churn_platform.streaming import topics
from churn_platform.streaming.config import StreamConfig
from churn_platform.streaming.events import Flag, Timestamp, kafka_time, known_as
from churn_platform.streaming.exceptions import LedgerConflictError, TopicMissingError
from churn_platform.streaming.reader import ends_of, offset_of, partition_of, read_ranges
from churn_platform.streaming.reasons import described, explain
from churn_platform.streaming.topics import EARLIEST, LATEST, Topic

CHUNK: Final = 10_000  # messages of one transaction

_POSITIONS: Final = "select kafka_partition, next_offset from outcome_positions where topic_id = %s"
_ADVANCE: Final = """
    insert into outcome_positions (topic_id, kafka_partition, topic, next_offset) values (%s, %s, %s, %s)
    on conflict (topic_id, kafka_partition) do update set next_offset = excluded.next_offset
"""
_COPY: Final = """
    copy customer_outcomes (
        topic_id, kafka_partition, kafka_offset, event_id, customer_id, churned, outcome_timestamp
    ) from stdin
"""
_COPY_REFUSED: Final = "copy refused_outcomes (topic_id, kafka_partition, kafka_offset, reason, payload) from stdin"
# One reader at a time; it lasts as long as the transaction.
_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended('outcomes of ' || %s, 0))"


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


@dataclass(frozen=True)
class Refused:
    """A message that says nothing, with the reason in words."""

    kafka_partition: int
    kafka_offset: int
    reason: str
    payload: bytes | None


@dataclass(frozen=True)
class Taken:
    """What was read: outcomes of those who left and who stayed, and messages that were refused."""

    left: int = 0
    stayed: int = 0
    refused: int = 0

    def __add__(self, other: "Taken") -> "Taken":
        return Taken(self.left + other.left, self.stayed + other.stayed, self.refused + other.refused)


def decode(message: Message) -> Known | Refused:
    """A message as an outcome, or with the reason why it is none."""
    partition, offset, value = partition_of(message), offset_of(message), message.value()
    try:
        if value is None:
            raise ValueError("The message has no value (null, a tombstone). An outcome is a JSON object.")  # noqa: TRY301
        outcome = _decode(value)
        if outcome.event_id is None and outcome.CustomerId is None:
            raise ValueError("There is neither an event_id nor a CustomerId: whose outcome is it?")  # noqa: TRY301
        moment = outcome.outcome_timestamp or kafka_time(message, "outcome_timestamp")
    except (msgspec.DecodeError, ValueError, RecursionError) as problem:
        reason = str(problem) if value is None else explain(value, problem, FIELDS)
        return Refused(partition, offset, reason, value)
    return Known(
        kafka_partition=partition,
        kafka_offset=offset,
        event_id=None if outcome.event_id is None else known_as(outcome.event_id),
        customer_id=outcome.CustomerId,
        churned=outcome.true_churn_label,
        outcome_timestamp=moment.astimezone(UTC),
    )


def waiting(connection: psycopg.Connection, admin: AdminClient, topic: str) -> int:
    """Offsets that wait in the outcomes topic; 0 where there is no such topic.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.explained().
    """
    try:
        found = topics.describe(admin, topic)
    except TopicMissingError:
        return 0
    return sum(end - start for start, end in _waiting(connection, admin, found).values())


def take(connection: psycopg.Connection, admin: AdminClient, config: StreamConfig, topic: str) -> Taken:
    """Read what waits in the outcomes topic.

    Outcomes, refused messages and the positions after them are one transaction each CHUNK: a message counts once,
    whenever this is cut off.

    Args:
        connection: not in a transaction.
        config: of the brokers.
        topic: name of the outcomes topic; where there is none, nothing waits.

    Raises:
        RangeLostError: Kafka no longer holds what comes next.
        LedgerConflictError: another reader was quicker; nothing of this chunk was written.
        BrokerRefusedError, BrokersUnreachableError: see clients.explained().
    """
    try:
        found = topics.describe(admin, topic)
    except TopicMissingError:
        return Taken()
    ranges = {partition: span for partition, span in _waiting(connection, admin, found).items() if span[0] < span[1]}
    connection.commit()
    taken = Taken()
    if not ranges:
        return taken
    reached = {partition: start for partition, (start, _) in ranges.items()}
    for messages in read_ranges(config, topic, ranges, chunk=CHUNK):
        ends = ends_of(messages, len(found.partitions))
        taken += _write(connection, found, [decode(message) for message in messages], reached, ends)
        reached |= ends
    # Behind the last message of a partition there may be transaction markers, which are never delivered.
    _write(connection, found, [], reached, {partition: end for partition, (_, end) in ranges.items()})
    return taken


def _waiting(connection: psycopg.Connection, admin: AdminClient, topic: Topic) -> dict[int, tuple[int, int]]:
    """First offset to read and the one after the last, by Kafka partition; of an unknown one from its oldest offset."""
    known = _positions(connection, topic)
    ends = topics.list_offsets(admin, topic, LATEST)
    starts = topics.list_offsets(admin, topic, EARLIEST) if ends.keys() - known.keys() else {}
    return {partition: (known.get(partition, starts.get(partition, 0)), end) for partition, end in ends.items()}


def _positions(connection: psycopg.Connection, topic: Topic) -> dict[int, int]:
    return dict(connection.execute(_POSITIONS, (topic.topic_id,)).fetchall())


def _write(
    connection: psycopg.Connection,
    topic: Topic,
    decoded: Sequence[Known | Refused],
    starts: Mapping[int, int],
    ends: Mapping[int, int],
) -> Taken:
    """Write a chunk and move the positions from `starts` to `ends`."""
    known = [each for each in decoded if isinstance(each, Known)]
    refused = [each for each in decoded if isinstance(each, Refused)]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(_LOCK, (topic.topic_id,))
        positions = _positions(connection, topic)
        for partition in ends:
            if positions.get(partition, starts[partition]) != starts[partition]:
                raise LedgerConflictError(
                    f"{topic.name}[{partition}] was read up to offset {positions[partition]} by somebody else, while "
                    f"this run went on from {starts[partition]}. Nothing was written; the next run goes on from there."
                )
        with cursor.copy(_COPY) as copy:
            for each in known:
                copy.write_row(
                    (
                        topic.topic_id,
                        each.kafka_partition,
                        each.kafka_offset,
                        each.event_id,
                        each.customer_id,
                        each.churned,
                        each.outcome_timestamp,
                    )
                )
        with cursor.copy(_COPY_REFUSED) as copy:
            for bad in refused:
                copy.write_row((topic.topic_id, bad.kafka_partition, bad.kafka_offset, bad.reason, bad.payload))
        cursor.executemany(_ADVANCE, [(topic.topic_id, partition, topic.name, end) for partition, end in ends.items()])
    left = sum(each.churned for each in known)
    return Taken(left=left, stayed=len(known) - left, refused=len(refused))
