"""How far the outcomes topic is read: positions, readings with their bounds, skipped offsets. All SQL for these."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from churn_platform.database.bulk import read_columns
from churn_platform.database.ledger import LastRecord

# One writer at a time; the lock lasts as long as the transaction.
_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended('outcomes of ' || %s, 0))"
# One reader at a time, for as long as it reads: two would read the same messages, and one of them would fail.
_READ_ALONE: Final = "select pg_advisory_lock(hashtextextended('reading outcomes of ' || %s, 0))"
_READ_TOGETHER: Final = "select pg_advisory_unlock(hashtextextended('reading outcomes of ' || %s, 0))"
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
_FORGET_LAST_RECORD: Final = """
    update outcome_positions set last_offset = null, last_digest = null, leader_epoch = null
    where topic_id = %s and kafka_partition = %s
"""
_READING: Final = """
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

# Rows of a log that was truncated and has grown again cannot be compared with it: a comparison starts behind them.
_ACCOUNTS: Final = """
    select p.kafka_partition, p.next_offset, greatest(
        (
            select min(r.start_offset) from outcome_reads r
            where r.topic_id = p.topic_id and r.kafka_partition = p.kafka_partition and r.opened >= %(since)s
        ),
        (
            select max(t.next_offset) from log_truncations t
            where t.topic_id = p.topic_id and t.kafka_partition = p.kafka_partition
        )
    ) as start_offset
    from outcome_positions p
    where p.topic_id = %(topic_id)s and exists (
        select from outcome_reads r
        where r.topic_id = p.topic_id and r.kafka_partition = p.kafka_partition and r.opened >= %(since)s
    )
"""
_OFFSETS: Final = sql.SQL("""
    select kafka_partition, kafka_offset from {} where topic_id = {}
""")
TABLES: Final = ("customer_outcomes", "refused_outcomes")


@dataclass(frozen=True)
class Reading:
    """Offsets [start, end) of one Kafka partition, and the earliest and latest time of a valid outcome in them."""

    start: int
    end: int
    accepts_from: datetime
    accepts_until: datetime


@dataclass(frozen=True)
class Account:
    """What the offsets [start, position) of one Kafka partition became.

    Attributes:
        start: begin of the first reading of which no row was deleted because of its age.
        position: next offset to read.
        rows: offsets from `start` on, by table.
        skips: offsets that were never to be read.
    """

    start: int
    position: int
    rows: dict[str, NDArray[np.int64]]
    skips: list[range]


def lock(connection: psycopg.Connection, topic_id: str) -> None:
    """Keep others from writing until the caller's transaction ends."""
    connection.execute(_LOCK, (topic_id,))


@contextmanager
def reading(connection: psycopg.Connection, topic_id: str) -> Iterator[None]:
    """Wait until nobody else reads this topic, and keep others waiting while the block lasts.

    Args:
        connection: not in a transaction.
        topic_id: Kafka's id of the topic.
    """
    connection.execute(_READ_ALONE, (topic_id,))
    connection.commit()
    try:
        yield
    finally:
        if not connection.closed:
            connection.rollback()
            connection.execute(_READ_TOGETHER, (topic_id,))
            connection.commit()


def positions(connection: psycopg.Connection, topic_id: str) -> dict[int, int]:
    """Next offset to read, by Kafka partition; only of partitions that were read or reset before."""
    return dict(connection.execute(_POSITIONS, (topic_id,)).fetchall())


def was_read(connection: psycopg.Connection, topic: str) -> bool:
    """Whether a topic of this name was read before."""
    return connection.execute("select from outcome_positions where topic = %s limit 1", (topic,)).rowcount > 0


def last_records(connection: psycopg.Connection, topic_id: str) -> dict[int, LastRecord]:
    """The last record read before each position, by Kafka partition; only where one is known."""
    rows = connection.execute(_LAST_RECORDS, (topic_id,))
    return {partition: LastRecord(*record) for partition, *record in rows}


def advance(
    connection: psycopg.Connection,
    topic_id: str,
    topic: str,
    ends: Mapping[int, int],
    records: Mapping[int, LastRecord],
) -> None:
    """Move positions, by Kafka partition. In the caller's transaction.

    Args:
        records: the last record before the new position, of partitions of which records were read.
    """
    rows = []
    for partition, end in ends.items():
        record = records.get(partition)
        last = (None, None, None) if record is None else (record.offset, record.digest, record.leader_epoch)
        rows.append((topic_id, partition, topic, end, *last))
    with connection.cursor() as cursor:
        cursor.executemany(_ADVANCE, rows)


def forget_last_record(connection: psycopg.Connection, topic_id: str, partition: int) -> None:
    """Forget what was read last: somebody moves the position, or accepts that the log is another one."""
    connection.execute(_FORGET_LAST_RECORD, (topic_id, partition))


def open_reading(connection: psycopg.Connection, topic_id: str, partition: int, *, proposed: Reading) -> Reading:
    """The reading that the proposed start lies in, with its own end and bounds; where there is none, the proposed one.

    In the caller's transaction, under the lock.
    """
    known = connection.execute(_READING, (topic_id, partition, proposed.start, proposed.start)).fetchone()
    if known is not None:
        end, accepts_from, accepts_until = known
        return Reading(proposed.start, min(end, proposed.end), accepts_from, accepts_until)
    connection.execute(
        _OPEN,
        (topic_id, partition, proposed.start, proposed.end, proposed.accepts_from, proposed.accepts_until),
    )
    return proposed


def skip(connection: psycopg.Connection, topic_id: str, partition: int, *, start: int, end: int, reason: str) -> None:
    """Record offsets [start, end) as never to be read."""
    connection.execute(_SKIP, (topic_id, partition, start, end, reason))


def skips(connection: psycopg.Connection, topic_id: str, starts: Iterable[int]) -> dict[int, list[range]]:
    """Skipped offsets by Kafka partition, those that end before all of the starts left out."""
    found: dict[int, list[range]] = {}
    for partition, start, end in connection.execute(_SKIPS, (topic_id, min(starts, default=0))):
        found.setdefault(partition, []).append(range(start, end))
    return found


def forget(connection: psycopg.Connection, *, before: datetime) -> int:
    """Delete readings that were opened before the moment and are complete; how many there were."""
    return connection.execute(
        """
        delete from outcome_reads r using outcome_positions p
        where r.opened < %s and p.topic_id = r.topic_id and p.kafka_partition = r.kafka_partition
          and p.next_offset >= r.end_offset
        """,
        (before,),
    ).rowcount


def accounts(connection: psycopg.Connection, topic_id: str, *, since: datetime) -> dict[int, Account]:
    """What was read in readings opened since the moment, by Kafka partition; only of partitions that have one.

    Of one snapshot only in a transaction that is repeatable read.
    """
    found = connection.execute(_ACCOUNTS, {"topic_id": topic_id, "since": since}).fetchall()
    with connection.cursor() as cursor:
        tables = {
            table: read_columns(
                cursor,
                _OFFSETS.format(sql.Identifier(table), sql.Literal(topic_id)),
                {"kafka_partition": "integer", "kafka_offset": "bigint"},
            )
            for table in TABLES
        }
    left_out = skips(connection, topic_id, [])
    return {
        partition: Account(
            start,
            position,
            {table: _offsets(columns, partition, start) for table, columns in tables.items()},
            left_out.get(partition, []),
        )
        for partition, position, start in found
    }


def _offsets(columns: Mapping[str, NDArray[np.generic]], partition: int, start: int) -> NDArray[np.int64]:
    offsets: NDArray[np.int64] = columns["kafka_offset"].astype(np.int64)
    wanted: NDArray[np.int64] = offsets[(columns["kafka_partition"].astype(np.int64) == partition) & (offsets >= start)]
    return wanted
