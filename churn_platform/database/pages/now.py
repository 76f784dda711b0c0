"""What the dashboard's page about the present reads. Across tables; reads only, and no raw predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from psycopg.rows import class_row

_MINUTES: Final = """
    select minute, predictions, dead_letters, latency_counts from stream_minutes
    where minute >= date_trunc('minute', now()) - %s * interval '1 minute' order by minute
"""
# The sums per batch and hour are written with each commit, so they have no delay.
_DAYS: Final = """
    select
        d.days_ago,
        coalesce(sum(h.total_predictions), 0)::bigint as predictions,
        coalesce(sum(h.churn_count), 0)::bigint as churn_count,
        coalesce(sum(h.high_risk_count), 0)::bigint as high_risk_count
    from unnest(%s::integer[]) as d (days_ago)
    left join churn_batch_hours h
        on h.hour_timestamp >= date_trunc('day', now()) - d.days_ago * interval '1 day'
        and h.hour_timestamp < date_trunc('day', now()) - (d.days_ago - 1) * interval '1 day'
    group by d.days_ago
"""
# The same of the contact arm, from the summaries, which are at most 5 s behind.
_CONTACT_DAYS: Final = """
    select
        d.days_ago,
        coalesce(sum(s.total_predictions), 0)::bigint as predictions,
        coalesce(sum(s.churn_count), 0)::bigint as churn_count,
        coalesce(sum(s.high_risk_count), 0)::bigint as high_risk_count
    from unnest(%s::integer[]) as d (days_ago)
    left join prediction_summary s
        on s.date = (now() at time zone 'utc')::date - d.days_ago and s.arm = 'contact'
    group by d.days_ago
"""
_STREAM: Final = """
    select
        (select max(last_commit) from stream_batches) as last_commit,
        (select min(since) from stream_pauses) as paused_since
"""


@dataclass(frozen=True)
class Minute:
    """One minute of the stream. The comments of stream_minutes explain each column."""

    minute: datetime
    predictions: int
    dead_letters: int
    latency_counts: Sequence[int]


@dataclass(frozen=True)
class Day:
    """The predictions of events of one UTC day, `days_ago` days before today."""

    days_ago: int
    predictions: int
    churn_count: int
    high_risk_count: int

    @property
    def churn_rate(self) -> float | None:
        """Share of the predictions that are churn, 0..1; None without predictions."""
        return self.churn_count / self.predictions if self.predictions else None


@dataclass(frozen=True)
class Stream:
    """The state of the stream."""

    last_commit: datetime | None
    paused_since: datetime | None


def minutes(connection: psycopg.Connection, *, count: int) -> list[Minute]:
    """Return the minutes since this many minutes ago in which something was read, in order."""
    with connection.cursor(row_factory=class_row(Minute)) as cursor:
        return cursor.execute(_MINUTES, (count,)).fetchall()


def days(connection: psycopg.Connection, days_ago: Sequence[int], *, without_controls: bool = False) -> dict[int, Day]:
    """Return sums of whole UTC days, by how many days ago they were; 0 is today so far.

    Args:
        connection: to read from.
        days_ago: the days.
        without_controls: whether only predictions of the contact arm count.
    """
    query = _CONTACT_DAYS if without_controls else _DAYS
    with connection.cursor(row_factory=class_row(Day)) as cursor:
        return {each.days_ago: each for each in cursor.execute(query, (list(days_ago),)).fetchall()}


def stream(connection: psycopg.Connection) -> Stream:
    """Return the state of the stream."""
    with connection.cursor(row_factory=class_row(Stream)) as cursor:
        found = cursor.execute(_STREAM).fetchone()
    if found is None:
        raise RuntimeError("A select without conditions returned no row; PostgreSQL always returns one.")
    return found
