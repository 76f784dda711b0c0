"""Columns of the PostgreSQL tables and fields of the Kafka messages, as the Dagster UI shows them.

The customers' columns follow from the customer schema, those of churn_predictions from database/prediction_columns.py.
"""

from collections.abc import Iterable

import dagster as dg

from churn_platform.database.averages import averages
from churn_platform.database.prediction_columns import Origin, PredictionColumn, prediction_table
from churn_platform.orchestration.assets.column_lineage import table_metadata
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema

EVENTS = "customer_events"
CUSTOMERS_FILE = "customers_file"
CASES = "retention_cases"
OUTCOMES = "customer_outcomes"

Metadata = dict[str, dg.TableSchema | dg.TableColumnLineage]


def _columns(*columns: tuple[str, str, str] | tuple[str, str, str, str | list[str]]) -> Metadata:
    """Return the metadata of a table, from name, type, description and the source column or columns.

    Without a source, or with an empty one, a column is computed from no other.
    """
    return table_metadata(
        (dg.TableColumn(name, type_, description=text) for name, type_, text, *_ in columns),
        {
            name: [sources[0]] if isinstance(sources[0], str) else sources[0]
            for name, _, _, *sources in columns
            if sources and sources[0]
        },
    )


def _json_type(column: Column) -> str:
    return {"whole": "integer", "flag": "integer", "number": "number"}.get(column.kind, "string")


def event_fields(schema: CustomerSchema) -> Metadata:
    """Return the fields of customer_events."""
    return _columns(
        *(
            (column.name, _json_type(column), column.meaning)
            for column in schema.columns
            if column.name in schema.event_fields
        ),
        ("event_id", "string", "Id of the event, preferably a UUID. Without one, the message's position is used."),
        (
            "event_timestamp",
            "string",
            "Time of the event, RFC 3339 with a time zone. Without one, Kafka's timestamp is used.",
        ),
        ("true_churn_label", "integer", "1 left, 0 stayed; only if already known."),
    )


_RISK = "P(churn), 0 to 1"
# Of each column of churn_predictions that is the same for every schema.
_DESCRIPTIONS = {
    "event_id": "Id of the event; a UUIDv5 of the id that was sent if that is not a UUID.",
    "event_ref": "The id that was sent, if it is not a UUID.",
    "prediction": "1 churn, 0 retained: whether risk_score reaches the model's threshold.",
    "probability": f"{_RISK}; the same number as risk_score.",
    "risk_score": f"{_RISK}, by model_version; high risk from HIGH_RISK_THRESHOLD.",
    "predicted_at": "When the events of the commit were scored, UTC.",
    "event_timestamp": "Time of the event, UTC; Kafka's timestamp if the event has none.",
    "model_version": "Version that scored the event, in model_versions and in MLflow's registry.",
    "true_churn_label": "1 left, 0 stayed; null if the event does not have it.",
    "batch": "Batch of the row, which is a partition of this asset.",
    "kafka_partition": "Kafka partition that the event was read from.",
    "kafka_offset": "Offset of the message in that partition.",
}
_JSON_TYPES = {
    "uuid": "string",
    "text": "string",
    "timestamptz": "string",
    "date": "string",
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "real": "number",
    "double precision": "number",
}


def _prediction_description(column: PredictionColumn, schema: CustomerSchema) -> str:
    if column.origin is Origin.CUSTOMER:
        return schema.column(column.field).meaning
    return schema.id_column.meaning if column.name == "customer_id" else _DESCRIPTIONS[column.name]


def _prediction_sources(column: PredictionColumn, schema: CustomerSchema) -> str | list[str]:
    """Return the fields of events that the column is computed from."""
    names = {"customer_id": schema.id, "event_ref": "event_id"}
    if column.origin is Origin.CUSTOMER:
        return [f"{EVENTS}.{column.field}"]
    if column.name == "risk_score":
        return [f"{EVENTS}.{name}" for name in schema.feature_columns]
    if column.origin is Origin.EVENT and not column.name.startswith("kafka_"):
        return [f"{EVENTS}.{names.get(column.field, column.field)}"]
    return []


def prediction_columns(schema: CustomerSchema) -> Metadata:
    """Return the columns of churn_predictions."""
    return _columns(
        *(
            (
                column.name,
                column.type,
                _prediction_description(column, schema),
                _prediction_sources(column, schema),
            )
            for column in prediction_table(schema).columns
        )
    )


def published_fields(schema: CustomerSchema) -> Metadata:
    """Return the fields of published predictions."""
    return _columns(
        *(
            (
                column.name,
                _JSON_TYPES[column.type],
                _prediction_description(column, schema),
                f"churn_predictions.{column.name}",
            )
            for column in prediction_table(schema).published
        )
    )


DEAD_LETTER_COLUMNS = _columns(
    ("topic_id", "text", "Kafka's id of the topic; a recreated topic has another id."),
    ("kafka_partition", "integer", "Kafka partition that the message was read from."),
    ("kafka_offset", "bigint", "Offset in that partition."),
    ("batch", "text", "Batch that read it."),
    ("topic", "text", "Name of the topic."),
    ("reason", "text", "The problem: what was expected and what was found."),
    ("payload", "bytea", "The original bytes; null for a tombstone."),
    ("kafka_timestamp", "timestamptz", "Kafka's timestamp of the message, UTC."),
    ("received_at", "timestamptz", "When the message was read, UTC."),
    ("retry_event_id", "uuid", "Id of the corrected event that was sent instead."),
    ("retried_at", "timestamptz", "When the corrected event was sent, UTC."),
    ("resolved_at", "timestamptz", "When the corrected event was scored, UTC."),
)


def high_risk_columns(schema: CustomerSchema) -> Metadata:
    """Return the columns of high_risk_customers."""
    return _columns(
        ("event_id", "uuid", "Event of churn_predictions.", "churn_predictions.event_id"),
        ("batch", "text", "Batch of the event.", "churn_predictions.batch"),
        ("customer_id", schema.id_type, schema.id_column.description, "churn_predictions.customer_id"),
        (
            "risk_score",
            "real",
            "P(churn), at least the batch's threshold; a row with alert_sent stays even if a replay scores it lower.",
            "churn_predictions.risk_score",
        ),
        *(
            (column.name, column.type, _prediction_description(column, schema), f"churn_predictions.{column.name}")
            for column in prediction_table(schema).summary
        ),
        (
            "reasons",
            "jsonb",
            "Greatest contributions to the log-odds: feature, value, contribution; null until explained.",
            "churn_predictions.risk_score",
        ),
        ("detected_at", "timestamptz", "When the event was scored, UTC.", "churn_predictions.predicted_at"),
        ("alert_sent", "boolean", "Whether an alert was sent. Set by you; a replay does not change it."),
        ("alert_sent_at", "timestamptz", "When the alert was sent, UTC."),
    )


def labelled_columns(schema: CustomerSchema) -> Metadata:
    """Return the columns of labelled_customers."""
    predictions = prediction_table(schema)
    return _columns(
        (schema.id, schema.id_column.dtype, schema.id_column.description, "churn_predictions.customer_id"),
        *(
            (
                name,
                _json_type(schema.column(name)),
                schema.column(name).meaning,
                f"churn_predictions.{predictions.of_field(name).name}",
            )
            for name in schema.inputs
        ),
        (schema.target, "int64", "1 if the customer left within OUTCOME_DAYS, else 0.", f"{OUTCOMES}.churned"),
        ("training_weight", "float64", "Number of customers that the row stands for.", f"{CASES}.arm"),
    )


def effect_columns() -> Metadata:
    """Return the columns of retention_effect."""
    counts = (
        ("entered", "customers who entered the call list", f"{CASES}.customer_id"),
        ("open", "whose time is not over", f"{CASES}.customer_id"),
        ("unknown", "whose outcome is unknown", f"{OUTCOMES}.churned"),
        ("stayed", "who stayed", f"{OUTCOMES}.churned"),
        ("left", "who left within OUTCOME_DAYS", f"{OUTCOMES}.churned"),
        ("contacted", "who were called", f"{CASES}.contacted_at"),
    )
    arms = [
        column
        for arm in ("contact", "control")
        for column in (
            *((f"{arm}_{name}", "bigint", f"{arm.title()} arm: {text}.", source) for name, text, source in counts),
            (
                f"{arm}_churn_rate",
                "double precision",
                f"{arm.title()} arm: share who left, of those whose outcome is known.",
                f"{OUTCOMES}.churned",
            ),
        )
    ]
    compared = [f"{CASES}.arm", f"{OUTCOMES}.churned"]
    estimates = [
        (f"{name}{end}", "double precision", f"{text}{of_interval}", compared)
        for name, text in (
            ("reduction", "Churn rate of the control arm minus that of the contact arm"),
            ("customers_saved", "Customers who stayed because of calls"),
            ("money_saved", "What would have been lost with them"),
        )
        for end, of_interval in (
            ("", "."),
            ("_low", ": lower end of the 95 % interval."),
            ("_high", ": upper end of the 95 % interval."),
        )
    ]
    return _columns(
        ("date", "date", "Day of the comparison, UTC."),
        ("month", "text", "Month of the entry into the call list; or all.", f"{CASES}.list_day"),
        ("segment", "text", "Segment of the schema; or all.", f"{CASES}.segments"),
        ("value", "text", "Value of the segment; or all.", f"{CASES}.segments"),
        ("outcome_days", "integer", "Days after the entry that count (OUTCOME_DAYS)."),
        *arms,
        *estimates,
        ("cases_needed", "bigint", "Known outcomes that are still needed until the interval excludes 0.", compared),
        ("conclusion", "text", "What the comparison says.", compared),
        ("warnings", "text[]", "What makes the comparison invalid or weak.", compared),
        ("updated_at", "timestamptz", "When the row was computed, UTC."),
    )


def file_score_columns(schema: CustomerSchema) -> Metadata:
    """Return the columns of customer_file_scores."""
    features = [f"{CUSTOMERS_FILE}.{name}" for name in schema.feature_columns]
    return _columns(
        ("customer_id", schema.id_type, schema.id_column.description, f"{CUSTOMERS_FILE}.{schema.id}"),
        ("event_id", "uuid", "Identifies this score of the customer, as the id of an event does."),
        ("risk_score", "real", "P(churn), at least HIGH_RISK_THRESHOLD.", features),
        ("model_version", "integer", "Version that scored the customer."),
        ("scored_at", "timestamptz", "When the scoring of the file began, UTC."),
        *(
            (column.name, column.type, _prediction_description(column, schema), f"{CUSTOMERS_FILE}.{column.field}")
            for column in prediction_table(schema).customer
        ),
        ("reasons", "jsonb", "Greatest contributions to the log-odds: feature, value, contribution.", features),
    )


def case_columns(schema: CustomerSchema) -> Metadata:
    """Return the columns of retention_cases."""
    money = schema.money_at_risk
    return _columns(
        ("case_id", "bigint", "Number of the case."),
        ("customer_id", schema.id_type, schema.id_column.description, "churn_predictions.customer_id"),
        ("arm", "text", "contact, or control: never called."),
        ("status", "text", "open, assigned, contacted, or closed: kept, lost, dismissed, expired."),
        ("owner", "text", "Who cares for the customer."),
        ("notes", "text", "Notes of the retention team."),
        ("opened_at", "timestamptz", "When the case was opened, UTC."),
        ("contacted_at", "timestamptz", "When the customer was called, UTC."),
        ("closed_at", "timestamptz", "When the case was closed, UTC."),
        ("reason", "text", "Why the platform has closed the case."),
        ("event_id", "uuid", "The customer's latest event.", "churn_predictions.event_id"),
        ("event_timestamp", "timestamptz", "Its time, UTC.", "churn_predictions.event_timestamp"),
        ("model_version", "integer", "Model version that scored it.", "churn_predictions.model_version"),
        ("risk_score", "real", f"{_RISK}, at that event.", "churn_predictions.risk_score"),
        ("highest_risk_score", "real", f"Highest {_RISK}, since the case is open.", "churn_predictions.risk_score"),
        ("reasons", "text[]", "What raises the risk, as sentences.", "high_risk_customers.reasons"),
        (
            "money_at_risk",
            "double precision",
            "Money that is lost with the customer.",
            [] if money is None else f"churn_predictions.{money.column}",
        ),
        (
            "priority",
            "double precision",
            "Expected value of a call: risk x success rate x value - cost.",
            ["churn_predictions.risk_score", *([] if money is None else [f"churn_predictions.{money.column}"])],
        ),
        (
            "segments",
            "jsonb",
            "The customer's value or band in each segment.",
            [f"churn_predictions.{column.column}" for column in schema.segments],
        ),
        ("link", "text", "The customer in your own CRM.", "churn_predictions.customer_id"),
        ("list_day", "date", "Day of the call list that the case is on."),
        ("list_rank", "integer", "Place on that list when it was ranked; v_call_list has the place now."),
    )


def alert_outbox_columns() -> Metadata:
    """Return the columns of alert_outbox."""
    return _columns(
        ("id", "bigint", "Number of the message."),
        ("kind", "text", "case, digest or operator."),
        ("reference", "text", "What it is about: the case, the time of the digest, or the condition and its state."),
        ("target", "text", "Name of the target. Addresses are not stored."),
        ("payload", "jsonb", "Subject, text, and the cases or the condition as data."),
        ("idempotency_key", "uuid", "Sent with every attempt, so that a receiver can recognize a repetition."),
        ("status", "text", "pending, sending, sent, in_doubt or failed."),
        ("created_at", "timestamptz", "When it was written, UTC."),
        ("expires_at", "timestamptz", "When a pending message becomes failed, UTC."),
        ("attempts", "integer", "Attempts to send it."),
        ("next_attempt", "timestamptz", "Earliest time of the next attempt, UTC."),
        ("sent_at", "timestamptz", "When the receiver took it, UTC."),
        ("last_error", "text", "Why the last attempt did not succeed."),
        ("dismissed_at", "timestamptz", "When an operator decided that it is no longer wanted, UTC."),
    )


def operator_condition_columns() -> Metadata:
    """Return the columns of operator_conditions."""
    return _columns(
        ("id", "bigint", "Number of the row."),
        ("name", "text", "Name of the condition."),
        ("subject", "text", "What has the problem, such as a job; empty where there is only one."),
        ("details", "text", "Latest measurement."),
        ("began", "timestamptz", "When it was first found, UTC."),
        ("clear_since", "timestamptz", "Since when it is no longer found, UTC."),
        ("ended", "timestamptz", "When it ended, UTC."),
        ("reminders", "integer", "Reminders sent."),
        ("last_reminder", "timestamptz", "When the latest reminder was written, UTC."),
    )


def call_list_columns(schema: CustomerSchema) -> Metadata:
    """Return the columns of v_call_list."""
    return _columns(
        ("rank", "integer", "Place on the list, 1 first.", "retention_cases.list_rank"),
        *(
            (name, schema.id_type if name == "customer_id" else kind, text, f"retention_cases.{name}")
            for name, kind, text in (
                ("case_id", "bigint", "Number of the case."),
                ("customer_id", "", schema.id_column.description),
                ("risk_score", "real", f"{_RISK}, at the latest event."),
                ("priority", "double precision", "Expected value of the call."),
                ("money_at_risk", "double precision", "Money that is lost with the customer."),
                ("reasons", "text[]", "What raises the risk, as sentences."),
                ("status", "text", "open or assigned."),
                ("owner", "text", "Who cares for the customer."),
                ("notes", "text", "Notes of the retention team."),
                ("link", "text", "The customer in your own CRM."),
                ("list_day", "date", "Day of the list, in BUSINESS_TIMEZONE."),
                ("opened_at", "timestamptz", "When the case was opened, UTC."),
                ("event_timestamp", "timestamptz", "Time of the latest event, UTC."),
                ("segments", "jsonb", "The customer's value or band in each segment."),
            )
        ),
    )


def _metrics(schema: CustomerSchema, upstream: str, sources: dict[str, str]) -> Iterable[tuple[str, str, str, str]]:
    """Return the columns of hourly and daily metrics. `sources` maps those with another name upstream."""
    for name, kind, text in (
        ("total_predictions", "bigint", "Predictions."),
        ("churn_count", "bigint", "Predictions of churn."),
        ("churn_rate", "double precision", "churn_count as a percentage of total_predictions, 0 to 100."),
        ("avg_risk_score", "double precision", "Mean P(churn), 0 to 1."),
        ("high_risk_count", "bigint", "High-risk predictions: a risk score from the threshold of their batch."),
        *(
            (
                each.average,
                "double precision",
                _sentence(
                    each.unit or f"mean {each.column}",
                    ", without missing values" if each.may_be_missing else "",
                ),
            )
            for each in averages(schema)
        ),
        *(
            (each.count, "bigint", f"Predictions with a known {each.column}: the weight of {each.average}.")
            for each in averages(schema)
            if each.may_be_missing
        ),
    ):
        yield name, kind, text, f"{upstream}.{sources.get(name, name)}"
    yield (
        "version",
        "bigint",
        "Version of the hour (sum of the day's hours) that these metrics include: see dirty_hours.",
        "",
    )


def _sentence(text: str, end: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{end}."


def hourly_columns(schema: CustomerSchema) -> Metadata:
    """Return the columns of churn_metrics_hourly."""
    sources = {
        "total_predictions": "event_id",
        "churn_count": "prediction",
        "churn_rate": "prediction",
        "avg_risk_score": "risk_score",
        "high_risk_count": "risk_score",
        **{name: each.column for each in averages(schema) for name in (each.average, each.count)},
    }
    return _columns(
        (
            "hour_timestamp",
            "timestamptz",
            "Start of the hour of the events, UTC.",
            "churn_predictions.event_timestamp",
        ),
        *_metrics(schema, "churn_predictions", sources),
    )


def daily_columns(schema: CustomerSchema) -> Metadata:
    """Return the columns of churn_metrics_daily."""
    return _columns(
        ("date", "date", "Day of the events, UTC.", "churn_metrics_hourly.hour_timestamp"),
        *_metrics(schema, "churn_metrics_hourly", {}),
    )


def outcome_fields(schema: CustomerSchema) -> Metadata:
    """Return the fields of customer_outcomes_topic."""
    identity = schema.id_column
    return _columns(
        ("true_churn_label", "integer", "1 left, 0 stayed."),
        ("event_id", "string", "Id of the event, as it was sent."),
        (schema.id, _json_type(identity), f"{identity.description.rstrip('.')}, if there is no event_id."),
        (
            "outcome_timestamp",
            "string",
            "When the outcome was known, RFC 3339 with a time zone. Without one, Kafka's timestamp is used.",
        ),
    )


def outcome_columns(schema: CustomerSchema) -> Metadata:
    """Return the columns of customer_outcomes."""
    return _columns(
        ("topic_id", "text", "Kafka's id of the topic; a recreated topic has another id."),
        ("kafka_partition", "integer", "Kafka partition that the message was read from."),
        ("kafka_offset", "bigint", "Offset in that partition."),
        ("event_id", "uuid", "Event of churn_predictions, if the outcome has one.", "customer_outcomes_topic.event_id"),
        (
            "customer_id",
            schema.id_type,
            "Customer, if the outcome has one.",
            [f"customer_outcomes_topic.{schema.id}"],
        ),
        ("churned", "smallint", "1 left, 0 stayed.", "customer_outcomes_topic.true_churn_label"),
        (
            "outcome_timestamp",
            "timestamptz",
            "When the outcome was known, UTC. A customer's outcome applies to predictions before it.",
            "customer_outcomes_topic.outcome_timestamp",
        ),
        ("received_at", "timestamptz", "When the message was read, UTC."),
    )


def _drift(time: tuple[str, str, str, str]) -> Metadata:
    """Return the columns of a drift table. The first is its time."""
    return _columns(
        time,
        (
            "model_version",
            "integer",
            "Version that scored the predictions, and whose reference they are compared with.",
        ),
        ("feature", "text", "Raw column, or risk_score."),
        ("sampled", "bigint", "Predictions in the sample."),
        (
            "weight",
            "double precision",
            "Number of predictions that each one in the sample represents; 1 without sampling.",
        ),
        ("counts", "bigint[]", "Sampled predictions in each bin of model_references; the last bin is for nulls."),
        ("outside", "bigint", "Sampled predictions with a value that no training row has."),
        ("psi", "double precision", "Population stability index, from 0; 0.1 is a moderate shift, 0.25 a large one."),
        ("p_value", "double precision", "Of a chi-squared test of equal distributions, 0 to 1."),
        ("verdict", "text", "stable, shifted, far, too few (to evaluate) or no reference."),
        ("missing_rate", "double precision", "Share of nulls, 0 to 1."),
        ("out_of_range_rate", "double precision", "outside as a share of sampled, 0 to 1."),
        ("version", "bigint", "Version of the hour (sum of the day's hours) that is included: see dirty_hours."),
        ("updated_at", "timestamptz", "When it was computed, UTC."),
    )


DRIFT_HOURLY_COLUMNS = _drift(
    ("hour_timestamp", "timestamptz", "Start of the hour of the events, UTC.", "churn_predictions.event_timestamp")
)
DRIFT_DAILY_COLUMNS = _drift(("date", "date", "Day of the events, UTC.", "drift_hourly.hour_timestamp"))
LIVE_COLUMNS = _columns(
    ("date", "date", "Last day of the window, UTC.", "churn_predictions.event_timestamp"),
    ("model_version", "integer", "Version that made the predictions.", "churn_predictions.model_version"),
    ("window_days", "integer", "Days of events in the window."),
    ("labelled", "bigint", "Predictions with a known outcome."),
    (
        "churned",
        "bigint",
        "Customers among them who left.",
        ["churn_predictions.true_churn_label", "customer_outcomes.churned"],
    ),
    ("roc_auc", "double precision", "ROC AUC, 0 to 1; null if all left or all stayed."),
    ("roc_auc_error", "double precision", "Its standard error (Hanley and McNeil)."),
    ("expected_roc_auc", "double precision", "Out-of-fold ROC AUC of the version's training."),
    ("precision", "double precision", "Share of those predicted to leave who left, 0 to 1."),
    ("recall", "double precision", "Share of those who left who were predicted to leave, 0 to 1."),
    ("brier", "double precision", "Mean squared error of the score, 0 to 1."),
    ("ece", "double precision", "Expected calibration error over ten bins, 0 to 1."),
    ("mean_score", "double precision", "Mean score.", "churn_predictions.risk_score"),
    ("churn_rate", "double precision", "Share of customers who left, 0 to 1."),
    ("updated_at", "timestamptz", "When it was computed, UTC."),
)
