"""Totals and excerpts across tables, for reports to people. Reads only."""

from collections.abc import Sequence
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from churn_platform.database.prediction_columns import PredictionTable, column_list

Row = dict[str, object]

_TOTALS: Final = """
    select
        coalesce(sum(events), 0)::bigint as events,
        coalesce(sum(predictions), 0)::bigint as predictions,
        coalesce(sum(dead_letters), 0)::bigint as dead_letters,
        coalesce(sum(duplicates), 0)::bigint as duplicates,
        coalesce(sum(erased), 0)::bigint as erased,
        count(*) filter (where opened is not null) as batches,
        (select count(*) from high_risk_customers) as high_risk
    from stream_batches
"""
_LATEST_HOURS: Final = """
    select hour_timestamp, total_predictions, churn_rate, avg_risk_score, high_risk_count
    from churn_metrics_hourly order by hour_timestamp desc limit %s
"""
_RISKIEST: Final = sql.SQL("select {} from v_top_risk_customers limit %s")
_LATEST_DRIFT: Final = """
    select date, verdict, count(*) as features, max(psi) as greatest_psi from drift_daily
    where date = (select max(date) from drift_daily) group by date, verdict order by greatest_psi desc limit %s
"""
_LATEST_PERFORMANCE: Final = """
    select model_version, labelled, churn_rate, roc_auc, expected_roc_auc, ece from live_performance
    where date = (select max(date) from live_performance) order by labelled desc limit %s
"""
# A row becomes visible when its transaction commits. Servers that do not record that time have the time of the score.
_LATENCY_BY_COMMIT: Final = """
    select percentile_cont(%s) within group (
        order by extract(epoch from pg_xact_commit_timestamp(xmin) - event_timestamp)
    )
    from churn_predictions where event_timestamp >= to_timestamp(%s)
"""
_LATENCY_BY_SCORE: Final = """
    select percentile_cont(%s) within group (order by extract(epoch from predicted_at - event_timestamp))
    from churn_predictions where event_timestamp >= to_timestamp(%s)
"""


def totals(connection: psycopg.Connection) -> dict[str, int]:
    """Return the counts of all batches, the number of batches, and the number of high-risk predictions."""
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(_TOTALS).fetchone()
    if found is None:
        raise RuntimeError("A select of sums returned no row; PostgreSQL always returns one.")
    return found


def count_hours(connection: psycopg.Connection) -> int:
    """Return the number of rows in churn_metrics_hourly."""
    return _number(connection, "select count(*) from churn_metrics_hourly")


def count_days(connection: psycopg.Connection) -> int:
    """Return the number of rows in churn_metrics_daily."""
    return _number(connection, "select count(*) from churn_metrics_daily")


def hours_have_all_predictions(connection: psycopg.Connection) -> bool:
    """Return whether the hourly metrics count exactly the predictions in the table."""
    return (
        _number(
            connection,
            "select (select coalesce(sum(total_predictions), 0) from churn_metrics_hourly) "
            "- (select count(*) from churn_predictions)",
        )
        == 0
    )


def latest_hours(connection: psycopg.Connection, *, limit: int) -> list[Row]:
    """Return the metrics of the latest hours."""
    return _rows(connection, _LATEST_HOURS, limit)


def riskiest_customers(connection: psycopg.Connection, table: PredictionTable, *, limit: int) -> list[Row]:
    """Return the customers with the highest risk."""
    columns = [column for column in table.columns if column.name in ("customer_id", "risk_score") or column.summary]
    return _rows(connection, _RISKIEST.format(column_list(columns)), limit)


def count_open_cases(connection: psycopg.Connection) -> int:
    """Return the number of cases that are not closed. Those of the control arm are not for the retention team."""
    return _number(connection, "select count(*) from retention_cases where arm = 'contact' and closed_at is null")


def latest_drift(connection: psycopg.Connection, *, limit: int) -> list[Row]:
    """Return the number of features by verdict on the latest day."""
    return _rows(connection, _LATEST_DRIFT, limit)


def latest_performance(connection: psycopg.Connection, *, limit: int) -> list[Row]:
    """Return the live performance of each model version on the latest day."""
    return _rows(connection, _LATEST_PERFORMANCE, limit)


def latency_percentiles(
    connection: psycopg.Connection, *, since: float, percentiles: Sequence[float]
) -> list[float] | None:
    """Return percentiles of the seconds from an event to its visible prediction; None if there are no predictions.

    Args:
        since: time of the earliest event, in seconds since 1970.
        percentiles: 0 to 1.
    """
    setting = connection.execute("show track_commit_timestamp").fetchone()
    query = _LATENCY_BY_COMMIT if setting is not None and setting[0] == "on" else _LATENCY_BY_SCORE
    row = connection.execute(query, (list(percentiles), since)).fetchone()
    return None if row is None or row[0] is None else [float(seconds) for seconds in row[0]]


def _number(connection: psycopg.Connection, query: LiteralString) -> int:
    row = connection.execute(query).fetchone()
    return 0 if row is None else int(row[0])


def _rows(connection: psycopg.Connection, query: LiteralString | sql.Composed, limit: int) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, (limit,)).fetchall()
