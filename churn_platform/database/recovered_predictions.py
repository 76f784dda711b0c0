"""The tables stream_recoveries and recovered_predictions: what Kafka knows and a restored database has lost.

The events that had been read before the restore are scored again. Predictions that are in the predictions topic already
are not published again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString
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
        published_at timestamptz, message_key bytea
    ) on commit drop
"""
_INDEX_STAGE: Final = "create index on staged_published (event_id)"
_ANALYZE_STAGE: Final = "analyze staged_published"
_COPY: Final = """
    copy staged_published (
        event_id, risk_score, model_version, batch, kafka_partition, kafka_offset, published_at, message_key
    ) from stdin (format binary)
"""
_COPY_TYPES: Final = ("uuid", "float4", "int4", "text", "int4", "int8", "timestamptz", "bytea")
# A range of the batch that contains the offset shows that the row was in this database: it was archived or erased.
_ADD_LOST: Final = """
    insert into recovered_predictions (
        event_id, risk_score, model_version, batch, kafka_partition, kafka_offset, published_at
    )
    select distinct on (event_id)
        event_id, risk_score, model_version, batch, kafka_partition, kafka_offset, published_at
    from staged_published s
    where (%(since)s::timestamptz is null or published_at >= %(since)s)
      and not exists (select from churn_predictions p where p.event_id = s.event_id)
      and not exists (
          select from stream_ranges r
          where r.batch = s.batch and r.kafka_partition = s.kafka_partition
            and s.kafka_offset >= r.start_offset and s.kafka_offset < r.end_offset
      )
    order by event_id, published_at
    on conflict (event_id) do nothing
"""
_CREATE_NEWEST: Final = """
    create temp table newest_of_key on commit drop as
    select message_key, max(published_at) as published_at
    from (
        select message_key, published_at from staged_published
        union all
        select message_key, published_at from unnest(%s::bytea[], %s::timestamptz[]) as t (message_key, published_at)
    ) as messages
    where message_key is not null
    group by message_key
"""
_INDEX_NEWEST: Final = "create index on newest_of_key (message_key)"
_ANALYZE_NEWEST: Final = "analyze newest_of_key"
# A replay changes predicted_at, but publishes nothing. So what the batch's rows were published with is as old as its
# opening.
_MISSING: Final[LiteralString] = """
    select p.event_id::text
    from churn_predictions p left join stream_batches b using (batch)
        cross join lateral (select case when b.replays > 0 then b.opened else p.predicted_at end as predicted_at) made
    where not exists (select from staged_published s where s.event_id = p.event_id)
      and (%(complete_since)s::timestamptz is null or made.predicted_at >= %(complete_since)s)
      {compacted}
    order by p.predicted_at, p.batch, p.kafka_partition, p.kafka_offset
"""
# The key of a message is the customer's id. See prediction_messages.py.
_NOT_SUPERSEDED: Final[LiteralString] = """
    and not exists (
        select from newest_of_key n
        where n.message_key = convert_to(p.customer_id::text, 'UTF8') and n.published_at >= made.predicted_at
    )
"""
_LATEST_RECOVERY: Final = """
    select greatest(
        (select max(recovered_at) from stream_recoveries), (select max(recovered_at) from recovered_predictions)
    )
"""
_FIND: Final = "select event_id::text from recovered_predictions where event_id = any(%s::uuid[])"
_COMPARE: Final = """
    select count(*),
        count(p.event_id),
        count(*) filter (where p.risk_score <> r.risk_score),
        count(*) filter (where p.model_version <> r.model_version),
        max(abs(p.risk_score - r.risk_score))::double precision,
        count(*) filter (where r.risk_score >= %(high_risk)s)
    from recovered_predictions r left join churn_predictions p using (event_id)
"""


@dataclass(frozen=True)
class PublishedPrediction:
    """A prediction in the predictions topic.

    `batch`, `kafka_partition` and `kafka_offset` are where its event was read. `message_key` is the message's key.
    """

    event_id: UUID
    risk_score: float
    model_version: int
    batch: str
    kafka_partition: int
    kafka_offset: int
    published_at: datetime
    message_key: bytes | None


@dataclass(frozen=True)
class Comparison:
    """Recovered predictions compared with the rows of their events.

    Attributes:
        recovered: predictions in the topic whose rows were lost.
        scored: those whose events were scored again.
        other_score: of these, those with another risk score than the published one.
        other_version: of these, those that another model version scored.
        largest_difference: between the two risk scores, 0 to 1; None if nothing was scored again.
        high_risk: recovered predictions with a published risk score from HIGH_RISK_THRESHOLD.
    """

    recovered: int
    scored: int
    other_score: int
    other_version: int
    largest_difference: float | None
    high_risk: int


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


def stage(connection: psycopg.Connection, published: Iterable[PublishedPrediction]) -> None:
    """Copy what the predictions topic holds into a temporary table, until the caller's transaction ends.

    Args:
        connection: in a transaction. It is busy while `published` is read.
        published: every prediction in the topic.
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
                    each.message_key,
                )
            )
    connection.execute(_INDEX_STAGE)
    connection.execute(_ANALYZE_STAGE)


def add_lost(connection: psycopg.Connection, *, since: datetime | None) -> int:
    """Store the staged predictions whose rows this database has lost.

    A prediction whose batch has read its offset is not lost: its row is in the table, archived or was erased.

    Args:
        connection: in the transaction that has staged them.
        since: only predictions published since this environment claimed the topic; None: all.

    Returns:
        How many were not stored before.
    """
    return connection.execute(_ADD_LOST, {"since": since}).rowcount


def missing(
    connection: psycopg.Connection, *, complete_since: datetime | None, tombstones: Mapping[bytes, datetime] | None
) -> list[str]:
    """Return the ids of the rows whose predictions are not staged, in the order in which they were made.

    In a compacted topic a later message of the same customer replaces a prediction. Such a prediction is not missing:
    published again, it would come after the later one and become the customer's last.

    Args:
        connection: in the transaction that has staged what the topic holds.
        complete_since: the topic's retention may have deleted what was published before; None: it has deleted nothing.
        tombstones: when the last tombstone of each key of a compacted topic was published; None: it is not compacted.
    """
    compacted: LiteralString = ""
    if tombstones is not None:
        connection.execute(_CREATE_NEWEST, (list(tombstones), list(tombstones.values())))
        connection.execute(_INDEX_NEWEST)
        connection.execute(_ANALYZE_NEWEST)
        compacted = _NOT_SUPERSEDED
    query = _MISSING.format(compacted=compacted)
    return [event_id for (event_id,) in connection.execute(query, {"complete_since": complete_since})]


def latest_recovery(connection: psycopg.Connection) -> datetime | None:
    """Return when 'churn recover' last found that the database was restored to an earlier state; None if never."""
    row = connection.execute(_LATEST_RECOVERY).fetchone()
    return None if row is None else row[0]


def prune(connection: psycopg.Connection, *, before: datetime) -> None:
    """Delete what was published before a time, if the topic holds nothing that old any more."""
    connection.execute("delete from recovered_predictions where published_at < %s", (before,))


def find(connection: psycopg.Connection, event_ids: Sequence[str]) -> set[str]:
    """Return which of these events have a prediction in the predictions topic whose row was lost."""
    return {event_id for (event_id,) in connection.execute(_FIND, (list(event_ids),))}


def event_ids(connection: psycopg.Connection) -> list[bytes]:
    """Return the ids of all recovered predictions, 16 bytes each."""
    return [event_id.bytes for (event_id,) in connection.execute("select event_id from recovered_predictions")]


def compare(connection: psycopg.Connection, *, high_risk: float) -> Comparison:
    """Compare the recovered predictions with what their events were scored with again.

    Args:
        connection: to the platform's database.
        high_risk: risk score from which a prediction is high risk.
    """
    row = connection.execute(_COMPARE, {"high_risk": high_risk}).fetchone()
    if row is None:
        raise RuntimeError("A select of counts returned no row; PostgreSQL always returns one.")
    return Comparison(*row)
