"""The table worker_positions: how far the duties of the resident worker have followed the stream's commits.

A duty reads the rows of the offsets between its own position and the stream's. It moves its position in the transaction
in which it writes what follows from the rows. A replay moves no position, so its rows are not read again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from churn_platform.database.exceptions import LedgerConflictError

# Joins churn_predictions, as p, with row ranges; the arguments are those of `of_rows`. The batches are named twice: the
# range is what the index on batch can use, and each batch is read once, however many of its partitions have new rows.
_JOIN_RANGES: Final = sql.SQL("""
    join unnest(%(batches)s::text[], %(partitions)s::integer[], %(starts)s::bigint[], %(ends)s::bigint[])
        as r (batch, kafka_partition, start_offset, end_offset)
      on r.batch = p.batch and r.kafka_partition = p.kafka_partition
      and p.kafka_offset >= r.start_offset and p.kafka_offset < r.end_offset and {place}
""")
_IN_BATCHES: Final = sql.SQL("p.batch between %(first)s and %(last)s and p.batch = any(%(batches)s)")
_IN_LAST_BLOCKS: Final = sql.SQL("p.ctid >= %(first_place)s::tid")
_BEHIND: Final = """
    select s.topic_id, s.kafka_partition, w.next_offset is null as is_new,
        coalesce(w.next_offset, s.first_offset) as start_offset, s.next_offset as end_offset
    from stream_positions s
    left join worker_positions w
      on w.follower = %s and w.topic_id = s.topic_id and w.kafka_partition = s.kafka_partition
    where s.next_offset is distinct from w.next_offset
"""
_BEGIN: Final = """
    insert into worker_positions (follower, topic_id, kafka_partition, next_offset)
    select %s, topic_id, kafka_partition, next_offset from stream_positions
"""
_ADVANCE: Final = """
    insert into worker_positions as w (follower, topic_id, kafka_partition, next_offset)
    select %(follower)s, topic_id, kafka_partition, end_offset
    from unnest(%(topic_ids)s::text[], %(partitions)s::integer[], %(starts)s::bigint[], %(ends)s::bigint[])
        as u (topic_id, kafka_partition, start_offset, end_offset)
    on conflict (follower, topic_id, kafka_partition) do update set next_offset = excluded.next_offset
    where w.next_offset = (
        select start_offset
        from unnest(%(topic_ids)s::text[], %(partitions)s::integer[], %(starts)s::bigint[])
            as u (topic_id, kafka_partition, start_offset)
        where u.topic_id = w.topic_id and u.kafka_partition = w.kafka_partition
    )
"""
_RANGES: Final = """
    select r.batch, r.kafka_partition,
        greatest(r.start_offset, u.start_offset) as start_offset, least(r.end_offset, u.end_offset) as end_offset
    from unnest(%s::text[], %s::integer[], %s::bigint[], %s::bigint[])
        as u (topic_id, kafka_partition, start_offset, end_offset)
    join stream_ranges r using (topic_id, kafka_partition)
    where r.end_offset > u.start_offset and r.start_offset < u.end_offset
"""
# The ranges of these batches below the duty's positions.
_FOLLOWED: Final = """
    select r.batch, r.kafka_partition, r.start_offset, least(r.end_offset, w.next_offset) as end_offset
    from stream_ranges r join worker_positions w using (topic_id, kafka_partition)
    where w.follower = %s and r.batch = any(%s) and w.next_offset > r.start_offset
"""
# The rows of these offsets in the last blocks of the table, which a scan of these blocks finds.
_COUNT_ROWS: Final = """
    select count(*)
    from churn_predictions p
    join unnest(%(batches)s::text[], %(partitions)s::integer[], %(starts)s::bigint[], %(ends)s::bigint[])
        as r (batch, kafka_partition, start_offset, end_offset) using (batch, kafka_partition)
    where p.ctid >= %(first_place)s::tid and p.kafka_offset >= r.start_offset and p.kafka_offset < r.end_offset
"""


@dataclass(frozen=True)
class Behind:
    """Offsets [start_offset, end_offset) that the stream has read and the duty has not, of one Kafka partition.

    `is_new` says that the duty has no position of the partition yet.
    """

    topic_id: str
    kafka_partition: int
    is_new: bool
    start_offset: int
    end_offset: int

    @property
    def offsets(self) -> int:
        """How many these are."""
        return self.end_offset - self.start_offset


@dataclass(frozen=True)
class RowRange:
    """Rows of churn_predictions: those of a batch and a Kafka partition with offsets in [start_offset, end_offset)."""

    batch: str
    kafka_partition: int
    start_offset: int
    end_offset: int


def has_begun(connection: psycopg.Connection, follower: str) -> bool:
    """Return whether the duty has followed the stream before."""
    row = connection.execute("select exists (select from worker_positions where follower = %s)", (follower,)).fetchone()
    return row == (True,)


def begin(connection: psycopg.Connection, follower: str) -> None:
    """Start to follow the stream at its present positions."""
    connection.execute(_BEGIN, (follower,))


def behind(connection: psycopg.Connection, follower: str) -> list[Behind]:
    """Return what the duty has not read yet; empty if it has read everything."""
    with connection.cursor(row_factory=class_row(Behind)) as cursor:
        return cursor.execute(_BEHIND, (follower,)).fetchall()


def row_ranges(connection: psycopg.Connection, found: Sequence[Behind]) -> list[RowRange]:
    """Return which rows those offsets have. Skipped offsets and transaction markers have none."""
    with connection.cursor(row_factory=class_row(RowRange)) as cursor:
        return cursor.execute(
            _RANGES,
            (
                [each.topic_id for each in found],
                [each.kafka_partition for each in found],
                [each.start_offset for each in found],
                [each.end_offset for each in found],
            ),
        ).fetchall()


def followed_ranges(connection: psycopg.Connection, follower: str, batches: Sequence[str]) -> list[RowRange]:
    """Return which rows of these batches the duty has read."""
    with connection.cursor(row_factory=class_row(RowRange)) as cursor:
        return cursor.execute(_FOLLOWED, (follower, list(batches))).fetchall()


def first_offsets(found: Sequence[Behind], most: int) -> list[Behind]:
    """Return the first offsets of each partition, at most `most` in all; the same ones if there are not more."""
    share = most // max(1, len(found))
    return [replace(each, end_offset=min(each.end_offset, each.start_offset + share)) for each in found]


def join_ranges(*, first_block: int | None) -> sql.Composed:
    """Return the SQL that joins churn_predictions, as p, with row ranges. It takes the arguments of `of_rows`.

    Args:
        first_block: only rows in this block of the table or a later one; None to read all of the batches.
    """
    return _JOIN_RANGES.format(place=_IN_BATCHES if first_block is None else _IN_LAST_BLOCKS)


def of_rows(ranges: Sequence[RowRange], *, first_block: int | None) -> dict[str, object]:
    """Return the arguments of `join_ranges`, for at least one range."""
    if first_block is not None:
        return {**arguments(ranges), "first_place": place(first_block)}
    batches = [each.batch for each in ranges]
    return {**arguments(ranges), "first": min(batches), "last": max(batches)}


def forget(connection: psycopg.Connection, follower: str) -> None:
    """Delete the duty's positions, so that it reads everything again."""
    connection.execute("delete from worker_positions where follower = %s", (follower,))


def count_rows(connection: psycopg.Connection, ranges: Sequence[RowRange], *, first_block: int) -> int:
    """Return how many rows of these ranges are in this block of churn_predictions or a later one."""
    # Prepared, PostgreSQL would plan the statement for any block, and read the whole table.
    row = connection.execute(
        _COUNT_ROWS, {**arguments(ranges), "first_place": place(first_block)}, prepare=False
    ).fetchone()
    return 0 if row is None else int(row[0])


def block_count(connection: psycopg.Connection) -> int:
    """Return the number of blocks of churn_predictions.

    New rows are written to the last ones, and to free space in others. The module of that table imports NumPy, which
    the worker does without.
    """
    row = connection.execute(
        "select pg_relation_size('churn_predictions') / current_setting('block_size')::bigint"
    ).fetchone()
    return 0 if row is None else int(row[0])


def arguments(ranges: Sequence[RowRange]) -> dict[str, object]:
    """Return ranges as arrays, for statements with `unnest`."""
    return {
        "batches": [each.batch for each in ranges],
        "partitions": [each.kafka_partition for each in ranges],
        "starts": [each.start_offset for each in ranges],
        "ends": [each.end_offset for each in ranges],
    }


def place(block: int) -> str:
    """Return the first place of a block, as PostgreSQL writes the physical place of a row."""
    return f"({block},0)"


def advance(connection: psycopg.Connection, follower: str, read: Sequence[Behind]) -> None:
    """Move the duty's positions to the ends of what it has read, in the caller's transaction.

    Raises:
        LedgerConflictError: another worker has moved a position meanwhile. The caller rolls back.
    """
    moved = connection.execute(
        _ADVANCE,
        {
            "follower": follower,
            "topic_ids": [each.topic_id for each in read],
            "partitions": [each.kafka_partition for each in read],
            "starts": [each.start_offset for each in read],
            "ends": [each.end_offset for each in read],
        },
    ).rowcount
    if moved != len(read):
        raise LedgerConflictError(
            f"The duty {follower} moved {moved} of {len(read)} positions: another worker has moved the others. This "
            "transaction is rolled back and nothing is lost."
        )
