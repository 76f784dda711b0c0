"""The metrics of the worker and of the prediction API, each defined once: name, kind, labels and meaning.

The endpoint, the reference page, the alert rules and the Grafana dashboards use these definitions. Names follow
Prometheus' conventions: base units, and _total for counters.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["gauge", "counter", "histogram"]
Source: TypeAlias = Literal["worker", "database", "api"]


@dataclass(frozen=True)
class Metric:
    """A metric family.

    Attributes:
        name: as Prometheus knows it; histograms add _bucket, _sum and _count.
        kind: gauge, counter or histogram.
        meaning: a sentence.
        labels: names of its labels.
        source: "worker" if each worker reports its own state; "database" if all workers report the same; "api" if each
            process of the prediction API reports its own.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    source: Source = "database"


UP: Final = Metric(
    "churn_up",
    "gauge",
    "1 if this worker could read the database in time. If 0, it reports its own state only.",
    (),
    "worker",
)
DUTY_UP: Final = Metric(
    "churn_worker_duty_up", "gauge", "1 if the latest run of this duty did not fail.", ("duty",), "worker"
)
DUTY_ACTIVE: Final = Metric(
    "churn_worker_duty_active",
    "gauge",
    "1 if this worker runs the duty; 0 if another worker does.",
    ("duty",),
    "worker",
)
READ_SECONDS: Final = Metric(
    "churn_metrics_read_seconds", "gauge", "How long the latest reading of the database took.", (), "worker"
)

EVENTS: Final = Metric(
    "churn_stream_events_total",
    "counter",
    "Events that the stream has read, by result: prediction, dead_letter, duplicate or erased. It never falls.",
    ("result",),
)
DEAD_LETTERS: Final = Metric(
    "churn_stream_dead_letters_total",
    "counter",
    "Dead letters by kind: the reason without values. Kinds after the first 50 are other.",
    ("kind",),
)
COMMITS: Final = Metric("churn_stream_commits_total", "counter", "Commits of the stream with events.")
COMMIT_LATENCY: Final = Metric(
    "churn_stream_commit_seconds",
    "histogram",
    "Time from the scoring of the last events in a commit until its rows are visible. Empty unless PostgreSQL has "
    "track_commit_timestamp on.",
)
END_TO_END_LATENCY: Final = Metric(
    "churn_stream_end_to_end_seconds",
    "histogram",
    "Time from an event until its prediction is visible in PostgreSQL. It ends with the scoring unless PostgreSQL has "
    "track_commit_timestamp on.",
)
LAG: Final = Metric(
    "churn_stream_lag_offsets",
    "gauge",
    "Offsets before the last stable offset that are not read yet: of the events topic by lane, and of the outcomes "
    "topic, which has no lanes, if there is one. Absent if Kafka does not answer.",
    ("topic", "lane"),
)
HELD: Final = Metric(
    "churn_stream_held_offsets",
    "gauge",
    "Offsets of the events topic that an open transaction of another producer holds back.",
)
UNPUBLISHED: Final = Metric(
    "churn_stream_unpublished_offsets",
    "gauge",
    "Publishing lag: offsets that are read and whose predictions are not published yet.",
)
KAFKA_UP: Final = Metric("churn_kafka_up", "gauge", "1 if Kafka answered when the worker looked last, every 10 s.")
LIVE: Final = Metric("churn_stream_live", "gauge", "1 if a run holds the lock of the lane.", ("lane",))
STANDBYS: Final = Metric(
    "churn_stream_standbys", "gauge", "Runs that have loaded everything and wait for the lock of the lane.", ("lane",)
)
PAUSED: Final = Metric("churn_stream_paused", "gauge", "1 if an operator has paused the stream.")
BATCH_AGE: Final = Metric(
    "churn_stream_batch_age_seconds",
    "gauge",
    "Time since the lane's open batch was opened. Absent without an open batch.",
    ("lane",),
)
LAST_COMMIT: Final = Metric(
    "churn_stream_last_commit_timestamp_seconds",
    "gauge",
    "When the latest commit with events was, in seconds since 1970. Absent before the first.",
)
MODEL_VERSION: Final = Metric("churn_model_version", "gauge", "Version of the champion. Absent without one.")
MODEL_AGE: Final = Metric(
    "churn_model_age_seconds", "gauge", "Time since the champion was trained. Absent without one."
)
DRIFT: Final = Metric(
    "churn_model_drift_psi",
    "gauge",
    "Population stability index of each feature and of the score, against the training data of the champion, on the "
    "latest day that was evaluated.",
    ("feature",),
)
LIVE_AUC: Final = Metric(
    "churn_model_live_roc_auc",
    "gauge",
    "ROC AUC of the champion on predictions whose outcome is known. Absent until outcomes of both kinds are known.",
)
EXPECTED_AUC: Final = Metric(
    "churn_model_expected_roc_auc", "gauge", "Out-of-fold ROC AUC of the champion in training, to compare with."
)
LABELLED: Final = Metric("churn_model_live_predictions", "gauge", "Predictions that the live ROC AUC is computed from.")
RUNS: Final = Metric(
    "churn_dagster_runs",
    "gauge",
    "Dagster runs that have not ended, by state: queued, starting or started.",
    ("state",),
)
FAILED_RUNS: Final = Metric(
    "churn_dagster_failed_runs", "gauge", "Dagster runs that failed in the last hour, by job.", ("job",)
)
HEARTBEAT_AGE: Final = Metric(
    "churn_dagster_heartbeat_age_seconds", "gauge", "Time since the latest heartbeat of Dagster's daemon."
)
HOURS: Final = Metric(
    "churn_metrics_hours",
    "gauge",
    "Hourly partitions of the metrics: current, missing (never computed), outdated (computed before later "
    "predictions), and failed (missing or outdated, and the latest run for it failed).",
    ("state",),
)
DATABASE_BYTES: Final = Metric("churn_database_bytes", "gauge", "Size of the database on disk.")
OUTBOX: Final = Metric(
    "churn_outbox_messages",
    "gauge",
    "Messages in the outbox of alerts that were not dismissed, by status: pending, sending, sent, in_doubt or failed.",
    ("status",),
)
CONDITION: Final = Metric(
    "churn_operator_condition", "gauge", "1 while the operator condition of this name is open, else 0.", ("condition",)
)
CONDITIONS_EVALUATED: Final = Metric(
    "churn_operator_conditions_timestamp_seconds",
    "gauge",
    "When a worker last evaluated the operator conditions, in seconds since 1970. Absent before the first time.",
)

API_REQUESTS: Final = Metric(
    "churn_api_requests_total",
    "counter",
    "Requests, by method, route and HTTP status.",
    ("method", "route", "status"),
    "api",
)
API_SECONDS: Final = Metric(
    "churn_api_request_seconds", "histogram", "Time from the request to the end of its answer.", ("route",), "api"
)
API_SCORED: Final = Metric("churn_api_scored_customers_total", "counter", "Customers who were scored.", (), "api")
API_REFUSED: Final = Metric(
    "churn_api_refused_customers_total",
    "counter",
    "Customers who could not be scored, by the field that was wrong; message if it was none.",
    ("field",),
    "api",
)
API_MODEL_VERSION: Final = Metric(
    "churn_api_model_version", "gauge", "Version of the model that scores; 0 before the first.", (), "api"
)

METRICS: Final = (
    *(UP, DUTY_UP, DUTY_ACTIVE, READ_SECONDS),
    *(EVENTS, DEAD_LETTERS, COMMITS, COMMIT_LATENCY, END_TO_END_LATENCY),
    *(LAG, HELD, UNPUBLISHED, KAFKA_UP, LIVE, STANDBYS, PAUSED, BATCH_AGE, LAST_COMMIT),
    *(MODEL_VERSION, MODEL_AGE, DRIFT, LIVE_AUC, EXPECTED_AUC, LABELLED),
    *(RUNS, FAILED_RUNS, HEARTBEAT_AGE, HOURS, DATABASE_BYTES, OUTBOX, CONDITION, CONDITIONS_EVALUATED),
)
"""Of the worker."""
API_METRICS: Final = (API_REQUESTS, API_SECONDS, API_SCORED, API_REFUSED, API_MODEL_VERSION)
