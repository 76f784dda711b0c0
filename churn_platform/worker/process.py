"""The process of the resident worker: its duties, its heartbeat, and its end."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import psycopg

from churn_platform.alerts.call_list import read_call_list
from churn_platform.alerts.duties import alert_duties
from churn_platform.database import connections
from churn_platform.observability import endpoint
from churn_platform.observability.endpoint import WorkerCollector
from churn_platform.observability.reading import DatabaseReader, TimelyReader
from churn_platform.retention.contact_policy import ContactPolicy
from churn_platform.retention.priority import CallValue
from churn_platform.schema.current import schema_of
from churn_platform.settings import Settings
from churn_platform.worker.canary import CanaryBounds, CanaryDuty
from churn_platform.worker.cases import CasesConfig, CasesDuty
from churn_platform.worker.duty import Duty
from churn_platform.worker.heartbeat import heartbeat_file
from churn_platform.worker.loop import SESSION_PREFIX, Worker
from churn_platform.worker.shadow import ShadowDuty
from churn_platform.worker.stream_backlog import KafkaBacklog
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty
from churn_platform.worker.totals import TotalsDuty

_log = logging.getLogger("churn.worker")

HEARTBEAT_PAUSE: Final = 5.0  # seconds; a third of a container's interval between two health checks
METRICS_CONNECT_SECONDS: Final = 3  # a scrape waits for 5 s
STARTING_PAUSE: Final = 0.25  # while a duty has not run yet, or fails: 'churn up' waits for the first heartbeat


def duties_of(settings: Settings) -> list[Duty]:
    """Return the duties that the settings ask for.

    Raises:
        SettingsError: a setting that a duty needs has no usable value, or PostgreSQL is neither configured nor up.
        TargetError: the address of a target of messages cannot be used.
        SchemaError: the customer schema is missing or invalid.
    """
    summaries = SummariesConfig(schema=schema_of(settings), control_share=settings.retention.control_share)
    backlog = KafkaBacklog(settings.kafka_client, settings.topics.events)
    return [
        CasesDuty(cases_config(settings), stream_backlog=backlog),
        SummariesDuty(summaries, stream_backlog=backlog),
        CanaryDuty(canary_bounds(settings)),
        ShadowDuty(settings.postgres_dsn, high_risk_threshold=settings.retention.high_risk_threshold),
        TotalsDuty(),
        *alert_duties(settings, read_call_list),
    ]


def canary_bounds(settings: Settings) -> CanaryBounds:
    """Return when the settings roll a canary back."""
    challengers = settings.challengers
    return CanaryBounds(
        max_psi=challengers.canary_max_psi,
        max_errors=challengers.canary_max_errors,
        least_predictions=challengers.canary_least_predictions,
    )


def cases_config(settings: Settings) -> CasesConfig:
    """Return what the settings say about cases.

    Raises:
        SchemaError: the customer schema is missing or invalid.
    """
    retention, costs = settings.retention, settings.training.call_costs
    cost, customer_value, success_rate = costs or (0.0, 1.0, 1.0)
    return CasesConfig(
        schema=schema_of(settings),
        policy=ContactPolicy(
            threshold=retention.high_risk_threshold,
            cool_off=timedelta(days=retention.cool_off_days),
            expiry=timedelta(days=retention.expiry_days),
        ),
        value=CallValue(cost=cost, success_rate=success_rate, customer_value=customer_value),
        control_share=retention.control_share,
        cases_per_day=retention.cases_per_day,
        timezone=ZoneInfo(retention.business_timezone),
        customer_url=retention.customer_url,
        cases_from=retention.cases_from,
    )


def run(settings: Settings, *, metrics_host: str | None = None, metrics_port: int | None = None) -> None:
    """Run the worker until SIGTERM or SIGINT.

    Args:
        settings: of this environment.
        metrics_host: address that the metrics are served at; None for that of the settings.
        metrics_port: port that the metrics are served at; None for that of the settings, 0 for no metrics.

    Raises:
        SettingsError: PostgreSQL is neither configured nor up.
        SchemaError: the customer schema is missing or invalid.
    """
    dsn, duties = settings.postgres_dsn, duties_of(settings)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    def connect(name: str) -> psycopg.Connection:
        return connections.connect(dsn, application_name=name, autocommit=True, connect_timeout=10)

    worker = Worker(duties, connect)
    operators = settings.operators
    port = operators.metrics_port if metrics_port is None else metrics_port
    stop_metrics = serve_metrics(settings, worker, host=metrics_host or operators.metrics_host, port=port)
    run_until(stopped, worker, heartbeat_file(settings.platform.local), names=[d.name for d in duties])
    stop_metrics()


def serve_metrics(settings: Settings, worker: Worker, *, host: str, port: int) -> Callable[[], None]:
    """Serve the metrics of a worker; return what ends this.

    Args:
        settings: of this environment.
        worker: whose duties are reported.
        host: address to listen at.
        port: port to listen at; 0 for no metrics.

    Raises:
        SettingsError: PostgreSQL is neither configured nor up.
    """
    if not port:
        return lambda: None
    topics, dsn = settings.topics, settings.postgres_dsn

    def connect() -> psycopg.Connection:
        return connections.connect(
            dsn, application_name=f"{SESSION_PREFIX}metrics", autocommit=True, connect_timeout=METRICS_CONNECT_SECONDS
        )

    reader = TimelyReader(DatabaseReader(connect, topics.events))
    collector = WorkerCollector(reader.read, worker.states, events_topic=topics.events, outcomes_topic=topics.outcomes)
    return endpoint.serve(collector, host=host, port=port)


def run_until(stopped: threading.Event, worker: Worker, heartbeat: Path, *, names: Sequence[str]) -> None:
    """Run a worker until the event is set.

    Args:
        stopped: ends the worker.
        worker: not started yet.
        heartbeat: renewed while no duty fails. A health check reads when it was last changed.
        names: of the duties, for the log.
    """
    _log.info("Started with process id %s: %s.", os.getpid(), ", ".join(names) or "no duties")
    heartbeat.parent.mkdir(parents=True, exist_ok=True)
    worker.start()
    while not stopped.is_set():
        if worker.works():
            heartbeat.touch()
        stopped.wait(HEARTBEAT_PAUSE if worker.works() else STARTING_PAUSE)
    unfinished = worker.stop()
    heartbeat.unlink(missing_ok=True)
    if unfinished:
        _log.warning("Ended before these were finished: %s.", ", ".join(unfinished))
    _log.info("Ended.")
