"""Bringing the tables and views of a database in line with the customer schema."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import psycopg
from psycopg import sql

from churn_platform.database import customer_schemas
from churn_platform.database.customer_columns import table_changes
from churn_platform.database.customer_views import customer_views, outdated_views, replace_view
from churn_platform.database.exceptions import TableInUseError
from churn_platform.schema.customer_schema import CustomerSchema

Result = TypeVar("Result")

# While a statement waits for its lock, commits of the stream wait behind it. The limit is above deadlock_timeout (1 s),
# after which an autovacuum that holds the lock gives way.
LOCK_TIMEOUT: Final = "2s"
WAITS: Final = (1.0, 2.0, 4.0)
"""Seconds between the attempts, in which the stream catches up."""

_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended('churn customer schema', 0))"
_HOLDERS: Final = """
    select string_agg(distinct format('%%s (%%s)', pid, coalesce(nullif(application_name, ''), 'unnamed')), ', ')
    from pg_locks join pg_stat_activity using (pid)
    where relation = to_regclass(quote_ident(%s)) and granted and pid <> pg_backend_pid()
"""


def reconcile(
    connection: psycopg.Connection, schema: CustomerSchema, *, pause: Callable[[float], object] = time.sleep
) -> list[str]:
    """Add the columns that the schema needs, release those that left it, and create its views.

    No column is dropped, and no value changes. Each table is changed in a transaction of its own, so that none waits
    for another's lock. Nothing is written if nothing is missing; any login that may read the tables is sufficient then.

    Args:
        connection: in autocommit mode, to a database with the platform's tables. To change something, its login needs
            the role churn_owner.
        schema: of the customers.
        pause: waits for so many seconds between attempts to lock a table.

    Returns:
        What was done, for people.

    Raises:
        SchemaConflictError: the database holds another data set, or a column or the ids have another type. Nothing was
            changed. Or a view that others read has to change; the tables fit the schema then.
        TableInUseError: other sessions hold locks on a table. What was done before stays.
        psycopg.errors.InsufficientPrivilege: something is missing, and the login does not have the role.
    """
    customer_schemas.require_same_data_set(connection, schema)
    changes = table_changes(connection, schema)
    if customer_schemas.get(connection, schema.fingerprint) is None:
        _as_owner(connection, "customer_schemas", partial(_record, connection, schema), pause)
    done: list[str] = []
    for table in changes:
        done += _as_owner(connection, table, partial(_change, connection, schema, table), pause)
    views = customer_views(connection, schema)
    for name in outdated_views(connection, views):
        done.append(_as_owner(connection, name, partial(replace_view, connection, name, views.get(name)), pause))
    return done


def _record(connection: psycopg.Connection, schema: CustomerSchema) -> None:
    customer_schemas.require_same_data_set(connection, schema)  # another process may have been faster
    customer_schemas.record(connection, schema)


def _change(connection: psycopg.Connection, schema: CustomerSchema, table: str) -> Sequence[str]:
    changes = table_changes(connection, schema).get(table)  # another process may have been faster
    if changes is None:
        return []
    for statement in changes.statements:
        connection.execute(statement)
    return changes.reports


def _as_owner(
    connection: psycopg.Connection, relation: str, work: Callable[[], Result], pause: Callable[[float], object]
) -> Result:
    """Run the work in a transaction as churn_owner, and again if another session holds a lock for too long."""
    for wait in (*WAITS, None):
        try:
            with connection.transaction():
                connection.execute("set local role churn_owner")
                connection.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))
                connection.execute(_LOCK)
                return work()
        except psycopg.errors.LockNotAvailable:
            if wait is not None:
                pause(wait)
    row = connection.execute(_HOLDERS, (relation,)).fetchone()
    holders = f" Sessions (process ids) with locks: {row[0]}." if row and row[0] else ""
    raise TableInUseError(
        f"{relation} could not be changed, because other sessions use it: {len(WAITS) + 1} attempts waited for "
        f"{LOCK_TIMEOUT} each.{holders}",
        remedy="Run 'churn db upgrade' again when their queries have ended, or end them with pg_terminate_backend().",
    )
