"""The tables stream_recoveries and recovered_predictions: what Kafka knows and a restored database has lost.

The events that had been read before the restore are scored again. Predictions that are in the predictions topic already
are not published again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import psycopg

_RECORD: Final = """
    insert into stream_recoveries (topic_id, kafka_partition, next_offset, published_to)
    select %s, kafka_partition, next_offset, published_to
    from unnest(%s::integer[], %s::bigint[], %s::bigint[]) as r (kafka_partition, next_offset, published_to)
"""
_REACHED: Final = """
    select kafka_partition, max(published_to) from stream_recoveries where topic_id = %s
    group by kafka_partition order by kafka_partition
"""
_EXIST: Final = "select exists (select from recovered_predictions)"
_CREATE_STAGE: Final = """
    create temp table staged_published (
        event_id uuid, risk_score real, model_version integer, batch text, kafka_partition integer, kafka_offset bigint,
        published_at timestamptz
    ) on commit drop
"""
_COPY: Final = """
    copy staged_published (
        event_id, risk_score, model_version, batch, kafka_partition, kafka_offset, published_at
    ) from stdin (format binary)
"""
_COPY_TYPES: Final = ("uuid", "float4", "int4", "text", "int4", "int8", "timestamptz")
# A range of the batch that contains the offset shows that the row was in this database: it was archived or erased.
_ADD_LOST: Final = """
    insert into recovered_predictions (
        event_id, risk_score, model_version, batch, kafka_partition, kafka_offset, published_at
    )
    select distinct on (event_id)
        event_id, risk_score, model_version, batch, kafka_partition, kafka_offset, published_at
    from staged_published s
    where not exists (select from churn_predictions p where p.event_id = s.event_id)
      and not exists (
          select from stream_ranges r
          where r.batch = s.batch and r.kafka_partition = s.kafka_partition
            and s.kafka_offset >= r.start_offset and s.kafka_offset < r.end_offset
      )
    order by event_id, published_at
    on conflict (event_id) do nothing
"""
_FIND: Final = "select event_id::text from recovered_predictions where event_id = any(%s::uuid[])"
_COMPARE: Final = """
    select count(*),
        count(p.event_id),
        count(*) filter (where p.risk_score <> r.risk_score),
        count(*) filter (where p.model_version <> r.model_version),
        max(abs(p.risk_score - r.risk_score))::double precision
    from recovered_predictions r left join churn_predictions p using (event_id)
"""


@dataclass(frozen=True)
class PublishedPrediction:
    """A prediction in the predictions topic. `batch`, `kafka_partition` and `kafka_offset` are where it was read."""

    event_id: UUID
    risk_score: float
    model_version: int
    batch: str
    kafka_partition: int
    kafka_offset: int
    published_at: datetime


@dataclass(frozen=True)
class Comparison:
    """Recovered predictions compared with the rows of their events.

    Attributes:
        recovered: predictions in the topic whose rows were lost.
        scored: those whose events were scored again.
        other_score: of these, those with another risk score than the published one.
        other_version: of these, those that another model version scored.
        largest_difference: between the two risk scores, 0 to 1; None if nothing was scored again.
    """

    recovered: int
    scored: int
    other_score: int
    other_version: int
    largest_difference: float | None


def record(
    connection: psycopg.Connection, *, topic_id: str, positions: Mapping[int, int], published: Mapping[int, int]
) -> None:
    """Record partitions that were published further than they are read.

    Args:
        connection: in a transaction.
        topic_id: Kafka's id of the events topic.
        positions: next offset to read, by Kafka partition.
        published: offset up to which predictions were published, by Kafka partition; only those that are ahead.
    """
    partitions = sorted(published)
    arguments = [positions[partition] for partition in partitions], [published[partition] for partition in partitions]
    connection.execute(_RECORD, (topic_id, partitions, *arguments))


def reached(connection: psycopg.Connection, topic_id: str) -> dict[int, int]:
    """Return how far predictions had been published before the restores of this database, by Kafka partition."""
    return dict(connection.execute(_REACHED, (topic_id,)).fetchall())


def exist(connection: psycopg.Connection) -> bool:
    """Return whether there are recovered predictions."""
    return connection.execute(_EXIST).fetchone() == (True,)


def add_lost(connection: psycopg.Connection, published: Iterable[PublishedPrediction]) -> int:
    """Store those of the published predictions whose rows this database has lost.

    A prediction whose batch has read its offset is not lost: its row is in the table, archived or was erased.

    Args:
        connection: in a transaction.
        published: predictions of this environment in the predictions topic.

    Returns:
        How many were not stored before.
    """
    connection.execute(_CREATE_STAGE)
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_COPY_TYPES)
        for each in published:
            copy.write_row(
                (
                    each.event_id,
                    each.risk_score,
                    each.model_version,
                    each.batch,
                    each.kafka_partition,
                    each.kafka_offset,
                    each.published_at,
                )
            )
    return connection.execute(_ADD_LOST).rowcount


def find(connection: psycopg.Connection, event_ids: Sequence[str]) -> set[str]:
    """Return which of these events have a prediction in the predictions topic whose row was lost."""
    return {event_id for (event_id,) in connection.execute(_FIND, (list(event_ids),))}


def event_ids(connection: psycopg.Connection) -> list[bytes]:
    """Return the ids of all recovered predictions, 16 bytes each."""
    return [event_id.bytes for (event_id,) in connection.execute("select event_id from recovered_predictions")]


def compare(connection: psycopg.Connection) -> Comparison:
    """Compare the recovered predictions with what their events were scored with again."""
    row = connection.execute(_COMPARE).fetchone()
    if row is None:
        raise RuntimeError("A select of counts returned no row; PostgreSQL always returns one.")
    return Comparison(*row)
