"""Rows that Spark has staged and no batch has yet: its attempts, tasks, predictions and dead letters.

Executors stage rows, each task in one transaction. The platform then moves all rows of an attempt to their tables at
once: see stream/staged_rows.py. An attempt that is given up is deleted with its rows, and tasks of it that still run
fail, because their rows need the attempt.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final
from uuid import UUID

import numpy as np
import psycopg
from psycopg import sql
from psycopg.rows import class_row

from churn_platform.database import batch_hours, churn_predictions, erased_customers, high_risk_customers
from churn_platform.database.batch_hours import HourSums
from churn_platform.database.bulk import Column, Rows, copy_rows
from churn_platform.database.dead_letter_events import NewDeadLetter
from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.database.prediction_columns import PredictionTable
from churn_platform.errors import PlatformError

_BEGIN: Final = """
    insert into spark_attempts (attempt, batch, model_version, erasures) values (%s, %s, %s, %s)
"""
_FINISH: Final = "update spark_attempts set finished = now(), events = %s where attempt = %s and finished is null"
_FIND: Final = "select attempt, batch, model_version, erasures, finished, events from spark_attempts where attempt = %s"
# If two copies of a task run at the same time, the second one waits here for the first, and then finds its row.
_BEGIN_TASK: Final = """
    insert into spark_tasks (attempt, kafka_partition, first_offset) values (%s, %s, %s) on conflict do nothing
"""
_FINISH_TASK: Final = """
    update spark_tasks set predictions = %s, dead_letters = %s, erased = %s
    where attempt = %s and kafka_partition = %s and first_offset = %s
"""
_TASK: Final = """
    select predictions, dead_letters, erased from spark_tasks
    where attempt = %s and kafka_partition = %s and first_offset = %s
"""
_COUNTS_OF_TASKS: Final = """
    select coalesce(sum(predictions), 0)::bigint, coalesce(sum(dead_letters), 0)::bigint,
        coalesce(sum(erased), 0)::bigint
    from spark_tasks where attempt = %s
"""
_COUNTS_OF_ROWS: Final = """
    select (select count(*) from spark_predictions where attempt = %(attempt)s),
        (select count(*) from spark_dead_letters where attempt = %(attempt)s)
"""
_COPY_DEAD_LETTERS: Final = """
    copy spark_dead_letters (attempt, kafka_partition, kafka_offset, reason, payload, kafka_timestamp)
    from stdin (format binary)
"""
_DEAD_LETTER_TYPES: Final = ("uuid", "int4", "int8", "text", "bytea", "timestamptz")
# One statement, so that the rows are read from the stage and sorted once. It returns the sums of what it has inserted.
_INSERT_NEW: Final = sql.SQL("with {predictions}, {high_risk} {sums}")
_STAGED: Final = """
    select kafka_partition, sum(events)::bigint, min(first_offset), max(last_offset), sum(foreign_rows)::bigint
    from (
        select p.kafka_partition, count(*) as events, min(p.kafka_offset) as first_offset,
            max(p.kafka_offset) as last_offset,
            count(*) filter (where (p.batch, p.model_version) <> (a.batch, a.model_version)) as foreign_rows
        from spark_predictions p join spark_attempts a using (attempt)
        where attempt = %(attempt)s group by kafka_partition
        union all
        select kafka_partition, count(*), min(kafka_offset), max(kafka_offset), 0
        from spark_dead_letters where attempt = %(attempt)s group by kafka_partition
        union all
        select kafka_partition, sum(erased), null, null, 0
        from spark_tasks where attempt = %(attempt)s group by kafka_partition
    ) as staged group by kafka_partition
"""
_COUNT_TWICE: Final = """
    select count(*) from spark_predictions join spark_dead_letters using (attempt, kafka_partition, kafka_offset)
    where attempt = %s
"""
# A row of the batch at whose place Spark has read another event. An event that is left out now was erased.
_OTHER_EVENT: Final = """
    select r.kafka_partition, r.kafka_offset
    from replaced_predictions r
    left join spark_predictions s
      on s.attempt = %(attempt)s and s.kafka_partition = r.kafka_partition and s.kafka_offset = r.kafka_offset
    left join spark_dead_letters d
      on d.attempt = %(attempt)s and d.kafka_partition = r.kafka_partition and d.kafka_offset = r.kafka_offset
    where r.batch = %(batch)s and r.replay = %(replay)s and (
        d.attempt is not null
        or (s.attempt is not null
            and (s.customer_id, s.event_timestamp) is distinct from (r.customer_id, r.event_timestamp))
    )
    order by 1, 2 limit 1
"""


class AttemptGoneError(PlatformError):
    """The staged rows of an attempt are not all there: it was given up, or PostgreSQL has crashed. Score again."""

    transient = True


@dataclass(frozen=True)
class Attempt:
    """A row of spark_attempts. `events` counts what Spark has read, None before it has finished."""

    attempt: UUID
    batch: str
    model_version: int
    erasures: int
    finished: datetime | None
    events: int | None


@dataclass(frozen=True)
class StagedCounts:
    """Events by what Spark has made of them. `erased` are of erased customers: nothing of them is stored."""

    predictions: int
    dead_letters: int
    erased: int

    @property
    def events(self) -> int:
        """Events read."""
        return self.predictions + self.dead_letters + self.erased


@dataclass(frozen=True)
class StagedPartition:
    """What an attempt has staged of one Kafka partition.

    Attributes:
        events: number of events, those of erased customers included, which have no rows.
        first: lowest offset of a row; None without a row.
        last: highest offset of a row; None without a row.
        foreign: predictions of another batch or model version than the attempt's.
    """

    events: int
    first: int | None
    last: int | None
    foreign: int


def begin(connection: psycopg.Connection, attempt: UUID, *, batch: str, model_version: int) -> None:
    """Record a new attempt, and give up earlier ones of the same batch.

    Args:
        connection: in autocommit mode.
        attempt: its id.
        batch: whose ranges are scored.
        model_version: that scores them.
    """
    with connection.transaction():
        erased_customers.hold_off(connection)
        connection.execute("delete from spark_attempts where batch = %s", (batch,))
        erasures = erased_customers.load(connection).version
        connection.execute(_BEGIN, (attempt, batch, model_version, erasures))


def find(connection: psycopg.Connection, attempt: UUID) -> Attempt | None:
    """Return an attempt; None if it was given up."""
    with connection.cursor(row_factory=class_row(Attempt)) as cursor:
        return cursor.execute(_FIND, (attempt,)).fetchone()


def erased_in(connection: psycopg.Connection, attempt: UUID) -> ErasedCustomers:
    """Return the customers whose events an attempt leaves out.

    Raises:
        AttemptGoneError: the attempt was given up, or the list has grown since it began.
    """
    found, erased = find(connection, attempt), erased_customers.load(connection)
    if found is None:
        raise _gone(attempt)
    if found.erasures != erased.version:
        raise AttemptGoneError(f"A customer was erased after Spark's attempt {attempt} to score {found.batch} began.")
    return erased


def finish(connection: psycopg.Connection, attempt: UUID, *, events: int) -> None:
    """Record that all ranges of an attempt are scored. It may be repeated.

    Raises:
        AttemptGoneError: the attempt was given up, or has finished with another number of events.
    """
    if connection.execute(_FINISH, (events, attempt)).rowcount == 1:
        return
    found = find(connection, attempt)
    if found is None:
        raise _gone(attempt)
    if found.events != events:
        raise AttemptGoneError(
            f"Spark's attempt {attempt} to score {found.batch} has finished with {found.events} events, and finishes "
            f"again with {events}."
        )


def discard(connection: psycopg.Connection, attempt: UUID) -> None:
    """Delete an attempt with its rows."""
    connection.execute("delete from spark_attempts where attempt = %s", (attempt,))


def discard_all(connection: psycopg.Connection) -> None:
    """Give up every attempt: a customer is erased, whose rows may be among them."""
    connection.execute("delete from spark_attempts")


def prune(connection: psycopg.Connection, *, before: datetime) -> int:
    """Delete attempts that began before a moment; return how many. Their runs have ended without using them."""
    return connection.execute("delete from spark_attempts where began < %s", (before,)).rowcount


def begin_task(connection: psycopg.Connection, attempt: UUID, *, kafka_partition: int, first_offset: int) -> bool:
    """Begin to stage the rows of a task, in its transaction; return False if another copy of it has staged them.

    Raises:
        AttemptGoneError: the attempt was given up.
    """
    try:
        return connection.execute(_BEGIN_TASK, (attempt, kafka_partition, first_offset)).rowcount == 1
    except psycopg.errors.ForeignKeyViolation:
        raise _gone(attempt) from None


def finish_task(
    connection: psycopg.Connection, attempt: UUID, counts: StagedCounts, *, kafka_partition: int, first_offset: int
) -> None:
    """Record what a task has staged, in its transaction."""
    figures = (counts.predictions, counts.dead_letters, counts.erased)
    connection.execute(_FINISH_TASK, (*figures, attempt, kafka_partition, first_offset))


def counts_of_task(
    connection: psycopg.Connection, attempt: UUID, *, kafka_partition: int, first_offset: int
) -> StagedCounts:
    """Return what a task has staged.

    Raises:
        AttemptGoneError: it has staged nothing: the attempt was given up.
    """
    row = connection.execute(_TASK, (attempt, kafka_partition, first_offset)).fetchone()
    if row is None:
        raise _gone(attempt)
    return StagedCounts(*row)


def copy_predictions(connection: psycopg.Connection, attempt: UUID, rows: Rows, *, timestamp_given: Column) -> None:
    """Stage predictions, in the transaction of a task.

    Args:
        connection: of the task.
        attempt: its attempt.
        rows: the columns that a commit writes.
        timestamp_given: whether the event had a timestamp of its own, 0 or 1.
    """
    ids = Column("uuid", np.full(len(rows), np.void(attempt.bytes)))
    with connection.cursor() as cursor:
        copy_rows(
            cursor, "spark_predictions", Rows({"attempt": ids, **rows.columns, "timestamp_given": timestamp_given})
        )


def copy_dead_letters(connection: psycopg.Connection, attempt: UUID, dead_letters: Iterable[NewDeadLetter]) -> None:
    """Stage dead letters, in the transaction of a task."""
    with connection.cursor() as cursor, cursor.copy(_COPY_DEAD_LETTERS) as copy:
        copy.set_types(_DEAD_LETTER_TYPES)
        for each in dead_letters:
            copy.write_row(
                (attempt, each.kafka_partition, each.kafka_offset, each.reason, each.payload, each.kafka_timestamp)
            )


def require_complete(connection: psycopg.Connection, attempt: UUID, erased: ErasedCustomers) -> StagedCounts:
    """Check that every row of an attempt is there, and return the counts.

    Args:
        connection: in the transaction that uses the rows.
        attempt: that Spark has finished.
        erased: the present list of erased customers.

    Raises:
        AttemptGoneError: rows are missing, or a customer was erased since they were staged.
    """
    found = find(connection, attempt)
    if found is None or found.events is None:
        raise _gone(attempt)
    if found.erasures != erased.version:
        raise AttemptGoneError(f"A customer was erased after Spark's attempt {attempt} to score {found.batch} began.")
    tasks = StagedCounts(*_only(connection.execute(_COUNTS_OF_TASKS, (attempt,)).fetchone()))
    predictions, dead_letters = _only(connection.execute(_COUNTS_OF_ROWS, {"attempt": attempt}).fetchone())
    if (found.events, tasks.predictions, tasks.dead_letters) != (tasks.events, predictions, dead_letters):
        raise AttemptGoneError(
            f"Spark read {found.events} events for batch {found.batch}, its tasks recorded {tasks}, and {predictions} "
            f"predictions and {dead_letters} dead letters are staged: rows of attempt {attempt} are missing."
        )
    return tasks


def other_event(connection: psycopg.Connection, attempt: UUID, *, batch: str, replay: int) -> tuple[int, int] | None:
    """Return Kafka partition and offset of a replaced row where Spark has read another event; None if there is none.

    Args:
        connection: in the transaction of the replay.
        attempt: that Spark has finished.
        batch: that is being replayed.
        replay: how often it has been replayed before.
    """
    arguments = {"attempt": attempt, "batch": batch, "replay": replay}
    found: tuple[int, int] | None = connection.execute(_OTHER_EVENT, arguments).fetchone()
    return found


def insert_new(
    connection: psycopg.Connection,
    table: PredictionTable,
    attempt: UUID,
    *,
    replay: int | None,
    high_risk_threshold: float,
) -> list[HourSums]:
    """Insert the staged predictions whose ids are new, and the high-risk ones among them; return their sums by hour.

    Of two with the same id, the first one by Kafka partition and offset is inserted; in a replay, before that, the one
    that had the row.

    Args:
        connection: in a transaction.
        table: whose columns the rows have.
        attempt: that Spark has finished.
        replay: how often the batch has been replayed before; None for a first reading.
        high_risk_threshold: risk score from which a prediction is high risk.
    """
    arguments = {"attempt": attempt, "replay": replay, "high_risk_threshold": high_risk_threshold}
    return batch_hours.read_sums(table.schema, connection.execute(_insert_new(table), arguments))


def staged_partitions(connection: psycopg.Connection, attempt: UUID) -> dict[int, StagedPartition]:
    """Return what an attempt has staged, by Kafka partition."""
    rows = connection.execute(_STAGED, {"attempt": attempt})
    return {partition: StagedPartition(*staged) for partition, *staged in rows}


def staged_twice(connection: psycopg.Connection, attempt: UUID) -> int:
    """Return the number of offsets that an attempt has staged both as a prediction and as a dead letter."""
    return int(_only(connection.execute(_COUNT_TWICE, (attempt,)).fetchone())[0])


def _gone(attempt: UUID) -> AttemptGoneError:
    return AttemptGoneError(
        f"Spark's attempt {attempt} was given up: another attempt has begun, or a customer was erased meanwhile."
    )


def _only(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
    if row is None:
        raise RuntimeError("A select of counts returned no row; PostgreSQL always returns one.")
    return row


@cache
def _insert_new(table: PredictionTable) -> bytes:
    return _INSERT_NEW.format(
        predictions=churn_predictions.insert_of_attempt(table),
        high_risk=high_risk_customers.add_inserted(table),
        sums=batch_hours.sum_of(table.schema, rows="inserted", threshold="high_risk_threshold"),
    ).as_bytes(None)
