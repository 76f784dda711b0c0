"""The worker's metrics endpoint: answers Prometheus with the definitions of metrics.py and the latest reading."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from churn_platform.alerts.conditions import CONDITIONS
from churn_platform.database.operator_metrics import LivePerformance
from churn_platform.database.stream_minutes import LATENCY_BOUNDS_MS
from churn_platform.observability import metrics
from churn_platform.observability.metrics import Metric
from churn_platform.observability.reading import DagsterReading, Reading, SlowReading

_log = logging.getLogger("churn.worker")

Values = Mapping[tuple[str, ...], float]
"""Values by the values of the labels."""
# Dagster's states by those that the metric tells apart.
RUN_STATES: Final = {
    "queued": ("QUEUED", "NOT_STARTED"),
    "starting": ("STARTING",),
    "started": ("STARTED", "CANCELING"),
}


@dataclass(frozen=True)
class DutyState:
    """Whether the latest run of a duty did not fail, and whether this worker is the one that runs it."""

    is_up: bool
    is_active: bool


class WorkerCollector(Collector):
    """Collects the metrics of one worker at each scrape."""

    def __init__(
        self,
        read: Callable[[], Reading | None],
        duties: Callable[[], Mapping[str, DutyState]],
        *,
        events_topic: str,
        outcomes_topic: str,
    ) -> None:
        """Read nothing yet.

        Args:
            read: returns what the database tells; None if it does not answer.
            duties: returns the states of the worker's duties, by name.
            events_topic: name of the events topic.
            outcomes_topic: name of the outcomes topic.
        """
        self._read, self._duties = read, duties
        self._events_topic, self._outcomes_topic = events_topic, outcomes_topic

    def describe(self) -> Iterable[Family]:
        """Return nothing, so that registering the collector reads nothing."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Yield the families. Without an answer of the database, only those of this worker."""
        reading = self._read()
        yield _family(metrics.UP, float(reading is not None))
        duties = self._duties()
        yield _labelled(metrics.DUTY_UP, {(name,): float(state.is_up) for name, state in duties.items()})
        yield _labelled(metrics.DUTY_ACTIVE, {(name,): float(state.is_active) for name, state in duties.items()})
        if reading is not None:
            yield _family(metrics.READ_SECONDS, reading.seconds)
            yield from self._stream(reading)
            yield from _model(reading)
            yield from _slow(reading.slow)
            if reading.dagster is not None:
                yield from _dagster(reading.dagster)
            yield _labelled(metrics.OUTBOX, {(status,): float(count) for status, count in reading.outbox.items()})
            yield _labelled(
                metrics.CONDITION, {(each.name,): float(each.name in reading.open_conditions) for each in CONDITIONS}
            )

    def _stream(self, reading: Reading) -> Iterator[Family]:
        ledger, totals, lag = reading.ledger, reading.totals, reading.lag
        results = {
            "prediction": ledger.predictions,
            "dead_letter": ledger.dead_letters,
            "duplicate": ledger.duplicates,
            "erased": ledger.erased,
        }
        yield _labelled(metrics.EVENTS, {(name,): float(count) for name, count in results.items()})
        yield _labelled(metrics.DEAD_LETTERS, {(kind,): float(count) for kind, count in reading.dead_letters.items()})
        yield _family(metrics.COMMITS, ledger.commits)
        if totals is not None:
            yield _histogram(metrics.COMMIT_LATENCY, totals.commit_counts, totals.commit_seconds)
            yield _histogram(metrics.END_TO_END_LATENCY, totals.latency_counts, totals.latency_seconds)
        if lag is not None:
            offsets = {(self._events_topic, str(lane)): each for lane, each in enumerate(lag.lanes_waiting or ())}
            if lag.outcomes_waiting is not None:
                offsets[self._outcomes_topic, ""] = lag.outcomes_waiting
            yield _labelled(metrics.LAG, {labels: float(count) for labels, count in offsets.items()})
            yield from _known(metrics.HELD, lag.held)
            yield from _known(metrics.UNPUBLISHED, lag.unpublished)
            yield _family(metrics.KAFKA_UP, float(not lag.problem))
            yield _family(metrics.CONDITIONS_EVALUATED, lag.read_at.timestamp())
        lanes = {(str(number),): lane for number, lane in enumerate(reading.lanes)}
        yield _labelled(metrics.LIVE, {labels: float(lane.is_live) for labels, lane in lanes.items()})
        yield _labelled(metrics.STANDBYS, {labels: float(lane.standbys) for labels, lane in lanes.items()})
        yield _family(metrics.PAUSED, float(reading.is_paused))
        ages = {labels: lane.batch_age_seconds for labels, lane in lanes.items()}
        yield _labelled(metrics.BATCH_AGE, {labels: age for labels, age in ages.items() if age is not None})
        if ledger.last_commit is not None:
            yield _family(metrics.LAST_COMMIT, ledger.last_commit.timestamp())


def serve(collector: Collector, *, host: str, port: int) -> Callable[[], None]:
    """Serve the metrics at http://host:port/metrics in a thread; return what stops it.

    A worker whose port is taken works without metrics: its other duties are worth more.

    Args:
        collector: collects the metrics at each scrape.
        host: address to listen at.
        port: port to listen at.

    Returns:
        A function that stops the server. If it cannot listen there, that is logged, and the function does nothing.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        _log.error(
            "No metrics: cannot listen at %s:%s (%s). Set WORKER_METRICS_PORT to a free port, or to 0 for no metrics.",
            *(host, port, error.strerror or error),
        )
        return lambda: None
    _log.info("Metrics at http://%s:%s/metrics.", host, port)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def _model(reading: Reading) -> Iterator[Family]:
    if reading.champion is not None:
        yield _family(metrics.MODEL_VERSION, reading.champion.version)
        yield _family(metrics.MODEL_AGE, (reading.now - reading.champion.registered_at).total_seconds())
    slow = reading.slow
    yield _labelled(metrics.DRIFT, {(feature,): psi for feature, psi in slow.drift.items()})
    if slow.live_performance is not None:
        yield from _live(slow.live_performance)


def _live(found: LivePerformance) -> Iterator[Family]:
    yield from _known(metrics.LIVE_AUC, found.roc_auc)
    yield from _known(metrics.EXPECTED_AUC, found.expected_roc_auc)
    yield _family(metrics.LABELLED, found.labelled)


def _slow(slow: SlowReading) -> Iterator[Family]:
    hours = {"current": slow.hours.current, "missing": slow.hours.missing, "outdated": slow.hours.outdated}
    if slow.failed_hours is not None:
        hours["failed"] = slow.failed_hours
    yield _labelled(metrics.HOURS, {(state,): float(count) for state, count in hours.items()})
    yield _family(metrics.DATABASE_BYTES, slow.database_bytes)


def _dagster(found: DagsterReading) -> Iterator[Family]:
    states = {
        state: sum(found.unfinished.get(status, 0) for status in statuses) for state, statuses in RUN_STATES.items()
    }
    yield _labelled(metrics.RUNS, {(state,): float(count) for state, count in states.items()})
    yield _labelled(metrics.FAILED_RUNS, {(job,): float(count) for job, count in found.failed.items()})
    yield from _known(metrics.HEARTBEAT_AGE, found.heartbeat_age_seconds)


def _known(metric: Metric, value: float | None) -> Iterator[Family]:
    if value is not None:
        yield _family(metric, value)


def _family(metric: Metric, value: float) -> Family:
    return _labelled(metric, {(): value})


def _labelled(metric: Metric, values: Values) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, counts: Sequence[int], seconds: float) -> Family:
    """Return a histogram. `counts` are those between the bounds; Prometheus wants those up to each bound."""
    bounds = [*(str(bound / 1000) for bound in LATENCY_BOUNDS_MS), "+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
    family = HistogramMetricFamily(metric.name, metric.meaning)
    family.add_metric((), buckets, seconds)
    return family
