"""What the demonstration reads from the database: counts of the ledger, latencies and rows to show."""

from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg.rows import dict_row

from churn_platform.simulation.exceptions import DemoError

ROWS_SHOWN: Final = 10

# A row becomes visible when its transaction commits. Servers that do not keep that time give the time of scoring.
_LATENCY_BY_COMMIT: Final = """
    select percentile_cont(array[0.5, 0.99]) within group (
        order by extract(epoch from pg_xact_commit_timestamp(xmin) - event_timestamp)
    )
    from churn_predictions where event_timestamp >= to_timestamp(%s)
"""
_LATENCY_BY_SCORE: Final = """
    select percentile_cont(array[0.5, 0.99]) within group (order by extract(epoch from predicted_at - event_timestamp))
    from churn_predictions where event_timestamp >= to_timestamp(%s)
"""
_TOTALS: Final = """
    select
        coalesce(sum(events), 0)::bigint as events,
        coalesce(sum(predictions), 0)::bigint as predictions,
        coalesce(sum(dead_letters), 0)::bigint as dead_letters,
        coalesce(sum(duplicates), 0)::bigint as duplicates,
        count(*) filter (where opened is not null) as batches,
        (select count(*) from high_risk_customers) as high_risk
    from stream_batches
"""
_OUTCOMES: Final = "select (select count(*) from customer_outcomes) + (select count(*) from refused_outcomes)"
_UNFINISHED_BATCHES: Final = """
    select count(*) from stream_batches where opened is not null and (closed is null or not reported)
"""
_HOURS_WITHOUT_PREDICTIONS: Final = """
    select (select coalesce(sum(total_predictions), 0) from churn_metrics_hourly)
        - (select count(*) from churn_predictions)
"""
_LATEST_HOURS: Final = """
    select hour_timestamp, total_predictions, churn_rate, avg_risk_score, high_risk_count
    from churn_metrics_hourly order by hour_timestamp desc limit %s
"""
_TOP_RISK: Final = """
    select customer_id, risk_score, geography, gender, age, balance from v_top_risk_customers limit %s
"""
# The number of features by verdict, of the latest day.
_DRIFT: Final = """
    select date, verdict, count(*) as features, max(psi) as greatest_psi from drift_daily
    where date = (select max(date) from drift_daily) group by date, verdict order by greatest_psi desc limit %s
"""
_LIVE_PERFORMANCE: Final = """
    select model_version, labelled, churn_rate, roc_auc, expected_roc_auc, ece from live_performance
    where date = (select max(date) from live_performance) order by labelled desc limit %s
"""

Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Totals:
    """Counts of the ledger: events by what they became, batches and high-risk rows."""

    events: int
    predictions: int
    dead_letters: int
    duplicates: int
    batches: int
    high_risk: int

    def since(self, before: "Totals") -> "Totals":
        """Return the difference to earlier counts."""
        return Totals(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))


def totals(connection: psycopg.Connection) -> Totals:
    """Return the ledger's counts over all batches."""
    row = connection.execute(_TOTALS).fetchone()
    if row is None:
        raise RuntimeError("A select of sums returned no row; PostgreSQL always gives one.")
    return Totals(*row)


def unfinished_batches(connection: psycopg.Connection) -> int:
    """Return how many batches were opened and are not yet closed and reported to Dagster."""
    return _count(connection, _UNFINISHED_BATCHES)


def outcomes_read(connection: psycopg.Connection) -> int:
    """Return how many outcomes were read, rejected ones included."""
    return _count(connection, _OUTCOMES)


def hours(connection: psycopg.Connection) -> int:
    """Return how many hours have metrics."""
    return _count(connection, "select count(*) from churn_metrics_hourly")


def days(connection: psycopg.Connection) -> int:
    """Return how many days have metrics."""
    return _count(connection, "select count(*) from churn_metrics_daily")


def hours_match_predictions(connection: psycopg.Connection) -> bool:
    """Return whether the hours count exactly the predictions in the table."""
    return _count(connection, _HOURS_WITHOUT_PREDICTIONS) == 0


def latest_hours(connection: psycopg.Connection) -> Rows:
    """Return the metrics of the latest hours."""
    return _rows(connection, _LATEST_HOURS)


def top_risk(connection: psycopg.Connection) -> Rows:
    """Return the customers with the highest risk scores."""
    return _rows(connection, _TOP_RISK)


def drift(connection: psycopg.Connection) -> Rows:
    """Return the drift of the latest day, by verdict."""
    return _rows(connection, _DRIFT)


def live_performance(connection: psycopg.Connection) -> Rows:
    """Return the latest live performance of each model version."""
    return _rows(connection, _LIVE_PERFORMANCE)


def latency_ms(connection: psycopg.Connection, *, since: float) -> tuple[float, float]:
    """Return the percentiles 50 and 99 of the time from an event to its visible row, in milliseconds.

    Args:
        connection: to the platform's database.
        since: only events with a time from then on count, in seconds since 1970. Late events are older and do not.

    Raises:
        DemoError: no event was predicted.
    """
    setting = connection.execute("show track_commit_timestamp").fetchone()
    query = _LATENCY_BY_COMMIT if setting is not None and setting[0] == "on" else _LATENCY_BY_SCORE
    row = connection.execute(query, (since,)).fetchone()
    if row is None or row[0] is None:
        raise DemoError("No event was predicted.", remedy="The page of the streaming run in Dagster shows why.")
    p50, p99 = row[0]
    return float(p50) * 1000, float(p99) * 1000


def _count(connection: psycopg.Connection, query: LiteralString) -> int:
    row = connection.execute(query).fetchone()
    return 0 if row is None else int(row[0])


def _rows(connection: psycopg.Connection, query: LiteralString) -> Rows:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, (ROWS_SHOWN,)).fetchall()
