"""The table customer_file_scores: customers of the latest scored file who are at high risk."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from churn_platform.database import erased_customers
from churn_platform.database.prediction_columns import PredictionTable


@dataclass(frozen=True)
class FileScore:
    """A customer at high risk.

    Attributes:
        customer_id: as the schema has it.
        risk_score: P(churn), 0..1.
        reasons: as high_risk_customers.reasons has them.
        columns: the customer's columns as events name them; None for missing values.
    """

    customer_id: int | str
    risk_score: float
    reasons: Sequence[object]
    columns: Mapping[str, Any]


def replace_all(
    connection: psycopg.Connection,
    table: PredictionTable,
    rows: Iterable[FileScore],
    *,
    model_version: int,
    scored_at: datetime,
) -> int:
    """Replace all rows, in one transaction; return the number of new ones. Erased customers are left out.

    Args:
        connection: to the platform's database.
        table: whose customers' columns the rows have.
        rows: each customer once.
        model_version: that scored them.
        scored_at: when the scoring began. It is that of every row.
    """
    names = ["customer_id", "risk_score", "model_version", "scored_at", *(each.name for each in table.customer)]
    statement = sql.SQL("copy customer_file_scores ({}, reasons) from stdin").format(
        sql.SQL(", ").join(map(sql.Identifier, names))
    )
    fields = [each.field for each in table.customer]
    count = 0
    with connection.transaction(), connection.cursor() as cursor:
        erased_customers.hold_off(connection)
        erased = erased_customers.load(connection)
        # One scoring at a time; readers see the old rows until this one commits.
        cursor.execute("lock table customer_file_scores in share row exclusive mode")
        cursor.execute("delete from customer_file_scores")
        with cursor.copy(statement) as copy:
            for row in rows:
                if row.customer_id in erased:  # since the file was scored
                    continue
                values = (row.columns[field] for field in fields)
                copy.write_row(
                    (row.customer_id, row.risk_score, model_version, scored_at, *values, Jsonb(list(row.reasons)))
                )
                count += 1
    return count


def scored_at(connection: psycopg.Connection) -> datetime | None:
    """Return when the scoring of the latest file began; None if no customer of it is at high risk."""
    row = connection.execute("select scored_at from customer_file_scores limit 1").fetchone()
    return None if row is None else row[0]
