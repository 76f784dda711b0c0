"""The customers' columns of the platform's tables: which ones a schema needs, and how existing tables get them.

The migrations create the tables with the columns of the schema of that time. Later schemas only add columns: a column
that left the schema keeps its values and becomes nullable.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import psycopg
from psycopg import sql

from churn_platform.database import customer_schemas
from churn_platform.database.averages import Average, averages
from churn_platform.database.catalog import TableColumn, columns_of
from churn_platform.database.exceptions import SchemaConflictError
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.schema.customer_schema import CustomerSchema

WITH_CUSTOMER_ID: Final = (
    "churn_predictions",
    "replaced_predictions",
    "spark_predictions",
    "high_risk_customers",
    "customer_file_scores",
    "customer_outcomes",
    "changed_outcomes",
    "do_not_contact",
    "retention_cases",
    "retention_list_entries",
    "customer_summary",
    "shadow_predictions",
)

_PLACE: Final = re.compile(r"^( *)-- customer columns of (\w+)\n", re.MULTILINE)
"""Line of a migration that the customers' columns of a table replace."""
_ID_TYPE: Final = re.compile(r"\bbigint /\* customer id \*/")
"""Type of customer_id in a migration."""


@dataclass(frozen=True)
class TableChanges:
    """What a table needs to fit a schema: statements, and what they do, for people."""

    statements: Sequence[sql.Composed]
    reports: Sequence[str]


@cache
def customer_columns(schema: CustomerSchema) -> Mapping[str, tuple[TableColumn, ...]]:
    """Return the customers' columns of each table that has some, in the order of a new table.

    The tables are in the order in which a commit locks them, so that changing them cannot deadlock with one.
    """
    table = prediction_table(schema)
    of_metrics = (
        *(
            TableColumn(name=each.average, type="double precision", nullable=True, comment=_about_average(each))
            for each in averages(schema)
        ),
        *(
            TableColumn(
                name=each.count,
                type="bigint",
                comment=f"Predictions whose {each.column} is known: the weight of {each.average}",
            )
            for each in averages(schema)
            if each.may_be_missing
        ),
    )
    of_hours = (
        column
        for each in averages(schema)
        for column in (
            *((_known(each),) if each.may_be_missing else ()),
            TableColumn(name=each.sum, type="double precision", comment=_about_sum(each)),
        )
    )
    of_days = (
        column
        for each in averages(schema)
        for column in (_known(each), TableColumn(name=each.sum, type="numeric", comment=_about_sum(each)))
    )
    return {
        "churn_predictions": _of_customers(schema, [column.field for column in table.customer]),
        "replaced_predictions": _of_customers(schema, [column.field for column in table.customer]),
        "spark_predictions": _of_customers(schema, [column.field for column in table.customer]),
        "high_risk_customers": _of_customers(schema, [column.field for column in table.summary]),
        "customer_file_scores": _of_customers(schema, [column.field for column in table.customer]),
        "churn_batch_hours": tuple(of_hours),
        "churn_metrics_hourly": of_metrics,
        "churn_metrics_daily": of_metrics,
        "prediction_summary": tuple(of_days),
    }


def render(migration: str, schema: CustomerSchema) -> str:
    """Return the SQL of a migration with the customers' columns and the type of their ids.

    Tables are created with the columns of the schema. Without this, the migration is valid too, and creates none.
    """

    def columns(place: re.Match[str]) -> str:
        indent, table = place.groups()
        return "".join(
            f"{indent}{_definition(column).as_string(None)}{'' if column.nullable else ' not null'},\n"
            for column in customer_columns(schema)[table]
        )

    # Only an index in this order finds the ids that begin with a text.
    id_type = 'text collate "C"' if schema.id_type == "text" else schema.id_type
    return _ID_TYPE.sub(id_type, _PLACE.sub(columns, migration))


def table_changes(connection: psycopg.Connection, schema: CustomerSchema) -> dict[str, TableChanges]:
    """Return what each table needs to fit the schema, without the tables that need nothing.

    Raises:
        SchemaConflictError: a column has another type than the schema needs. The message names every such column.
    """
    existing = {
        table: {each.name: each for each in columns_of(connection, table)} for table in customer_columns(schema)
    }
    _require_same_types(connection, schema, existing)
    earlier = customer_schemas.recorded(connection)
    found = {}
    for table, wanted in customer_columns(schema).items():
        left = {column.name for each in earlier for column in customer_columns(each)[table]} - {
            column.name for column in wanted
        }
        changes = _changes(table, wanted, existing[table], left)
        if changes.statements:
            found[table] = changes
    return found


def _require_same_types(
    connection: psycopg.Connection, schema: CustomerSchema, existing: Mapping[str, Mapping[str, TableColumn]]
) -> None:
    problems = [
        f"{table}.{column.name} is {existing[table][column.name].type}, and the schema needs {column.type}"
        for table, wanted in customer_columns(schema).items()
        for column in wanted
        if column.name in existing[table] and existing[table][column.name].type != column.type
    ]
    if problems:
        raise SchemaConflictError(
            f"Columns have other types than the customer schema needs: {'; '.join(problems)}. Nothing was changed.",
            remedy="Set kind, minimum and maximum of these columns as they were, or give the columns another sql_name: "
            "then new columns are added, and the old ones keep their values.",
        )
    for table in WITH_CUSTOMER_ID:
        kind = next((each.type for each in columns_of(connection, table) if each.name == "customer_id"), None)
        if kind is not None and kind != schema.id_type:
            raise SchemaConflictError(
                f"{table}.customer_id is {kind}, and ids of the customer schema's column {schema.id} are "
                f"{schema.id_type}. Nothing was changed.",
                remedy="Set the kind of the id as it was, or set DATABASE_URL to another database.",
            )


def _changes(
    table: str, wanted: Sequence[TableColumn], existing: Mapping[str, TableColumn], left: set[str]
) -> TableChanges:
    """Return one statement that changes columns, and those that change comments, which lock less."""
    actions, reports, comments, described = [], [], [], []
    for column in wanted:
        if column.name not in existing:
            actions.append(sql.SQL("add column {}").format(_definition(column)))
            reports.append(f"Added the column {table}.{column.name} ({column.type})")
        elif column.nullable and not existing[column.name].nullable:
            actions.append(_drop_not_null(column.name))
            reports.append(f"Made {table}.{column.name} nullable: the schema allows missing values")
        if column.comment and (column.name not in existing or existing[column.name].comment != column.comment):
            described.append(column.name)
            comments.append(
                sql.SQL("comment on column {} is {}").format(
                    sql.Identifier(table, column.name), sql.Literal(column.comment)
                )
            )
    for name in existing:
        if name in left and not existing[name].nullable:
            actions.append(_drop_not_null(name))
            reports.append(f"Made {table}.{name} nullable: the column left the schema, and its values stay")
    altered = [sql.SQL("alter table {} {}").format(sql.Identifier(table), sql.SQL(", ").join(actions))]
    if comments:
        reports.append(f"Described {', '.join(described)} in {table}")
    return TableChanges([*(altered if actions else ()), *comments], reports)


def _definition(column: TableColumn) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type))


def _drop_not_null(name: str) -> sql.Composed:
    return sql.SQL("alter column {} drop not null").format(sql.Identifier(name))


def _of_customers(schema: CustomerSchema, names: Sequence[str]) -> tuple[TableColumn, ...]:
    return tuple(
        TableColumn(name=column.column, type=column.sql_type, nullable=column.scored_if_missing, comment=column.meaning)
        for column in (schema.column(name) for name in names)
    )


def _known(average: Average) -> TableColumn:
    return TableColumn(name=average.count, type="bigint", comment=f"Predictions whose {average.column} is known")


def _about_sum(average: Average) -> str:
    return f"Sum of {_values(average)}"


def _about_average(average: Average) -> str:
    return f"Mean of {_values(average)}; null if {'none is known' if average.may_be_missing else 'there are none'}"


def _values(average: Average) -> str:
    """Return what is added up, such as "the known values of age, in years"."""
    known = "known " if average.may_be_missing else ""
    return f"the {known}values of {average.column}{f', in {average.unit}' if average.unit else ''}"
