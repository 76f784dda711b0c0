"""The tables stream_totals and dead_letter_totals: latencies and kinds of dead letters, added up for Prometheus.

The resident worker adds what it follows, so commits do nothing for it. Nothing is ever subtracted: a replay, the
archive or a restart of the worker must not make a counter fall, which Prometheus would take for a new beginning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from churn_platform.database import worker_positions
from churn_platform.database.stream_minutes import LATENCY_BOUNDS_MS
from churn_platform.database.worker_positions import Behind, RowRange

MOST_KINDS: Final = 50
"""Each kind is a time series in Prometheus for as long as it keeps data. A broken producer could invent thousands."""
OTHER: Final = "other"

# Rows that a replay wrote say nothing of the stream. All rows of a commit have its transaction id, and one lookup finds
# when it was committed.
_ADD: Final = sql.SQL("""
    with found as (
        select p.xmin as id, p.predicted_at, p.event_timestamp
        from churn_predictions p
        {ranges}
        join stream_batches b on b.batch = p.batch and b.replays = 0
    ), commits as (
        select id, max(predicted_at) as scored, {committed} as committed from found group by id
    ), latencies as (
        select width_bucket(1000 * seconds, %(bounds)s::double precision[]) as bucket, count(*) as number,
            sum(seconds) as seconds
        from found f join commits c using (id), lateral (
            select greatest(0, extract(epoch from coalesce(c.committed, f.predicted_at) - f.event_timestamp))
                ::double precision as seconds
        ) as s
        group by 1
    ), committing as (
        select width_bucket(1000 * seconds, %(bounds)s::double precision[]) as bucket, count(*) as number,
            sum(seconds) as seconds
        from commits, lateral (
            select greatest(0, extract(epoch from committed - scored))::double precision as seconds
        ) as s
        where committed is not null
        group by 1
    ), added as (
        select array_agg(coalesce(l.number, 0) order by bucket) as latency_counts,
            coalesce(sum(l.seconds), 0) as latency_seconds,
            array_agg(coalesce(c.number, 0) order by bucket) as commit_counts,
            coalesce(sum(c.seconds), 0) as commit_seconds
        from generate_series(0, cardinality(%(bounds)s::double precision[])) as b (bucket)
        left join latencies l using (bucket) left join committing c using (bucket)
    )
    insert into stream_totals as t (latency_counts, latency_seconds, commit_counts, commit_seconds)
    select latency_counts, latency_seconds, commit_counts, commit_seconds from added
    on conflict (only_row) do update set
        latency_counts = array(
            select a + b from unnest(t.latency_counts, excluded.latency_counts) with ordinality as u (a, b, place)
            order by place
        ),
        latency_seconds = t.latency_seconds + excluded.latency_seconds,
        commit_counts = array(
            select a + b from unnest(t.commit_counts, excluded.commit_counts) with ordinality as u (a, b, place)
            order by place
        ),
        commit_seconds = t.commit_seconds + excluded.commit_seconds
""")
_COMMITTED: Final = sql.SQL("pg_xact_commit_timestamp(id)")
_NOT_RECORDED: Final = sql.SQL("null::timestamptz")
# Dead letters are found by their primary key.
_ADD_DEAD_LETTERS: Final = """
    with found as (
        select dead_letter_kind(reason) as kind, count(*) as dead_letters
        from dead_letter_events d
        join unnest(%(topic_ids)s::text[], %(partitions)s::integer[], %(starts)s::bigint[], %(ends)s::bigint[])
            as r (topic_id, kafka_partition, start_offset, end_offset)
          on r.topic_id = d.topic_id and r.kafka_partition = d.kafka_partition
          and d.kafka_offset >= r.start_offset and d.kafka_offset < r.end_offset
        group by 1
    ), placed as (
        select f.kind, f.dead_letters, t.kind is not null as is_known,
            row_number() over (partition by t.kind is null order by f.dead_letters desc, f.kind) as place
        from found f left join dead_letter_totals t using (kind)
    )
    insert into dead_letter_totals as t (kind, dead_letters)
    select case when is_known or place + (select count(*) from dead_letter_totals) <= %(most)s then kind else %(other)s
        end, sum(dead_letters)
    from placed group by 1
    on conflict (kind) do update set dead_letters = t.dead_letters + excluded.dead_letters
"""


@dataclass(frozen=True)
class StreamTotals:
    """The row of stream_totals. Its comments explain the columns."""

    latency_counts: Sequence[int]
    latency_seconds: float
    commit_counts: Sequence[int]
    commit_seconds: float


def records_commit_times(connection: psycopg.Connection) -> bool:
    """Return whether this PostgreSQL records when transactions were committed (track_commit_timestamp)."""
    return connection.execute("show track_commit_timestamp").fetchone() == ("on",)


def add_predictions(
    connection: psycopg.Connection, ranges: Sequence[RowRange], *, first_block: int | None, has_commit_times: bool
) -> None:
    """Add the latencies of the predictions of these ranges, in the caller's transaction.

    Args:
        connection: in a transaction with one snapshot for all statements.
        ranges: rows to add.
        first_block: only rows in this block of churn_predictions or a later one; None to read all of the batches.
        has_commit_times: see records_commit_times(). Without them a latency ends when the event was scored.
    """
    if not ranges:
        return
    query = _ADD.format(
        ranges=worker_positions.join_ranges(first_block=first_block),
        committed=_COMMITTED if has_commit_times else _NOT_RECORDED,
    )
    # Prepared, PostgreSQL would plan the statement for any blocks, and read the whole table.
    connection.execute(
        query,
        {**worker_positions.of_rows(ranges, first_block=first_block), "bounds": list(LATENCY_BOUNDS_MS)},
        prepare=False,
    )


def add_dead_letters(connection: psycopg.Connection, followed: Sequence[Behind]) -> None:
    """Count the dead letters of these offsets by kind, in the caller's transaction."""
    connection.execute(
        _ADD_DEAD_LETTERS,
        {
            "topic_ids": [each.topic_id for each in followed],
            "partitions": [each.kafka_partition for each in followed],
            "starts": [each.start_offset for each in followed],
            "ends": [each.end_offset for each in followed],
            "most": MOST_KINDS,
            "other": OTHER,
        },
    )


def totals(connection: psycopg.Connection) -> StreamTotals | None:
    """Return the latencies so far; None before the first."""
    with connection.cursor(row_factory=class_row(StreamTotals)) as cursor:
        return cursor.execute(
            "select latency_counts, latency_seconds, commit_counts, commit_seconds from stream_totals"
        ).fetchone()


def dead_letters(connection: psycopg.Connection) -> Mapping[str, int]:
    """Return the number of dead letters by kind."""
    return dict(connection.execute("select kind, dead_letters from dead_letter_totals order by kind").fetchall())
