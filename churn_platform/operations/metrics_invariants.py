"""The invariants of the metrics: each sum equals that of its parts, and high_risk_customers matches the predictions."""

from typing import Final, LiteralString

import psycopg
from psycopg import sql

from churn_platform.operations.extracts import Progress
from churn_platform.operations.invariant import EXAMPLES, Findings, Invariant
from churn_platform.stream.config import StreamConfig

# Sums of floating point numbers depend on their order in the last digits.
TOLERANCE: Final = 1e-6
# Each side of a full join may lack a row; then its counts differ from the other's.
_BATCH_HOURS: Final = """
    with recount as (
        select batch, date_trunc('hour', event_timestamp, 'UTC') as hour_timestamp, count(*) as total_predictions,
            sum(prediction)::bigint as churn_count, sum(risk_score::double precision) as risk_sum,
            count(*) filter (where risk_score::double precision >= %(threshold)s) as high_risk_count,
            count(age) as age_count, coalesce(sum(age::double precision), 0) as age_sum, sum(balance) as balance_sum,
            sum(tenure)::double precision as tenure_sum
        from churn_predictions group by 1, 2
    ), kept as (
        select h.* from churn_batch_hours h left join stream_batches b using (batch) where b.archived is null
    )
    select format('batch %%s, hour %%s', batch, hour_timestamp at time zone 'UTC'),
        (r.total_predictions, r.churn_count, r.high_risk_count, r.age_count)
            is distinct from (k.total_predictions, k.churn_count, k.high_risk_count, k.age_count)
        or abs(r.risk_sum - k.risk_sum) > %(tolerance)s * (1 + abs(r.risk_sum))
        or abs(r.age_sum - k.age_sum) > %(tolerance)s * (1 + abs(r.age_sum))
        or abs(r.balance_sum - k.balance_sum) > %(tolerance)s * (1 + abs(r.balance_sum))
        or abs(r.tenure_sum - k.tenure_sum) > %(tolerance)s * (1 + abs(r.tenure_sum)),
        false
    from recount r full join kept k using (batch, hour_timestamp)
"""
# Wrong: up to date with other sums than their parts, newer than every change, or of an hour without a change.
_HOURS: Final = """
    with sums as (
        select hour_timestamp, sum(total_predictions) as total_predictions, sum(churn_count) as churn_count,
            sum(high_risk_count) as high_risk_count, sum(age_count) as age_count, sum(risk_sum) as risk_sum,
            sum(age_sum) as age_sum, sum(balance_sum) as balance_sum, sum(tenure_sum) as tenure_sum
        from churn_batch_hours group by 1
    )
    select format('hour %%s', hour_timestamp at time zone 'UTC'),
        d.version is null or m.version > d.version or (m.version = d.version and (
            (m.total_predictions, m.churn_count, m.high_risk_count, m.age_count) is distinct from (
                coalesce(s.total_predictions, 0), coalesce(s.churn_count, 0), coalesce(s.high_risk_count, 0),
                coalesce(s.age_count, 0)
            )
            or abs(m.churn_rate * m.total_predictions - 100 * s.churn_count) > %(tolerance)s * (1 + s.churn_count)
            or abs(m.avg_risk_score * m.total_predictions - s.risk_sum) > %(tolerance)s * (1 + abs(s.risk_sum))
            or abs(m.avg_age * m.age_count - s.age_sum) > %(tolerance)s * (1 + abs(s.age_sum))
            or abs(m.avg_balance * m.total_predictions - s.balance_sum) > %(tolerance)s * (1 + abs(s.balance_sum))
            or abs(m.avg_tenure * m.total_predictions - s.tenure_sum) > %(tolerance)s * (1 + abs(s.tenure_sum))
        )),
        m.version is null or m.version < d.version
    from dirty_hours d full join churn_metrics_hourly m using (hour_timestamp) full join sums s using (hour_timestamp)
"""
_DAYS: Final = """
    with hours as (
        select (hour_timestamp at time zone 'UTC')::date as date, sum(version) as version,
            sum(total_predictions) as total_predictions, sum(churn_count) as churn_count,
            sum(high_risk_count) as high_risk_count, sum(age_count) as age_count,
            coalesce(sum(avg_risk_score * total_predictions), 0) as risk_sum,
            coalesce(sum(avg_age * age_count), 0) as age_sum,
            coalesce(sum(avg_balance * total_predictions), 0) as balance_sum,
            coalesce(sum(avg_tenure * total_predictions), 0) as tenure_sum
        from churn_metrics_hourly group by 1
    )
    select format('day %%s', date),
        h.version is null or d.version > h.version or (d.version = h.version and (
            (d.total_predictions, d.churn_count, d.high_risk_count, d.age_count)
                is distinct from (h.total_predictions, h.churn_count, h.high_risk_count, h.age_count)
            or abs(d.churn_rate * d.total_predictions - 100 * h.churn_count) > %(tolerance)s * (1 + h.churn_count)
            or abs(d.avg_risk_score * d.total_predictions - h.risk_sum) > %(tolerance)s * (1 + abs(h.risk_sum))
            or abs(d.avg_age * d.age_count - h.age_sum) > %(tolerance)s * (1 + abs(h.age_sum))
            or abs(d.avg_balance * d.total_predictions - h.balance_sum) > %(tolerance)s * (1 + abs(h.balance_sum))
            or abs(d.avg_tenure * d.total_predictions - h.tenure_sum) > %(tolerance)s * (1 + abs(h.tenure_sum))
        )),
        d.version is null or d.version < h.version
    from hours h full join churn_metrics_daily d using (date)
"""
# A row whose alert was sent is kept, even if the prediction was replaced or deleted.
_HIGH_RISK: Final = """
    select format('event %%s', event_id),
        case when p.event_id is null then not h.alert_sent and b.archived is null
            when h.event_id is null then true
            when p.risk_score::double precision < %(threshold)s then not h.alert_sent
            else h.risk_score <> p.risk_score end,
        false
    from (select event_id, risk_score from churn_predictions where risk_score::double precision >= %(threshold)s) as r
    full join high_risk_customers h using (event_id)
    left join churn_predictions p using (event_id)
    left join stream_batches b on b.batch = h.batch
"""
_COUNTED: Final = """
    select count(*), count(*) filter (where wrong), count(*) filter (where outdated and wrong is not true),
        (array_agg(place) filter (where wrong))[1:%(examples)s::integer]
    from ({}) as each (place, wrong, outdated)
"""


def hours(connection: psycopg.Connection, config: StreamConfig, progress: Progress) -> list[Invariant]:
    """Check the sums per batch and hour against the rows, hours against batches, and days against hours."""
    progress("Recounting hours", 0)
    invariants = []
    for name, query, says in (
        ("hours of batches", _BATCH_HOURS, "{count:,} sums per batch and hour are those of their predictions"),
        ("hours", _HOURS, "{current:,} hours are the sums of their batches; {outdated:,} more are out of date"),
        ("days", _DAYS, "{current:,} days are the sums of their hours; {outdated:,} more are out of date"),
    ):
        found, count, outdated = _count(connection, config, query)
        figures = {"count": count, "current": count - outdated - found.count, "outdated": outdated}
        invariants.append(found.invariant(name, says.format(**figures), count=count, outdated=outdated))
    return invariants


def high_risk(connection: psycopg.Connection, config: StreamConfig, progress: Progress) -> Invariant:
    """Check that high_risk_customers holds the predictions at or above the threshold, with their scores."""
    progress("Comparing high-risk predictions", 0)
    found, count, _ = _count(connection, config, _HIGH_RISK)
    return found.invariant(
        "high-risk predictions",
        f"{count:,} rows of high_risk_customers are the predictions from {config.high_risk_threshold:g}, or have their "
        f"alert",
        count=count,
    )


def _count(connection: psycopg.Connection, config: StreamConfig, query: LiteralString) -> tuple[Findings, int, int]:
    """Return the findings, the rows and the outdated rows of a query that gives (place, wrong, outdated)."""
    row = connection.execute(
        sql.SQL(_COUNTED).format(sql.SQL(query)),
        {"threshold": config.high_risk_threshold, "tolerance": TOLERANCE, "examples": EXAMPLES},
    ).fetchone()
    if row is None:
        raise RuntimeError("A select of counts returned no row; PostgreSQL always gives one.")
    count, wrong, outdated, places = row
    found = Findings()
    found.add(wrong, places or [])
    return found, count, outdated
