"""Hourly and daily figures: which are out of date, and what they are."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import psycopg

if TYPE_CHECKING:
    import pandas as pd

# One statement, one snapshot: the figures include exactly the changes that their version counts. An hour that lost
# all its predictions in a replay has a version and no sums, and gets a row of zeros.
_HOURLY: Final = """
    select
        d.hour_timestamp,
        coalesce(sum(h.total_predictions), 0)::bigint as total_predictions,
        coalesce(sum(h.churn_count), 0)::bigint as churn_count,
        100::double precision * sum(h.churn_count)::bigint / nullif(sum(h.total_predictions), 0)::bigint as churn_rate,
        sum(h.risk_sum) / nullif(sum(h.total_predictions), 0)::bigint as avg_risk_score,
        coalesce(sum(h.high_risk_count), 0)::bigint as high_risk_count,
        sum(h.age_sum) / nullif(sum(h.age_count), 0)::bigint as avg_age,
        sum(h.balance_sum) / nullif(sum(h.total_predictions), 0)::bigint as avg_balance,
        sum(h.tenure_sum) / nullif(sum(h.total_predictions), 0)::bigint as avg_tenure,
        coalesce(sum(h.age_count), 0)::bigint as age_count,
        d.version
    from dirty_hours d left join churn_batch_hours h using (hour_timestamp)
    where d.hour_timestamp >= %s and d.hour_timestamp < %s
    group by d.hour_timestamp, d.version
    order by d.hour_timestamp
"""
_BATCHES_OF_HOURS: Final = """
    select hour_timestamp, batch, total_predictions from churn_batch_hours
    where hour_timestamp >= %s and hour_timestamp < %s order by hour_timestamp, batch desc
"""
_DIRTY_HOURS: Final = """
    select d.hour_timestamp
    from dirty_hours d left join churn_metrics_hourly m using (hour_timestamp)
    where d.hour_timestamp <= now() and (m.version is null or d.version > m.version)
      and coalesce(m.updated_at, (
          select min(b.opened) from churn_batch_hours h join stream_batches b using (batch)
          where h.hour_timestamp = d.hour_timestamp
      ), '-infinity') <= now() - make_interval(secs => %s)
    order by d.hour_timestamp
"""
_DIRTY_DAYS: Final = """
    select h.date
    from (
        select (hour_timestamp at time zone 'utc')::date as date, sum(version) as version
        from churn_metrics_hourly group by 1
    ) as h left join churn_metrics_daily m using (date)
    where m.version is null or (h.version > m.version and m.updated_at < now() - make_interval(secs => %s))
    order by h.date
"""


def hourly_figures(connection: psycopg.Connection, start: datetime, end: datetime) -> "pd.DataFrame":
    """Figures of the hours in [start, end) that have had predictions, one row an hour, by hour.

    Returns:
        The columns of churn_metrics_hourly but updated_at. churn_rate is a percentage; averages are NaN where there is
        nothing to average.
    """
    import pandas as pd

    cursor = connection.execute(_HOURLY, (start, end))
    names = [column.name for column in cursor.description or ()]
    return pd.DataFrame(cursor.fetchall(), columns=names)


def batches_of_hours(connection: psycopg.Connection, start: datetime, end: datetime) -> dict[datetime, dict[str, int]]:
    """Predictions that each batch had in each hour of [start, end): hour (UTC) -> batch -> count, newest first."""
    found: dict[datetime, dict[str, int]] = {}
    for hour, batch, predictions in connection.execute(_BATCHES_OF_HOURS, (start, end)):
        found.setdefault(hour.astimezone(UTC), {})[batch] = predictions
    return found


def daily_figures(hours: "pd.DataFrame") -> "pd.DataFrame":
    """Figures of days (UTC) from those of their hours: counts add up, averages are weighted by what they average over.

    Args:
        hours: rows of churn_metrics_hourly.

    Returns:
        One row a day with predictions or changes, by day: the columns of churn_metrics_daily but updated_at.
    """
    import pandas as pd

    weights = {
        "avg_risk_score": "total_predictions",
        "avg_age": "age_count",
        "avg_balance": "total_predictions",
        "avg_tenure": "total_predictions",
    }
    counts = ["total_predictions", "churn_count", "high_risk_count", "age_count", "version"]
    sums = hours[counts].copy()
    for average, weight in weights.items():
        sums[average] = (hours[average] * hours[weight]).fillna(0.0)
    days = sums.groupby(pd.to_datetime(hours["hour_timestamp"], utc=True).dt.date.rename("date")).sum().reset_index()
    for average, weight in weights.items():
        days[average] = days[average] / days[weight].where(days[weight] > 0)
    days["churn_rate"] = 100.0 * days["churn_count"] / days["total_predictions"].where(days["total_predictions"] > 0)
    return days


def dirty_hours(connection: psycopg.Connection, *, at_most_every: float) -> list[datetime]:
    """Begun hours whose figures are missing or out of date, in order, UTC.

    Args:
        at_most_every: so many seconds after the figures, or after the first batch of an hour that has none yet.
    """
    return [hour.astimezone(UTC) for (hour,) in connection.execute(_DIRTY_HOURS, (at_most_every,))]


def dirty_days(connection: psycopg.Connection, *, at_most_every: float) -> list[date]:
    """Days whose figures are missing, or out of date and older than so many seconds. In order, UTC."""
    return [day for (day,) in connection.execute(_DIRTY_DAYS, (at_most_every,))]


def windows(starts: Iterable[datetime], *, joined_within: timedelta) -> list[tuple[datetime, datetime]]:
    """Windows, as (first start, last start), that cover all of the starts, which are in order.

    Starts no further apart than `joined_within` share a window: computing the few between them anew costs far less
    than another run, while two that lie months apart are not worth everything between.
    """
    found: list[tuple[datetime, datetime]] = []
    for start in starts:
        if found and start - found[-1][1] <= joined_within:
            found[-1] = (found[-1][0], start)
        else:
            found.append((start, start))
    return found


def midnight(days: Sequence[date]) -> list[datetime]:
    """The moments at which the days begin, UTC."""
    return [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days]
