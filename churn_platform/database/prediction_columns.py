"""The columns of churn_predictions: name, type, and where the value comes from. This is the one definition.

Commits, replays, the archive, published messages, queries that read customers' columns and the column descriptions in
Dagster's UI are derived from it. A test compares it with the table that the migrations create.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from psycopg import sql


class Origin(Enum):
    """What holds the value of a column."""

    EVENT = "event"
    """A field of the decoded event."""
    CUSTOMER = "customer"
    """A customer's column in the event."""
    SCORE = "score"
    """A field of the score, or of all scores of a commit."""
    BATCH = "batch"
    """The key of the batch."""
    GENERATED = "generated"
    """PostgreSQL: the same number as the column that `field` names."""


@dataclass(frozen=True, slots=True)
class PredictionColumn:
    """One column of churn_predictions.

    Attributes:
        name: in the table, in published messages and in the archive.
        type: PostgreSQL type.
        origin: what holds the value.
        field: its name there.
        nullable: whether the value may be unknown: NaN in a number, -1 in a whole number, None in a text.
        content: whether two events with the same id must agree in it. What Kafka or the platform adds may differ.
        summary: whether messages, high_risk_customers and previews show the customer's column, too.
    """

    name: str
    type: str
    origin: Origin
    field: str
    nullable: bool = False
    content: bool = False
    summary: bool = False


def _customer(field: str, name: str, type_: str, *, nullable: bool = False, summary: bool = False) -> PredictionColumn:
    return PredictionColumn(name, type_, Origin.CUSTOMER, field, nullable=nullable, content=True, summary=summary)


CUSTOMER_COLUMNS: Final = (
    _customer("CreditScore", "credit_score", "smallint"),
    _customer("Geography", "geography", "text", summary=True),
    _customer("Gender", "gender", "text", summary=True),
    _customer("Age", "age", "real", nullable=True, summary=True),
    _customer("Tenure", "tenure", "smallint"),
    _customer("Balance", "balance", "double precision", summary=True),
    _customer("NumOfProducts", "num_of_products", "smallint"),
    _customer("HasCrCard", "has_cr_card", "smallint"),
    _customer("IsActiveMember", "is_active_member", "smallint"),
    _customer("EstimatedSalary", "estimated_salary", "double precision"),
)
"""The columns that describe the customer, by the names that events give them."""

PREDICTION_COLUMNS: Final = (
    PredictionColumn("event_id", "uuid", Origin.EVENT, "event_id"),
    PredictionColumn("event_ref", "text", Origin.EVENT, "event_ref", nullable=True, content=True),
    PredictionColumn("customer_id", "bigint", Origin.EVENT, "customer_id", content=True),
    PredictionColumn("prediction", "smallint", Origin.SCORE, "prediction"),
    PredictionColumn("risk_score", "real", Origin.SCORE, "risk_score"),
    PredictionColumn("probability", "real", Origin.GENERATED, "risk_score"),
    PredictionColumn("predicted_at", "timestamptz", Origin.SCORE, "predicted_at"),
    PredictionColumn("event_timestamp", "timestamptz", Origin.EVENT, "event_timestamp"),
    PredictionColumn("model_version", "integer", Origin.SCORE, "model_version"),
    *CUSTOMER_COLUMNS,
    PredictionColumn("true_churn_label", "smallint", Origin.EVENT, "true_churn_label", nullable=True, content=True),
    PredictionColumn("batch", "text", Origin.BATCH, "batch"),
    PredictionColumn("kafka_partition", "integer", Origin.EVENT, "kafka_partition"),
    PredictionColumn("kafka_offset", "bigint", Origin.EVENT, "kafka_offset"),
)
"""In the order of the table."""

WRITTEN_COLUMNS: Final = tuple(column for column in PREDICTION_COLUMNS if column.origin is not Origin.GENERATED)
CONTENT_COLUMNS: Final = tuple(column for column in PREDICTION_COLUMNS if column.content)
SUMMARY_COLUMNS: Final = tuple(column for column in CUSTOMER_COLUMNS if column.summary)

_BY_NAME: Final = {column.name: column for column in PREDICTION_COLUMNS}
_BY_FIELD: Final = {column.field: column for column in CUSTOMER_COLUMNS}

PUBLISHED_COLUMNS: Final = tuple(
    _BY_NAME[name]
    for name in (
        "event_id",
        "customer_id",
        "prediction",
        "probability",
        "risk_score",
        "model_version",
        "event_timestamp",
        "predicted_at",
        *(column.name for column in SUMMARY_COLUMNS),
        "batch",
        "kafka_partition",
        "kafka_offset",
    )
)
"""What a published message has, in its order."""


def customer_column(field: str) -> PredictionColumn:
    """Return the column that holds this customer's column of an event."""
    return _BY_FIELD[field]


def column_list(columns: Iterable[PredictionColumn], *, table: str | None = None) -> sql.Composed:
    """Return the names of the columns, separated by commas.

    Args:
        columns: in this order.
        table: alias of the table, before each name.
    """
    names = [(column.name,) if table is None else (table, column.name) for column in columns]
    return sql.SQL(", ").join(sql.Identifier(*name) for name in names)
