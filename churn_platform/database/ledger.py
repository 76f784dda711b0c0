"""The stream's ledger: what a commit changes in several tables at once.

The ledger is the source of truth about what was read. Each of its tables has its own module (stream_positions,
stream_batches, batch_hours, ...), which also holds its part of the one statement that a commit executes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from churn_platform.database import (
    batch_hours,
    dead_letter_events,
    model_versions,
    stream_batches,
    stream_pauses,
    stream_positions,
)
from churn_platform.database.batch_hours import HourSums
from churn_platform.database.stream_positions import LastRecord
from churn_platform.schema.customer_schema import CustomerSchema


@dataclass(frozen=True, kw_only=True)
class Advance:
    """What one commit records. `starts` and `ends` are the positions before and after it, by Kafka partition.

    `last_records` has the partitions from which the commit has events. `schema` is what the events were decoded with;
    customer_schemas has it.
    """

    batch: str
    topic_id: str
    starts: Mapping[int, int]
    ends: Mapping[int, int]
    last_records: Mapping[int, LastRecord]
    predictions: int
    dead_letters: int
    duplicates: int
    opened: datetime | None
    accepts_from: datetime | None
    accepts_until: datetime | None
    model_version: int | None
    hours: Sequence[HourSums]
    schema: CustomerSchema

    @property
    def events(self) -> int:
        """Events read by this commit."""
        return self.predictions + self.dead_letters + self.duplicates


@dataclass(frozen=True)
class Heartbeat:
    """What a streaming run checks regularly: the champion, and whether an operator has paused the stream."""

    champion: int | None
    paused: bool


@dataclass(frozen=True)
class Advanced:
    """The result of an Advance: changed rows of each table, the champion, and whether the stream is paused."""

    positions: int
    ranges: int
    ranges_wanted: int
    batches: int
    champion: int | None
    paused: bool


# One round trip for all tables of the ledger. Each part changes its own table. The caller compares the counts with the
# expected ones, and rolls back the commit if another run has moved a position or the batch is closed.
_ADVANCE: Final = (
    sql.SQL("""
    with {move_positions}, {extend_ranges}, {add_counts}, {resolve_dead_letters}
    select
        (select count(*) from positions) as positions,
        (select count(*) from ranges) as ranges,
        (select count(*) from ranged) as ranges_wanted,
        (select count(*) from batches) as batches,
        {champion} as champion,
        {is_paused} as paused
    """)
    .format(
        move_positions=sql.SQL(stream_positions.MOVE),
        extend_ranges=sql.SQL(stream_batches.EXTEND_RANGES),
        add_counts=sql.SQL(stream_batches.ADD_COUNTS),
        resolve_dead_letters=sql.SQL(dead_letter_events.RESOLVE_SCORED),
        champion=sql.SQL(model_versions.CHAMPION),
        is_paused=sql.SQL(stream_pauses.IS_PAUSED_BY_ID),
    )
    .as_bytes(None)
)
_HEARTBEAT: Final = (
    sql.SQL("select {champion} as champion, {is_paused} as paused")
    .format(champion=sql.SQL(model_versions.CHAMPION), is_paused=sql.SQL(stream_pauses.IS_PAUSED))
    .as_bytes(None)
)


def heartbeat(connection: psycopg.Connection, topic: str) -> Heartbeat:
    """Renew the lease of an idle stream; return the champion and whether the stream is paused."""
    with connection.cursor(row_factory=class_row(Heartbeat)) as cursor:
        found = cursor.execute(_HEARTBEAT, {"topic": topic}).fetchone()
    if found is None:
        raise RuntimeError("A select without a table returned no row; PostgreSQL always returns one.")
    return found


def advance(connection: psycopg.Connection, step: Advance) -> Advanced:
    """Record a commit in the open transaction. The caller checks the returned counts before it commits."""
    partitions = sorted(step.ends)
    records = [step.last_records.get(partition) for partition in partitions]
    with connection.cursor(row_factory=class_row(Advanced)) as cursor:
        cursor.execute(
            _ADVANCE,
            {
                "batch": step.batch,
                "topic_id": step.topic_id,
                "partitions": partitions,
                "starts": [step.starts[partition] for partition in partitions],
                "ends": [step.ends[partition] for partition in partitions],
                "last_offsets": [record and record.offset for record in records],
                "last_digests": [record and record.digest for record in records],
                "leader_epochs": [record and record.leader_epoch for record in records],
                "opened": step.opened,
                "accepts_from": step.accepts_from,
                "accepts_until": step.accepts_until,
                "model_version": step.model_version,
                "schema_fingerprint": step.schema.fingerprint,
                "events": step.events,
                "predictions": step.predictions,
                "dead_letters": step.dead_letters,
                "duplicates": step.duplicates,
            },
            prepare=True,
        )
        batch_hours.add_sums(connection, step.schema, batch=step.batch, hours=step.hours)
        batch_hours.mark_dirty(connection, [sums.hour_timestamp for sums in step.hours])
        advanced = cursor.fetchone()  # in a pipeline it waits for the answers to all of these
    if advanced is None:
        raise RuntimeError("A select of counts returned no row; PostgreSQL always returns one.")
    return advanced


def close_batch(connection: psycopg.Connection, batch: str, *, topic_id: str) -> None:
    """Close a batch whose predictions are all published. After that it can only be replayed."""
    with connection.transaction():
        stream_batches.close_if_open(connection, batch)
        stream_positions.record_published(connection, topic_id)


def skip(
    connection: psycopg.Connection, *, topic_id: str, kafka_partition: int, position: int, end: int, reason: str
) -> bool:
    """Record offsets up to `end` as skipped and continue there, if the partition is still at `position`.

    Batches that a dead run left open are closed, because their ranges end where the skip begins. Call it in a
    transaction, in the session that holds the stream's lock.

    Returns:
        False, and nothing has changed, if the partition is no longer at `position`.
    """
    skipped = stream_positions.skip_to(
        connection, topic_id=topic_id, kafka_partition=kafka_partition, position=position, end=end, reason=reason
    )
    if skipped:
        stream_batches.close_open_batches(connection)
    return skipped
