"""The table stream_lag: how far the stream was behind Kafka when the resident worker looked last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row


@dataclass(frozen=True)
class StreamLag:
    """The latest reading: `waiting` offsets are not read yet, or None if Kafka did not answer. `problem` says why.

    `lanes_waiting` has the part of each lane, lane 0 first.

    The comments of the table explain the other columns.
    """

    waiting: int | None
    problem: str
    read_at: datetime
    held: int | None
    unpublished: int | None
    outcomes_waiting: int | None
    lanes_waiting: Sequence[int] | None


def record(
    connection: psycopg.Connection,
    *,
    waiting: int | None,
    problem: str,
    held: int | None = None,
    unpublished: int | None = None,
    outcomes_waiting: int | None = None,
    lanes_waiting: Sequence[int] | None = None,
) -> None:
    """Replace the reading.

    Args:
        connection: in autocommit mode, or in the caller's transaction.
        waiting: offsets that are not read yet; None if that is unknown.
        problem: why it is unknown; empty if it is known.
        held: offsets that an open transaction holds back; None if that is unknown.
        unpublished: offsets that are read and not published; None if that is unknown.
        outcomes_waiting: offsets of the outcomes topic that are not read yet; None if that is unknown.
        lanes_waiting: the part of `waiting` of each lane, lane 0 first; None if that is unknown.
    """
    connection.execute(
        """
        insert into stream_lag (waiting, problem, held, unpublished, outcomes_waiting, lanes_waiting)
        values (%s, %s, %s, %s, %s, %s)
        on conflict (only_row) do update set
            waiting = excluded.waiting, problem = excluded.problem, read_at = excluded.read_at, held = excluded.held,
            unpublished = excluded.unpublished, outcomes_waiting = excluded.outcomes_waiting,
            lanes_waiting = excluded.lanes_waiting
        """,
        (waiting, problem, held, unpublished, outcomes_waiting, None if lanes_waiting is None else [*lanes_waiting]),
    )


def latest(connection: psycopg.Connection) -> StreamLag | None:
    """Return the latest reading; None before the first."""
    with connection.cursor(row_factory=class_row(StreamLag)) as cursor:
        return cursor.execute(
            "select waiting, problem, read_at, held, unpublished, outcomes_waiting, lanes_waiting from stream_lag"
        ).fetchone()
