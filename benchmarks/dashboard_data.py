"""A database with as many predictions and customers as wanted, filled by SQL: what the stream would have left there.

Customers are generated and scored with a trained model, so segments differ as they do in real data. The worker's own
duties compute summaries and cases from the predictions. Monitoring results and the effect of calls are made up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import pandas as pd
import psycopg
from psycopg import sql

from benchmarks import work
from benchmarks.servers import vacuum
from churn_platform.database import metrics, retention_cases, stream_positions, worker_positions
from churn_platform.database.averages import averages
from churn_platform.features.columns import columns_of
from churn_platform.model_store import load_bundle
from churn_platform.schema.current import schema_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import settings
from churn_platform.simulation.producer import rows_of
from churn_platform.worker import cases, summaries
from churn_platform.worker.cases import CasesDuty
from churn_platform.worker.process import cases_config
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty

TOPIC: Final = "benchmark"
"""The predictions belong to a topic of their own, which exists only in the ledger: the stream goes on with its own."""
PARTITIONS: Final = 3
BATCH_ROWS: Final = 99_999  # a multiple of PARTITIONS
DAYS: Final = 60
"""The events are spread evenly over so many days, up to a minute ago."""
FIRST_CUSTOMER: Final = 15_000_000
# A large prime: the customers of consecutive events are far apart, and each has the same number of events.
STEP: Final = 15_485_863
# How far a customer's score differs from one event to the next, at most.
NOISE: Final = 0.1
LABELLED_SHARE: Final = 0.02
DEAD_LETTERS: Final = 2_000
MODEL_VERSION: Final = 1
# Offsets that the duty of the summaries follows in one run. More take longer than its usual 200,000, and less in all.
FOLLOWED: Final = 1_000_000

# PostgreSQL 18 makes ids that are ordered by time, as those of producers are.
_FILL: Final = sql.SQL("""
    with numbered as (
        select n, %(first)s::timestamptz + (n - %(start)s) * %(step)s::interval as moment,
            (n * %(prime)s) %% %(customers)s as customer
        from generate_series(%(start)s::bigint, %(end)s::bigint - 1) as g (n)
    ), scored as (
        select n.*, least(0.999, greatest(0.001, p.risk + %(noise)s * (2 * random() - 1)))::real as risk, {profile}
        from numbered n join benchmark_profiles p on p.place = n.customer %% %(profiles)s
    ), added as (
        insert into churn_predictions (
            event_id, customer_id, prediction, risk_score, predicted_at, event_timestamp, model_version, {columns},
            true_churn_label, batch, kafka_partition, kafka_offset
        )
        select uuidv7(moment - now()), (%(first_customer)s + customer)::{id_type}, (risk >= 0.5)::integer, risk,
            moment + interval '20 ms', moment, %(version)s, {columns},
            case when random() < %(labelled)s then (random() < risk)::integer end, %(batch)s, n %% %(partitions)s,
            n / %(partitions)s
        from scored order by n
        returning *
    ), risky as (
        insert into high_risk_customers (event_id, batch, customer_id, risk_score, {summary}detected_at, reasons)
        select event_id, batch, customer_id, risk_score, {summary}predicted_at, {reasons}
        from added where risk_score >= %(threshold)s
    )
    insert into churn_batch_hours (
        batch, hour_timestamp, total_predictions, churn_count, risk_sum, high_risk_count{sums}
    )
    select batch, date_trunc('hour', event_timestamp), count(*), sum(prediction), sum(risk_score),
        count(*) filter (where risk_score >= %(threshold)s){summed}
    from added group by 1, 2
""")
_BATCH: Final = """
    insert into stream_batches (
        batch, planned, opened, accepts_from, accepts_until, last_commit, closed, model_version, events, predictions,
        commits, reported, high_risk_threshold
    ) values (
        %(batch)s, %(first)s, %(first)s, '-infinity', 'infinity', %(last)s, %(last)s, %(version)s, %(rows)s, %(rows)s,
        1, true, %(threshold)s
    )
"""
_RANGES: Final = """
    insert into stream_ranges (batch, topic_id, kafka_partition, start_offset, end_offset, sealed_offset)
    select %(batch)s, %(topic)s, p, %(start)s / %(partitions)s, %(end)s / %(partitions)s, %(end)s / %(partitions)s
    from generate_series(0, %(partitions)s - 1) as g (p)
"""
_POSITIONS: Final = """
    update stream_positions set next_offset = %(offset)s, covered_to = %(offset)s, published_to = %(offset)s
    where topic_id = %(topic)s
"""
_DEAD_LETTERS: Final = """
    insert into dead_letter_events (
        topic_id, kafka_partition, kafka_offset, batch, topic, reason, payload, kafka_timestamp, received_at
    )
    select %(topic)s, 0, 1000000000 + n, (select max(batch) from stream_batches where closed is not null), %(topic)s,
        'The event is not JSON: unexpected end at byte ' || n %% 40, '\\x7b', moment, moment
    from generate_series(1, %(count)s) as g (n), lateral (select now() - n * interval '1 minute' as moment) as m
"""
# No hour is left for the platform's own monitoring, which would read samples of all of them while pages are measured.
_DRIFT: Final = """
    with hours as (
        insert into drift_hourly (
            hour_timestamp, model_version, feature, sampled, weight, counts, outside, psi, p_value, verdict,
            missing_rate, out_of_range_rate, version
        )
        select d.hour_timestamp, %(version)s, f.feature, 5000, 1, '{1000,2000,2000}', 0, f.psi, 0.5,
            case when f.psi >= 0.25 then 'far' when f.psi >= 0.1 then 'shifted' else 'stable' end, 0, 0, d.version
        from dirty_hours d, unnest(%(features)s::text[]) with ordinality as n (feature, place),
            lateral (select n.feature, 0.3 / n.place as psi) as f
        on conflict do nothing  -- the platform's monitoring has begun while a large database was filled
        returning *
    )
    insert into drift_daily (
        date, model_version, feature, sampled, weight, counts, outside, psi, p_value, verdict, missing_rate,
        out_of_range_rate, version
    )
    select (hour_timestamp at time zone 'utc')::date, model_version, feature, sum(sampled), 1, '{1000,2000,2000}', 0,
        avg(psi), 0.5, min(verdict), 0, 0, sum(version)
    from hours group by 1, 2, 3
    on conflict do nothing
"""
_LIVE: Final = """
    insert into live_performance (
        date, model_version, window_days, labelled, churned, roc_auc, roc_auc_error, expected_roc_auc, "precision",
        recall, brier, ece, mean_score, churn_rate
    )
    select day::date, %(version)s, 30, 20000, 4100, 0.85 - 0.02 * random(), 0.004, 0.86, 0.6, 0.6, 0.1, 0.02, 0.21,
        0.205
    from generate_series(now() - %(days)s * interval '1 day', now(), interval '1 day') as g (day)
    on conflict do nothing
"""
_EFFECT: Final = """
    insert into retention_effect (
        date, month, segment, value, outcome_days, contact_entered, contact_open, contact_unknown, contact_stayed,
        contact_left, contact_contacted, contact_churn_rate, control_entered, control_open, control_unknown,
        control_stayed, control_left, control_contacted, control_churn_rate, reduction, reduction_low, reduction_high,
        customers_saved, customers_saved_low, customers_saved_high, cases_needed, conclusion, warnings
    )
    select now()::date, month, segment, value, 60, 2000, 100, 50, 1400, 450, 1900, 0.243, 220, 10, 5, 140, 65, 0, 0.317,
        0.074, 0.01, 0.14, 137, 20, 260, 0, 'Calls help: fewer customers left.', '{}'
    from (
        select month, 'all' as segment, 'all' as value from unnest('{all,2026-09,2026-10}'::text[]) as m (month)
        union all
        select 'all', s.key, s.value from customer_segment_summary c, jsonb_each_text(c.segments) as s group by 2, 3
    ) as r
    on conflict do nothing
"""


@dataclass(frozen=True)
class Filled:
    """What a database was filled with.

    Attributes:
        predictions: rows of churn_predictions.
        customers: rows of customer_summary.
        cases: rows of retention_cases.
        gigabytes: size of the database.
    """

    predictions: int
    customers: int
    cases: int
    gigabytes: float


def fill(
    dsn: str,
    bundle: str,
    *,
    owner: str,
    predictions: int,
    customers: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Filled:
    """Fill an empty, migrated database.

    Args:
        dsn: connection string of the platform's login. Nothing else may work on the summaries or cases meanwhile.
        bundle: where the model is that scores the customers.
        owner: connection string of the owner of the tables, without whom they would have no statistics.
        predictions: events, spread over DAYS days. There are at most two fewer, as many in each Kafka partition.
        customers: of these events; each has the same number of them.
        progress: called with what was done.
    """
    schema = schema_of(settings())
    predictions -= predictions % PARTITIONS
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set statement_timeout = 0")
        connection.execute("set synchronous_commit = off")
        profiles = _add_profiles(connection, schema, bundle)
        stream_positions.add_positions(
            connection, topic=TOPIC, topic_id=TOPIC, starts=dict.fromkeys(range(PARTITIONS), 0)
        )
        _add_predictions(connection, schema, profiles=profiles, predictions=predictions, customers=customers)
        vacuum(owner)
        progress(f"{predictions:,} predictions")
        _add_metrics(connection, schema)
        _follow(connection, schema)
        vacuum(owner)
        progress("summaries and cases")
        connection.execute(_DEAD_LETTERS, {"topic": TOPIC, "count": DEAD_LETTERS})
        features = [*schema.feature_columns, "risk_score"]
        connection.execute(_DRIFT, {"version": MODEL_VERSION, "features": features})
        connection.execute(_LIVE, {"version": MODEL_VERSION, "days": DAYS})
        connection.execute(_EFFECT)
        vacuum(owner)
        row = connection.execute(
            "select (select count(*) from churn_predictions), (select count(*) from customer_summary), "
            "(select count(*) from retention_cases), pg_database_size(current_database()) / 1e9"
        ).fetchone()
    if row is None:
        raise RuntimeError("A select without conditions returned no row; PostgreSQL always returns one.")
    return Filled(int(row[0]), int(row[1]), int(row[2]), round(float(row[3]), 2))


def _add_profiles(connection: psycopg.Connection, schema: CustomerSchema, bundle: str) -> int:
    """Create a temporary table of generated customers and their scores; return how many there are."""
    frame = work.cleaned_customers(schema)
    risks = load_bundle(bundle).score(columns_of(frame, schema.feature_columns))
    rows = rows_of(frame, schema)
    columns = [sql.Identifier(column.column) for column in schema.stored]
    names = sql.SQL(", ").join(columns)
    connection.execute(
        sql.SQL(
            "create temp table benchmark_profiles as "
            "select 0 as place, 0::real as risk, {} from churn_predictions limit 0"
        ).format(names)
    )
    with connection.cursor().copy(
        sql.SQL("copy benchmark_profiles (place, risk, {}) from stdin").format(names)
    ) as copy:
        for place, (row, risk) in enumerate(zip(rows, risks, strict=True)):
            copy.write_row([place, float(risk), *(row[column.name] for column in schema.stored)])
    connection.execute("create index on benchmark_profiles (place)")
    connection.execute("analyze benchmark_profiles")
    return len(rows)


def _add_predictions(
    connection: psycopg.Connection, schema: CustomerSchema, *, profiles: int, predictions: int, customers: int
) -> None:
    statement = _fill(schema)
    last = datetime.now(UTC) - timedelta(minutes=1)
    step = timedelta(days=DAYS) / predictions
    for start in range(0, predictions, BATCH_ROWS):
        end = min(start + BATCH_ROWS, predictions)
        first = last - (predictions - start) * step
        values = {
            "batch": f"{first:%Y-%m-%dT%H-%M-%S}-{start:09}",
            "first": first,
            "last": last - (predictions - end) * step,
            "start": start,
            "end": end,
            "rows": end - start,
            "step": step,
            "prime": STEP,
            "customers": customers,
            "profiles": profiles,
            "noise": NOISE,
            "first_customer": FIRST_CUSTOMER,
            "version": MODEL_VERSION,
            "labelled": LABELLED_SHARE,
            "threshold": settings().retention.high_risk_threshold,
            "topic": TOPIC,
            "partitions": PARTITIONS,
        }
        with connection.transaction():
            connection.execute(_BATCH, values)
            connection.execute(_RANGES, values)
            connection.execute(statement, values, prepare=False)
    connection.execute(_POSITIONS, {"topic": TOPIC, "offset": predictions // PARTITIONS})


def _fill(schema: CustomerSchema) -> sql.Composed:
    def listed(parts: list[sql.Composable], *, ends: bool = False, begins: bool = False) -> sql.Composed:
        comma = sql.SQL(", ")
        text = comma.join(parts)
        return text + comma if ends and parts else comma + text if begins and parts else text

    stored: list[sql.Composable] = [sql.Identifier(column.column) for column in schema.stored]
    sums: list[sql.Composable] = []
    summed: list[sql.Composable] = []
    for each in averages(schema):
        name = sql.Identifier(each.column)
        if each.may_be_missing:
            sums.append(sql.Identifier(each.count))
            summed.append(sql.SQL("count({})").format(name))
        sums.append(sql.Identifier(each.sum))
        summed.append(sql.SQL("coalesce(sum({}::double precision), 0)").format(name))
    reasons = [
        sql.SQL("jsonb_build_object('feature', {}::text, 'value', {}, 'contribution', {}::real)").format(
            sql.Literal(column.name), sql.Identifier(column.column), sql.Literal(1.5 - 0.7 * place)
        )
        for place, column in enumerate([each for each in schema.stored if each.transforms][:3])
    ]
    return _FILL.format(
        profile=listed([sql.SQL("p.{}").format(column) for column in stored]),
        columns=listed(stored),
        id_type=sql.SQL(schema.id_type),
        summary=listed([sql.Identifier(column.column) for column in schema.summary], ends=True),
        reasons=sql.SQL("jsonb_build_array({})").format(sql.SQL(", ").join(reasons)),
        sums=listed(sums, begins=True),
        summed=listed(summed, begins=True),
    )


def _add_metrics(connection: psycopg.Connection, schema: CustomerSchema) -> None:
    """Compute the hourly and daily metrics, so that Dagster finds nothing to do."""
    connection.execute(
        "insert into dirty_hours (hour_timestamp, version) select distinct hour_timestamp, 1 from churn_batch_hours"
    )
    hours = metrics.hourly_figures(connection, schema, datetime.min.replace(tzinfo=UTC), datetime.now(UTC))
    days = metrics.daily_figures(hours, schema)
    for table, frame in (("churn_metrics_hourly", hours), ("churn_metrics_daily", days)):
        names = sql.SQL(", ").join(map(sql.Identifier, frame.columns))
        with connection.cursor().copy(sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(table), names)) as copy:
            for row in frame.itertuples(index=False):
                copy.write_row([None if pd.isna(value) else value for value in row])


def _follow(connection: psycopg.Connection, schema: CustomerSchema) -> None:
    """Let the worker's duties compute summaries and cases, as at their first start."""
    share = settings().retention.control_share
    duty = SummariesDuty(SummariesConfig(schema=schema, control_share=share, most_offsets=FOLLOWED))
    while duty.run(connection):
        pass
    cases_duty = CasesDuty(cases_config(settings()))
    while cases_duty.run(connection) or retention_cases.unexplained(connection, limit=1):
        pass
    for name in (summaries.NAME, cases.NAME):
        if worker_positions.behind(connection, name):
            raise RuntimeError(f"The duty {name} has not followed all predictions.")
