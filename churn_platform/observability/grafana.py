"""The dashboards of Grafana, as `deploy/grafana/dashboards/` has them.

Panels are data: a title, a query and a unit each. A test asks a real Prometheus every query.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from churn_platform.observability import metrics
from churn_platform.observability.rules import (
    API_MAX_ERRORS,
    RATE_WINDOW,
    api_error_share,
    api_percentile,
    api_rate,
    of_all_workers,
)

Kind: TypeAlias = Literal["timeseries", "stat", "table"]

COLUMNS: Final = 24  # of Grafana's grid
SCHEMA_VERSION: Final = 39  # of Grafana 11, which later versions read too
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Query:
    """A query in PromQL, and the name of its series with {{label}} for the value of a label."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel.

    Attributes:
        title: what it shows.
        queries: at least one.
        kind: a chart over time, the present number, or a table of the present values.
        unit: Grafana's name of the unit; "short" for a count.
        description: shown when the pointer is on the title.
        width: of the grid's 24 columns.
        red_from: value from which the number is red; None for no colour.
    """

    title: str
    queries: Sequence[Query]
    kind: Kind = "timeseries"
    unit: str = "short"
    description: str = ""
    width: int = 8
    red_from: float | None = None

    @property
    def height(self) -> int:
        """Rows of the grid."""
        return 4 if self.kind == "stat" else 8

    def as_json(self, number: int, x: int, y: int) -> dict[str, object]:
        """Return the panel at a place of the grid."""
        steps: list[dict[str, object]] = [{"color": "green", "value": None}]
        if self.red_from is not None:
            steps.append({"color": "red", "value": self.red_from})
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [
                {
                    "refId": chr(ord("A") + place),
                    "datasource": DATASOURCE,
                    "expr": query.expression,
                    "legendFormat": query.legend or "__auto",
                    "instant": self.kind == "table",
                    "range": self.kind != "table",
                    "format": "table" if self.kind == "table" else "time_series",
                }
                for place, query in enumerate(self.queries)
            ],
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit,
                    "min": 0,
                    "color": {"mode": "palette-classic" if self.red_from is None else "thresholds"},
                    "thresholds": {"mode": "absolute", "steps": steps},
                },
                "overrides": [],
            },
        }


@dataclass(frozen=True)
class Dashboard:
    """A dashboard: its id in addresses, its title and its panels, from the upper left to the lower right."""

    uid: str
    title: str
    panels: Sequence[Panel]

    def as_json(self) -> dict[str, object]:
        """Return the dashboard as Grafana reads it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["churn"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": False,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "templating": {
                "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
            },
            "panels": list(self._placed()),
        }

    def _placed(self) -> Iterator[dict[str, object]]:
        """Place the panels in rows; a row is as high as its first panel."""
        x = y = height = 0
        for number, panel in enumerate(self.panels, start=1):
            if x + panel.width > COLUMNS or (x and panel.height != height):
                x, y = 0, y + height
            height = panel.height
            yield panel.as_json(number, x, y)
            x += panel.width


def _now(metric: metrics.Metric, labels: str = "") -> str:
    return of_all_workers(f"{metric.name}{labels}")


def _age(metric: metrics.Metric) -> str:
    return f"time() - {_now(metric)}"


def _percentiles(metric: metrics.Metric) -> list[Query]:
    rate = of_all_workers(f"rate({metric.name}_bucket[{RATE_WINDOW}])")
    return [Query(f"histogram_quantile({share}, {rate})", f"{share * 100:g} %") for share in (0.5, 0.95, 0.99)]


def _stat(title: str, expression: str, *, unit: str = "short", red_from: float | None = None) -> Panel:
    return Panel(title=title, queries=[Query(expression)], kind="stat", unit=unit, width=4, red_from=red_from)


STREAM: Final = Dashboard(
    "churn-stream",
    "Churn: stream",
    (
        _stat("Live runs", f"sum({_now(metrics.LIVE)})"),
        _stat("Standbys", f"sum({_now(metrics.STANDBYS)})"),
        _stat("Paused", _now(metrics.PAUSED), red_from=1),
        _stat("Time since the last commit", _age(metrics.LAST_COMMIT), unit="s"),
        _stat("Time since the oldest open batch was opened", f"max({_now(metrics.BATCH_AGE)})", unit="s"),
        _stat("Kafka answers", _now(metrics.KAFKA_UP)),
        Panel(
            title="Events a second by result",
            queries=[Query(of_all_workers(f"rate({metrics.EVENTS.name}[{RATE_WINDOW}])"), "{{result}}")],
            unit="eps",
        ),
        Panel(
            title="Lag",
            queries=[
                Query(_now(metrics.LAG), "{{topic}} {{lane}}"),
                Query(_now(metrics.UNPUBLISHED), "read, not published"),
                Query(_now(metrics.HELD), "held back by open transactions"),
            ],
            description="Offsets before the last stable offset that are not read yet.",
        ),
        Panel(
            title="Dead letters in an hour by kind",
            queries=[Query(of_all_workers(f"increase({metrics.DEAD_LETTERS.name}[1h])"), "{{kind}}")],
        ),
        Panel(
            title="From an event to its visible prediction", queries=_percentiles(metrics.END_TO_END_LATENCY), unit="s"
        ),
        Panel(
            title="From scoring to the commit",
            queries=_percentiles(metrics.COMMIT_LATENCY),
            unit="s",
            description="Without values unless PostgreSQL has track_commit_timestamp on.",
        ),
        Panel(
            title="Commits a second",
            queries=[Query(of_all_workers(f"rate({metrics.COMMITS.name}[{RATE_WINDOW}])"), "commits")],
        ),
    ),
)
OPERATIONS: Final = Dashboard(
    "churn-operations",
    "Churn: models and operations",
    (
        _stat("Open conditions", f"sum({_now(metrics.CONDITION)})", red_from=1),
        _stat("Champion", _now(metrics.MODEL_VERSION)),
        _stat("Time since the champion was trained", _now(metrics.MODEL_AGE), unit="s"),
        _stat("Live ROC AUC", _now(metrics.LIVE_AUC)),
        _stat("Database", _now(metrics.DATABASE_BYTES), unit="bytes"),
        _stat("Workers that read the database", f"sum({metrics.UP.name})"),
        Panel(
            title="Operator conditions",
            queries=[Query(_now(metrics.CONDITION), "{{condition}}")],
            kind="table",
            width=12,
        ),
        Panel(
            title="Duties of the workers",
            queries=[Query(metrics.DUTY_ACTIVE.name, "{{duty}} of {{instance}}")],
            kind="table",
            width=12,
            description="1 where a worker runs the duty.",
        ),
        Panel(title="Drift (PSI) by feature", queries=[Query(_now(metrics.DRIFT), "{{feature}}")]),
        Panel(
            title="Live and expected ROC AUC",
            queries=[Query(_now(metrics.LIVE_AUC), "live"), Query(_now(metrics.EXPECTED_AUC), "expected")],
        ),
        Panel(title="Hours of metrics", queries=[Query(_now(metrics.HOURS, '{state!="current"}'), "{{state}}")]),
        Panel(title="Dagster runs", queries=[Query(_now(metrics.RUNS), "{{state}}")]),
        Panel(title="Failed runs in the last hour", queries=[Query(_now(metrics.FAILED_RUNS), "{{job}}")]),
        Panel(title="Outbox", queries=[Query(_now(metrics.OUTBOX, '{status!="sent"}'), "{{status}}")]),
        Panel(
            title="Memory of the workers",
            queries=[Query('process_resident_memory_bytes{job="churn-worker"}', "{{instance}}")],
            unit="bytes",
        ),
        Panel(
            title="CPU of the workers",
            queries=[Query(f'rate(process_cpu_seconds_total{{job="churn-worker"}}[{RATE_WINDOW}])', "{{instance}}")],
            unit="percentunit",
        ),
        Panel(title="Time to read the database", queries=[Query(metrics.READ_SECONDS.name, "{{instance}}")], unit="s"),
    ),
)
_API_JOB: Final = '{job="churn-api"}'
API: Final = Dashboard(
    "churn-api",
    "Churn: prediction API",
    (
        _stat("Requests a second", api_rate(metrics.API_REQUESTS), unit="reqps"),
        _stat("Requests that fail", api_error_share(), unit="percentunit", red_from=API_MAX_ERRORS),
        _stat("99 % answered within", api_percentile(0.99), unit="s"),
        _stat("Customers scored a second", api_rate(metrics.API_SCORED, "")),
        _stat("Version of the model", f"max({metrics.API_MODEL_VERSION.name})"),
        _stat("Processes with a model", f"sum({metrics.API_MODEL_VERSION.name} > bool 0)"),
        Panel(
            title="Requests a second by route",
            queries=[Query(api_rate(metrics.API_REQUESTS, by="route"), "{{route}}")],
            unit="reqps",
        ),
        Panel(
            title="Answers a second by status",
            queries=[Query(api_rate(metrics.API_REQUESTS, by="status"), "{{status}}")],
            unit="reqps",
            description="4xx: the request was wrong. 5xx: it could not be answered.",
        ),
        Panel(
            title="Requests that fail",
            queries=[Query(api_error_share(), "5xx")],
            unit="percentunit",
            description="Share of the answers that are 5xx.",
        ),
        Panel(
            title="Time to answer",
            queries=[Query(api_percentile(share), f"{share * 100:g} %") for share in (0.5, 0.95, 0.99)],
            unit="s",
        ),
        Panel(
            title="Customers refused a second by field",
            queries=[Query(api_rate(metrics.API_REFUSED, "", by="field"), "{{field}}")],
        ),
        Panel(title="Model", queries=[Query(metrics.API_MODEL_VERSION.name, "{{instance}}")]),
        Panel(
            title="Memory of the API",
            queries=[Query(f"process_resident_memory_bytes{_API_JOB}", "{{instance}}")],
            unit="bytes",
            width=12,
        ),
        Panel(
            title="CPU of the API",
            queries=[Query(f"rate(process_cpu_seconds_total{_API_JOB}[{RATE_WINDOW}])", "{{instance}}")],
            unit="percentunit",
            width=12,
        ),
    ),
)
DASHBOARDS: Final = (STREAM, OPERATIONS, API)
