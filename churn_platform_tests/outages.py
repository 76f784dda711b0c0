"""A database that is away for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from churn_platform.local.stack import Stack


@contextmanager
def away(stack: Stack, database: str) -> Iterator[None]:
    """Let nobody connect to the database, and end all connections to it."""
    name = str(conninfo_to_dict(database)["dbname"])
    with psycopg.connect(stack.owner_dsn, autocommit=True) as owner:

        def allow(value: str) -> None:
            owner.execute(
                sql.SQL("alter database {} allow_connections {}").format(sql.Identifier(name), sql.SQL(value))
            )

        allow("false")
        owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        yield
        allow("true")
