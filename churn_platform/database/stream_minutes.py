"""The table stream_minutes: predictions, dead letters and latencies of each minute of the last days."""

from collections.abc import Sequence
from typing import Final

import psycopg

from churn_platform.database.worker_positions import Behind

LATENCY_BOUNDS_MS: Final = (
    *(5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 750.0, 1_000.0, 2_000.0, 5_000.0),
    *(10_000.0, 30_000.0, 60_000.0, 300_000.0, 3_600_000.0),
)
"""Upper bounds of the counts in latency_counts, in milliseconds, exclusive. The last count has none."""
DAYS: Final = 8
"""How long a minute is kept: a week can be compared with the day before it."""

# Rows that a replay wrote say nothing of the stream. Dead letters are found by their primary key.
_ADD: Final = """
    with latencies as (
        select date_trunc('minute', predicted_at) as minute,
            width_bucket(
                1000 * extract(epoch from predicted_at - event_timestamp)::double precision,
                %(bounds)s::double precision[]
            ) as bucket,
            count(*) as predictions
        from summary_changes
        where not is_replay and predicted_at >= now() - make_interval(days => %(days)s)
        group by 1, 2
    ), letters as (
        select date_trunc('minute', received_at) as minute, count(*) as dead_letters
        from dead_letter_events d
        join unnest(%(topic_ids)s::text[], %(partitions)s::integer[], %(starts)s::bigint[], %(ends)s::bigint[])
            as r (topic_id, kafka_partition, start_offset, end_offset)
          on r.topic_id = d.topic_id and r.kafka_partition = d.kafka_partition
          and d.kafka_offset >= r.start_offset and d.kafka_offset < r.end_offset
        where received_at >= now() - make_interval(days => %(days)s)
        group by 1
    ), minutes as (
        select minute from latencies union select minute from letters
    )
    insert into stream_minutes as s (minute, predictions, dead_letters, latency_counts)
    select minute, coalesce(sum(l.predictions), 0), coalesce(max(d.dead_letters), 0),
        array_agg(coalesce(l.predictions, 0) order by bucket)
    from minutes
    cross join generate_series(0, cardinality(%(bounds)s::double precision[])) as b (bucket)
    left join latencies l using (minute, bucket)
    left join letters d using (minute)
    group by minute
    on conflict (minute) do update set
        predictions = s.predictions + excluded.predictions,
        dead_letters = s.dead_letters + excluded.dead_letters,
        latency_counts = array(
            select a + b from unnest(s.latency_counts, excluded.latency_counts) with ordinality as u (a, b, place)
            order by place
        )
"""


def add_followed(connection: psycopg.Connection, followed: Sequence[Behind]) -> None:
    """Add the predictions of summary_changes, and the dead letters of these offsets."""
    connection.execute(
        _ADD,
        {
            "bounds": list(LATENCY_BOUNDS_MS),
            "days": DAYS,
            "topic_ids": [each.topic_id for each in followed],
            "partitions": [each.kafka_partition for each in followed],
            "starts": [each.start_offset for each in followed],
            "ends": [each.end_offset for each in followed],
        },
    )


def delete_old(connection: psycopg.Connection) -> int:
    """Delete minutes that are older than the table keeps; return how many there were."""
    return connection.execute(
        "delete from stream_minutes where minute < now() - make_interval(days => %s)", (DAYS,)
    ).rowcount


def clear(connection: psycopg.Connection) -> None:
    """Delete all minutes."""
    connection.execute("delete from stream_minutes")
