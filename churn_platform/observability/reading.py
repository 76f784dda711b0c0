"""What the metrics endpoint reads from the database, and how often. Nothing here knows Prometheus."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg

from churn_platform.database import (
    advisory_locks,
    alert_outbox,
    dagster_tables,
    model_versions,
    operator_conditions,
    operator_metrics,
    stream_batches,
    stream_lag,
    stream_layouts,
    stream_pauses,
    stream_totals,
)
from churn_platform.database.model_versions import ModelVersion
from churn_platform.database.operator_metrics import Hours, Ledger, LedgerCounter, LivePerformance
from churn_platform.database.stream_lag import StreamLag
from churn_platform.database.stream_totals import StreamTotals
from churn_platform.lanes import lanes

_log = logging.getLogger("churn.worker")

STATEMENT_SECONDS: Final = 2
# What changes by the hour, or takes PostgreSQL tens of milliseconds, is read this often.
SLOW_SECONDS: Final = 60.0
# Several scrapes within this time share a reading.
FRESH_SECONDS: Final = 2.0
# How long a scrape waits for the database. Prometheus waits 10 s by default.
ANSWER_SECONDS: Final = 5.0
FAILED_RUN_SECONDS: Final = 3_600.0
HOURLY_JOB: Final = "hourly_metrics_job"


@dataclass(frozen=True, kw_only=True)
class DagsterReading:
    """Dagster's runs. `unfinished`: by Dagster's status; `failed`: in the last hour, by job."""

    unfinished: Mapping[str, int]
    failed: Mapping[str, int]
    heartbeat_age_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class SlowReading:
    """What is read once a minute. `failed_hours` is None without Dagster's tables."""

    hours: Hours
    failed_hours: int | None
    database_bytes: int
    drift: Mapping[str, float]
    live_performance: LivePerformance | None


@dataclass(frozen=True, kw_only=True)
class LaneReading:
    """One lane of the stream. `batch_age_seconds` is None without an open batch."""

    is_live: bool
    standbys: int
    batch_age_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Everything that the database tells. `seconds`: how long the reading took. `dagster`: None without its tables."""

    seconds: float
    now: datetime
    ledger: Ledger
    totals: StreamTotals | None
    dead_letters: Mapping[str, int]
    lag: StreamLag | None
    lanes: Sequence[LaneReading]
    is_paused: bool
    champion: ModelVersion | None
    open_conditions: frozenset[str]
    outbox: Mapping[str, int]
    dagster: DagsterReading | None
    slow: SlowReading


class DatabaseReader:
    """Reads the database through one session, which it keeps. An error ends the session."""

    def __init__(self, connect: Callable[[], psycopg.Connection], topic: str) -> None:
        """Connect to nothing yet.

        Args:
            connect: opens a connection in autocommit mode.
            topic: the events topic.
        """
        self._connect, self._topic = connect, topic
        self._connection: psycopg.Connection | None = None
        self._ledger = LedgerCounter()
        self._slow: SlowReading | None = None
        self._slow_at = float("-inf")

    def read(self) -> Reading:
        """Return what the database tells now.

        Raises:
            psycopg.Error: it does not answer, or a statement fails or takes too long.
        """
        began = time.monotonic()
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.execute(
                    "select set_config('statement_timeout', %s, false), "
                    "set_config('default_transaction_read_only', 'on', false)",
                    (f"{STATEMENT_SECONDS}s",),
                )
                # The database may have been restored to an earlier time meanwhile.
                self._ledger, self._slow_at = LedgerCounter(), float("-inf")
            return self._read(self._connection, began)
        except psycopg.Error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            raise

    def _read(self, connection: psycopg.Connection, began: float) -> Reading:
        has_dagster = dagster_tables.are_readable(connection) is True
        if self._slow is None or began - self._slow_at >= SLOW_SECONDS:
            self._slow, self._slow_at = _read_slow(connection, has_dagster=has_dagster), began
        now = _now(connection)
        return Reading(
            ledger=self._ledger.read(connection),
            totals=stream_totals.totals(connection),
            dead_letters=stream_totals.dead_letters(connection),
            lag=stream_lag.latest(connection),
            lanes=_read_lanes(connection, self._topic, now),
            is_paused=stream_pauses.paused_since(connection, self._topic) is not None,
            champion=model_versions.champion(connection),
            open_conditions=frozenset(each.name for each in operator_conditions.open_conditions(connection)),
            outbox={str(status): count for status, count in alert_outbox.count(connection).items()},
            dagster=_read_dagster(connection) if has_dagster else None,
            slow=self._slow,
            now=now,
            seconds=time.monotonic() - began,
        )


def _read_lanes(connection: psycopg.Connection, topic: str, now: datetime) -> list[LaneReading]:
    count = stream_layouts.layout(connection, topic).lanes
    opened = {each.reads: each.opened for each in stream_batches.open_batches(connection)}
    prefix = advisory_locks.SESSION_PREFIX
    found = []
    for lane, sessions in zip(lanes(count), advisory_locks.lane_sessions(connection, topic, count), strict=True):
        began = opened.get(lane)
        found.append(
            LaneReading(
                is_live=sessions.holder is not None and sessions.holder.startswith(prefix),
                standbys=sum(name.startswith(prefix) for name in sessions.waiting),
                batch_age_seconds=None if began is None else (now - began).total_seconds(),
            )
        )
    return found


def _now(connection: psycopg.Connection) -> datetime:
    row = connection.execute("select clock_timestamp()").fetchone()
    if row is None:
        raise RuntimeError("A select of the time returned no row; PostgreSQL always returns one.")
    now: datetime = row[0]
    return now


def _read_dagster(connection: psycopg.Connection) -> DagsterReading:
    return DagsterReading(
        unfinished=dagster_tables.count_unfinished(connection),
        failed=dagster_tables.count_failed(connection, recent_seconds=FAILED_RUN_SECONDS),
        heartbeat_age_seconds=dagster_tables.seconds_since_heartbeat(connection),
    )


def _read_slow(connection: psycopg.Connection, *, has_dagster: bool) -> SlowReading:
    hours = operator_metrics.hours(connection)
    return SlowReading(
        hours=hours,
        failed_hours=dagster_tables.count_failed_partitions(connection, HOURLY_JOB, hours.keys)
        if has_dagster
        else None,
        database_bytes=operator_metrics.database_bytes(connection),
        drift=operator_metrics.drift(connection),
        live_performance=operator_metrics.live_performance(connection),
    )


class TimelyReader:
    """Gives a reading or None within a time, even if the database accepts statements and never answers them.

    A thread reads. If it takes too long, it goes on, and later scrapes wait for the same reading.
    """

    def __init__(
        self,
        reader: DatabaseReader,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        fresh_seconds: float = FRESH_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet.

        Args:
            reader: reads the database.
            answer_seconds: how long a caller waits.
            fresh_seconds: a reading that is younger is returned again.
            monotonic: seconds.
        """
        self._reader = reader
        self._answer_seconds, self._fresh_seconds, self._monotonic = answer_seconds, fresh_seconds, monotonic
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._reading: Reading | None = None
        self._finished = float("-inf")
        self._problem = ""

    def read(self) -> Reading | None:
        """Return what the database tells; None if it does not answer in time, or with an error."""
        with self._lock:
            thread = self._thread
            if thread is None or not thread.is_alive():
                if self._monotonic() - self._finished < self._fresh_seconds:
                    return self._reading
                thread = self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
                thread.start()
        thread.join(self._answer_seconds)
        return None if thread.is_alive() else self._reading

    def _run(self) -> None:
        try:
            self._reading = self._reader.read()
            problem = ""
        except Exception as error:  # whatever it is, the endpoint answers, and the next scrape reads again
            self._reading = None
            problem = f"{type(error).__name__}: {error}".strip()
            if problem != self._problem:
                expected = isinstance(error, psycopg.OperationalError)
                _log.error("Metrics cannot be read: %s", problem, exc_info=None if expected else error)
        if self._problem and not problem:
            _log.info("Metrics are read again.")
        self._problem = problem
        self._finished = self._monotonic()
