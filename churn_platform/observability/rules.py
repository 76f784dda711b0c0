"""The recording and alert rules of Prometheus, as `deploy/prometheus/rules.yml` has them.

Each operator condition has an alert, which follows the condition as the worker evaluates it: with the bounds of the
settings, and with the same pause before it ends. So a message of the worker and an alert of Prometheus always agree.
The other alerts are about the worker itself, which cannot report its own absence, and about the prediction API, which
the worker does not see.
"""

from dataclasses import dataclass
from typing import Final

from churn_platform.alerts.conditions import CONDITIONS, Condition, Severity
from churn_platform.observability import metrics
from churn_platform.observability.metrics import Metric

RATE_WINDOW: Final = "5m"
"""Of rates and percentiles: twenty scrapes at 15 s each, and thirty runs of the duty that adds up latencies."""
API_ROUTES: Final = 'route=~"/v1/.*"'
"""What programs ask for. The others are of Prometheus and of health checks: many, and always answered."""
_FAILED: Final = f'{API_ROUTES},status=~"5.."'
API_MAX_ERRORS: Final = 0.05
"""Share of the requests with an answer of 5xx from which an alert fires. An API that works answers none with 5xx."""
API_LEAST_ERRORS: Final = 10
"""Number of such answers within RATE_WINDOW below which no alert fires: one of few requests at night wakes nobody."""
STALE_SECONDS: Final = 60
"""Operator conditions are evaluated every 10 s, and Kafka may take two time-outs of 5 s."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """An alert rule.

    Attributes:
        name: in CamelCase, beginning with Churn.
        expression: in PromQL; there is an alert for each series that it returns.
        lasts: how long it has to hold, such as "1m"; empty for not at all.
        severity: a label, by which Alertmanager chooses a receiver.
        summary: what is wrong.
        description: what to do.
    """

    name: str
    expression: str
    lasts: str = ""
    severity: Severity
    summary: str
    description: str


@dataclass(frozen=True)
class Recording:
    """A recording rule: a name as level:metric:operation, and an expression in PromQL."""

    name: str
    expression: str


def of_all_workers(expression: str) -> str:
    """Return an expression over what every worker reports alike, with one result however many workers there are."""
    return f"max without (instance) ({expression})"


def _rate(metric: Metric, suffix: str = "") -> str:
    return of_all_workers(f"rate({metric.name}{suffix}[{RATE_WINDOW}])")


def _percentile(share: float, metric: Metric) -> str:
    return f"histogram_quantile({share}, {_rate(metric, '_bucket')})"


def api_rate(metric: Metric, labels: str = API_ROUTES, *, by: str = "", suffix: str = "") -> str:
    """Return how much a counter of the API grows a second, summed over its processes.

    Args:
        metric: a counter, or a histogram with the suffix of one of its series.
        labels: of the series that count, as in a selector of PromQL.
        by: label of the results; empty for one result.
        suffix: of the series.
    """
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({metric.name}{suffix}{{{labels}}}[{RATE_WINDOW}]))"


def api_percentile(share: float) -> str:
    """Return the seconds within which this share of the API's answers is complete."""
    return f"histogram_quantile({share}, {api_rate(metrics.API_SECONDS, by='le', suffix='_bucket')})"


def api_error_share() -> str:
    """Return the share of the API's answers that are 5xx, 0..1. Not a number without requests."""
    return f"({api_rate(metrics.API_REQUESTS, _FAILED)} or vector(0)) / {api_rate(metrics.API_REQUESTS)}"


def alert_of(condition: Condition) -> Alert:
    """Return the alert of an operator condition."""
    series = f'{metrics.CONDITION.name}{{condition="{condition.name}"}}'
    return Alert(
        name="Churn" + "".join(word.capitalize() for word in condition.name.split("-")),
        expression=f"{of_all_workers(series)} == 1",
        severity=condition.severity,
        summary=condition.meaning,
        description=condition.remedy,
    )


RECORDINGS: Final = (
    Recording("churn:stream_events:rate5m", _rate(metrics.EVENTS)),
    Recording("churn:stream_dead_letters:rate5m", _rate(metrics.DEAD_LETTERS)),
    Recording("churn:stream_lag_offsets:max", of_all_workers(metrics.LAG.name)),
    *(
        Recording(f"churn:stream_{name}_seconds:p{share * 100:.0f}_5m", _percentile(share, metric))
        for name, metric in (("end_to_end", metrics.END_TO_END_LATENCY), ("commit", metrics.COMMIT_LATENCY))
        for share in (0.5, 0.99)
    ),
    Recording("churn:api_requests:rate5m", api_rate(metrics.API_REQUESTS)),
    Recording("churn:api_errors:share5m", api_error_share()),
    *(Recording(f"churn:api_request_seconds:p{share * 100:.0f}_5m", api_percentile(share)) for share in (0.5, 0.99)),
)
WORKER_ALERTS: Final = (
    Alert(
        name="ChurnWorkerAbsent",
        expression=f"absent({metrics.UP.name})",
        lasts="1m",
        severity="critical",
        summary="No worker answers Prometheus, so no case, no message and no metric of the platform is up to date.",
        description="Start it: 'churn status' shows the state of the embedded one, 'churn logs worker' its log. If it "
        "runs, compare WORKER_METRICS_HOST and WORKER_METRICS_PORT with the scrape configuration.",
    ),
    Alert(
        name="ChurnDatabaseUnreadable",
        expression=f"{of_all_workers(metrics.UP.name)} == 0",
        lasts="1m",
        severity="critical",
        summary="No worker can read the database in time.",
        description="Start PostgreSQL, or correct its address and login. The worker's log names the error.",
    ),
    Alert(
        name="ChurnDutyFailing",
        expression=f"{of_all_workers(metrics.DUTY_UP.name)} == 0",
        lasts="2m",
        severity="warning",
        summary="A duty of the worker fails again and again: {{ $labels.duty }}.",
        description="The worker's log names the error. What the duty keeps, such as cases, is not up to date.",
    ),
    Alert(
        name="ChurnConditionsStale",
        expression=f"time() - {of_all_workers(metrics.CONDITIONS_EVALUATED.name)} > {STALE_SECONDS}",
        lasts="1m",
        severity="critical",
        summary="No worker evaluates the operator conditions, so no other alert is up to date.",
        description="The worker's log names the error of the duty 'operator conditions'.",
    ),
)
API_ALERTS: Final = (
    Alert(
        name="ChurnApiErrors",
        expression=f"{api_error_share()} > {API_MAX_ERRORS} "
        f"and sum (increase({metrics.API_REQUESTS.name}{{{_FAILED}}}[{RATE_WINDOW}])) >= {API_LEAST_ERRORS}",
        lasts="2m",
        severity="critical",
        summary=f"More than {API_MAX_ERRORS:.0%} of the requests to the prediction API fail, and at least "
        f"{API_LEAST_ERRORS} of them.",
        description="'churn status' shows whether the API and PostgreSQL run, and 'churn logs api' the errors. 503 "
        "means that there is no champion, that the database does not answer, or that too many customers wait.",
    ),
    Alert(
        name="ChurnApiWithoutModel",
        expression=f"min without (instance) ({metrics.API_MODEL_VERSION.name}) == 0",
        lasts="1m",
        severity="critical",
        summary="A process of the prediction API has no champion, so it answers every request for a score with 503.",
        description="Train one ('churn model train'), or promote one ('churn model promote'). If 'churn model list' "
        "shows a champion, 'churn logs api' tells why its bundle could not be loaded.",
    ),
)
ALERTS: Final = (*map(alert_of, CONDITIONS), *WORKER_ALERTS, *API_ALERTS)


def rules_file() -> dict[str, object]:
    """Return the rules as Prometheus reads them."""
    return {
        "groups": [
            {
                "name": "churn-recording",
                "rules": [{"record": each.name, "expr": each.expression} for each in RECORDINGS],
            },
            {"name": "churn-alerts", "rules": [_as_rule(each) for each in ALERTS]},
        ]
    }


def _as_rule(alert: Alert) -> dict[str, object]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        **({"for": alert.lasts} if alert.lasts else {}),
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.description},
    }
