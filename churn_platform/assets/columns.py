"""Column schemas of the PostgreSQL tables, as the Dagster UI shows them."""

import dagster as dg


def _columns(*columns: tuple[str, str, str]) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, type_, description=text) for name, type_, text in columns])


PREDICTION_COLUMNS = _columns(
    ("event_id", "uuid", "Id of the event; a UUIDv5 of what was sent where that was no UUID"),
    ("event_ref", "text", "The id as sent, where it was not a UUID"),
    ("customer_id", "bigint", "CustomerId"),
    ("prediction", "smallint", "1 churn, 0 retained: risk_score against the model's threshold"),
    ("probability", "real", "P(churn), 0 to 1; the same number as risk_score"),
    ("risk_score", "real", "P(churn), 0 to 1; high risk from 0.7"),
    ("predicted_at", "timestamptz", "When the commit was scored"),
    ("event_timestamp", "timestamptz", "Time of the event, UTC; Kafka's own where it had none"),
    ("model_version", "integer", "Champion that scored it: model_versions.version"),
    ("credit_score", "smallint", "Points, 300 to 900"),
    ("geography", "text", "France, Germany or Spain"),
    ("gender", "text", "Female or Male"),
    ("age", "real", "Years, 18 to 120; null where unknown"),
    ("tenure", "smallint", "Years with the bank"),
    ("balance", "double precision", "Account balance, euros"),
    ("num_of_products", "smallint", "Products held"),
    ("has_cr_card", "smallint", "1 holds a credit card"),
    ("is_active_member", "smallint", "1 active"),
    ("estimated_salary", "double precision", "Euros a year"),
    ("true_churn_label", "smallint", "1 left, 0 stayed; null where the event did not say"),
    ("batch", "text", "Batch, and prediction partition, that the row belongs to"),
    ("kafka_partition", "integer", "Where the event was read from"),
    ("kafka_offset", "bigint", "Where the event was read from"),
)

HIGH_RISK_COLUMNS = _columns(
    ("event_id", "uuid", "Event of churn_predictions"),
    ("batch", "text", "Batch of the event"),
    ("customer_id", "bigint", "CustomerId"),
    ("risk_score", "real", "P(churn), 0 to 1"),
    ("geography", "text", "France, Germany or Spain"),
    ("gender", "text", "Female or Male"),
    ("age", "real", "Years; null where unknown"),
    ("balance", "double precision", "Euros"),
    ("reasons", "jsonb", "What moves the log-odds most: feature, value, contribution; null until explained"),
    ("detected_at", "timestamptz", "When the event was scored"),
    ("alert_sent", "boolean", "Whether somebody was told"),
    ("alert_sent_at", "timestamptz", "When somebody was told"),
)

_SUMMARY = (
    ("total_predictions", "bigint", "Predictions"),
    ("churn_count", "bigint", "Predictions of churn"),
    ("churn_rate", "double precision", "Per cent, 0 to 100"),
    ("avg_risk_score", "double precision", "0 to 1"),
    ("high_risk_count", "bigint", "Risk score from 0.7"),
    ("avg_age", "double precision", "Years, unknown ages left out"),
    ("avg_balance", "double precision", "Euros"),
    ("avg_tenure", "double precision", "Years"),
    ("age_count", "bigint", "Predictions whose age is known: the weight of avg_age"),
    ("version", "bigint", "Changes of the hour (hours of the day) that these figures include: compare dirty_hours"),
)
HOURLY_COLUMNS = _columns(("hour_timestamp", "timestamptz", "Start of the hour of the events, UTC"), *_SUMMARY)
DAILY_COLUMNS = _columns(("date", "date", "Day of the events, UTC"), *_SUMMARY)
