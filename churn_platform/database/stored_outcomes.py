"""The outcomes topic in PostgreSQL: positions, readings with the times they accept, skipped offsets, and outcomes.

Owns the tables outcome_positions, outcome_reads, outcome_skips, customer_outcomes and refused_outcomes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import psycopg

from churn_platform.database.stream_positions import LastRecord

ERASED: Final = "The customer was erased."
"""Reason of a refused outcome whose customer was erased. Its payload is not stored."""

# One writer at a time, until its transaction ends.
_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended('outcomes of ' || %s, 0))"
# One reader at a time: two would read the same messages, and one of them would fail to write.
_LOCK_READING: Final = "select pg_advisory_lock(hashtextextended('reading outcomes of ' || %s, 0))"
_UNLOCK_READING: Final = "select pg_advisory_unlock(hashtextextended('reading outcomes of ' || %s, 0))"
_POSITIONS: Final = "select kafka_partition, next_offset from outcome_positions where topic_id = %s"
_LAST_RECORDS: Final = """
    select kafka_partition, last_offset, last_digest, leader_epoch from outcome_positions
    where topic_id = %s and last_offset is not null
"""
_ADVANCE: Final = """
    insert into outcome_positions as p (
        topic_id, kafka_partition, topic, next_offset, last_offset, last_digest, leader_epoch
    ) values (%s, %s, %s, %s, %s, %s, %s)
    on conflict (topic_id, kafka_partition) do update set
        next_offset = excluded.next_offset,
        last_offset = coalesce(excluded.last_offset, p.last_offset),
        last_digest = coalesce(excluded.last_digest, p.last_digest),
        leader_epoch = case when excluded.last_offset is null then p.leader_epoch else excluded.leader_epoch end
"""
_CLEAR_LAST_RECORD: Final = """
    update outcome_positions set last_offset = null, last_digest = null, leader_epoch = null
    where topic_id = %s and kafka_partition = %s
"""
_FIND_READING: Final = """
    select end_offset, accepts_from, accepts_until from outcome_reads
    where topic_id = %s and kafka_partition = %s and start_offset <= %s and end_offset > %s
    order by start_offset desc limit 1
"""
_OPEN: Final = """
    insert into outcome_reads (topic_id, kafka_partition, start_offset, end_offset, accepts_from, accepts_until)
    values (%s, %s, %s, %s, %s, %s)
"""
_SKIP: Final = """
    insert into outcome_skips (topic_id, kafka_partition, start_offset, end_offset, reason) values (%s, %s, %s, %s, %s)
    on conflict (topic_id, kafka_partition, start_offset) do update
    set end_offset = greatest(outcome_skips.end_offset, excluded.end_offset), reason = excluded.reason
"""
_SKIPS: Final = """
    select kafka_partition, start_offset, end_offset from outcome_skips
    where topic_id = %s and end_offset > %s order by kafka_partition, start_offset
"""


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
_REFUSE_ERASED: Final = """
    insert into refused_outcomes (topic_id, kafka_partition, kafka_offset, reason, payload)
    values (%s, %s, %s, %s, null)
    on conflict (topic_id, kafka_partition, kafka_offset) do update set reason = excluded.reason, payload = null
"""
_DELETE_READINGS: Final = """
    delete from outcome_reads r using outcome_positions p
    where r.opened < %s and p.topic_id = r.topic_id and p.kafka_partition = r.kafka_partition
      and p.next_offset >= r.end_offset
"""

OutcomeRow = tuple[str, int, int, UUID | None, int | str | None, int, datetime]
"""Topic id, Kafka partition and offset, event id, customer id, churned (0 or 1), time of the outcome."""
RefusedRow = tuple[str, int, int, str, bytes | None]
"""Topic id, Kafka partition and offset, reason, payload."""


@dataclass(frozen=True)
class Reading:
    """Offsets [start, end) of one Kafka partition, and the earliest and latest time of a valid outcome in them."""

    start: int
    end: int
    accepts_from: datetime
    accepts_until: datetime


def lock(connection: psycopg.Connection, topic_id: str) -> None:
    """Prevent other writes until the caller's transaction ends."""
    connection.execute(_LOCK, (topic_id,))


@contextmanager
def reading(connection: psycopg.Connection, topic_id: str) -> Iterator[None]:
    """Wait until no other session reads this topic, and let others wait until the block ends.

    Args:
        connection: not in a transaction.
        topic_id: Kafka's id of the topic.
    """
    connection.execute(_LOCK_READING, (topic_id,))
    connection.commit()
    try:
        yield
    finally:
        if not connection.closed:
            connection.rollback()
            connection.execute(_UNLOCK_READING, (topic_id,))
            connection.commit()


def positions(connection: psycopg.Connection, topic_id: str) -> dict[int, int]:
    """Return the next offset to read, by Kafka partition, of partitions that were read or reset before."""
    return dict(connection.execute(_POSITIONS, (topic_id,)).fetchall())


def was_read(connection: psycopg.Connection, topic: str) -> bool:
    """Return whether a topic of this name was read before."""
    return connection.execute("select from outcome_positions where topic = %s limit 1", (topic,)).rowcount > 0


def last_records(connection: psycopg.Connection, topic_id: str) -> dict[int, LastRecord]:
    """Return the last record read before each position, by Kafka partition, where one is known."""
    rows = connection.execute(_LAST_RECORDS, (topic_id,))
    return {partition: LastRecord(*record) for partition, *record in rows}


def advance(
    connection: psycopg.Connection,
    topic_id: str,
    topic: str,
    ends: Mapping[int, int],
    records: Mapping[int, LastRecord],
) -> None:
    """Move positions, by Kafka partition, in the caller's transaction.

    Args:
        records: the last record before the new position, of partitions from which records were read.
    """
    rows = []
    for partition, end in ends.items():
        record = records.get(partition)
        last = (None, None, None) if record is None else (record.offset, record.digest, record.leader_epoch)
        rows.append((topic_id, partition, topic, end, *last))
    with connection.cursor() as cursor:
        cursor.executemany(_ADVANCE, rows)


def clear_last_record(connection: psycopg.Connection, topic_id: str, partition: int) -> None:
    """Clear the last record, because an operator moves the position or accepts that the log has changed."""
    connection.execute(_CLEAR_LAST_RECORD, (topic_id, partition))


def open_reading(connection: psycopg.Connection, topic_id: str, partition: int, *, proposed: Reading) -> Reading:
    """Return the rest of the recorded reading that contains the proposed start, or record the proposed one.

    Call it in a transaction that holds the lock.
    """
    known = connection.execute(_FIND_READING, (topic_id, partition, proposed.start, proposed.start)).fetchone()
    if known is not None:
        end, accepts_from, accepts_until = known
        return Reading(proposed.start, min(end, proposed.end), accepts_from, accepts_until)
    connection.execute(
        _OPEN,
        (topic_id, partition, proposed.start, proposed.end, proposed.accepts_from, proposed.accepts_until),
    )
    return proposed


def skip(connection: psycopg.Connection, topic_id: str, partition: int, *, start: int, end: int, reason: str) -> None:
    """Record that offsets [start, end) are never read."""
    connection.execute(_SKIP, (topic_id, partition, start, end, reason))


def skips(connection: psycopg.Connection, topic_id: str, starts: Iterable[int]) -> dict[int, list[range]]:
    """Return the skipped offsets by Kafka partition, without those before all of the starts."""
    found: dict[int, list[range]] = {}
    for partition, start, end in connection.execute(_SKIPS, (topic_id, min(starts, default=0))):
        found.setdefault(partition, []).append(range(start, end))
    return found


def insert_all(connection: psycopg.Connection, outcomes: Iterable[OutcomeRow]) -> None:
    """Copy outcomes, in the caller's transaction.

    Raises:
        psycopg.DataError, psycopg.IntegrityError: PostgreSQL refuses one of them. The caller rolls back.
    """
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        for each in outcomes:
            copy.write_row(each)


def insert(connection: psycopg.Connection, outcome: OutcomeRow) -> None:
    """Store one outcome, in the caller's transaction. A message that is already stored does not change.

    Raises:
        psycopg.DataError, psycopg.IntegrityError: PostgreSQL refuses it. The caller rolls back.
    """
    connection.execute(_INSERT, outcome)


def insert_refused(connection: psycopg.Connection, refused: Sequence[RefusedRow]) -> None:
    """Store messages that are not valid outcomes."""
    with connection.cursor() as cursor:
        cursor.executemany(_INSERT_REFUSED, refused)


def refuse_erased(connection: psycopg.Connection, places: Iterable[tuple[str, int, int]]) -> None:
    """Store messages about an erased customer as refused, without their content, so that every offset is accounted for.

    Args:
        connection: in a transaction.
        places: topic id, Kafka partition and offset of each.
    """
    with connection.cursor() as cursor:
        cursor.executemany(_REFUSE_ERASED, [(*place, ERASED) for place in places])


def newest_received(connection: psycopg.Connection) -> datetime | None:
    """Return when the newest outcome was received."""
    row = connection.execute("select max(received_at) from customer_outcomes").fetchone()
    return None if row is None else row[0]


def refused_since(connection: psycopg.Connection, since: datetime) -> dict[str, int]:
    """Return how many outcomes were refused since this time, by reason, the most frequent first."""
    found = connection.execute(
        "select reason, count(*) from refused_outcomes where received_at >= %s group by reason order by 2 desc, 1",
        (since,),
    )
    return dict(found.fetchall())


def count(connection: psycopg.Connection) -> int:
    """Return how many messages of outcomes topics were read: valid and refused ones."""
    row = connection.execute(
        "select (select count(*) from customer_outcomes) + (select count(*) from refused_outcomes)"
    ).fetchone()
    return 0 if row is None else int(row[0])


def delete_outcomes(connection: psycopg.Connection, *, before: datetime) -> int:
    """Delete outcomes that were received earlier; return how many there were."""
    return connection.execute("delete from customer_outcomes where received_at < %s", (before,)).rowcount


def delete_refused(connection: psycopg.Connection, *, before: datetime) -> int:
    """Delete refused outcomes that were received earlier; return how many there were."""
    return connection.execute("delete from refused_outcomes where received_at < %s", (before,)).rowcount


def delete_readings(connection: psycopg.Connection, *, before: datetime) -> int:
    """Delete readings that were opened earlier and are complete; return how many there were."""
    return connection.execute(_DELETE_READINGS, (before,)).rowcount
