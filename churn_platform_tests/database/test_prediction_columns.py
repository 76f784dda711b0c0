"""The definition of the columns of churn_predictions agrees with the table, with events and with archived files."""

import psycopg

from churn_platform import archive
from churn_platform.database.prediction_columns import (
    CUSTOMER_COLUMNS,
    PREDICTION_COLUMNS,
    PUBLISHED_COLUMNS,
    Origin,
)
from churn_platform.features.columns import INPUT_COLUMNS
from churn_platform.schema.columns import COLUMNS_BY_NAME


def test_the_table_has_these_columns_in_this_order(database: str) -> None:
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "select attname, format_type(atttypid, atttypmod), not attnotnull, attgenerated <> '' from pg_attribute "
            "where attrelid = 'churn_predictions'::regclass and attnum > 0 order by attnum"
        ).fetchall()

    names = {"timestamp with time zone": "timestamptz"}
    table = [(row[0], names.get(row[1], row[1]), row[2] and not row[3], row[3]) for row in rows]
    assert table == [
        (column.name, column.type, column.nullable, column.origin is Origin.GENERATED) for column in PREDICTION_COLUMNS
    ]


def test_every_customer_column_that_features_are_made_of_is_stored() -> None:
    assert {column.field for column in CUSTOMER_COLUMNS} == set(INPUT_COLUMNS)
    assert {column.field: column.nullable for column in CUSTOMER_COLUMNS} == {
        name: COLUMNS_BY_NAME[name].missing == "imputed" for name in INPUT_COLUMNS
    }


def test_messages_and_files_keep_their_format() -> None:
    assert [column.name for column in PUBLISHED_COLUMNS] == [
        "event_id",
        "customer_id",
        "prediction",
        "probability",
        "risk_score",
        "model_version",
        "event_timestamp",
        "predicted_at",
        "geography",
        "gender",
        "age",
        "balance",
        "batch",
        "kafka_partition",
        "kafka_offset",
    ]
    assert archive.SCHEMA.to_string().splitlines() == [
        "event_id: string not null",
        "event_ref: string",
        "customer_id: int64 not null",
        "prediction: int16 not null",
        "risk_score: float not null",
        "probability: float not null",
        "predicted_at: timestamp[us, tz=UTC] not null",
        "event_timestamp: timestamp[us, tz=UTC] not null",
        "model_version: int32 not null",
        "credit_score: int16 not null",
        "geography: string not null",
        "gender: string not null",
        "age: float",
        "tenure: int16 not null",
        "balance: double not null",
        "num_of_products: int16 not null",
        "has_cr_card: int16 not null",
        "is_active_member: int16 not null",
        "estimated_salary: double not null",
        "true_churn_label: int16",
        "batch: string not null",
        "kafka_partition: int32 not null",
        "kafka_offset: int64 not null",
    ]
