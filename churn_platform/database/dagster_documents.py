"""Documents in Dagster's own tables, in the schema `dagster`, that may show rows of customers: metadata and errors.

Dagster has no interface to change what it has recorded, so erasing a customer changes its tables. They are those of
dagster 1.13. Reading for other purposes is in dagster_tables.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

DOCUMENTS: Final = (
    ("event_logs", "event"),
    ("asset_keys", "last_materialization"),
    ("asset_keys", "cached_status_data"),
    ("asset_check_executions", "evaluation_event"),
    ("job_ticks", "tick_body"),
)
"""Table and column of the documents, which are JSON. Runs, their tags and schedules name no customers."""

_EXIST: Final = """
    select to_regclass('dagster.event_logs') is not null
"""
_MENTIONING: Final = sql.SQL("select id, {column} from {table} where position(%s in {column}) > 0 order by id")


@dataclass(frozen=True)
class Document:
    """A document in a row of one of the tables."""

    table: str
    column: str
    row: int
    content: str


def exist(connection: psycopg.Connection) -> bool:
    """Return whether Dagster keeps its tables in this database."""
    return connection.execute(_EXIST).fetchone() == (True,)


def mentioning(connection: psycopg.Connection, text: str) -> Iterator[Document]:
    """Yield the documents in which a text occurs, as JSON writes it. It reads all of them."""
    for table, column in DOCUMENTS:
        query = _MENTIONING.format(table=sql.Identifier("dagster", table), column=sql.Identifier(column))
        for row, content in connection.execute(query, (text,)).fetchall():
            yield Document(table, column, row, content)


def replace(connection: psycopg.Connection, document: Document, content: str) -> None:
    """Replace a document, unless it has changed since it was read."""
    connection.execute(
        sql.SQL("update {table} set {column} = %s where id = %s and {column} = %s").format(
            table=sql.Identifier("dagster", document.table), column=sql.Identifier(document.column)
        ),
        (content, document.row, document.content),
    )
