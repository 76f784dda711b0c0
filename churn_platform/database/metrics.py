"""The tables churn_metrics_hourly and churn_metrics_daily: which rows are out of date, and their new values.

Dagster's IO manager writes them.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import psycopg

if TYPE_CHECKING:
    import pandas as pd

# One statement has one snapshot, so the metrics include exactly the changes that their version counts. An hour that
# lost all its predictions in a replay has a version but no sums, and gets a row of zeros.
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
    """Return the metrics of the hours in [start, end) that have had predictions, one row per hour, in order.

    Returns:
        The columns of churn_metrics_hourly except updated_at. churn_rate is a percentage. An average over nothing is
        NaN.
    """
    import pandas as pd

    cursor = connection.execute(_HOURLY, (start, end))
    names = [column.name for column in cursor.description or ()]
    return pd.DataFrame(cursor.fetchall(), columns=names)


def daily_figures(hours: "pd.DataFrame") -> "pd.DataFrame":
    """Return the metrics of days (UTC), computed from those of their hours: counts are added, averages are weighted.

    Args:
        hours: rows of churn_metrics_hourly.

    Returns:
        One row per day with predictions or changes, in order: the columns of churn_metrics_daily except updated_at.
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
    """Return the hours that have begun and whose metrics are missing or out of date, in order, UTC.

    Args:
        at_most_every: seconds since the metrics were computed, or since the first batch of an hour that has none.
    """
    return [hour.astimezone(UTC) for (hour,) in connection.execute(_DIRTY_HOURS, (at_most_every,))]


def dirty_days(connection: psycopg.Connection, *, at_most_every: float) -> list[date]:
    """Return days (UTC) whose metrics are missing, or out of date and older than `at_most_every` seconds, in order."""
    return [day for (day,) in connection.execute(_DIRTY_DAYS, (at_most_every,))]


def windows(starts: Iterable[datetime], *, joined_within: timedelta) -> list[tuple[datetime, datetime]]:
    """Return windows, as (first start, last start), that cover all of the starts, which are in order.

    Starts that are at most `joined_within` apart share a window. Computing the few hours between them again takes far
    less than another run; computing the months between two distant starts would not.
    """
    found: list[tuple[datetime, datetime]] = []
    for start in starts:
        if found and start - found[-1][1] <= joined_within:
            found[-1] = (found[-1][0], start)
        else:
            found.append((start, start))
    return found


def midnight(days: Sequence[date]) -> list[datetime]:
    """Return the start of each day, UTC."""
    return [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days]
