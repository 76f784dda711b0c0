"""How far the stream has read and published each Kafka partition.

Owns the tables stream_topics, stream_positions, stream_skips and log_truncations. What a commit does to several tables
at once is in ledger.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import psycopg

from churn_platform.lanes import Lane

# The first part of the statement of a commit (see ledger.py): moves each position by compare-and-set.
MOVE: Final = """
    moved as (
        select m.*, m.last_offset is not null or exists (
            select from stream_ranges r
            where r.batch = %(batch)s and r.topic_id = %(topic_id)s and r.kafka_partition = m.kafka_partition
        ) as ranged
        from unnest(
            %(partitions)s::integer[], %(starts)s::bigint[], %(ends)s::bigint[], %(last_offsets)s::bigint[],
            %(last_digests)s::bytea[], %(leader_epochs)s::integer[]
        ) as m (kafka_partition, start_offset, end_offset, last_offset, last_digest, leader_epoch)
    ), positions as (
        update stream_positions p set
            next_offset = m.end_offset,
            last_offset = coalesce(m.last_offset, p.last_offset),
            last_digest = coalesce(m.last_digest, p.last_digest),
            leader_epoch = case when m.last_offset is null then p.leader_epoch else m.leader_epoch end,
            covered_to = case when m.ranged then m.end_offset else p.covered_to end
        from moved m
        where p.topic_id = %(topic_id)s and p.kafka_partition = m.kafka_partition and p.next_offset = m.start_offset
        returning 1
    )
"""
# A skip begins where the last range or skip ended, so that together they cover the partition without gaps. The record
# before the skip does not identify the records after it, so it is cleared; the next takeover finds a last record again.
_SKIP: Final = """
    update stream_positions p set
        next_offset = %s, covered_to = %s, last_offset = null, last_digest = null, leader_epoch = null
    from stream_positions before
    where p.topic_id = %s and p.kafka_partition = %s and p.next_offset = %s and p.next_offset < %s
      and before.topic_id = p.topic_id and before.kafka_partition = p.kafka_partition
    returning before.covered_to
"""
_RECORD_SKIP: Final = """
    insert into stream_skips (topic_id, kafka_partition, start_offset, end_offset, reason) values (%s, %s, %s, %s, %s)
"""
_ADD: Final = """
    insert into stream_positions (topic_id, kafka_partition, next_offset, first_offset, covered_to, published_to)
    select %s, kafka_partition, start_offset, start_offset, start_offset, start_offset
    from unnest(%s::integer[], %s::bigint[]) as u (kafka_partition, start_offset) on conflict do nothing
"""
_POSITIONS: Final = """
    select topic_id, topic, kafka_partition, first_offset, covered_to, next_offset, last_offset, last_digest,
        leader_epoch
    from stream_positions join stream_topics using (topic_id)
    where %(topic)s::text is null or topic = %(topic)s
    order by topic_id, kafka_partition
"""
_LAST_RECORDS: Final = """
    select kafka_partition, last_offset, last_digest, leader_epoch from stream_positions
    where topic_id = %s and last_offset is not null order by 1
"""
_ADD_LAST_RECORD: Final = """
    update stream_positions set last_offset = %s, last_digest = %s, leader_epoch = %s
    where topic_id = %s and kafka_partition = %s and last_offset is null
"""
_CLEAR_LAST_RECORD: Final = """
    update stream_positions set last_offset = null, last_digest = null, leader_epoch = null
    where topic_id = %s and kafka_partition = %s and next_offset = %s
"""
_HAS_UNPUBLISHED: Final = """
    select exists (
        select from stream_positions join stream_topics using (topic_id)
        where topic = %s and published_to < next_offset and mod(kafka_partition, %s) = %s
    )
"""
_UNPUBLISHED_TOPICS: Final = """
    select distinct topic_id from stream_positions join stream_topics using (topic_id)
    where topic = %s and topic_id <> %s and published_to < next_offset and mod(kafka_partition, %s) = %s
"""


@dataclass(frozen=True)
class LastRecord:
    """The last record read before a position: its offset, a digest of its content, and its leader epoch, if known."""

    offset: int
    digest: bytes
    leader_epoch: int | None


@dataclass(frozen=True)
class Position:
    """How far one Kafka partition of one topic has been read.

    Attributes:
        topic_id: Kafka's id of the topic.
        topic: its name.
        kafka_partition: number of the partition.
        first_offset: where the stream began to read it.
        covered_to: end of its last range or skip.
        next_offset: next offset to read.
        last_record: the last record before next_offset, if known.
    """

    topic_id: str
    topic: str
    kafka_partition: int
    first_offset: int
    covered_to: int
    next_offset: int
    last_record: LastRecord | None

    def __str__(self) -> str:
        """Return topic[partition] with the topic's id."""
        return f"{self.topic}[{self.kafka_partition}] ({self.topic_id})"


def is_known_topic(connection: psycopg.Connection, topic: str) -> bool:
    """Return whether a topic of this name was ever read, whatever its id was."""
    return connection.execute("select from stream_topics where topic = %s", (topic,)).fetchone() is not None


def known_topics(connection: psycopg.Connection) -> set[str]:
    """Return the names of all topics that were ever read."""
    return {topic for (topic,) in connection.execute("select distinct topic from stream_topics")}


def add_positions(connection: psycopg.Connection, *, topic: str, topic_id: str, starts: Mapping[int, int]) -> None:
    """Register a topic and the first offsets of its partitions. Those that are already registered do not change."""
    connection.execute(
        "insert into stream_topics (topic_id, topic) values (%s, %s) on conflict do nothing", (topic_id, topic)
    )
    connection.execute(_ADD, (topic_id, list(starts), list(starts.values())))


def next_offsets(connection: psycopg.Connection, topic_id: str) -> dict[int, int]:
    """Return the next offset to read, by Kafka partition; empty for a topic that was never read."""
    rows = connection.execute(
        "select kafka_partition, next_offset from stream_positions where topic_id = %s order by 1", (topic_id,)
    )
    return dict(rows.fetchall())


def positions(connection: psycopg.Connection, *, topic: str | None = None) -> list[Position]:
    """Return all positions of the topics with this name, or of all topics, by topic id and Kafka partition."""
    found = []
    for *place, offset, digest, leader_epoch in connection.execute(_POSITIONS, {"topic": topic}):
        topic_id, name, kafka_partition, first_offset, covered_to, next_offset = place
        last_record = None if offset is None else LastRecord(offset, digest, leader_epoch)
        found.append(Position(topic_id, name, kafka_partition, first_offset, covered_to, next_offset, last_record))
    return found


def last_records(connection: psycopg.Connection, topic_id: str) -> dict[int, LastRecord]:
    """Return the last record read before each position, by Kafka partition, where one is known."""
    return {partition: LastRecord(*record) for partition, *record in connection.execute(_LAST_RECORDS, (topic_id,))}


def add_last_records(connection: psycopg.Connection, *, topic_id: str, records: Mapping[int, LastRecord]) -> None:
    """Record the last record before positions that have none, by Kafka partition. The others do not change."""
    with connection.cursor() as cursor:
        cursor.executemany(
            _ADD_LAST_RECORD,
            [
                (record.offset, record.digest, record.leader_epoch, topic_id, partition)
                for partition, record in records.items()
            ],
        )


def skip_to(
    connection: psycopg.Connection, *, topic_id: str, kafka_partition: int, position: int, end: int, reason: str
) -> bool:
    """Move a position forward and record the skip, in the caller's transaction.

    Returns:
        False, and nothing has changed, if the partition is no longer at `position`.
    """
    moved = connection.execute(_SKIP, (end, end, topic_id, kafka_partition, position, end)).fetchone()
    if moved is None:
        return False
    connection.execute(_RECORD_SKIP, (topic_id, kafka_partition, moved[0], end, reason))
    return True


def skips(connection: psycopg.Connection) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """Return the skipped offsets: (topic id, Kafka partition) -> [start, end) of each skip."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for topic_id, kafka_partition, start, end in connection.execute(
        "select topic_id, kafka_partition, start_offset, end_offset from stream_skips"
    ):
        found.setdefault((topic_id, kafka_partition), []).append((start, end))
    return found


def accept_truncation(
    connection: psycopg.Connection, *, topic_id: str, kafka_partition: int, position: int, reason: str
) -> bool:
    """Record that reading continues at `position` although the log was truncated below it.

    Call it in a transaction, in the session that holds the stream's lock.

    Returns:
        False, and nothing has changed, if the partition is no longer at `position`.
    """
    moved = connection.execute(_CLEAR_LAST_RECORD, (topic_id, kafka_partition, position))
    if moved.rowcount != 1:
        return False
    record_truncation(connection, topic_id=topic_id, kafka_partition=kafka_partition, position=position, reason=reason)
    return True


def record_truncation(
    connection: psycopg.Connection, *, topic_id: str, kafka_partition: int, position: int, reason: str
) -> None:
    """Record that an operator accepts that the log of a partition was truncated below the position."""
    connection.execute(
        "insert into log_truncations (topic_id, kafka_partition, next_offset, reason) values (%s, %s, %s, %s)",
        (topic_id, kafka_partition, position, reason),
    )


def record_published(connection: psycopg.Connection, topic_id: str, *, lane: Lane) -> None:
    """Record that everything read from a lane's partitions is published. Only the lane's live run may call this."""
    connection.execute(
        """
        update stream_positions set published_to = next_offset
        where topic_id = %s and published_to < next_offset and mod(kafka_partition, %s) = %s
        """,
        (topic_id, lane.of, lane.number),
    )


def record_all_published(connection: psycopg.Connection, topic: str) -> None:
    """Record that everything read from topics of this name is published, whatever their ids were.

    Only the session that holds the stream's lock alone may call this.
    """
    connection.execute(
        """
        update stream_positions set published_to = next_offset
        where published_to < next_offset and topic_id in (select topic_id from stream_topics where topic = %s)
        """,
        (topic,),
    )


def published_to(connection: psycopg.Connection, topic_id: str) -> dict[int, int]:
    """Return the offset up to which predictions are known to be published, by Kafka partition; it may be too low."""
    rows = connection.execute(
        "select kafka_partition, published_to from stream_positions where topic_id = %s order by 1", (topic_id,)
    )
    return dict(rows.fetchall())


def has_unpublished(connection: psycopg.Connection, topic: str, lane: Lane) -> bool:
    """Return whether the lane has offsets that are not known to be published, of topics of this name."""
    return connection.execute(_HAS_UNPUBLISHED, (topic, lane.of, lane.number)).fetchone() == (True,)


def unpublished_topics(connection: psycopg.Connection, topic: str, lane: Lane, *, other_than: str) -> list[str]:
    """Return the ids of deleted topics of this name with offsets of the lane that are not known to be published."""
    found = connection.execute(_UNPUBLISHED_TOPICS, (topic, other_than, lane.of, lane.number))
    return [topic_id for (topic_id,) in found]
