"""The steps of the demonstration: data preparation and training in Dagster, events through Kafka, then monitoring."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from churn_platform.database import (
    metrics,
    model_versions,
    monitoring_results,
    stored_outcomes,
    stream_batches,
    summary,
    summary_state,
)
from churn_platform.database.connections import connect
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.environments import created_topics
from churn_platform.kafka import clients, sending, topics
from churn_platform.kafka.reading import read_all
from churn_platform.monitoring import pruning
from churn_platform.operations import outcome_sender
from churn_platform.positions.backlog import load_backlog
from churn_platform.schema.current import customers_of
from churn_platform.schema.reader import load_customers
from churn_platform.settings import Settings
from churn_platform.simulation import figures, history, producer
from churn_platform.simulation.exceptions import DemoError
from churn_platform.simulation.figures import Totals
from churn_platform.simulation.jobs import JobRunner
from churn_platform.stream.config import StreamConfig

FINISHED: Final = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
POLL_SECONDS: Final = 0.25

Step = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The events to produce: how many a second, for how many seconds, with which faults among them.

    Attributes:
        rate: events a second.
        seconds: how long.
        mix: shares of faults.
        history: events of the two weeks before, which are sent at once if the stream has no events yet.
    """

    rate: float
    seconds: float
    mix: producer.Mix
    history: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long to wait for each result, in seconds."""

    run: float = 300
    first_event: float = 120  # without a live run, this includes a sensor tick and a new process, on a slow machine
    settle: float = 180
    metrics: float = 600  # METRICS_SECONDS may be larger than in the demonstration's own settings


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of the demonstration. Latencies are from an event's time to its visible row."""

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
    hourly: list[summary.Row]
    riskiest: list[summary.Row]
    open_cases: int
    outcomes_sent: int
    outcomes_read: int
    drift: list[summary.Row]
    live: list[summary.Row]
    hourly_predictions_match: bool

    @property
    def sums(self) -> dict[str, bool]:
        """Whether each sum holds, by a sentence that states it."""
        stream = self.stream
        return {
            "events read = events produced": stream.events == self.events_produced,
            "events = predictions + dead letters + duplicates + erased": stream.events
            == stream.predictions + stream.dead_letters + stream.duplicates + stream.erased,
            "published = predictions": self.published == stream.predictions,
            "predictions of the hours = predictions in the table": self.hourly_predictions_match,
            "outcomes read = outcomes sent": self.outcomes_read == self.outcomes_sent,
        }


@dataclass(frozen=True, kw_only=True)
class _Before:
    """Counts and published offsets before the demonstration sent anything."""

    totals: Totals
    published_to: Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """What the demonstration sent. `since`: when the main events began, in seconds since 1970."""

    events: int
    mixed_in: Mapping[str, int]
    first_event_seconds: float
    since: float


class Demo:
    """One run of the demonstration on a stack that is up."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        jobs: JobRunner,
        *,
        require_own_servers: Callable[[], None],
        step: Step,
        progress: Callable[[int], None],
        limits: Limits = Limits(),
    ) -> None:
        """Prepare the demonstration; nothing is sent.

        Args:
            settings: of the stack.
            plan: the events to produce.
            jobs: launches Dagster's jobs.
            require_own_servers: raises if another process answers at an address of the stack; called before each send.
            step: shows a step by its title while it lasts.
            progress: called with the number of events sent so far.
            limits: how long to wait.
        """
        self._settings = settings
        self._plan = plan
        self._jobs = jobs
        self._require_own_servers = require_own_servers
        self._step = step
        self._progress = progress
        self._limits = limits
        self._config = StreamConfig.from_settings(settings)
        self._admin = clients.admin(self._config.kafka.client)

    def run(self) -> Outcome:
        """Run every step once.

        Raises:
            DemoError: a run failed, or an expected result did not arrive in time.
        """
        self._prepare_and_train()
        self._require_own_servers()
        created_topics.create_missing(self._admin, self._config)
        with connect(self._config.dsn, autocommit=True, application_name="churn demo") as connection:
            before = self._before(connection)
            sent = self._send_events(connection, before)
            outcomes_sent, outcomes_read = self._monitor(connection)
            with self._step("Waiting until batches, hours and days are complete"):
                self._wait_until_settled(connection, "the batches to be closed")
                _wait(lambda: _metrics_are_current(connection), self._limits.metrics, "the hourly and daily metrics")
                if summary_state.get(connection) is not None:  # without a worker nobody keeps them
                    _wait(lambda: summary_state.is_current(connection), self._limits.settle, "the worker's summaries")
            return self._outcome(connection, before, sent, outcomes_sent=outcomes_sent, outcomes_read=outcomes_read)

    def _prepare_and_train(self) -> None:
        for job, title in (("data_preparation_job", "Preparing the data"), ("training_job", "Training a model")):
            with self._step(f"{title}: {job}"):
                self._require_own_servers()
                self._wait_for_run(job, self._jobs.launch(job))

    def _before(self, connection: psycopg.Connection) -> _Before:
        with self._step("Waiting until the stream has no backlog"):
            self._wait_until_settled(connection, "the stream to read all events and close its batches")
        predictions = topics.describe(self._admin, self._config.predictions_topic)
        return _Before(
            totals=figures.totals(connection),
            published_to=topics.list_offsets(self._admin, predictions, topics.LATEST),
        )

    def _send_events(self, connection: psycopg.Connection, before: _Before) -> _Sent:
        config, plan = self._config, self._plan
        customers = load_customers(customers_of(self._settings), config.schema).customers
        rows = producer.rows_of(customers, config.schema)
        with self._step("Sending a first event while no run is live"):
            began = time.monotonic()
            first = producer.produce(config, rows, count=1, rate=None, duration=None)
            _wait(
                lambda: figures.totals(connection).events > before.totals.events,
                self._limits.first_event,
                "the first event to be read",
            )
            first_event_seconds = time.monotonic() - began
        past = self._send_history(connection, rows) if not before.totals.events else 0
        with self._step(f"Producing {plan.rate:,.0f} events a second for {plan.seconds:,.0f} s"):
            since = time.time()
            produced = producer.produce(
                config,
                rows,
                count=None,
                rate=plan.rate,
                duration=plan.seconds,
                mix=plan.mix,
                progress=self._progress,
            )
        return _Sent(
            events=first.sent + past + produced.sent,
            mixed_in=produced.kinds,
            first_event_seconds=first_event_seconds,
            since=since,
        )

    def _send_history(self, connection: psycopg.Connection, rows: Sequence[producer.Row]) -> int:
        """Send events of the last two weeks, wait until they are read, and return their number.

        The events that follow would else wait behind them, and their latency would not be that of the stream.
        """
        config, count = self._config, self._plan.history
        with self._step(f"Sending {count:,} events of the last {history.DAYS} days"):
            past = history.events(
                rows,
                config.schema,
                now=datetime.now(UTC),
                count=count,
                chance=random.Random(),  # noqa: S311  a choice of samples, no secret
            )
            sent = sending.send(config.kafka.client, config.events_topic, past, progress=self._progress)
            _wait(lambda: self._backlog(connection) == 0, self._limits.settle, "the events to be read")
        return sent

    def _monitor(self, connection: psycopg.Connection) -> tuple[int, int]:
        """Send outcomes and run the monitoring jobs; return how many outcomes were sent and read."""
        with self._step("Sending outcomes, and monitoring: outcomes_job, hourly_monitoring_job, daily_monitoring_job"):
            _wait(lambda: self._backlog(connection) == 0, self._limits.settle, "the events to be read")
            before = stored_outcomes.count(connection)
            sent = outcome_sender.send(
                self._config,
                [
                    (line.key, line.value)
                    for line in outcome_sender.simulate(
                        connection, self._config.schema, days=self._settings.monitoring.live_window_days
                    )
                ],
                self._settings.topics.outcomes,
            )
            self._require_own_servers()
            self._run_monitoring_jobs(connection)
            return sent, stored_outcomes.count(connection) - before

    def _run_monitoring_jobs(self, connection: psycopg.Connection) -> None:
        """Read the outcomes, and compute the drift of the last day and live performance. The sensor would do it later.

        It does so for the days before, whose hours would take longer than everything else here.
        """
        now = datetime.now(UTC)
        yesterday = now - timedelta(days=1)
        since = pruning.complete_since(
            now, archive_days=self._settings.lifecycle.archive_days, batch_seconds=self._config.batch_seconds
        )
        due_hours = monitoring_results.due_hours(connection, at_most_every=0, since=since)
        hours = [hour for hour in due_hours if hour >= yesterday]
        runs = [("outcomes_job", self._jobs.launch("outcomes_job"))]
        if hours:
            job = "hourly_monitoring_job"
            runs.append((job, self._jobs.launch(job, hours=(hours[0], hours[-1]))))
        for job, run_id in runs:
            self._wait_for_run(job, run_id)
        due_days = monitoring_results.due_days(connection, at_most_every=0, since=since)
        days = sorted({now.date(), *(day for day in due_days if day >= yesterday.date())})
        job = "daily_monitoring_job"
        self._wait_for_run(job, self._jobs.launch(job, days=(days[0], days[-1])))

    def _outcome(
        self,
        connection: psycopg.Connection,
        before: _Before,
        sent: _Sent,
        *,
        outcomes_sent: int,
        outcomes_read: int,
    ) -> Outcome:
        champion = model_versions.champion(connection)
        if champion is None:
            raise DemoError(
                "The training run succeeded, but no model was promoted.",
                remedy="The page of the asset champion_model in Dagster shows why.",
            )
        p50, p99 = figures.latency_ms(connection, since=sent.since)
        predictions = read_all(self._config.kafka, self._config.predictions_topic, before.published_to)
        return Outcome(
            raw_rows=self._row_count("raw_customers"),
            cleaned_rows=self._row_count("cleaned_customers"),
            model_version=champion.version,
            model_metrics=champion.metrics,
            events_produced=sent.events,
            mixed_in=sent.mixed_in,
            stream=figures.totals(connection).since(before.totals),
            published=sum(1 for _ in predictions),
            hours=summary.count_hours(connection),
            days=summary.count_days(connection),
            latency_p50_ms=p50,
            latency_p99_ms=p99,
            first_event_seconds=sent.first_event_seconds,
            hourly=summary.latest_hours(connection, limit=figures.ROWS_SHOWN),
            open_cases=summary.count_open_cases(connection),
            riskiest=summary.riskiest_customers(
                connection, prediction_table(self._config.schema), limit=figures.ROWS_SHOWN
            ),
            outcomes_sent=outcomes_sent,
            outcomes_read=outcomes_read,
            drift=summary.latest_drift(connection, limit=figures.ROWS_SHOWN),
            live=summary.latest_performance(connection, limit=figures.ROWS_SHOWN),
            hourly_predictions_match=summary.hours_have_all_predictions(connection),
        )

    def _row_count(self, asset: str) -> int:
        count = self._jobs.row_count(asset)
        if count is None:
            raise DemoError(f"Dagster has no materialization of {asset}.")
        return count

    def _wait_for_run(self, job: str, run_id: str) -> None:
        _wait(lambda: self._jobs.run_status(run_id) in FINISHED, self._limits.run, f"{job} to end")
        status = self._jobs.run_status(run_id)
        if status != "SUCCESS":
            raise DemoError(f"{job} ended with {status}.", remedy=f"{self._jobs.run_url(run_id)} shows why.")

    def _backlog(self, connection: psycopg.Connection) -> int:
        return load_backlog(connection, self._admin, self._config).waiting

    def _wait_until_settled(self, connection: psycopg.Connection, what: str) -> None:
        """Wait until every event is read, and every batch that was opened is closed and reported to Dagster."""
        _wait(
            lambda: self._backlog(connection) == 0 and not stream_batches.has_unfinished(connection),
            self._limits.settle,
            what,
        )


def _metrics_are_current(connection: psycopg.Connection) -> bool:
    return not metrics.dirty_hours(connection) and not metrics.dirty_days(connection)


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(
                f"Waited {seconds:.0f} s for {what}, without success.",
                remedy="'churn status' shows the servers, 'churn logs daemon' the sensors. The runs page in Dagster "
                "shows what failed.",
            )
        time.sleep(POLL_SECONDS)
