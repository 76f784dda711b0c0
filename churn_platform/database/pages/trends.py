"""What the dashboard's page about trends reads. Across tables; reads only, and no raw predictions.

Days are sums of prediction_summary, which also knows segments and keeps what is archived. Hours are sums of
churn_batch_hours, which every commit writes; they know no segments and no arms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

import psycopg
from psycopg.rows import class_row

_DAYS: Final = """
    select
        date as start,
        sum(total_predictions)::bigint as predictions,
        sum(churn_count)::bigint as churn_count,
        sum(risk_sum)::double precision as risk_sum,
        sum(high_risk_count)::bigint as high_risk_count
    from prediction_summary
    where date >= %(start)s and date <= %(end)s
      and (%(segment)s::text is null or segments ->> %(segment)s::text = %(value)s::text)
      and (arm = 'contact' or not %(without_controls)s)
    group by date
"""
_HOURS: Final = """
    select
        hour_timestamp as start,
        sum(total_predictions)::bigint as predictions,
        sum(churn_count)::bigint as churn_count,
        sum(risk_sum) as risk_sum,
        sum(high_risk_count)::bigint as high_risk_count
    from churn_batch_hours
    where hour_timestamp >= %s and hour_timestamp <= %s
    group by hour_timestamp
"""
_PROMOTIONS: Final = """
    select version, promoted_at, promoted_by, reason from model_promotions
    where promoted_at >= %s and promoted_at < %s order by promoted_at
"""
# Each UTC day of replays is one entry for each model version, however many batches were replayed.
_REPLAYS: Final = """
    select max(b.replayed_at) as replayed_at, b.model_version, count(distinct b.batch) as batches,
        min(h.hour_timestamp) as first_hour, max(h.hour_timestamp) as last_hour
    from stream_batches b join churn_batch_hours h using (batch)
    where b.replayed_at is not null and h.hour_timestamp >= %s and h.hour_timestamp < %s
    group by (b.replayed_at at time zone 'utc')::date, b.model_version
    order by first_hour
"""
_DRIFT: Final = """
    select date, model_version, array_agg(feature order by psi desc) as features
    from drift_daily where verdict = 'far' and date >= %s and date <= %s
    group by date, model_version order by model_version, date
"""
_CONDITIONS: Final = """
    select name, subject, details, began, ended from operator_conditions
    where name = any(%s) and began < %s and coalesce(ended, 'infinity') >= %s order by began
"""


@dataclass(frozen=True)
class Sums:
    """Sums over the predictions of events of one UTC day or hour; `start` is a date or a time."""

    start: date
    predictions: int = 0
    churn_count: int = 0
    risk_sum: float = 0.0
    high_risk_count: int = 0

    @property
    def churn_rate(self) -> float | None:
        """Share of the predictions that are churn, 0..1; None without predictions."""
        return self.churn_count / self.predictions if self.predictions else None

    @property
    def mean_risk(self) -> float | None:
        """Mean risk score, 0..1; None without predictions."""
        return self.risk_sum / self.predictions if self.predictions else None


@dataclass(frozen=True)
class Promotion:
    """A version became champion. The comments of model_promotions explain the columns."""

    version: int
    promoted_at: datetime
    promoted_by: str
    reason: str


@dataclass(frozen=True)
class Replays:
    """Batches that were replayed on one UTC day by one model version, and the hours of their events."""

    replayed_at: datetime
    model_version: int | None
    batches: int
    first_hour: datetime
    last_hour: datetime


@dataclass(frozen=True)
class Drift:
    """Features of a day's events that were far from the training data of a model version, the farthest first."""

    date: date
    model_version: int
    features: Sequence[str]


@dataclass(frozen=True)
class Problem:
    """An operator condition, from when it was found until it ended."""

    name: str
    subject: str
    details: str
    began: datetime
    ended: datetime | None


def days(
    connection: psycopg.Connection,
    start: date,
    end: date,
    *,
    segment: str | None = None,
    value: str | None = None,
    without_controls: bool = False,
) -> dict[date, Sums]:
    """Return the sums of the UTC days from `start` to `end` that have predictions.

    Args:
        connection: to read from.
        start: first day.
        end: last day.
        segment: name of a segment's column in tables; None for all customers.
        value: of the segment.
        without_controls: whether only predictions of the contact arm count.
    """
    arguments = {
        "start": start,
        "end": end,
        "segment": segment,
        "value": value,
        "without_controls": without_controls,
    }
    with connection.cursor(row_factory=class_row(Sums)) as cursor:
        return {each.start: each for each in cursor.execute(_DAYS, arguments).fetchall()}


def hours(connection: psycopg.Connection, start: datetime, end: datetime) -> dict[date, Sums]:
    """Return the sums of the hours from `start` to `end` that have predictions, by their start in UTC."""
    found: dict[date, Sums] = {}
    for hour, *sums in connection.execute(_HOURS, (start, end)):
        found[hour.astimezone(UTC)] = Sums(hour.astimezone(UTC), *sums)
    return found


def promotions(connection: psycopg.Connection, start: datetime, end: datetime) -> list[Promotion]:
    """Return the promotions in [start, end), in order."""
    with connection.cursor(row_factory=class_row(Promotion)) as cursor:
        return cursor.execute(_PROMOTIONS, (start, end)).fetchall()


def replays(connection: psycopg.Connection, start: datetime, end: datetime) -> list[Replays]:
    """Return the replays of batches with events in [start, end), by the first hour of these events."""
    with connection.cursor(row_factory=class_row(Replays)) as cursor:
        return cursor.execute(_REPLAYS, (start, end)).fetchall()


def drift(connection: psycopg.Connection, start: date, end: date) -> list[Drift]:
    """Return the UTC days from `start` to `end` with features that drifted far, by model version and day."""
    with connection.cursor(row_factory=class_row(Drift)) as cursor:
        return cursor.execute(_DRIFT, (start, end)).fetchall()


def problems(connection: psycopg.Connection, names: Sequence[str], start: datetime, end: datetime) -> list[Problem]:
    """Return the conditions with these names that lasted at some time in [start, end), by their begin."""
    with connection.cursor(row_factory=class_row(Problem)) as cursor:
        return cursor.execute(_CONDITIONS, (list(names), end, start)).fetchall()
