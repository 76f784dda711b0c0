"""The table dead_letter_events: messages that are not valid events, with the reason and the state of correction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row

# Part of the statement of a commit (see ledger.py): resolves dead letters whose corrected event this commit has scored.
# The index holds only those whose corrected event was sent and is not scored yet.
RESOLVE_SCORED: Final = """
    resolved as (
        update dead_letter_events d set resolved_at = now()
        where d.retry_event_id is not null and d.resolved_at is null and (
            exists (select from churn_predictions p where p.event_id = d.retry_event_id)
            or exists (select from inserted i where i.event_id = d.retry_event_id)
        )
    )
"""

_COPY: Final = """
    copy dead_letter_events (
        topic_id, kafka_partition, kafka_offset, batch, topic, reason, payload, kafka_timestamp, received_at
    ) from stdin (format binary)
"""
_COPY_TYPES: Final = ("text", "int4", "int8", "text", "text", "text", "bytea", "timestamptz", "timestamptz")
_STATE: Final = sql.SQL(
    "case when resolved_at is not null then 'resolved' when retry_event_id is not null then 'retried' else 'open' end"
)
_SELECTED: Final = sql.SQL("""
    from dead_letter_events
    where (%(reason)s::text is null or position(lower(%(reason)s) in lower(reason)) > 0)
      and (%(since)s::timestamptz is null or received_at >= %(since)s)
      and (%(state)s::text is null or %(state)s = {})
""").format(_STATE)
_COLUMNS: Final = sql.SQL("""
    select topic_id, topic, kafka_partition, kafka_offset, batch, reason, payload, kafka_timestamp, received_at,
        retry_event_id, retried_at, resolved_at
""")
_FIND: Final = sql.SQL("{} {} order by received_at desc, kafka_partition, kafka_offset limit %(limit)s").format(
    _COLUMNS, _SELECTED
)
_FIND_AT: Final = sql.SQL("""
    {} from dead_letter_events
    where kafka_partition = %(partition)s and kafka_offset = %(offset)s
      and (%(topic_id)s::text is null or topic_id = %(topic_id)s)
""").format(_COLUMNS)
_COUNT_KINDS: Final = sql.SQL("""
    select kind, count(*), count(*) filter (where state = 'open'), count(*) filter (where state = 'retried')
    from (select {} as state, dead_letter_kind(reason) as kind {}) as selected
    group by kind order by 2 desc, kind
""").format(_STATE, _SELECTED)
_COUNT: Final = """
    select
        count(*) filter (where received_at >= date_trunc('day', now(), 'UTC')) as today,
        count(*) filter (where resolved_at is null) as unresolved,
        count(*) filter (where resolved_at is null and retry_event_id is not null) as retried
    from dead_letter_events
"""
_MARK_RETRIED: Final = """
    update dead_letter_events set retry_event_id = %s, retried_at = now()
    where topic_id = %s and kafka_partition = %s and kafka_offset = %s and resolved_at is null
"""
_COUNT_UNRESOLVED: Final = """
    select count(*) from dead_letter_events where retry_event_id = any(%s) and resolved_at is null
"""

_INSERT_OF_ATTEMPT: Final = """
    insert into dead_letter_events (
        topic_id, kafka_partition, kafka_offset, batch, topic, reason, payload, kafka_timestamp, received_at
    )
    select %(topic_id)s, kafka_partition, kafka_offset, %(batch)s, %(topic)s, reason, payload, kafka_timestamp, now()
    from spark_dead_letters where attempt = %(attempt)s::uuid
"""
_CREATE_KEPT: Final = "create temp table kept_dead_letters (like dead_letter_events) on commit drop"
_SET_ASIDE: Final = """
    with gone as (delete from dead_letter_events where batch = %s returning *)
    insert into kept_dead_letters select * from gone
"""
_RESTORE: Final = """
    update dead_letter_events d set received_at = k.received_at, retry_event_id = k.retry_event_id,
        retried_at = k.retried_at, resolved_at = k.resolved_at
    from kept_dead_letters k
    where (d.topic_id, d.kafka_partition, d.kafka_offset) = (k.topic_id, k.kafka_partition, k.kafka_offset)
"""
_RETRIED_AND_NOW_VALID: Final = """
    select k.topic, k.kafka_partition, k.kafka_offset from kept_dead_letters k
    where k.retry_event_id is not null and not exists (
        select from dead_letter_events d
        where (d.topic_id, d.kafka_partition, d.kafka_offset) = (k.topic_id, k.kafka_partition, k.kafka_offset)
    )
    order by 1, 2, 3
"""


class DeadLetterState(StrEnum):
    """Whether a dead letter was corrected: open (no), retried (sent, not scored yet) or resolved (scored)."""

    OPEN = "open"
    RETRIED = "retried"
    RESOLVED = "resolved"


@dataclass(frozen=True)
class StoredDeadLetter:
    """A row of dead_letter_events.

    `retry_event_id` is the id of the corrected event that was sent; `resolved_at` is when that event was scored.
    """

    topic_id: str
    topic: str
    kafka_partition: int
    kafka_offset: int
    batch: str
    reason: str
    payload: bytes | None
    kafka_timestamp: datetime | None
    received_at: datetime
    retry_event_id: UUID | None
    retried_at: datetime | None
    resolved_at: datetime | None

    @property
    def place(self) -> str:
        """Where the message was read: topic[partition]@offset."""
        return f"{self.topic}[{self.kafka_partition}]@{self.kafka_offset}"

    @property
    def state(self) -> DeadLetterState:
        """Whether it was corrected."""
        if self.resolved_at is not None:
            return DeadLetterState.RESOLVED
        return DeadLetterState.OPEN if self.retry_event_id is None else DeadLetterState.RETRIED

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON, without the payload. Times are in ISO 8601, UTC."""
        moments = ("kafka_timestamp", "received_at", "retried_at", "resolved_at")
        plain = {name: value for name, value in vars(self).items() if name not in ("payload", *moments)}
        for name in moments:
            moment: datetime | None = getattr(self, name)
            plain[name] = None if moment is None else moment.astimezone(UTC).isoformat()
        return {**plain, "retry_event_id": self.retry_event_id and str(self.retry_event_id), "state": self.state}


@dataclass(frozen=True, kw_only=True)
class NewDeadLetter:
    """A message to be stored."""

    kafka_partition: int
    kafka_offset: int
    reason: str
    payload: bytes | None
    kafka_timestamp: datetime | None


@dataclass(frozen=True)
class DeadLetterKind:
    """How many dead letters have a reason of this kind, and how many of them are open and retried."""

    reason: str
    count: int
    open: int
    retried: int


@dataclass(frozen=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters: part of the reason (ignoring case), received since, state. None selects all."""

    reason: str | None = None
    since: datetime | None = None
    state: DeadLetterState | None = None


@dataclass(frozen=True)
class DeadLetterCounts:
    """Dead letters received since midnight UTC, those not resolved, and how many of the latter were retried."""

    today: int
    unresolved: int
    retried: int


def insert(
    connection: psycopg.Connection, dead_letters: Iterable[NewDeadLetter], *, batch: str, topic: str, topic_id: str
) -> int:
    """Store dead letters of a batch; return how many.

    They are copied row by row, so that payloads of several megabytes do not have to fit into one statement.
    """
    received = datetime.now(UTC)
    with connection.cursor() as cursor:
        with cursor.copy(_COPY) as copy:
            copy.set_types(_COPY_TYPES)
            for each in dead_letters:
                copy.write_row(
                    (
                        topic_id,
                        each.kafka_partition,
                        each.kafka_offset,
                        batch,
                        topic,
                        each.reason,
                        each.payload,
                        each.kafka_timestamp,
                        received,
                    )
                )
        return cursor.rowcount


def insert_of_attempt(connection: psycopg.Connection, attempt: UUID, *, batch: str, topic: str, topic_id: str) -> int:
    """Store the dead letters that Spark has staged as those of a batch; return how many."""
    arguments = {"attempt": attempt, "batch": batch, "topic": topic, "topic_id": topic_id}
    return connection.execute(_INSERT_OF_ATTEMPT, arguments).rowcount


def find(connection: psycopg.Connection, selected: DeadLetterFilter, *, limit: int) -> list[StoredDeadLetter]:
    """Return dead letters, the latest first."""
    with connection.cursor(row_factory=class_row(StoredDeadLetter)) as cursor:
        return cursor.execute(_FIND, {**vars(selected), "limit": limit}).fetchall()


def find_at(
    connection: psycopg.Connection, *, partition: int, offset: int, topic_id: str | None
) -> list[StoredDeadLetter]:
    """Return the dead letters at this Kafka partition and offset, one per topic that has one there."""
    with connection.cursor(row_factory=class_row(StoredDeadLetter)) as cursor:
        return cursor.execute(_FIND_AT, {"partition": partition, "offset": offset, "topic_id": topic_id}).fetchall()


def count_kinds(connection: psycopg.Connection, selected: DeadLetterFilter) -> list[DeadLetterKind]:
    """Count dead letters by kind, the most frequent first. In a kind, … replaces the parts that vary."""
    return [DeadLetterKind(*row) for row in connection.execute(_COUNT_KINDS, vars(selected)).fetchall()]


def count(connection: psycopg.Connection) -> DeadLetterCounts:
    """Count all dead letters."""
    with connection.cursor(row_factory=class_row(DeadLetterCounts)) as cursor:
        return cursor.execute(_COUNT).fetchone() or DeadLetterCounts(0, 0, 0)


def mark_retried(connection: psycopg.Connection, retries: Sequence[tuple[StoredDeadLetter, UUID]]) -> int:
    """Record the corrected event's id for each dead letter that is not resolved; return how many these are."""
    with connection.cursor() as cursor:
        cursor.executemany(
            _MARK_RETRIED,
            [(event_id, each.topic_id, each.kafka_partition, each.kafka_offset) for each, event_id in retries],
        )
        return cursor.rowcount


def count_unresolved(connection: psycopg.Connection, retry_event_ids: Sequence[UUID]) -> int:
    """Return how many of the dead letters for which these corrected events were sent are not resolved yet."""
    row = connection.execute(_COUNT_UNRESOLVED, (list(retry_event_ids),)).fetchone()
    return 0 if row is None else row[0]


def set_aside(connection: psycopg.Connection, batch: str) -> None:
    """Delete the dead letters of a batch that is being replayed, and keep copies until the transaction ends."""
    connection.execute(_CREATE_KEPT)
    connection.execute(_SET_ASIDE, (batch,))


def delete(connection: psycopg.Connection, rows: Iterable[Mapping[str, object]]) -> None:
    """Delete dead letters, given as rows of the table."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "delete from dead_letter_events where topic_id = %s and kafka_partition = %s and kafka_offset = %s",
            [(row["topic_id"], row["kafka_partition"], row["kafka_offset"]) for row in rows],
        )


def restore_history(connection: psycopg.Connection) -> list[str]:
    """Give the dead letters of a replay the times and retries of the copies that were set aside.

    Returns:
        Places of dead letters that were retried, but are valid in the replay.
    """
    connection.execute(_RESTORE)
    rows = connection.execute(_RETRIED_AND_NOW_VALID)
    return [f"{topic}[{partition}]@{offset}" for topic, partition, offset in rows]
