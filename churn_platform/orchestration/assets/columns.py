"""Columns of the PostgreSQL tables and fields of the Kafka messages, as the Dagster UI shows them."""

from collections.abc import Iterable

import dagster as dg

from churn_platform.features.columns import INPUT_COLUMNS
from churn_platform.orchestration.assets.column_lineage import table_metadata
from churn_platform.schema.columns import COLUMNS, COLUMNS_BY_NAME, CUSTOMER_ID

Metadata = dict[str, dg.TableSchema | dg.TableColumnLineage]


def _columns(*columns: tuple[str, str, str] | tuple[str, str, str, str]) -> Metadata:
    """Metadata of a table, from name, type, meaning and, space-separated, the columns that each comes from."""
    return table_metadata(
        (dg.TableColumn(name, type_, description=text) for name, type_, text, *_ in columns),
        {name: sources[0].split() for name, _, _, *sources in columns if sources},
    )


def _meaning(name: str) -> str:
    """What a customer's column means, and the values that it has where customers are scored."""
    column = COLUMNS_BY_NAME[name]
    return f"{column.description} Values: {column.allowed_when_scored}."


def _event_fields() -> Iterable[tuple[str, str, str]]:
    for column in COLUMNS:
        if column.name in (CUSTOMER_ID, *INPUT_COLUMNS):
            yield (
                column.name,
                {"whole": "integer", "number": "number"}.get(column.kind, "string"),
                _meaning(column.name),
            )


EVENT_FIELDS = _columns(
    *_event_fields(),
    ("event_id", "string", "Id of the event, best a UUID; left out, the message's position stands in for it."),
    ("event_timestamp", "string", "When it happened, RFC 3339 with a time zone; left out, Kafka's own time counts."),
    ("true_churn_label", "integer", "1 left, 0 stayed, where that is known already."),
)

PREDICTION_COLUMNS = _columns(
    (
        "event_id",
        "uuid",
        "Id of the event; a UUIDv5 of what was sent where that was no UUID.",
        "customer_events.event_id",
    ),
    ("event_ref", "text", "The id as sent, where it was not a UUID.", "customer_events.event_id"),
    ("customer_id", "bigint", _meaning("CustomerId"), "customer_events.CustomerId"),
    ("prediction", "smallint", "1 churn, 0 retained: risk_score against the model's threshold."),
    ("probability", "real", "P(churn), 0 to 1; the same number as risk_score."),
    (
        "risk_score",
        "real",
        "P(churn), 0 to 1, by the model version beside it; high risk from 0.7.",
        " ".join(f"customer_events.{name}" for name in INPUT_COLUMNS),
    ),
    ("predicted_at", "timestamptz", "When the commit was scored, UTC."),
    (
        "event_timestamp",
        "timestamptz",
        "Time of the event, UTC; Kafka's own where it had none.",
        "customer_events.event_timestamp",
    ),
    ("model_version", "integer", "Champion that scored it: the version in model_versions and in MLflow's registry."),
    ("credit_score", "smallint", _meaning("CreditScore"), "customer_events.CreditScore"),
    ("geography", "text", _meaning("Geography"), "customer_events.Geography"),
    ("gender", "text", _meaning("Gender"), "customer_events.Gender"),
    ("age", "real", _meaning("Age"), "customer_events.Age"),
    ("tenure", "smallint", _meaning("Tenure"), "customer_events.Tenure"),
    ("balance", "double precision", _meaning("Balance"), "customer_events.Balance"),
    ("num_of_products", "smallint", _meaning("NumOfProducts"), "customer_events.NumOfProducts"),
    ("has_cr_card", "smallint", _meaning("HasCrCard"), "customer_events.HasCrCard"),
    ("is_active_member", "smallint", _meaning("IsActiveMember"), "customer_events.IsActiveMember"),
    ("estimated_salary", "double precision", _meaning("EstimatedSalary"), "customer_events.EstimatedSalary"),
    (
        "true_churn_label",
        "smallint",
        "1 left, 0 stayed; null where the event did not say.",
        "customer_events.true_churn_label",
    ),
    ("batch", "text", "Batch, which is the partition of this asset, that the row belongs to."),
    ("kafka_partition", "integer", "Kafka partition that the event was read from."),
    ("kafka_offset", "bigint", "Its offset there: with the partition, the very message."),
)

PUBLISHED_FIELDS = _columns(
    *(
        (name, kind, text, f"churn_predictions.{name}")
        for name, kind, text in (
            ("event_id", "string", "Id of the event."),
            ("customer_id", "integer", "The bank's number for the customer; the message's key, too."),
            ("prediction", "integer", "1 churn, 0 retained."),
            ("probability", "number", "P(churn), 0 to 1."),
            ("risk_score", "number", "P(churn), 0 to 1; high risk from 0.7."),
            ("model_version", "integer", "Champion that scored it."),
            ("event_timestamp", "string", "Time of the event, ISO 8601, UTC."),
            ("predicted_at", "string", "When the commit was scored, ISO 8601, UTC."),
            ("geography", "string", "France, Germany or Spain."),
            ("gender", "string", "Female or Male."),
            ("age", "number", "Years, or null."),
            ("balance", "number", "Euros."),
            ("batch", "string", "Batch of the row."),
            ("kafka_partition", "integer", "Partition of the events topic that the event was read from."),
            ("kafka_offset", "integer", "Its offset there."),
        )
    )
)

DEAD_LETTER_COLUMNS = _columns(
    ("topic_id", "text", "Kafka's id of the topic: one that was deleted and made anew is another."),
    ("kafka_partition", "integer", "Kafka partition that the message was read from."),
    ("kafka_offset", "bigint", "Its offset there."),
    ("batch", "text", "Batch that read it."),
    ("topic", "text", "Name of the topic."),
    ("reason", "text", "What is wrong, what was expected and what was found."),
    ("payload", "bytea", "The bytes as they came; null for a tombstone."),
    ("kafka_timestamp", "timestamptz", "Kafka's time of the message, UTC."),
    ("received_at", "timestamptz", "When it was read, UTC."),
    ("retry_event_id", "uuid", "Id of the corrected event that was sent for this one."),
    ("retried_at", "timestamptz", "When that was sent, UTC."),
    ("resolved_at", "timestamptz", "When that was scored, UTC."),
)

HIGH_RISK_COLUMNS = _columns(
    *(
        (name, kind, text, f"churn_predictions.{source}")
        for name, kind, text, source in (
            ("event_id", "uuid", "Event of churn_predictions.", "event_id"),
            ("batch", "text", "Batch of the event.", "batch"),
            ("customer_id", "bigint", "The bank's number for the customer.", "customer_id"),
            (
                "risk_score",
                "real",
                "P(churn), 0.7 to 1; an alerted row keeps its place when a replay scores it lower.",
                "risk_score",
            ),
            ("geography", "text", "France, Germany or Spain.", "geography"),
            ("gender", "text", "Female or Male.", "gender"),
            ("age", "real", "Years; null where unknown.", "age"),
            ("balance", "double precision", "Euros.", "balance"),
            (
                "reasons",
                "jsonb",
                "What moves the log-odds most: feature, value, contribution; null until explained.",
                "risk_score",
            ),
            ("detected_at", "timestamptz", "When the event was scored, UTC.", "predicted_at"),
        )
    ),
    ("alert_sent", "boolean", "Whether somebody was told; yours to set, and never touched by a replay."),
    ("alert_sent_at", "timestamptz", "When somebody was told, UTC."),
)


def _summary(upstream: str, sources: dict[str, str]) -> Iterable[tuple[str, str, str] | tuple[str, str, str, str]]:
    """Columns of hourly and daily figures; `sources` are columns of upstream, the figure's own name unless given."""
    for name, kind, text in (
        ("total_predictions", "bigint", "Predictions."),
        ("churn_count", "bigint", "Predictions of churn."),
        ("churn_rate", "double precision", "churn_count in per cent of total_predictions, 0 to 100."),
        ("avg_risk_score", "double precision", "Mean P(churn), 0 to 1."),
        ("high_risk_count", "bigint", "Predictions with a risk score from 0.7."),
        ("avg_age", "double precision", "Years, unknown ages left out."),
        ("avg_balance", "double precision", "Euros."),
        ("avg_tenure", "double precision", "Years."),
        ("age_count", "bigint", "Predictions whose age is known: the weight of avg_age."),
    ):
        yield name, kind, text, f"{upstream}.{sources.get(name, name)}"
    yield "version", "bigint", "Changes of the hour (hours of the day) that these figures include: see dirty_hours."


HOURLY_COLUMNS = _columns(
    (
        "hour_timestamp",
        "timestamptz",
        "Start of the hour of the events, UTC.",
        "churn_predictions.event_timestamp",
    ),
    *_summary(
        "churn_predictions",
        {
            "total_predictions": "event_id",
            "churn_count": "prediction",
            "churn_rate": "prediction",
            "avg_risk_score": "risk_score",
            "high_risk_count": "risk_score",
            "avg_age": "age",
            "avg_balance": "balance",
            "avg_tenure": "tenure",
            "age_count": "age",
        },
    ),
)
DAILY_COLUMNS = _columns(
    ("date", "date", "Day of the events, UTC.", "churn_metrics_hourly.hour_timestamp"),
    *_summary("churn_metrics_hourly", {}),
)

OUTCOME_FIELDS = _columns(
    ("true_churn_label", "integer", "1 left, 0 stayed."),
    ("event_id", "string", "Id of the event that this is known of, as it was sent."),
    ("CustomerId", "integer", "The bank's number for the customer, where no event is named."),
    ("outcome_timestamp", "string", "When it was known, RFC 3339 with a time zone; left out, Kafka's own time counts."),
)

OUTCOME_COLUMNS = _columns(
    ("topic_id", "text", "Kafka's id of the topic: one that was deleted and made anew is another."),
    ("kafka_partition", "integer", "Kafka partition that the message was read from."),
    ("kafka_offset", "bigint", "Its offset there."),
    ("event_id", "uuid", "Event of churn_predictions, where one was named.", "customer_outcomes_topic.event_id"),
    (
        "customer_id",
        "bigint",
        "Customer of whom it is known, where one was named.",
        "customer_outcomes_topic.CustomerId",
    ),
    ("churned", "smallint", "1 left, 0 stayed.", "customer_outcomes_topic.true_churn_label"),
    (
        "outcome_timestamp",
        "timestamptz",
        "When it was known, UTC; of a customer, predictions until then are judged by it.",
        "customer_outcomes_topic.outcome_timestamp",
    ),
    ("received_at", "timestamptz", "When it was read, UTC."),
)


def _drift(time: tuple[str, str, str, str]) -> Metadata:
    """Columns of a drift table, after the one that holds its time."""
    return _columns(
        time,
        ("model_version", "integer", "Model version that scored the predictions, and whose reference counts."),
        ("feature", "text", "Raw column, or risk_score."),
        ("sampled", "bigint", "Predictions that were looked at."),
        ("weight", "double precision", "How many predictions each of them stands for; 1 unless it was too many."),
        ("counts", "bigint[]", "Of the sampled ones in each bin of model_references; nulls have the last one."),
        ("outside", "bigint", "Of the sampled ones with a value that no row had that the model learned from."),
        ("psi", "double precision", "Population stability index, from 0: 0.1 has shifted, 0.25 is far off."),
        ("p_value", "double precision", "Of a chi-squared test that both are distributed alike, 0 to 1."),
        ("verdict", "text", "stable, shifted, far, too few (to be judged) or no reference."),
        ("missing_rate", "double precision", "Share of nulls, 0 to 1."),
        ("out_of_range_rate", "double precision", "outside as a share, 0 to 1."),
        ("version", "bigint", "Changes of the hour (hours of the day) that are included: see dirty_hours."),
        ("updated_at", "timestamptz", "When it was computed, UTC."),
    )


DRIFT_HOURLY_COLUMNS = _drift(
    ("hour_timestamp", "timestamptz", "Start of the hour of the events, UTC.", "churn_predictions.event_timestamp")
)
DRIFT_DAILY_COLUMNS = _drift(("date", "date", "Day of the events, UTC.", "drift_hourly.hour_timestamp"))
LIVE_COLUMNS = _columns(
    ("date", "date", "Last day of the window, UTC.", "churn_predictions.event_timestamp"),
    ("model_version", "integer", "Model version whose predictions these are.", "churn_predictions.model_version"),
    ("window_days", "integer", "Days of events that are looked back on."),
    ("labelled", "bigint", "Predictions whose outcome is known."),
    ("churned", "bigint", "Of them, those who left.", "churn_predictions.true_churn_label customer_outcomes.churned"),
    ("roc_auc", "double precision", "ROC AUC, 0 to 1; null while all left or all stayed."),
    ("roc_auc_error", "double precision", "Its standard error (Hanley and McNeil)."),
    ("expected_roc_auc", "double precision", "ROC AUC out of fold, when the version was trained."),
    ("precision", "double precision", "Of those predicted to leave, the share that left, 0 to 1."),
    ("recall", "double precision", "Of those who left, the share that was predicted to, 0 to 1."),
    ("brier", "double precision", "Mean squared error of the score, 0 to 1."),
    ("ece", "double precision", "Expected calibration error over ten groups, 0 to 1."),
    ("mean_score", "double precision", "Mean score.", "churn_predictions.risk_score"),
    ("churn_rate", "double precision", "Share that left, 0 to 1."),
    ("updated_at", "timestamptz", "When it was computed, UTC."),
)
