"""The tables churn_metrics_hourly and churn_metrics_daily: which rows are out of date, and their new values.

Dagster's IO manager writes them.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import sql

from churn_platform.database.averages import Average, averages, count_names
from churn_platform.schema.customer_schema import CustomerSchema

if TYPE_CHECKING:
    import pandas as pd

# One statement has one snapshot, so the metrics include exactly the changes that their version counts. An hour that
# lost all its predictions in a replay has a version but no sums, and gets a row of zeros. Batches from before a column
# was in the schema have no sum of it, and do not count for its average.
_HOURLY: Final = sql.SQL("""
    select
        d.hour_timestamp,
        coalesce(sum(h.total_predictions), 0)::bigint as total_predictions,
        coalesce(sum(h.churn_count), 0)::bigint as churn_count,
        100::double precision * sum(h.churn_count)::bigint / nullif(sum(h.total_predictions), 0)::bigint as churn_rate,
        sum(h.risk_sum) / nullif(sum(h.total_predictions), 0)::bigint as avg_risk_score,
        coalesce(sum(h.high_risk_count), 0)::bigint as high_risk_count,
        {averages}
        {counts}
        d.version
    from dirty_hours d left join churn_batch_hours h using (hour_timestamp)
    where d.hour_timestamp >= %s and d.hour_timestamp < %s
    group by d.hour_timestamp, d.version
    order by d.hour_timestamp
""")
_DIRTY_HOURS: Final = """
    select d.hour_timestamp
    from dirty_hours d left join churn_metrics_hourly m using (hour_timestamp)
    where d.hour_timestamp <= now() and (m.version is null or d.version > m.version)
      and case
          when m.updated_at is not null then m.updated_at <= now() - make_interval(secs => %(at_most_every)s)
          else coalesce((
              select min(b.opened) from churn_batch_hours h join stream_batches b using (batch)
              where h.hour_timestamp = d.hour_timestamp
          ), '-infinity') <= now() - make_interval(secs => %(first_after)s)
      end
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


def hourly_figures(
    connection: psycopg.Connection, schema: CustomerSchema, start: datetime, end: datetime
) -> "pd.DataFrame":
    """Return the metrics of the hours in [start, end) that have had predictions, one row per hour, in order.

    Returns:
        The columns of churn_metrics_hourly except updated_at. churn_rate is a percentage. An average over nothing is
        NaN.
    """
    import pandas as pd

    query = _HOURLY.format(
        averages=sql.SQL("").join(map(_average, averages(schema))),
        counts=sql.SQL("").join(
            sql.SQL("coalesce(sum(h.{0}), 0)::bigint as {0}, ").format(sql.Identifier(name))
            for name in count_names(schema)
        ),
    )
    cursor = connection.execute(query, (start, end))
    names = [column.name for column in cursor.description or ()]
    return pd.DataFrame(cursor.fetchall(), columns=names)


def daily_figures(hours: "pd.DataFrame", schema: CustomerSchema) -> "pd.DataFrame":
    """Return the metrics of days (UTC), computed from those of their hours: counts are added, averages are weighted.

    Args:
        hours: rows of churn_metrics_hourly.
        schema: of the customers.

    Returns:
        One row per day with predictions or changes, in order: the columns of churn_metrics_daily except updated_at.
    """
    import pandas as pd

    weights = {
        "avg_risk_score": "total_predictions",
        **{each.average: each.count if each.may_be_missing else "total_predictions" for each in averages(schema)},
    }
    sums = hours[["total_predictions", "churn_count", "high_risk_count", "version"]].copy()
    for count in count_names(schema):
        sums[count] = hours[count].astype("float64").fillna(0).astype("int64")  # null before the schema had the column
    for average, weight in weights.items():
        sums[average] = (hours[average] * hours[weight]).fillna(0.0).astype("float64")
        sums[f"weight of {average}"] = hours[weight].where(hours[average].notna(), 0)
    days = sums.groupby(pd.to_datetime(hours["hour_timestamp"], utc=True).dt.date.rename("date")).sum().reset_index()
    for average in weights:
        weight_of_day = days.pop(f"weight of {average}")
        days[average] = days[average] / weight_of_day.where(weight_of_day > 0)
    days["churn_rate"] = 100.0 * days["churn_count"] / days["total_predictions"].where(days["total_predictions"] > 0)
    return days


def dirty_hours(
    connection: psycopg.Connection, *, first_after: float = 0.0, at_most_every: float = 0.0
) -> list[datetime]:
    """Return the hours that have begun and whose metrics are missing or out of date, in order, UTC.

    Args:
        connection: to the platform's database.
        first_after: least seconds since the first batch of an hour that has no metrics yet.
        at_most_every: least seconds since the metrics of an hour were computed.
    """
    arguments = {"first_after": first_after, "at_most_every": at_most_every}
    return [hour.astimezone(UTC) for (hour,) in connection.execute(_DIRTY_HOURS, arguments)]


def dirty_days(connection: psycopg.Connection, *, at_most_every: float = 0.0) -> list[date]:
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


def _average(column: Average) -> sql.Composed:
    weight = (
        sql.SQL("sum(h.{})").format(sql.Identifier(column.count))
        if column.may_be_missing
        else sql.SQL("sum(h.total_predictions) filter (where h.{} is not null)").format(sql.Identifier(column.sum))
    )
    return sql.SQL("sum(h.{}) / nullif({}, 0)::bigint as {}, ").format(
        sql.Identifier(column.sum), weight, sql.Identifier(column.average)
    )
