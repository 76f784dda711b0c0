"""The columns of churn_predictions: name, type, and where the value comes from. This is the one definition.

The customer's columns follow from the customer schema. Commits, replays, the archive, published messages, queries that
read customers' columns and the column descriptions in Dagster's UI are derived from `PredictionTable`. A test compares
it with the table that the migrations create.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from typing import Final

from psycopg import sql

from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema


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


_BEFORE_CUSTOMER: Final = (
    PredictionColumn("prediction", "smallint", Origin.SCORE, "prediction"),
    PredictionColumn("risk_score", "real", Origin.SCORE, "risk_score"),
    PredictionColumn("probability", "real", Origin.GENERATED, "risk_score"),
    PredictionColumn("predicted_at", "timestamptz", Origin.SCORE, "predicted_at"),
    PredictionColumn("event_timestamp", "timestamptz", Origin.EVENT, "event_timestamp"),
    PredictionColumn("model_version", "integer", Origin.SCORE, "model_version"),
)
_AFTER_CUSTOMER: Final = (
    PredictionColumn("true_churn_label", "smallint", Origin.EVENT, "true_churn_label", nullable=True, content=True),
    PredictionColumn("batch", "text", Origin.BATCH, "batch"),
    PredictionColumn("kafka_partition", "integer", Origin.EVENT, "kafka_partition"),
    PredictionColumn("kafka_offset", "bigint", Origin.EVENT, "kafka_offset"),
)


@dataclass(frozen=True)
class PredictionTable:
    """churn_predictions of the customers of a schema. Equal schemas have equal tables."""

    schema: CustomerSchema

    @cached_property
    def columns(self) -> tuple[PredictionColumn, ...]:
        """All columns, in the order of the table."""
        return (
            PredictionColumn("event_id", "uuid", Origin.EVENT, "event_id"),
            PredictionColumn("event_ref", "text", Origin.EVENT, "event_ref", nullable=True, content=True),
            PredictionColumn("customer_id", self.schema.id_type, Origin.EVENT, "customer_id", content=True),
            *_BEFORE_CUSTOMER,
            *self.customer,
            *_AFTER_CUSTOMER,
        )

    @cached_property
    def customer(self) -> tuple[PredictionColumn, ...]:
        """The columns that describe the customer, in the order of the schema."""
        return tuple(_customer(column) for column in self.schema.stored)

    @cached_property
    def written(self) -> tuple[PredictionColumn, ...]:
        """What a commit writes: all but the generated columns."""
        return tuple(column for column in self.columns if column.origin is not Origin.GENERATED)

    @cached_property
    def content(self) -> tuple[PredictionColumn, ...]:
        """The columns in which two events with the same id must agree."""
        return tuple(column for column in self.columns if column.content)

    @cached_property
    def summary(self) -> tuple[PredictionColumn, ...]:
        """The customer's columns that messages, high_risk_customers and previews show, too."""
        return tuple(column for column in self.customer if column.summary)

    @cached_property
    def published(self) -> tuple[PredictionColumn, ...]:
        """What a published message has, in its order."""
        by_name = {column.name: column for column in self.columns}
        before = ("event_id", "customer_id", "prediction", "probability", "risk_score", "model_version")
        times = ("event_timestamp", "predicted_at")
        after = ("batch", "kafka_partition", "kafka_offset")
        return (
            *(by_name[name] for name in (*before, *times)),
            *self.summary,
            *(by_name[name] for name in after),
        )

    def of_field(self, field: str) -> PredictionColumn:
        """Return the column that holds this customer's column of an event."""
        return next(column for column in self.customer if column.field == field)


@cache
def prediction_table(schema: CustomerSchema) -> PredictionTable:
    """Return the table of a schema, the same object each time, so that what derives from it can be cached."""
    return PredictionTable(schema)


def _customer(column: Column) -> PredictionColumn:
    return PredictionColumn(
        column.column,
        column.sql_type,
        Origin.CUSTOMER,
        column.name,
        nullable=column.scored_if_missing,
        content=True,
        summary=column.summary,
    )


def column_list(columns: Iterable[PredictionColumn], *, table: str | None = None, end: bool = False) -> sql.Composed:
    """Return the names of the columns, separated by commas.

    Args:
        columns: in this order.
        table: alias of the table, before each name.
        end: whether a comma follows each name, the last one, too: then the list may be empty, and others follow.
    """
    names = [(column.name,) if table is None else (table, column.name) for column in columns]
    identifiers = [sql.Identifier(*name) for name in names]
    if end:
        return sql.Composed([sql.SQL("{}, ").format(each) for each in identifiers])
    return sql.SQL(", ").join(identifiers)
