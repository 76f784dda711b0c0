"""The definition of the columns of churn_predictions agrees with the schema, with messages and with archived files."""

import psycopg

from churn_platform import archive
from churn_platform.database import churn_predictions
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.schema.customer_schema import CustomerSchema


def test_every_input_of_events_is_stored(any_schema: CustomerSchema) -> None:
    table = prediction_table(any_schema)

    assert {column.field for column in table.customer} == set(any_schema.inputs)
    assert {column.field: column.nullable for column in table.customer} == {
        name: any_schema.column(name).scored_if_missing for name in any_schema.inputs
    }


def test_messages_and_files_of_the_bank_keep_their_format(database: str, bank_schema: CustomerSchema) -> None:
    with psycopg.connect(database) as connection:
        columns = churn_predictions.stored_columns(connection)

    assert [column.name for column in prediction_table(bank_schema).published] == [
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
    assert archive.arrow_schema(columns).to_string().splitlines() == [
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
