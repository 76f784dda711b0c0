"""What the API counts for Prometheus."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from churn_platform.decoding.reasons import named_field
from churn_platform.observability import metrics

# From a lone prediction, which takes a millisecond, to ten thousand with reasons.
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
WHOLE_MESSAGE = "message"
"""Stands for a field where a refusal is not about one field."""


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        """Begin with zeros."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(*_described(metrics.API_REQUESTS), registry=self._registry)
        self._seconds = Histogram(*_described(metrics.API_SECONDS), buckets=_SECONDS, registry=self._registry)
        self._scored = Counter(*_described(metrics.API_SCORED), registry=self._registry)
        self._refused = Counter(*_described(metrics.API_REFUSED), registry=self._registry)
        self._version = Gauge(*_described(metrics.API_MODEL_VERSION), registry=self._registry)
        # Counter.labels() takes longer than counting.
        self._counters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def count_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        counters = self._counters.get((method, route, status))
        if counters is None:
            counters = self._requests.labels(method, route, str(status)), self._seconds.labels(route)
            self._counters[method, route, status] = counters
        requests, times = counters
        requests.inc()
        times.observe(seconds)

    def count_customers(self, *, scored: int, refusals: Iterable[str], fields: Iterable[str]) -> None:
        """Count the customers of a request.

        Args:
            scored: how many have a score.
            refusals: reasons of the others.
            fields: names of the fields that a customer may have.
        """
        self._scored.inc(scored)
        for reason in refusals:
            self._refused.labels(named_field(reason, fields) or WHOLE_MESSAGE).inc()

    def as_text(self, *, model_version: int) -> bytes:
        """Return all figures in Prometheus' text format.

        Args:
            model_version: of the model that scores; 0 if there is none.
        """
        self._version.set(model_version)
        return generate_latest(self._registry)


def _described(metric: metrics.Metric) -> tuple[str, str, tuple[str, ...]]:
    """Return name, meaning and labels, as prometheus_client takes them."""
    return metric.name, metric.meaning, metric.labels
