"""The table replaced_predictions: rows of churn_predictions from before a replay, until the summaries are corrected."""

from collections.abc import Sequence
from functools import cache
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import scalar_row

from churn_platform.database.prediction_columns import PredictionTable, column_list

_KEEP: Final = sql.SQL("""
    insert into replaced_predictions (replay, {columns})
    select %(replay)s, {columns} from churn_predictions where batch = %(batch)s
""")


def keep(connection: psycopg.Connection, table: PredictionTable, batch: str, *, replay: int) -> None:
    """Copy the rows of a batch that a replay is about to delete, in its transaction.

    Args:
        connection: in the replay's transaction.
        table: whose columns the rows have.
        batch: that is being replayed.
        replay: how often it has been replayed before.
    """
    connection.execute(_keep(table), {"replay": replay, "batch": batch})


def batches(connection: psycopg.Connection) -> list[str]:
    """Return the batches with rows in the table."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute("select distinct batch from replaced_predictions order by batch").fetchall()


def copy_of_customer(connection: psycopg.Connection, customer_id: int | str, *, into: str) -> None:
    """Copy a customer's rows from before the first replay of each batch to a new temporary table.

    The summaries have these rows. The end of the transaction drops the table.
    """
    connection.execute(
        sql.SQL("""
            create temp table {} on commit drop as
            select * from replaced_predictions e
            where e.customer_id = {} and e.replay = (
                select min(f.replay) from replaced_predictions f where f.batch = e.batch
            )
        """).format(sql.Identifier(into), sql.Literal(customer_id))
    )


def delete(connection: psycopg.Connection, replaced: Sequence[str]) -> None:
    """Delete the rows of these batches that the caller's transaction sees."""
    connection.execute("delete from replaced_predictions where batch = any(%s)", (list(replaced),))


@cache
def _keep(table: PredictionTable) -> bytes:
    return _KEEP.format(columns=column_list(table.written)).as_bytes(None)
