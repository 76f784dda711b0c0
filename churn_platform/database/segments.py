"""SQL for the segments of a customer: the value or band of each column that the schema divides reports by."""

from psycopg import sql

from churn_platform.schema.columns import MISSING, OTHER, Column
from churn_platform.schema.customer_schema import CustomerSchema


def segment_value(column: Column, *, table: str | None = None) -> sql.Composed:
    """Return the SQL expression for the segment of a row of churn_predictions, as text.

    Args:
        column: one of the schema's segments.
        table: alias of churn_predictions.
    """
    name = sql.Identifier(column.column) if table is None else sql.Identifier(table, column.column)
    missing = sql.Literal(MISSING)
    if column.segment_bounds:
        *labels, last = column.segment_labels
        bands = [
            sql.SQL("when {} < {} then {}").format(name, sql.Literal(bound), sql.Literal(label))
            for bound, label in zip(column.segment_bounds, labels, strict=True)
        ]
        return sql.SQL("case when {} is null then {} {} else {} end").format(
            name, missing, sql.SQL(" ").join(bands), sql.Literal(last)
        )
    if column.kind == "category" and column.unknown == "other":
        return sql.SQL("case when {0} is null then {1} when {0} in ({2}) then {0} else {3} end").format(
            name, missing, sql.SQL(", ").join(map(sql.Literal, column.categories)), sql.Literal(OTHER)
        )
    return sql.SQL("coalesce({}::text, {})").format(name, missing)


def segments_of_row(schema: CustomerSchema, *, table: str) -> sql.Composed:
    """Return the SQL expression for all segments of a row: a jsonb object of the column's name and its value.

    Args:
        schema: of the customers.
        table: alias of churn_predictions.
    """
    pairs = [
        sql.SQL("{}, {}").format(sql.Literal(column.column), segment_value(column, table=table))
        for column in schema.segments
    ]
    return sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(pairs))
