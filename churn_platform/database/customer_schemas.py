"""The table customer_schemas: the customer schemas that this database was used with, all of one data set."""

from typing import Final

import psycopg
from psycopg.rows import scalar_row

from churn_platform.database.exceptions import SchemaConflictError
from churn_platform.schema.customer_schema import CustomerSchema

_RECORD: Final = """
    insert into customer_schemas (fingerprint, data_set, document) values (%s, %s, %s) on conflict do nothing
"""


def record(connection: psycopg.Connection, schema: CustomerSchema) -> None:
    """Record that the database is used with this schema. A schema that is recorded already does not change."""
    connection.execute(_RECORD, (schema.fingerprint, schema.name, schema.to_json()))


def get(connection: psycopg.Connection, fingerprint: str) -> CustomerSchema | None:
    """Return the schema with this fingerprint, or None if it was never recorded."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        document = cursor.execute(
            "select document::text from customer_schemas where fingerprint = %s", (fingerprint,)
        ).fetchone()
    return None if document is None else CustomerSchema.from_json(document)


def recorded(connection: psycopg.Connection) -> list[CustomerSchema]:
    """Return all schemas that were recorded, the first one first."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        documents = cursor.execute("select document::text from customer_schemas order by first_used, fingerprint")
        return [CustomerSchema.from_json(document) for document in documents]


def require_same_data_set(connection: psycopg.Connection, schema: CustomerSchema) -> None:
    """Check that the database holds the data set of this schema, or none yet.

    Raises:
        SchemaConflictError: it holds another one.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        if cursor.execute("select to_regclass('customer_schemas') is null").fetchone():
            return
        others = cursor.execute(
            "select distinct data_set from customer_schemas where data_set <> %s", (schema.name,)
        ).fetchall()
    if others:
        raise SchemaConflictError(
            f"The database {connection.info.dbname} holds the data set {', '.join(others)}, and the customer schema "
            f"describes {schema.name}. A database holds one data set. Nothing was changed.",
            remedy="Set DATABASE_URL to another database, or CHURN_SCHEMA to the schema of this data set.",
        )
