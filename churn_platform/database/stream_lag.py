"""The table stream_lag: how far the stream was behind Kafka when the resident worker looked last."""

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row


@dataclass(frozen=True)
class StreamLag:
    """The latest reading: `waiting` offsets are not read yet, or None if Kafka did not answer. `problem` says why."""

    waiting: int | None
    problem: str
    read_at: datetime


def record(connection: psycopg.Connection, *, waiting: int | None, problem: str) -> None:
    """Replace the reading.

    Args:
        connection: in autocommit mode, or in the caller's transaction.
        waiting: offsets that are not read yet; None if that is unknown.
        problem: why it is unknown; empty if it is known.
    """
    connection.execute(
        """
        insert into stream_lag (waiting, problem) values (%s, %s)
        on conflict (only_row) do update set
            waiting = excluded.waiting, problem = excluded.problem, read_at = excluded.read_at
        """,
        (waiting, problem),
    )


def latest(connection: psycopg.Connection) -> StreamLag | None:
    """Return the latest reading; None before the first."""
    with connection.cursor(row_factory=class_row(StreamLag)) as cursor:
        return cursor.execute("select waiting, problem, read_at from stream_lag").fetchone()
