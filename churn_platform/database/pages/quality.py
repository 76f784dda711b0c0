"""What the dashboard's page about data quality reads. Across tables; reads only, and no raw predictions.

Dead letters are counted by minute in a small table. Kinds and states are those of the latest ones: to count a million
takes 5 s, and a flood of millions has few kinds, which the latest thousands show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import psycopg
from psycopg.rows import class_row

LATEST: Final = 5_000
"""Dead letters whose kind is determined. That takes 44 microseconds for each reason, and no two may be equal."""

_HOURS: Final = """
    select date_trunc('hour', minute, 'UTC') as hour, sum(predictions)::bigint as predictions,
        sum(dead_letters)::bigint as dead_letters
    from stream_minutes where minute >= %s group by 1 order by 1
"""
_KINDS: Final = """
    with latest as materialized (
        select reason, received_at, retried_at, resolved_at from dead_letter_events
        where received_at >= %(since)s order by received_at desc limit %(latest)s
    ), reasons as (
        select reason, count(*) as dead_letters, count(*) filter (where resolved_at is not null) as resolved,
            count(*) filter (where resolved_at is null and retried_at is not null) as retried,
            max(received_at) as last_received
        from latest group by reason
    )
    select
        dead_letter_kind(reason) as kind,
        sum(dead_letters)::bigint as dead_letters,
        sum(retried)::bigint as retried,
        sum(resolved)::bigint as resolved,
        max(last_received) as last_received,
        (array_agg(reason order by last_received desc))[1] as example
    from reasons group by 1 order by 2 desc, 1
"""
_OF_KIND: Final = """
    with latest as materialized (
        select topic_id, topic, kafka_partition, kafka_offset, reason, received_at, retried_at, resolved_at
        from dead_letter_events where received_at >= %(since)s order by received_at desc limit %(latest)s
    )
    select topic_id, topic, kafka_partition, kafka_offset, reason, received_at,
        case when resolved_at is not null then 'resolved' when retried_at is not null then 'retried' else 'open' end
            as state
    from latest where dead_letter_kind(reason) = %(kind)s
    order by received_at desc, kafka_partition, kafka_offset desc limit %(limit)s
"""
# Rates of all model versions together, each weighted with the predictions that its sample stands for.
_RATES: Final = """
    with latest as (select max(date) as date from drift_daily),
    days as (
        select date from latest
        union all select max(d.date) from drift_daily d, latest l where d.date < l.date
    )
    select
        date,
        feature,
        sum(sampled * weight) as predictions,
        coalesce(sum(missing_rate * sampled * weight) / nullif(sum(sampled * weight), 0), 0) as missing_rate,
        coalesce(sum(out_of_range_rate * sampled * weight) / nullif(sum(sampled * weight), 0), 0) as out_of_range_rate
    from drift_daily join days using (date)
    group by date, feature order by date desc, feature
"""
# Metrics of an hour that goes on changing are updated every five minutes, with the default settings.
_FRESHNESS: Final = """
    select
        (select max(last_commit) from stream_batches) as last_commit,
        (select max(hour_timestamp) from churn_metrics_hourly) as metrics_hour,
        (select max(date) from churn_metrics_daily) as metrics_day,
        (select count(*) from dirty_hours d left join churn_metrics_hourly m using (hour_timestamp)
            where m.version is null
              or (m.version < d.version and m.updated_at < now() - interval '15 minutes')) as dirty_hours,
        (select max(hour_timestamp) from drift_hourly) as drift_hour,
        (select max(date) from drift_daily) as drift_day,
        (select max(received_at) from customer_outcomes) as last_outcome,
        (select max(date) from live_performance) as live_day,
        (select followed_at from summary_state) as summaries,
        (select read_at from stream_lag) as worker
"""


@dataclass(frozen=True)
class Hour:
    """What the stream read in an hour, UTC."""

    hour: datetime
    predictions: int
    dead_letters: int


@dataclass(frozen=True)
class Kind:
    """Dead letters with the same reason, but for the values in it.

    Attributes:
        kind: the reason with … for the values.
        dead_letters: how many there are.
        retried: for how many of them a corrected event was sent that is not scored yet.
        resolved: for how many of them the corrected event was scored.
        last_received: when the latest was read.
        example: its reason.
    """

    kind: str
    dead_letters: int
    retried: int
    resolved: int
    last_received: datetime
    example: str

    @property
    def open(self) -> int:
        """How many of them were not corrected."""
        return self.dead_letters - self.retried - self.resolved


@dataclass(frozen=True)
class ListedDeadLetter:
    """A dead letter without its payload."""

    topic_id: str
    topic: str
    kafka_partition: int
    kafka_offset: int
    reason: str
    received_at: datetime
    state: str


@dataclass(frozen=True)
class Rates:
    """Shares of missing values, and of values outside the range of the training data, on a day, 0..1."""

    date: date
    feature: str
    predictions: float
    missing_rate: float
    out_of_range_rate: float


@dataclass(frozen=True)
class Freshness:
    """When each part of the platform last had new data.

    `dirty_hours` have no metrics, or have needed an update for long.
    """

    last_commit: datetime | None
    metrics_hour: datetime | None
    metrics_day: date | None
    dirty_hours: int
    drift_hour: datetime | None
    drift_day: date | None
    last_outcome: datetime | None
    live_day: date | None
    summaries: datetime | None
    worker: datetime | None


def hours(connection: psycopg.Connection, *, since: datetime) -> list[Hour]:
    """Return the hours since then in which something was read, in order; the last 8 days are known."""
    with connection.cursor(row_factory=class_row(Hour)) as cursor:
        return cursor.execute(_HOURS, (since,)).fetchall()


def kinds(connection: psycopg.Connection, *, since: datetime) -> list[Kind]:
    """Return the kinds of the dead letters since then, but of at most the LATEST ones, the most frequent first."""
    with connection.cursor(row_factory=class_row(Kind)) as cursor:
        return cursor.execute(_KINDS, {"since": since, "latest": LATEST}).fetchall()


def of_kind(connection: psycopg.Connection, kind: str, *, since: datetime, limit: int) -> list[ListedDeadLetter]:
    """Return the latest dead letters of a kind, the newest first, of the LATEST ones since then."""
    parameters = {"since": since, "latest": LATEST, "kind": kind, "limit": limit}
    with connection.cursor(row_factory=class_row(ListedDeadLetter)) as cursor:
        return cursor.execute(_OF_KIND, parameters).fetchall()


def rates(connection: psycopg.Connection) -> Sequence[Rates]:
    """Return the rates of each feature on the latest day and on the one before that has any, the latest first."""
    with connection.cursor(row_factory=class_row(Rates)) as cursor:
        return cursor.execute(_RATES).fetchall()


def freshness(connection: psycopg.Connection) -> Freshness:
    """Return when each part of the platform last had new data."""
    with connection.cursor(row_factory=class_row(Freshness)) as cursor:
        found = cursor.execute(_FRESHNESS).fetchone()
    if found is None:
        raise RuntimeError("A select without conditions returned no row; PostgreSQL always returns one.")
    return found
