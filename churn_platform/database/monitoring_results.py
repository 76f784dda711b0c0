"""The tables drift_hourly, drift_daily and live_performance, and the hours and days that have to be evaluated."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from churn_platform.database import model_versions

_DUE_HOURS: Final = """
    select d.hour_timestamp
    from dirty_hours d left join (
        select hour_timestamp, min(version) as version, min(updated_at) as updated_at
        from drift_hourly where hour_timestamp >= %(since)s group by hour_timestamp
    ) as w using (hour_timestamp)
    where d.hour_timestamp between %(since)s and now() and (w.version is null or d.version > w.version)
      and (w.version is not null or exists (
          select from churn_batch_hours h where h.hour_timestamp = d.hour_timestamp and h.total_predictions > 0
      ))
      and not exists (
          select from churn_batch_hours h join stream_batches b using (batch)
          where h.hour_timestamp = d.hour_timestamp and b.archived is not null
      )
      and coalesce(w.updated_at, (
          select min(b.opened) from churn_batch_hours h join stream_batches b using (batch)
          where h.hour_timestamp = d.hour_timestamp
      ), '-infinity') <= now() - make_interval(secs => %(every)s)
    order by d.hour_timestamp
"""
_DUE_DAYS: Final = """
    with hours as (
        select hour_timestamp, max(version) as version from drift_hourly
        where hour_timestamp >= %(since)s group by hour_timestamp
    ), days as (
        select (hour_timestamp at time zone 'utc')::date as date, sum(version) as version from hours group by 1
    ), evaluated as (
        select date, max(version) as version, min(updated_at) as updated_at from drift_daily
        where date >= (%(since)s at time zone 'utc')::date group by date
    )
    select d.date from days d left join evaluated e using (date)
    where e.version is null or (d.version <> e.version and e.updated_at <= now() - make_interval(secs => %(every)s))
    order by d.date
"""
_DRIFT_OF_CHAMPION: Final = sql.SQL("""
    select date, feature, psi from drift_daily
    where model_version = {champion}
      and verdict = %(verdict)s and date >= %(since)s and date = (
        select max(d.date) from drift_daily d where d.model_version = drift_daily.model_version
          and d.verdict <> %(no_verdict)s
      )
    order by psi desc
""").format(champion=sql.SQL(model_versions.CHAMPION))
_LOW_PERFORMANCE_OF_CHAMPION: Final = sql.SQL("""
    select date, roc_auc, expected_roc_auc from live_performance
    where model_version = {champion}
      and date >= %(since)s and expected_roc_auc - roc_auc >= %(loss)s
      and roc_auc + %(z)s * roc_auc_error < expected_roc_auc
    order by date desc limit 1
""").format(champion=sql.SQL(model_versions.CHAMPION))
# The latest outcome of an event or customer counts; without one, the label in the event.
_COUNT_LABELLED: Final = """
    with by_event as (
        select distinct on (event_id) event_id, churned from customer_outcomes
        where event_id is not null order by event_id, outcome_timestamp desc, received_at desc
    ), by_customer as (
        select distinct on (customer_id) customer_id, churned, outcome_timestamp from customer_outcomes
        where event_id is null and outcome_timestamp >= %(start)s
        order by customer_id, outcome_timestamp desc, received_at desc
    ), labelled as (
        select p.model_version, p.risk_score, p.prediction,
            coalesce(e.churned, c.churned, p.true_churn_label) as churned
        from churn_predictions p left join by_event e using (event_id)
        left join by_customer c on c.customer_id = p.customer_id and p.event_timestamp <= c.outcome_timestamp
        where p.event_timestamp >= %(start)s and p.event_timestamp < %(end)s and p.true_churn_label is not null
        union all
        select p.model_version, p.risk_score, p.prediction, e.churned
        from by_event e join churn_predictions p using (event_id)
        where p.event_timestamp >= %(start)s and p.event_timestamp < %(end)s and p.true_churn_label is null
        union all
        select p.model_version, p.risk_score, p.prediction, c.churned
        from by_customer c join churn_predictions p using (customer_id) left join by_event e using (event_id)
        where p.event_timestamp >= %(start)s and p.event_timestamp < %(end)s and p.true_churn_label is null
          and p.event_timestamp <= c.outcome_timestamp and e.event_id is null
    )
    select model_version, least(floor(risk_score::double precision * %(bins)s), %(bins)s - 1)::integer as bin, churned,
        count(*), sum(risk_score::double precision), sum(prediction)::bigint,
        sum((risk_score::double precision - churned) ^ 2)
    from labelled group by 1, 2, 3
"""


def due_hours(connection: psycopg.Connection, *, at_most_every: float, since: datetime) -> list[datetime]:
    """Return the hours that have begun and whose drift is unknown or out of date, in order, UTC.

    Args:
        at_most_every: seconds since the last evaluation, or since the first batch of an hour that has none.
        since: earlier hours are left out.
    """
    found = connection.execute(_DUE_HOURS, {"every": at_most_every, "since": since})
    return [hour.astimezone(UTC) for (hour,) in found]


def due_days(connection: psycopg.Connection, *, at_most_every: float, since: datetime) -> list[date]:
    """Return the days whose drift is unknown, or out of date and older than `at_most_every` seconds, in order, UTC."""
    return [day for (day,) in connection.execute(_DUE_DAYS, {"every": at_most_every, "since": since})]


def drift_of_hours(connection: psycopg.Connection, hours: Sequence[datetime]) -> list[dict[str, Any]]:
    """Return the rows of drift_hourly for these hours."""
    return _rows(connection, "select * from drift_hourly where hour_timestamp = any(%s)", (list(hours),))


def drift_of_days(connection: psycopg.Connection, days: Sequence[date]) -> list[dict[str, Any]]:
    """Return the rows of drift_daily for these days."""
    return _rows(connection, "select * from drift_daily where date = any(%s)", (list(days),))


def live_performance_of_days(connection: psycopg.Connection, days: Sequence[date]) -> list[dict[str, Any]]:
    """Return the rows of live_performance for these days."""
    return _rows(connection, "select * from live_performance where date = any(%s)", (list(days),))


def latest_drift_hour(connection: psycopg.Connection) -> datetime | None:
    """Return the latest hour (UTC) whose drift is known."""
    row = connection.execute("select max(hour_timestamp) from drift_hourly").fetchone()
    return None if row is None or row[0] is None else row[0].astimezone(UTC)


def latest_drift_day(connection: psycopg.Connection) -> date | None:
    """Return the latest day whose drift is known."""
    row = connection.execute("select max(date) from drift_daily").fetchone()
    return None if row is None else row[0]


def latest_live_day(connection: psycopg.Connection) -> date | None:
    """Return the latest day whose live performance is known."""
    row = connection.execute("select max(date) from live_performance").fetchone()
    return None if row is None else row[0]


def live_performance_updated(connection: psycopg.Connection, day: date) -> datetime | None:
    """Return when the live performance of this day was computed, or None if it was not."""
    row = connection.execute("select max(updated_at) from live_performance where date = %s", (day,)).fetchone()
    return None if row is None else row[0]


def drift_of_champion(
    connection: psycopg.Connection, *, since: date, verdict: str, no_verdict: str
) -> list[tuple[date, str, float]]:
    """Return day, feature and PSI of the champion's features with this verdict on the latest day with any verdict.

    Args:
        since: earlier days are left out.
        verdict: of the features that are returned, the largest PSI first.
        no_verdict: the verdict of a day with too few predictions.
    """
    return connection.execute(
        _DRIFT_OF_CHAMPION, {"since": since, "verdict": verdict, "no_verdict": no_verdict}
    ).fetchall()


def low_performance_of_champion(
    connection: psycopg.Connection, *, since: date, loss: float, z: float
) -> tuple[date, float, float] | None:
    """Return the latest day on which the champion's ROC AUC is too low: the day, its ROC AUC, and the expected one.

    Args:
        since: earlier days are left out.
        loss: how far below the expected ROC AUC it has to be.
        z: how many standard errors it has to be below the expected one.
    """
    return connection.execute(_LOW_PERFORMANCE_OF_CHAMPION, {"since": since, "loss": loss, "z": z}).fetchone()


def count_labelled(
    connection: psycopg.Connection, *, start: datetime, end: datetime, bins: int
) -> list[tuple[int, int, int, int, float, int, float]]:
    """Count the predictions of events in [start, end) whose outcome is known.

    Returns:
        Per model version, bin of the risk score and outcome: these three, the number of predictions, and the sums of
        risk scores, of predicted classes and of squared errors.
    """
    return connection.execute(_COUNT_LABELLED, {"start": start, "end": end, "bins": bins}).fetchall()


def delete_drift_of_hours(connection: psycopg.Connection, *, before: datetime) -> int:
    """Delete the drift of earlier hours; return how many rows there were. The drift of days stays."""
    return connection.execute("delete from drift_hourly where hour_timestamp < %s", (before,)).rowcount


def _rows(connection: psycopg.Connection, query: LiteralString, parameters: tuple[object, ...]) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, parameters).fetchall()
