"""The demonstration's steps: the batch side through Dagster, events through Kafka, and what came of them."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, LiteralString

import psycopg
from confluent_kafka.admin import AdminClient
from psycopg.rows import dict_row

from churn_platform.database import metrics, model_versions
from churn_platform.database.connections import connect
from churn_platform.environments import created_topics
from churn_platform.kafka import topics
from churn_platform.kafka.reading import read_all
from churn_platform.monitoring import lookups, pruning
from churn_platform.operations import outcome_sender
from churn_platform.positions.backlog import load_backlog
from churn_platform.schema.reader import read_customers
from churn_platform.settings import Settings
from churn_platform.simulation import producer
from churn_platform.simulation.exceptions import DemoError
from churn_platform.stream.config import StreamConfig

if TYPE_CHECKING:
    from dagster_graphql import DagsterGraphQLClient

BATCH_SIDE: Final = ("data_preparation_job", "training_job")
FINISHED: Final = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
LOOK_SECONDS: Final = 0.25
RUN_SECONDS: Final = 300
# From the first event while no run is live to its row: a tick of the sensor, a process, and a slow machine.
WAKE_SECONDS: Final = 120
SETTLE_SECONDS: Final = 180
SHOWN: Final = 10
# As in partitions.py and sensors.py, which import Dagster.
HOUR_KEY: Final = "%Y-%m-%d-%H:%M"
FIRST_TAG: Final = "dagster/asset_partition_range_start"
LAST_TAG: Final = "dagster/asset_partition_range_end"

# The moment a row became visible is the commit of its transaction, where the server keeps it; else when it was scored.
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
# Of the latest day: how many features, by verdict.
_DRIFT: Final = """
    select date, verdict, count(*) as features, max(psi) as greatest_psi from drift_daily
    where date = (select max(date) from drift_daily) group by date, verdict order by greatest_psi desc limit %s
"""
_LIVE: Final = """
    select model_version, labelled, churn_rate, roc_auc, expected_roc_auc, ece from live_performance
    where date = (select max(date) from live_performance) order by labelled desc limit %s
"""
_UNFINISHED: Final = """
    select count(*) from stream_batches where opened is not null and (closed is null or not reported)
"""

Step = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to produce: events a second, for how many seconds, with which faults among them."""

    rate: float
    seconds: float
    mix: producer.Mix


@dataclass(frozen=True)
class Totals:
    """Counts of the ledger, in events, batches and high-risk rows."""

    events: int
    predictions: int
    dead_letters: int
    duplicates: int
    batches: int
    high_risk: int

    def since(self, before: "Totals") -> "Totals":
        """What came on top of `before`."""
        return Totals(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything the demonstration saw. Latencies are in milliseconds, from an event's time to its visible row."""

    raw_rows: int
    cleaned_rows: int
    model_version: int
    model_metrics: Mapping[str, float]
    events_produced: int
    mixed_in: Mapping[str, int]
    stream: Totals
    published: int
    hours: int
    days: int
    latency_p50_ms: float
    latency_p99_ms: float
    first_event_seconds: float
    hourly: list[dict[str, object]]
    riskiest: list[dict[str, object]]
    outcomes_sent: int
    outcomes_read: int
    drift: list[dict[str, object]]
    live: list[dict[str, object]]

    @property
    def sums(self) -> dict[str, bool]:
        """The sums that have to hold, by what they say."""
        stream = self.stream
        return {
            "events read = events produced": stream.events == self.events_produced,
            "events = predictions + dead letters + duplicates": stream.events
            == stream.predictions + stream.dead_letters + stream.duplicates,
            "published = predictions": self.published == stream.predictions,
            "predictions of the hours = predictions in the table": self.hourly_predictions_match,
            "outcomes read = outcomes sent": self.outcomes_read == self.outcomes_sent,
        }

    hourly_predictions_match: bool


def run(
    settings: Settings,
    plan: Plan,
    *,
    dagster_url: str,
    require_ours: Callable[[], None],
    step: Step,
    progress: Callable[[int], None],
) -> Outcome:
    """Walk the whole way once.

    Args:
        settings: of the stack that is up.
        dagster_url: address of the Dagster webserver.
        require_ours: raises when another process answers there; called before anything is sent.
        step: shows a step by its title while it lasts.
        progress: called with the number of events sent so far.

    Raises:
        DemoError: a run failed, or something did not come in time.
    """
    config = StreamConfig.from_settings(settings)
    for job, title in zip(BATCH_SIDE, ("Preparing the data", "Training a model"), strict=True):
        with step(f"{title}: {job}"):
            require_ours()
            _finish(dagster_url, *_submit(dagster_url, job))
    require_ours()
    admin = AdminClient(config.kafka.client)
    created_topics.create_missing(admin, config)
    rows = producer.rows_of(read_customers(settings.platform.raw_csv))
    with connect(config.dsn, autocommit=True, application_name="churn demo") as connection:
        with step("Waiting until the stream is at rest"):
            _wait(lambda: _at_rest(connection, admin, config), SETTLE_SECONDS, "the stream to come to rest")
        before = totals(connection)
        published_to = topics.list_offsets(admin, topics.describe(admin, config.predictions_topic), topics.LATEST)
        with step("A first event wakes the stream"):
            began = time.monotonic()
            first = producer.produce(config, rows, count=1, rate=None, duration=None)
            _wait(lambda: totals(connection).events > before.events, WAKE_SECONDS, "the first event to be read")
            first_event_seconds = time.monotonic() - began
        with step(f"Producing {plan.rate:,.0f} events a second for {plan.seconds:,.0f} s"):
            since = time.time()
            sent = producer.produce(
                config, rows, count=None, rate=plan.rate, duration=plan.seconds, mix=plan.mix, progress=progress
            )
        with step("Sending outcomes, and monitoring: outcomes_job, hourly_monitoring_job, daily_monitoring_job"):
            _wait(
                lambda: load_backlog(connection, admin, config).waiting == 0,
                SETTLE_SECONDS,
                "the events to be read",
            )
            outcomes_before = _count(connection, _OUTCOMES)
            outcomes_sent = outcome_sender.send(
                config,
                list(outcome_sender.simulate(connection, days=settings.monitoring.live_window_days)),
                settings.topics.outcomes,
            )
            require_ours()
            _monitor(connection, dagster_url, config, archive_days=settings.lifecycle.archive_days)
            outcomes_read = _count(connection, _OUTCOMES) - outcomes_before
        with step("Waiting until batches, hours and days are there"):
            _wait(lambda: _at_rest(connection, admin, config), SETTLE_SECONDS, "the batches to be closed")
            _wait(lambda: _figures_are_there(connection), SETTLE_SECONDS, "the hourly and daily figures")
        champion = model_versions.champion(connection)
        if champion is None:
            raise DemoError(
                "The training run succeeded, but no model was promoted.", remedy="See champion_model in Dagster."
            )
        p50, p99 = _latencies(connection, since)
        return Outcome(
            raw_rows=_row_count("raw_customers"),
            cleaned_rows=_row_count("cleaned_customers"),
            model_version=champion.version,
            model_metrics=champion.metrics,
            events_produced=first.sent + sent.sent,
            mixed_in=sent.kinds,
            stream=totals(connection).since(before),
            published=sum(1 for _ in read_all(config.kafka, config.predictions_topic, published_to)),
            hours=_count(connection, "select count(*) from churn_metrics_hourly"),
            days=_count(connection, "select count(*) from churn_metrics_daily"),
            latency_p50_ms=p50,
            latency_p99_ms=p99,
            first_event_seconds=first_event_seconds,
            hourly=_rows(
                connection,
                "select hour_timestamp, total_predictions, churn_rate, avg_risk_score, high_risk_count "
                "from churn_metrics_hourly order by hour_timestamp desc limit %s",
            ),
            riskiest=_rows(
                connection,
                "select customer_id, risk_score, geography, gender, age, balance from v_top_risk_customers limit %s",
            ),
            outcomes_sent=outcomes_sent,
            outcomes_read=outcomes_read,
            drift=_rows(connection, _DRIFT),
            live=_rows(connection, _LIVE),
            hourly_predictions_match=_count(
                connection,
                "select (select coalesce(sum(total_predictions), 0) from churn_metrics_hourly) "
                "- (select count(*) from churn_predictions)",
            )
            == 0,
        )


def _monitor(connection: psycopg.Connection, dagster_url: str, config: StreamConfig, *, archive_days: int) -> None:
    """Read the outcomes, compute drift of each hour and day, and live performance, as the sensor would do later.

    Raises:
        DemoError: a run failed or did not end.
    """
    now = datetime.now(UTC)
    since = pruning.complete_since(now, archive_days=archive_days, batch_seconds=config.batch_seconds)
    hours = lookups.hours_to_judge(connection, at_most_every=0, since=since)
    runs = [_submit(dagster_url, "outcomes_job")]
    if hours:
        first, last = (hour.strftime(HOUR_KEY) for hour in (hours[0], hours[-1]))
        runs.append(_submit(dagster_url, "hourly_monitoring_job", first, last))
    for run in runs:
        _finish(dagster_url, *run)
    days = sorted({*lookups.days_to_judge(connection, at_most_every=0, since=since), now.date()})
    _finish(dagster_url, *_submit(dagster_url, "daily_monitoring_job", days[0].isoformat(), days[-1].isoformat()))


def totals(connection: psycopg.Connection) -> Totals:
    """The ledger's counts over all batches."""
    row = connection.execute(_TOTALS).fetchone()
    if row is None:
        raise RuntimeError("A select of sums returned no row; PostgreSQL always gives one.")
    return Totals(*row)


def _at_rest(connection: psycopg.Connection, admin: AdminClient, config: StreamConfig) -> bool:
    """Whether nothing waits, and every batch that was opened is closed and known to Dagster."""
    return load_backlog(connection, admin, config).waiting == 0 and _count(connection, _UNFINISHED) == 0


def _figures_are_there(connection: psycopg.Connection) -> bool:
    return not metrics.dirty_hours(connection, at_most_every=0) and not metrics.dirty_days(connection, at_most_every=0)


def _latencies(connection: psycopg.Connection, since: float) -> tuple[float, float]:
    """Percentiles 50 and 99 of the events from `since` (seconds since 1970) on; late ones are older, not among them."""
    setting = connection.execute("show track_commit_timestamp").fetchone()
    query = _LATENCY_BY_COMMIT if setting is not None and setting[0] == "on" else _LATENCY_BY_SCORE
    row = connection.execute(query, (since,)).fetchone()
    if row is None or row[0] is None:
        raise DemoError("No event was predicted.", remedy="The streaming run's page in Dagster says why.")
    p50, p99 = row[0]
    return float(p50) * 1000, float(p99) * 1000


def _count(connection: psycopg.Connection, query: LiteralString) -> int:
    row = connection.execute(query).fetchone()
    return 0 if row is None else int(row[0])


def _rows(connection: psycopg.Connection, query: LiteralString) -> list[dict[str, object]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, (SHOWN,)).fetchall()


def _client(dagster_url: str) -> "DagsterGraphQLClient":
    from dagster_graphql import DagsterGraphQLClient

    host, _, port = dagster_url.removeprefix("http://").partition(":")
    return DagsterGraphQLClient(host, port_number=int(port))


def _submit(dagster_url: str, job: str, first: str | None = None, last: str | None = None) -> tuple[str, str]:
    """Launch a job of the code location, over partitions from the first to the last key: the job, and its run."""
    tags = None if first is None else {FIRST_TAG: first, LAST_TAG: last}
    return job, _client(dagster_url).submit_job_execution(job, tags=tags)


def _finish(dagster_url: str, job: str, run_id: str) -> None:
    """Wait for the end of a run.

    Raises:
        DemoError: the run failed or did not end.
    """
    client = _client(dagster_url)
    _wait(lambda: client.get_run_status(run_id).value in FINISHED, RUN_SECONDS, f"{job} to end")
    status = client.get_run_status(run_id).value
    if status != "SUCCESS":
        raise DemoError(f"{job} ended with {status}.", remedy=f"{dagster_url}/runs/{run_id} says why.")


def _row_count(asset: str) -> int:
    """Rows of an asset's latest materialization, as Dagster recorded them."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    if event is None or event.asset_materialization is None:
        raise DemoError(f"Dagster has no materialization of {asset}.")
    return int(str(event.asset_materialization.metadata["dagster/row_count"].value))


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(
                f"Waited {seconds:.0f} s for {what}, in vain.",
                remedy="'churn status' shows the servers, 'churn logs daemon' the sensors, and the runs page in "
                "Dagster what failed.",
            )
        time.sleep(LOOK_SECONDS)
